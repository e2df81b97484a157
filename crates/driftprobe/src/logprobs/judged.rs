//! What log-probabilities come to: a measurement, or limits that hold or do not.

use super::{Code, Link, Mismatch, Pair};
use crate::gate::{Limit, Preset};
use crate::report::format::brief;
use crate::verdict::{EXIT_PASS, Verdict};
use driftprobe_trace::Point;

/// What a limit is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// Mean of |Δ|.
    MeanAbs,
    /// The largest of r and 1/r over all tokens.
    Ratio,
    /// Mean of k3.
    K3,
}

impl Measure {
    /// As reports spell it.
    pub const fn id(self) -> &'static str {
        match self {
            Measure::MeanAbs => "mean_abs",
            Measure::Ratio => "ratio",
            Measure::K3 => "k3",
        }
    }

    /// In words.
    pub const fn name(self) -> &'static str {
        match self {
            Measure::MeanAbs => "mean |Δ|",
            Measure::Ratio => "largest ratio, up or down",
            Measure::K3 => "mean k3",
        }
    }

    /// Of one token.
    fn of(self, pair: &Pair) -> f64 {
        match self {
            Measure::MeanAbs => pair.delta().abs(),
            Measure::Ratio => pair.delta().abs().exp(),
            Measure::K3 => pair.delta().exp_m1() - pair.delta(),
        }
    }
}

/// Limits that were asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Limits {
    /// Each with where it comes from.
    pub all: Vec<(Measure, f64, &'static str)>,
}

/// The gates of others whose limit is one of log-probabilities.
pub const PRESETS: [&str; 2] = ["sglang-kl", "sglang-kl-invariant"];

impl Limits {
    /// Adds a limit, where one is given.
    pub fn with(mut self, measure: Measure, limit: Option<f64>, from: &'static str) -> Limits {
        self.all.extend(limit.map(|limit| (measure, limit, from)));
        self
    }

    /// Adds the limit of one of [`PRESETS`]; others are not of log-probabilities.
    pub fn with_preset(mut self, id: &str) -> Limits {
        let preset = Preset::by_id(id).filter(|preset| PRESETS.contains(&preset.id));
        let limits = preset.into_iter().flat_map(|preset| {
            preset.checks.iter().map(|check| (Measure::K3, (check.limit)(Point::Logits).bound(), preset.id))
        });
        self.all.extend(limits);
        self
    }
}

/// A limit held against what was measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    /// Of what.
    pub measure: Measure,
    /// The limit: at most so much.
    pub limit: f64,
    /// Where it comes from: an option, or a preset.
    pub from: &'static str,
    /// Over the tokens that were compared; NaN without any, or where a score is no log-probability.
    pub value: f64,
    /// PASS: all tokens were compared and are within. FAIL: beyond, whatever tokens that were not compared would add.
    pub verdict: Verdict,
}

impl Check {
    fn of((measure, limit, from): (Measure, f64, &'static str), mismatch: &Mismatch) -> Check {
        let all = mismatch.pairs.iter().map(|pair| measure.of(pair));
        let compared = mismatch.pairs.len() as f64;
        let unsound = mismatch.count(Code::NoLogprob) > 0;
        // Each token adds 0 or more, so that what was not compared lowers a mean to this at most.
        let (value, least) = match measure {
            _ if unsound || mismatch.pairs.is_empty() => (f64::NAN, f64::NAN),
            Measure::Ratio => {
                let largest = all.fold(1.0, f64::max);
                (largest, largest)
            }
            Measure::MeanAbs | Measure::K3 => {
                let sum: f64 = all.sum();
                (sum / compared, sum / (mismatch.rows.len() as f64 + mismatch.gaps as f64))
            }
        };
        let holds = |value: f64| Limit::AtMost(limit).holds(value);
        let verdict = if mismatch.count(Code::NotIndependent) > 0 || (mismatch.pairs.is_empty() && !unsound) {
            Verdict::Inconclusive
        } else if !holds(least) {
            Verdict::Fail
        } else if mismatch.findings.is_empty() && holds(value) {
            Verdict::Pass
        } else {
            Verdict::Inconclusive
        };
        Check { measure, limit, from, value, verdict }
    }
}

/// What is said of log-probabilities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All tokens were compared, and nothing says how far apart they may be.
    Measured,
    /// A verdict: limits were given, a trace found a fault, or not all tokens were compared.
    Verdict(Verdict),
}

