//! `logprobs.json`: log-probabilities as data.

use super::TOKENS_LISTED;
use crate::logprobs::{Judged, Link, Metrics, Pair};
use crate::report::schema::Num;
use crate::report::schema::logprobs::{
    LogprobsFindingEntry, LogprobsLimitEntry, LogprobsMetricsEntry, LogprobsReport, LogprobsSequenceEntry,
    LogprobsTokenEntry, LogprobsTraceEntry,
};

/// Version of `logprobs.json`.
pub const SCHEMA: u32 = 1;

/// `logprobs.json`, with a line feed at its end.
pub fn to_json(judged: &Judged) -> String {
    let mismatch = &judged.mismatch;
    let report = LogprobsReport {
        schema: SCHEMA,
        generator: concat!("driftprobe ", env!("CARGO_PKG_VERSION")).to_owned(),
        outcome: judged.outcome.id(),
        exit_code: judged.exit_code(),
        why: &judged.why,
        prefill: &judged.origin.prefill,
        decode: &judged.origin.decode,
        engine: judged.origin.engine.as_deref(),
        sampling: judged.origin.sampling.as_deref(),
        read: mismatch.rows.len(),
        metrics: metrics(&mismatch.metrics),
        limits: (judged.checks.iter())
            .map(|check| LogprobsLimitEntry {
                measure: check.measure.id(),
                limit: Num(check.limit),
                from: check.from,
                value: Num(check.value),
                verdict: check.verdict.id(),
            })
            .collect(),
        findings: (mismatch.findings.iter())
            .map(|finding| LogprobsFindingEntry {
                code: finding.code.id(),
                count: finding.count,
                sentence: finding.code.sentence(),
                hint: finding.code.hint(),
                examples: &finding.examples,
            })
            .collect(),
        sequences: (mismatch.sequences.iter())
            .map(|one| LogprobsSequenceEntry {
                sequence: &one.sequence,
                metrics: metrics(&one.metrics),
                sum_delta: Num(one.sum_delta),
                worst_index: one.worst,
            })
            .collect(),
        worst: mismatch.worst(TOKENS_LISTED).into_iter().map(|pair| token(pair, judged.link(pair))).collect(),
    };
    // Nothing in it can fail to be text: numbers that are not finite are strings.
    serde_json::to_string_pretty(&report).unwrap_or_default() + "\n"
}

fn metrics(m: &Metrics) -> LogprobsMetricsEntry {
    LogprobsMetricsEntry {
        tokens: m.tokens,
        equal: m.equal,
        mean_abs_delta: Num(m.mean_abs_delta),
        max_abs_delta: Num(m.max_abs_delta),
        k1: Num(m.k1),
        k2: Num(m.k2),
        k3: Num(m.k3),
        ratio_min: Num(m.ratio_min),
        ratio_p50: Num(m.ratio_p50),
        ratio_p99: Num(m.ratio_p99),
        ratio_max: Num(m.ratio_max),
        ratio_outside: Num(m.ratio_outside),
        chi2: Num(m.chi2),
        perplexity_prefill: Num(m.perplexity_prefill),
        perplexity_decode: Num(m.perplexity_decode),
        perplexity_ratio: Num(m.perplexity_ratio),
        correlation: Num(m.correlation),
    }
}

fn token<'a>(pair: &'a Pair, link: Option<&'a Link>) -> LogprobsTokenEntry<'a> {
    LogprobsTokenEntry {
        sequence: &pair.sequence,
        index: pair.index,
        token_id: pair.token_id,
        prefill_logprob: Num(pair.prefill),
        decode_logprob: Num(pair.decode),
        delta: Num(pair.delta()),
        ratio: Num(pair.delta().exp()),
        trace: link.map(|link| LogprobsTraceEntry {
            run: &link.run,
            verdict: link.verdict.id(),
            sub_verdict: link.sub_verdict.map(|sub| sub.id()),
            says: &link.says,
            first: link.first.as_deref(),
            layer: link.layer,
            point: link.point.as_deref(),
            phase: link.phase,
            kind: link.kind,
            hypotheses: &link.cause_ids,
            causes: &link.causes,
            run_delta: link.delta.map(Num),
            reproduced: link.reproduces(pair),
        }),
    }
}
