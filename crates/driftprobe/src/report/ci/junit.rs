//! JUnit XML as Jenkins, GitLab and GitHub's reporters read it: testsuites, testsuite, testcase, and in it at most one of
//! failure, error and skipped.

use super::{Case, Outcome, Suite};
use crate::report::escape::visible;
use quick_xml::Writer;
use quick_xml::events::{BytesDecl, BytesEnd, BytesStart, BytesText, Event};

type Xml = Writer<Vec<u8>>;

/// The report. The core has no clock: times are 0.
pub fn to_junit(suites: &[Suite]) -> String {
    let mut xml = Writer::new_with_indent(Vec::new(), b' ', 2);
    put(&mut xml, Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)));
    let all: Vec<Case> = suites.iter().flat_map(|suite| suite.cases.iter().cloned()).collect();
    let [tests, failures, errors, _] = count(&all);
    let top = [("name", "driftprobe"), ("tests", &tests), ("failures", &failures), ("errors", &errors), ("time", "0")];
    put(&mut xml, Event::Start(start("testsuites", &top)));
    suites.iter().for_each(|one| suite(&mut xml, one));
    put(&mut xml, Event::End(BytesEnd::new("testsuites")));
    String::from_utf8_lossy(&xml.into_inner()).into_owned() + "\n"
}

/// Writing into memory cannot fail.
fn put(xml: &mut Xml, event: Event<'_>) {
    let _ = xml.write_event(event);
}

fn start<'a>(name: &'a str, attributes: &[(&str, &str)]) -> BytesStart<'a> {
    BytesStart::new(name).with_attributes(attributes.iter().copied())
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

fn suite(xml: &mut Xml, suite: &Suite) {
    let [tests, failures, errors, skipped] = count(&suite.cases);
    let attributes = [
        ("name", plain(&suite.name)),
        ("tests", tests),
        ("failures", failures),
        ("errors", errors),
        ("skipped", skipped),
        ("time", "0".to_owned()),
    ];
    let attributes = attributes.each_ref().map(|(name, value)| (*name, value.as_str()));
    put(xml, Event::Start(start("testsuite", &attributes)));
    suite.cases.iter().for_each(|one| case(xml, one));
    put(xml, Event::End(BytesEnd::new("testsuite")));
}

fn case(xml: &mut Xml, case: &Case) {
    // Everything that XML cannot hold is spelled out.
    let [class, name, details] = [&case.class, &case.name, &case.details].map(|text| plain(text));
    let element = start("testcase", &[("classname", &class), ("name", &name), ("time", "0")]);
    let (tag, kind, message) = match &case.outcome {
        Outcome::Passed => return put(xml, Event::Empty(element)),
        Outcome::Failed { kind, message } => ("failure", Some(*kind), message),
        Outcome::Error { kind, message } => ("error", Some(*kind), message),
        Outcome::Skipped { message } => ("skipped", None, message),
    };
    put(xml, Event::Start(element));
    let first = plain(message.lines().next().unwrap_or_default());
    match kind {
        None => put(xml, Event::Empty(start(tag, &[("message", &first)]))),
        Some(kind) => {
            let text: Vec<String> =
                message.lines().map(plain).chain([details]).filter(|line| !line.is_empty()).collect();
            put(xml, Event::Start(start(tag, &[("message", &first), ("type", kind)])));
            put(xml, Event::Text(BytesText::new(&text.join("\n"))));
            put(xml, Event::End(BytesEnd::new(tag)));
        }
    }
    put(xml, Event::End(BytesEnd::new("testcase")));
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
