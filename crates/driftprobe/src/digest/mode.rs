//! What one mode of a unit came to, in numbers that add up.

use super::stage::{StageDigest, StageKey, largest};
use super::{Num, bounded};
use crate::analysis::{Analysis, Coverage, PairCounts};
use crate::verdict::{Verdict, codes};
use driftprobe_trace::{Mode, Phase, Point};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Adds fields of one to those of the other. Counts may come from a file: they stop at the largest number and do not wrap.
macro_rules! add {
    ($ours:expr, $theirs:expr; $($field:ident),*) => {
        $($ours.$field = $ours.$field.saturating_add($theirs.$field);)*
    };
}
pub(super) use add;

/// One mode of a unit, or of all units together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModeDigest {
    /// The mode, if recorded.
    pub mode: Option<Mode>,
    /// The verdict on it; of several units the worst.
    pub verdict: Verdict,
    /// Pairs by verdict.
    pub pairs: PairCounts,
    /// Of the undecided ones those that were left out on purpose and that nothing speaks against.
    #[serde(default)]
    pub left_out: u64,
    /// What was promised, found and paired.
    pub coverage: Coverage,
    /// Failing pairs by failure code, in the order of the codes.
    pub codes: Vec<(String, u64)>,
    /// Each phase against its repeats.
    pub repeats: Vec<RepeatDigest>,
    /// Arithmetics that the contract does not declare and the record shows.
    pub contract_findings: Vec<FindingDigest>,
    /// Every stage, in the order of the computation.
    pub stages: Vec<StageDigest>,
}

/// One phase against one repeat.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RepeatDigest {
    /// Number of the repeat.
    pub repeat: u32,
    /// The phase.
    pub phase: Phase,
    /// Rows that pair.
    pub paired: u64,
    /// Bit-equal rows.
    pub equal: u64,
    /// Rows equal as far as sampled.
    pub equal_as_sampled: u64,
    /// Differing rows.
    pub differing: u64,
    /// Rows that could not be compared.
    pub not_comparable: u64,
    /// Rows that one side lacks.
    pub without_partner: u64,
    /// Largest relative L2 distance of differing rows.
    pub rel_l2: Option<Num>,
}

/// An arithmetic that the contract does not declare.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FindingDigest {
    /// The phase.
    pub phase: Phase,
    /// The point.
    pub point: Point,
    /// The fields of the contract that it sets, as `name=value`.
    pub id: String,
    /// In words.
    pub says: String,
    /// Units that show it.
    pub units: u64,
    /// Rows that it explains.
    pub rows: u64,
}

impl ModeDigest {
    /// Of one mode's analysis.
    pub(super) fn of(analysis: &Analysis, verdict: Verdict) -> ModeDigest {
        let findings = analysis.examination.iter().flat_map(|examination| &examination.contract_findings);
        let repeats = analysis.repeats.iter().map(|outcome| RepeatDigest {
            repeat: outcome.repeat,
            phase: outcome.phase,
            paired: outcome.paired,
            equal: outcome.equal,
            equal_as_sampled: outcome.equal_as_sampled,
            differing: outcome.differing,
            not_comparable: outcome.not_comparable,
            without_partner: outcome.without_partner.iter().sum(),
            rel_l2: outcome.noise.and_then(|noise| noise.rel_l2).map(Num),
        });
        ModeDigest {
            mode: analysis.manifest.as_ref().and_then(|manifest| manifest.mode),
            verdict,
            pairs: analysis.counts,
            left_out: analysis.pairs.iter().filter(|pair| pair.is_left_out()).count() as u64,
            coverage: analysis.coverage,
            codes: analysis.codes.iter().map(|(code, count)| ((*code).to_owned(), *count)).collect(),
            repeats: repeats.collect(),
            contract_findings: (findings)
                .map(|finding| FindingDigest {
                    phase: finding.phase,
                    point: finding.point,
                    id: bounded(&finding.variant.id),
                    says: bounded(&finding.variant.says),
                    units: 1,
                    rows: finding.rows as u64,
                })
                .collect(),
            stages: StageDigest::of(&analysis.pairs),
        }
    }

