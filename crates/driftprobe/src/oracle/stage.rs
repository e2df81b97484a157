//! The graph of stages: which recorded point is computed from which others, with which weights.

use driftprobe_model::{Config, WeightId};
use driftprobe_trace::Point;

/// A recorded tensor of the same phase and row that a stage reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Input {
    /// The point.
    pub point: Point,
    /// Its layer; −1 for unlayered points.
    pub layer: i32,
}

/// What a stage computes. Inputs stand in the order of [`Way::inputs`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Op {
    /// The token's row of the embedding matrix, by the config's factor.
    Embed,
    /// The input itself.
    Copy,
    /// RMS norm of the row, or of each head.
    Norm {
        /// Its weight.
        weight: WeightId,
        /// Whether each head is normed by itself.
        per_head: bool,
    },
    /// x·Wᵀ, with a bias, capped.
    Linear {
        /// W.
        weight: WeightId,
        /// The bias.
        bias: Option<WeightId>,
        /// cap·tanh(y/cap).
        softcap: Option<f64>,
    },
    /// The rotary embedding.
    Rope,
    /// A row written to the cache. The input is the row as it was before; every position of the same phase counts.
    KvWrite,
    /// Scores, from Q and the cached keys.
    Scores,
    /// Softmax of the recorded scores.
    Softmax,
    /// Softmax of scores from Q and the cached keys.
    ScoresSoftmax,
    /// Probabilities times the cached values.
    Weigh,
    /// All of attention, from Q and the cached keys and values.
    Attention,
    /// activation(gate)·up.
    Gated,
    /// The sum of both inputs.
    Add,
}

/// One way to compute a stage.
#[derive(Clone, Debug, PartialEq)]
pub struct Way {
    /// What is computed.
    pub op: Op,
    /// From what.
    pub inputs: Vec<Input>,
}

/// One stage of the forward pass.
#[derive(Clone, Debug, PartialEq)]
pub struct Stage {
    /// The point that it gives.
    pub point: Point,
    /// The layer; −1 for unlayered points.
    pub layer: i32,
    /// How it can be computed, the sharpest way first: the first whose inputs are all recorded is taken.
    pub ways: Vec<Way>,
}

/// All stages of a model, in the order of the computation: the embedding, the layers, the end.
pub fn graph(config: &Config) -> Vec<Stage> {
    let mut stages = vec![Stage { point: Point::EmbedOut, layer: -1, ways: vec![way(Op::Embed, [])] }];
    for layer in 0..config.num_hidden_layers {
        Layer { config, l: layer, number: i32::try_from(layer).unwrap_or(i32::MAX) }.push(&mut stages);
    }
    let last =
        Input { point: Point::ResidualPostMlp, layer: i32::try_from(config.num_hidden_layers).unwrap_or(i32::MAX) - 1 };
    let unlayered = |point| Input { point, layer: -1 };
    let norm = Op::Norm { weight: WeightId::Norm, per_head: false };
    let head = if config.tie_word_embeddings { WeightId::Embed } else { WeightId::LmHead };
    let logits = Op::Linear { weight: head, bias: None, softcap: config.final_softcap };
    let end = [
        (Point::FinalNormIn, vec![way(Op::Copy, [last])]),
        (Point::FinalNormOut, vec![way(norm, [unlayered(Point::FinalNormIn)]), way(norm, [last])]),
        (Point::Logits, vec![way(logits, [unlayered(Point::FinalNormOut)])]),
    ];
    stages.extend(end.map(|(point, ways)| Stage { point, layer: -1, ways }));
    stages
}

fn way<const N: usize>(op: Op, inputs: [Input; N]) -> Way {
    Way { op, inputs: inputs.to_vec() }
}

/// One layer.
struct Layer<'a> {
    config: &'a Config,
    l: usize,
    number: i32,
}

