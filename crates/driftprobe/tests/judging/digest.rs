//! What remains of a unit, and what many of them merge into: the same in any order, and no PASS of what is not there.

use crate::support::{Memory, clean, event, manifest};
use driftprobe::digest::{CauseDigest, Digest, MergeError, Merged, Promise};
use driftprobe::report::escape::columns;
use driftprobe::report::merged::{to_json, to_markdown, to_terminal, to_tsv};
use driftprobe::report::schema::Num;
use driftprobe::verdict::SubVerdict;
use driftprobe::verdict::reason::ReasonCode;
use driftprobe::{Options, Verdict, analyze};
use driftprobe_trace::{Phase, Point, Row};
use proptest::prelude::*;
use std::sync::OnceLock;

/// The part of a run that is of one prompt.
fn of_prompt(memory: &Memory, prompt: &str) -> Memory {
    let mut one = memory.clone();
    one.run.events.retain(|event| &*event.prompt_id == prompt);
    if let Some(prompts) = one.run.manifest.as_mut().and_then(|manifest| manifest.prompts.as_mut()) {
        prompts.retain(|known| known.id == prompt);
    }
    one
}

fn digest(run: &str, memory: &Memory, prompt: &str) -> Digest {
    let one = of_prompt(memory, prompt);
    Digest::of(run, prompt, &analyze(&one.run, &one, Options::default()))
}

/// A run of which a row of one prompt is changed in decode.
fn changed(prompt: &str, value: f32) -> Memory {
    let mut memory = clean();
    let found = memory.run.events.iter().position(|event| {
        (&*event.prompt_id, event.phase, event.point, event.layer) == (prompt, Phase::Decode, Point::AttnOut, 1)
    });
    let mut values = vec![0.25; 8];
    values[3] = value;
    memory.change(found.unwrap(), Row::from_f32(&values));
    memory
}

/// Two prompts of each of four runs: clean, differing, not finite, and lacking a row.
fn units() -> &'static Vec<Digest> {
    static UNITS: OnceLock<Vec<Digest>> = OnceLock::new();
    UNITS.get_or_init(|| {
        let mut lacking = clean();
        lacking.run.events.pop();
        let runs = [("a", clean()), ("b", changed("p1", 7.0)), ("c", changed("p0", f32::NAN)), ("d", lacking)];
        runs.iter().flat_map(|(name, memory)| ["p0", "p1"].map(|prompt| digest(name, memory, prompt))).collect()
    })
}

fn promise(units: &[Digest]) -> Promise {
    let mut promise = Promise::default();
    for run in ["a", "b", "c", "d"] {
        let prompts: Vec<String> = units.iter().filter(|u| u.run == run).map(|u| u.prompt.clone()).collect();
        if !prompts.is_empty() {
            promise.add(run, &prompts).unwrap();
        }
    }
    promise
}

fn renderings(merged: &Merged) -> [String; 4] {
    [to_json(merged), to_markdown(merged), to_tsv(merged), to_terminal(merged).plain()]
}

fn merged(units: &[Digest]) -> Merged {
    Merged::of(&promise(units), units.to_vec()).unwrap()
}

#[test]
fn a_digest_says_what_its_analysis_says_and_comes_back_from_its_text() {
    let verdicts: Vec<Verdict> = units().iter().map(|unit| unit.verdict).collect();
    use Verdict::{Fail, Inconclusive, Pass};
    assert_eq!(verdicts, [Pass, Pass, Pass, Inconclusive, Fail, Pass, Pass, Inconclusive]);
    for unit in units() {
        assert_eq!(unit.contradiction(), None);
        let text = serde_json::to_string(unit).unwrap();
        let back: Digest = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::to_string(&back).unwrap(), text);
        assert!(back.is_same(unit));
    }
    let nan = units()[4].first_failure.as_ref().unwrap();
    assert_eq!((nan.point, nan.layer, nan.phase), (Point::AttnOut, 1, Some(Phase::Decode)));
    let stage =
        |unit: &Digest| unit.modes[0].stages.iter().find(|s| (s.layer, s.point) == (1, Point::AttnOut)).cloned();
    let (nan, differs) = (stage(&units()[4]).unwrap(), stage(&units()[3]).unwrap());
    assert_eq!((nan.rows, nan.identical, nan.fault, nan.open), (2, 1, 1, 0));
    assert_eq!((differs.rows, differs.identical, differs.fault, differs.open), (2, 1, 0, 1));
    assert!(differs.rel_l2.unwrap().0 > 1.0);
}

