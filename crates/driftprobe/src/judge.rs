//! The verdict on one pair of rows.
//!
//! Comparing alone can show that two rows are equal, that they differ, or that nothing can be said. It cannot show why
//! they differ: a difference is `UNDECIDED` until the oracle has judged both rows ([`attribute`]). The order of the checks is the order of strength: a NaN
//! is a finding whatever else is wrong; evidence that is damaged or not independent carries nothing; then the bits speak.

pub mod attribute;
pub mod examine;
pub mod exercise;
pub mod kv;
pub mod left_out;
pub mod repeat;

use crate::evidence::metrics::{LogitsNumbers, Numbers};
use crate::evidence::view::{CacheRows, Scan};
use crate::evidence::{Bits, Comparison, HashRelation, Side, StatisticPair, compare};
use crate::oracle::StageJudgement;
use crate::pair::KeyField;
use crate::pair::place::Place;
use crate::verdict::reason::ReasonCode;
use driftprobe_trace::{Event, Phase, Point, Rows};

/// What is said of one pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PairVerdict {
    /// The rows are bit-equal, over their whole length.
    Identical,
    /// A row holds NaN, or an infinity that the other does not.
    NonFinite,
    /// Both events are there, but nothing to compare them by.
    Missing,
    /// The rows differ; both phases are clean at this stage, and its inputs are equal: rounding parts them here.
    Structural,
    /// The rows differ; both phases are clean given their own inputs, which differ already.
    Inherited,
    /// The rows differ as an arithmetic makes them that the contract does not declare and that is legitimate.
    Contract,
    /// A phase, or both, did not compute this stage: its row is not what its own inputs and the model give.
    Fault,
    /// The trace cannot carry a claim; the findings say why.
    Undecided,
}

impl PairVerdict {
    /// Whether a PASS may have pairs of this verdict.
    pub const fn is_good(self) -> bool {
        matches!(
            self,
            PairVerdict::Identical | PairVerdict::Structural | PairVerdict::Inherited | PairVerdict::Contract
        )
    }

    /// As reports spell it.
    pub const fn id(self) -> &'static str {
        match self {
            PairVerdict::Identical => "IDENTICAL",
            PairVerdict::NonFinite => "NON_FINITE",
            PairVerdict::Missing => "MISSING",
            PairVerdict::Structural => "STRUCTURAL",
            PairVerdict::Inherited => "INHERITED",
            PairVerdict::Contract => "CONTRACT",
            PairVerdict::Fault => "FAULT",
            PairVerdict::Undecided => "UNDECIDED",
        }
    }
}

/// Something noticed about one pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Which reason it is a case of.
    pub code: ReasonCode,
    /// What exactly.
    pub detail: String,
}

/// Rows that carry no evidence although they are equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vacuous {
    /// Every value is zero on both sides.
    AllZero,
    /// All values are one and the same, on both sides.
    Constant,
}

/// One pair, judged.
#[derive(Clone, Debug)]
pub struct JudgedPair {
    /// The prefill event.
    pub prefill: Event,
    /// The decode event.
    pub decode: Event,
    /// Where it stands in the search for the first failure.
    pub place: Place,
    /// Key fields absent on a side; not empty: weakly keyed.
    pub absent: Vec<KeyField>,
    /// The verdict.
    pub verdict: PairVerdict,
    /// What the bits are to each other.
    pub bits: Bits,
    /// What the recorded hashes alone say.
    pub hash: HashRelation,
    /// Why the verdict is not better, and what else was noticed.
    pub findings: Vec<Finding>,
    /// How far the rows are apart.
    pub numbers: Option<Numbers>,
    /// Next token by phase, for logits.
    pub logits: Option<LogitsNumbers>,
    /// Which positions of a K or V cache are equal.
    pub cache: Option<CacheRows>,
    /// Statistics that differ, where nothing better shows how far the rows are apart.
    pub statistics: Vec<StatisticPair>,
    /// Whether both rows are all zero or constant.
    pub vacuous: Option<Vacuous>,
    /// The phase that a finding is about, if only one.
    pub phase: Option<Phase>,
    /// What the oracle says of prefill's row and of decode's.
    pub stages: [Option<StageJudgement>; 2],
}

