//! Batches of several sequences, and prefills so long that attention takes their tokens in turns.

use crate::support::{FAMILIES, blocked, engine, expected, model, plain, tapped, values, worst_row};
use driftprobe_engine::{EmbeddedEngine, Selection, Settings};
use driftprobe_model::Model;
use driftprobe_trace::{Phase, Point};
use std::path::Path;

/// Largest relative error of a row of logits, as the cross-check has it.
const REL_ERROR_MAX: f64 = 2e-6;

#[test]
fn a_batch_multiplies_by_the_kernel_for_many_rows_and_is_right() {
    let selection = Selection { points: [Point::QPreRope].into(), layers: [0].into() };
    let mut differ = 0;
    for path in FAMILIES {
        let (tokens, expected) = expected(path);
        let all = 0..tokens.len();
        let of = |batch, phase| {
            tapped(&engine(path, &Settings { batch, ..plain() }), phase, &tokens, (&selection, all.clone()))
        };
        // As many sequences as prefill has tokens, since that kernel's own order depends on how many rows it has.
        let [(_, prefill), (_, alone), (found, many)] =
            [of(1, Phase::Prefill), of(1, Phase::Decode), of(tokens.len(), Phase::Decode)];
        let error = worst_row(&found, &expected, tokens.len());
        assert!(error <= REL_ERROR_MAX, "{path}: {error:e}");
        // The inputs of the first layer are the same in both phases: only the kernel can part them.
        for ((prefill, alone), many) in prefill.iter().zip(&alone).zip(&many) {
            assert_eq!((prefill.pos, &prefill.shape), (many.pos, &many.shape));
            assert_eq!(prefill.bytes, many.bytes, "{path}, position {}: not prefill's kernel", many.pos);
            differ += usize::from(alone.bytes != many.bytes);
        }
    }
    assert!(differ > 0, "one sequence alone goes through the kernel for one row");
}

#[test]
fn a_batch_of_nothing_is_refused() {
    let model = Model::open(Path::new("DEMO")).unwrap();
    assert!(EmbeddedEngine::new(&model, Settings { batch: 0, ..plain() }).is_err());
}

#[test]
fn a_long_prefill_attends_to_the_same_keys_as_one_in_chunks() {
    let path = "hf/llama";
    let heads = model(path).config.num_attention_heads;
    let tokens: Vec<u32> = (0..1100).map(|i| (i * 7 + i / 11) % 48).collect();
    assert!(heads * tokens.len() * tokens.len() > 1 << 22, "all scores at once are more than attention holds");
    assert!(heads * 50 * tokens.len() < 1 << 22, "those of a chunk are not");
    // The first and the last rows of the turns that attention takes, and those between them.
    let ends = 950..tokens.len();
    let points = [Point::AttnScores, Point::AttnProbs, Point::AttnOut];
    let selection = Selection { points: points.into(), layers: [0].into() };
    for (settings, shown) in [(plain(), 3), (blocked(64), 2)] {
        let of =
            |settings: Settings| tapped(&engine(path, &settings), Phase::Prefill, &tokens, (&selection, ends.clone()));
        let (whole, rows) = of(settings.clone());
        let (parts, theirs) = of(Settings { prefill_chunk_tokens: Some(50), ..settings });
        let error = worst_row(&whole, &parts, tokens.len());
        assert!(error < 1e-5, "{error:e}");
        assert_eq!((rows.len(), theirs.len()), (shown * ends.len(), shown * ends.len()));
        for row in &rows {
            let same = theirs.iter().find(|other| (other.point, other.pos) == (row.point, row.pos)).unwrap();
            assert_eq!(same.shape, row.shape);
            for (ours, theirs) in values(row).into_iter().zip(values(same)) {
                assert!(
                    ours == theirs || (ours - theirs).abs() <= 1e-5,
                    "{} at {}: {ours} {theirs}",
                    row.point,
                    row.pos
                );
            }
        }
    }
}
