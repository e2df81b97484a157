//! Patterns of names: `{layer}` is a layer's number, `*` any text without a dot.

#[derive(Clone, Debug, PartialEq)]
enum Piece {
    Text(String),
    Layer,
    Any,
}

/// A pattern of names.
#[derive(Clone, Debug)]
pub struct Pattern(Vec<Piece>);

impl Pattern {
    /// Reads a pattern.
    pub fn parse(text: &str) -> Result<Pattern, String> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '*']) {
            let (before, special) = rest.split_at(at);
            if !before.is_empty() {
                pieces.push(Piece::Text(before.to_owned()));
            }
            let (piece, width) = match special.strip_prefix("{layer}") {
                Some(_) => (Piece::Layer, "{layer}".len()),
                None if special.starts_with('*') => (Piece::Any, 1),
                None => return Err(format!("name `{text}`: the only braces are {{layer}}")),
            };
            if pieces.contains(&piece) || matches!(pieces.last(), Some(Piece::Any | Piece::Layer)) {
                return Err(format!("name `{text}`: {{layer}} and * stand once each, and not side by side"));
            }
            pieces.push(piece);
            rest = special.get(width..).unwrap_or_default();
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.to_owned()));
        }
        match pieces.is_empty() {
            true => Err("an empty name".to_owned()),
            false => Ok(Pattern(pieces)),
        }
    }

    /// The layer in a name that fits, −1 if the pattern has none; nothing if it does not fit.
    pub fn matches(&self, name: &str) -> Option<i32> {
        fit(&self.0, name, -1)
    }
}

fn fit(pieces: &[Piece], name: &str, layer: i32) -> Option<i32> {
    let Some((piece, rest)) = pieces.split_first() else { return name.is_empty().then_some(layer) };
    match piece {
        Piece::Text(text) => fit(rest, name.strip_prefix(text.as_str())?, layer),
        Piece::Layer => {
            let digits = name.find(|c: char| !c.is_ascii_digit()).unwrap_or(name.len());
            fit(rest, name.get(digits..)?, name.get(..digits)?.parse().ok()?)
        }
        Piece::Any => {
            let longest = name.find('.').unwrap_or(name.len());
            (0..=longest)
                .rev()
                .filter(|end| name.is_char_boundary(*end))
                .find_map(|end| fit(rest, name.get(end..)?, layer))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_and_wildcards() {
        let pattern = Pattern::parse("model.layers.{layer}.self_attn.q_proj").unwrap();
        assert_eq!(pattern.matches("model.layers.12.self_attn.q_proj"), Some(12));
        assert_eq!(pattern.matches("model.layers.12.self_attn.q_proj.input"), None);
        assert_eq!(pattern.matches("model.layers.x.self_attn.q_proj"), None);
        assert_eq!(pattern.matches("model.layers.99999999999.self_attn.q_proj"), None);
        assert_eq!(Pattern::parse("*.norm").unwrap().matches("model.norm"), Some(-1));
        assert_eq!(Pattern::parse("*.norm").unwrap().matches("a.model.norm"), None);
        assert!(Pattern::parse("{head}").is_err() && Pattern::parse("").is_err() && Pattern::parse("**").is_err());
    }
}
