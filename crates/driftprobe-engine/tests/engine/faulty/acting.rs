//! Where each fault acts.

use super::traces::{Place, Traced, traced};
use super::{IDS, TOKENS, catalogue, faulty, open, sequence, subject};
use crate::support::{blocked, plain, split_k, stored};
use driftprobe_engine::faulty::{Fault, FaultKind, NormFault, Scope, Subject};
use driftprobe_engine::{EmbeddedEngine, Engine, QuantisedMatmul, Settings, Storage};
use driftprobe_trace::{Phase, Point};
use std::collections::BTreeSet;
use std::ops::Range;

/// The point at which each fault shows first, by the definitions of the points. `probs` says whether the phase shows
/// probabilities, `qk_norm` whether the model has norms on Q and K.
fn expected(fault: &Fault, probs: bool, qk_norm: bool) -> Point {
    use Point::*;
    let text = fault.kind.to_string();
    let (id, parameters) = text.split_once(':').unwrap_or((&text, ""));
    let place = parameters.split(':').next().unwrap_or_default();
    let behind_scores = if probs { AttnProbs } else { AttnOut };
    match (id, place) {
        ("K_WITHOUT_ROPE", _) => KPostRope,
        ("ROPE_POSITION_OFFSET" | "ROPE_THETA" | "ROPE_LAYOUT" | "ROPE_SCALING" | "ROPE_TABLE_PRECISION", _) => {
            QPostRope
        }
        ("MASK_SEES_FUTURE" | "SOFTMAX_UNNORMALISED", _) => behind_scores,
        ("MASK_MISSES_NEWEST" | "MASK_MISSES_FIRST" | "MASK_WINDOW", _) => AttnScores,
        ("KV_SWAPPED_SLOTS", "v") => VCache,
        ("KV_SWAPPED_SLOTS", _) => KCache,
        ("KV_STALE_SLOT" | "KV_DUPLICATED_SLOT" | "KV_FOREIGN_ROW", _) => KCache,
        ("KV_EXCHANGED" | "KV_PRECISION" | "KV_NOT_WRITTEN", _) => KCache,
        ("GQA_MAP" | "SCALE_MISSING" | "SCALE_WRONG", _) | ("SOFTCAP_MISSING", "attn") => AttnScores,
        ("HEAD_SWAP" | "HEAD_LAYOUT" | "SOFTMAX_MERGE", _) => AttnOut,
        ("NORM_EPS" | "NORM_WEIGHT_PLUS_ONE" | "NORM_MEAN_SUBTRACTED" | "NORM_SKIPPED", norm) => match norm {
            "attn" => AttnNormOut,
            "q" => QPreRope,
            "k" => KPreRope,
            "attn_post" => AttnPostNormOut,
            "ffn" => FfnNormOut,
            "mlp_post" => MlpPostNormOut,
            "final" => FinalNormOut,
            _ => panic!("{fault}"),
        },
        (
            "WEIGHT_TRANSPOSED"
            | "BIAS_MISSING"
            | "BIAS_REPEATED"
            | "WEIGHT_OTHER_LAYER"
            | "TAIL_DROPPED"
            | "QUANT_SCALE"
            | "ACCUMULATOR_SATURATED",
            matrix,
        ) => match matrix {
            "q" if qk_norm => QProjOut,
            "k" if qk_norm => KProjOut,
            "q" => QPreRope,
            "k" => KPreRope,
            "v" => VProj,
            "o" => AttnProjOut,
            "gate" => MlpGate,
            "up" => MlpUp,
            "down" => MlpOut,
            "lm_head" => Logits,
            _ => panic!("{fault}"),
        },
        ("GATE_UP_SWAPPED", "weights") => MlpGate,
        ("GATE_UP_SWAPPED", _) | ("ACTIVATION_WRONG", _) => MlpAct,
        ("RESIDUAL_DROPPED" | "RESIDUAL_DOUBLED", "attn") => ResidualPostAttn,
        ("RESIDUAL_DROPPED" | "RESIDUAL_DOUBLED", _) => ResidualPostMlp,
        ("EMBED_SCALE" | "EMBED_ROW", _) => EmbedOut,
        ("LM_HEAD_ROW" | "LM_HEAD_WEIGHT", _) | ("SOFTCAP_MISSING", _) => Logits,
        _ => panic!("{fault} is not in the table"),
    }
}

/// The layers that are looked at: one before the one that is hit, and one after.
fn around(layer: usize) -> Range<usize> {
    layer.saturating_sub(1)..layer + 2
}

