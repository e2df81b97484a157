//! The entry: a run goes in, everything that can be said of it comes out.
//!
//! Nothing here opens a file, asks the clock or reads the environment: rows come through [`Rows`], a date only if the
//! caller gives one. The order in which events were read does not matter; the same events give the same [`Analysis`].

use crate::cause::Cause;
use crate::evidence::first_values::FirstValues;
use crate::evidence::view::View;
use crate::evidence::{Bits, HashRelation, Side};
use crate::judge::attribute::attribute;
use crate::judge::examine::{Examination, Oracle, Sound, examine};
use crate::judge::exercise;
use crate::judge::kv::AttentionEvidence;
use crate::judge::left_out::LeftOut;
use crate::judge::repeat::{RepeatOutcome, compare_repeats};
use crate::judge::{JudgedPair, PairVerdict, judge};
use crate::pair::coverage::{MissingRow, expect};
use crate::pair::place::{Place, Places, describe};
use crate::pair::spelling;
use crate::pair::{Pairing, WhyLoose, pair};
use crate::progress::{Progress, Watch, Work};
use crate::verdict::advice::{self, Advice};
use crate::verdict::grounds::{
    duplicate_reasons, examination_reasons, pair_reasons, repeat_reasons, run_reasons, unpaired_reasons,
};
use crate::verdict::modes::ModeRow;
use crate::verdict::reason::{ReasonCode, Reasons};
use crate::verdict::{RunVerdict, Verdict, reach};
use driftprobe_trace::{Event, Manifest, Note, Phase, Point, Rows, Run};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Pairs that are judged between two tellings of the progress.
const JUDGED_AT_ONCE: usize = 1024;

/// What the caller adds to a report.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Title of the reports.
    pub title: Option<String>,
    /// Date, as it is to be printed; the core has no clock.
    pub date: Option<String>,
}

/// Everything that is said of a run.
#[derive(Clone, Debug)]
pub struct Analysis {
    /// Title and date.
    pub options: Options,
    /// What the run says of itself.
    pub manifest: Option<Manifest>,
    /// What was left out of it on purpose.
    pub left_out: Option<LeftOut>,
    /// What reading it noticed, in words.
    pub reading_notes: Vec<String>,
    /// The verdict, the first failure and the reasons.
    pub verdict: RunVerdict,
    /// Every pair, in the order of the search.
    pub pairs: Vec<JudgedPair>,
    /// Every event without a partner, in the same order.
    pub unpaired: Vec<Unpaired>,
    /// Every promised row that was not found.
    pub missing: Vec<MissingRow>,
    /// Every event that was not promised, as place and reason.
    pub unexpected: Vec<(String, String)>,
    /// Points that only one phase can give.
    pub one_phase: Vec<(Point, Phase)>,
    /// Events of points that this version does not know: (file:line, point).
    pub unmapped: Vec<(String, String)>,
    /// Pairs by verdict.
    pub counts: PairCounts,
    /// What was promised, found and paired.
    pub coverage: Coverage,
    /// Failing pairs by failure code, in the order of the codes: see [`JudgedPair::fails`].
    pub codes: Vec<(&'static str, u64)>,
    /// Each phase against its repeats.
    pub repeats: Vec<RepeatOutcome>,
    /// Values of both phases at the first failure, where its rows are those of this analysis.
    pub first_values: Option<FirstValues>,
    /// What the model says of each phase; none: no model was given, or not the run's.
    pub examination: Option<Examination>,
    /// Projections, scores and caches of attention, in this mode.
    pub attention: AttentionEvidence,
    /// The same run with prefill's cache under decode.
    pub aligned: Option<Arc<Analysis>>,
    /// Rounds in which a fault between recorded layers was looked for again.
    pub search: Vec<Arc<Analysis>>,
    /// Every tensor in both modes; empty where there is only one.
    pub modes: Vec<ModeRow>,
    /// The verdict on this mode alone, where there are two.
    pub own_verdict: Option<Verdict>,
    /// What follows from this run's evidence.
    pub advice: Advice,
}

impl Analysis {
    /// Exit status of a program that reports this run.
    pub fn exit_code(&self) -> u8 {
        self.verdict.verdict.exit_code()
    }

