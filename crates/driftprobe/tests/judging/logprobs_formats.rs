//! Log-probabilities in every format: snapshots, widths, and hostile names that stay text.

use driftprobe::logprobs::{Judged, Limits, Link, Measure, Mismatch, Origin, Score};
use driftprobe::report::logprobs::{COLUMNS, picture, to_json, to_markdown, to_terminal, to_tsv};
use driftprobe::verdict::SubVerdict;
use driftprobe::{Verdict, report};

/// A name as an attacker would choose it.
const HOSTILE: &str = "=cmd|' /C calc'!A0\u{1b}[31m<script>`|@a\u{202e}\n";

fn scores(sequence: &str, logprobs: &[f64]) -> Vec<Score> {
    let score = |(index, logprob): (usize, &f64)| Score {
        sequence: sequence.into(),
        index: index as u64 + 4,
        token_id: index as u32 * 7,
        logprob: *logprob,
    };
    logprobs.iter().enumerate().map(score).collect()
}

fn link(mismatch: &Mismatch, verdict: Verdict, delta: Option<f64>) -> Link {
    let worst = mismatch.worst(1)[0];
    let fault = verdict == Verdict::Fail;
    Link {
        sequence: worst.sequence.clone(),
        index: worst.index,
        run: "out/worst-1".to_owned(),
        verdict,
        sub_verdict: (!fault).then_some(SubVerdict::StructuralDrift),
        first: Some(format!("{}, position 7, layer 2, q_post_rope", worst.sequence)),
        layer: Some(2),
        point: Some("q_post_rope".to_owned()),
        phase: fault.then_some("decode"),
        kind: Some(if fault { "FAULT" } else { "STRUCTURAL" }),
        causes: if fault { vec!["ROPE_POSITION_OFFSET (offset +1) in decode".to_owned()] } else { vec![] },
        cause_ids: if fault { vec!["ROPE_POSITION_OFFSET"] } else { vec![] },
        says: format!("the first tensor is q_post_rope of {}", worst.sequence),
        delta,
    }
}

fn judged(name: &str, verdict: Verdict) -> Judged {
    let prefill = [scores(name, &[-0.1, -2.3, -0.7, -1.25, -4.0]), scores("b", &[-0.5, -0.25])].concat();
    let mut decode = [scores(name, &[-0.1, -2.2, -0.75, -1.2, -3.0]), scores("b", &[-0.5, -0.26])].concat();
    let origin = Origin {
        prefill: format!("{name}/prefill.jsonl"),
        decode: "decode.jsonl".to_owned(),
        engine: Some("engine 1.0".to_owned()),
        sampling: Some("5 behind each prompt".to_owned()),
    };
    if verdict == Verdict::Inconclusive {
        decode.pop();
        decode[2].logprob = f64::NAN;
        decode[3].token_id = 99;
    }
    let mismatch = Mismatch::of(&prefill, &decode);
    let limits = Limits::default().with(Measure::Ratio, Some(3.0), "--max-ratio").with_preset("sglang-kl");
    let (limits, links) = match verdict {
        Verdict::Pass => (Limits::default(), vec![link(&mismatch, verdict, Some(0.1))]),
        Verdict::Fail => (limits, vec![link(&mismatch, verdict, Some(0.99))]),
        Verdict::Inconclusive => (Limits::default(), vec![]),
    };
    Judged::of(origin, mismatch, &limits, links)
}

#[test]
fn text() {
    let all = [Verdict::Pass, Verdict::Fail, Verdict::Inconclusive];
    let texts = all.map(|verdict| to_terminal(&judged("a", verdict)).plain());
    insta::assert_snapshot!(texts.join("\n----\n"));
}

#[test]
fn markdown() {
    let all = [Verdict::Pass, Verdict::Fail, Verdict::Inconclusive];
    insta::assert_snapshot!(all.map(|verdict| to_markdown(&judged("a", verdict))).join("\n----\n"));
}

#[test]
fn tsv() {
    insta::assert_snapshot!(to_tsv(&judged("a", Verdict::Inconclusive)));
}

#[test]
fn json() {
    let json = to_json(&judged("a", Verdict::Fail));
    insta::assert_snapshot!(json.replace(env!("CARGO_PKG_VERSION"), "VERSION"));
}

#[test]
fn a_hostile_name_stays_text_in_every_format() {
    for verdict in [Verdict::Pass, Verdict::Fail, Verdict::Inconclusive] {
        let judged = judged(HOSTILE, verdict);
        let (text, markdown, tsv) = (to_terminal(&judged).plain(), to_markdown(&judged), to_tsv(&judged));
        for (format, text) in [("text", &text), ("markdown", &markdown), ("tsv", &tsv)] {
            assert!(!text.contains(['\u{1b}', '\u{202e}']), "{format}: {text}");
        }
        assert!(text.lines().all(|line| report::escape::columns(line) <= 80), "{text}");
        assert!(!markdown.replace('`', "").contains("<script>") || markdown.contains("`=cmd"), "{markdown}");
        for line in tsv.lines() {
            assert_eq!(line.split('\t').count(), COLUMNS.len());
            assert!(!line.starts_with('='), "a formula: {line}");
        }
        let value: serde_json::Value = serde_json::from_str(&to_json(&judged)).unwrap();
        let names: Vec<_> = value["sequences"].as_array().unwrap().iter().map(|one| one["sequence"].clone()).collect();
        assert!(names.contains(&HOSTILE.into()), "data is exact");
    }
}

#[test]
fn the_picture_shows_every_token_or_says_how_many_and_carries_no_name() {
    let few = picture(&judged(HOSTILE, Verdict::Fail)).unwrap();
    let svg = few.to_svg("title");
    let document = roxmltree::Document::parse(&svg).unwrap();
    let count = |svg: &roxmltree::Document<'_>, name: &str| svg.descendants().filter(|n| n.has_tag_name(name)).count();
    assert_eq!(count(&document, "circle"), 7);
    assert!(!svg.contains("calc") && few.says.starts_with("Probabilities of 7 tokens by decode"));

    let many: Vec<f64> = (0..20_000).map(|at| -1.0 - f64::from(at) * 1e-4).collect();
    let mut other = many.clone();
    other[777] += 0.5;
    let mismatch = Mismatch::of(&scores("a", &many), &scores("a", &other));
    let many = picture(&Judged::of(Origin::default(), mismatch, &Limits::default(), vec![])).unwrap();
    let svg = many.to_svg("title");
    let drawn = count(&roxmltree::Document::parse(&svg).unwrap(), "circle");
    assert!(drawn < 4_001 && many.says.contains(&format!("20000 tokens ({drawn} drawn)")), "{drawn}: {}", many.says);
    // The only one that is far off is drawn, whether or not its turn has come.
    assert!(many.says.contains("largest 0.500"));
    let nothing = Judged::of(Origin::default(), Mismatch::of(&[], &[]), &Limits::default(), vec![]);
    assert!(picture(&nothing).is_err());
}
