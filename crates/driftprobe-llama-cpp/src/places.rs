//! Which node of llama.cpp's graph is which point: by name, operation and what feeds it.
//!
//! Names are not unique: `Qcur-3` is a product, its sum with the bias, that sum by heads, and all of it rotated; `norm-3`
//! stands twice. So a point is a name *and* an operation, and rows are known by the axis that counts tokens.

use driftprobe_model::Config;
use driftprobe_trace::Point;
use llama_cpp_sys_2 as sys;

/// What is known of a node without its values.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its operation.
    pub op: sys::ggml_op,
    /// Name of its second source.
    pub fed_by: &'a str,
    /// Name of the tensor whose memory it shows.
    pub root: &'a str,
}

/// What a node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// The first node of a micro-batch, which tells how many tokens that has.
    Start,
    /// These points, in this layer each; tokens are counted by this axis.
    Rows(Vec<(Point, usize)>, usize),
    /// Scores of a layer, before what softmax does to them: scale and mask.
    Scores(usize),
    /// Probabilities of a layer.
    Softmax(usize),
    /// Keys of a layer were written to the cache.
    KeysWritten(usize),
    /// Values of a layer were written to the cache.
    ValuesWritten(usize),
}

/// The roles in the graphs of one model.
#[derive(Clone, Debug)]
pub struct Places {
    layers: usize,
    qk_norm: bool,
    o_bias: bool,
    mlp_bias: bool,
    embed_scaled: bool,
    scores_capped: bool,
}

impl Places {
    /// Of this model.
    pub fn new(config: &Config) -> Places {
        Places {
            layers: config.num_hidden_layers,
            qk_norm: config.qk_norm,
            o_bias: config.o_bias,
            mlp_bias: config.mlp_bias,
            embed_scaled: config.embed_scale.is_some(),
            scores_capped: config.attn_softcap.is_some(),
        }
    }

    /// What this node is; `current` is the layer that is being computed. None: nothing that is known.
    pub fn role(&self, seen: &Seen<'_>, current: usize) -> Option<Role> {
        if seen.op == sys::GGML_OP_SET_ROWS {
            return cache(seen.root);
        }
        let (stem, layer) = split(seen.name);
        let rows = |points: Vec<(Point, usize)>| Some(Role::Rows(points, 1));
        let Some(layer) = layer else { return self.unlayered(stem, seen, current) };
        if layer >= self.layers {
            return None;
        }
        if let Some(role) = self.heads(stem, layer, seen.op) {
            return Some(role);
        }
        let point = match (stem, seen.op) {
            ("attn_norm", _) => Point::AttnNormOut,
            ("kqv_out", _) => Point::AttnOut,
            ("attn_out", _) => Point::AttnProjOut,
            ("attn_post_norm", _) => Point::AttnPostNormOut,
            ("ffn_inp" | "sa_out", _) => Point::ResidualPostAttn,
            ("ffn_norm", _) => Point::FfnNormOut,
            ("ffn_gate", sys::GGML_OP_MUL_MAT) if !self.mlp_bias => Point::MlpGate,
            ("ffn_up", sys::GGML_OP_MUL_MAT) if !self.mlp_bias => Point::MlpUp,
            ("ffn_gate_b", _) => Point::MlpGate,
            ("ffn_up_b", _) => Point::MlpUp,
            ("ffn_swiglu" | "ffn_geglu", _) => Point::MlpAct,
            ("ffn_out", _) => Point::MlpOut,
            ("l_out", _) => return rows(self.end_of_layer(layer)),
            _ => return None,
        };
        rows(vec![(point, layer)])
    }

