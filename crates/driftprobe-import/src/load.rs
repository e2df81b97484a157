//! Tensors from wherever a dump has them: described first, read when they are needed.

use crate::error::{ImportError, Result};
use crate::npy;
use crate::tensor::{Kind, Tensor};
use crate::torch_file::TorchFile;
use driftprobe_trace::{Dtype, read_file};
use safetensors::{Dtype as Safe, SafeTensors};
use std::path::{Path, PathBuf};

/// Where a tensor lies.
#[derive(Clone, Debug)]
pub enum Origin {
    /// In a `.pt` file, under this name.
    Torch(PathBuf, String),
    /// In a safetensors file, under this key.
    Safetensors(PathBuf, String),
    /// A `.npy` file.
    Npy(PathBuf),
    /// A file of f32 values.
    RawF32(PathBuf),
}

impl Origin {
    /// Its file and name, for messages.
    pub fn describe(&self) -> String {
        match self {
            Origin::Torch(path, key) | Origin::Safetensors(path, key) => format!("{}: tensor `{key}`", path.display()),
            Origin::Npy(path) | Origin::RawF32(path) => path.display().to_string(),
        }
    }
}

/// Reads tensors; the file that was opened last stays open.
#[derive(Default)]
pub struct Loader {
    torch: Option<(PathBuf, TorchFile)>,
    bytes: Option<(PathBuf, Vec<u8>)>,
}

impl Loader {
    /// Names and shapes of a `.pt` file's tensors.
    ///
    /// # Errors
    /// As [`TorchFile::open`].
    pub fn torch_names(&mut self, path: &Path) -> Result<Vec<(String, Vec<u64>)>> {
        Ok(self.torch(path)?.tensors().map(|(name, shape)| (name.to_owned(), shape.to_vec())).collect())
    }

    /// Names and shapes of a safetensors file's tensors.
    ///
    /// # Errors
    /// If it cannot be read or is no safetensors file.
    pub fn safetensors_names(&mut self, path: &Path) -> Result<Vec<(String, Vec<u64>)>> {
        let bytes = self.file(path)?;
        let tensors = opened(path, bytes)?;
        let mut names: Vec<_> = tensors.iter().map(|(name, view)| (name.to_owned(), shape_of(view.shape()))).collect();
        names.sort();
        Ok(names)
    }

    /// A tensor's shape, without reading its values where that can be had.
    ///
    /// # Errors
    /// As [`Loader::load`].
    pub fn shape(&mut self, origin: &Origin) -> Result<Vec<u64>> {
        match origin {
            Origin::Torch(path, name) => {
                let found =
                    self.torch(path)?.tensors().find(|(known, _)| known == name).map(|(_, shape)| shape.to_vec());
                found.ok_or_else(|| {
                    ImportError::new(format!("{}: is not there", origin.describe()), "copy the dump again")
                })
            }
            _ => Ok(self.load(origin)?.shape),
        }
    }

    /// Reads a tensor.
    ///
    /// # Errors
    /// If its file cannot be read, is damaged or refused, or does not hold it.
    pub fn load(&mut self, origin: &Origin) -> Result<Tensor> {
        match origin {
            Origin::Torch(path, name) => self.torch(path)?.read(name),
            Origin::Safetensors(path, key) => {
                let bytes = self.file(path)?;
                let tensors = opened(path, bytes)?;
                let hint = "tensors are F64, F32, F16, BF16 or integers; copy the dump again if one is missing";
                let refuse = |what: String| ImportError::file(path, format!("tensor `{key}`: {what}"), hint);
                let view = tensors.tensor(key).map_err(|e| refuse(e.to_string()))?;
                let kind = safe_kind(view.dtype()).ok_or_else(|| refuse(format!("its dtype is {:?}", view.dtype())))?;
                Tensor::new(kind, shape_of(view.shape()), view.data().to_vec()).map_err(refuse)
            }
            Origin::Npy(path) => npy::read(path, self.file(path)?),
            Origin::RawF32(path) => {
                let bytes = self.file(path)?;
                let shape = vec![bytes.len() as u64 / 4];
                let hint = "the file is raw f32 values; copy it again if it was cut off";
                Tensor::new(Kind::Float(Dtype::F32), shape, bytes.to_vec())
                    .map_err(|what| ImportError::file(path, what, hint))
            }
        }
    }

    fn torch(&mut self, path: &Path) -> Result<&mut TorchFile> {
        let file = match self.torch.take() {
            Some((open, file)) if open == path => file,
            _ => TorchFile::open(path)?,
        };
        Ok(&mut self.torch.insert((path.to_owned(), file)).1)
    }

    fn file(&mut self, path: &Path) -> Result<&[u8]> {
        let bytes = match self.bytes.take() {
            Some((open, bytes)) if open == path => bytes,
            _ => read_file(path, u64::MAX).map_err(|e| ImportError::io("read", path, &e))?,
        };
        Ok(&self.bytes.insert((path.to_owned(), bytes)).1)
    }
}

fn opened<'a>(path: &Path, bytes: &'a [u8]) -> Result<SafeTensors<'a>> {
    let hint = "write it with the safetensors package, or copy it again";
    SafeTensors::deserialize(bytes).map_err(|e| ImportError::file(path, format!("not valid safetensors: {e}"), hint))
}

fn shape_of(shape: &[usize]) -> Vec<u64> {
    shape.iter().map(|&size| size as u64).collect()
}

fn safe_kind(dtype: Safe) -> Option<Kind> {
    let int = |signed, bytes| Kind::Int { signed, bytes };
    Some(match dtype {
        Safe::F64 => Kind::Float(Dtype::F64),
        Safe::F32 => Kind::Float(Dtype::F32),
        Safe::F16 => Kind::Float(Dtype::F16),
        Safe::BF16 => Kind::Float(Dtype::Bf16),
        Safe::I64 => int(true, 8),
        Safe::I32 => int(true, 4),
        Safe::I16 => int(true, 2),
        Safe::I8 => int(true, 1),
        Safe::U8 => int(false, 1),
        Safe::U32 => int(false, 4),
        Safe::BOOL => Kind::Bool,
        _ => return None,
    })
}
