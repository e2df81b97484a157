//! Digests of many units made into one verdict: the same whatever order, shards or threads they came by.

use super::mode::ModeTotal;
use super::{CauseDigest, Digest, ModeDigest, PlaceDigest, Promise, SCHEMA, generator};
use crate::verdict::reason::{Reason, ReasonCode, Reasons};
use crate::verdict::{SubVerdict, Verdict};
use driftprobe_trace::Mode;
use serde::Serialize;
use std::collections::BTreeMap;

/// Digests of units that did not pass which a merge keeps whole, the first of the search.
const DIGESTS_MAX: usize = 20;

/// Why results do not make one verdict.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MergeError {
    /// One unit was judged twice, and not alike.
    #[error("{run}, {prompt}: two results for it, and they are not the same")]
    Differing {
        /// The run.
        run: String,
        /// The prompt.
        prompt: String,
    },
    /// A result that nobody promised.
    #[error("{run}, {prompt}: a result for it, but no run promises it")]
    NotPromised {
        /// The run.
        run: String,
        /// The prompt.
        prompt: String,
    },
    /// A run has other prompts in one place than in another.
    #[error("run {run}: its prompts are not the same in all of the parts")]
    OtherRun {
        /// The run.
        run: String,
    },
    /// Two runs of one name: other events, or judged in another way.
    #[error("run {run}: one part was judged on another run of this name, or in another way, than the others")]
    Mixed {
        /// The run.
        run: String,
    },
    /// A result of another version of the program.
    #[error("{run}, {prompt}: judged by {found}; this is {}", generator())]
    Version {
        /// The run.
        run: String,
        /// The prompt.
        prompt: String,
        /// Who judged it.
        found: String,
    },
    /// A result that cannot be.
    #[error("{run}, {prompt}: the result contradicts itself: {what}")]
    Contradiction {
        /// The run.
        run: String,
        /// The prompt.
        prompt: String,
        /// In what.
        what: &'static str,
    },
}

impl MergeError {
    /// What the user can do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            MergeError::Differing { .. } => "judge it again with --fresh, and merge results of one set of runs only",
            MergeError::NotPromised { .. } | MergeError::OtherRun { .. } | MergeError::Mixed { .. } => {
                "merge results of one set of runs only; if a run has changed, judge all of its shards again"
            }
            MergeError::Version { .. } => "judge all shards with one version of driftprobe",
            MergeError::Contradiction { .. } => "delete the file; the unit is judged again by analyze",
        }
    }
}

/// Units put together.
#[derive(Clone, Debug, Serialize)]
pub struct Merged {
    /// [`SCHEMA`].
    pub schema: u32,
    /// [`generator`].
    pub generator: String,
    /// The worst of the units' verdicts; nothing that is missing can PASS.
    pub verdict: Verdict,
    /// What kind of PASS.
    pub sub_verdict: Option<SubVerdict>,
    /// Exit status of a program that reports this: 0, 1 or 3.
    pub exit_code: u8,
    /// Runs that were promised.
    pub runs: u64,
    /// Units that were promised.
    pub promised: u64,
    /// Units that passed.
    pub pass: u64,
    /// Units that failed.
    pub fail: u64,
    /// Units that are open.
    pub inconclusive: u64,
    /// Units that nobody judged.
    pub missing: u64,
    /// The first failure in the order of the search: of a unit that failed, or else of one that is open.
    pub first_failure: Option<MergedFailure>,
    /// Bugs that explain first failures, by how many units' they explain.
    pub causes: Vec<NamedCause>,
    /// Why it is no PASS; the examples are the first of the search.
    pub reasons: Vec<Reason>,
    /// What was noticed besides.
    pub notes: Vec<Reason>,
    /// Sums over all units, by mode.
    pub modes: Vec<ModeDigest>,
    /// One entry a unit, in the order of the search; units that are missing have none.
    pub units: Vec<UnitLine>,
    /// The first units that did not pass, whole.
    pub not_passed: Vec<Digest>,
    /// Further units that did not pass.
    pub not_passed_left_out: u64,
}