#[test]
fn a_digest_does_not_grow_with_its_prompt() {
    let of = |steps: u32| {
        let tokens: Vec<u32> = (0..200).collect();
        let mut memory = Memory::default();
        memory.run.manifest = Some(manifest(&[("p", &tokens)], &[0], &[Point::AttnOut], steps));
        for position in 200 - u64::from(steps)..200 {
            for phase in Phase::ALL {
                let shift = if phase == Phase::Prefill { 0.0 } else { 0.5 };
                let row: Vec<f32> = (0..4).map(|i| (position as f32 + i as f32).sin() + shift).collect();
                let event = event("p", phase, Point::AttnOut, 0, position, position as u32);
                memory.record(event, Row::from_f32(&row));
            }
        }
        serde_json::to_string(&digest("run", &memory, "p")).unwrap().len()
    };
    assert!(of(160) < of(3) + 100, "{} and {}", of(160), of(3));
}

#[test]
fn sums_are_those_of_the_units_and_the_first_failure_is_the_first_that_fails() {
    let all = merged(units());
    assert_eq!((all.verdict, all.exit_code, all.sub_verdict), (Verdict::Fail, 1, None));
    assert_eq!((all.runs, all.promised, all.pass, all.fail, all.inconclusive, all.missing), (4, 8, 5, 1, 2, 0));
    let sum: u64 = units().iter().map(|unit| unit.modes[0].pairs.total).sum();
    assert_eq!(all.modes.len(), 1);
    assert_eq!(all.modes[0].pairs.total, sum);
    assert_eq!(all.modes[0].stages.iter().map(|stage| stage.rows).sum::<u64>(), sum);
    assert_eq!(all.modes[0].coverage.missing, 1);
    let expected: u64 = units().iter().map(|unit| unit.modes[0].coverage.expected.unwrap()).sum();
    assert_eq!(all.modes[0].coverage.expected, Some(expected));
    // b, p1 is before it, and only open.
    let first = all.first_failure.as_ref().unwrap();
    assert_eq!((first.run.as_str(), first.prompt.as_str()), ("c", "p0"));
    let open = Merged::of(&promise(&units()[..4]), units()[..4].to_vec()).unwrap();
    assert_eq!((open.verdict, open.exit_code), (Verdict::Inconclusive, 3));
    assert_eq!(open.first_failure.unwrap().prompt, "p1");
    let names: Vec<&str> = all.not_passed.iter().map(|unit| unit.run.as_str()).collect();
    assert_eq!(names, ["b", "c", "d"]);
}

#[test]
fn all_pass_only_if_each_does_and_differences_keep_it_from_being_bit_identical() {
    let all = merged(&units()[..2]);
    assert_eq!((all.verdict, all.sub_verdict), (Verdict::Pass, Some(SubVerdict::BitIdentical)));
    assert!(all.reasons.is_empty() && all.first_failure.is_none() && all.not_passed.is_empty());
    let mut drifting = units()[1].clone();
    drifting.sub_verdict = Some(SubVerdict::StructuralDrift);
    let all = merged(&[units()[0].clone(), drifting]);
    assert_eq!((all.verdict, all.sub_verdict), (Verdict::Pass, Some(SubVerdict::StructuralDrift)));
}

#[test]
fn what_is_missing_never_passes() {
    let promised = promise(&units()[..2]);
    let one = Merged::of(&promised, [units()[0].clone()]).unwrap();
    assert_eq!((one.verdict, one.exit_code, one.missing), (Verdict::Inconclusive, 3, 1));
    assert_eq!(one.reasons[0].code, ReasonCode::MissingShard);
    assert_eq!(one.reasons[0].examples, ["a: p1"]);
    let none = Merged::of(&promised, []).unwrap();
    assert_eq!((none.verdict, none.missing), (Verdict::Inconclusive, 2));
    let nothing = Merged::of(&Promise::default(), []).unwrap();
    assert_eq!(nothing.verdict, Verdict::Inconclusive);
    assert_eq!(nothing.reasons[0].code, ReasonCode::NothingCompared);
    // A failure stays one, whatever else is not there.
    let fails = Merged::of(&promise(units()), [units()[4].clone()]).unwrap();
    assert_eq!((fails.verdict, fails.missing), (Verdict::Fail, 7));
}