/// A model with settings, and what the clean engine does in either phase.
struct Bench<'a> {
    subject: Subject<'a>,
    tokens: Vec<u32>,
    /// The layer that is hit in tests of one layer.
    layer: usize,
    clean: [Traced; 2],
    shows_probs: [bool; 2],
}

impl<'a> Bench<'a> {
    fn new(subject: Subject<'a>, layer: usize) -> Bench<'a> {
        let engine = EmbeddedEngine::new(subject.model, subject.settings.clone()).unwrap();
        let tokens = sequence(engine.vocab());
        let clean = Phase::ALL.map(|phase| traced(&engine, phase, &tokens, around(layer)));
        let shows_probs = Phase::ALL.map(|phase| engine.points(phase).contains(&Point::AttnProbs));
        Bench { subject, tokens, layer, clean, shows_probs }
    }

    fn expected(&self, fault: &Fault, phase: Phase) -> Point {
        let expected = expected(fault, self.shows_probs[phase as usize], self.subject.config().qk_norm);
        assert_eq!(fault.point(&self.subject, phase), expected, "{fault}: what the engine itself says");
        expected
    }

    /// Asserts that a fault of one phase acts where it should, and there only.
    fn assert_acts(&self, fault: &Fault) {
        let (phase, engine) = (fault.scope.phase.unwrap(), faulty(&self.subject, fault));
        let differing = self.differing(&engine, phase);
        let (_, layer, point, _) = *differing.first().unwrap_or_else(|| panic!("{fault} does nothing"));
        assert_eq!((point, layer), (self.expected(fault, phase), self.layer(fault, point)), "{fault}");
        if point != Point::Logits && !self.is_swallowed(fault) {
            let on = |place: &&Place| (place.1, place.2) > (layer, point);
            assert!(differing.iter().any(|p| on(&p)), "{fault} does not go on");
        }
        let other = if phase == Phase::Prefill { Phase::Decode } else { Phase::Prefill };
        let there = traced(&engine, other, &self.tokens, around(self.layer));
        assert!(there.equals(&self.clean[other as usize]), "{fault} is seen in {other}");
    }

    fn differing(&self, engine: &dyn Engine, phase: Phase) -> Vec<Place> {
        traced(engine, phase, &self.tokens, around(self.layer)).differing(&self.clean[phase as usize], phase)
    }

    /// Quantised activations may round a small ε's traces away.
    fn is_swallowed(&self, fault: &Fault) -> bool {
        let engine = EmbeddedEngine::new(self.subject.model, self.subject.settings.clone()).unwrap();
        let small = matches!(fault.kind, FaultKind::Norm(NormFault::Eps(_, eps)) if eps < 1e-4);
        small && engine.contract().flat.activation_quant.is_some()
    }

    fn layer(&self, fault: &Fault, point: Point) -> usize {
        match (point, fault.scope.layer) {
            (Point::EmbedOut, _) => 0,
            (point, _) if !point.layered() => usize::MAX,
            (_, layer) => layer.unwrap() + 1,
        }
    }
}

fn split() -> Settings {
    Settings { decode_attention: split_k(3).decode_attention, ..blocked(4) }
}

/// A model, settings, and the layer to be hit. Between them they have every fault of the catalogue.
type Case = (&'static str, Settings, usize);

fn trained() -> Vec<Case> {
    vec![("DEMO", plain(), 2)]
}

fn families() -> Vec<Case> {
    let chunked = Settings { prefill_chunk_tokens: Some(5), ..stored(Storage::F32, Storage::F16) };
    vec![
        ("hf/llama", plain(), 1),
        ("hf/llama", split(), 0),
        ("hf/llama", chunked, 0),
        ("hf/llama-tied", plain(), 0),
        ("hf/llama-rope-linear", plain(), 0),
        ("hf/mistral", split(), 1),
        ("hf/qwen2", plain(), 0),
        ("hf/qwen3", plain(), 1),
        ("hf/gemma2", plain(), 0),
    ]
}

fn quantised() -> Vec<Case> {
    let dequantised = Settings { quantised_matmul: QuantisedMatmul::Dequantise, ..plain() };
    vec![
        ("gguf/llama-q8_0.gguf", plain(), 0),
        ("gguf/llama-q8_0.gguf", dequantised, 0),
        ("gguf/llama-q4_k.gguf", plain(), 0),
        ("gguf/llama-q6_k.gguf", plain(), 0),
    ]
}

fn assert_all_act(cases: Vec<Case>, phase: Phase) {
    for (path, settings, layer) in cases {
        let model = open(path);
        let bench = Bench::new(subject(&model, &settings), layer);
        let scope = Scope { phase: Some(phase), layer: Some(layer) };
        catalogue(&bench.subject, scope).iter().for_each(|fault| bench.assert_acts(fault));
    }
}

#[test]
fn every_fault_of_the_trained_models_prefill_acts_where_it_should_and_nowhere_else() {
    assert_all_act(trained(), Phase::Prefill);
}

#[test]
fn every_fault_of_the_trained_models_decode_acts_where_it_should_and_nowhere_else() {
    assert_all_act(trained(), Phase::Decode);
}

#[test]
fn every_fault_of_every_family_acts_where_it_should_and_nowhere_else() {
    Phase::ALL.into_iter().for_each(|phase| assert_all_act(families(), phase));
}

#[test]
fn every_fault_of_quantised_models_acts_where_it_should_and_nowhere_else() {
    Phase::ALL.into_iter().for_each(|phase| assert_all_act(quantised(), phase));
}

#[test]
fn the_catalogue_is_whole() {
    for phase in Phase::ALL {
        let mut ids = BTreeSet::new();
        for (path, settings, layer) in [trained(), families(), quantised()].concat() {
            let (model, scope) = (open(path), Scope { phase: Some(phase), layer: Some(layer) });
            ids.extend(catalogue(&subject(&model, &settings), scope).iter().map(|fault| fault.kind.id()));
        }
        let missing: Vec<&str> = IDS.into_iter().filter(|id| !ids.contains(id)).collect();
        let expected = if phase == Phase::Decode { vec!["MASK_SEES_FUTURE"] } else { vec![] };
        assert_eq!(missing, expected, "{phase}");
        assert!(ids.iter().all(|id| IDS.contains(id)), "{ids:?}");
    }
}

#[test]
fn a_fault_of_both_phases_and_all_layers_acts_in_the_first_layer_of_both() {
    let (model, settings) = (open("DEMO"), split());
    let bench = Bench::new(subject(&model, &settings), 0);
    for fault in catalogue(&bench.subject, Scope::default()) {
        let engine = faulty(&bench.subject, &fault);
        for phase in Phase::ALL {
            let first = bench.differing(&engine, phase).first().copied();
            let (_, layer, point, _) = first.unwrap_or_else(|| panic!("{fault} does nothing in {phase}"));
            let of_all = if fault.kind.layered() { Some(0) } else { None };
            let placed = Fault { scope: Scope { layer: of_all, ..fault.scope }, ..fault.clone() };
            if fault.kind.id() == "MASK_SEES_FUTURE" && phase == Phase::Decode {
                // What was prefilled in layer 0 is read in layer 1.
                assert_eq!((point, layer), (Point::KCache, 2), "{fault}");
            } else {
                assert_eq!((point, layer), (bench.expected(&fault, phase), bench.layer(&placed, point)), "{fault}");
            }
        }
    }
}

#[test]
fn an_engine_with_a_fault_stays_deterministic_and_says_what_it_has() {
    let (model, settings) = (open("DEMO"), plain());
    let subject = subject(&model, &settings);
    for text in ["KV_FOREIGN_ROW:3@decode:layer2", "ACCUMULATOR_SATURATED:down@prefill", "SOFTMAX_UNNORMALISED@both"] {
        let fault: Fault = text.parse().unwrap();
        let (one, two) = (faulty(&subject, &fault), faulty(&subject, &fault));
        let tokens = sequence(one.vocab());
        for phase in Phase::ALL {
            let again = traced(&one, phase, &tokens, 0..9);
            assert!(
                traced(&one, phase, &tokens, 0..9).equals(&again) && traced(&two, phase, &tokens, 0..9).equals(&again),
                "{text}"
            );
            assert!(again.is_finite(), "{text}");
        }
        assert_eq!(one.info().extra["fault"], fault.to_string());
        assert_eq!(one.info().name.as_deref(), Some("driftprobe-faulty"));
        assert_eq!(one.fault(), &fault);
        let clean = EmbeddedEngine::new(&model, settings.clone()).unwrap();
        assert_eq!(one.contract(), clean.contract(), "an engine does not know of its faults");
        assert_eq!((one.layers(), one.vocab(), TOKENS), (clean.layers(), clean.vocab(), tokens.len()));
    }
}
