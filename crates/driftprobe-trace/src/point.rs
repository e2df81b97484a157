//! The points of a forward pass that a trace can hold, in the order in which the first failure is searched.
//!
//! A point's id is stable: new points may be added, none is renamed.

use std::fmt;

/// What some models have and others have not, and with it points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Only {
    /// Norms of Q and K before they are rotated.
    QkNorm,
    /// Norms after attention and after the MLP.
    PostNorms,
}

macro_rules! points {
    (@only) => { None };
    (@only $with:ident) => { Some(Only::$with) };
    ($($variant:ident, $id:literal, [$($alias:literal),*], $layered:literal, $code:literal, $doc:literal $(, only $with:ident)?;)*) => {
        /// A named place in the forward pass. The order of the variants is the order of the computation, and of the
        /// search for the first failure.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Point { $(#[doc = $doc] $variant,)* }

        impl Point {
            /// Every point, in search order.
            pub const ALL: &'static [Point] = &[$(Point::$variant,)*];

            /// The stable id, as it stands in an event.
            pub const fn id(self) -> &'static str { match self { $(Point::$variant => $id,)* } }

            /// The other spellings that engines use for it.
            pub const fn aliases(self) -> &'static [&'static str] { match self { $(Point::$variant => &[$($alias),*],)* } }

            /// Whether the point exists once a layer (`false`: once a forward pass, layer −1).
            pub const fn layered(self) -> bool { match self { $(Point::$variant => $layered,)* } }

            /// The failure code of this point, e.g. `ATTN_OUT_DRIFT`.
            pub const fn code(self) -> &'static str { match self { $(Point::$variant => $code,)* } }

            /// What a model must have to have this point; `None` where all models have it.
            pub const fn only(self) -> Option<Only> {
                match self { $(Point::$variant => points!(@only $($with)?),)* }
            }

            /// What the point is, and the shape of one token's row.
            pub const fn describe(self) -> &'static str { match self { $(Point::$variant => $doc,)* } }

            /// The point with this id or alias, or none.
            pub fn parse(name: &str) -> Option<Point> {
                match name { $($id $(| $alias)* => Some(Point::$variant),)* _ => None }
            }
        }
    };
}

points! {
    EmbedOut, "embed_out", [], false, "EMBED_DRIFT", "token embedding, after any scaling: `[hidden]`";
    ResidualPreAttn, "residual_pre_attn", ["x_in"], true, "RESIDUAL_PRE_ATTN_DRIFT", "what enters the layer: `[hidden]`";
    AttnNormOut, "attn_norm_out", [], true, "ATTN_NORM_DRIFT", "after the attention norm: `[hidden]`";
    QProjOut, "q_proj_out", ["q_proj"], true, "Q_PROJ_DRIFT", "Q projection with bias, before a q norm: `[heads, head_dim]`", only QkNorm;
    KProjOut, "k_proj_out", ["k_proj"], true, "K_PROJ_DRIFT", "K projection with bias, before a k norm: `[kv_heads, head_dim]`", only QkNorm;
    QPreRope, "q_pre_rope", [], true, "Q_PRE_ROPE_DRIFT", "Q as it enters the rotary embedding: `[heads, head_dim]`";
    KPreRope, "k_pre_rope", [], true, "K_PRE_ROPE_DRIFT", "K as it enters the rotary embedding: `[kv_heads, head_dim]`";
    VProj, "v_proj", [], true, "V_PROJ_DRIFT", "V: `[kv_heads, head_dim]`";
    QPostRope, "q_post_rope", [], true, "ROPE_DRIFT", "Q after the rotary embedding: `[heads, head_dim]`";
    KPostRope, "k_post_rope", [], true, "K_ROPE_DRIFT", "K after the rotary embedding: `[kv_heads, head_dim]`";
    KCache, "k_cache", [], true, "K_CACHE_DRIFT", "the keys this position's attention reads: `[kv_heads, seq, head_dim]`";
    VCache, "v_cache", [], true, "V_CACHE_DRIFT", "the values this position's attention reads: `[kv_heads, seq, head_dim]`";
    AttnScores, "attn_scores", [], true, "ATTN_SCORES_DRIFT", "scaled and masked scores, before softmax: `[heads, seq]`";
    AttnProbs, "attn_probs", [], true, "ATTN_PROBS_DRIFT", "after softmax: `[heads, seq]`";
    AttnOut, "attn_out", [], true, "ATTN_OUT_DRIFT", "attention output, before the output projection: `[heads × head_dim]`";
    AttnProjOut, "attn_proj_out", ["wo_out"], true, "ATTN_PROJ_DRIFT", "after the output projection: `[hidden]`";
    AttnPostNormOut, "attn_post_norm_out", [], true, "ATTN_POST_NORM_DRIFT", "after the norm that follows attention, where a model has one: `[hidden]`", only PostNorms;
    ResidualPostAttn, "residual_post_attn", ["x_after_attn", "ffn_norm_in"], true, "RESIDUAL_POST_ATTN_DRIFT", "what enters the FFN norm: `[hidden]`";
    FfnNormOut, "ffn_norm_out", ["ffn_norm"], true, "FFN_NORM_DRIFT", "after the FFN norm: `[hidden]`";
    MlpGate, "mlp_gate", [], true, "MLP_GATE_DRIFT", "gate projection: `[intermediate]`";
    MlpUp, "mlp_up", [], true, "MLP_UP_DRIFT", "up projection: `[intermediate]`";
    MlpAct, "mlp_act", [], true, "MLP_ACT_DRIFT", "activation(gate) × up: `[intermediate]`";
    MlpOut, "mlp_out", [], true, "MLP_OUT_DRIFT", "MLP output, before the residual add: `[hidden]`";
    MlpPostNormOut, "mlp_post_norm_out", [], true, "MLP_POST_NORM_DRIFT", "after the norm that follows the MLP, where a model has one: `[hidden]`", only PostNorms;
    ResidualPostMlp, "residual_post_mlp", ["x_out", "x_after_mlp"], true, "RESIDUAL_POST_MLP_DRIFT", "what leaves the layer: `[hidden]`";
    FinalNormIn, "final_norm_in", [], false, "FINAL_NORM_IN_DRIFT", "what enters the last norm: `[hidden]`";
    FinalNormOut, "final_norm_out", ["final_norm"], false, "FINAL_NORM_DRIFT", "after the last norm: `[hidden]`";
    Logits, "logits", ["logits_top1"], false, "LOGITS_DRIFT", "logits: `[vocab]`";
}

impl Point {
    /// Whether its rows are those of the cache.
    pub const fn is_cache(self) -> bool {
        matches!(self, Point::KCache | Point::VCache)
    }

    /// Whether its rows have a value a head and key.
    pub const fn is_per_key(self) -> bool {
        matches!(self, Point::AttnScores | Point::AttnProbs)
    }

    /// Whether attention itself computes it, between its projections.
    pub const fn is_of_attention(self) -> bool {
        self.is_per_key() || matches!(self, Point::AttnOut)
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.id())
    }
}
