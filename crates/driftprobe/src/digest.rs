//! What remains of one prompt of one run once it has been judged: small, and enough to merge into a verdict on all of them.
//!
//! A *unit* is one prompt of one run, in both modes, judged by itself as if it were the whole run: tests that pool rows pool
//! this prompt's. Its [`Digest`] has a size that does not grow with the prompt, is the same bytes whoever makes it, and
//! [merges](Merged) with those of other units in any order.

mod layers;
mod merge;
mod mode;
mod plan;
mod stage;

pub use layers::LayersDigest;
pub use merge::{MergeError, Merged, MergedFailure, Merging, NamedCause, UnitLine};
pub use mode::{FindingDigest, ModeDigest, RepeatDigest};
pub use plan::{Plan, PlannedUnit, Promise, Seen, Shard};
pub use stage::StageDigest;

use crate::analysis::Analysis;
use crate::cause::{Cause, UNEXPLAINED};
use crate::pair::place::describe_row;
use crate::report::schema::Num;
use crate::verdict::reason::Reason;
use crate::verdict::{FirstFailure, Parting, SubVerdict, Verdict};
use driftprobe_trace::{Phase, Point};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Version of the digests and of what is merged of them.
pub const SCHEMA: u32 = 1;

/// Longest sentence or example that a digest keeps, in characters.
const TEXT_CHARS_MAX: usize = 300;

/// Program and version that make digests; only those of one version merge.
pub fn generator() -> String {
    concat!("driftprobe ", env!("CARGO_PKG_VERSION")).to_owned()
}

/// One prompt of one run, judged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Digest {
    /// [`SCHEMA`].
    pub schema: u32,
    /// [`generator`].
    pub generator: String,
    /// The run's name.
    pub run: String,
    /// The prompt's id.
    pub prompt: String,
    /// The verdict on both modes.
    pub verdict: Verdict,
    /// What kind of PASS.
    pub sub_verdict: Option<SubVerdict>,
    /// The failure code of the cause, where the evidence carries one.
    pub root_cause: Option<String>,
    /// Why that cause, or why none.
    pub root_cause_why: String,
    /// Why it is no PASS.
    pub reasons: Vec<Reason>,
    /// What was noticed besides.
    pub notes: Vec<Reason>,
    /// The first failure.
    pub first_failure: Option<PlaceDigest>,
    /// Where the phases first part, whatever that means.
    pub first_difference: Option<PlaceDigest>,
    /// The bug that explains the first failure.
    pub cause: Option<CauseDigest>,
    /// Whether a model judged the rows.
    pub judged: bool,
    /// The run itself, then the same with prefill's cache under decode, if it was recorded.
    pub modes: Vec<ModeDigest>,
}

/// A place in the search for the first failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlaceDigest {
    /// The position, if recorded.
    pub pos_id: Option<u64>,
    /// The layer, −1 where the point has none.
    pub layer: i32,
    /// The point.
    pub point: Point,
    /// The point as it was spelled.
    pub point_spelling: String,
    /// The phase at fault, where the evidence says which.
    pub phase: Option<Phase>,
    /// The failure code.
    pub code: String,
    /// In which way.
    pub parting: Parting,
}

/// The bug that explains a first failure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CauseDigest {
    /// Id of the bug; `UNEXPLAINED` if none fits.
    pub hypothesis: String,
    /// Ids of all that explain it equally well, this one among them.
    pub candidates: Vec<String>,
    /// Its parameters by name.
    pub parameters: BTreeMap<String, String>,
    /// The phase at fault.
    pub phase: Phase,
    /// RMS residual in units of noise, before the bug is taken into account.
    pub noise_rms_before: Num,
    /// And after; none if nothing fits.
    pub noise_rms_after: Option<Num>,
    /// What is known of a fault that nothing explains.
    pub evidence: String,
}

