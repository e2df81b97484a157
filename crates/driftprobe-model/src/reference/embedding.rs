//! The token embedding.

use super::{ShapeError, expect};
use crate::Weight;

/// Row `token` of the embedding matrix `[vocab, hidden]`, by the factor where there is one: `[hidden]`.
///
/// Engines hold the factor itself rounded to their storage type; the caller says which value it has.
///
/// # Errors
/// When the token is not in the vocabulary.
pub fn embed(weight: &Weight, token: u32, factor: Option<f64>) -> Result<Vec<f64>, ShapeError> {
    let row = token as usize;
    expect("the vocabulary", weight.rows(), weight.rows().max(row + 1))?;
    let mut values = vec![0.0; weight.cols()];
    weight.dequantise_rows(row..row + 1, &mut values);
    Ok(values.iter().map(|v| f64::from(*v) * factor.unwrap_or(1.0)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Model;

    #[test]
    fn an_embedding_is_the_tokens_row() {
        let model = Model::demo().unwrap();
        let weight = model.weights.get("model.embed_tokens.weight").unwrap();
        let width = weight.cols();
        let expected: Vec<f64> = weight.to_f32()[7 * width..8 * width].iter().map(|v| f64::from(*v) * 3.0).collect();
        assert_eq!(embed(&weight, 7, Some(3.0)).unwrap(), expected);
        assert!(embed(&weight, weight.rows() as u32, None).is_err());
    }
}
