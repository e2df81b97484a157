//! GRETA's guardrail on spans of logits, with its verdict names: two dumps, or the logits of a run.
//!
//! With prefill's cache under decode, logits must agree within the limits; with decode's own cache drift is expected, told,
//! and decides nothing. Unlike GRETA's first tool, rows that cannot be compared are not passed over, and dumps that say
//! nothing but their metadata pass nothing.

use super::apply::{PresetResult, Tally, Values};
use super::preset::{Over, Preset};
use super::span::{Span, SpanRow};
use crate::verdict::Verdict;
use driftprobe_trace::{Dtype, Mode, Point};

/// What the guardrail says of one pair of dumps, or one mode of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuardrailVerdict {
    /// Within the limits, with prefill's cache under decode.
    PassEquiv,
    /// Not within them, or not finite in any mode.
    FailEquiv,
    /// Decode read its own cache: whatever drift there is is told and decides nothing.
    ExpectedDrift,
    /// Nothing can be said.
    Inconclusive,
}

impl GuardrailVerdict {
    /// As GRETA spells it.
    pub const fn id(self) -> &'static str {
        match self {
            GuardrailVerdict::PassEquiv => "PASS_EQUIV",
            GuardrailVerdict::FailEquiv => "FAIL_EQUIV",
            GuardrailVerdict::ExpectedDrift => "EXPECTED_DRIFT",
            GuardrailVerdict::Inconclusive => "INCONCLUSIVE",
        }
    }
}

/// What the guardrail says of all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overall {
    /// Every aligned pair passes, and the matrix is complete.
    Pass,
    /// Every aligned pair passes; there was no matrix, so that nobody knows whether these are all.
    PassLocal,
    /// An aligned pair fails.
    Fail,
    /// Cells of the matrix are missing.
    Incomplete,
    /// There is no aligned pair: nothing was gated.
    ExpectedDriftOnly,
    /// Nothing can be said.
    Inconclusive,
}

impl Overall {
    /// As GRETA spells it.
    pub const fn id(self) -> &'static str {
        match self {
            Overall::Pass => "PASS_GUARDRAIL",
            Overall::PassLocal => "PASS_GUARDRAIL_LOCAL",
            Overall::Fail => "FAIL_GUARDRAIL",
            Overall::Incomplete => "INCOMPLETE",
            Overall::ExpectedDriftOnly => "EXPECTED_DRIFT_ONLY",
            Overall::Inconclusive => "INCONCLUSIVE",
        }
    }

    /// Of all pairs; `complete`: whether a matrix was complete, if there was one.
    pub fn of(verdicts: &[GuardrailVerdict], complete: Option<bool>) -> Overall {
        let has = |verdict| verdicts.contains(&verdict);
        match complete {
            _ if has(GuardrailVerdict::FailEquiv) => Overall::Fail,
            Some(false) => Overall::Incomplete,
            _ if verdicts.is_empty() || has(GuardrailVerdict::Inconclusive) => Overall::Inconclusive,
            _ if !has(GuardrailVerdict::PassEquiv) => Overall::ExpectedDriftOnly,
            Some(true) => Overall::Pass,
            None => Overall::PassLocal,
        }
    }
}

/// Gives the guardrail's result its own name; other presets' results are as they were.
pub(super) fn named(mut result: PresetResult, mode: Option<Mode>) -> PresetResult {
    if result.preset.id != "guardrail" {
        return result;
    }
    let finite = result.checks.iter().all(|check| check.value.is_none_or(|value| !value.is_nan()));
    let expected = mode == Some(Mode::AsDesigned) && finite;
    result.guardrail = Some(match result.verdict {
        Verdict::Inconclusive => GuardrailVerdict::Inconclusive,
        _ if expected => GuardrailVerdict::ExpectedDrift,
        Verdict::Pass => GuardrailVerdict::PassEquiv,
        Verdict::Fail => GuardrailVerdict::FailEquiv,
    });
    if result.guardrail == Some(GuardrailVerdict::ExpectedDrift) {
        result.verdict = Verdict::Inconclusive;
        result.counts = false;
        let why = "decode read the cache that it wrote itself: the guardrail expects drift there and gates nothing";
        result.reasons.push(why.to_owned());
    }
    result
}

