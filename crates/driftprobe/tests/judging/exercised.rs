//! What equal rows show, by what their events say of the passes and hashes behind them: each rule by itself.

use crate::support::{clean, event, shaped};
use driftprobe::judge::{JudgedPair, exercise};
use driftprobe::verdict::reason::{ReasonCode, Reasons};
use driftprobe::{Options, analyze};
use driftprobe_trace::{Event, HashAlgo, Manifest, Mode, Phase, Point, RowHash};

use Point::{AttnOut, EmbedOut, FinalNormOut, KCache, Logits, MlpOut, QPreRope, ResidualPreAttn};

fn pairs() -> Vec<JudgedPair> {
    let memory = clean();
    analyze(&memory.run, &memory, Options::default()).pairs
}

fn codes(pairs: &[JudgedPair]) -> Vec<ReasonCode> {
    let mut reasons = Reasons::default();
    exercise::reasons(None, pairs, &mut reasons);
    ReasonCode::ALL.iter().copied().filter(|code| reasons.has(*code)).collect()
}

/// Both events of a pair changed alike.
fn both(mut pair: JudgedPair, change: impl Fn(&mut Event)) -> JudgedPair {
    change(&mut pair.prefill);
    change(&mut pair.decode);
    pair
}

/// A row of the clean run under another name: of this place, at this position, of this token.
fn row(point: Point, layer: i32, position: u64, token: u32) -> JudgedPair {
    both(pairs().remove(0), |event| {
        (event.point, event.layer, event.token_id) = (point, if point.layered() { layer } else { -1 }, Some(token));
        (event.logical_tok_idx, event.pos_id, event.payload) = (Some(position), Some(position), None);
        let value = 1 + position * 1000 + point as u64 * 10 + layer.max(0) as u64;
        event.hash = Some(RowHash { algo: HashAlgo::Xxh3_64, value });
    })
}

fn hashed(pair: JudgedPair, algo: HashAlgo, value: u64) -> JudgedPair {
    both(pair, |event| event.hash = Some(RowHash { algo, value }))
}

#[test]
fn a_pass_that_does_not_say_its_length_may_be_one_token_where_others_come_before_it() {
    let found = |position: Option<u64>, unknown: [bool; 2]| {
        let mut pair = both(row(MlpOut, 1, 3, 7), |event| (event.logical_tok_idx, event.pos_id) = (position, None));
        (pair.prefill.seq_len, pair.decode.seq_len) = (Some(4), Some(1));
        if unknown[0] {
            pair.prefill.seq_len = None;
        }
        if unknown[1] {
            pair.decode.seq_len = None;
        }
        codes(&[pair]).contains(&ReasonCode::SeqLenUnknown)
    };
    for (position, prefill) in [(Some(0), false), (Some(1), true), (Some(3), true), (None, true)] {
        let all = [[false, false], [true, false], [false, true], [true, true]];
        assert_eq!(all.map(|unknown| found(position, unknown)), [false, prefill, true, true], "{position:?}");
    }
}

#[test]
fn rows_that_depend_on_their_own_token_alone_read_no_cache() {
    let reads = |point: Point, layer: i32, position: u64| {
        !codes(&[row(point, layer, position, 7)]).contains(&ReasonCode::NoCacheRead)
    };
    for (point, layer, expected) in [
        (EmbedOut, -1, false),
        (ResidualPreAttn, 0, false),
        (QPreRope, 0, false),
        (KCache, 0, true),
        (AttnOut, 0, true),
        (ResidualPreAttn, 1, true),
        (QPreRope, 2, true),
        (FinalNormOut, -1, true),
        (Logits, -1, true),
    ] {
        assert_eq!(reads(point, layer, 1), expected, "{point} {layer}");
        assert!(!reads(point, layer, 0), "{point} {layer}: the first token has none before it");
    }
}

#[test]
fn a_hash_that_hashing_starts_from_is_that_of_no_row() {
    let found = |algo, value| codes(&[hashed(row(MlpOut, 1, 3, 7), algo, value)]).contains(&ReasonCode::VacuousHash);
    const BASIS: u64 = 1_469_598_103_934_665_603;
    assert!(found(HashAlgo::Xxh3_64, 0) && found(HashAlgo::GretaFnv1a256, 0) && found(HashAlgo::GretaFnv1a256, BASIS));
    assert!(!found(HashAlgo::Xxh3_64, BASIS) && !found(HashAlgo::Xxh3_64, 1) && !found(HashAlgo::GretaFnv1a256, 1));
}

fn is_vacuous(pairs: &[JudgedPair]) -> bool {
    codes(pairs).contains(&ReasonCode::VacuousHash)
}

