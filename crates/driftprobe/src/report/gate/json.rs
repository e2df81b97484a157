//! `gate.json`: a gate as data.

use super::{at, cell_said};
use crate::gate::decide::deciding_for;
use crate::gate::matrix::Cell;
use crate::gate::{CheckResult, Deciding, Gate, GuardrailVerdict, PresetResult, Subject};
use crate::report::schema::Num;
use crate::verdict::Verdict;
use driftprobe_trace::Mode;
use serde::Serialize;

/// Version of `gate.json`.
pub const SCHEMA: u32 = 1;

#[derive(Serialize)]
struct Report<'a> {
    schema: u32,
    generator: String,
    verdict: &'static str,
    exit_code: u8,
    decided_by: Vec<&'static str>,
    why: &'a [String],
    guardrail: Option<&'static str>,
    runs: Vec<RunEntry<'a>>,
    matrix: Option<MatrixEntry<'a>>,
}

#[derive(Serialize)]
struct RunEntry<'a> {
    name: &'a str,
    decided_by: Vec<&'static str>,
    noise: Option<NoiseEntry<'a>>,
    presets: Vec<PresetEntry<'a>>,
    baseline: Option<BaselineEntry<'a>>,
}

#[derive(Serialize)]
struct NoiseEntry<'a> {
    verdict: &'static str,
    sub_verdict: Option<&'static str>,
    root_cause: Option<&'static str>,
    why: &'a str,
    first_failure: Option<&'a str>,
    reasons: Vec<ReasonEntry>,
}

#[derive(Serialize)]
struct ReasonEntry {
    code: &'static str,
    count: u64,
}

#[derive(Serialize)]
struct PresetEntry<'a> {
    mode: Option<&'static str>,
    preset: &'static str,
    verdict: &'static str,
    guardrail: Option<&'static str>,
    band: Option<&'static str>,
    counts: bool,
    formula: &'static str,
    source: &'static str,
    reasons: &'a [String],
    checks: Vec<CheckEntry<'a>>,
}

#[derive(Serialize)]
struct CheckEntry<'a> {
    measure: &'static str,
    value: Option<Num>,
    comparison: &'static str,
    limit: f64,
    compared: u64,
    failed: u64,
    worst_at: Option<&'a str>,
}

#[derive(Serialize)]
struct BaselineEntry<'a> {
    verdict: &'static str,
    stages: usize,
    tests: usize,
    worse: Vec<WorseEntry<'a>>,
    reasons: &'a [String],
}

#[derive(Serialize)]
struct WorseEntry<'a> {
    place: &'a str,
    what: &'a str,
}

#[derive(Serialize)]
struct MatrixEntry<'a> {
    complete: bool,
    cells: Vec<CellEntry<'a>>,
    extra: Vec<ExtraEntry<'a>>,
}

#[derive(Serialize)]
struct CellEntry<'a> {
    cell: String,
    status: &'static str,
    runs: &'a [String],
    noise: Option<&'static str>,
    presets: Vec<CellPresetEntry>,
}

#[derive(Serialize)]
struct CellPresetEntry {
    preset: &'static str,
    verdict: &'static str,
    guardrail: Option<&'static str>,
}

#[derive(Serialize)]
struct ExtraEntry<'a> {
    run: &'a str,
    says: String,
}

/// `gate.json`, with a line feed at its end.
pub fn to_json(gate: &Gate) -> String {
    let ids = |all: &[Deciding]| all.iter().map(|one| one.id()).collect::<Vec<_>>();
    let report = Report {
        schema: SCHEMA,
        generator: concat!("driftprobe ", env!("CARGO_PKG_VERSION")).to_owned(),
        verdict: gate.verdict.id(),
        exit_code: gate.exit_code(),
        decided_by: ids(&gate.decided_by()),
        why: &gate.why,
        guardrail: gate.guardrail.map(|overall| overall.id()),
        runs: gate.subjects.iter().map(|subject| run(subject, ids(&deciding_for(subject, &gate.deciding)))).collect(),
        matrix: gate.matrix.as_ref().map(|matrix| MatrixEntry {
            complete: matrix.is_complete(),
            cells: matrix.cells.iter().map(cell).collect(),
            extra: matrix.extra.iter().map(|(run, axes)| ExtraEntry { run, says: axes.to_string() }).collect(),
        }),
    };
    // Nothing in it can fail to be text: numbers that are not finite are strings.
    serde_json::to_string_pretty(&report).unwrap_or_default() + "\n"
}

fn run<'a>(subject: &'a Subject, decided_by: Vec<&'static str>) -> RunEntry<'a> {
    let presets = subject.modes.iter().flat_map(|mode| mode.presets.iter().map(|result| preset(mode.mode, result)));
    RunEntry {
        name: &subject.name,
        decided_by,
        noise: subject.noise.as_ref().map(|noise| NoiseEntry {
            verdict: noise.verdict.id(),
            sub_verdict: noise.sub_verdict.map(|sub| sub.id()),
            root_cause: noise.root_cause,
            why: &noise.why,
            first_failure: noise.first_failure.as_deref(),
            reasons: noise.reasons.iter().map(|(code, count)| ReasonEntry { code, count: *count }).collect(),
        }),
        presets: presets.collect(),
        baseline: subject.baseline.as_ref().map(|baseline| BaselineEntry {
            verdict: baseline.verdict.id(),
            stages: baseline.stages,
            tests: baseline.tests,
            worse: baseline.worse.iter().map(|one| WorseEntry { place: &one.place, what: &one.what }).collect(),
            reasons: &baseline.reasons,
        }),
    }
}

fn preset(mode: Option<Mode>, result: &PresetResult) -> PresetEntry<'_> {
    let check =
        |check: &'_ CheckResult| (check.measure.id(), check.value.map(Num), check.limit, check.compared, check.failed);
    let entry = |one| {
        let (measure, value, limit, compared, failed) = check(one);
        let (comparison, limit) = (limit.sign(), limit.bound());
        CheckEntry { measure, value, comparison, limit, compared, failed, worst_at: at(one) }
    };
    PresetEntry {
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

fn cell(cell: &Cell) -> CellEntry<'_> {
    let preset = |(preset, verdict, name): &(&'static str, Verdict, Option<GuardrailVerdict>)| CellPresetEntry {
        preset,
        verdict: verdict.id(),
        guardrail: name.map(|name| name.id()),
    };
    CellEntry {
        cell: cell.axes.to_string(),
        status: cell_said(cell),
        runs: &cell.runs,
        noise: cell.noise.map(Verdict::id),
        presets: cell.presets.iter().map(preset).collect(),
    }
}