/// A first failure, and whose.
#[derive(Clone, Debug, Serialize)]
pub struct MergedFailure {
    /// The run.
    pub run: String,
    /// The prompt.
    pub prompt: String,
    /// Where.
    pub place: PlaceDigest,
    /// What explains it.
    pub cause: Option<CauseDigest>,
}

/// A bug that explains first failures.
#[derive(Clone, Debug, Serialize)]
pub struct NamedCause {
    /// Its id; `UNEXPLAINED` where none fits.
    pub hypothesis: String,
    /// Units whose first failure it explains.
    pub units: u64,
    /// The first of them: its run.
    pub run: String,
    /// And its prompt.
    pub prompt: String,
}

/// A unit in a line.
#[derive(Clone, Debug, Serialize)]
pub struct UnitLine {
    /// The run.
    pub run: String,
    /// The prompt.
    pub prompt: String,
    /// The verdict.
    pub verdict: Verdict,
    /// What kind of PASS.
    pub sub_verdict: Option<SubVerdict>,
    /// The failure code of the cause.
    pub root_cause: Option<String>,
    /// The bug that explains the first failure.
    pub cause: Option<String>,
    /// The first failure in words.
    pub first_failure: Option<String>,
    /// Pairs in all modes.
    pub pairs: u64,
    /// Bit-equal ones.
    pub identical: u64,
    /// Those at fault, or not finite.
    pub fault: u64,
    /// Codes of the reasons.
    pub reasons: Vec<ReasonCode>,
}

impl UnitLine {
    fn of(digest: &Digest) -> UnitLine {
        let sum = |get: fn(&ModeDigest) -> u64| digest.modes.iter().map(get).fold(0, u64::saturating_add);
        UnitLine {
            run: digest.run.clone(),
            prompt: digest.prompt.clone(),
            verdict: digest.verdict,
            sub_verdict: digest.sub_verdict,
            root_cause: digest.root_cause.clone(),
            cause: digest.cause.as_ref().map(|cause| cause.hypothesis.clone()),
            first_failure: digest.failure_in_words(),
            pairs: sum(|mode| mode.pairs.total),
            identical: sum(|mode| mode.pairs.identical),
            fault: sum(|mode| mode.pairs.fault.saturating_add(mode.pairs.non_finite)),
            reasons: digest.reasons.iter().map(|reason| reason.code).collect(),
        }
    }
}

/// A merge on its way. Units come in the order of their [`Promise`], each once, so that none has to be kept.
#[derive(Default)]
pub struct Merging {
    promised: u64,
    counts: BTreeMap<Verdict, u64>,
    missing: u64,
    open_failure: Option<MergedFailure>,
    failure: Option<MergedFailure>,
    causes: BTreeMap<String, NamedCause>,
    reasons: Reasons,
    modes: BTreeMap<Option<Mode>, ModeTotal>,
    units: Vec<UnitLine>,
    not_passed: Vec<Digest>,
    not_passed_left_out: u64,
}

impl Merging {
    /// Takes the next unit.
    ///
    /// # Errors
    /// [`MergeError::Version`] and [`MergeError::Contradiction`].
    pub fn take(&mut self, digest: Digest) -> Result<(), MergeError> {
        let (run, prompt) = (digest.run.clone(), digest.prompt.clone());
        if digest.generator != generator() {
            return Err(MergeError::Version { run, prompt, found: digest.generator });
        }
        if let Some(what) = digest.contradiction() {
            return Err(MergeError::Contradiction { run, prompt, what });
        }
        self.promised += 1;
        *self.counts.entry(digest.verdict).or_default() += 1;
        for reason in digest.reasons.iter().chain(&digest.notes) {
            let first = reason.examples.first().map_or(prompt.as_str(), String::as_str);
            self.reasons.add_many(reason.code, reason.count, format!("{run}: {first}"));
        }
        for mode in &digest.modes {
            self.modes.entry(mode.mode).or_default().add(mode);
        }
        self.take_failure(&digest);
        self.units.push(UnitLine::of(&digest));
        match digest.verdict {
            Verdict::Pass => {}
            _ if self.not_passed.len() < DIGESTS_MAX => self.not_passed.push(digest),
            _ => self.not_passed_left_out += 1,
        }
        Ok(())
    }

