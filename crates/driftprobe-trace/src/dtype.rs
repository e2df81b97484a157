//! Storage types of rows.

use std::fmt;

/// Storage type of a recorded row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Dtype {
    /// IEEE binary64.
    F64,
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// bfloat16.
    Bf16,
}

impl Dtype {
    /// Name as it stands in an event.
    pub const fn id(self) -> &'static str {
        match self {
            Dtype::F64 => "f64",
            Dtype::F32 => "f32",
            Dtype::F16 => "f16",
            Dtype::Bf16 => "bf16",
        }
    }

    /// Size of one value in bytes.
    pub const fn size_bytes(self) -> usize {
        match self {
            Dtype::F64 => 8,
            Dtype::F32 => 4,
            Dtype::F16 | Dtype::Bf16 => 2,
        }
    }

    /// The dtype with this name, in any of the spellings that engines use.
    pub fn parse(name: &str) -> Option<Dtype> {
        Some(match name {
            "f64" | "F64" | "float64" | "fp64" => Dtype::F64,
            "f32" | "F32" | "float32" | "fp32" => Dtype::F32,
            "f16" | "F16" | "float16" | "fp16" => Dtype::F16,
            "bf16" | "BF16" | "bfloat16" => Dtype::Bf16,
            _ => return None,
        })
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.id())
    }
}
