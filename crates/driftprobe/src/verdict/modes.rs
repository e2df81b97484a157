//! The two modes of a run side by side: what decode's own cache gives, and what prefill's gives.
//!
//! Drift that goes away when decode reads prefill's rows was in the cache's content; drift that stays is made by the step.

use crate::analysis::Analysis;
use crate::evidence::Bits;
use crate::judge::JudgedPair;
use crate::pair::place::Part;
use crate::verdict::reason::{Reason, ReasonCode};
use crate::verdict::{RunVerdict, Verdict};
use driftprobe_trace::{Mode, Point};
use std::collections::BTreeMap;
use std::sync::Arc;

/// One tensor in both modes, over all prompts and positions.
#[derive(Clone, Debug, PartialEq)]
pub struct ModeRow {
    /// The layer; −1 for points without one.
    pub layer: i32,
    /// The point.
    pub point: Point,
    /// As designed.
    pub as_designed: Drift,
    /// With prefill's cache under decode.
    pub kv_aligned: Drift,
    /// What the two say together.
    pub says: Says,
}

/// How far a tensor's rows are apart.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Drift {
    /// Pairs.
    pub pairs: u64,
    /// Pairs that differ.
    pub differing: u64,
    /// Largest relative L2 distance, where known.
    pub rel_l2: Option<f64>,
}

/// What both modes together say of a tensor's drift.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Says {
    /// Bit-equal in both.
    None,
    /// Gone with prefill's cache: it was in the cache's content.
    Cache,
    /// Smaller by more than half with prefill's cache: most of it was in the cache's content.
    MostlyCache,
    /// As large as before: the step itself makes it.
    Step,
    /// Only with prefill's cache: the two modes do not run alike.
    OnlyAligned,
    /// Not in both modes, or of unknown size.
    Unknown,
}

impl Says {
    /// As `drift.json` spells it.
    pub const fn id(self) -> &'static str {
        match self {
            Says::None => "none",
            Says::Cache => "cache",
            Says::MostlyCache => "mostly_cache",
            Says::Step => "step",
            Says::OnlyAligned => "only_aligned",
            Says::Unknown => "unknown",
        }
    }

    /// In words.
    pub const fn in_words(self) -> &'static str {
        match self {
            Says::None => "bit-equal in both",
            Says::Cache => "gone with prefill's cache: it was in what decode's cache held",
            Says::MostlyCache => {
                "less than half is left with prefill's cache: most of it was in what decode's cache held"
            }
            Says::Step => "stays with prefill's cache: the decode step itself makes it",
            Says::OnlyAligned => "only with prefill's cache",
            Says::Unknown => "not known",
        }
    }

    fn of(as_designed: &Drift, kv_aligned: &Drift) -> Says {
        match (as_designed.differing, kv_aligned.differing) {
            _ if as_designed.pairs == 0 || kv_aligned.pairs == 0 => Says::Unknown,
            (0, 0) => Says::None,
            (_, 0) => Says::Cache,
            (0, _) => Says::OnlyAligned,
            _ => match (as_designed.rel_l2, kv_aligned.rel_l2) {
                (Some(designed), Some(aligned)) if aligned < designed / 2.0 => Says::MostlyCache,
                (Some(_), Some(_)) => Says::Step,
                _ => Says::Unknown,
            },
        }
    }
}

