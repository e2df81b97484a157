//! Presets applied to a run that was analysed: what was measured, where it is worst, and whether it passes.

use super::attention::{Errors, Inputs};
use super::measure::Rows as RowPair;
use super::preset::{Check, Limit, Measure, Over, Preset, llama_band};
use super::span::{Span, SpanRow};
use super::{GuardrailVerdict, guardrail};
use crate::analysis::Analysis;
use crate::evidence::view::View;
use crate::evidence::{Bits, Side};
use crate::judge::{JudgedPair, PairVerdict};
use crate::pair::place::describe;
use crate::verdict::Verdict;
use crate::verdict::reason::{Reason, ReasonCode};
use driftprobe_model::Model;
use driftprobe_model::reference::AttentionShape;
use driftprobe_trace::{Dtype, Event, Phase, Point, Rows};
use std::collections::BTreeMap;

/// What one condition of a preset came to.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckResult {
    /// What was measured.
    pub measure: Measure,
    /// What passes; where that depends on the point, at the worst place.
    pub limit: Limit,
    /// The worst value; `None`: nothing was compared.
    pub value: Option<f64>,
    /// Where it is worst.
    pub at: Option<String>,
    /// How many were compared: pairs, tokens, or phases of layers.
    pub compared: u64,
    /// How many of them fail.
    pub failed: u64,
}

/// What a preset came to.
#[derive(Clone, Debug, PartialEq)]
pub struct PresetResult {
    /// The preset.
    pub preset: &'static Preset,
    /// PASS only if everything that it takes was compared, and nothing stands in the way of a PASS.
    pub verdict: Verdict,
    /// Why it is INCONCLUSIVE, or could not PASS.
    pub reasons: Vec<String>,
    /// Its conditions.
    pub checks: Vec<CheckResult>,
    /// The guardrail's own name for it; of other presets none.
    pub guardrail: Option<GuardrailVerdict>,
    /// Whether it counts: drift that the guardrail expects is told and decides nothing.
    pub counts: bool,
    /// The band of llama.cpp's script; of other presets none.
    pub band: Option<&'static str>,
}

/// Reasons that bear on the noise model's verdict alone. All others that block a PASS there block one here.
const OF_THE_NOISE_MODEL: [ReasonCode; 12] = [
    ReasonCode::Differs,
    ReasonCode::NotJudged,
    ReasonCode::WrongModel,
    ReasonCode::Fault,
    ReasonCode::TooMuchDrift,
    ReasonCode::GapFault,
    ReasonCode::LooseContract,
    ReasonCode::NoPower,
    // These are seen in the values themselves, or in their not being there.
    ReasonCode::NonFinite,
    ReasonCode::NotComparable,
    ReasonCode::SampleOnly,
    ReasonCode::FinitenessUnknown,
];

/// What presets are applied to: one mode of a run, or one prompt of it.
#[derive(Clone, Copy)]
pub struct Gated<'a> {
    /// The run, analysed.
    pub analysis: &'a Analysis,
    /// Its payloads.
    pub rows: &'a dyn Rows,
    /// The model that it was judged with.
    pub model: Option<&'a Model>,
    /// Only this prompt's rows.
    pub prompt: Option<&'a str>,
}

impl<'a> Gated<'a> {
    fn pairs(self) -> impl Iterator<Item = &'a JudgedPair> + Clone {
        self.analysis.pairs.iter().filter(move |pair| self.prompt.is_none_or(|id| *pair.prefill.prompt_id == *id))
    }
}