impl JudgedPair {
    /// The failure code of the pair's point, in the spelling of the seeds: `X_IN_DRIFT` where the point is so named.
    pub fn code(&self) -> &'static str {
        code_of(&self.prefill)
    }

    /// Whether the rows differ, are not finite, or are at fault.
    pub fn parts(&self) -> bool {
        matches!(self.bits, Bits::Differ { .. }) || matches!(self.verdict, PairVerdict::NonFinite | PairVerdict::Fault)
    }

    /// Whether this is where something fails: where a model judged the run, what is at fault or not finite, since a
    /// difference by itself is no failure; without a model, wherever rows part.
    pub fn fails(&self, judged: bool) -> bool {
        match judged {
            true => matches!(self.verdict, PairVerdict::NonFinite | PairVerdict::Fault),
            false => self.parts(),
        }
    }

    /// Whether the rows are equal and finite as far as they were compared.
    pub fn equal_as_compared(&self) -> bool {
        let equal = matches!(self.bits, Bits::Equal { .. } | Bits::EqualAsSampled { .. });
        equal && !matches!(self.verdict, PairVerdict::NonFinite | PairVerdict::Fault)
    }

    /// Whether the rows were left out on purpose and differ, and nothing speaks against them: undecided, and no ground
    /// against PASS.
    pub fn is_left_out(&self) -> bool {
        self.verdict == PairVerdict::Undecided && self.findings.iter().any(|one| one.code == ReasonCode::LeftOut)
    }

    /// Position of the row, from whichever event names it.
    pub fn position(&self) -> Option<u64> {
        self.prefill.position().or_else(|| self.decode.position())
    }

    /// The token, from whichever event names it.
    pub fn token_id(&self) -> Option<u32> {
        self.prefill.token_id.or(self.decode.token_id)
    }
}

/// The failure code of an event's point.
pub fn code_of(event: &Event) -> &'static str {
    if event.point == Point::ResidualPreAttn && &*event.point_spelling == "x_in" {
        return "X_IN_DRIFT";
    }
    event.point.code()
}

/// Judges one pair; reads both payloads, if there are any, and lets them go again.
pub fn judge(prefill: &Event, decode: &Event, absent: Vec<KeyField>, place: Place, rows: &dyn Rows) -> JudgedPair {
    let sides = [Side::load(prefill, rows), Side::load(decode, rows)];
    let comparison = compare(&sides[0], &sides[1]);
    let mut findings = vec![];
    let mut find = |code, detail: String| findings.push(Finding { code, detail });

    let non_finite = not_finite(&comparison);
    if let Some((_, detail)) = &non_finite {
        find(ReasonCode::NonFinite, detail.clone());
    }
    let dependent = not_independent(prefill, decode);
    if let Some(detail) = &dependent {
        find(ReasonCode::NotIndependent, detail.clone());
    }
    for (phase, side) in Phase::ALL.into_iter().zip(&sides) {
        if let Some(damage) = &side.damage {
            find(ReasonCode::PayloadDamaged, format!("{phase}: {damage}"));
        }
    }
    if let Some(detail) = &comparison.contradiction {
        find(ReasonCode::Contradiction, detail.clone());
    }
    let trusted = findings.is_empty();

    let verdict = match &comparison.bits {
        _ if non_finite.is_some() => PairVerdict::NonFinite,
        _ if !trusted => PairVerdict::Undecided,
        Bits::Incomparable { why } => {
            findings.push(Finding { code: ReasonCode::NotComparable, detail: why.clone() });
            PairVerdict::Missing
        }
        Bits::Differ { by } => {
            findings.push(Finding { code: ReasonCode::Differs, detail: format!("{} differs", by.name()) });
            PairVerdict::Undecided
        }
        Bits::EqualAsSampled { over, of, .. } => {
            let of = of.map_or_else(|| "the row's length is not recorded".to_owned(), |of| format!("of {of}"));
            let detail = match of.starts_with("of") {
                true => format!("equal over the first {over} {of} values"),
                false => format!("equal over the first {over} values; {of}"),
            };
            findings.push(Finding { code: ReasonCode::SampleOnly, detail });
            PairVerdict::Undecided
        }
        Bits::Equal { .. } => PairVerdict::Identical,
    };
    let mut pair = JudgedPair {
        prefill: prefill.clone(),
        decode: decode.clone(),
        place,
        absent,
        verdict,
        hash: comparison.hash,
        vacuous: vacuous(&comparison.scans),
        phase: non_finite.and_then(|(phase, _)| phase),
        bits: comparison.bits,
        findings,
        numbers: comparison.numbers,
        logits: comparison.logits,
        cache: comparison.cache,
        statistics: comparison.statistics,
        stages: [None, None],
    };
    notice(&mut pair, &comparison.scans);
    pair
}