/// Every tensor in both modes, in the order of the computation.
pub fn side_by_side(as_designed: &[JudgedPair], kv_aligned: &[JudgedPair]) -> Vec<ModeRow> {
    type Key = (Part, i32, Point);
    let mut all: BTreeMap<Key, (i32, [Drift; 2])> = BTreeMap::new();
    for (mode, pairs) in [as_designed, kv_aligned].into_iter().enumerate() {
        for pair in pairs {
            let key = (pair.place.part, pair.place.layer, pair.place.point);
            let (_, drifts) = all.entry(key).or_insert((pair.prefill.layer, Default::default()));
            let Some(drift) = drifts.get_mut(mode) else { continue };
            drift.pairs += 1;
            drift.differing += u64::from(matches!(pair.bits, Bits::Differ { .. }));
            let rel_l2 = pair.numbers.as_ref().and_then(|numbers| numbers.rel_l2);
            // NaN counts as larger than anything.
            drift.rel_l2 = match (drift.rel_l2, rel_l2) {
                (Some(ours), Some(theirs)) if theirs > ours || theirs.is_nan() => Some(theirs),
                (ours, theirs) => ours.or(theirs),
            };
        }
    }
    let row = |((_, _, point), (layer, [as_designed, kv_aligned])): (Key, (i32, [Drift; 2]))| {
        let says = Says::of(&as_designed, &kv_aligned);
        ModeRow { layer, point, as_designed, kv_aligned, says }
    };
    all.into_iter().map(row).collect()
}

/// Makes a PASS INCONCLUSIVE; whoever does says in a reason why.
pub(crate) fn withhold(verdict: &mut RunVerdict, why: String) {
    if verdict.verdict == Verdict::Pass {
        verdict.verdict = Verdict::Inconclusive;
        verdict.sub_verdict = None;
        verdict.root_cause_why = why;
    }
}

/// A run's analysis where there is no other mode: no PASS of a run whose manifest promises one.
pub fn alone(mut analysis: Analysis) -> Analysis {
    let manifest = analysis.manifest.as_ref();
    let own = manifest.and_then(|manifest| manifest.mode);
    let lacking =
        manifest.and_then(|manifest| manifest.modes.as_ref()?.iter().find(|mode| Some(**mode) != own).copied());
    let Some(mode) = lacking else { return analysis };
    let example = format!("all rows of {}, which was recorded with this run", mode.id());
    let why = format!("the run's rows of {} are not there", mode.id());
    analysis.verdict.reasons.push(Reason { code: ReasonCode::ExpectedMissing, count: 1, examples: vec![example] });
    withhold(&mut analysis.verdict, why);
    analysis.advice = crate::verdict::advice::advise(&analysis);
    analysis
}

/// A run's analysis with that of its other mode: the worse verdict of the two counts.
pub fn combine(mut as_designed: Analysis, mut aligned: Analysis) -> Analysis {
    as_designed.modes = side_by_side(&as_designed.pairs, &aligned.pairs);
    as_designed.own_verdict = Some(as_designed.verdict.verdict);
    let mode = |analysis: &Analysis| analysis.manifest.as_ref().and_then(|manifest| manifest.mode);
    if (mode(&as_designed), mode(&aligned)) != (Some(Mode::AsDesigned), Some(Mode::KvAligned)) {
        let example = "the folder kv_aligned holds a run of another mode, or this one is not as designed".to_owned();
        let why = "it is not a run of that mode".to_owned();
        aligned.verdict.reasons.push(Reason { code: ReasonCode::NotAligned, count: 1, examples: vec![example] });
        withhold(&mut aligned.verdict, why);
    }
    let ours = &as_designed.verdict;
    if aligned.verdict.verdict.rank() > ours.verdict.rank() {
        let mut reasons = ours.reasons.clone();
        reasons.extend(aligned.verdict.reasons.iter().filter(|one| !ours.reasons.contains(one)).cloned());
        as_designed.verdict = RunVerdict {
            root_cause_why: format!("with prefill's cache under decode, {}", aligned.verdict.root_cause_why),
            // Indices of rows are those of the other mode.
            first_failure: aligned.verdict.first_failure.clone().map(|mut first| {
                (first.pair, first.last_equal) = (None, None);
                first
            }),
            first_difference: ours.first_difference.clone(),
            reasons,
            ..aligned.verdict.clone()
        };
    } else if ours.sub_verdict != aligned.verdict.sub_verdict && ours.verdict == Verdict::Pass {
        as_designed.verdict.sub_verdict = Some(crate::verdict::SubVerdict::StructuralDrift);
    }
    as_designed.aligned = Some(Arc::new(aligned));
    as_designed.advice = crate::verdict::advice::advise(&as_designed);
    as_designed
}
