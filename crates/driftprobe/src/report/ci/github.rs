//! GitHub's workflow commands: one annotation for each case that failed or is open.
//!
//! A runner takes any line of a step's output for a command that begins with `::` (after spaces) or holds `##[`: so nothing
//! but these lines is printed, and every text in them is escaped.

use super::{Outcome, Suite};
use crate::report::escape::visible;

/// Annotations of one kind that GitHub shows of one step.
const SHOWN_MAX: usize = 10;

/// One line an annotation: errors first, at most ten of each kind, then a word on the rest.
pub fn to_annotations(suites: &[Suite]) -> String {
    let mut out = String::new();
    let (mut errors, mut warnings) = (Vec::new(), Vec::new());
    for (suite, case) in suites.iter().flat_map(|suite| suite.cases.iter().map(move |case| (suite, case))) {
        let title = |word: &str| format!("{word}: {} · {} · {}", suite.name, case.class, case.name);
        match &case.outcome {
            Outcome::Failed { kind, message } => errors.push((title(kind), message)),
            Outcome::Error { kind, message } => errors.push((title(kind), message)),
            Outcome::Skipped { message } => warnings.push((title("beside"), message)),
            Outcome::Passed => {}
        }
    }
    for (command, all) in [("error", &errors), ("warning", &warnings)] {
        // The last place is for the word on the rest.
        let shown = if all.len() > SHOWN_MAX { SHOWN_MAX - 1 } else { all.len() };
        for (title, message) in all.iter().take(shown) {
            out.push_str(&annotation(command, title, message));
        }
        if all.len() > shown {
            let rest = format!("{} more: see the step's summary", all.len() - shown);
            out.push_str(&annotation(command, "driftprobe", &rest));
        }
    }
    if errors.is_empty() {
        let cases = suites.iter().map(|suite| suite.cases.len()).sum::<usize>();
        out.push_str(&annotation("notice", "driftprobe", &format!("{cases} cases, none failed")));
    }
    out
}

fn annotation(command: &str, title: &str, message: &str) -> String {
    let message: Vec<String> = message.lines().map(visible).collect();
    format!("::{command} title={}::{}\n", property(&visible(title)), data(&message.join("\n")))
}

/// A command's message: per cent, carriage return and line feed.
fn data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A").replace("##[", "## [")
}

/// A command's property: the same, colon and comma.
fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

#[cfg(test)]
mod tests {
    use super::super::Case;
    use super::*;

    fn suite(outcomes: Vec<Outcome>, name: &str) -> Suite {
        let case = |outcome| Case { class: "c".into(), name: name.into(), outcome, details: String::new() };
        Suite { name: "s".into(), cases: outcomes.into_iter().map(case).collect() }
    }

    #[test]
    fn no_text_becomes_a_command_of_its_own() {
        let hostile = "x\n::set-output name=a::b\r\n  ::error::y, 100% ##[error]z";
        let failed = Outcome::Failed { kind: "FAIL", message: hostile.into() };
        let text = to_annotations(&[suite(vec![failed], hostile)]);
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.starts_with("::error title=FAIL%3A s · c · x") && !text.contains("##["), "{text}");
        let (title, message) = text.trim_end().strip_prefix("::error title=").unwrap().split_once("::").unwrap();
        assert!(!title.contains([':', ',', '\n']), "{title}");
        assert!(message.contains("100%25") && message.contains("%0A::set-output"), "{message}");
    }

    #[test]
    fn ten_of_a_kind_at_most_and_the_rest_is_counted() {
        let failed = || Outcome::Error { kind: "INCONCLUSIVE", message: "why".into() };
        let text = to_annotations(&[suite((0..25).map(|_| failed()).collect(), "n")]);
        assert_eq!(text.lines().count(), 10);
        assert!(text.lines().last().unwrap().contains("16 more"), "{text}");
    }

    #[test]
    fn all_passing_is_said_too() {
        assert!(to_annotations(&[suite(vec![Outcome::Passed], "n")]).starts_with("::notice "));
    }
}
