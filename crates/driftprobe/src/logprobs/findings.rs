//! Why the figures are not of what was generated: findings by code, counted, the first of each told.

use std::collections::BTreeMap;

/// What was found. The order is that of reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Code {
    /// Both sides are one recording.
    NotIndependent,
    /// No token was compared.
    NothingCompared,
    /// A phase gives every token the same score.
    Frozen,
    /// No log-probability.
    NoLogprob,
    /// Another token in each phase.
    OtherToken,
    /// The phases differ in an earlier token.
    OtherPast,
    /// Several scores.
    Twice,
    /// No score by decode.
    PrefillOnly,
    /// No score by prefill.
    DecodeOnly,
    /// No score at all.
    Gap,
}

impl Code {
    /// Every code.
    pub const ALL: [Code; 10] = [
        Code::NotIndependent,
        Code::NothingCompared,
        Code::Frozen,
        Code::NoLogprob,
        Code::OtherToken,
        Code::OtherPast,
        Code::Twice,
        Code::PrefillOnly,
        Code::DecodeOnly,
        Code::Gap,
    ];

    /// The stable code.
    pub const fn id(self) -> &'static str {
        match self {
            Code::NotIndependent => "NOT_INDEPENDENT",
            Code::NothingCompared => "NOTHING_COMPARED",
            Code::Frozen => "FROZEN",
            Code::NoLogprob => "NO_LOGPROB",
            Code::OtherToken => "OTHER_TOKEN",
            Code::OtherPast => "OTHER_PAST",
            Code::Twice => "TWICE",
            Code::PrefillOnly => "PREFILL_ONLY",
            Code::DecodeOnly => "DECODE_ONLY",
            Code::Gap => "GAP",
        }
    }

    /// What is the case.
    pub const fn sentence(self) -> &'static str {
        match self {
            Code::NotIndependent => "both sides are one recording, so that equal scores say nothing",
            Code::NothingCompared => "no token was scored by both phases",
            Code::Frozen => "a phase gives every token the same score, as an engine does that computes nothing",
            Code::NoLogprob => "scores are no log-probabilities: NaN, infinite, or above 0",
            Code::OtherToken => "the phases score another token at the same place",
            Code::OtherPast => "tokens follow one in which the phases differ: their past is another one",
            Code::Twice => "a phase scores a token more than once; which score counts is not told",
            Code::PrefillOnly => "decode has not scored tokens that prefill has",
            Code::DecodeOnly => "prefill has not scored tokens that decode has",
            Code::Gap => "tokens amid a sequence are scored by neither phase: that both had the same ones is not shown",
        }
    }

    /// What would settle it.
    pub const fn hint(self) -> &'static str {
        match self {
            Code::NotIndependent => "give two recordings; where equal ones are meant, name the \"phase\" in every line",
            Code::NothingCompared => "name sequences and count tokens alike in both files",
            Code::Frozen => "check what the engine writes as log-probability",
            Code::NoLogprob => "look at the logits of that token: `driftprobe run` traces both phases",
            Code::OtherToken | Code::OtherPast => "let prefill score the tokens that decode has generated",
            Code::Twice => "write each token once a phase; remove what earlier runs have left in the file",
            Code::PrefillOnly | Code::DecodeOnly => "score every token of every sequence in both phases",
            Code::Gap => "score every token from the first generated one on",
        }
    }
}

/// Findings of one code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The code.
    pub code: Code,
    /// How many tokens.
    pub count: u64,
    /// The first of them.
    pub examples: Vec<String>,
}

/// Of each code, how many are told.
const EXAMPLES_MAX: usize = 4;

/// Findings as they are gathered.
#[derive(Default)]
pub(super) struct Findings(BTreeMap<Code, Finding>);

impl Findings {
    /// Adds a token.
    pub(super) fn add(&mut self, code: Code, what: impl FnOnce() -> String) {
        self.add_many(code, 1, what);
    }

    /// Adds several that are told as one.
    pub(super) fn add_many(&mut self, code: Code, count: u64, what: impl FnOnce() -> String) {
        let finding = self.0.entry(code).or_insert_with(|| Finding { code, count: 0, examples: Vec::new() });
        finding.count = finding.count.saturating_add(count);
        if finding.examples.len() < EXAMPLES_MAX {
            finding.examples.push(what());
        }
    }

    /// In the order of the codes.
    pub(super) fn into_vec(self) -> Vec<Finding> {
        self.0.into_values().collect()
    }
}