#[test]
fn results_that_do_not_fit_are_refused() {
    let promised = promise(&units()[..2]);
    let refused = |units: Vec<Digest>| Merged::of(&promised, units).unwrap_err();
    let with = |change: fn(&mut Digest)| {
        let mut unit = units()[0].clone();
        change(&mut unit);
        unit
    };
    assert!(Merged::of(&promised, vec![units()[0].clone(), units()[0].clone(), units()[1].clone()]).is_ok());
    let twice = refused(vec![units()[0].clone(), with(|unit| unit.modes[0].pairs.hash_match += 1)]);
    assert!(matches!(twice, MergeError::Differing { .. }), "{twice}");
    let foreign = refused(vec![units()[0].clone(), units()[2].clone()]);
    assert!(matches!(foreign, MergeError::NotPromised { .. }), "{foreign}");
    let old = refused(vec![with(|unit| unit.generator = "driftprobe 0.0.1".into())]);
    assert!(matches!(old, MergeError::Version { .. }) && !old.hint().is_empty(), "{old}");
    let impossible: [fn(&mut Digest); 7] = [
        |unit| unit.modes.clear(),
        |unit| unit.modes[0].pairs = Default::default(),
        |unit| unit.modes[0].pairs.identical -= 1,
        |unit| unit.modes[0].verdict = Verdict::Inconclusive,
        |unit| unit.sub_verdict = None,
        |unit| unit.reasons = units()[3].reasons.clone(),
        |unit| unit.schema = 2,
    ];
    for change in impossible {
        let error = refused(vec![with(change)]);
        assert!(matches!(error, MergeError::Contradiction { .. }), "{error}");
    }
    // Counts from a file that no run has do not overflow.
    let huge = with(|unit| (unit.modes[0].pairs.total, unit.modes[0].pairs.identical) = (u64::MAX, u64::MAX));
    assert!(Merged::of(&promised, vec![huge, units()[1].clone()]).is_ok());
}

#[test]
fn hostile_names_break_no_report_and_no_line_is_too_long() {
    let hostile = "=x|<b>\u{1b}[31m\t\nlong".repeat(9);
    let mut all: Vec<Digest> = units().clone();
    for unit in &mut all {
        unit.prompt = format!("{hostile}{}", unit.prompt);
    }
    let merged = merged(&all);
    let [_, md, tsv, terminal] = renderings(&merged);
    assert!(terminal.lines().all(|line| columns(line) <= 80), "{terminal}");
    assert!(!terminal.contains('\u{1b}') && !md.contains('\u{1b}') && !md.contains("<b>"));
    assert!(tsv.lines().all(|line| line.split('\t').count() == 11), "{tsv}");
    assert_eq!(tsv.lines().count(), 9);
}

#[test]
fn more_units_than_are_listed_are_counted() {
    let cause = CauseDigest {
        hypothesis: "ROPE_THETA".to_owned(),
        candidates: vec!["ROPE_THETA".to_owned()],
        parameters: Default::default(),
        phase: Phase::Decode,
        noise_rms_before: Num(9.0),
        noise_rms_after: None,
        evidence: String::new(),
    };
    // Unit 3 differs and does not pass; as many of it as are listed in full, one more, and three more.
    for (count, left_out) in [(20, 0), (21, 1), (23, 3)] {
        let names: Vec<String> = (0..count).map(|i| format!("p{i:02}")).collect();
        let unit = |name: &String| Digest {
            run: "b".to_owned(),
            prompt: name.clone(),
            cause: Some(cause.clone()),
            ..units()[3].clone()
        };
        let mut promise = Promise::default();
        promise.add("b", &names).unwrap();
        let all = Merged::of(&promise, names.iter().map(unit)).unwrap();
        assert_eq!((all.not_passed.len(), all.not_passed_left_out), (20, left_out));
        assert_eq!(all.causes.iter().map(|cause| cause.units).collect::<Vec<_>>(), [count]);
        // Without the last two.
        let fewer = Merged::of(&promise, names.iter().take(18).map(unit)).unwrap();
        assert_eq!((fewer.promised, fewer.missing), (count, count - 18));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Shards in any number, of any units, in any order, some of them twice: one and the same report.
    #[test]
    fn any_order_and_any_shards_give_the_same_bytes(
        order in Just((0..8usize).collect::<Vec<_>>()).prop_shuffle(),
        shards in proptest::collection::vec(0..4usize, 8),
        again in proptest::collection::vec(0..8usize, 0..6),
        lacking in proptest::option::of(0..8usize),
    ) {
        let there = |at: &usize| Some(*at) != lacking;
        let expected = units().iter().enumerate().filter(|(at, _)| there(at)).map(|(_, unit)| unit.clone());
        let expected = Merged::of(&promise(units()), expected).unwrap();
        prop_assert_eq!(expected.missing, u64::from(lacking.is_some()));
        // Each shard promises the whole, and its results are written and read.
        let mut joined = Promise::default();
        let mut found = Vec::new();
        for shard in 0..4 {
            joined.join(&promise(units())).unwrap();
            let own = order.iter().filter(|at| shards[**at] == shard).chain(again.iter().filter(|_| shard == 3));
            for at in own.filter(|at| there(at)) {
                found.push(serde_json::from_str(&serde_json::to_string(&units()[*at]).unwrap()).unwrap());
            }
        }
        let got = Merged::of(&joined, found).unwrap();
        prop_assert_eq!(renderings(&got), renderings(&expected));
    }
}
