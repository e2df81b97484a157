//! `drift.json`: the analysis in the types of [`schema`](super::schema), pretty-printed.

mod attention;
pub(super) mod cause;

use super::schema::*;
use crate::analysis::{Analysis, PairCounts, Unpaired};
use crate::evidence::Bits;
use crate::evidence::metrics::{Numbers, Scope};
use crate::judge::repeat::RepeatOutcome;
use crate::judge::{JudgedPair, Vacuous};
use crate::verdict::reason::Reason;
use crate::verdict::{FirstFailure, Parting, Verdict};
use driftprobe_trace::{Event, Manifest, Phase};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Fields that only a model can fill.
const NOT_JUDGED: [&str; 9] = [
    "pairs.structural",
    "pairs.inherited",
    "pairs.contract",
    "pairs.fault",
    "cause",
    "contract_findings",
    "power",
    "suspects",
    "end_to_end",
];

/// The report as JSON text, ending in a line feed.
pub fn to_json(analysis: &Analysis) -> String {
    // Serialisation of these types cannot fail: their keys are strings and they write to memory.
    let text = serde_json::to_string_pretty(&report(analysis)).unwrap_or_default();
    text + "\n"
}

/// The report as data.
pub fn report(analysis: &Analysis) -> DriftReport {
    let run = &analysis.verdict;
    let pairs = pairs(&analysis.counts);
    let examination = analysis.examination.as_ref();
    DriftReport {
        schema: SCHEMA,
        generator: concat!("driftprobe ", env!("CARGO_PKG_VERSION")).to_owned(),
        title: analysis.options.title.clone(),
        date: analysis.options.date.clone(),
        verdict: run.verdict.id(),
        sub_verdict: run.sub_verdict.map(|sub| sub.id()),
        exit_code: analysis.exit_code(),
        reasons: run.reasons.iter().map(reason).collect(),
        notes: run.notes.iter().map(reason).collect(),
        root_cause: run.root_cause,
        root_cause_why: run.root_cause_why.clone(),
        first_failure: run.first_failure.as_ref().map(first_failure),
        first_difference: run.first_difference.as_ref().map(first_failure),
        cause: analysis.cause().map(cause::of),
        causes: examination.iter().flat_map(|e| &e.causes).map(cause::of).collect(),
        contract_findings: examination.iter().flat_map(|e| &e.contract_findings).map(cause::contract).collect(),
        power: examination.iter().flat_map(|e| &e.power).map(cause::power).collect(),
        suspects: examination.iter().flat_map(|e| &e.suspects).map(cause::suspect).collect(),
        end_to_end: examination.and_then(|e| e.study.end_to_end.as_ref()).map(cause::end_to_end),
        hypotheses: attention::hypotheses(analysis),
        tensors: analysis.modes.iter().map(attention::tensor).collect(),
        modes: modes(analysis),
        not_judged: if examination.is_some() { vec![] } else { NOT_JUDGED.to_vec() },
        pairs,
        codes: analysis.codes.iter().map(|&(code, count)| CodeEntry { code, count }).collect(),
        coverage: coverage(analysis),
        left_out: analysis.left_out.clone(),
        repeats: analysis.repeats.iter().map(repeat).collect(),
        run: analysis.manifest.as_ref().map_or(Value::Null, provenance),
        reading_notes: analysis.reading_notes.clone(),
        rests_on: analysis.advice.rests_on.clone(),
        recommendations: analysis.advice.recommendations.clone(),
        limits: analysis.advice.limits.clone(),
        rows: analysis.pairs.iter().map(row).collect(),
        unpaired: analysis.unpaired.iter().map(unpaired).collect(),
        missing: (analysis.missing.iter())
            .map(|row| MissingEntry {
                phase: row.phase.id(),
                prompt_id: row.prompt_id.to_string(),
                logical_tok_idx: row.logical_tok_idx,
                token_id: row.token_id,
                layer: row.layer,
                point: row.point.id(),
            })
            .collect(),
        unexpected: (analysis.unexpected.iter())
            .map(|(place, why)| UnexpectedEntry { place: place.clone(), why: why.clone() })
            .collect(),
        one_phase: (analysis.one_phase.iter())
            .map(|(point, of)| OnePhaseEntry { point: point.id(), phase: of.id() })
            .collect(),
        unmapped: (analysis.unmapped.iter())
            .map(|(source, point)| UnmappedEntry { source: source.clone(), point: point.clone() })
            .collect(),
    }
}