/// Applies presets.
pub fn apply(presets: &[&'static Preset], gated: Gated<'_>) -> Vec<PresetResult> {
    let (analysis, rows) = (gated.analysis, gated.rows);
    let doubts = doubts(&analysis.verdict.reasons);
    let mut tallies: Vec<Tally> = presets.iter().map(|preset| Tally::new(preset)).collect();
    let logits = gated.pairs().filter(|pair| pair.prefill.point == Point::Logits);
    let logits_max: Option<u64> = logits.map(|pair| pair.prefill.elements()).sum();
    let mut span = Span::new(logits_max);
    for pair in gated.pairs() {
        let taken = |tally: &Tally| tally.preset.over != Over::Attention && tally.preset.takes(pair.prefill.point);
        if !tallies.iter().any(taken) {
            continue;
        }
        let values = values(pair, rows);
        for tally in tallies.iter_mut().filter(|tally| taken(tally)) {
            tally.pair(pair, &values);
        }
        if let Ok(values) = values.as_ref()
            && pair.prefill.point == Point::Logits
        {
            let next = next_token(analysis, pair);
            let place = describe(&pair.prefill);
            span.add(SpanRow { prefill: &values.prefill, decode: &values.decode, next, place: &place });
        }
    }
    let mode = analysis.manifest.as_ref().and_then(|manifest| manifest.mode);
    for tally in &mut tallies {
        match tally.preset.over {
            Over::Span => tally.span(&span),
            Over::Attention => tally.attention(gated),
            Over::Pairs | Over::LogitsPairs => {}
        }
    }
    let results = tallies.into_iter().map(|tally| tally.finish(&doubts));
    results.map(|result| guardrail::named(result, mode)).collect()
}

/// What stands in the way of any PASS: the run's own reasons, but for those of the noise model.
fn doubts(reasons: &[Reason]) -> Vec<String> {
    let bears = |reason: &&Reason| !OF_THE_NOISE_MODEL.contains(&reason.code);
    reasons.iter().filter(bears).map(Reason::to_string).collect()
}

/// The token after a row: the prompt's, where it goes on.
fn next_token(analysis: &Analysis, pair: &JudgedPair) -> Option<u32> {
    let prompts = analysis.manifest.as_ref()?.prompts.as_ref()?;
    let prompt = prompts.iter().find(|prompt| *prompt.id == *pair.prefill.prompt_id)?;
    let index = usize::try_from(pair.prefill.token_index()?).ok()?;
    prompt.tokens.get(index.checked_add(1)?).copied()
}

/// The values of both rows that are compared.
pub(super) struct Values {
    pub dtype: Dtype,
    pub prefill: Vec<f64>,
    pub decode: Vec<f64>,
}

/// Both rows of a pair, as far as they are compared; or why they cannot be.
fn values(pair: &JudgedPair, rows: &dyn Rows) -> Result<Values, String> {
    if let Some(finding) = pair.findings.iter().find(|finding| finding.code.is_unsound()) {
        return Err(format!("{}: {}", finding.code.id(), finding.detail));
    }
    let [ours, theirs] = [Side::load(&pair.prefill, rows), Side::load(&pair.decode, rows)];
    let view = View::of(&ours, &theirs);
    let (Some(p), Some(d)) = (&ours.row, &theirs.row) else { return Err("no payload".to_owned()) };
    if p.dtype != d.dtype {
        return Err(format!("dtypes differ: {} and {}", p.dtype, d.dtype));
    }
    let (prefill, decode) = view.both(p, d).ok_or_else(|| format!("{} values and {}", p.len(), d.len()))?;
    if prefill.is_empty() {
        return Err("no value is to be compared".to_owned());
    }
    Ok(Values { dtype: p.dtype, prefill, decode })
}

/// A preset's conditions as they are counted.
pub(super) struct Tally {
    pub preset: &'static Preset,
    checks: Vec<CheckResult>,
    /// What it takes and could not be compared, and the first reason.
    left_out: u64,
    why_left_out: Option<String>,
    doubts: Vec<String>,
}

impl Tally {
    pub(super) fn new(preset: &'static Preset) -> Tally {
        let none = |check: &Check| CheckResult {
            measure: check.measure,
            limit: (check.limit)(Point::Logits),
            value: None,
            at: None,
            compared: 0,
            failed: 0,
        };
        let checks = preset.checks.iter().map(none).collect();
        Tally { preset, checks, left_out: 0, why_left_out: None, doubts: Vec::new() }
    }

    pub(super) fn leave_out(&mut self, why: impl Into<String>) {
        self.left_out += 1;
        self.why_left_out.get_or_insert_with(|| why.into());
    }

    fn add(&mut self, number: usize, limit: Limit, value: f64, at: Option<String>) {
        let Some(check) = self.checks.get_mut(number) else { return };
        check.compared += 1;
        check.failed += u64::from(!limit.holds(value));
        let worse = check.value.is_none_or(|worst| limit.badness(value) > check.limit.badness(worst));
        if worse {
            (check.limit, check.value, check.at) = (limit, Some(value), at);
        }
    }

    /// Takes two rows in; those of a span and of attention are taken in elsewhere.
    pub(super) fn values(&mut self, point: Point, values: &Values, place: &str) {
        if !matches!(self.preset.over, Over::Pairs | Over::LogitsPairs) || !self.preset.takes(point) {
            return;
        }
        let rows = RowPair::new(values.dtype, &values.prefill, &values.decode);
        for (number, check) in self.preset.checks.iter().enumerate() {
            self.add(number, (check.limit)(point), rows.measure(check.measure), Some(place.to_owned()));
        }
    }

    fn pair(&mut self, pair: &JudgedPair, values: &Result<Values, String>) {
        let place = || Some(describe(&pair.prefill));
        let by_bits = self.preset.checks.iter().all(|check| check.measure == Measure::Differing);
        match values {
            Ok(values) => self.values(pair.prefill.point, values, &describe(&pair.prefill)),
            // What is not finite is known without the values, and so are equal bits.
            Err(_) if pair.verdict == PairVerdict::NonFinite => {
                for (number, check) in self.preset.checks.iter().enumerate() {
                    self.add(number, (check.limit)(pair.prefill.point), f64::NAN, place());
                }
            }
            Err(why) if by_bits && why == "no payload" => match &pair.bits {
                Bits::Equal { .. } => self.add(0, Limit::AtMost(0.0), 0.0, place()),
                Bits::Differ { .. } => self.add(0, Limit::AtMost(0.0), 1.0, place()),
                Bits::EqualAsSampled { .. } => self.leave_out("equal as far as sampled"),
                Bits::Incomparable { why } => self.leave_out(why.clone()),
            },
            Err(why) => self.leave_out(format!("{}: {why}", describe(&pair.prefill))),
        }
    }

    pub(super) fn span(&mut self, span: &Span) {
        if span.tokens() == 0 {
            return;
        }
        for (number, check) in self.preset.checks.iter().enumerate() {
            let Some((value, at)) = span.measure(check.measure) else {
                self.leave_out("the span has more logits than were announced");
                continue;
            };
            self.add(number, (check.limit)(Point::Logits), value, at);
            if let Some(check) = self.checks.get_mut(number) {
                check.compared = check.compared.max(span.tokens());
            }
        }
        self.doubts.extend(span.vacuous().map(str::to_owned));
    }

    fn attention(&mut self, gated: Gated<'_>) {
        let outputs = gated.pairs().filter(|pair| pair.prefill.point == Point::AttnOut);
        let Some(model) = gated.model.filter(|_| gated.analysis.examination.is_some()) else {
            outputs.for_each(|_| self.leave_out("it takes the run's model (--model)"));
            return;
        };
        let inputs = [Point::QPostRope, Point::KCache, Point::VCache];
        let all = gated.pairs().flat_map(|pair| [&pair.prefill, &pair.decode]);
        let key = |event: &Event, point: Point| {
            (event.phase, event.prompt_id.clone(), event.token_index(), event.layer, point)
        };
        let recorded: BTreeMap<_, &Event> =
            all.filter(|event| inputs.contains(&event.point)).map(|event| (key(event, event.point), event)).collect();
        let mut groups: BTreeMap<(i32, Phase), Errors> = BTreeMap::new();
        for event in outputs.flat_map(|pair| [&pair.prefill, &pair.decode]) {
            let row = |event: &Event| Side::load(event, gated.rows).row.map(|row| (row.dtype, row.to_f64()));
            let input = |point: Point| recorded.get(&key(event, point)).and_then(|event| row(event));
            let found = row(event).zip(input(Point::QPostRope)).zip(input(Point::KCache)).zip(input(Point::VCache));
            let pos = event.token_index().and_then(|pos| usize::try_from(pos).ok());
            let (Some(((((dtype, out), (_, q)), (_, k)), (_, v))), Some(pos)) = (found, pos) else {
                self.leave_out(format!("{}: no payload of it, or of q, k_cache or v_cache", describe(event)));
                continue;
            };
            let shape = AttentionShape::of(&model.config, usize::try_from(event.layer).unwrap_or(0));
            let errors = groups.entry((event.layer, event.phase)).or_default();
            if !errors.add(&shape, &out, dtype, &Inputs { q: &q, k: &k, v: &v, pos }) {
                self.leave_out(format!("{}: q, k_cache or v_cache are not of the model's sizes", describe(event)));
            }
        }
        let limit = self.preset.checks.first().map_or(Limit::AtMost(1.0), |check| (check.limit)(Point::AttnOut));
        for ((layer, phase), errors) in groups {
            let at = format!("{phase}, layer {layer}: max abs {:.3e}, plain {:.3e}", errors.out, errors.plain);
            self.add(0, limit, errors.share(), Some(at));
        }
    }

    pub(super) fn finish(self, doubts: &[String]) -> PresetResult {
        let failed = self.checks.iter().any(|check| check.failed > 0);
        let compared = self.checks.iter().all(|check| check.compared > 0);
        let mut reasons = Vec::new();
        if let Some(why) = &self.why_left_out {
            reasons.push(format!("{} could not be compared; the first: {why}", self.left_out));
        } else if !compared {
            reasons.push(format!("nothing was compared: {}", needs(self.preset.over)));
        }
        reasons.extend(self.doubts);
        reasons.extend(doubts.iter().cloned());
        let verdict = match (failed, compared && reasons.is_empty()) {
            (true, _) => Verdict::Fail,
            (false, true) => Verdict::Pass,
            (false, false) => Verdict::Inconclusive,
        };
        let value = self.checks.first().and_then(|check| check.value);
        let band = value.filter(|_| self.preset.id == "llama-logits").map(llama_band);
        PresetResult { preset: self.preset, verdict, reasons, checks: self.checks, guardrail: None, counts: true, band }
    }
}

/// What a preset would have to find in a run.
const fn needs(over: Over) -> &'static str {
    match over {
        Over::Pairs => "the run has no pair of rows",
        Over::LogitsPairs | Over::Span => "the run has no pair of rows of logits",
        Over::Attention => "the run has no pair of rows of attn_out",
    }
}
