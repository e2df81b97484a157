//! A reader and writer of GGUF files that is not the crate's own: takes a file apart, lets a test change any claim of it,
//! and puts it together again. (Layout: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.)

use driftprobe_model::{Model, ModelError};
use std::path::PathBuf;
use tempfile::TempDir;

pub const U32: u32 = 4;
pub const F32: u32 = 6;
pub const TEXT: u32 = 8;
pub const LIST: u32 = 9;

/// One metadata pair: key, type, and the value as it stands in the file.
#[derive(Clone)]
pub struct Pair {
    pub key: String,
    pub kind: u32,
    pub value: Vec<u8>,
}

#[derive(Clone)]
pub struct Tensor {
    pub name: String,
    /// As in the file: fastest dimension first.
    pub dims: Vec<u64>,
    pub kind: u32,
    /// Relative to the data; `None`: behind the tensor before it.
    pub offset: Option<u64>,
    pub bytes: Vec<u8>,
}

#[derive(Clone)]
pub struct Gguf {
    pub version: u32,
    pub tensor_count: Option<u64>,
    pub pair_count: Option<u64>,
    pub alignment: usize,
    pub pairs: Vec<Pair>,
    pub tensors: Vec<Tensor>,
}

pub fn text(value: &str) -> Vec<u8> {
    [&(value.len() as u64).to_le_bytes(), value.as_bytes()].concat()
}

/// A list of texts, as a value.
pub fn texts(values: &[&str]) -> Vec<u8> {
    let head = [&TEXT.to_le_bytes()[..], &(values.len() as u64).to_le_bytes()].concat();
    values.iter().fold(head, |list, v| [list, text(v)].concat())
}

struct Cursor<'a>(&'a [u8]);

impl Cursor<'_> {
    fn take(&mut self, n: usize) -> Vec<u8> {
        let (taken, rest) = self.0.split_at(n);
        self.0 = rest;
        taken.to_vec()
    }
    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take(4).try_into().unwrap())
    }
    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take(8).try_into().unwrap())
    }
    fn text(&mut self) -> String {
        let len = self.u64() as usize;
        String::from_utf8(self.take(len)).unwrap()
    }
    fn value(&mut self, kind: u32) -> Vec<u8> {
        match kind {
            0 | 1 | 7 => self.take(1),
            2 | 3 => self.take(2),
            4..=6 => self.take(4),
            10..=12 => self.take(8),
            8 => text(&self.text()),
            9 => {
                let (kind, count) = (self.u32(), self.u64());
                let head = [&kind.to_le_bytes()[..], &count.to_le_bytes()].concat();
                (0..count).fold(head, |list, _| [list, self.value(kind)].concat())
            }
            other => panic!("value type {other}"),
        }
    }
}

impl Gguf {
    /// Takes apart a file whose data is aligned to 32 bytes.
    pub fn parse(bytes: &[u8]) -> Gguf {
        let mut cursor = Cursor(bytes);
        assert_eq!(cursor.take(4), b"GGUF");
        let version = cursor.u32();
        let (tensor_count, pair_count) = (cursor.u64(), cursor.u64());
        let mut pair = |_| {
            let (key, kind) = (cursor.text(), cursor.u32());
            Pair { key, kind, value: cursor.value(kind) }
        };
        let pairs: Vec<Pair> = (0..pair_count).map(&mut pair).collect();
        let mut tensors: Vec<Tensor> = (0..tensor_count)
            .map(|_| {
                let name = cursor.text();
                let dims = (0..cursor.u32()).map(|_| cursor.u64()).collect();
                Tensor { name, dims, kind: cursor.u32(), offset: Some(cursor.u64()), bytes: Vec::new() }
            })
            .collect();
        let start = (bytes.len() - cursor.0.len()).next_multiple_of(32);
        let data = bytes.get(start..).unwrap_or_default();
        let ends: Vec<usize> = tensors.iter().map(|t| t.offset.unwrap() as usize).skip(1).chain([data.len()]).collect();
        for (tensor, end) in tensors.iter_mut().zip(ends) {
            tensor.bytes = data[tensor.offset.take().unwrap() as usize..end].to_vec();
        }
        Gguf { version, tensor_count: None, pair_count: None, alignment: 32, pairs, tensors }
    }

    pub fn fixture(name: &str) -> Gguf {
        Gguf::parse(&super::read(&format!("gguf/{name}")))
    }

    /// Sets one pair, or adds it.
    pub fn set(mut self, key: &str, kind: u32, value: impl AsRef<[u8]>) -> Gguf {
        let pair = Pair { key: key.to_owned(), kind, value: value.as_ref().to_vec() };
        match self.pairs.iter_mut().find(|p| p.key == key) {
            Some(old) => *old = pair,
            None => self.pairs.push(pair),
        }
        self
    }

    pub fn set_u32(self, key: &str, value: u32) -> Gguf {
        self.set(key, U32, value.to_le_bytes())
    }

    pub fn set_text(self, key: &str, value: &str) -> Gguf {
        self.set(key, TEXT, text(value))
    }

    pub fn without(mut self, key: &str) -> Gguf {
        let before = self.pairs.len();
        self.pairs.retain(|p| p.key != key);
        assert!(self.pairs.len() < before, "there is no {key}");
        self
    }

    pub fn tensor(&mut self, name: &str) -> &mut Tensor {
        self.tensors.iter_mut().find(|t| t.name == name).unwrap_or_else(|| panic!("there is no {name}"))
    }

    /// The header alone.
    pub fn header(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend(self.tensor_count.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        out.extend(self.pair_count.unwrap_or(self.pairs.len() as u64).to_le_bytes());
        for pair in &self.pairs {
            out.extend(text(&pair.key));
            out.extend(pair.kind.to_le_bytes());
            out.extend(&pair.value);
        }
        let mut next = 0;
        for tensor in &self.tensors {
            out.extend(text(&tensor.name));
            out.extend((tensor.dims.len() as u32).to_le_bytes());
            tensor.dims.iter().for_each(|d| out.extend(d.to_le_bytes()));
            out.extend(tensor.kind.to_le_bytes());
            out.extend(tensor.offset.unwrap_or(next as u64).to_le_bytes());
            next += tensor.bytes.len().next_multiple_of(self.alignment);
        }
        out
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut out = self.header();
        out.resize(out.len().next_multiple_of(self.alignment), 0);
        for tensor in &self.tensors {
            out.extend(&tensor.bytes);
            out.resize(out.len().next_multiple_of(self.alignment), 0);
        }
        out
    }

    pub fn open(&self) -> Result<Model, ModelError> {
        open(&self.bytes())
    }
}

/// A file of these bytes in a folder of its own.
pub fn file(bytes: &[u8]) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    std::fs::write(&path, bytes).unwrap();
    (folder, path)
}

pub fn open(bytes: &[u8]) -> Result<Model, ModelError> {
    let (_folder, path) = file(bytes);
    Model::open(&path)
}
