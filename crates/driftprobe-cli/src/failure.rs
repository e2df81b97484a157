//! What the user sees when a command could not do its work: what, where, and a hint.

use crate::output;
use driftprobe::report::escape::visible;
use driftprobe_engine::EngineError;
use driftprobe_import::ImportError;
use driftprobe_model::ModelError;
use driftprobe_trace::TraceError;
use std::path::Path;

/// Exit status after Ctrl-C, as shells have it: 128 + SIGINT.
pub const EXIT_INTERRUPTED: u8 = 130;

/// A command that could not do its work.
#[derive(Debug)]
pub struct Failure {
    what: String,
    hint: Option<String>,
    code: u8,
}

impl Failure {
    /// A failure with a remedy.
    pub fn new(what: impl Into<String>, hint: impl Into<String>) -> Failure {
        Failure { what: what.into(), hint: Some(hint.into()), code: driftprobe::EXIT_COULD_NOT_RUN }
    }

    /// A file that could not be read or written.
    pub fn io(action: &str, path: &Path, source: &std::io::Error) -> Failure {
        let hint = match source.kind() {
            std::io::ErrorKind::InvalidData => "a prompt file is UTF-8 text",
            std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => {
                "check who may use it, or name another place with --out"
            }
            std::io::ErrorKind::AlreadyExists | std::io::ErrorKind::NotADirectory => {
                "a file lies there; name another place"
            }
            _ => "check that the path exists and that its disk has room",
        };
        Failure::new(format!("could not {action} {}: {source}", path.display()), hint)
    }

    /// The standard output went away.
    pub fn stdout(source: std::io::Error) -> Failure {
        Failure::new(
            format!("could not write to standard output: {source}"),
            "send it where there is room; files that were asked for are written",
        )
    }

    /// Somebody pressed Ctrl-C; what was recorded lies in `dir`.
    pub fn interrupted(dir: &Path) -> Failure {
        let what = format!("interrupted; what was recorded so far is in {}, marked incomplete", dir.display());
        let hint = format!("look at it with `driftprobe analyze {}`", dir.display());
        Failure { what, hint: Some(hint), code: EXIT_INTERRUPTED }
    }

    /// Somebody pressed Ctrl-C before there was anything to write.
    pub fn stopped() -> Failure {
        Failure { what: "interrupted; nothing was written".to_owned(), hint: None, code: EXIT_INTERRUPTED }
    }

    /// What was the matter.
    pub fn what(&self) -> &str {
        &self.what
    }

    /// What may help.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// Exit status.
    pub fn exit_code(&self) -> u8 {
        self.code
    }

    /// Prints it to standard error, coloured on a terminal only.
    pub fn print(&self) {
        let (red, cyan) = (anstyle::AnsiColor::Red.on_default().bold(), anstyle::AnsiColor::Cyan.on_default());
        output::tell(format_args!("{red}error:{red:#} {}", shown(&self.what)));
        if let Some(hint) = &self.hint {
            output::tell(format_args!("{cyan}hint:{cyan:#} {}", shown(hint)));
        }
    }
}

/// What a terminal may be shown: names from files stay text. Lines stay lines.
fn shown(text: &str) -> String {
    text.split('\n').map(visible).collect::<Vec<_>>().join("\n")
}

impl From<ModelError> for Failure {
    fn from(e: ModelError) -> Failure {
        Failure { hint: e.hint(), what: e.to_string(), code: driftprobe::EXIT_COULD_NOT_RUN }
    }
}

impl From<TraceError> for Failure {
    fn from(e: TraceError) -> Failure {
        Failure { hint: Some(e.hint().to_owned()), what: e.to_string(), code: driftprobe::EXIT_COULD_NOT_RUN }
    }
}

impl From<ImportError> for Failure {
    fn from(e: ImportError) -> Failure {
        Failure::new(e.to_string(), e.hint())
    }
}

impl From<EngineError> for Failure {
    fn from(e: EngineError) -> Failure {
        Failure { hint: e.hint(), what: e.to_string(), code: driftprobe::EXIT_COULD_NOT_RUN }
    }
}

#[cfg(test)]
mod tests {
    use super::shown;

    #[test]
    fn an_error_commands_no_terminal() {
        assert_eq!(shown("a `\u{1b}]0;x\u{7}\r\u{202e}`\n  b"), "a `\\u{1b}]0;x\\u{7}\\r\\u{202e}`\n  b");
    }
}