impl Outcome {
    /// As reports spell it.
    pub const fn id(self) -> &'static str {
        match self {
            Outcome::Measured => "MEASURED",
            Outcome::Verdict(verdict) => verdict.id(),
        }
    }

    /// Exit status of a program that reports it.
    pub const fn exit_code(self) -> u8 {
        match self {
            Outcome::Measured => EXIT_PASS,
            Outcome::Verdict(verdict) => verdict.exit_code(),
        }
    }
}

/// Where the scores come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// Prefill's file.
    pub prefill: String,
    /// Decode's.
    pub decode: String,
    /// The engine that made both, if this program ran it.
    pub engine: Option<String>,
    /// How its tokens were chosen.
    pub sampling: Option<String>,
}

/// Log-probabilities, judged.
#[derive(Clone, Debug)]
pub struct Judged {
    /// Where they come from.
    pub origin: Origin,
    /// What was measured.
    pub mismatch: Mismatch,
    /// Limits, in the order in which they were given.
    pub checks: Vec<Check>,
    /// The worst tokens that were traced.
    pub links: Vec<Link>,
    /// What is said.
    pub outcome: Outcome,
    /// Why, a sentence each.
    pub why: Vec<String>,
}

impl Judged {
    /// Judges.
    pub fn of(origin: Origin, mismatch: Mismatch, limits: &Limits, links: Vec<Link>) -> Judged {
        let checks: Vec<Check> = limits.all.iter().map(|limit| Check::of(*limit, &mismatch)).collect();
        let failed = |check: &&Check| check.verdict == Verdict::Fail;
        let mut why: Vec<String> = checks.iter().filter(failed).map(over).collect();
        let faults = links.iter().filter(|link| link.verdict == Verdict::Fail);
        why.extend(
            faults.map(|link| {
                format!("the trace of {}, token {}, finds a fault: {}", link.sequence, link.index, link.says)
            }),
        );
        let fails = !why.is_empty();
        why.extend(mismatch.findings.iter().map(|finding| finding.code.sentence().to_owned()));
        let outcome = if fails {
            Outcome::Verdict(Verdict::Fail)
        } else if !mismatch.findings.is_empty() {
            Outcome::Verdict(Verdict::Inconclusive)
        } else if checks.is_empty() {
            why.push("no limit was given: this is a measurement, which nothing has passed".to_owned());
            Outcome::Measured
        } else {
            let held: Vec<String> = checks.iter().map(|check| check.measure.name().to_owned()).collect();
            why.push(format!("every token was compared, and within the limits given: {}", held.join(", ")));
            Outcome::Verdict(Verdict::worst(checks.iter().map(|check| check.verdict)))
        };
        Judged { origin, mismatch, checks, links, outcome, why }
    }

    /// What was found of a token by tracing it.
    pub fn link(&self, pair: &Pair) -> Option<&Link> {
        self.links.iter().find(|link| link.sequence == pair.sequence && link.index == pair.index)
    }

    /// Exit status of a program that reports it.
    pub fn exit_code(&self) -> u8 {
        self.outcome.exit_code()
    }
}

fn over(check: &Check) -> String {
    let (name, value, limit) = (check.measure.name(), brief(check.value), brief(check.limit));
    match check.value.is_nan() {
        true => format!("{name} is no number, and so not within {limit} ({})", check.from),
        false => format!("{name} {value} is beyond {limit} ({})", check.from),
    }
}