    /// What explains the first failure: the cause of its phase, where it is the same place.
    pub fn cause(&self) -> Option<&Cause> {
        let first = self.verdict.first_failure.as_ref()?;
        // What was recorded again shows more than what it was recorded again for.
        let again = self.search.iter().rev().map(|round| &round.examination);
        let own = std::iter::once(&self.examination);
        let others = self.aligned.iter().map(|aligned| &aligned.examination);
        let causes = again.chain(own).chain(others).flatten().flat_map(|e| &e.causes);
        let fits = |cause: &&Cause| {
            cause.point == first.point
                && cause.layer == first.layer
                && first.phase.is_none_or(|phase| phase == cause.phase)
        };
        causes.filter(fits).min_by_key(|cause| cause.phase)
    }

    /// Events of points that only their phase can give: without a partner, and with none to be expected.
    pub fn one_phase_rows(&self) -> u64 {
        self.unpaired.iter().filter(|one| one.one_phase).count() as u64
    }
}

/// An event without a partner.
#[derive(Clone, Debug)]
pub struct Unpaired {
    /// The event.
    pub event: Event,
    /// Where it stands in the search.
    pub place: Place,
    /// Why it has none.
    pub why: WhyLoose,
    /// Whether only this phase can give the point, so that no partner was to be expected.
    pub one_phase: bool,
    /// Count of NaNs in it, if any.
    pub nan: u64,
}

impl PairCounts {
    /// Counts them.
    pub fn of(pairs: &[JudgedPair]) -> PairCounts {
        let mut counts = PairCounts { total: pairs.len() as u64, ..PairCounts::default() };
        for pair in pairs {
            let by_verdict = match pair.verdict {
                PairVerdict::Identical => &mut counts.identical,
                PairVerdict::Structural => &mut counts.structural,
                PairVerdict::Inherited => &mut counts.inherited,
                PairVerdict::Contract => &mut counts.contract,
                PairVerdict::Fault => &mut counts.fault,
                PairVerdict::NonFinite => &mut counts.non_finite,
                PairVerdict::Missing => &mut counts.missing,
                PairVerdict::Undecided => &mut counts.undecided,
            };
            *by_verdict += 1;
            counts.differing += u64::from(matches!(pair.bits, Bits::Differ { .. }));
            counts.hash_match += u64::from(pair.hash == HashRelation::Match);
            counts.hash_differ += u64::from(pair.hash == HashRelation::Differ);
        }
        counts
    }
}

/// Pairs by verdict, and by what their hashes alone say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairCounts {
    /// All pairs.
    pub total: u64,
    /// Bit-equal over the whole row.
    pub identical: u64,
    /// Rounding parts them here.
    pub structural: u64,
    /// Both phases clean, on inputs that differ already.
    pub inherited: u64,
    /// Explained by an arithmetic that is not declared.
    pub contract: u64,
    /// At fault, in one phase or both.
    pub fault: u64,
    /// Not finite.
    pub non_finite: u64,
    /// Not comparable.
    pub missing: u64,
    /// Undecided.
    pub undecided: u64,
    /// Pairs whose rows differ, of all verdicts.
    pub differing: u64,
    /// Pairs with equal recorded hashes.
    pub hash_match: u64,
    /// Pairs with different recorded hashes by one algorithm.
    pub hash_differ: u64,
}

/// What was promised, found and paired. Rows are counted in each phase, pairs once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coverage {
    /// Rows promised by the manifest, both phases together; `None`: not known.
    pub expected: Option<u64>,
    /// Events read, of known points, by phase (prefill, decode).
    pub found: [u64; 2],
    /// Promised rows that were not found.
    pub missing: u64,
    /// Pairs made.
    pub paired: u64,
    /// Of them, pairs with absent key fields.
    pub weakly_keyed: u64,
    /// Events without a partner, points of one phase included.
    pub unpaired: u64,
    /// Events that were not promised.
    pub unexpected: u64,
    /// Events whose key stands more than once in their phase, the first of each not counted.
    pub duplicates: u64,
    /// Events of unknown points.
    pub unmapped: u64,
}

/// Analyses a run; its payloads come from `rows` (mostly the run itself).
pub fn analyze(run: &Run, rows: &dyn Rows, options: Options) -> Analysis {
    analyze_with(run, rows, options, &mut |_| {})
}