#[test]
fn one_hash_of_two_places_is_in_doubt_unless_both_rows_were_held_against_it() {
    let two = |payloads: [bool; 2]| {
        [MlpOut, AttnOut].map(|point| {
            let mut pair = hashed(row(point, 1, 3, 7), HashAlgo::Xxh3_64, 5);
            let payload = pairs().remove(0).prefill.payload;
            pair.prefill.payload = payload.clone().filter(|_| payloads[0]);
            pair.decode.payload = payload.filter(|_| payloads[1]);
            pair
        })
    };
    let all = [[false, false], [true, false], [false, true], [true, true]];
    assert_eq!(all.map(|payloads| is_vacuous(&two(payloads))), [true, true, true, false]);
}

#[test]
fn one_hash_of_two_tokens_is_in_doubt_behind_the_first_attention() {
    let two = |point: Point, layer: i32| {
        [(1, 7), (2, 8)].map(|(position, token)| hashed(row(point, layer, position, token), HashAlgo::Xxh3_64, 5))
    };
    for (point, layer, expected) in [
        (EmbedOut, -1, false),
        (ResidualPreAttn, 0, false),
        (QPreRope, 0, false),
        (ResidualPreAttn, 1, true),
        (QPreRope, 1, true),
        (MlpOut, 0, true),
        (Logits, -1, true),
    ] {
        assert_eq!(is_vacuous(&two(point, layer)), expected, "{point} {layer}");
    }
    // One token twice gets one row; two tokens behind an attention sink may, three do not.
    let again = [1, 2].map(|position| hashed(row(MlpOut, 1, position, 7), HashAlgo::Xxh3_64, 5));
    assert!(!is_vacuous(&again) && !is_vacuous(&two(AttnOut, 1)));
    let three = [1, 2, 3].map(|at| hashed(row(AttnOut, 1, at, at as u32), HashAlgo::Xxh3_64, 5));
    assert!(is_vacuous(&three));
    let [one, other, _] = three;
    assert!(!is_vacuous(&[one, other, row(AttnOut, 1, 3, 9)]));
}

#[test]
fn with_prefills_cache_under_decode_only_the_rows_own_position_may_differ() {
    let found = |mode: Option<Mode>, slot: usize| {
        let mut memory = clean();
        memory.run.manifest.as_mut().unwrap().mode = mode;
        for phase in Phase::ALL {
            // Two heads of four positions of two values.
            let mut values = [0.5; 16];
            (0..16).for_each(|at| values[at] += at as f32);
            if phase == Phase::Decode && slot < 4 {
                values[8 + slot * 2] += 0.25;
            }
            memory.record(event("p1", phase, Point::KCache, 0, 3, 2), shaped(&[2, 4, 2], &values));
        }
        let verdict = analyze(&memory.run, &memory, Options::default()).verdict;
        verdict.reasons.iter().any(|reason| reason.code == ReasonCode::NotAligned)
    };
    let aligned = [0, 1, 2, 3, 4].map(|slot| found(Some(Mode::KvAligned), slot));
    assert_eq!(aligned, [true, true, true, false, false]);
    for mode in [None, Some(Mode::AsDesigned)] {
        assert!(!found(mode, 0));
    }
}

/// What is said of slots, where the manifest has these tables of a prompt `p0` of three tokens.
fn slots(tables: serde_json::Value) -> Vec<String> {
    let manifest = Manifest { slots: Some(serde_json::json!({ "p0": tables })), ..clean().run.manifest.unwrap() };
    let mut reasons = Reasons::default();
    exercise::reasons(Some(&manifest), &[], &mut reasons);
    let (blocking, _) = reasons.into_parts();
    let told = blocking.into_iter().filter(|reason| reason.code == ReasonCode::SlotTable);
    told.flat_map(|reason| reason.examples).collect()
}

#[test]
fn no_two_positions_share_a_slot_and_a_table_is_as_long_as_its_prompt() {
    let none: [String; 0] = [];
    assert_eq!(slots(serde_json::json!({ "prefill": [4, 0, 2], "decode": [7, 8, 9] })), none);
    // The same slots in both phases are one engine's after the other's.
    assert_eq!(slots(serde_json::json!({ "prefill": [4, 0, 2], "decode": [4, 0, 2] })), none);
    for (table, expected) in [
        (serde_json::json!([4, 0, 4]), "p0, decode: positions 0 and 2 have slot 4"),
        (serde_json::json!([4, 0]), "p0, decode: 2 slots for 3 tokens"),
        (serde_json::json!([4, 0, 1, 2]), "p0, decode: 4 slots for 3 tokens"),
        (serde_json::json!([4, null, 2]), "p0, decode: position 1 has none"),
        (serde_json::json!([4, -1, 2]), "p0, decode: position 1 has none"),
        (serde_json::json!("4, 0, 2"), "p0, decode: no list of slots"),
    ] {
        assert_eq!(slots(serde_json::json!({ "prefill": [4, 0, 2], "decode": table })), [expected]);
    }
}
