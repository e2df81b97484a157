//! Text from a trace is data: prompt ids, names and messages must not become markup, formulas or terminal control.

use std::fmt::Write as _;

/// Whether a character would not be seen as itself: control characters, line and paragraph separators, marks that change
/// the direction of text, and characters of no width.
fn is_unseen(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{061c}' | '\u{115f}' | '\u{1160}' | '\u{180e}' | '\u{3164}' | '\u{feff}' | '\u{ffa0}')
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202f}' | '\u{2060}'..='\u{206f}' | '\u{e0000}'..='\u{e007f}')
}

/// The text with every character that would not be seen spelled out, as `\n`, `\t` or `\u{202e}`. For the terminal.
pub fn visible(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_unseen(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// For running text and table cells of Markdown: no markup, no HTML, no link, no new cell, no new line.
pub fn markdown(text: &str) -> String {
    escape_visible(&visible(text))
}

/// For sentences of ours that quote names in backticks: what stands in backticks becomes a code span, all else is escaped.
pub fn markdown_sentence(text: &str) -> String {
    let visible = visible(text);
    let parts: Vec<&str> = visible.split('`').collect();
    // An odd backtick comes from the data: no code span may stay open.
    if parts.len().is_multiple_of(2) {
        return escape_visible(&visible);
    }
    let spans = parts.into_iter().enumerate().map(|(index, part)| match index % 2 {
        1 => code(part),
        _ => escape_visible(part),
    });
    spans.collect()
}

fn escape_visible(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut previous = ' ';
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        // Within a word an underscore is no markup, and names are easier to read without.
        let in_word = previous.is_alphanumeric() && rest.peek().is_some_and(|next| next.is_alphanumeric());
        previous = c;
        match c {
            '_' if in_word => out.push(c),
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '#' | '~' | '$' | '@' => {
                out.push('\\');
                out.push(c);
            }
            c => out.push(c),
        }
    }
    // Addresses become links by themselves otherwise.
    out.replace("://", "&#58;//").replace("www.", "www&#46;")
}

/// A code span, in running text or in a table cell: backticks become apostrophes, bars are escaped as GitHub's tables
/// want it.
pub fn code(text: &str) -> String {
    let text = visible(text).replace('`', "'").replace('|', "\\|");
    if text.trim().is_empty() { "` `".to_owned() } else { format!("`{text}`") }
}

/// For text and attributes of HTML and XML: no element, no end of an attribute, nothing unseen.
pub fn html(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in visible(text).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // Neither HTML nor XML may hold these.
            '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// JSON text for a script element of a page: nothing in it ends the element or opens a comment, and it stays the same JSON.
pub fn json_in_html(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out
}

/// For a field of a tab-separated file: one line, one field, and no formula for a spreadsheet.
pub fn tsv(text: &str) -> String {
    let text = visible(&text.replace('\\', "\\\\"));
    if text.starts_with(['=', '+', '-', '@']) { format!("'{text}") } else { text }
}

/// JSON text for display: characters that would not be seen are spelled as JSON escapes. Line breaks between values
/// stay.
pub fn json_for_display(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if c != '\n' && is_unseen(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(out, "\\u{unit:04x}");
            }
        } else {
            out.push(c);
        }
    }
    out
}

/// Columns that a text takes on a terminal, at most: characters beyond Latin, Greek, Cyrillic and the box and block
/// drawings count two.
pub fn columns(text: &str) -> usize {
    text.chars().map(|c| if c < '\u{1100}' || ('\u{2000}'..'\u{2e80}').contains(&c) { 1 } else { 2 }).sum()
}

/// The text cut to so many columns, with an ellipsis if it was cut.
pub fn cut(text: &str, width: usize) -> String {
    if columns(text) <= width {
        return text.to_owned();
    }
    let mut out = String::new();
    for c in text.chars() {
        let next = columns(c.encode_utf8(&mut [0; 4]));
        if columns(&out) + next + 1 > width {
            break;
        }
        out.push(c);
    }
    out + "…"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_unseen_gets_through() {
        let hostile = "a\u{1b}[31m\u{202e}b\r\n\u{9b}c\u{200b}";
        for escaped in [visible(hostile), markdown(hostile), tsv(hostile), code(hostile)] {
            assert!(!escaped.chars().any(is_unseen), "{escaped:?}");
        }
        assert_eq!(visible("tab\there"), "tab\\there");
        assert_eq!(visible("naïve Δ 日本"), "naïve Δ 日本");
    }

    #[test]
    fn markdown_has_no_markup_and_no_new_cell() {
        assert_eq!(markdown("<b>|x|</b>"), "&lt;b&gt;\\|x\\|&lt;/b&gt;");
        assert_eq!(markdown("[a](http://x)"), "\\[a\\](http&#58;//x)");
        assert_eq!(code("a`b|c"), "`a'b\\|c`");
    }

    #[test]
    fn sentences_keep_their_code_spans_only() {
        assert_eq!(markdown_sentence("see `a_b` <i> and x_y"), "see `a_b` &lt;i&gt; and x_y");
        assert!(!markdown_sentence("prompt `a` b` <i>").contains("<i>"));
        assert!(!markdown_sentence("prompt `<i>` x").contains("\n"));
    }

    #[test]
    fn tsv_has_no_formula_and_one_field() {
        assert_eq!(tsv("=1+1"), "'=1+1");
        assert_eq!(tsv("@x\ty\nz"), "'@x\\ty\\nz");
        assert_eq!(tsv("plain"), "plain");
    }

    #[test]
    fn html_has_no_element_and_json_does_not_end_its_script() {
        assert_eq!(
            html("<img src=x onerror='a'>&\"\u{202e}"),
            "&lt;img src=x onerror=&#39;a&#39;&gt;&amp;&quot;\\u{202e}"
        );
        let json = r#"{"a":"</script><!-- & \u2028"}"#.to_owned() + "\u{2028}";
        let escaped = json_in_html(&json);
        assert!(!escaped.contains(['<', '>', '&', '\u{2028}']), "{escaped}");
        let value = |text: &str| serde_json::from_str::<serde_json::Value>(text.trim_end()).unwrap();
        assert_eq!(value(r#"{"a":"\u003c/script\u003e"}"#), value(r#"{"a":"</script>"}"#));
        assert_eq!(value(escaped.trim_end_matches("\\u2028")), value(json.trim_end_matches('\u{2028}')));
    }

    #[test]
    fn cut_keeps_within_columns() {
        assert_eq!(cut("abcdef", 4), "abc…");
        assert_eq!(cut("abc", 3), "abc");
        assert!(columns(&cut("日本語日本語", 5)) <= 5);
    }
}
