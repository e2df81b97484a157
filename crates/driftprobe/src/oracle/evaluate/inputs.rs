//! Inputs as a stage reads them: rounded to what its kernel multiplies, where the contract says so.

use crate::oracle::arithmetic::{Arithmetic, Unsupported};
use crate::oracle::float::Float;
use crate::oracle::quantise::Quantiser;
use crate::oracle::stage::Op;

/// Brings the inputs of a stage into the types in which its kernel takes them. (Linear layers do it by their weights' type.)
///
/// # Errors
/// If the contract names a type that is not known.
pub fn as_read(op: Op, head_dim: usize, arithmetic: &Arithmetic, inputs: &mut [Vec<f64>]) -> Result<(), Unsupported> {
    let attends = matches!(op, Op::Scores | Op::ScoresSoftmax | Op::Attention);
    if attends || op == Op::Gated {
        let width = if attends { head_dim } else { usize::MAX };
        if let (Some(name), Some(first)) = (arithmetic.inputs(), inputs.first_mut()) {
            bring(name, width, first)?;
        }
    }
    if let Some(format) = arithmetic.kv_read()?.filter(|_| attends || op == Op::Weigh) {
        inputs.iter_mut().skip(1).for_each(|rows| round(format, rows));
    }
    if op == Op::Weigh {
        // What is recorded is what softmax gave; the product may take it more coarsely.
        let format = arithmetic.probs()?;
        if format < Float::F32 {
            inputs.iter_mut().take(1).for_each(|probs| round(format, probs));
        }
    }
    Ok(())
}

fn round(format: Float, values: &mut [f64]) {
    values.iter_mut().for_each(|x| *x = format.round(*x));
}

/// To a float format, or through a quantiser, `width` values at a time.
fn bring(name: &str, width: usize, values: &mut [f64]) -> Result<(), Unsupported> {
    if let Some(format) = Float::parse(name) {
        round(format, values);
        return Ok(());
    }
    let Some(quantiser) = Quantiser::parse(name) else {
        return Err(Unsupported { field: "inputs", value: name.to_owned() });
    };
    for part in values.chunks_mut(width.max(1)) {
        let quantised = quantiser.apply(part).values;
        part.copy_from_slice(&quantised);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use driftprobe_trace::{Contract, ContractFields, Dtype, Phase, Point};

    fn read(op: Op, point: Point, fields: ContractFields, inputs: &mut [Vec<f64>]) -> Result<(), Unsupported> {
        let contract = Contract { flat: fields, ..Contract::default() };
        let arithmetic = Arithmetic::resolve(Some(&contract), Phase::Decode, point, Dtype::F32);
        as_read(op, 2, &arithmetic, inputs)
    }

    fn some(name: &str) -> Option<String> {
        Some(name.to_owned())
    }

    const FINE: f64 = 1.0 + 1.0 / 4096.0;

    #[test]
    fn q_alone_is_rounded_and_the_cache_only_where_it_is_said() {
        let q = || ContractFields { inputs: some("f16"), ..Default::default() };
        let mut inputs = vec![vec![FINE; 4]; 3];
        read(Op::Attention, Point::AttnOut, q(), &mut inputs).unwrap();
        assert_eq!(inputs, [vec![1.0; 4], vec![FINE; 4], vec![FINE; 4]]);
        read(
            Op::Linear { weight: driftprobe_model::WeightId::Norm, bias: None, softcap: None },
            Point::MlpOut,
            q(),
            &mut inputs[1..2],
        )
        .unwrap();
        assert_eq!(inputs[1], [FINE; 4]);
        let kv = ContractFields { kv_read: some("f16"), ..Default::default() };
        read(Op::Attention, Point::AttnOut, kv, &mut inputs).unwrap();
        assert_eq!(inputs[2], [1.0; 4]);
    }

    #[test]
    fn probabilities_are_rounded_before_they_meet_the_values() {
        let fields = ContractFields { probs: some("f16"), ..Default::default() };
        let mut inputs = vec![vec![FINE], vec![FINE]];
        read(Op::Weigh, Point::AttnOut, fields, &mut inputs).unwrap();
        assert_eq!(inputs, [vec![1.0], vec![FINE]]);
    }

    #[test]
    fn a_type_that_is_not_known_is_refused() {
        let fields = ContractFields { inputs: some("fp5"), ..Default::default() };
        let refused = read(Op::Scores, Point::AttnScores, fields, &mut [vec![1.0]]).unwrap_err();
        assert_eq!((refused.field, refused.value.as_str()), ("inputs", "fp5"));
    }
}
