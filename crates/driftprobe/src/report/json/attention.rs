//! Attention evidence, the modes side by side, and H₀ against H₁, as data.

use crate::analysis::Analysis;
use crate::judge::kv::{AttentionEvidence, AttentionStatistics, Consistency, ProjectionHash};
use crate::report::schema::*;
use crate::verdict::hypotheses::{H0, H1, weigh};
use crate::verdict::modes::{Drift, ModeRow};

pub fn evidence(all: &AttentionEvidence) -> AttentionEntry {
    AttentionEntry {
        projections: all.projections.iter().map(projection).collect(),
        attention_statistics: all.statistics.iter().map(statistics).collect(),
        indicators: (all.indicators.iter())
            .map(|one| IndicatorEntry { layer: one.layer, k: rows(&one.k), v: rows(&one.v), kv_aligned: one.aligned() })
            .collect(),
    }
}

fn projection(one: &ProjectionHash) -> ProjectionEntry {
    let row = |row: &crate::judge::kv::RowOfHash| {
        let [prefill, decode] = row.hashes.map(|hash| hash.map(|hash| hash.value.to_string()));
        ProjectionRowEntry { pos_id: row.pos, prefill, decode, equal: row.equal() }
    };
    ProjectionEntry {
        tensor: one.projection.id(),
        point: one.point.id(),
        layer: one.layer,
        prompt_id: one.prompt_id.to_string(),
        note: one.note(),
        hashes: one.rows.iter().map(row).collect(),
    }
}

fn statistics(one: &AttentionStatistics) -> StatisticsEntry {
    StatisticsEntry {
        layer: one.layer,
        phase: one.phase.id(),
        scores_source: one.before.source().to_owned(),
        scores: one.before.value().map(|of| ScoresEntry {
            min: Num(of.min),
            max: Num(of.max),
            mean: Num(of.mean),
            values: of.values,
        }),
        probs_source: one.after.source().to_owned(),
        probs: one.after.value().map(|of| ProbsEntry {
            min: Num(of.values.min),
            max: Num(of.values.max),
            mean: Num(of.values.mean),
            values: of.values.values,
            entropy: Num(of.entropy),
            first_mass: Num(of.first_mass),
        }),
    }
}

fn rows(of: &Consistency) -> KvRowsEntry {
    KvRowsEntry {
        consistent: of.consistent(),
        caches: of.caches,
        differing_caches: of.differing,
        earlier_caches: of.earlier,
        held: of.held,
        equal: of.equal,
        first_differing: of.first_differing,
    }
}

pub fn tensor(row: &ModeRow) -> ModeRowEntry {
    let drift = |of: &Drift| DriftEntry { pairs: of.pairs, differing: of.differing, rel_l2: of.rel_l2.map(Num) };
    ModeRowEntry {
        point: row.point.id(),
        layer: row.layer,
        as_designed: drift(&row.as_designed),
        kv_aligned: drift(&row.kv_aligned),
        drift_from: row.says.id(),
        says: row.says.in_words(),
    }
}

pub fn hypotheses(analysis: &Analysis) -> HypothesesEntry {
    let all = weigh(analysis);
    let evidence = all.evidence.into_iter().map(|one| EvidenceEntry {
        what: one.what,
        measured: one.measured,
        supports: one.supports.id(),
        why: one.why,
    });
    HypothesesEntry {
        h0: H0,
        h1: H1,
        h0_rejected: all.rejected,
        conclusion: all.conclusion,
        evidence: evidence.collect(),
    }
}
