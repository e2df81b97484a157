//! Every event read is paired or listed, exactly once, whatever the events are.

use crate::support::{Memory, event};
use driftprobe::evidence::Bits;
use driftprobe::judge::PairVerdict;
use driftprobe::pair::pair;
use driftprobe::report::{to_json, to_markdown, to_terminal, to_tsv};
use driftprobe::{Options, Verdict, analyze};
use driftprobe_trace::{Event, HashAlgo, Phase, Point, RowHash, Sample, Source};
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::BTreeSet;

const POINTS: [Point; 4] = [Point::EmbedOut, Point::ResidualPreAttn, Point::AttnOut, Point::Logits];

/// Events with few distinct keys, so that they meet, repeat and contradict each other; any key field may be absent.
fn any_event() -> impl Strategy<Value = Event> {
    let key = (0..2usize, any::<bool>(), 0..POINTS.len(), 0..2i32, 0..3u64, 0..2u32);
    let absent = (any::<bool>(), prop::bool::weighted(0.2), prop::bool::weighted(0.2), prop::bool::weighted(0.3));
    let value = (proptest::option::of(0..3u64), any::<bool>(), proptest::option::of(0..2u64), 0..4usize);
    (key, absent, value).prop_map(|((prompt, decode, point, layer, at, token), absent, (hash, greta, nan, extra))| {
        let phase = if decode { Phase::Decode } else { Phase::Prefill };
        let mut event = event(["p", "q"][prompt], phase, POINTS[point], layer, at, token);
        let (any_absent, index, position, id) = absent;
        if any_absent {
            event.logical_tok_idx = event.logical_tok_idx.filter(|_| !index);
            event.pos_id = event.pos_id.filter(|_| !position);
            event.token_id = event.token_id.filter(|_| !id);
        }
        let algo = if greta { HashAlgo::GretaFnv1a256 } else { HashAlgo::Xxh3_64 };
        event.hash = hash.map(|value| RowHash { algo, value });
        event.stats.nan = nan;
        match extra {
            1 => event.sample = Some(Sample { values: vec![f64::NAN, 1.0], idx: Some(vec![5, 2]) }),
            2 => event.shape = Some(vec![u64::MAX, 4]),
            3 => event.seq_len = None,
            _ => {}
        }
        event
    })
}

fn sources(events: Vec<Event>) -> Vec<Event> {
    let number = |(line, mut event): (u64, Event)| {
        event.source = Source { line, ..event.source };
        event
    };
    (1..).zip(events).map(number).collect()
}

proptest! {
    #[test]
    fn every_event_is_paired_or_listed_once(events in vec(any_event(), 0..60)) {
        let mut memory = Memory::default();
        memory.run.events = sources(events);
        let got = analyze(&memory.run, &memory, Options::default());
        let mut lines: Vec<u64> = got.unpaired.iter().map(|one| one.event.source.line).collect();
        lines.extend(got.pairs.iter().flat_map(|pair| [pair.prefill.source.line, pair.decode.source.line]));
        lines.sort_unstable();
        prop_assert_eq!(lines, (1..=memory.run.events.len() as u64).collect::<Vec<_>>());
        // Without a manifest there is no PASS.
        prop_assert_ne!(got.verdict.verdict, Verdict::Pass);
        for pair in &got.pairs {
            prop_assert_eq!((pair.prefill.phase, pair.decode.phase), (Phase::Prefill, Phase::Decode));
            prop_assert_eq!(&pair.prefill.prompt_id, &pair.decode.prompt_id);
            prop_assert_eq!((pair.prefill.layer, pair.prefill.point), (pair.decode.layer, pair.decode.point));
            let fields = |event: &Event| [event.logical_tok_idx, event.pos_id, event.token_id.map(u64::from)];
            for (ours, theirs) in fields(&pair.prefill).iter().zip(fields(&pair.decode)) {
                prop_assert!(ours.is_none() || theirs.is_none() || *ours == theirs);
            }
            if pair.verdict == PairVerdict::Identical {
                let equal = matches!(pair.bits, Bits::Equal { .. });
                prop_assert!(equal);
            }
        }
    }

    #[test]
    fn reports_do_not_depend_on_the_order_of_events(events in vec(any_event(), 0..40), turn in 0..40usize) {
        let mut memory = Memory::default();
        memory.run.events = sources(events);
        let render = |memory: &Memory| {
            let got = analyze(&memory.run, memory, Options::default());
            [to_markdown(&got), to_tsv(&got), to_json(&got), to_terminal(&got).ansi()]
        };
        let expected = render(&memory);
        memory.run.events.reverse();
        let turn = turn % memory.run.events.len().max(1);
        memory.run.events.rotate_left(turn);
        prop_assert_eq!(render(&memory), expected);
    }

    #[test]
    fn a_weak_pair_is_the_only_one_possible(events in vec(any_event(), 0..40)) {
        let events = sources(events);
        let (prefill, decode): (Vec<&Event>, Vec<&Event>) = events.iter().partition(|event| event.phase == Phase::Prefill);
        let got = pair(&prefill, &decode);
        let key = |event: &Event| [event.logical_tok_idx, event.pos_id, event.token_id.map(u64::from)];
        let fits = |one: &Event, other: &Event| {
            (&one.prompt_id, one.layer, one.point) == (&other.prompt_id, other.layer, other.point)
                && key(one).iter().zip(key(other)).all(|(a, b)| a.is_none() || b.is_none() || *a == b)
        };
        // By brute force: what is not an exact pair and fits, other than a repetition of an event that was used.
        let exact: BTreeSet<(Phase, usize)> = got.links.iter().filter(|link| link.absent.is_empty())
            .flat_map(|link| [(Phase::Prefill, link.reference), (Phase::Decode, link.candidate)]).collect();
        let repeats = |loose: &[driftprobe::pair::Loose], index: usize| loose.iter().any(|one| {
            one.index == index && one.why == driftprobe::pair::WhyLoose::RepeatsAnother
        });
        for link in got.links.iter().filter(|link| !link.absent.is_empty()) {
            let others = (0..decode.len()).filter(|&index| {
                fits(prefill[link.reference], decode[index])
                    && !exact.contains(&(Phase::Decode, index)) && !repeats(&got.candidate_loose, index)
            });
            prop_assert_eq!(others.collect::<Vec<_>>(), vec![link.candidate]);
            let others = (0..prefill.len()).filter(|&index| {
                fits(decode[link.candidate], prefill[index])
                    && !exact.contains(&(Phase::Prefill, index)) && !repeats(&got.reference_loose, index)
            });
            prop_assert_eq!(others.collect::<Vec<_>>(), vec![link.reference]);
        }
    }
}