    /// `as_designed`, `kv_aligned` or `not_recorded`.
    pub fn id(&self) -> &'static str {
        self.mode.map_or("not_recorded", Mode::id)
    }
}

/// The sum of one mode over units. Units are added in one order, so that the last bit of every sum is the same.
#[derive(Default)]
pub(super) struct ModeTotal {
    verdict: Option<Verdict>,
    pairs: PairCounts,
    left_out: u64,
    coverage: Option<Coverage>,
    codes: BTreeMap<String, u64>,
    repeats: BTreeMap<(u32, Phase), RepeatDigest>,
    findings: BTreeMap<(Phase, Point, String), FindingDigest>,
    stages: BTreeMap<StageKey, StageDigest>,
}

impl ModeTotal {
    pub(super) fn add(&mut self, mode: &ModeDigest) {
        self.verdict = Some(Verdict::worst(self.verdict.into_iter().chain([mode.verdict])));
        add_pairs(&mut self.pairs, &mode.pairs);
        add!(self, mode; left_out);
        match &mut self.coverage {
            None => self.coverage = Some(mode.coverage),
            Some(ours) => add_coverage(ours, &mode.coverage),
        }
        for (code, count) in &mode.codes {
            let total = self.codes.entry(code.clone()).or_default();
            *total = total.saturating_add(*count);
        }
        for repeat in &mode.repeats {
            match self.repeats.get_mut(&(repeat.repeat, repeat.phase)) {
                Some(total) => add_repeat(total, repeat),
                None => drop(self.repeats.insert((repeat.repeat, repeat.phase), repeat.clone())),
            }
        }
        for finding in &mode.contract_findings {
            let key = (finding.phase, finding.point, finding.id.clone());
            match self.findings.get_mut(&key) {
                Some(total) => {
                    add!(total, finding; units, rows);
                }
                None => drop(self.findings.insert(key, finding.clone())),
            }
        }
        for stage in &mode.stages {
            match self.stages.get_mut(&stage.key()) {
                Some(total) => total.add(stage),
                None => drop(self.stages.insert(stage.key(), stage.clone())),
            }
        }
    }

    pub(super) fn end(self, mode: Option<Mode>) -> ModeDigest {
        let mut counts = self.codes;
        // Codes of the search in its order; there are no others in digests of this version.
        let ordered: Vec<(String, u64)> =
            codes().filter_map(|code| counts.remove(code).map(|count| (code.to_owned(), count))).collect();
        ModeDigest {
            mode,
            verdict: self.verdict.unwrap_or(Verdict::Inconclusive),
            pairs: self.pairs,
            left_out: self.left_out,
            coverage: self.coverage.unwrap_or_default(),
            codes: ordered.into_iter().chain(counts).collect(),
            repeats: self.repeats.into_values().collect(),
            contract_findings: self.findings.into_values().collect(),
            stages: self.stages.into_values().collect(),
        }
    }
}

fn add_pairs(ours: &mut PairCounts, theirs: &PairCounts) {
    add!(ours, theirs; total, identical, structural, inherited, contract, fault, non_finite, missing, undecided);
    add!(ours, theirs; differing, hash_match, hash_differ);
}

fn add_coverage(ours: &mut Coverage, theirs: &Coverage) {
    // What one of them does not know is not known of both.
    ours.expected = ours.expected.zip(theirs.expected).map(|(ours, theirs)| ours.saturating_add(theirs));
    ours.found.iter_mut().zip(theirs.found).for_each(|(ours, theirs)| *ours = ours.saturating_add(theirs));
    add!(ours, theirs; missing, paired, weakly_keyed, unpaired, unexpected, duplicates, unmapped);
}

fn add_repeat(ours: &mut RepeatDigest, theirs: &RepeatDigest) {
    add!(ours, theirs; paired, equal, equal_as_sampled, differing, not_comparable, without_partner);
    ours.rel_l2 = largest(ours.rel_l2, theirs.rel_l2);
}
