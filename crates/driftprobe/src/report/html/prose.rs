//! Sections of `drift.md` as HTML: their sentences and tables are written once.

use crate::report::escape::{html, visible};
use pulldown_cmark::{CowStr, Event, Options, Parser, Tag, TagEnd};
use std::fmt::Write as _;

/// Rows of a table that are shown; the others are in drift.md.
const ROWS_MAX: usize = 300;
/// Rows beyond which a table scrolls by itself.
const TALL: usize = 20;
/// Items of a list that are shown.
const ITEMS_MAX: usize = 100;

/// A section's Markdown as HTML; `title` names its tables for who hears them.
pub fn block(markdown: &str, title: &str) -> String {
    let mut events = vec![];
    let mut counter = Counter::default();
    for event in Parser::new_ext(markdown, Options::ENABLE_TABLES) {
        events.extend(counter.take(event));
    }
    let mut text = String::new();
    pulldown_cmark::html::push_html(&mut text, events.into_iter());
    let (title, mut out) = (html(title), String::new());
    // What a table is, and where it may be scrolled by keys. In text there is no `<`.
    for (number, part) in text.split("<table>").enumerate() {
        if number > 0 {
            let rows = part.split("</table>").next().unwrap_or("").matches("<tr>").count();
            let tall = if rows > TALL { " tall" } else { "" };
            let _ = write!(
                out,
                "<div class=\"scroll{tall}\" role=\"region\" aria-label=\"{title}, table {number}\" tabindex=\"0\"><table>"
            );
        }
        out.push_str(part);
    }
    out.replace("</table>", "</table></div>")
        .replace("<th>", "<th scope=\"col\">")
        .replace("<th scope=\"col\"></th>", "<td></td>")
        .replace("<pre>", "<pre tabindex=\"0\">")
}

/// Cuts tables and lists that are too long, and says so.
#[derive(Default)]
struct Counter {
    rows: usize,
    items: usize,
    skipping: bool,
}

impl Counter {
    fn take<'a>(&mut self, event: Event<'a>) -> Vec<Event<'a>> {
        match &event {
            Event::Start(Tag::Table(_)) => self.rows = 0,
            Event::Start(Tag::List(_)) => self.items = 0,
            Event::Start(Tag::TableRow) => {
                self.rows += 1;
                self.skipping = self.rows > ROWS_MAX;
            }
            Event::Start(Tag::Item) => {
                self.items += 1;
                self.skipping = self.items > ITEMS_MAX;
            }
            Event::End(TagEnd::TableRow) if self.skipping => {
                self.skipping = false;
                return vec![];
            }
            Event::End(TagEnd::Item) if self.skipping => {
                self.skipping = false;
                return vec![];
            }
            Event::End(TagEnd::Table) if self.rows > ROWS_MAX => {
                let note =
                    format!("<p class=\"note\">{ROWS_MAX} of {} rows are shown; drift.md has all.</p>", self.rows);
                return vec![event, Event::Html(CowStr::from(note))];
            }
            Event::End(TagEnd::List(_)) if self.items > ITEMS_MAX => {
                let note = format!("<p class=\"note\">{ITEMS_MAX} of {} are shown; drift.md has all.</p>", self.items);
                return vec![event, Event::Html(CowStr::from(note))];
            }
            _ => {}
        }
        if self.skipping {
            return vec![];
        }
        match event {
            // Text of ours has no HTML, and text from a trace is escaped: what looks like it is text.
            Event::Html(text) | Event::InlineHtml(text) => vec![Event::Text(text)],
            Event::Start(Tag::Link { .. } | Tag::Image { .. }) | Event::End(TagEnd::Link | TagEnd::Image) => vec![],
            event => vec![event],
        }
    }
}

/// A sentence of ours that quotes names in backticks, beginning with a capital.
pub fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    let text: String = chars.next().into_iter().flat_map(char::to_uppercase).chain(chars).collect();
    let text = visible(&text);
    let parts: Vec<&str> = text.split('`').collect();
    // An odd backtick comes from the data: no code span may stay open.
    if parts.len().is_multiple_of(2) {
        return html(&text);
    }
    let spans = parts.iter().enumerate().map(|(index, part)| match index % 2 {
        1 => format!("<code>{}</code>", html(part)),
        _ => html(part),
    });
    let mut out: String = spans.collect();
    if !text.ends_with(['.', ':', '!', '?']) {
        out.push('.');
    }
    out
}

/// What is folded away until it is asked for.
pub fn folded(title: &str, body: &str) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "<details><summary>{}</summary>\n{body}</details>", html(title));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::escape::{code, markdown};

    #[test]
    fn text_from_a_trace_is_text_in_a_cell_and_in_a_sentence() {
        let hostile = "<img src=x onerror=alert(1)>|`</script>\"&[a](http://b) ![](c)\u{202e}";
        for cell in [markdown(hostile), code(hostile)] {
            let got = block(&format!("| a |\n| --- |\n| {cell} |\n\n- {cell}\n\n{cell}\n"), hostile);
            assert!(!got.contains("<img") && !got.contains("</script") && !got.contains("<a "), "{got}");
            assert!(!got.contains('\u{202e}') && got.contains("&lt;img src=x onerror=alert(1)&gt;"), "{got}");
            assert_eq!(got.matches("<td>").count(), 1, "{got}");
        }
        let got = sentence(&format!("prompt `{hostile}"));
        assert!(!got.contains("<img") && got.contains("&lt;img"), "{got}");
        assert_eq!(sentence("`a` is <b>"), "<code>a</code> is &lt;b&gt;.");
    }

    #[test]
    fn long_tables_and_lists_are_cut_and_say_so() {
        let rows: String = (0..ROWS_MAX + 5).map(|n| format!("| row {n} |\n")).collect();
        let got = block(&format!("| a |\n| --- |\n{rows}\n"), "t");
        assert_eq!(got.matches("<td>row").count(), ROWS_MAX);
        assert!(got.contains(&format!("{ROWS_MAX} of {} rows are shown", ROWS_MAX + 5)), "{got}");
        let items: String = (0..=ITEMS_MAX).map(|n| format!("- item {n}\n")).collect();
        let got = block(&items, "t");
        assert_eq!(got.matches("<li>").count(), ITEMS_MAX);
        assert!(block("| a |\n| --- |\n| b |\n", "t").contains("<th scope=\"col\">a</th>"));
    }
}
