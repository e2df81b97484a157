//! Progress of long work on a terminal; silence in a pipe. Ctrl-C is heard here.

use crate::output::tell;
use driftprobe::progress::Work;
use driftprobe_engine::record::{Progress, Watcher};
use driftprobe_remote::Step;
use driftprobe_trace::Phase;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Work that is done sooner shows nothing.
const QUIET: Duration = Duration::from_millis(800);
/// Widest prompt id that fits the line.
const ID_CHARS_MAX: usize = 20;

/// What a line of progress begins with.
const PROGRESS_LINE: &str = "progress: ";

fn as_lines() -> bool {
    std::env::var("DRIFTPROBE_PROGRESS").is_ok_and(|how| how == "lines")
}

/// A bar that appears only when the work takes long enough to wonder.
struct LateBar {
    bar: Option<ProgressBar>,
    started: Instant,
    /// Lines in place of a bar, for whoever follows from elsewhere.
    lines: bool,
    told: Option<Instant>,
}

impl LateBar {
    fn new() -> LateBar {
        LateBar { bar: None, started: Instant::now(), lines: as_lines(), told: None }
    }

    /// For work that is not counted.
    fn spinner(message: &'static str) -> LateBar {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10));
        bar.set_style(ProgressStyle::default_spinner());
        let bar = bar.with_message(message);
        bar.enable_steady_tick(QUIET / 8);
        LateBar { bar: Some(bar), started: Instant::now(), lines: false, told: None }
    }

    fn show(&mut self, done: u64, total: u64, message: impl FnOnce(Duration) -> String) {
        if self.lines {
            let rest = self.told.map_or(self.started.elapsed(), |told| told.elapsed());
            if rest >= QUIET {
                self.told = Some(Instant::now());
                let share = done as f64 / total.max(1) as f64 * 100.0;
                tell(format_args!("{PROGRESS_LINE}{share:.0}% {}", message(self.started.elapsed())));
            }
            return;
        }
        if self.bar.is_none() && self.started.elapsed() >= QUIET {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(10));
            let template = "{msg} {bar:20} {percent:>3}%  {eta} left";
            bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
            // The rate is of the whole work, not only of what is left when the bar appears.
            bar.set_elapsed(self.started.elapsed());
            self.bar = Some(bar);
        }
        if let Some(bar) = &self.bar {
            bar.set_message(message(self.started.elapsed()));
            bar.set_position(done);
        }
    }

    fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Shows how far an analysis has got.
pub struct JudgingBar {
    bar: LateBar,
    work: Work,
}

impl JudgingBar {
    /// A bar that is not there yet.
    pub fn new() -> JudgingBar {
        JudgingBar { bar: LateBar::new(), work: Work::Pairs }
    }

    /// Takes note of the progress.
    pub fn show(&mut self, progress: driftprobe::progress::Progress) {
        if progress.work != self.work {
            self.bar.finish();
            let bar = if progress.work == Work::Bugs { LateBar::spinner("trying bugs") } else { LateBar::new() };
            *self = JudgingBar { bar, work: progress.work };
        }
        self.bar.show(progress.done, progress.total, |elapsed| {
            let rate = progress.done as f64 / elapsed.as_secs_f64().max(1e-9);
            match progress.work {
                Work::Pairs => format!("comparing pairs · {rate:.0} pairs/s"),
                Work::Stages => "computing recorded stages again".to_owned(),
                Work::Simulation => format!("simulating from the tokens · {:.1} GFlop/s", rate / 1e3),
                Work::Bugs => "trying bugs".to_owned(),
                Work::Orders => "trying orders".to_owned(),
            }
        });
    }

    /// Takes the bar off the terminal.
    pub fn finish(&self) {
        self.bar.finish();
    }
}

/// Counts pieces of work of the same kind.
pub struct CountBar {
    bar: std::cell::RefCell<LateBar>,
    done: std::cell::Cell<u64>,
    total: u64,
    what: &'static str,
}

impl CountBar {
    /// A bar that is not there yet.
    pub fn new(total: u64, what: &'static str) -> CountBar {
        CountBar { bar: LateBar::new().into(), done: 0.into(), total, what }
    }

    /// Takes note that another piece begins.
    pub fn step(&self, name: &str) {
        self.done.set(self.done.get() + 1);
        self.bar.borrow_mut().show(self.done.get(), self.total, |_| format!("{} · {name}", self.what));
    }

    /// Takes the bar off the terminal.
    pub fn finish(&self) {
        self.bar.borrow().finish();
    }
}

/// Counts pieces of work that several threads do.
pub struct SharedBar {
    bar: Mutex<(LateBar, u64)>,
    total: u64,
    what: &'static str,
}

