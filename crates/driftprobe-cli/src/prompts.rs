//! Prompts: built-in ones, texts, files and folders.

use crate::args::EngineArgs;
use crate::failure::Failure;
use driftprobe_model::{Model, Tokenizer};
use driftprobe_trace::PromptInfo;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The prompts that are used when none is named.
const BUILT_IN: &[(&str, &str)] = &[
    ("p0_short", include_str!("../prompts/p0_short.txt")),
    ("p6_len_16", include_str!("../prompts/p6_len_16.txt")),
    ("p6_len_32", include_str!("../prompts/p6_len_32.txt")),
    ("p9_long", include_str!("../prompts/p9_long.txt")),
];

/// Largest prompt file that is read.
const FILE_BYTES_MAX: u64 = 16 << 20;

enum Content {
    Text(String),
    Tokens(Vec<u32>),
}

struct Prompt {
    id: String,
    content: Content,
}

/// The prompts that the options name, tokenised.
pub fn asked(args: &EngineArgs, model: &Model) -> Result<Vec<PromptInfo>, Failure> {
    let tokenizer = args.tokenizer.as_deref().map(Tokenizer::from_file).transpose()?;
    let mut prompts = load(&args.prompts, model, tokenizer.as_ref())?;
    chosen(&mut prompts, &args.only)?;
    if let Some(tokens) = args.prompt_tokens {
        prompts.iter_mut().for_each(|prompt| lengthen(prompt, tokens));
    }
    Ok(prompts)
}

/// Leaves the prompts of these ids, in their own order; all of them, where no id is named.
fn chosen(prompts: &mut Vec<PromptInfo>, ids: &[String]) -> Result<(), Failure> {
    if ids.is_empty() {
        return Ok(());
    }
    if let Some(missing) = ids.iter().find(|id| prompts.iter().all(|prompt| prompt.id != **id)) {
        let known: Vec<&str> = prompts.iter().map(|prompt| prompt.id.as_str()).collect();
        let hint = format!("one of {}", known.join(", "));
        return Err(Failure::new(format!("--only {missing}: there is no prompt of this id"), hint));
    }
    prompts.retain(|prompt| ids.contains(&prompt.id));
    Ok(())
}

/// Cuts a prompt to `tokens` tokens, or repeats what follows its first one.
fn lengthen(prompt: &mut PromptInfo, tokens: usize) {
    let Some((first, rest)) = prompt.tokens.split_first() else { return };
    let rest = if rest.is_empty() { std::slice::from_ref(first) } else { rest };
    let all = std::iter::once(first).chain(rest.iter().cycle());
    prompt.tokens = all.take(tokens).copied().collect();
    // The text is another one now.
    prompt.text = None;
}

/// Resolves the `--prompts` arguments and tokenises them.
fn load(arguments: &[String], model: &Model, tokenizer: Option<&Tokenizer>) -> Result<Vec<PromptInfo>, Failure> {
    let mut prompts = Vec::new();
    if arguments.is_empty() {
        let text = |(id, text): &(&str, &str)| Prompt { id: (*id).to_owned(), content: Content::Text(trimmed(text)) };
        prompts.extend(BUILT_IN.iter().map(text));
    }
    for argument in arguments {
        let path = Path::new(argument);
        if path.is_dir() {
            prompts.extend(folder(path)?);
        } else if path.is_file() {
            prompts.extend(file(path)?);
        } else if looks_like_a_path(argument) {
            let what = format!("there is no prompt file {argument}");
            return Err(Failure::new(
                what,
                "check the path; a prompt that is meant as text may not end in .txt or .json, nor hold a / without a space",
            ));
        } else {
            let id = format!("text_{}", prompts.len());
            prompts.push(Prompt { id, content: Content::Text(argument.clone()) });
        }
    }
    check_ids(&prompts)?;
    prompts.into_iter().map(|p| tokenise(p, model, tokenizer)).collect()
}

fn looks_like_a_path(argument: &str) -> bool {
    let named = argument.ends_with(".txt") || argument.ends_with(".json");
    named || (argument.contains('/') && !argument.contains(char::is_whitespace))
}

fn check_ids(prompts: &[Prompt]) -> Result<(), Failure> {
    let mut ids = BTreeSet::new();
    match prompts.iter().find(|p| !ids.insert(&p.id)) {
        None => Ok(()),
        Some(p) => Err(Failure::new(
            format!("two prompts have the id {}", p.id),
            "rename one of the files: a prompt's id is its file's name",
        )),
    }
}

