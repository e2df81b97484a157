//! Why a verdict is not better, as stable codes: each with one sentence and what recording would settle it.
//!
//! A *blocking* reason forbids PASS; a note only informs. Both are counted over the run by [`Reasons`].

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::collections::BTreeMap;
use std::fmt;

macro_rules! reasons {
    ($($variant:ident, $id:literal, $blocking:literal, $sentence:literal, $hint:literal;)*) => {
        /// A reason. The order of the variants is the order in which a report gives them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum ReasonCode { $(#[doc = $sentence] $variant,)* }

        impl ReasonCode {
            /// Every reason.
            pub const ALL: &'static [ReasonCode] = &[$(ReasonCode::$variant,)*];

            /// The stable code.
            pub const fn id(self) -> &'static str { match self { $(ReasonCode::$variant => $id,)* } }

            /// Whether a run with it can never PASS.
            pub const fn blocking(self) -> bool { match self { $(ReasonCode::$variant => $blocking,)* } }

            /// Whether evidence of which it is said carries no claim: it is damaged, contradicts itself, or both sides are one.
            pub const fn is_unsound(self) -> bool {
                matches!(self, ReasonCode::NotIndependent | ReasonCode::PayloadDamaged | ReasonCode::Contradiction)
            }

            /// What is the case.
            pub const fn sentence(self) -> &'static str { match self { $(ReasonCode::$variant => $sentence,)* } }

            /// What would settle it.
            pub const fn hint(self) -> &'static str { match self { $(ReasonCode::$variant => $hint,)* } }
        }
    };
}

