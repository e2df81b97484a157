//! Orders against the kernels that they stand for.
use super::sum::*;
use super::terms::Products;
use candle_core::{D, Device, Tensor};

#[test]
fn candle_sums() {
    let mut seed = 1u32;
    for n in [64usize, 96, 128, 100] {
        for _ in 0..20 {
            let x: Vec<f32> = (0..n)
                .map(|_| {
                    seed = seed.wrapping_mul(1664525).wrapping_add(1013904223);
                    (seed >> 8) as f32 / 1e7 - 0.8
                })
                .collect();
            let t = Tensor::from_vec(x.clone(), (1, n), &Device::Cpu).unwrap();
            let s = t.sqr().unwrap().sum_keepdim(D::Minus1).unwrap().to_vec2::<f32>().unwrap()[0][0];
            let truth = Sum::vector(false, (4, 8), (Tree::Neighbours, Tree::HalvesThenNeighbours), Rest::OnTop);
            println!("{n} {s} {} {}", truth.of(n, &Products(&x, &x)), Sum::running(false).of(n, &Products(&x, &x)));
        }
    }
}

#[test]
fn splits() {
    use super::order::*;
    use driftprobe_engine::record::{Plan, Unwatched, record};
    use driftprobe_engine::{DecodeAttention, EmbeddedEngine, Settings};
    use driftprobe_trace::*;
    let model = driftprobe_model::Model::open(std::path::Path::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../fixtures/hf/llama"
    )))
    .unwrap();
    println!("{:?}", model.config);
    let engine = EmbeddedEngine::new(
        &model,
        Settings { decode_attention: DecodeAttention::SplitK { parts: 3 }, ..Settings::default() },
    )
    .unwrap();
    let plan = Plan {
        steps: 4,
        ..Plan::everything(&engine, vec![PromptInfo { id: "p".into(), tokens: (0..9).collect(), ..Default::default() }])
    };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    record(&engine, &plan, &path, Manifest::default(), &mut Unwatched).unwrap();
    let run = Run::open(&path).unwrap();
    let replay = crate::oracle::Replay::new(&model, run.manifest.as_ref());
    let cases = replay
        .cases(&run.events, &run, Phase::Decode, &|_, p, _| p.point == Point::AttnOut || p.point == Point::AttnScores)
        .unwrap();
    for c in cases.iter().filter(|c| c.point == Point::AttnOut) {
        let s = cases.iter().find(|s| s.point == Point::AttnScores && s.layer == c.layer && s.pos == c.pos);
        let row = super::prepare::prepare(&model, c, Some(1), s).unwrap();
        let o = |merge, values| {
            Order::Attend(Attend {
                parts: super::parts::Parts::Split(3),
                merge,
                sum: Sum::running(false),
                values,
                normalise: Normalise::Quotient,
                scores: None,
            })
        };
        println!(
            "{} {} {:?}",
            c.layer,
            c.pos,
            [
                o(Merge::InOrder, Sum::running(true)),
                o(Merge::InOrder, Sum::running(false)),
                o(Merge::Running, Sum::running(true)),
                o(Merge::AtEnd, Sum::running(true))
            ]
            .map(|o| row.run(&o, 64))
        );
        let all = super::tried::orders(&[row.clone()]);
        println!("   {:?}", all.iter().filter(|o| row.run(o, 1).differing == 0).map(|o| o.id()).collect::<Vec<_>>());
    }
}