/// What a dump of logits says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpanPromise {
    /// Index of the first token.
    pub start: Option<u64>,
    /// Tokens that it is to hold.
    pub count: Option<u64>,
    /// Whether decode read prefill's cache.
    pub mode: Option<Mode>,
    /// What both dumps must have alike, by name: `dtype`, `prompt_len`, `gen_len`, `seed`.
    pub settings: Vec<(String, String)>,
}

/// One line of a dump.
#[derive(Clone, Debug, PartialEq)]
pub struct DumpRow {
    /// Index of the token.
    pub index: u64,
    /// The token that the line names.
    pub token: Option<u32>,
    /// Its logits.
    pub logits: Vec<f64>,
}

/// Applies presets to two dumps of logits, prefill's and decode's, whose rows come in the order of their files. Rows are paired
/// by index. From the first token on that the two name differently nothing is compared: what follows has another past.
pub fn compare_dumps(
    presets: &[&'static Preset],
    promises: &[SpanPromise; 2],
    prefill: impl Iterator<Item = DumpRow>,
    decode: impl Iterator<Item = DumpRow>,
) -> Vec<PresetResult> {
    let mut tallies: Vec<Tally> = presets.iter().map(|preset| Tally::new(preset)).collect();
    let mut dumps = Dumps::default();
    let mut span = None;
    let (mut prefill, mut decode) = (prefill.peekable(), decode.peekable());
    let count = promises.iter().filter_map(|promise| promise.count).max();
    loop {
        let (ours, theirs) = match (prefill.peek(), decode.peek()) {
            (None, None) => break,
            (Some(ours), Some(theirs)) if ours.index == theirs.index => (prefill.next(), decode.next()),
            (Some(ours), theirs) if theirs.is_none_or(|theirs| ours.index < theirs.index) => (prefill.next(), None),
            _ => (None, decode.next()),
        };
        let Some((ours, theirs)) = dumps.take(ours, theirs) else { continue };
        // Of one logit alone every token is the first choice, and every distribution is the same.
        if ours.logits.len() != theirs.logits.len() || ours.logits.len() < 2 {
            dumps.unequal += 1;
            continue;
        }
        // Whether a line's token was fed or drawn is not told: the next one is taken to be decode's own choice.
        let place = format!("token_idx {}", ours.index);
        let span = span.get_or_insert_with(|| Span::new(count.and_then(|n| n.checked_mul(ours.logits.len() as u64))));
        span.add(SpanRow { prefill: &ours.logits, decode: &theirs.logits, next: None, place: &place });
        let values = Values { dtype: Dtype::F32, prefill: ours.logits, decode: theirs.logits };
        tallies.iter_mut().for_each(|tally| tally.values(Point::Logits, &values, &place));
    }
    let mut doubts = dumps.doubts(promises);
    let span = span.unwrap_or_else(|| Span::new(None));
    doubts.extend(span.vacuous().map(str::to_owned));
    let mode = promises.iter().find_map(|promise| promise.mode);
    let finish = |mut tally: Tally| {
        if tally.preset.over == Over::Span {
            tally.span(&span);
        }
        let by_bits = tally.preset.id == "batch-invariant";
        let mut doubts = doubts.clone();
        doubts.extend(by_bits.then(|| "decimal numbers do not show every bit".to_owned()));
        named(tally.finish(&doubts), mode)
    };
    tallies.into_iter().map(finish).collect()
}

/// What was seen of two dumps, besides the values.
#[derive(Default)]
struct Dumps {
    indices: [Vec<u64>; 2],
    unpaired: [u64; 2],
    first_unpaired: Option<u64>,
    unnamed: u64,
    /// The first index whose tokens differ: (index, prefill's, decode's).
    parted: Option<(u64, u32, u32)>,
    /// Pairs from there on.
    after: u64,
    unequal: u64,
}

impl Dumps {
    /// Both rows of an index, if they may be compared.
    fn take(&mut self, ours: Option<DumpRow>, theirs: Option<DumpRow>) -> Option<(DumpRow, DumpRow)> {
        for (side, row) in [&ours, &theirs].into_iter().enumerate() {
            if let (Some(row), Some(indices)) = (row, self.indices.get_mut(side)) {
                indices.push(row.index);
            }
        }
        let (ours, theirs) = match (ours, theirs) {
            (Some(ours), Some(theirs)) => (ours, theirs),
            (ours, theirs) => {
                let index = ours.as_ref().or(theirs.as_ref()).map(|row| row.index);
                self.first_unpaired = self.first_unpaired.or(index);
                let [prefill, decode] = &mut self.unpaired;
                *prefill += u64::from(ours.is_some());
                *decode += u64::from(theirs.is_some());
                return None;
            }
        };
        match (ours.token, theirs.token) {
            (Some(one), Some(other)) if one != other => {
                self.parted = self.parted.or(Some((ours.index, one, other)));
            }
            (Some(_), Some(_)) => {}
            _ => self.unnamed += 1,
        }
        if self.parted.is_some() {
            self.after += 1;
            return None;
        }
        Some((ours, theirs))
    }

    fn doubts(&self, promises: &[SpanPromise; 2]) -> Vec<String> {
        let mut doubts = Vec::new();
        let [ours, theirs] = promises;
        if (ours.start, ours.count) != (theirs.start, theirs.count) {
            doubts.push(format!("SPAN_MISMATCH: prefill promises {}, decode {}", ours.span(), theirs.span()));
        }
        for (phase, promise, indices) in [("prefill", ours, &self.indices[0]), ("decode", theirs, &self.indices[1])] {
            match promise.count {
                None => doubts.push(format!("{phase}'s metadata.json does not say how many tokens its span has")),
                Some(0) => doubts.push(format!("{phase} promises a span of no token")),
                Some(count) if count != indices.len() as u64 => {
                    doubts.push(format!("SPAN_MISMATCH: {phase} promises {count} tokens and holds {}", indices.len()))
                }
                Some(_) => {}
            }
            if !indices.is_sorted_by(|one, next| one < next) {
                doubts.push(format!("{phase}'s token_idx do not rise from line to line"));
            }
        }
        if let Some(first) = self.first_unpaired {
            let [prefill, decode] = self.unpaired;
            doubts.push(format!(
                "SPAN_MISMATCH: {prefill} tokens only in prefill, {decode} only in decode, from token_idx {first} on"
            ));
        }
        if let Some((index, one, other)) = self.parted {
            doubts.push(format!(
                "tokens part at token_idx {index} ({one} in prefill, {other} in decode): {} pairs from there on have another \
                 past and were not compared",
                self.after
            ));
        }
        if self.unnamed > 0 {
            doubts.push(format!("{} lines name no token_id: that both are of one token is not shown", self.unnamed));
        }
        if self.unequal > 0 {
            doubts.push(format!(
                "{} pairs of lines have not as many logits as each other, or fewer than two",
                self.unequal
            ));
        }
        for (name, value) in &ours.settings {
            let other = theirs.settings.iter().find(|(other, _)| other == name);
            if let Some((_, other)) = other.filter(|(_, other)| other != value) {
                doubts.push(format!("{name} is {value} in prefill and {other} in decode"));
            }
        }
        if ours.mode != theirs.mode {
            doubts.push("kv_aligned is not the same in both".to_owned());
        }
        doubts
    }
}

impl SpanPromise {
    fn span(&self) -> String {
        let number = |n: Option<u64>| n.map_or_else(|| "unknown".to_owned(), |n| n.to_string());
        format!("{} tokens from {}", number(self.count), number(self.start))
    }
}
