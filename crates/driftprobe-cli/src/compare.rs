//! `driftprobe compare`: one phase of two runs against each other.

use crate::analyze::{contract, model_of};
use crate::args::{CompareArgs, ComparedPhase, Format};
use crate::by_prompt::names;
use crate::failure::Failure;
use crate::lying;
use crate::output;
use crate::progress::JudgingBar;
use driftprobe::compare::{Side, compare};
use driftprobe::judge::examine::Oracle;
use driftprobe::report::ci;
use driftprobe::report::compare::{to_json, to_markdown, to_terminal, to_tsv, verdict};
use driftprobe_trace::{Phase, Run};
use std::fs;
use std::path::{Path, PathBuf};

/// Runs the command and returns the exit status.
pub fn run(args: &CompareArgs) -> Result<u8, Failure> {
    let runs = [lying::open(&args.first)?, lying::open(&args.second)?];
    let paths = [&args.first, &args.second];
    // The same folder under two names is the same run.
    let real = paths.map(|path| fs::canonicalize(path).unwrap_or_else(|_| path.clone()));
    let [mut first, mut second] = runs;
    (first.dir, second.dir) = (dir(&real[0], &first), dir(&real[1], &second));
    let models = [
        model_of(&first, args.judging.model.as_deref())?,
        model_of(&second, args.second_model.as_deref().or(args.judging.model.as_deref()))?,
    ];
    let contracts =
        [&args.judging.contract, &args.second_contract].map(|name| name.as_deref().map(contract).transpose());
    let [first_contract, second_contract] = contracts;
    let contracts = [first_contract?, second_contract?];
    let names = names(&paths.map(PathBuf::clone));
    let side = |at: usize, run| Side {
        name: names[at].as_str(),
        run,
        rows: run,
        oracle: models[at].as_ref().map(|model| Oracle {
            contract: contracts[at].as_ref(),
            budget_flops: args.judging.simulate,
            power: false,
            ..Oracle::new(model)
        }),
    };
    let mut bar = JudgingBar::new();
    let mut compared = compare([side(0, &first), side(1, &second)], &mut |step| bar.show(step));
    bar.finish();
    let wanted = match args.phase {
        ComparedPhase::Prefill => Some(Phase::Prefill),
        ComparedPhase::Decode => Some(Phase::Decode),
        ComparedPhase::Both => None,
    };
    compared.retain(|one| wanted.is_none_or(|wanted| one.phase == wanted));
    let json = to_json(&compared);
    if let Some(folder) = &args.out {
        output::into_folder(folder, [("compare.json", &json)])?;
    }
    let suites = || ci::of_comparisons(&compared);
    let shown = match args.format {
        Format::Text => to_terminal(&compared).ansi(),
        Format::Json => json,
        Format::Md => to_markdown(&compared),
        Format::Tsv => to_tsv(&compared),
        Format::Junit => ci::to_junit(&suites()),
        Format::Github => output::github(&suites(), &to_markdown(&compared))?,
    };
    output::print(&shown)?;
    Ok(verdict(&compared).exit_code())
}

/// A run's folder by its real path, so that two names of one folder are seen to be one; a loose file stands for itself.
fn dir(real: &Path, run: &Run) -> std::path::PathBuf {
    if run.manifest.is_some() {
        fs::canonicalize(&run.dir).unwrap_or_else(|_| run.dir.clone())
    } else {
        real.to_owned()
    }
}
