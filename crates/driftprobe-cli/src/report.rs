//! `driftprobe report`: the reports of a run once more, or one picture of it.

use crate::analyze::{beside, judge_asked};
use crate::args::report::ReportArgs;
use crate::failure::Failure;
use crate::output;
use crate::picture;
use driftprobe::report::Plot;
use driftprobe::{Analysis, report};
use driftprobe_trace::replace_file;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Runs the command and returns the exit status, which is that of a program that did its work.
pub fn run(args: &ReportArgs) -> Result<u8, Failure> {
    // What cannot be written is said before the work, not after it.
    let file = args.plot.map(|plot| picture_file(args, plot)).transpose()?;
    let judged = judge_asked(&args.run, &args.judging)?;
    let written = match (args.plot, file) {
        (Some(plot), Some((path, format))) => vec![draw(&judged.analysis, plot, (&path, format, args.scale))?],
        _ => output::files(&judged, &args.out.clone().unwrap_or_else(|| beside(&args.run)))?,
    };
    output::print(&written.iter().map(|path| format!("wrote {}\n", path.display())).collect::<String>())?;
    Ok(driftprobe::EXIT_PASS)
}

/// What a picture is written as.
#[derive(Clone, Copy)]
enum Format {
    Svg,
    Png,
}

fn picture_file(args: &ReportArgs, plot: Plot) -> Result<(PathBuf, Format), Failure> {
    let path = args.out.clone().unwrap_or_else(|| beside(&args.run).join(format!("{}.svg", plot.id())));
    let ending = path.extension().map(|ending| ending.to_string_lossy().to_lowercase());
    match ending.as_deref() {
        Some("svg") => Ok((path, Format::Svg)),
        Some("png") => Ok((path, Format::Png)),
        _ => {
            let what = format!("{}: what to write is not known by its ending", path.display());
            Err(Failure::new(what, "end the name of the picture in .svg or .png"))
        }
    }
}

fn draw(analysis: &Analysis, plot: Plot, (path, format, scale): (&Path, Format, u8)) -> Result<PathBuf, Failure> {
    let drawn = report::picture(analysis, plot).map_err(|why| {
        let others = Plot::ALL.into_iter().filter(|other| report::picture(analysis, *other).is_ok()).map(Plot::id);
        let others: Vec<&str> = others.collect();
        let hint = match others.is_empty() {
            true => "record a run with `driftprobe run`".to_owned(),
            false => format!("of this run there are: {}", others.join(", ")),
        };
        Failure::new(format!("--plot {}: there is nothing to draw. {why}", plot.id()), hint)
    })?;
    let svg = drawn.to_svg(plot.title());
    let bytes = match format {
        Format::Svg => svg.into_bytes(),
        Format::Png => picture::png(&svg, scale)?,
    };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    if let Some(folder) = folder {
        fs::create_dir_all(folder).map_err(|e| Failure::io("make the folder", folder, &e))?;
    }
    replace_file(path, |file| file.write_all(&bytes)).map_err(|e| Failure::io("write", path, &e))?;
    Ok(path.to_owned())
}