fn modes(analysis: &Analysis) -> BTreeMap<&'static str, ModeEntry> {
    let own = (analysis, analysis.own_verdict.unwrap_or(analysis.verdict.verdict));
    let other = analysis.aligned.iter().map(|aligned| (aligned.as_ref(), aligned.verdict.verdict));
    let entry = |(analysis, verdict): (&Analysis, Verdict)| {
        let mode = analysis.manifest.as_ref().and_then(|manifest| manifest.mode);
        let attention = attention::evidence(&analysis.attention);
        let entry = ModeEntry { verdict: verdict.id(), pairs: pairs(&analysis.counts), attention };
        (mode.map_or("not_recorded", |mode| mode.id()), entry)
    };
    std::iter::once(own).chain(other).map(entry).collect()
}

pub(super) fn reason(reason: &Reason) -> ReasonEntry {
    ReasonEntry {
        code: reason.code.id(),
        count: reason.count,
        sentence: reason.code.sentence(),
        examples: reason.examples.clone(),
        hint: reason.code.hint(),
    }
}

fn first_failure(first: &FirstFailure) -> FirstFailureEntry {
    FirstFailureEntry {
        prompt_id: first.prompt_id.to_string(),
        pos_id: first.pos_id,
        layer: first.layer,
        point: first.point.id(),
        point_spelling: first.point_spelling.to_string(),
        phase: first.phase.map(Phase::id),
        code: first.code,
        parting: match first.parting {
            Parting::Differs => "differs",
            Parting::Fault => "fault",
            Parting::NonFinite => "non_finite",
            Parting::Unpaired => "unpaired",
        },
        row: first.pair,
        last_equal_row: first.last_equal,
        not_compared: (first.not_compared.iter())
            .map(|(layer, point)| PlaceEntry { layer: *layer, point: point.id() })
            .collect(),
        skipped_layers: first.skipped_layers.map(|(from, to)| [from, to]),
    }
}

fn pairs(counts: &PairCounts) -> PairsEntry {
    PairsEntry {
        total: counts.total,
        identical: counts.identical,
        structural: counts.structural,
        inherited: counts.inherited,
        contract: counts.contract,
        fault: counts.fault,
        missing: counts.missing,
        non_finite: counts.non_finite,
        undecided: counts.undecided,
        differing: counts.differing,
        hash_match: counts.hash_match,
        hash_differ: counts.hash_differ,
    }
}

fn coverage(analysis: &Analysis) -> CoverageEntry {
    let coverage = &analysis.coverage;
    let [found_prefill, found_decode] = coverage.found;
    CoverageEntry {
        expected: coverage.expected,
        found: found_prefill + found_decode,
        found_prefill,
        found_decode,
        missing: coverage.missing,
        paired: coverage.paired,
        weakly_keyed: coverage.weakly_keyed,
        unpaired: coverage.unpaired,
        unexpected: coverage.unexpected,
        duplicates: coverage.duplicates,
        unmapped: coverage.unmapped,
    }
}

fn repeat(outcome: &RepeatOutcome) -> RepeatEntry {
    let [lacking, extra] = outcome.without_partner;
    RepeatEntry {
        repeat: outcome.repeat,
        phase: outcome.phase.id(),
        paired: outcome.paired,
        equal: outcome.equal,
        equal_as_sampled: outcome.equal_as_sampled,
        differing: outcome.differing,
        not_comparable: outcome.not_comparable,
        lacking,
        extra,
        first_differing: outcome.first_differing.clone(),
        noise_max_abs: outcome.noise.map(|noise| Num(noise.max_abs)),
        noise_rel_l2: outcome.noise.and_then(|noise| noise.rel_l2).map(Num),
    }
}

/// The manifest, with the token count of each prompt in place of its tokens and text.
fn provenance(manifest: &Manifest) -> Value {
    let Ok(Value::Object(mut all)) = serde_json::to_value(manifest) else { return Value::Null };
    if let Some(prompts) = &manifest.prompts {
        let prompts = prompts.iter().map(|prompt| json!({"id": prompt.id, "tokens": prompt.tokens.len()}));
        all.insert("prompts".to_owned(), prompts.collect());
    }
    all.remove("slots");
    Value::Object(all.into_iter().filter(|(_, value)| !value.is_null()).collect::<Map<_, _>>())
}