    fn take_failure(&mut self, digest: &Digest) {
        let (run, prompt) = (digest.run.clone(), digest.prompt.clone());
        if let Some(cause) = &digest.cause {
            let hypothesis = cause.hypothesis.clone();
            let named = NamedCause { hypothesis, units: 0, run: run.clone(), prompt: prompt.clone() };
            self.causes.entry(cause.hypothesis.clone()).or_insert(named).units += 1;
        }
        let Some(place) = digest.first_failure.clone() else { return };
        let failure = MergedFailure { run, prompt, place, cause: digest.cause.clone() };
        let first = if digest.verdict == Verdict::Fail { &mut self.failure } else { &mut self.open_failure };
        first.get_or_insert(failure);
    }

    /// Notes that the next unit has no result. `unusable`: the name of the file that lies in its place.
    pub fn lacks(&mut self, run: &str, prompt: &str, unusable: Option<&str>) {
        self.promised += 1;
        self.missing += 1;
        let why = unusable.map_or_else(String::new, |file| format!(" ({file} is torn, or of other inputs)"));
        self.reasons.add(ReasonCode::MissingShard, format!("{run}: {prompt}{why}"));
    }

    /// All of it, of what was promised.
    pub fn end(mut self, promise: &Promise) -> Merged {
        let runs = promise.runs().count() as u64;
        let count = |verdict| self.counts.get(&verdict).copied().unwrap_or(0);
        let [pass, fail, inconclusive] = [Verdict::Pass, Verdict::Fail, Verdict::Inconclusive].map(count);
        for run in promise.empty() {
            self.reasons.add(ReasonCode::NothingCompared, format!("{run}: it names no prompt"));
        }
        if self.units.is_empty() && promise.empty().next().is_none() {
            self.reasons.add(ReasonCode::NothingCompared, "");
        }
        let (reasons, notes) = self.reasons.into_parts();
        let open = (!reasons.is_empty()).then_some(Verdict::Inconclusive);
        let verdict = Verdict::worst(self.counts.into_keys().chain(open));
        let all_identical = self.units.iter().all(|unit| unit.sub_verdict == Some(SubVerdict::BitIdentical));
        let kind = if all_identical { SubVerdict::BitIdentical } else { SubVerdict::StructuralDrift };
        let mut causes: Vec<NamedCause> = self.causes.into_values().collect();
        causes.sort_by(|a, b| b.units.cmp(&a.units).then_with(|| a.hypothesis.cmp(&b.hypothesis)));
        Merged {
            schema: SCHEMA,
            generator: generator(),
            verdict,
            sub_verdict: (verdict == Verdict::Pass).then_some(kind),
            exit_code: verdict.exit_code(),
            runs,
            promised: self.promised,
            pass,
            fail,
            inconclusive,
            missing: self.missing,
            first_failure: self.failure.or(self.open_failure),
            causes,
            reasons,
            notes,
            modes: self.modes.into_iter().map(|(mode, total)| total.end(mode)).collect(),
            units: self.units,
            not_passed: self.not_passed,
            not_passed_left_out: self.not_passed_left_out,
        }
    }
}

impl Merged {
    /// Merges units in whatever order they come. One that comes twice must be the same twice.
    ///
    /// # Errors
    /// [`MergeError`].
    pub fn of(promise: &Promise, units: impl IntoIterator<Item = Digest>) -> Result<Merged, MergeError> {
        let mut all: BTreeMap<(String, String), Digest> = BTreeMap::new();
        for digest in units {
            let key = (digest.run.clone(), digest.prompt.clone());
            match all.get(&key) {
                Some(known) if !known.is_same(&digest) => {
                    return Err(MergeError::Differing { run: key.0, prompt: key.1 });
                }
                Some(_) => {}
                None => drop(all.insert(key, digest)),
            }
        }
        let mut merging = Merging::default();
        for (run, prompt) in promise.units() {
            match all.remove(&(run.to_owned(), prompt.to_owned())) {
                Some(digest) => merging.take(digest)?,
                None => merging.lacks(run, prompt, None),
            }
        }
        match all.into_keys().next() {
            Some((run, prompt)) => Err(MergeError::NotPromised { run, prompt }),
            None => Ok(merging.end(promise)),
        }
    }
}
