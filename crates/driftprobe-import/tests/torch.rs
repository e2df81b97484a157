//! What torch wrote is read as torch has it: every kind of value, views with strides and offsets, containers.

use driftprobe_import::{Kind, Tensor, TorchFile};
use driftprobe_trace::{Dtype, Row};
use std::path::{Path, PathBuf};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/import-dumps/views")
}

fn values(tensor: &Tensor) -> Vec<f64> {
    match tensor.kind {
        Kind::Float(dtype) => Row::new(dtype, tensor.shape.clone(), tensor.bytes.clone()).unwrap().to_f64(),
        Kind::Bool => tensor.bytes.iter().map(|b| f64::from(*b)).collect(),
        Kind::Int { .. } => tensor.integers().unwrap().into_iter().map(|i| i as f64).collect(),
    }
}

#[test]
fn tensors_are_what_torch_says_they_are() {
    let text = std::fs::read_to_string(folder().join("views.json")).unwrap();
    let expected: serde_json::Value = serde_json::from_str(&text).unwrap();
    let mut file = TorchFile::open(&folder().join("views.pt")).unwrap();
    let names = expected["values"].as_object().unwrap();
    assert_eq!(names.len(), 16);
    for (name, stated) in names {
        let tensor = file.read(name).unwrap();
        let shape: Vec<u64> =
            expected["shapes"][name].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).collect();
        let stated: Vec<f64> = stated.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
        assert_eq!((&tensor.shape, values(&tensor)), (&shape, stated), "{name}");
    }
    assert_eq!(file.read("bf16").unwrap().kind, Kind::Float(Dtype::Bf16));
    // Containers: by their keys and numbers; a parameter is its tensor.
    let plain = file.read("plain").unwrap();
    assert_eq!(file.read("nested.list.0").unwrap(), plain);
    assert_eq!(file.read("nested.list.1.0").unwrap().integers(), Some(vec![-3]));
    assert_eq!(file.read("nested.3.deep").unwrap().shape, [3, 4]);
    assert_eq!(file.tensors().count(), 19);
    assert!(file.read("text").is_err());
}