impl Layer<'_> {
    fn at(&self, point: Point) -> Input {
        Input { point, layer: self.number }
    }

    fn push(&self, stages: &mut Vec<Stage>) {
        let all = self.attention_inputs().into_iter().chain(self.attention()).chain(self.mlp());
        stages.extend(all.map(|(point, ways)| Stage { point, layer: self.number, ways }));
    }

    /// What holds the same values as what enters the layer: the end of the layer before, or the embedding.
    fn before(&self) -> Input {
        match self.number {
            0 => Input { point: Point::EmbedOut, layer: -1 },
            n => Input { point: Point::ResidualPostMlp, layer: n - 1 },
        }
    }

    fn linear(&self, weight: WeightId, bias: Option<WeightId>, from: Point) -> Vec<Way> {
        vec![way(Op::Linear { weight, bias, softcap: None }, [self.at(from)])]
    }

    /// A norm of what enters the layer may also be computed from what holds the same values.
    fn norm(&self, weight: WeightId, from: Point) -> Vec<Way> {
        let op = Op::Norm { weight, per_head: false };
        let mut ways = vec![way(op, [self.at(from)])];
        if from == Point::ResidualPreAttn {
            ways.push(way(op, [self.before()]));
        }
        ways
    }

    fn attention_inputs(&self) -> Vec<(Point, Vec<Way>)> {
        use Point::*;
        use WeightId::*;
        let (c, l) = (self.config, self.l);
        let bias = |id| Some(id).filter(|_| c.qkv_bias);
        let q = self.linear(QProj(l), bias(QBias(l)), AttnNormOut);
        let k = self.linear(KProj(l), bias(KBias(l)), AttnNormOut);
        let mut all = vec![
            (ResidualPreAttn, vec![way(Op::Copy, [self.before()])]),
            (AttnNormOut, self.norm(InputNorm(l), ResidualPreAttn)),
        ];
        if c.qk_norm {
            let norm = |weight, from| vec![way(Op::Norm { weight, per_head: true }, [self.at(from)])];
            all.extend([(QProjOut, q), (KProjOut, k)]);
            all.extend([(QPreRope, norm(QNorm(l), QProjOut)), (KPreRope, norm(KNorm(l), KProjOut))]);
        } else {
            all.extend([(QPreRope, q), (KPreRope, k)]);
        }
        all.extend([
            (Point::VProj, self.linear(WeightId::VProj(l), bias(VBias(l)), AttnNormOut)),
            (QPostRope, vec![way(Op::Rope, [self.at(QPreRope)])]),
            (KPostRope, vec![way(Op::Rope, [self.at(KPreRope)])]),
            (KCache, vec![way(Op::KvWrite, [self.at(KPostRope)])]),
            (VCache, vec![way(Op::KvWrite, [self.at(Point::VProj)])]),
        ]);
        all
    }

    fn attention(&self) -> Vec<(Point, Vec<Way>)> {
        use Point::*;
        use WeightId::*;
        let (c, l) = (self.config, self.l);
        let at = |point| self.at(point);
        let mut all = vec![
            (AttnScores, vec![way(Op::Scores, [at(QPostRope), at(KCache)])]),
            (AttnProbs, vec![way(Op::Softmax, [at(AttnScores)]), way(Op::ScoresSoftmax, [at(QPostRope), at(KCache)])]),
            (
                AttnOut,
                vec![
                    way(Op::Weigh, [at(AttnProbs), at(VCache)]),
                    way(Op::Attention, [at(QPostRope), at(KCache), at(VCache)]),
                ],
            ),
            (AttnProjOut, self.linear(OProj(l), Some(OBias(l)).filter(|_| c.o_bias), AttnOut)),
        ];
        let mut branch = AttnProjOut;
        if c.post_norms {
            all.push((AttnPostNormOut, self.norm(PostAttentionNorm(l), AttnProjOut)));
            branch = AttnPostNormOut;
        }
        let sum = [[at(ResidualPreAttn), at(branch)], [self.before(), at(branch)]];
        all.push((ResidualPostAttn, sum.map(|inputs| way(Op::Add, inputs)).to_vec()));
        all
    }

    fn mlp(&self) -> Vec<(Point, Vec<Way>)> {
        use Point::*;
        use WeightId::*;
        let (c, l) = (self.config, self.l);
        let bias = |id| Some(id).filter(|_| c.mlp_bias);
        let norm = if c.post_norms { PreFeedforwardNorm(l) } else { PostAttentionNorm(l) };
        let mut all = vec![
            (FfnNormOut, self.norm(norm, ResidualPostAttn)),
            (MlpGate, self.linear(Gate(l), bias(GateBias(l)), FfnNormOut)),
            (MlpUp, self.linear(Up(l), bias(UpBias(l)), FfnNormOut)),
            (MlpAct, vec![way(Op::Gated, [self.at(MlpGate), self.at(MlpUp)])]),
            (MlpOut, self.linear(Down(l), bias(DownBias(l)), MlpAct)),
        ];
        let mut branch = MlpOut;
        if c.post_norms {
            all.push((MlpPostNormOut, self.norm(PostFeedforwardNorm(l), MlpOut)));
            branch = MlpPostNormOut;
        }
        all.push((ResidualPostMlp, vec![way(Op::Add, [self.at(ResidualPostAttn), self.at(branch)])]));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use driftprobe_model::Model;
    use driftprobe_trace::Only;

    fn stage(stages: &[Stage], point: Point, layer: i32) -> &Stage {
        stages.iter().find(|s| (s.point, s.layer) == (point, layer)).unwrap()
    }

    #[test]
    fn layers_are_chained_and_the_stages_stand_in_search_order() {
        let config = Model::demo().unwrap().config;
        let stages = graph(&config);
        let copied = |point, layer| stage(&stages, point, layer).ways[0].inputs[0];
        assert_eq!(copied(Point::ResidualPreAttn, 0), Input { point: Point::EmbedOut, layer: -1 });
        assert_eq!(copied(Point::ResidualPreAttn, 3), Input { point: Point::ResidualPostMlp, layer: 2 });
        let last = config.num_hidden_layers as i32 - 1;
        assert_eq!(copied(Point::FinalNormIn, -1), Input { point: Point::ResidualPostMlp, layer: last });
        let of_layer = |l: i32| stages.iter().filter(move |s| s.layer == l).map(|s| s.point).collect::<Vec<_>>();
        assert!(of_layer(2).is_sorted());
        assert_eq!(of_layer(2), of_layer(0));
    }

    #[test]
    fn a_plain_llama_has_no_stage_that_only_others_have() {
        let mut config = Model::demo().unwrap().config;
        let has = |config: &Config, point: Point| graph(config).iter().any(|s| s.point == point);
        let wrong = |config: &Config, with: [Only; 2]| -> Vec<Point> {
            let should = |p: &Point| p.only().is_none_or(|only| with.contains(&only));
            Point::ALL.iter().copied().filter(|p| has(config, *p) != should(p)).collect()
        };
        (config.qk_norm, config.post_norms) = (true, false);
        assert_eq!(wrong(&config, [Only::QkNorm; 2]), []);
        (config.qk_norm, config.post_norms) = (false, true);
        assert_eq!(wrong(&config, [Only::PostNorms; 2]), []);
        (config.qk_norm, config.post_norms) = (true, true);
        assert!(Point::ALL.iter().all(|p| has(&config, *p)));
        let stages = graph(&config);
        let norm = |weight| Op::Norm { weight, per_head: false };
        assert_eq!(stage(&stages, Point::FfnNormOut, 1).ways[0].op, norm(WeightId::PreFeedforwardNorm(1)));
        assert_eq!(stage(&stages, Point::ResidualPostMlp, 1).ways[0].inputs[1].point, Point::MlpPostNormOut);
        assert_eq!(stage(&stages, Point::QPreRope, 1).ways[0].inputs[0].point, Point::QProjOut);
    }

    #[test]
    fn a_tied_head_uses_the_embedding() {
        let mut config = Model::demo().unwrap().config;
        config.tie_word_embeddings = true;
        config.final_softcap = Some(30.0);
        let op = Op::Linear { weight: WeightId::Embed, bias: None, softcap: Some(30.0) };
        assert_eq!(graph(&config).last().unwrap().ways[0].op, op);
    }
}
