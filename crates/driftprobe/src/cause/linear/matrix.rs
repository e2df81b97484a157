//! Other matrices out of the same values: transposed, or with other blocks' scales.

use super::{Parts, bias, one, parts};
use crate::cause::trial::{Expect, Trial};
use crate::oracle::evaluate::Layer;
use crate::oracle::judgement::Unjudged;
use driftprobe_model::{Model, Weight, WeightDtype, WeightId};

/// Outputs that are judged, in order.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::cause) struct Outputs(pub Vec<usize>);

fn model_error(what: &str) -> Unjudged {
    Unjudged::Model(what.to_owned())
}

/// The rows of a matrix that give these outputs.
pub(in crate::cause) fn gathered(weight: &Weight, outputs: &Outputs) -> Result<Weight, Unjudged> {
    if outputs.0.len() == weight.rows() && outputs.0.iter().enumerate().all(|(i, j)| i == *j) {
        return Ok(weight.clone());
    }
    let size = weight.row_size_bytes();
    let mut bytes = Vec::with_capacity(outputs.0.len() * size);
    for j in &outputs.0 {
        bytes.extend_from_slice(weight.bytes().get(j * size..(j + 1) * size).ok_or(model_error("no such output"))?);
    }
    held(weight, outputs.0.len(), bytes)
}

fn held(weight: &Weight, rows: usize, bytes: Vec<u8>) -> Result<Weight, Unjudged> {
    Weight::held(weight.name(), weight.dtype(), (rows, weight.cols()), bytes).ok_or(model_error("not whole rows"))
}

/// Transposed and wrongly scaled, where the matrix can be.
pub(super) fn trials<'a>(model: &'a Model, id: WeightId, outputs: &Outputs) -> Vec<Trial<'a>> {
    let Ok(weight) = model.weights.get(&id.name()) else { return Vec::new() };
    let made = |make: fn(&Weight, &Outputs) -> Result<Weight, Unjudged>| -> Expect<'a> {
        let outputs = outputs.clone();
        Box::new(move |case| {
            let own: Parts = parts(case)?;
            let weight = make(&model.weights.get(&own.weight.name())?, &outputs)?;
            one(Layer { weight, bias: bias(model, &own, &outputs)?, softcap: own.softcap }, case)
        })
    };
    if weight.dtype().is_quantised() {
        let next = Trial::new("QUANT_SCALE", made(|w, o| rescaled(w, o, 1))).with("scale of block", "+1");
        let before = Trial::new("QUANT_SCALE", made(|w, o| rescaled(w, o, -1))).with("scale of block", "-1");
        return vec![next, before];
    }
    if weight.rows() == weight.cols() {
        return vec![Trial::new("WEIGHT_TRANSPOSED", made(transposed))];
    }
    Vec::new()
}

/// Columns as rows, in f32.
fn transposed(weight: &Weight, outputs: &Outputs) -> Result<Weight, Unjudged> {
    let (rows, cols) = (weight.rows(), weight.cols());
    let mut values = vec![0f32; outputs.0.len() * rows];
    let mut row = vec![0f32; cols];
    for i in 0..rows {
        weight.dequantise_rows(i..i + 1, &mut row);
        for (out, j) in outputs.0.iter().enumerate() {
            if let (Some(to), Some(from)) = (values.get_mut(out * rows + i), row.get(*j)) {
                *to = *from;
            }
        }
    }
    let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let made = Weight::held(weight.name(), WeightDtype::F32, (outputs.0.len(), rows), bytes);
    made.ok_or(model_error("not square"))
}

/// Offset of a block's f16 scale (`d` of ggml's `block_*` structs).
fn scale_offset(dtype: WeightDtype) -> usize {
    match dtype {
        // scales[16], qs[64], d
        WeightDtype::Q2_K => 16 + 64,
        // hmask[32], qs[64], scales[12], d
        WeightDtype::Q3_K => 32 + 64 + 12,
        // ql[128], qh[64], scales[16], d
        WeightDtype::Q6_K => 128 + 64 + 16,
        _ => 0,
    }
}

/// Every block with the scale of the block `by` further in the file; the outermost ones with that of their other neighbour.
fn rescaled(weight: &Weight, outputs: &Outputs, by: isize) -> Result<Weight, Unjudged> {
    let (size, at) = (weight.dtype().block().1, scale_offset(weight.dtype()));
    let whole = weight.bytes();
    let (a_row, blocks) = (weight.row_size_bytes() / size, whole.len() / size);
    let mut bytes = Vec::with_capacity(outputs.0.len() * weight.row_size_bytes());
    for block in outputs.0.iter().flat_map(|j| j * a_row..(j + 1) * a_row) {
        let neighbour = block.checked_add_signed(by).filter(|n| *n < blocks);
        let neighbour = neighbour.or(block.checked_add_signed(-by)).unwrap_or(block);
        let mut own = whole.get(block * size..(block + 1) * size).ok_or(model_error("no such block"))?.to_vec();
        let scale = whole.get(neighbour * size + at..neighbour * size + at + 2);
        if let (Some(to), Some(from)) = (own.get_mut(at..at + 2), scale) {
            to.copy_from_slice(from);
        }
        bytes.extend(own);
    }
    held(weight, outputs.0.len(), bytes)
}