reasons! {
    NothingCompared, "NOTHING_COMPARED", true, "no pair of rows was compared: nothing is known of the two phases",
        "record the same rows in both phases, with prompt_id, layer, point, logical_tok_idx, pos_id, token_id and hash";
    MissingShard, "MISSING_SHARD", true, "prompts that the runs promise have no result: their shard was not judged, or a part of the runs is not here, or what lies there is torn or of other inputs",
        "judge them with the same command again (analyze --by-prompt or --shard): only what has no result is judged; then give merge all folders";
    NoManifest, "NO_MANIFEST", true, "there is no manifest: whether the run ended and what it was to record is not known",
        "write manifest.json with complete, prompts, layers, points and steps";
    Incomplete, "INCOMPLETE", true, "the manifest does not say `complete: true`: the run was cut short or is still being written",
        "let the run end; the engine writes `complete: true` last";
    NoSecondPass, "NO_SECOND_PASS", true, "the run is the first of two passes, and the second is not here, not in all modes, or not the one that was promised",
        "record it again (--two-pass --overwrite), or copy all of the run's folder";
    ReadingFindings, "READING_FINDINGS", true, "reading the run left findings that bear on the evidence",
        "mend what the findings name and record the run again";
    UnmappedPoints, "UNMAPPED_POINTS", true, "events name points that this version does not know; they were not compared",
        "spell the points as docs/trace-format.md does, or ask for an alias";
    ExpectedUnknown, "EXPECTED_UNKNOWN", true, "what the run was to record is not known, so that nothing can be said to be all there",
        "give prompts (with tokens), layers, points and steps in manifest.json";
    ExpectedMissing, "EXPECTED_MISSING", true, "rows that the manifest promises were not found",
        "record them in both phases, or leave them out of the manifest's layers, points and steps";
    Unexpected, "UNEXPECTED", true, "rows were found that the manifest does not promise (another token, position, layer or point)",
        "check token ids and positions against manifest.prompts, or name the layers and points in the manifest";
    Unpaired, "UNPAIRED", true, "events have no partner in the other phase",
        "record the row in both phases under equal prompt_id, layer, point, logical_tok_idx, pos_id and token_id";
    DuplicateKeys, "DUPLICATE_KEYS", true, "keys stand more than once in one phase",
        "write each row once a phase; remove traces of earlier runs from the folder";
    WeaklyKeyed, "WEAKLY_KEYED", true, "pairs rest on keys with absent fields: that both are the same row is likely, not shown",
        "write logical_tok_idx, pos_id and token_id in every event";
    NotIndependent, "NOT_INDEPENDENT", true, "the two sides of pairs are not two computations, and were refused as evidence",
        "run decode one token at a time (seq_len 1) and give each phase payloads of its own";
    SeqLenUnknown, "SEQ_LEN_UNKNOWN", true, "events carry no seq_len: that prefill ran as a batch and decode one token at a time is not shown",
        "write seq_len, the tokens in this forward pass, in every event";
    PrefillOneToken, "PREFILL_ONE_TOKEN", true, "every prefill event of a longer prompt has seq_len 1: prefill ran as decode does",
        "run the prompt as one batch of tokens, and write seq_len accordingly";
    SomePrefillOneToken, "SOME_PREFILL_ONE_TOKEN", false, "some prefill events of longer prompts have seq_len 1: those rows were computed one token at a time",
        "choose the prefill chunk so that the last one holds more than one token";
    SeqLenWrong, "SEQ_LEN_WRONG", true, "prefill events have a seq_len that is larger than their prompt",
        "write the number of tokens in this forward pass as seq_len, and the prompt's tokens in manifest.json";
    CacheInDoubt, "CACHE_IN_DOUBT", true, "kv_len or stored_dtype are not those of one cache: another number of keys than the position has, or another in each phase",
        "write the keys that the row attends over as kv_len (position + 1, less only by a window in manifest.config.sliding_windows)";
    SlotTable, "SLOT_TABLE", true, "slot tables give two positions one slot, or are not as long as their prompts",
        "check the engine's slot allocation: rows of one position overwrite those of another";
    OnlyCopies, "ONLY_COPIES", true, "every compared row is a copy of the embedding table: nothing computed was compared",
        "record points that are computed, such as attn_out, mlp_out and logits";
    NoCacheRead, "NO_CACHE_READ", true, "no compared row depends on a cache row of an earlier position: decode was not tested",
        "record attention, what follows it, or later layers, for prompts of more than one token";
    SomeNoCacheRead, "SOME_NO_CACHE_READ", false, "of some prompts no compared row depends on a cache row of an earlier position",
        "use prompts of more than one token";
    PayloadDamaged, "PAYLOAD_DAMAGED", true, "payloads cannot be read, or their bytes do not have the hash, the statistics or the values that their event recorded",
        "take hash, statistics and payload from the same buffer; do not change tensor files after the run";
    Contradiction, "CONTRADICTION", true, "events contradict themselves: equal hashes beside different samples, statistics or largest logits, or counts and extremes that no row has",
        "take hash, sample, statistics and payload of a row from the same buffer at the same time";
    PairingInDoubt, "PAIRING_IN_DOUBT", true, "embeddings of the same token differ, so that the pairing itself is in doubt",
        "check token ids and positions of both phases; an embedding row is a copy and cannot drift";
    NotComparable, "NOT_COMPARABLE", true, "pairs could not be compared: no common hash, another length or another dtype",
        "record xxh3-64 hashes (or payloads), dtype and shape in both phases";
    SampleOnly, "SAMPLE_ONLY", true, "rows are equal only as far as they were sampled",
        "record xxh3-64 hashes over whole rows, or payloads; with greta-fnv1a-256, rows of at most 256 values and their shape";
    Differs, "DIFFERS", true, "rows differ; whether that is rounding or a fault is not decided by comparing them",
        "give the model (--model) where none was given, and record payloads of the stages' inputs and outputs";
    NotJudged, "NOT_JUDGED", true, "rows differ and could not be held against the model",
        "record what is named, as payloads, in both phases";
    WrongModel, "WRONG_MODEL", true, "the model given is not the one that the run was made with: nothing was held against it",
        "give the weights of the run with --model";
    Fault, "FAULT", true, "a stage's row is not what its own inputs and the model give, by more than rounding can",
        "see the root cause";
    NoPower, "NO_POWER", true, "nothing within the layers was recorded, and no bug of the catalogue would have shown at the ends",
        "record more points and layers (--points all --layers all), as payloads";
    TooMuchDrift, "TOO_MUCH_DRIFT", true, "every stage that was judged is clean, and yet the phases are further apart than rounding makes them",
        "record all points of all layers (--layers all)";
    GapFault, "GAP_FAULT", true, "between two recorded layers a phase leaves what the model gives, by more than rounding can",
        "record the layers in between";
    NotSimulated, "NOT_SIMULATED", false, "prompts were not simulated from their tokens: rows whose inputs were not recorded are not judged",
        "allow more operations (--simulate), or record all points of all layers";
    NotAligned, "NOT_ALIGNED", true, "the run is not one with prefill's cache under decode: its mode is another, or rows of earlier positions are not prefill's",
        "record it again: before each step, put prefill's rows into decode's cache";
    LeftOut, "LEFT_OUT", false, "rows were left out on purpose: of them only samples, statistics and hashes are known",
        "allow a larger --budget, or record the layers in question whole with --layers";
    LooseContract, "LOOSE_CONTRACT", true, "the contract allows so much rounding that gross faults would hide in it",
        "declare the arithmetic that the engine really has";
    LooserThanSeen, "LOOSER_THAN_SEEN", false, "the contract allows a hundred times the rounding that the record shows: faults as small as that hide in it",
        "declare the arithmetic that the engine really has, such as accumulate f32";
    ContractFinding, "CONTRACT", false, "stages round in a way that the contract does not declare; it is legitimate, and explains all of their rows",
        "declare it in the manifest's contract";
    Assumed, "ASSUMED", false, "the contract leaves fields open; they were assumed",
        "declare them in the manifest's contract";
    OpenColumns, "OPEN_COLUMNS", true, "attention rows have open columns after their own position, so that equal columns 0 … pos are not all that was used",
        "check the causal mask of the phase named, or record only columns 0 … pos";
    FinitenessUnknown, "FINITENESS_UNKNOWN", true, "equal rows may hold NaN on both sides: neither counts nor values were recorded",
        "record nan and inf counts, or payloads";
    Vacuous, "VACUOUS", true, "every compared row of a point is all zero or constant, and equal rows of that kind carry no evidence",
        "check that the point's buffer is written before it is traced, and trace weights that are not zero";
    SomeVacuous, "SOME_VACUOUS", false, "rows are all zero or constant on both sides: their being equal carries no evidence",
        "check that the point's buffer is written before it is traced";
    VacuousHash, "VACUOUS_HASH", true, "hashes are not those of rows: empty ones, or one and the same for rows that are no copies of each other",
        "hash the row that the event is of, after it was computed";
    NonFinite, "NON_FINITE", true, "rows hold NaN, or an infinity on one side only",
        "look at the first row named: the phase and the stage that made it";
    InfiniteBoth, "INFINITE_BOTH", false, "rows hold the same infinities in both phases",
        "check whether the model masks logits on purpose";
    NotRepeatable, "NOT_REPEATABLE", true, "the engine does not repeat itself bit for bit: a difference or an equality of the phases may be chance",
        "set the engine's determinism variables and record the repeats again";
    ObserverEffect, "OBSERVER_EFFECT", true, "tracing changes what the engine computes: logits of the traced phase differ from those of the same phase untraced",
        "turn the engine's fusion of operations off, in both, or trace fewer points; if it does not repeat itself either, mend that first";
    RepeatMissing, "REPEAT_MISSING", true, "a self-repeat that the manifest promises is not there or lacks rows: whether the engine repeats itself is not known",
        "copy the run again with all of its repeat-N folders, or record it again";
    RepeatIncomplete, "REPEAT_INCOMPLETE", false, "rows of a self-repeat have no partner in the run it repeats, or could not be compared",
        "record the repeats with the same prompts, layers and points";
    SharedKernels, "SHARED_KERNELS", false, "both phases of the embedded engine quantise activations and share integer kernels: that they are bit-equal there says little",
        "trace the engine in question itself";
    OnePhasePoint, "ONE_PHASE_POINT", false, "points that only one phase can give were expected of neither, and were not compared",
        "use an attention that has them in both phases, if they matter";
    OneRunPoint, "ONE_RUN_POINT", false, "points or layers that only one of the two runs records were not compared",
        "record them in both, if they matter";
    Reordered, "REORDERED", false, "the two files of the weights order the elements of Q and K differently: those rows were brought into one order",
        "nothing: GGUF files of the llama architecture have the rotary embedding's pairs side by side";
    TwoSpellings, "TWO_SPELLINGS", false, "rows stand under two spellings of their point, alike as far as both say; each was read as one row",
        "write each row once, under the point's id";
    SameSettings, "SAME_SETTINGS", false, "both runs say that they are of one engine with one setting: only its repeatability was compared",
        "compare runs of two engines or settings, and record in each manifest which";
    ConfigDiffers, "CONFIG_DIFFERS", false, "the run's manifest tells of another config than the model has: its rows were held against the model",
        "correct manifest.config, or give the model as the engine ran it";
    RecordingNotes, "RECORDING_NOTES", false, "reading the run left notes that do not bear on the evidence",
        "see the notes";
}