impl Digest {
    /// What remains of the analysis of `prompt` of the run called `run`.
    pub fn of(run: &str, prompt: &str, analysis: &Analysis) -> Digest {
        let said = &analysis.verdict;
        let own = ModeDigest::of(analysis, analysis.own_verdict.unwrap_or(said.verdict));
        let aligned = analysis.aligned.iter().map(|aligned| ModeDigest::of(aligned, aligned.verdict.verdict));
        Digest {
            schema: SCHEMA,
            generator: generator(),
            run: run.to_owned(),
            prompt: prompt.to_owned(),
            verdict: said.verdict,
            sub_verdict: said.sub_verdict,
            root_cause: said.root_cause.map(str::to_owned),
            root_cause_why: bounded(&said.root_cause_why),
            reasons: said.reasons.iter().map(reason).collect(),
            notes: said.notes.iter().map(reason).collect(),
            first_failure: said.first_failure.as_ref().map(place),
            first_difference: said.first_difference.as_ref().map(place),
            cause: analysis.cause().map(cause),
            judged: analysis.examination.is_some(),
            modes: std::iter::once(own).chain(aligned).collect(),
        }
    }

    /// What in it cannot be, if anything: a digest may come from a file, and a verdict may not rest on a damaged one.
    pub fn contradiction(&self) -> Option<&'static str> {
        let good = |mode: &ModeDigest| {
            let pairs = &mode.pairs;
            let good = [pairs.identical, pairs.structural, pairs.inherited, pairs.contract, mode.left_out];
            let good = good.into_iter().try_fold(0u64, u64::checked_add);
            let compared = pairs.total > mode.left_out && mode.left_out <= pairs.undecided;
            mode.verdict == Verdict::Pass && compared && good == Some(pairs.total)
        };
        match self.verdict {
            _ if self.schema != SCHEMA => Some("it is of another schema"),
            _ if self.modes.is_empty() => Some("it has no mode"),
            Verdict::Pass if !self.reasons.is_empty() || self.first_failure.is_some() => {
                Some("it is a PASS with reasons against it")
            }
            Verdict::Pass if !self.modes.iter().all(good) => Some("it is a PASS with pairs that are none"),
            Verdict::Pass if self.sub_verdict.is_none() => Some("it is a PASS of no kind"),
            _ => None,
        }
    }

    /// Whether both say the same, byte for byte: NaN is the same as NaN.
    pub fn is_same(&self, other: &Digest) -> bool {
        // Digests are made of numbers and texts, which can be written.
        serde_json::to_string(self).ok() == serde_json::to_string(other).ok()
    }

    /// The first failure in words.
    pub fn failure_in_words(&self) -> Option<String> {
        self.first_failure.as_ref().map(|first| first.in_words(&self.prompt))
    }
}

impl PlaceDigest {
    /// `p0, position 3, layer 1, attn_out of decode`.
    pub fn in_words(&self, prompt: &str) -> String {
        let phase = self.phase.map_or_else(String::new, |phase| format!(" of {phase}"));
        describe_row(prompt, self.pos_id, self.layer, &self.point_spelling) + &phase
    }
}

fn place(first: &FirstFailure) -> PlaceDigest {
    PlaceDigest {
        pos_id: first.pos_id,
        layer: first.layer,
        point: first.point,
        point_spelling: bounded(&first.point_spelling),
        phase: first.phase,
        code: first.code.to_owned(),
        parting: first.parting,
    }
}

fn cause(cause: &Cause) -> CauseDigest {
    let best = cause.candidates.first();
    let parameters = best.iter().flat_map(|best| &best.parameters);
    CauseDigest {
        hypothesis: best.map_or(UNEXPLAINED, |best| best.id).to_owned(),
        candidates: cause.candidates.iter().map(|candidate| candidate.id.to_owned()).collect(),
        parameters: parameters.map(|(name, value)| (name.clone(), bounded(value))).collect(),
        phase: cause.phase,
        noise_rms_before: Num(cause.noise_rms_before),
        noise_rms_after: best.map(|best| Num(best.noise_rms_after)),
        evidence: bounded(&cause.evidence),
    }
}

fn reason(reason: &Reason) -> Reason {
    Reason { examples: reason.examples.iter().map(|example| bounded(example)).collect(), ..reason.clone() }
}

/// The text, cut where it is too long to keep.
fn bounded(text: &str) -> String {
    match text.char_indices().nth(TEXT_CHARS_MAX) {
        None => text.to_owned(),
        Some((at, _)) => text.get(..at).unwrap_or_default().to_owned() + "…",
    }
}