/// Adds what does not change the pair's verdict but that of the run.
fn notice(pair: &mut JudgedPair, scans: &[Scan; 2]) {
    let mut find = |code, detail: String| pair.findings.push(Finding { code, detail });
    let embedding = pair.prefill.point == Point::EmbedOut && matches!(pair.bits, Bits::Differ { .. });
    if let (true, Some(ours), Some(theirs)) = (embedding, pair.prefill.token_id, pair.decode.token_id)
        && ours == theirs
    {
        find(ReasonCode::PairingInDoubt, format!("embeddings of token {ours} differ"));
    }
    for (phase, scan) in Phase::ALL.into_iter().zip(scans) {
        if scan.open > 0 {
            find(ReasonCode::OpenColumns, format!("{phase}: {} values after the row's own position", scan.open));
            if pair.verdict == PairVerdict::Identical {
                pair.verdict = PairVerdict::Undecided;
            }
        }
    }
    if pair.verdict == PairVerdict::Identical && scans.iter().any(|scan| scan.nan.is_none() || scan.inf.is_none()) {
        find(ReasonCode::FinitenessUnknown, "neither nan and inf counts nor the values were recorded".to_owned());
    }
    if pair.verdict != PairVerdict::NonFinite
        && let [Some(ours @ 1..), Some(1..)] = scans.map(|scan| scan.inf)
    {
        find(ReasonCode::InfiniteBoth, format!("{ours} infinities in both phases"));
    }
    if let Some(vacuous) = pair.vacuous {
        let what = if vacuous == Vacuous::AllZero { "all values are zero" } else { "all values are equal" };
        find(ReasonCode::SomeVacuous, format!("{what} in both phases"));
    }
}

/// Whether a row holds NaN or an infinity that the other does not, in which phase (if one), and what.
fn not_finite(comparison: &Comparison) -> Option<(Option<Phase>, String)> {
    let [prefill, decode] = comparison.scans.map(|scan| scan.nan.unwrap_or(0));
    match (prefill, decode) {
        (0, 0) => {}
        (nan, 0) => return Some((Some(Phase::Prefill), format!("prefill holds {nan} NaN"))),
        (0, nan) => return Some((Some(Phase::Decode), format!("decode holds {nan} NaN"))),
        (ours, theirs) => return Some((None, format!("prefill holds {ours} NaN and decode {theirs}"))),
    }
    if !comparison.infinite_one_side {
        return None;
    }
    let [prefill, decode] = comparison.scans.map(|scan| scan.inf.unwrap_or(0));
    let phase = match (prefill, decode) {
        (1.., 0) => Some(Phase::Prefill),
        (0, 1..) => Some(Phase::Decode),
        _ => None,
    };
    Some((phase, format!("infinities differ: {prefill} in prefill, {decode} in decode")))
}

/// Why the two events are not two computations, if so.
fn not_independent(prefill: &Event, decode: &Event) -> Option<String> {
    if let Some(seq_len) = decode.seq_len.filter(|seq_len| *seq_len != 1) {
        return Some(format!("the decode event has seq_len {seq_len}, not 1: no decode ran"));
    }
    match (&prefill.payload, &decode.payload) {
        (Some(ours), Some(theirs)) if ours == theirs => {
            Some(format!("both events point to tensor `{}` of `{}`", ours.key, ours.file))
        }
        _ => None,
    }
}

