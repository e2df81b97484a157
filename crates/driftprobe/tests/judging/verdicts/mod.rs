//! Runs in memory, judged without a model, and what is expected of the verdict.

use crate::support::Memory;
use driftprobe::verdict::reason::ReasonCode;
use driftprobe::{Analysis, Options, Verdict, analyze};

pub fn judge(memory: &Memory) -> Analysis {
    analyze(&memory.run, memory, Options::default())
}

#[track_caller]
pub fn inconclusive(memory: &Memory, code: ReasonCode) -> Analysis {
    let got = judge(memory);
    let codes: Vec<_> = got.verdict.reasons.iter().map(|reason| reason.code).collect();
    assert_eq!(got.verdict.verdict, Verdict::Inconclusive, "{codes:?}");
    assert!(codes.contains(&code), "{code:?} is not among {codes:?}");
    got
}
