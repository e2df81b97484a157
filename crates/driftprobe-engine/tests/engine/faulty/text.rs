//! Faults as text.

use super::{catalogue, open, subject};
use crate::support::plain;
use driftprobe_engine::Settings;
use driftprobe_engine::faulty::{
    CacheFault, EndsFault, Fault, FaultKind, HeadsFault, LinearFault, MaskFault, Matrix, Norm, NormFault, Part,
    RopeFault, Scope,
};
use driftprobe_trace::Phase;

#[test]
fn what_is_written_is_read_back() {
    let settings: Settings = plain();
    for path in ["DEMO", "hf/gemma2", "hf/qwen3", "gguf/llama-q8_0.gguf"] {
        let model = open(path);
        for phase in [None, Some(Phase::Prefill), Some(Phase::Decode)] {
            for layer in [None, Some(0)] {
                for fault in catalogue(&subject(&model, &settings), Scope { phase, layer }) {
                    assert_eq!(fault.to_string().parse::<Fault>().as_ref(), Ok(&fault), "{fault}");
                    assert_eq!(fault.kind.to_string().parse::<FaultKind>().as_ref(), Ok(&fault.kind));
                    assert!(fault.kind.to_string().starts_with(fault.kind.id()));
                }
            }
        }
    }
}

#[test]
fn faults_are_written_as_the_documentation_says() {
    let decode = Scope { phase: Some(Phase::Decode), layer: Some(2) };
    let cases = [
        ("ROPE_POSITION_OFFSET:+1@decode:layer2", FaultKind::Rope(RopeFault::PositionOffset(1)), decode),
        ("NORM_EPS:attn:0.001@both", FaultKind::Norm(NormFault::Eps(Norm::Attn, 1e-3)), Scope::default()),
        (
            "KV_SWAPPED_SLOTS:v:2:5@prefill",
            FaultKind::Cache(CacheFault::SwappedSlots(Part::V, 2, 5)),
            Scope { phase: Some(Phase::Prefill), layer: None },
        ),
    ];
    for (text, kind, scope) in cases {
        let fault = Fault { kind, scope };
        assert_eq!(text.parse::<Fault>(), Ok(fault.clone()));
        assert_eq!(fault.to_string(), text);
    }
}

#[test]
fn what_is_left_out_takes_its_ordinary_value() {
    let cases = [
        ("ROPE_POSITION_OFFSET", FaultKind::Rope(RopeFault::PositionOffset(1))),
        ("ROPE_POSITION_OFFSET:-3", FaultKind::Rope(RopeFault::PositionOffset(-3))),
        ("MASK_SEES_FUTURE", FaultKind::Mask(MaskFault::SeesFuture(1))),
        ("HEAD_SWAP", FaultKind::Heads(HeadsFault::HeadSwap(0, 1))),
        ("BIAS_REPEATED", FaultKind::Linear(LinearFault::BiasRepeated(Matrix::Q, 2))),
        ("BIAS_REPEATED:v:16", FaultKind::Linear(LinearFault::BiasRepeated(Matrix::V, 16))),
        ("TAIL_DROPPED:o", FaultKind::Linear(LinearFault::TailDropped(Matrix::O, 1))),
        ("EMBED_ROW", FaultKind::Ends(EndsFault::EmbedRow(1))),
    ];
    for (text, kind) in cases {
        assert_eq!(text.parse::<Fault>(), Ok(Fault { kind, scope: Scope::default() }));
    }
    let all_layers = "ROPE_LAYOUT@decode".parse::<Fault>().unwrap().scope;
    assert_eq!(all_layers, Scope { phase: Some(Phase::Decode), layer: None });
}

#[test]
fn what_is_no_fault_is_refused_by_name() {
    let cases = [
        ("", "no fault"),
        ("ROPE", "\"ROPE\""),
        ("NORM_EPSILON", "NORM_EPSILON"),
        ("ROPE_THETA:big", "factor \"big\""),
        ("BIAS_REPEATED:q:-1", "times \"-1\""),
        ("ROPE_LAYOUT:half", "\"half\" is a parameter too many"),
        ("NORM_EPS:middle", "attn_post"),
        ("KV_PRECISION:int4", "fp8"),
        ("ROPE_LAYOUT@sometimes", "\"sometimes\""),
        ("ROPE_LAYOUT@decode:layer", "\"layer\""),
        ("ROPE_LAYOUT@decode:layer-1", "\"layer-1\""),
    ];
    for (text, piece) in cases {
        let error = text.parse::<Fault>().expect_err(text);
        assert!(error.contains(piece), "{text:?}: expected {piece:?} in {error:?}");
    }
}
