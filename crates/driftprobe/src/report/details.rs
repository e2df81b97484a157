//! The DETAILS column: everything known of one pair or of one event without a partner, in one line.

use super::format::{distances, recorded, statistics};
use crate::analysis::Unpaired;
use crate::evidence::Bits;
use crate::evidence::metrics::LogitsNumbers;
use crate::judge::{JudgedPair, PairVerdict};
use crate::verdict::reason::ReasonCode;
use driftprobe_trace::{Event, Phase};

/// Details of a pair. Holds text from the trace; the caller escapes it.
pub fn of_pair(pair: &JudgedPair) -> String {
    let mut parts = vec![pair.verdict.id().to_owned(), bits(pair)];
    if let Some(hashes) = hashes(pair) {
        parts.push(hashes);
    }
    match &pair.numbers {
        Some(numbers) if numbers.differing > 0 => parts.push(distances(numbers)),
        _ if !pair.statistics.is_empty() => {
            parts.push(format!("statistics differ (prefill / decode): {}", statistics(&pair.statistics)));
        }
        _ => {}
    }
    if let Some(logits) = &pair.logits {
        parts.extend(self::logits(logits));
    }
    if let Some(cache) = &pair.cache
        && let Some(first) = cache.first_differing
    {
        parts.push(format!("{} of {} positions bit-equal, first that differs: {first}", cache.equal, cache.positions));
    }
    if !pair.absent.is_empty() {
        let fields: Vec<&str> = pair.absent.iter().map(|field| field.name()).collect();
        parts.push(format!("weakly keyed: no {}", fields.join(", ")));
    }
    // What the bits already say is not said twice.
    let said = [ReasonCode::Differs, ReasonCode::SampleOnly, ReasonCode::NotComparable];
    for finding in pair.findings.iter().filter(|finding| !said.contains(&finding.code)) {
        parts.push(format!("{}: {}", finding.code.id(), finding.detail));
    }
    parts.join("; ")
}

/// What the bits are to each other, in words.
pub fn bits(pair: &JudgedPair) -> String {
    match &pair.bits {
        Bits::Equal { by } if pair.verdict == PairVerdict::Identical => format!("bit-equal by {}", by.name()),
        Bits::Equal { by } => format!("equal by {}", by.name()),
        Bits::EqualAsSampled { over, of: Some(of), .. } => format!("equal over the first {over} of {of} values"),
        Bits::EqualAsSampled { over, of: None, .. } => {
            format!("equal over the first {over} values, row length not recorded")
        }
        Bits::Differ { by } => format!("differs by {}", by.name()),
        Bits::Incomparable { why } => format!("not comparable: {why}"),
    }
}

/// Both hashes if they differ, one if they are equal.
fn hashes(pair: &JudgedPair) -> Option<String> {
    let value = |event: &Event| event.hash.map(|hash| hash.value.to_string());
    match (value(&pair.prefill), value(&pair.decode)) {
        (None, None) => None,
        (ours, theirs) if ours == theirs => ours.map(|hash| format!("hash {hash}")),
        (ours, theirs) => {
            let or_none = |hash: Option<String>| hash.unwrap_or_else(|| "none".to_owned());
            Some(format!("hashes {} / {}", or_none(ours), or_none(theirs)))
        }
    }
}

/// What both phases would choose next.
pub fn logits(logits: &LogitsNumbers) -> Vec<String> {
    let mut parts = vec![];
    if let [Some(prefill), Some(decode)] = logits.top1 {
        let agree = if prefill == decode { "the same" } else { "different" };
        parts.push(format!("top-1 {prefill} / {decode} ({agree})"));
    }
    if let [Some(prefill), Some(decode)] = logits.gap {
        parts.push(format!("gap {} / {}", recorded(prefill), recorded(decode)));
    }
    if let Some(kl) = logits.kl {
        parts.push(format!("KL {} nats", super::format::number(kl)));
    }
    parts
}

/// Details of an event without a partner.
pub fn of_unpaired(one: &Unpaired) -> String {
    if one.one_phase {
        return format!("only {} gives this point; expected of neither", one.event.phase);
    }
    let other = if one.event.phase == Phase::Prefill { Phase::Decode } else { Phase::Prefill };
    let mut out = format!("No matching {other} trace found: {}", one.why);
    if one.nan > 0 {
        out.push_str(&format!("; NON_FINITE: {} NaN", one.nan));
    }
    format!("{out} ({} of {})", one.event.phase_spelling, one.event.source)
}
