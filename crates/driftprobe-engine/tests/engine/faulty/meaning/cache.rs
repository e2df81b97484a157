//! The cache: its rows are exact, and so are these comparisons.

use super::{LAYER, POS, Shown};
use crate::faulty::{TOKENS, open, subject};
use crate::support::{everything, plain, stored, tapped, values};
use driftprobe_engine::faulty::{Fault, FaultyEngine};
use driftprobe_engine::{EmbeddedEngine, Engine, Settings, Storage, Tap};
use driftprobe_trace::Point::{KCache, KPostRope, VCache, VProj};
use driftprobe_trace::{Phase, Row};
use half::{bf16, f16};

const PATH: &str = "hf/llama";

/// One slot of `[kv_heads, rows, head_dim]`, head after head.
fn slot(shown: &Shown, cache: &[f64], slot: usize) -> Vec<f64> {
    let c = shown.config();
    let heads = cache.chunks_exact(cache.len() / c.num_key_value_heads);
    heads.flat_map(|rows| rows[slot * c.head_dim..(slot + 1) * c.head_dim].to_vec()).collect()
}

/// The slots of K and V that differ from the clean engine's.
fn changed(shown: &Shown, clean: &Shown) -> [Vec<usize>; 2] {
    [KCache, VCache].map(|point| {
        let differs = |i: &usize| slot(shown, shown.get(point), *i) != slot(clean, clean.get(point), *i);
        (0..=POS).filter(differs).collect()
    })
}

#[test]
fn slots_hold_what_the_faults_say() {
    let clean = Shown::clean(PATH, &plain());
    let k = |shown: &Shown, i| slot(shown, shown.get(KCache), i);
    let v = |shown: &Shown, i| slot(shown, shown.get(VCache), i);
    for i in 0..=POS {
        assert_eq!((&*k(&clean, i), &*v(&clean, i)), (clean.at(KPostRope, i), clean.at(VProj, i)));
    }
    let shown = Shown::faulty(PATH, &plain(), "KV_DUPLICATED_SLOT:4");
    assert_eq!(changed(&shown, &clean), [[5], [5]]);
    assert_eq!((k(&shown, 5), v(&shown, 5)), (k(&clean, 4), v(&clean, 4)));
    for (part, expected) in [("k", [vec![2, 7], vec![]]), ("v", [vec![], vec![2, 7]]), ("kv", [vec![2, 7], vec![2, 7]])]
    {
        let shown = Shown::faulty(PATH, &plain(), &format!("KV_SWAPPED_SLOTS:{part}:7:2"));
        assert_eq!(changed(&shown, &clean), expected, "{part}");
        if part == "kv" {
            assert_eq!((k(&shown, 2), v(&shown, 7)), (k(&clean, 7), v(&clean, 2)));
        }
    }
    let shown = Shown::faulty(PATH, &plain(), "KV_EXCHANGED");
    assert_eq!((shown.get(KCache), shown.get(VCache)), (clean.get(VCache), clean.get(KCache)));
    let shown = Shown::faulty(PATH, &plain(), "KV_NOT_WRITTEN");
    assert_eq!(changed(&shown, &clean), [[POS], [POS]]);
    assert!(k(&shown, POS).iter().chain(&v(&shown, POS)).all(|x| *x == 0.0));
}

#[test]
fn foreign_rows_are_those_of_the_other_sequence() {
    let (model, settings): (_, Settings) = (open(PATH), stored(Storage::F32, Storage::Bf16));
    let donor: Vec<u32> = (0..TOKENS as u32).map(|i| (i * 5 + 1) % 48).collect();
    let clean = EmbeddedEngine::new(&model, settings.clone()).unwrap();
    let mut session = clean.session().unwrap();
    session.prefill(&donor, 0..0, &mut Tap::closed()).unwrap();
    for (text, from) in [("KV_STALE_SLOT:6@both", 6), ("KV_FOREIGN_ROW:6@both", 7)] {
        let fault: Fault = text.parse().unwrap();
        let engine = FaultyEngine::with_donor(&subject(&model, &settings), fault, &donor).unwrap();
        let (_, rows) = tapped(&engine, Phase::Prefill, &[7; TOKENS], (&everything(&engine), POS..POS + 1));
        for layer in 0..engine.layers() {
            let kv = session.kv(layer, from..from + 1).unwrap();
            let shape = vec![kv.shape.0 as u64, 1, kv.shape.2 as u64];
            for (point, bytes) in [(KCache, &kv.k), (VCache, &kv.v)] {
                let row = rows.iter().find(|r| (r.point, r.layer) == (point, layer as i32)).unwrap();
                let donated = Row::new(kv.dtype, shape.clone(), bytes.clone()).unwrap().to_f64();
                let shown = Shown { rows: Default::default(), model: open(PATH) };
                assert_eq!(slot(&shown, &values(row), 6), donated, "{text}: {point} of layer {layer}");
            }
        }
    }
}

#[test]
fn squeezed_rows_are_those_of_the_smaller_type() {
    let clean = Shown::clean(PATH, &plain());
    type Squeezes = fn(f64) -> f64;
    let cases: [(&str, Squeezes); 2] =
        [("bf16", |x| bf16::from_f32(x as f32).to_f64()), ("f16", |x| f16::from_f32(x as f32).to_f64())];
    for (precision, to) in cases {
        let shown = Shown::faulty(PATH, &plain(), &format!("KV_PRECISION:{precision}"));
        for point in [KCache, VCache] {
            assert_eq!(shown.get(point), clean.get(point).iter().map(|x| to(*x)).collect::<Vec<_>>(), "{precision}");
        }
    }
    let shown = Shown::faulty(PATH, &plain(), "KV_PRECISION:fp8");
    for (x, clean) in shown.get(KCache).iter().zip(clean.get(KCache)) {
        // Three bits of mantissa: half a unit is at most a sixteenth; below 2⁻⁶ it is 2⁻¹⁰.
        assert!((x - clean).abs() <= (clean.abs() / 16.0).max(2f64.powi(-10)), "{clean} became {x}");
    }
    assert_eq!(LAYER, 0, "the layer's inputs are those of the clean engine");
}

#[test]
fn a_row_that_was_not_written_is_missing_at_every_later_step() {
    let (model, settings) = (open(PATH), plain());
    let fault: Fault = "KV_NOT_WRITTEN@decode:layer1".parse().unwrap();
    let engine = FaultyEngine::new(&subject(&model, &settings), fault).unwrap();
    let mut session = engine.session().unwrap();
    session.prefill(&[1, 2, 3], 0..0, &mut Tap::closed()).unwrap();
    [4, 5].iter().for_each(|t| drop(session.decode(*t, &mut Tap::closed()).unwrap()));
    let zero = |layer, row: usize| {
        let kv = session.kv(layer, row..row + 1).unwrap();
        kv.k.iter().chain(&kv.v).all(|b| *b == 0)
    };
    assert_eq!([0, 1, 2, 3, 4].map(|row| zero(1, row)), [false, false, false, true, true]);
    assert!((0..5).all(|row| !zero(0, row)));
}
