//! Causes, and the usual suspects of attention, in words.

use super::format::brief;
use crate::cause::{Candidate, Cause, Examined, UNEXPLAINED};

/// One word, and a sentence.
pub fn outcome(examined: &Examined) -> (&'static str, String) {
    if !examined.explains.is_empty() {
        let names: Vec<String> = examined.explains.iter().map(named).collect();
        return ("explains", format!("explains the first fault: {}", names.join(" or ")));
    }
    let mut parts = vec![];
    if !examined.refuted.is_empty() {
        let ids: Vec<&str> = ids(examined.refuted.iter().map(|candidate| candidate.id));
        parts.push(format!("does not explain the first fault ({})", ids.join(", ")));
    }
    if !examined.excluded.is_empty() {
        let shown: Vec<String> = examined.excluded.iter().map(|(id, d)| format!("{id} {}", at_least(*d))).collect();
        parts.push(format!("would have been seen and was not: {}", shown.join(", ")));
    }
    let open: Vec<String> = examined.open.iter().map(|(id, why)| format!("{id}: {why}")).collect();
    let word = match (parts.is_empty(), open.is_empty()) {
        (false, true) => "excluded",
        (false, false) => "partly",
        (true, _) => "open",
    };
    if !open.is_empty() {
        parts.push(format!("could not be seen: {}", open.join("; ")));
    }
    (word, if parts.is_empty() { "nothing of it was recorded".to_owned() } else { parts.join(". ") })
}

/// The least effect of a bug, in units of noise. Where a stage has no freedom, anything that is off shows.
fn at_least(d: f64) -> String {
    if d.is_infinite() { "however small".to_owned() } else { format!("D ≥ {}", brief(d)) }
}

/// `ROPE_POSITION_OFFSET (offset +1) in decode, q_post_rope of layer 2: explains the residual, 5.1e2 to 0.9 noise units`.
pub fn cause_in_words(cause: &Cause) -> String {
    let layers: Vec<String> = cause.layers.iter().filter(|layer| **layer >= 0).map(i32::to_string).collect();
    let layers = match layers.len() {
        0 => String::new(),
        1 => format!(" of layer {}", layers.concat()),
        _ => format!(" of layers {}", layers.join(", ")),
    };
    let place = format!("in {}, {}{layers}", cause.phase, cause.point);
    let Some(best) = cause.candidates.first() else {
        return format!("{UNEXPLAINED} {place}: {}", cause.evidence);
    };
    let names: Vec<String> = cause.candidates.iter().map(named).collect();
    let how = match cause.noise_rms_before.is_finite() {
        _ if best.noise_rms_after.is_nan() => {
            "what it says the row holds is not recorded, so that no residual can be told".to_owned()
        }
        true => format!(
            "the residual falls from {} to {} units of noise",
            brief(cause.noise_rms_before),
            brief(best.noise_rms_after)
        ),
        false => "explains the rows exactly".to_owned(),
    };
    format!("{} {place}: {how}", names.join(" or "))
}

/// A candidate with its parameters: `ROPE_POSITION_OFFSET (offset +1)`.
pub fn named(candidate: &Candidate) -> String {
    with_parameters(candidate.id, candidate.parameters.iter().map(|(name, value)| (name, value)))
}

/// An id with parameters by name.
pub fn with_parameters<'a>(id: &str, parameters: impl Iterator<Item = (&'a String, &'a String)>) -> String {
    let parameters: Vec<String> = parameters.map(|(name, value)| format!("{name} {value}")).collect();
    match parameters.is_empty() {
        true => id.to_owned(),
        false => format!("{id} ({})", parameters.join(", ")),
    }
}

fn ids(all: impl Iterator<Item = &'static str>) -> Vec<&'static str> {
    let mut ids: Vec<&str> = all.collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}