fn vacuous(scans: &[Scan; 2]) -> Option<Vacuous> {
    if scans.iter().all(|scan| scan.zero == Some(true)) {
        return Some(Vacuous::AllZero);
    }
    // Extremes are over finite values: equal ones make a row constant only if it has no others.
    let constant =
        |scan: &Scan| scan.constant == Some(true) && scan.nan.unwrap_or(0) == 0 && scan.inf.unwrap_or(0) == 0;
    scans.iter().all(constant).then_some(Vacuous::Constant)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Memory, event, shaped};
    use PairVerdict::{Identical, Undecided};
    use Phase::{Decode, Prefill};
    use ReasonCode::{Differs, FinitenessUnknown, InfiniteBoth, OpenColumns};
    use driftprobe_trace::Row;

    type Told = (PairVerdict, Vec<ReasonCode>, Option<Phase>);

    /// What is said of two rows at position 3 whose events `change` has changed.
    fn told(point: Point, rows: [Row; 2], change: fn(&mut Event)) -> Told {
        let mut memory = Memory::default();
        for (phase, row) in Phase::ALL.into_iter().zip(rows) {
            memory.record(event("p", phase, point, 0, 3, 7), row);
        }
        memory.run.events.iter_mut().for_each(change);
        let [prefill, decode] = [&memory.run.events[0], &memory.run.events[1]];
        let pair = judge(prefill, decode, vec![], crate::pair::place::Places::default().of(prefill), &memory);
        (pair.verdict, pair.findings.iter().map(|finding| finding.code).collect(), pair.phase)
    }

    /// Scores of two heads in `columns` columns: the row's own four, and then `tail`.
    fn scores(first: f32, tail: f32, columns: u64) -> Row {
        let head = |head: f32| (0..columns).map(move |at| if at < 4 { head + at as f32 } else { tail });
        shaped(&[2, columns], &head(first).chain(head(-3.0)).collect::<Vec<_>>())
    }

    #[test]
    fn columns_behind_the_rows_own_are_told_of_the_phase_that_has_them_and_leave_nothing_identical() {
        let told = |prefill: Row, decode: Row| told(Point::AttnScores, [prefill, decode], |_| {});
        let (masked, own, open) = (scores(0.5, f32::NEG_INFINITY, 6), scores(0.5, 0.0, 4), scores(0.5, 0.25, 6));
        assert_eq!(told(masked.clone(), own.clone()), (Identical, vec![], None));
        assert_eq!(told(open.clone(), own.clone()), (Undecided, vec![OpenColumns], None));
        assert_eq!(told(own, open.clone()), (Undecided, vec![OpenColumns], None));
        assert_eq!(told(open.clone(), open.clone()), (Undecided, vec![OpenColumns; 2], None));
        assert_eq!(told(scores(0.75, 0.25, 6), masked.clone()), (Undecided, vec![Differs, OpenColumns], None));
        let nan = (PairVerdict::NonFinite, vec![ReasonCode::NonFinite, OpenColumns], Some(Prefill));
        assert_eq!(told(scores(f32::NAN, 0.25, 6), masked), nan, "it stays what it is");
    }

    #[test]
    fn infinities_are_told_of_both_phases_where_they_are_the_same_and_else_of_the_one_that_has_them() {
        const INF: f32 = f32::INFINITY;
        let told = |p: &[f32], d: &[f32]| told(Point::MlpOut, [p, d].map(Row::from_f32), |_| {});
        assert_eq!(told(&[1.0, INF], &[1.0, INF]), (Identical, vec![InfiniteBoth], None));
        assert_eq!(told(&[1.0, INF], &[2.0, INF]), (Undecided, vec![Differs, InfiniteBoth], None));
        let not_finite = |phase| (PairVerdict::NonFinite, vec![ReasonCode::NonFinite], phase);
        assert_eq!(told(&[1.0, INF], &[1.0, 2.0]), not_finite(Some(Prefill)));
        assert_eq!(told(&[1.0, 2.0], &[1.0, INF]), not_finite(Some(Decode)));
        for decode in [[INF, 1.0], [INF, INF], [1.0, -INF]] {
            assert_eq!(told(&[1.0, INF], &decode), not_finite(None), "{decode:?}");
        }
        assert_eq!(told(&[f32::NAN, INF], &[f32::NAN, INF]), not_finite(None));
    }

    #[test]
    fn equal_rows_of_which_either_count_is_unknown_may_hold_what_is_not_finite() {
        let rows = |decode: f32| [[1.0, 2.0], [1.0, decode]].map(|row| Row::from_f32(&row));
        let unknown = (Identical, vec![FinitenessUnknown], None);
        assert_eq!(told(Point::MlpOut, rows(2.0), |event| event.payload = None), (Identical, vec![], None));
        for (name, change) in [
            ("nan", (|event| (event.payload, event.stats.nan) = (None, None)) as fn(&mut Event)),
            ("inf", |event| (event.payload, event.stats.inf) = (None, None)),
        ] {
            assert_eq!(told(Point::MlpOut, rows(2.0), change), unknown, "{name}");
            assert_eq!(told(Point::MlpOut, rows(3.0), change), (Undecided, vec![Differs], None), "{name}");
        }
    }
}
