//! `driftprobe power`: what would this probe have seen? Every fault of the catalogue is made and looked for.

use crate::args::{EngineKind, PowerArgs, TextOrJson};
use crate::engine::{refuse_what_does_not_fit, settings};
use crate::failure::Failure;
use crate::progress::CountBar;
use crate::prompts;
use crate::run::{check_context, layers, points};
use driftprobe::cause::PowerRow;
use driftprobe::judge::examine::Oracle;
use driftprobe::verdict::Parting;
use driftprobe::{Analysis, Options, Verdict, analyze_against};
use driftprobe_engine::faulty::{Fault, FaultKind, FaultyEngine, Scope, Subject};
use driftprobe_engine::record::{Plan, Unwatched, record};
use driftprobe_engine::{EmbeddedEngine, Engine};
use driftprobe_model::Model;
use driftprobe_trace::{Manifest, Phase, Point, PromptInfo, Run};
use serde_json::json;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

/// Runs the command and returns the exit status.
pub fn run(args: &PowerArgs) -> Result<u8, Failure> {
    let e = &args.engine;
    let model = Model::open(&e.model)?;
    let mut prompts = prompts::asked(e, &model)?;
    if e.prompts.is_empty() {
        prompts.retain(|prompt| prompt.id == "p6_len_32");
    }
    if e.engine != EngineKind::Embedded {
        let hint = "leave --engine out: `power` makes mistakes in the embedded engine, of the same model";
        return Err(Failure::new(format!("no faults can be made in {}", e.engine.id()), hint));
    }
    refuse_what_does_not_fit(e, false)?;
    let settings = settings(e)?;
    let clean = EmbeddedEngine::new(&model, settings.clone())?;
    let (layers, points) = (layers(e, clean.layers())?, points(e, &clean)?);
    let plan = Plan { steps: e.steps, layers, points, overwrite: true, ..Plan::everything(&clean, prompts) };
    check_context(&plan, &model)?;
    let tokens = plan.prompts.iter().map(|prompt: &PromptInfo| prompt.tokens.len()).max().unwrap_or(1);
    let subject = Subject { model: &model, settings: &settings, tokens };
    let (scope, faults, refused) = faults(args, &subject, &plan)?;
    let oracle = Oracle { budget_flops: e.simulate, ..Oracle::new(&model) };
    let folder = tempfile::tempdir().map_err(|e| Failure::io("make", Path::new("a temporary folder"), &e))?;
    let probe = Probe { plan: &plan, oracle: &oracle, dir: &folder.path().join("run") };
    let bar = CountBar::new(faults.len() as u64 + 1, "making faults");
    let sound = probe.look(&clean, true)?;
    let mut outcomes = Vec::new();
    for fault in &faults {
        bar.step(&fault.to_string());
        let engine = FaultyEngine::new(&subject, fault.clone())?;
        // Only these can be seen by simulation alone: what a cache holds of earlier positions, and layers that are not traced.
        let cache = matches!(fault.kind, FaultKind::Cache(_) | FaultKind::Mask(_));
        let untraced = fault.scope.layer.is_none_or(|layer| !plan.layers.contains(&layer));
        let analysis = probe.look(&engine, cache || untraced)?;
        outcomes.push(Outcome::of(fault, &subject, &analysis, &sound));
    }
    bar.finish();
    let power = sound.examination.as_ref().map(|examination| examination.power.as_slice()).unwrap_or_default();
    let text = match args.format {
        TextOrJson::Text => {
            scope_text(scope, args) + &text(&outcomes, power, sound.verdict.verdict) + &refused_text(&refused)
        }
        TextOrJson::Json => data(&outcomes, &refused, sound.verdict.verdict),
    };
    anstream::print!("{text}");
    Ok(driftprobe::EXIT_PASS)
}

/// Faults that the model or the settings cannot have, and why.
type Refused = Vec<(Fault, String)>;

