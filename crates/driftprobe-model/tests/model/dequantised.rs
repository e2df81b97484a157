//! Stored values to f32, bit for bit as the PyPI `gguf` package's own dequantiser gives them.

use crate::support::{fixture, read};
use driftprobe_model::{WeightDtype, Weights};
use safetensors::SafeTensors;
use std::collections::BTreeSet;

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

#[test]
fn every_format_dequantises_to_the_same_bits_as_gguf_does() {
    let weights = Weights::open_gguf(&fixture("gguf/quant.gguf")).unwrap();
    let bytes = read("gguf/quant-expected.safetensors");
    let expected = SafeTensors::deserialize(&bytes).unwrap();
    let names: Vec<&str> = weights.names().collect();
    assert_eq!(names.len(), expected.len());
    let mut formats = BTreeSet::new();
    for (name, tensor) in expected.iter() {
        let weight = weights.get(name).unwrap();
        assert_eq!(weight.shape(), tensor.shape(), "{name}");
        let values: Vec<u32> = tensor.data().as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect();
        assert!(bits(&weight.to_f32()) == values, "{name}");
        formats.insert(weight.dtype());
        assert!(name.starts_with(&weight.dtype().id().to_lowercase()), "{name} is {}", weight.dtype().id());
    }
    assert_eq!(formats.len(), 13, "{formats:?}");
}

#[test]
fn rows_one_by_one_are_the_rows_of_the_whole() {
    let weights = Weights::open_gguf(&fixture("gguf/quant.gguf")).unwrap();
    for name in weights.names() {
        let weight = weights.get(name).unwrap();
        let whole = weight.to_f32();
        for (row, expected) in whole.chunks(weight.cols()).enumerate() {
            let mut values = vec![f32::NAN; weight.cols()];
            weight.dequantise_rows(row..row + 1, &mut values);
            assert!(bits(&values) == bits(expected), "{name}, row {row}");
        }
        assert_eq!(weight.bytes().len(), weight.rows() * weight.row_size_bytes(), "{name}");
    }
}

#[test]
fn only_f32_is_shown_in_place() {
    let weights = Weights::open_gguf(&fixture("gguf/quant.gguf")).unwrap();
    for name in weights.names() {
        let weight = weights.get(name).unwrap();
        assert_eq!(weight.as_f32().is_some(), weight.dtype() == WeightDtype::F32, "{name}");
        if let Some(values) = weight.as_f32() {
            assert!(bits(values) == bits(&weight.to_f32()), "{name}");
        }
    }
}