    /// Nodes that are counted by heads, and attention's inner ones.
    fn heads(&self, stem: &str, layer: usize, op: sys::ggml_op) -> Option<Role> {
        let by_head = |point| Some(Role::Rows(vec![(point, layer)], 2));
        match (stem, op) {
            // The projection with its bias, if any, as heads: the last node of this name before the next operation.
            ("Qcur", sys::GGML_OP_RESHAPE) => by_head(if self.qk_norm { Point::QProjOut } else { Point::QPreRope }),
            ("Kcur", sys::GGML_OP_RESHAPE) => by_head(if self.qk_norm { Point::KProjOut } else { Point::KPreRope }),
            ("Vcur", sys::GGML_OP_RESHAPE) => by_head(Point::VProj),
            ("Qcur_normed", _) => by_head(Point::QPreRope),
            ("Kcur_normed", _) => by_head(Point::KPreRope),
            ("Qcur", sys::GGML_OP_ROPE) => by_head(Point::QPostRope),
            ("Kcur", sys::GGML_OP_ROPE) => by_head(Point::KPostRope),
            ("kq", sys::GGML_OP_MUL_MAT) if !self.scores_capped => Some(Role::Scores(layer)),
            ("kq_scaled_2", _) if self.scores_capped => Some(Role::Scores(layer)),
            ("kq_soft_max", _) => Some(Role::Softmax(layer)),
            _ => None,
        }
    }

    /// Nodes whose name has no layer.
    fn unlayered(&self, stem: &str, seen: &Seen<'_>, current: usize) -> Option<Role> {
        let begins = || vec![(Point::EmbedOut, 0), (Point::ResidualPreAttn, 0)];
        let points = match (stem, seen.op) {
            ("embd", sys::GGML_OP_GET_ROWS) => return Some(Role::Start),
            ("inp_scaled", _) if self.embed_scaled => begins(),
            ("ffn_post_norm", _) => vec![(Point::MlpPostNormOut, current)],
            ("result_norm", _) => vec![(Point::FinalNormOut, 0)],
            ("result_output", _) => vec![(Point::Logits, 0)],
            // Only some graphs name attention's projection.
            (_, sys::GGML_OP_MUL_MAT) if !self.o_bias => match split(seen.fed_by) {
                ("kqv_out", Some(layer)) if layer < self.layers => vec![(Point::AttnProjOut, layer)],
                _ => return None,
            },
            _ => return None,
        };
        Some(Role::Rows(points, 1))
    }

    /// What the first node shows, beside the number of tokens.
    pub fn start(&self) -> Vec<(Point, usize)> {
        if self.embed_scaled { Vec::new() } else { vec![(Point::EmbedOut, 0), (Point::ResidualPreAttn, 0)] }
    }

    /// What leaves a layer enters the next one, or the last norm.
    fn end_of_layer(&self, layer: usize) -> Vec<(Point, usize)> {
        let next = if layer + 1 < self.layers { (Point::ResidualPreAttn, layer + 1) } else { (Point::FinalNormIn, 0) };
        vec![(Point::ResidualPostMlp, layer), next]
    }
}

/// `attn_norm-3` is `attn_norm` of layer 3.
pub fn split(name: &str) -> (&str, Option<usize>) {
    match name.rsplit_once('-') {
        Some((stem, number)) => match number.parse() {
            Ok(layer) => (stem, Some(layer)),
            Err(_) => (name, None),
        },
        None => (name, None),
    }
}