/// Where faults act, those that were asked for, and those of them that cannot be.
fn faults(args: &PowerArgs, subject: &Subject<'_>, plan: &Plan) -> Result<(Scope, Vec<Fault>, Refused), Failure> {
    let phase = Phase::parse(&args.phase);
    let middle = plan.layers.iter().nth(plan.layers.len() / 2).copied();
    let layer = match args.layer.as_deref() {
        None => middle,
        Some("all") => None,
        Some(name) => Some(
            name.parse()
                .map_err(|_| Failure::new(format!("--layer {name} is no layer"), "expected a number, or all"))?,
        ),
    };
    let scope = Scope { phase, layer };
    if args.faults.is_empty() {
        return Ok((scope, Fault::catalogue(subject, scope), Vec::new()));
    }
    let (mut faults, mut refused) = (Vec::new(), Vec::new());
    for kind in &args.faults {
        let layer = scope.layer.filter(|_| kind.layered());
        let fault = Fault { kind: kind.clone(), scope: Scope { layer, ..scope } };
        match fault.applies(subject) {
            Ok(()) => faults.push(fault),
            Err(why) => refused.push((fault, why.to_string())),
        }
    }
    if let (true, Some((fault, why))) = (faults.is_empty(), refused.first()) {
        let hint = "choose a fault that the model and the settings can have";
        return Err(Failure::new(format!("{fault}: {why}"), hint));
    }
    Ok((scope, faults, refused))
}

/// In which layer the faults act, which need not be what one expects.
fn scope_text(scope: Scope, args: &PowerArgs) -> String {
    match (scope.layer, &args.layer) {
        (Some(layer), None) => {
            format!("Faults of one layer are made in layer {layer} alone (--layer chooses it, or all).\n\n")
        }
        _ => String::new(),
    }
}

fn refused_text(refused: &Refused) -> String {
    let mut out = if refused.is_empty() { String::new() } else { "\nNot applicable here:\n".to_owned() };
    for (fault, why) in refused {
        let _ = writeln!(out, "  {fault}: {why}");
    }
    out
}

/// One recording and its analysis.
struct Probe<'a> {
    plan: &'a Plan,
    oracle: &'a Oracle<'a>,
    dir: &'a Path,
}

impl Probe<'_> {
    /// `simulated`: whether the prompts are simulated too, which takes most of the time.
    fn look(&self, engine: &dyn Engine, simulated: bool) -> Result<Analysis, Failure> {
        record(engine, self.plan, self.dir, Manifest::default(), &mut Unwatched)?;
        let run = Run::open(self.dir)?;
        let oracle = Oracle { budget_flops: if simulated { self.oracle.budget_flops } else { 0.0 }, ..*self.oracle };
        Ok(analyze_against((&run, &run), Some(&oracle), Options::default(), &mut |_| {}))
    }
}

/// What became of one fault.
struct Outcome {
    fault: String,
    id: &'static str,
    verdict: Verdict,
    /// Where the first failure is said to be: point, layer and phase (none: both).
    at: Option<(Point, i32, Option<Phase>)>,
    placed: bool,
    /// The causes named.
    named: Vec<&'static str>,
    /// Whether anything that is recorded differs from the sound run.
    visible: bool,
    /// Arithmetics found that the contract does not declare.
    contract: Vec<String>,
}

impl Outcome {
    fn of(fault: &Fault, subject: &Subject<'_>, analysis: &Analysis, sound: &Analysis) -> Outcome {
        let first = analysis.verdict.first_failure.as_ref().filter(|first| first.parting == Parting::Fault);
        let at = first.map(|first| (first.point, first.layer, first.phase));
        let phase = fault.scope.phase.unwrap_or(Phase::Decode);
        let point = fault.point(subject, phase);
        let right = |(found, layer, in_phase): (Point, i32, Option<Phase>)| {
            found == point
                && in_phase == fault.scope.phase
                && (layer < 0 || fault.scope.layer.is_none_or(|own| i64::from(layer) == own as i64))
        };
        let causes = analysis.examination.iter().flat_map(|e| &e.causes);
        let mut named: Vec<&'static str> =
            causes.flat_map(|cause| &cause.candidates).map(|candidate| candidate.id).collect();
        named.sort_unstable();
        named.dedup();
        let rows = |analysis: &Analysis| -> Vec<_> {
            analysis.pairs.iter().map(|pair| [pair.prefill.hash, pair.decode.hash]).collect()
        };
        let findings = analysis.examination.iter().flat_map(|e| &e.contract_findings);
        Outcome {
            contract: findings.map(|f| format!("{} {}: {}", f.phase, f.point, f.variant.says)).collect(),
            fault: fault.to_string(),
            id: fault.kind.id(),
            verdict: analysis.verdict.verdict,
            placed: at.is_some_and(right),
            at,
            named,
            visible: rows(analysis) != rows(sound),
        }
    }

    fn seen(&self) -> bool {
        self.verdict == Verdict::Fail
    }

