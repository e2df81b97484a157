//! `gate.json`: a gate as data.

use super::{at, cell_said};
use crate::gate::decide::deciding_for;
use crate::gate::matrix::Cell;
use crate::gate::{CheckResult, Deciding, Gate, GuardrailVerdict, Noise, PresetResult, Subject};
use crate::report::schema::Num;
use crate::report::schema::gate::{
    GateBaselineEntry, GateCellEntry, GateCellPresetEntry, GateCheckEntry, GateExtraEntry, GateMatrixEntry,
    GateNoiseEntry, GatePresetEntry, GateReasonEntry, GateReport, GateWorseEntry, GatedRunEntry,
};
use crate::verdict::Verdict;
use driftprobe_trace::Mode;

/// Version of `gate.json`.
pub const SCHEMA: u32 = 1;

/// `gate.json`, with a line feed at its end.
pub fn to_json(gate: &Gate) -> String {
    let ids = |all: &[Deciding]| all.iter().map(|one| one.id()).collect::<Vec<_>>();
    let report = GateReport {
        schema: SCHEMA,
        generator: concat!("driftprobe ", env!("CARGO_PKG_VERSION")).to_owned(),
        verdict: gate.verdict.id(),
        exit_code: gate.exit_code(),
        decided_by: ids(&gate.decided_by()),
        why: &gate.why,
        guardrail: gate.guardrail.map(|overall| overall.id()),
        runs: gate.subjects.iter().map(|subject| run(subject, ids(&deciding_for(subject, &gate.deciding)))).collect(),
        matrix: gate.matrix.as_ref().map(|matrix| GateMatrixEntry {
            complete: matrix.is_complete(),
            cells: matrix.cells.iter().map(cell).collect(),
            extra: matrix.extra.iter().map(|(run, axes)| GateExtraEntry { run, says: axes.to_string() }).collect(),
        }),
    };
    // Nothing in it can fail to be text: numbers that are not finite are strings.
    serde_json::to_string_pretty(&report).unwrap_or_default() + "\n"
}

/// The noise model's verdict as data.
pub fn noise(noise: &Noise) -> GateNoiseEntry<'_> {
    GateNoiseEntry {
        verdict: noise.verdict.id(),
        sub_verdict: noise.sub_verdict.map(|sub| sub.id()),
        root_cause: noise.root_cause,
        why: &noise.why,
        first_failure: noise.first_failure.as_deref(),
        reasons: noise.reasons.iter().map(|(code, count)| GateReasonEntry { code, count: *count }).collect(),
    }
}

fn run<'a>(subject: &'a Subject, decided_by: Vec<&'static str>) -> GatedRunEntry<'a> {
    let presets = subject.modes.iter().flat_map(|mode| mode.presets.iter().map(|result| preset(mode.mode, result)));
    GatedRunEntry {
        name: &subject.name,
        decided_by,
        noise: subject.noise.as_ref().map(noise),
        presets: presets.collect(),
        baseline: subject.baseline.as_ref().map(|baseline| GateBaselineEntry {
            verdict: baseline.verdict.id(),
            stages: baseline.stages,
            tests: baseline.tests,
            worse: baseline.worse.iter().map(|one| GateWorseEntry { place: &one.place, what: &one.what }).collect(),
            reasons: &baseline.reasons,
        }),
    }
}

fn preset(mode: Option<Mode>, result: &PresetResult) -> GatePresetEntry<'_> {
    let check =
        |check: &'_ CheckResult| (check.measure.id(), check.value.map(Num), check.limit, check.compared, check.failed);
    let entry = |one| {
        let (measure, value, limit, compared, failed) = check(one);
        let (comparison, limit) = (limit.sign(), limit.bound());
        GateCheckEntry { measure, value, comparison, limit, compared, failed, worst_at: at(one) }
    };
    GatePresetEntry {
        mode: mode.map(Mode::id),
        preset: result.preset.id,
        verdict: result.verdict.id(),
        guardrail: result.guardrail.map(|name| name.id()),
        band: result.band,
        counts: result.counts,
        formula: result.preset.formula,
        source: result.preset.source,
        reasons: &result.reasons,
        checks: result.checks.iter().map(entry).collect(),
    }
}

fn cell(cell: &Cell) -> GateCellEntry<'_> {
    let preset = |(preset, verdict, name): &(&'static str, Verdict, Option<GuardrailVerdict>)| GateCellPresetEntry {
        preset,
        verdict: verdict.id(),
        guardrail: name.map(|name| name.id()),
    };
    GateCellEntry {
        cell: cell.axes.to_string(),
        status: cell_said(cell),
        runs: &cell.runs,
        noise: cell.noise.map(Verdict::id),
        presets: cell.presets.iter().map(preset).collect(),
    }
}
