//! `driftprobe reach`: which evaluation orders give the recorded bits of clean stages whose rows differ.

use crate::analyze::{beside, contract, model_of};
use crate::args::{ReachArgs, ReachFormat};
use crate::failure::{EXIT_INTERRUPTED, Failure};
use crate::lying;
use crate::output;
use crate::progress::{JudgingBar, stop};
use driftprobe::judge::examine::Oracle;
use driftprobe::reach::{Scope, reach};
use driftprobe::report::reach::{to_json, to_markdown, to_terminal};
use driftprobe::{EXIT_INCONCLUSIVE, EXIT_PASS, Options, analyze_against};
use driftprobe_trace::{Point, Run};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Runs the command and returns the exit status.
pub fn run(args: &ReachArgs) -> Result<u8, Failure> {
    let run = lying::open(&args.run)?;
    let model = model_of(&run, args.model.as_deref())?.ok_or_else(|| {
        let what = format!("the model of {} is not to be found", args.run.display());
        Failure::new(what, "name it with --model: orders are tried with its weights")
    })?;
    let contract = args.contract.as_deref().map(contract).transpose()?;
    let scope = scope(args)?;
    known(&scope, &run, model.config.num_hidden_layers)?;
    let limit = limit(args.seconds)?;
    let oracle = Oracle { contract: contract.as_ref(), budget_flops: 0.0, power: false, ..Oracle::new(&model) };
    let mut bar = JudgingBar::new();
    let analysis = analyze_against((&run, &run), Some(&oracle), Options::default(), &mut |step| bar.show(step));
    if analysis.examination.is_none() {
        let what = format!("{} was not made with this model", args.run.display());
        return Err(Failure::new(
            what,
            "name the run's own model with --model; `driftprobe analyze` says what differs",
        ));
    }
    let (started, interrupted) = (Instant::now(), stop());
    let found = reach((&run, &run), &oracle, &analysis, &scope, &mut |step| {
        bar.show(step);
        started.elapsed() < limit && !interrupted.load(Ordering::SeqCst)
    });
    bar.finish();
    let found = found?;
    run.seen().unchanged()?;
    let folder = args.out.clone().unwrap_or_else(|| beside(&args.run));
    let (json, md) = (to_json(&found), to_markdown(&found));
    let mut text = to_terminal(&found).ansi() + "\n";
    for path in output::into_folder(&folder, [("reach.json", &json), ("reach.md", &md)])? {
        let _ = writeln!(text, "wrote {}", path.display());
    }
    output::print(match args.format {
        ReachFormat::Text => &text,
        ReachFormat::Json => &json,
        ReachFormat::Md => &md,
    })?;
    if interrupted.load(Ordering::SeqCst) {
        return Ok(EXIT_INTERRUPTED);
    }
    Ok(if found.findings.is_empty() { EXIT_INCONCLUSIVE } else { EXIT_PASS })
}

fn limit(seconds: f64) -> Result<Duration, Failure> {
    let limit = Duration::try_from_secs_f64(seconds).ok().filter(|limit| !limit.is_zero());
    limit.ok_or_else(|| Failure::new(format!("--seconds {seconds}"), "give a number of seconds above 0"))
}

/// Refuses layers that the model does not have, or of which the run records nothing: nothing would be searched there.
fn known(scope: &Scope, run: &Run, layers: usize) -> Result<(), Failure> {
    let recorded: BTreeSet<i32> = run.events.iter().map(|event| event.layer).filter(|layer| *layer >= 0).collect();
    let Some(layer) = scope.layers.iter().flatten().find(|layer| !recorded.contains(layer)) else { return Ok(()) };
    let what = match usize::try_from(*layer).is_ok_and(|layer| layer < layers) {
        true => format!("--layers: the run records nothing of layer {layer}"),
        false => format!("--layers: there is no layer {layer}: the model has {layers}, from 0"),
    };
    let names: Vec<String> = recorded.iter().map(i32::to_string).collect();
    Err(Failure::new(what, format!("expected all, or some of those recorded: {}", names.join(", "))))
}

fn scope(args: &ReachArgs) -> Result<Scope, Failure> {
    let names = |list: &Option<String>| -> Option<Vec<String>> {
        let list = list.as_deref().map(str::trim).filter(|list| *list != "all")?;
        Some(list.split(',').map(|name| name.trim().to_owned()).collect())
    };
    let layer = |name: &String| {
        let hint = "expected numbers from 0 separated by commas, or all";
        name.parse::<u16>().map(i32::from).map_err(|_| Failure::new(format!("--layers: {name:?} is no layer"), hint))
    };
    let point = |name: &String| {
        let known = Point::ALL.iter().map(|point| point.id()).collect::<Vec<_>>().join(", ");
        let hint = format!("expected all, or some of {known}");
        Point::parse(name).ok_or_else(|| Failure::new(format!("--points: there is no point {name:?}"), hint))
    };
    let layers =
        names(&args.layers).map(|all| all.iter().map(layer).collect::<Result<BTreeSet<_>, _>>()).transpose()?;
    let points =
        names(&args.points).map(|all| all.iter().map(point).collect::<Result<BTreeSet<_>, _>>()).transpose()?;
    Ok(Scope { layers, points })
}