fn row(pair: &JudgedPair) -> RowEntry {
    let (bits, by, sampled, of) = match &pair.bits {
        Bits::Equal { by } => ("equal", Some(by.name()), None, None),
        Bits::EqualAsSampled { by, over, of } => ("equal_as_sampled", Some(by.name()), Some(*over), *of),
        Bits::Differ { by } => ("differ", Some(by.name()), None, None),
        Bits::Incomparable { .. } => ("incomparable", None, None, None),
    };
    RowEntry {
        prompt_id: pair.prefill.prompt_id.to_string(),
        pos_id: pair.prefill.pos_id.or(pair.decode.pos_id),
        logical_tok_idx: pair.prefill.logical_tok_idx.or(pair.decode.logical_tok_idx),
        token_id: pair.token_id(),
        layer: pair.prefill.layer,
        point: pair.prefill.point.id(),
        point_spelling: pair.prefill.point_spelling.to_string(),
        verdict: pair.verdict.id(),
        code: pair.parts().then(|| pair.code()),
        phase: pair.phase.map(Phase::id),
        bits,
        by,
        sampled,
        values: of.or_else(|| pair.prefill.elements()),
        weak: pair.absent.iter().map(|field| field.name()).collect(),
        prefill: side(&pair.prefill),
        decode: side(&pair.decode),
        numbers: pair.numbers.as_ref().map(numbers),
        logits: pair.logits.as_ref().map(|logits| LogitsEntry {
            top1_prefill: logits.top1[0],
            top1_decode: logits.top1[1],
            top1_agree: logits.agree(),
            gap_prefill: logits.gap[0].map(Num),
            gap_decode: logits.gap[1].map(Num),
            kl: logits.kl.map(Num),
        }),
        cache: pair.cache.map(|cache| CacheEntry {
            positions: cache.positions,
            equal: cache.equal,
            first_differing: cache.first_differing,
            last_differing: cache.last_differing,
        }),
        statistics: (pair.statistics.iter())
            .map(|pair| StatisticEntry { name: pair.name, prefill: Num(pair.prefill), decode: Num(pair.decode) })
            .collect(),
        vacuous: pair.vacuous.map(|vacuous| match vacuous {
            Vacuous::AllZero => "all_zero",
            Vacuous::Constant => "constant",
        }),
        findings: (pair.findings.iter())
            .map(|finding| FindingEntry { code: finding.code.id(), detail: finding.detail.clone() })
            .collect(),
    }
}

fn side(event: &Event) -> SideEntry {
    SideEntry {
        phase: event.phase_spelling.to_string(),
        step: event.step,
        seq_len: event.seq_len,
        hash_algo: event.hash.map(|hash| hash.algo.id()),
        hash: event.hash.map(|hash| hash.value.to_string()),
        dtype: event.dtype.map(|dtype| dtype.id()),
        shape: event.shape.clone(),
        min: event.stats.min.map(Num),
        max: event.stats.max.map(Num),
        mean: event.stats.mean.map(Num),
    }
}

pub(super) fn numbers(numbers: &Numbers) -> NumbersEntry {
    NumbersEntry {
        scope: match numbers.scope {
            Scope::Whole => "whole",
            Scope::Columns { .. } => "columns",
            Scope::Sample { .. } => "sample",
        },
        compared: numbers.compared,
        differing: numbers.differing,
        max_abs: Num(numbers.max_abs),
        max_abs_at: numbers.max_abs_at,
        rel_l2: numbers.rel_l2.map(Num),
        max_ulp: numbers.max_ulp,
        cosine: numbers.cosine.map(Num),
        nmse: numbers.nmse.map(Num),
    }
}

fn unpaired(one: &Unpaired) -> UnpairedEntry {
    let event = &one.event;
    UnpairedEntry {
        phase: event.phase.id(),
        phase_spelling: event.phase_spelling.to_string(),
        prompt_id: event.prompt_id.to_string(),
        pos_id: event.position(),
        logical_tok_idx: event.logical_tok_idx,
        token_id: event.token_id,
        layer: event.layer,
        point: event.point.id(),
        hash: event.hash.map(|hash| hash.value.to_string()),
        nan: one.nan,
        why: one.why.to_string(),
        one_phase: one.one_phase,
        source: event.source.to_string(),
    }
}