/// As [`analyze`], telling `progress` how far it has got.
pub fn analyze_with(run: &Run, rows: &dyn Rows, options: Options, progress: &mut Watch<'_>) -> Analysis {
    analyze_against((run, rows), None, options, progress)
}

/// As [`analyze_with`], each stage of both phases held against the model.
pub fn analyze_against(
    (run, rows): (&Run, &dyn Rows),
    oracle: Option<&Oracle<'_>>,
    options: Options,
    progress: &mut Watch<'_>,
) -> Analysis {
    let merged = spelling::merge(run);
    let run = merged.as_ref().map_or(run, |merged| &merged.run);
    let manifest = run.manifest.as_ref();
    let named = manifest.iter().flat_map(|manifest| manifest.prompts.iter().flatten()).map(|prompt| prompt.id.as_str());
    let places = Places::new(named, &run.events);
    let mut events: Vec<&Event> = run.events.iter().collect();
    events.sort_by_cached_key(|event| {
        let key = (places.of(event), event.logical_tok_idx, event.pos_id, event.token_id, event.phase);
        (key, event.step, event.source.clone())
    });
    let expectation = expect(manifest, &events);
    let (prefill, decode): (Vec<&Event>, Vec<&Event>) = events.iter().partition(|event| event.phase == Phase::Prefill);
    let pairing = pair(&prefill, &decode);

    let mut pairs = judge_all(&pairing, &prefill, &decode, &places, (rows, &mut *progress));
    let one_phase: BTreeSet<(Point, Phase)> = expectation.one_phase.iter().copied().collect();
    let (mut unpaired, mut damaged_loose) = (vec![], vec![]);
    for (side, loose) in [(&prefill, &pairing.reference_loose), (&decode, &pairing.candidate_loose)] {
        for loose in loose {
            let Some(&event) = side.get(loose.index) else { continue };
            let loaded = Side::load(event, rows);
            if loaded.damage.is_some() {
                damaged_loose.push(event.clone());
            }
            unpaired.push(Unpaired {
                event: event.clone(),
                place: places.of(event),
                why: loose.why,
                one_phase: one_phase.contains(&(event.point, event.phase)),
                nan: View::of(&loaded, &loaded).scan(&loaded).nan.unwrap_or(0),
            });
        }
    }
    unpaired
        .sort_by_cached_key(|one| (one.place, one.event.logical_tok_idx, one.event.phase, one.event.source.clone()));
    let repeats = compare_repeats(run, rows, &places);
    let told = |pair: &&JudgedPair| pair.findings.iter().any(|one| one.code == ReasonCode::PayloadDamaged);
    let doubtful = pairs.iter().filter(told).flat_map(|pair| [&pair.prefill, &pair.decode]);
    let doubtful: Vec<Event> = doubtful.cloned().chain(damaged_loose).collect();
    let sound = Sound::of(rows, &doubtful);
    let examined = oracle.map(|oracle| examine((run, &sound), oracle, progress));
    let (examination, doubt) = match examined {
        None => (None, None),
        Some(Ok(examination)) => (Some(examination), None),
        Some(Err(doubt)) => (None, Some(doubt)),
    };
    if let Some(examination) = &examination {
        attribute(&mut pairs, examination);
    }

    let config = examination.is_some().then_some(oracle).flatten().map(|oracle| &oracle.model.config);
    let attention = AttentionEvidence::of(&events, (rows, &places), &pairs, config);

    let counts = PairCounts::of(&pairs);
    let coverage = Coverage {
        expected: expectation.rows,
        found: [prefill.len() as u64, decode.len() as u64],
        missing: expectation.missing.len() as u64,
        paired: counts.total,
        weakly_keyed: pairs.iter().filter(|pair| !pair.absent.is_empty()).count() as u64,
        unpaired: unpaired.len() as u64,
        unexpected: expectation.unexpected.len() as u64,
        duplicates: (pairing.reference_duplicates.len() + pairing.candidate_duplicates.len()) as u64,
        unmapped: run.unmapped.len() as u64,
    };
    let unexpected: Vec<(String, String)> = (expectation.unexpected.iter())
        .filter_map(|(index, why)| Some((describe(events.get(*index)?), why.clone())))
        .collect();

    let mut reasons = Reasons::default();
    run_reasons(run, &expectation, &unexpected, &mut reasons);
    for (event, kept) in merged.iter().flat_map(|merged| &merged.merged) {
        reasons.add(ReasonCode::TwoSpellings, format!("{} {}: with {kept}", event.phase, describe(event)));
    }
    duplicate_reasons(&pairing, &prefill, &decode, &mut reasons);
    pair_reasons(&pairs, &mut reasons);
    exercise::reasons(manifest, &pairs, &mut reasons);
    unpaired_reasons(&unpaired, &mut reasons);
    repeat_reasons(manifest.and_then(|manifest| manifest.repeats).unwrap_or(0), &repeats, &mut reasons);
    if let Some(doubt) = &doubt {
        reasons.add(doubt.code(), doubt.to_string());
    }
    for lost in sound.lost() {
        reasons.add(ReasonCode::ReadingFindings, lost);
    }
    if let Some(examination) = &examination {
        examination_reasons(examination, &pairs, &mut reasons);
    }
    let verdict = reach(&pairs, &unpaired, examination.as_ref(), reasons);

    let first = verdict.first_failure.as_ref().and_then(|first| pairs.get(first.pair?));
    let first_values = first.and_then(|pair| FirstValues::of(pair, rows));

    let mut analysis = Analysis {
        options,
        manifest: run.manifest.clone(),
        left_out: LeftOut::of(run),
        reading_notes: run.notes.iter().map(Note::to_string).collect(),
        verdict,
        counts,
        coverage,
        codes: codes(&pairs, &unpaired, examination.is_some()),
        pairs,
        unpaired,
        missing: expectation.missing,
        unexpected,
        one_phase: expectation.one_phase,
        unmapped: run.unmapped.iter().map(|one| (one.source.to_string(), one.point.clone())).collect(),
        repeats,
        first_values,
        examination,
        attention,
        aligned: None,
        search: vec![],
        modes: vec![],
        own_verdict: None,
        advice: Advice::default(),
    };
    analysis.advice = advice::advise(&analysis);
    analysis
}