impl SharedBar {
    /// A bar that is not there yet.
    pub fn new(total: u64, what: &'static str) -> SharedBar {
        SharedBar { bar: Mutex::new((LateBar::new(), 0)), total, what }
    }

    /// Takes note that a piece is done.
    pub fn done(&self) {
        let mut held = self.bar.lock().unwrap_or_else(PoisonError::into_inner);
        let (bar, done) = &mut *held;
        *done += 1;
        bar.show(*done, self.total, |elapsed| {
            let rate = *done as f64 / elapsed.as_secs_f64().max(1e-9);
            format!("{} {done} of {} · {rate:.1}/s", self.what, self.total)
        });
    }

    /// Takes the bar off the terminal.
    pub fn finish(&self) {
        self.bar.lock().unwrap_or_else(PoisonError::into_inner).0.finish();
    }
}

/// Shows how far an import has got.
pub struct ImportBar(LateBar);

impl ImportBar {
    /// A bar that is not there yet.
    pub fn new() -> ImportBar {
        ImportBar(LateBar::new())
    }

    /// Takes note of the progress.
    pub fn show(&mut self, progress: &driftprobe_import::Progress<'_>) {
        self.0.show(progress.done, progress.total, |_| {
            let name: String = progress.name.chars().filter(|c| !c.is_control()).take(2 * ID_CHARS_MAX).collect();
            format!("importing {name}")
        });
    }

    /// Takes the bar off the terminal.
    pub fn finish(&self) {
        self.0.finish();
    }
}

/// Set by Ctrl-C; a second one ends the program at once.
pub fn stop() -> &'static AtomicBool {
    static STOP: OnceLock<AtomicBool> = OnceLock::new();
    STOP.get_or_init(|| {
        // If a handler cannot be set, Ctrl-C ends the program as usual; a run is readable all the same.
        let _ = ctrlc::set_handler(|| {
            if stop().swap(true, Ordering::SeqCst) {
                std::process::exit(i32::from(crate::failure::EXIT_INTERRUPTED));
            }
        });
        AtomicBool::new(false)
    })
}

/// Shows a recording's progress and stops it on Ctrl-C.
pub struct TerminalWatcher {
    bar: LateBar,
}

impl TerminalWatcher {
    /// Listens for Ctrl-C.
    pub fn new() -> TerminalWatcher {
        stop();
        TerminalWatcher { bar: LateBar::new() }
    }

    /// Takes the bar off the terminal.
    pub fn finish(&self) {
        self.bar.finish();
    }
}

/// Shows how far a remote run has got, and what the job says.
pub struct RemoteBar(ProgressBar);

impl RemoteBar {
    /// A line that is not there yet.
    pub fn new() -> RemoteBar {
        stop();
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10));
        bar.set_style(ProgressStyle::default_spinner());
        RemoteBar(bar)
    }

    /// Takes note of a step.
    pub fn show(&self, step: &Step) {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        match step {
            Step::Connecting => self.0.set_message("connecting"),
            Step::Reconnecting => self.0.set_message("the connection was lost; connecting again"),
            Step::Sending(name, done, total) => {
                self.0.set_message(format!("sending {name}: {:.1} of {:.1} MiB", mib(*done), mib(*total)));
            }
            Step::Fetching(bytes) => self.0.set_message(format!("fetching: {:.1} MiB", mib(*bytes))),
            Step::Says(line) if line.is_empty() => {}
            // What a job says is shown and not obeyed.
            Step::Says(line) => {
                let line: String = line.chars().filter(|c| !c.is_control()).collect();
                match line.strip_prefix(PROGRESS_LINE) {
                    Some(progress) => self.0.set_message(progress.to_owned()),
                    None => self.0.suspend(|| tell(format_args!("  {line}"))),
                }
            }
        }
        self.0.tick();
    }

    /// Takes the line off the terminal.
    pub fn finish(&self) {
        self.0.finish_and_clear();
    }
}

/// `decode p6_len_16 layer 4, 1234 token·layers/s`.
fn message(progress: &Progress<'_>, elapsed: Duration) -> String {
    let phase = match progress.phase {
        Phase::Prefill => "prefill",
        Phase::Decode => "decode",
    };
    let again = if progress.repeat > 0 { " again" } else { "" };
    let id: String = progress.prompt_id.chars().filter(|c| !c.is_control()).take(ID_CHARS_MAX).collect();
    let rate = progress.done as f64 / elapsed.as_secs_f64().max(1e-9);
    format!("{phase}{again} {id} layer {} · {rate:.0} token-layers/s", progress.layer)
}

impl Watcher for TerminalWatcher {
    fn go_on(&mut self, progress: &Progress<'_>) -> bool {
        self.bar.show(progress.done, progress.total, |elapsed| message(progress, elapsed));
        !stop().load(Ordering::SeqCst)
    }
}
