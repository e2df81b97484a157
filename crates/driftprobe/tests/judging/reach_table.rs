//! The table of docs/reachability.md: known kernels of the embedded engine, and how many of them are named.

use crate::oracle_support::fixture;
use crate::reach_support::{Tally, kernels};
use driftprobe_engine::{DecodeAttention, PrefillAttention, Settings, Storage};
use driftprobe_model::Model;
use driftprobe_trace::Point;
use std::collections::BTreeMap;

const BLOCKS: [usize; 8] = [1, 2, 5, 8, 13, 16, 32, 64];
const PARTS: [usize; 8] = [2, 3, 4, 5, 7, 8, 16, 1];

/// Prints the table; minutes.
#[test]
#[ignore = "measures; see docs/reachability.md"]
fn table() {
    let models = [
        ("demo", Model::demo().unwrap()),
        ("llama", fixture("hf/llama")),
        ("qwen2", fixture("hf/qwen2")),
        ("gemma2", fixture("hf/gemma2")),
    ];
    let plain = Settings::default();
    let stored = |storage| Settings { storage, kv_cache: storage, ..plain.clone() };
    let without = [Point::QPostRope, Point::KCache, Point::VCache, Point::AttnOut];
    let arithmetics = [
        ("f32", plain.clone(), &[][..]),
        ("f32, scores not recorded", plain.clone(), &without[..]),
        ("f32 with f16 cache", Settings { kv_cache: Storage::F16, ..plain.clone() }, &[]),
        ("f16", stored(Storage::F16), &[]),
        ("bf16", stored(Storage::Bf16), &[]),
    ];
    println!("| arithmetic | model | searches | named | by one name | wrong | not named |");
    println!("|---|---|---|---|---|---|---|");
    let mut wrong = Vec::new();
    for (name, arithmetic, points) in &arithmetics {
        for (model_name, model) in &models {
            if *name != "f32" && *model_name != "llama" {
                continue;
            }
            let mut tally = Tally::default();
            let naive = [(PrefillAttention::Naive, DecodeAttention::Naive)].into_iter();
            let pairs = BLOCKS.into_iter().zip(PARTS);
            let known =
                pairs.map(|(keys, parts)| (PrefillAttention::Blocked { keys }, DecodeAttention::SplitK { parts }));
            for (prefill, decode) in naive.chain(known) {
                let settings = kernels(prefill, decode);
                let attention = (settings.prefill_attention, settings.decode_attention);
                let settings =
                    Settings { prefill_attention: attention.0, decode_attention: attention.1, ..arithmetic.clone() };
                for lengths in [&[12, 7][..], &[60, 41]] {
                    tally.add(model, &settings, lengths, points);
                }
            }
            let mut open: BTreeMap<&str, usize> = BTreeMap::new();
            tally
                .open
                .iter()
                .filter_map(|text| text.rsplit(": ").next())
                .for_each(|id| *open.entry(id).or_default() += 1);
            let by_id: Vec<String> = open.iter().map(|(id, count)| format!("{id} {count}")).collect();
            println!(
                "| {name} | {model_name} | {} | {} | {} | {} | {} |",
                tally.searched,
                tally.claimed,
                tally.sharp,
                tally.wrong.len(),
                by_id.join(", ")
            );
            wrong.extend(tally.wrong.into_iter().map(|what| format!("{name}, {model_name}, {what}")));
            tally.open.iter().for_each(|what| eprintln!("{name}, {model_name}, {what}"));
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}