    fn says(&self) -> String {
        let Some((point, layer, phase)) = self.at.filter(|_| self.seen()) else {
            return match (self.contract.first(), self.visible) {
                (Some(finding), _) => format!("undeclared arithmetic: {finding}"),
                (None, true) => "not seen: smaller than rounding".to_owned(),
                (None, false) => "changes nothing that is recorded".to_owned(),
            };
        };
        let phase = phase.map_or("both".to_owned(), |phase| phase.to_string());
        let layer = if layer < 0 { String::new() } else { format!(" {layer}") };
        let named = if self.named.is_empty() { "UNEXPLAINED".to_owned() } else { self.named.join(" or ") };
        let named = if self.named == [self.id] { "named".to_owned() } else { named };
        format!("{phase} {point}{layer}: {named}{}", if self.placed { "" } else { " (elsewhere)" })
    }
}

fn text(outcomes: &[Outcome], power: &[PowerRow], sound: Verdict) -> String {
    let mut out = String::new();
    let width = outcomes.iter().map(|one| one.fault.chars().count()).max().unwrap_or(0).min(44);
    for one in outcomes {
        let _ = writeln!(out, "{:<width$}  {}", one.fault, one.says());
    }
    let visible: Vec<&Outcome> = outcomes.iter().filter(|one| one.visible).collect();
    let count = |of: &dyn Fn(&Outcome) -> bool| visible.iter().filter(|one| of(one)).count();
    let _ = writeln!(
        out,
        "\nThe sound run: {}. Of {} faults {} change what is recorded: {} seen, {} placed, {} named;\n{} more are an \
         arithmetic that the contract does not declare, and that is legitimate.",
        sound.id(),
        outcomes.len(),
        visible.len(),
        count(&Outcome::seen),
        count(&|one| one.placed),
        count(&|one| one.named.contains(&one.id)),
        count(&|one| !one.seen() && !one.contract.is_empty()),
    );
    let smallest = smallest(power);
    if !smallest.is_empty() {
        let _ =
            writeln!(out, "\nThe smallest that would be seen in this run, in one row and in all rows of the point:");
        for (what, (one_row, all_rows)) in smallest {
            let _ = writeln!(out, "  {what:<50} {one_row:>9.1e} {all_rows:>9.1e}");
        }
    }
    let mut blind: Vec<&str> = power.iter().filter(|row| !row.unseen.is_empty()).map(|row| row.id).collect();
    blind.sort_unstable();
    blind.dedup();
    let seen: Vec<&str> = power.iter().filter(|row| row.unseen.is_empty()).map(|row| row.id).collect();
    let made = |id: &&str| outcomes.iter().any(|one| one.id == *id && one.seen());
    blind.retain(|id| !seen.contains(id) && !made(id));
    if !blind.is_empty() {
        let _ = writeln!(out, "\nWhat this run cannot show at any point: {}.", blind.join(", "));
    }
    out
}

/// The smallest size by what is measured, over phases and points.
fn smallest(power: &[PowerRow]) -> BTreeMap<String, (f64, f64)> {
    let mut all: BTreeMap<String, (f64, f64)> = BTreeMap::new();
    for (row, smallest) in power.iter().filter_map(|row| Some((row, row.smallest.as_ref()?))) {
        let sizes = all.entry(format!("{} of {}", smallest.what, row.point)).or_insert((f64::INFINITY, f64::INFINITY));
        *sizes = (sizes.0.min(smallest.one_row), sizes.1.min(smallest.all_rows));
    }
    all
}

fn data(outcomes: &[Outcome], refused: &Refused, sound: Verdict) -> String {
    let one = |one: &Outcome| {
        json!({
            "fault": one.fault,
            "id": one.id,
            "visible": one.visible,
            "seen": one.seen(),
            "placed": one.placed,
            "named": one.named,
            "undeclared_arithmetic": one.contract,
            "point": one.at.map(|at| at.0.id()),
            "layer": one.at.map(|at| at.1),
            "phase": one.at.and_then(|at| at.2).map(|phase| phase.to_string()),
        })
    };
    let all: Vec<_> = outcomes.iter().map(one).collect();
    let refused: Vec<_> =
        refused.iter().map(|(fault, why)| json!({ "fault": fault.to_string(), "why": why })).collect();
    let table = json!({ "schema": 1, "sound_run": sound.id(), "faults": all, "not_applicable": refused });
    let text = serde_json::to_string_pretty(&table);
    text.unwrap_or_default() + "\n"
}