impl Serialize for ReasonCode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.id())
    }
}

impl<'de> Deserialize<'de> for ReasonCode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ReasonCode, D::Error> {
        let id = String::deserialize(deserializer)?;
        let known = ReasonCode::ALL.iter().copied().find(|code| code.id() == id);
        known.ok_or_else(|| de::Error::custom(format!("{id} is no reason that this version knows")))
    }
}

/// One reason as it stands in a report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// Which.
    pub code: ReasonCode,
    /// How often.
    pub count: u64,
    /// The first cases, in the order of the search for the first failure (at most [`Reasons::EXAMPLES`]).
    pub examples: Vec<String>,
}

/// `CODE (count): what is the case`.
impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.code.id(), self.count, self.code.sentence())
    }
}

/// Collects reasons over a run.
#[derive(Clone, Debug, Default)]
pub struct Reasons {
    found: BTreeMap<ReasonCode, (u64, Vec<String>)>,
}

impl Reasons {
    /// How many cases of a reason are named.
    pub const EXAMPLES: usize = 3;

    /// Counts one case.
    pub fn add(&mut self, code: ReasonCode, example: impl Into<String>) {
        self.add_many(code, 1, example);
    }

    /// Counts `count` cases, named together.
    pub fn add_many(&mut self, code: ReasonCode, count: u64, example: impl Into<String>) {
        let (total, examples) = self.found.entry(code).or_default();
        *total = total.saturating_add(count);
        let example = example.into();
        if !example.is_empty() && examples.len() < Reasons::EXAMPLES && !examples.contains(&example) {
            examples.push(example);
        }
    }

    /// Whether a reason was counted.
    pub fn has(&self, code: ReasonCode) -> bool {
        self.found.contains_key(&code)
    }

    /// The blocking reasons and the notes, each in code order.
    pub fn into_parts(self) -> (Vec<Reason>, Vec<Reason>) {
        let all = self.found.into_iter().map(|(code, (count, examples))| Reason { code, count, examples });
        all.partition(|reason| reason.code.blocking())
    }
}