/// The cache that a tensor of this name is: `cache_k_l3`.
fn cache(root: &str) -> Option<Role> {
    let layer = |rest: &str| rest.parse().ok();
    match (root.strip_prefix("cache_k_l"), root.strip_prefix("cache_v_l")) {
        (Some(rest), _) => layer(rest).map(Role::KeysWritten),
        (_, Some(rest)) => layer(rest).map(Role::ValuesWritten),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use driftprobe_model::Model;

    fn places(change: impl Fn(&mut Config)) -> Places {
        let mut config = Model::demo().unwrap().config;
        change(&mut config);
        Places::new(&config)
    }

    fn seen(name: &str, op: sys::ggml_op) -> Seen<'_> {
        Seen { name, op, fed_by: "", root: name }
    }

    fn one(point: Point, layer: usize, axis: usize) -> Option<Role> {
        Some(Role::Rows(vec![(point, layer)], axis))
    }

    #[test]
    fn nodes_of_one_name_are_told_apart_by_their_operation() {
        let llama = places(|_| ());
        let of = |op| llama.role(&seen("Qcur-1", op), 1);
        assert_eq!(of(sys::GGML_OP_MUL_MAT), None, "a bias may follow");
        assert_eq!(of(sys::GGML_OP_RESHAPE), one(Point::QPreRope, 1, 2));
        assert_eq!(of(sys::GGML_OP_ROPE), one(Point::QPostRope, 1, 2));
        let qwen3 = places(|c| c.qk_norm = true);
        assert_eq!(qwen3.role(&seen("Kcur-0", sys::GGML_OP_RESHAPE), 0), one(Point::KProjOut, 0, 2));
        assert_eq!(qwen3.role(&seen("Kcur_normed-0", sys::GGML_OP_MUL), 0), one(Point::KPreRope, 0, 2));
    }

    #[test]
    fn what_leaves_a_layer_enters_the_next_and_the_last_one_enters_the_norm() {
        let llama = places(|_| ());
        let end = |layer: usize| llama.role(&seen(&format!("l_out-{layer}"), sys::GGML_OP_ADD), layer);
        let both = |a, b| Some(Role::Rows(vec![a, b], 1));
        assert_eq!(end(0), both((Point::ResidualPostMlp, 0), (Point::ResidualPreAttn, 1)));
        let last = llama.layers - 1;
        assert_eq!(end(last), both((Point::ResidualPostMlp, last), (Point::FinalNormIn, 0)));
        assert_eq!(end(last + 1), None);
    }

    #[test]
    fn a_projection_without_a_name_is_known_by_what_feeds_it() {
        let qwen = places(|_| ());
        let fed = Seen { name: "node_42", op: sys::GGML_OP_MUL_MAT, fed_by: "kqv_out-2", root: "node_42" };
        assert_eq!(qwen.role(&fed, 2), one(Point::AttnProjOut, 2, 1));
        assert_eq!(places(|c| c.o_bias = true).role(&fed, 2), None, "its bias is still to come");
        assert_eq!(qwen.role(&Seen { fed_by: "kqv-2", ..fed }, 2), None);
    }

    #[test]
    fn writes_to_the_cache_are_known_by_the_tensor_that_they_change() {
        let llama = places(|_| ());
        let write = |root| Seen { name: "x (view)", op: sys::GGML_OP_SET_ROWS, fed_by: "", root };
        assert_eq!(llama.role(&write("cache_k_l3"), 0), Some(Role::KeysWritten(3)));
        assert_eq!(llama.role(&write("cache_v_l11"), 0), Some(Role::ValuesWritten(11)));
        assert_eq!(llama.role(&write("cache_r_l1"), 0), None);
    }

    #[test]
    fn gemma_has_a_scaled_embedding_capped_scores_and_a_norm_without_a_layer() {
        let gemma = places(|c| (c.embed_scale, c.attn_softcap) = (Some(8.0), Some(50.0)));
        assert!(gemma.start().is_empty());
        let embedded = Some(Role::Rows(vec![(Point::EmbedOut, 0), (Point::ResidualPreAttn, 0)], 1));
        assert_eq!(gemma.role(&seen("inp_scaled", sys::GGML_OP_SCALE), 0), embedded);
        assert_eq!(gemma.role(&seen("kq-0", sys::GGML_OP_MUL_MAT), 0), None);
        assert_eq!(gemma.role(&seen("kq_scaled_2-0", sys::GGML_OP_SCALE), 0), Some(Role::Scores(0)));
        assert_eq!(gemma.role(&seen("ffn_post_norm", sys::GGML_OP_MUL), 5), one(Point::MlpPostNormOut, 5, 1));
    }
}
