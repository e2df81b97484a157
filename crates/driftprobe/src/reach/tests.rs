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
fn norms() {
    use super::order::*;
    use driftprobe_engine::record::{Plan, Unwatched, record};
    use driftprobe_engine::{EmbeddedEngine, Settings};
    use driftprobe_trace::*;
    let model = driftprobe_model::Model::demo().unwrap();
    let engine = EmbeddedEngine::new(&model, Settings::default()).unwrap();
    let plan = Plan {
        steps: 4,
        ..Plan::everything(
            &engine,
            vec![PromptInfo { id: "p".into(), tokens: (0..40).collect(), ..Default::default() }],
        )
    };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    record(&engine, &plan, &path, Manifest::default(), &mut Unwatched).unwrap();
    let run = Run::open(&path).unwrap();
    let replay = crate::oracle::Replay::new(&model, run.manifest.as_ref());
    let cases = replay.cases(&run.events, &run, Phase::Prefill, &|_, p, _| p.point == Point::FfnNormOut).unwrap();
    let truth = Sum::vector(false, (4, 8), (Tree::Neighbours, Tree::HalvesThenNeighbours), Rest::OnTop);
    for c in &cases {
        let row = super::prepare::prepare(&model, c, Some(40), None).unwrap();
        println!(
            "{} {} {:?}",
            c.layer,
            c.pos,
            [Norm::ByReciprocal, Norm::ByQuotient, Norm::BySquareRoot, Norm::WeightFirst]
                .map(|n| row.run(&Order::Norm(n, truth), 64))
        );
    }
    println!("{:?}", super::catalogue::dots(64).contains(&truth));
}