fn judge_all(
    pairing: &Pairing,
    prefill: &[&Event],
    decode: &[&Event],
    places: &Places,
    (rows, progress): (&dyn Rows, &mut Watch<'_>),
) -> Vec<JudgedPair> {
    let mut links: Vec<_> = (pairing.links.iter())
        .filter_map(|link| {
            let (ours, theirs) = (*prefill.get(link.reference)?, *decode.get(link.candidate)?);
            // The side that names a position places the pair.
            let place = if ours.position().is_some() { places.of(ours) } else { places.of(theirs) };
            Some((place, ours.logical_tok_idx, link.reference, ours, theirs, &link.absent))
        })
        .collect();
    links.sort_by_key(|(place, index, reference, ..)| (*place, *index, *reference));
    let total = links.len() as u64;
    let mut judged = Vec::with_capacity(links.len());
    for some in links.chunks(JUDGED_AT_ONCE) {
        progress(Progress { work: Work::Pairs, done: judged.len() as u64, total });
        let some = some
            .par_iter()
            .map(|(place, _, _, ours, theirs, absent)| judge(ours, theirs, (*absent).clone(), *place, rows));
        judged.par_extend(some);
    }
    progress(Progress { work: Work::Pairs, done: total, total });
    judged
}

/// How often each failure code stands, in the order of the codes.
fn codes(pairs: &[JudgedPair], unpaired: &[Unpaired], judged: bool) -> Vec<(&'static str, u64)> {
    let mut by_point: BTreeMap<(Point, &'static str), u64> = BTreeMap::new();
    for pair in pairs.iter().filter(|pair| pair.fails(judged)) {
        *by_point.entry((pair.prefill.point, pair.code())).or_default() += 1;
    }
    let offset = unpaired.iter().filter(|one| !one.one_phase).count() as u64;
    let offset = (offset > 0).then_some((crate::verdict::TRACE_OFFSET, offset));
    offset.into_iter().chain(by_point.into_iter().map(|((_, code), count)| (code, count))).collect()
}
