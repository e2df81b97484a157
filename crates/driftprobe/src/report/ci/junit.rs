//! JUnit XML as Jenkins, GitLab and GitHub's reporters read it: testsuites, testsuite, testcase, and in it at most one of
//! failure, error and skipped.

use super::{Case, Outcome, Suite};
use crate::report::escape::visible;
use quick_xml::Writer;
use quick_xml::events::{BytesDecl, BytesText, Event};
use std::io;

/// The report. The core has no clock: times are 0.
pub fn to_junit(suites: &[Suite]) -> String {
    let mut writer = Writer::new_with_indent(Vec::new(), b' ', 2);
    // Writing into memory cannot fail.
    let _ = write(&mut writer, suites);
    String::from_utf8_lossy(&writer.into_inner()).into_owned() + "\n"
}

/// Text that XML can hold: whatever would not be seen is spelled out, and so are the two that no XML may have.
fn plain(text: &str) -> String {
    visible(text).replace('\u{fffe}', "\\u{fffe}").replace('\u{ffff}', "\\u{ffff}")
}

fn count(cases: &[Case]) -> [String; 4] {
    let of = |is: fn(&Outcome) -> bool| cases.iter().filter(|case| is(&case.outcome)).count().to_string();
    [
        cases.len().to_string(),
        of(|outcome| matches!(outcome, Outcome::Failed { .. })),
        of(|outcome| matches!(outcome, Outcome::Error { .. })),
        of(|outcome| matches!(outcome, Outcome::Skipped { .. })),
    ]
}

fn write(writer: &mut Writer<Vec<u8>>, suites: &[Suite]) -> io::Result<()> {
    writer.write_event(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)))?;
    let all: Vec<Case> = suites.iter().flat_map(|suite| suite.cases.iter().cloned()).collect();
    let [tests, failures, errors, _] = count(&all);
    let top = writer.create_element("testsuites").with_attributes([
        ("name", "driftprobe"),
        ("tests", &tests),
        ("failures", &failures),
        ("errors", &errors),
        ("time", "0"),
    ]);
    top.write_inner_content(|writer| suites.iter().try_for_each(|one| suite(writer, one)))?;
    Ok(())
}

fn suite(writer: &mut Writer<Vec<u8>>, suite: &Suite) -> io::Result<()> {
    let [tests, failures, errors, skipped] = count(&suite.cases);
    let name = plain(&suite.name);
    let element = writer.create_element("testsuite").with_attributes([
        ("name", name.as_str()),
        ("tests", &tests),
        ("failures", &failures),
        ("errors", &errors),
        ("skipped", &skipped),
        ("time", "0"),
    ]);
    element.write_inner_content(|writer| suite.cases.iter().try_for_each(|one| case(writer, one)))?;
    Ok(())
}

fn case(writer: &mut Writer<Vec<u8>>, case: &Case) -> io::Result<()> {
    // Everything that XML cannot hold is spelled out.
    let [class, name, details] = [&case.class, &case.name, &case.details].map(|text| plain(text));
    let attributes = [("classname", class.as_str()), ("name", name.as_str()), ("time", "0")];
    let element = writer.create_element("testcase").with_attributes(attributes);
    let (tag, kind, message) = match &case.outcome {
        Outcome::Passed => {
            element.write_empty()?;
            return Ok(());
        }
        Outcome::Failed { kind, message } => ("failure", Some(*kind), message),
        Outcome::Error { kind, message } => ("error", Some(*kind), message),
        Outcome::Skipped { message } => ("skipped", None, message),
    };
    let first = plain(message.lines().next().unwrap_or_default());
    let text: Vec<String> = message.lines().map(plain).chain([details]).filter(|line| !line.is_empty()).collect();
    element.write_inner_content(|writer| {
        let mut inner = writer.create_element(tag).with_attribute(("message", first.as_str()));
        if let Some(kind) = kind {
            inner = inner.with_attribute(("type", kind));
            inner.write_text_content(BytesText::new(&text.join("\n")))?;
        } else {
            inner.write_empty()?;
        }
        Ok(())
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_text_stays_text_and_the_counts_are_right() {
        let hostile = "<b>&\"'\u{1b}[31m\u{0}]]>\u{fffe}\u{202e}";
        let case = |outcome| Case { class: hostile.into(), name: hostile.into(), outcome, details: hostile.into() };
        let failed = Outcome::Failed { kind: "FAIL", message: format!("{hostile}\nsecond") };
        let error = Outcome::Error { kind: "INCONCLUSIVE", message: hostile.into() };
        let skipped = Outcome::Skipped { message: hostile.into() };
        let cases = vec![case(Outcome::Passed), case(failed), case(error), case(skipped)];
        let text = to_junit(&[Suite { name: hostile.into(), cases }]);
        let document = roxmltree::Document::parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
        let suite = document.descendants().find(|node| node.has_tag_name("testsuite")).unwrap();
        let count = |name| suite.attribute(name).unwrap();
        assert_eq!([count("tests"), count("failures"), count("errors"), count("skipped")], ["4", "1", "1", "1"]);
        let failure = document.descendants().find(|node| node.has_tag_name("failure")).unwrap();
        assert_eq!(failure.attribute("type"), Some("FAIL"));
        assert!(failure.text().unwrap().contains("second"));
        let name = document.descendants().find(|n| n.has_tag_name("testcase")).unwrap().attribute("name").unwrap();
        assert_eq!(name, plain(hostile));
    }
}