fn folder(path: &Path) -> Result<Vec<Prompt>, Failure> {
    let entries = fs::read_dir(path).map_err(|e| Failure::io("list", path, &e))?;
    let mut files: Vec<PathBuf> = Vec::new();
    for entry in entries {
        let file = entry.map_err(|e| Failure::io("list", path, &e))?.path();
        if file.extension().is_some_and(|e| e == "txt" || e == "json") {
            files.push(file);
        }
    }
    files.sort();
    if files.is_empty() {
        let what = format!("{} holds no *.txt or *.json", path.display());
        return Err(Failure::new(what, "put one prompt a file"));
    }
    let mut prompts = Vec::new();
    for f in files {
        prompts.extend(file(&f)?);
    }
    Ok(prompts)
}

fn file(path: &Path) -> Result<Vec<Prompt>, Failure> {
    let size = fs::metadata(path).map_err(|e| Failure::io("read", path, &e))?.len();
    if size > FILE_BYTES_MAX {
        let what = format!("{} is {size} bytes long", path.display());
        return Err(Failure::new(what, format!("a prompt file may have {FILE_BYTES_MAX} bytes")));
    }
    let text = fs::read_to_string(path).map_err(|e| Failure::io("read", path, &e))?;
    if path.extension().is_some_and(|e| e == "json") {
        return json(path, &text);
    }
    let id = path.file_stem().map_or_else(|| "prompt".to_owned(), |s| s.to_string_lossy().into_owned());
    Ok(vec![Prompt { id, content: Content::Text(trimmed(&text)) }])
}

/// How many prompts a JSON text has, and tokens of those that are given as tokens.
pub(crate) fn count(path: &Path, text: &str) -> Result<(usize, u64), Failure> {
    let prompts = json(path, text)?;
    check_ids(&prompts)?;
    let tokens = |prompt: &Prompt| match &prompt.content {
        Content::Text(_) => 0,
        Content::Tokens(tokens) => tokens.len() as u64,
    };
    Ok((prompts.len(), prompts.iter().map(tokens).sum()))
}

/// `[{"id": "p", "text": "…"}, {"id": "q", "tokens": [1, 2]}]`, or one such object.
fn json(path: &Path, text: &str) -> Result<Vec<Prompt>, Failure> {
    let hint = r#"expected a list of {"id": "name", "text": "…"} or {"id": "name", "tokens": [1, 2]}"#;
    let refuse = |what: String| Failure::new(format!("{}: {what}", path.display()), hint);
    let value: serde_json::Value = serde_json::from_str(text).map_err(|e| refuse(e.to_string()))?;
    let list = match value {
        serde_json::Value::Array(list) => list,
        one => vec![one],
    };
    let mut prompts = Vec::new();
    for (i, entry) in list.iter().enumerate() {
        let id = entry["id"].as_str().ok_or_else(|| refuse(format!("entry {i}: key id is missing or no text")))?;
        let content = match (entry.get("text").and_then(|t| t.as_str()), entry.get("tokens").and_then(|t| t.as_array()))
        {
            (Some(text), None) => Content::Text(text.to_owned()),
            (None, Some(tokens)) => {
                let id_of = |t: &serde_json::Value| t.as_u64().and_then(|n| u32::try_from(n).ok());
                let tokens: Option<Vec<u32>> = tokens.iter().map(id_of).collect();
                Content::Tokens(
                    tokens.ok_or_else(|| refuse(format!("entry {i} ({id}): key tokens: not all are token ids")))?,
                )
            }
            _ => return Err(refuse(format!("entry {i} ({id}): expected either text or tokens"))),
        };
        prompts.push(Prompt { id: id.to_owned(), content });
    }
    Ok(prompts)
}

/// Editors end a file with a newline; the prompt does not.
fn trimmed(text: &str) -> String {
    text.strip_suffix('\n').map_or(text, |t| t.strip_suffix('\r').unwrap_or(t)).to_owned()
}

fn tokenise(prompt: Prompt, model: &Model, tokenizer: Option<&Tokenizer>) -> Result<PromptInfo, Failure> {
    let (text, tokens) = match prompt.content {
        Content::Tokens(tokens) => (None, tokens),
        Content::Text(text) => {
            let tokenizer = match (tokenizer, &model.tokenizer) {
                (Some(given), _) => given,
                (None, Ok(own)) => own,
                (None, Err(why)) => {
                    let hint = why.hint().unwrap_or_else(|| "name a tokenizer.json with --tokenizer".to_owned());
                    return Err(Failure::new(format!("prompt {} needs a tokenizer: {why}", prompt.id), hint));
                }
            };
            let tokens = tokenizer.encode(&text).map_err(|e| {
                Failure::new(
                    format!("prompt {} could not be tokenised: {e}", prompt.id),
                    "give it as token ids in a *.json file",
                )
            })?;
            (Some(text), tokens)
        }
    };
    if tokens.is_empty() {
        return Err(Failure::new(format!("prompt {} has no tokens", prompt.id), "give a prompt of at least one token"));
    }
    Ok(PromptInfo { id: prompt.id, text, tokens, ..Default::default() })
}
