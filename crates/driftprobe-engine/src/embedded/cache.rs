//! One layer's KV cache: K (after the rotary embedding) and V, `[kv_heads, capacity, head_dim]`, in the cache's dtype.

use crate::error::EngineError;
use candle_core::{DType, Device, Tensor};

pub struct LayerCache {
    k: Tensor,
    v: Tensor,
    capacity: usize,
    len: usize,
}

const CAPACITY_AT_FIRST: usize = 64;

impl LayerCache {
    pub fn new(kv_heads: usize, head_dim: usize, dtype: DType, device: &Device) -> Result<LayerCache, EngineError> {
        let empty = || Tensor::zeros((kv_heads, CAPACITY_AT_FIRST, head_dim), dtype, device);
        Ok(LayerCache { k: empty()?, v: empty()?, capacity: CAPACITY_AT_FIRST, len: 0 })
    }

    /// Appends rows `[tokens, kv_heads, head_dim]`, rounded to the cache's dtype.
    pub fn append(&mut self, k: &Tensor, v: &Tensor) -> Result<(), EngineError> {
        let tokens = k.dim(0)?;
        self.reserve(self.len + tokens)?;
        for (cache, rows) in [(&self.k, k), (&self.v, v)] {
            let rows = rows.transpose(0, 1)?.to_dtype(cache.dtype())?.contiguous()?;
            cache.slice_set(&rows, 1, self.len)?;
        }
        self.len += tokens;
        Ok(())
    }

    fn reserve(&mut self, needed: usize) -> Result<(), EngineError> {
        if needed <= self.capacity {
            return Ok(());
        }
        let capacity = needed.next_power_of_two();
        for cache in [&mut self.k, &mut self.v] {
            let (kv_heads, _, head_dim) = cache.dims3()?;
            let grown = Tensor::zeros((kv_heads, capacity, head_dim), cache.dtype(), cache.device())?;
            if self.len > 0 {
                grown.slice_set(&cache.narrow(1, 0, self.len)?.contiguous()?, 1, 0)?;
            }
            *cache = grown;
        }
        self.capacity = capacity;
        Ok(())
    }

    /// The first `rows` rows of K, in the cache's dtype: `[kv_heads, rows, head_dim]`.
    pub fn k(&self, rows: usize) -> Result<Tensor, EngineError> {
        Ok(self.k.narrow(1, 0, rows)?)
    }

    /// The first `rows` rows of V.
    pub fn v(&self, rows: usize) -> Result<Tensor, EngineError> {
        Ok(self.v.narrow(1, 0, rows)?)
    }

    /// Overwrites rows from `first` with rows `[kv_heads, rows, head_dim]` of another cache.
    pub fn overwrite(&mut self, first: usize, k: &Tensor, v: &Tensor) -> Result<(), EngineError> {
        let (kv_heads, rows, head_dim) = k.dims3()?;
        let (own_heads, _, own_dim) = self.k.dims3()?;
        if first + rows > self.len || (kv_heads, head_dim) != (own_heads, own_dim) || k.dims() != v.dims() {
            let what = format!(
                "rows {first}..{} of {kv_heads} × {head_dim} do not fit the cache's {} rows of {own_heads} × {own_dim}",
                first + rows,
                self.len
            );
            return Err(EngineError::request(what, "align only caches of one model, and rows that are there"));
        }
        for (cache, rows) in [(&self.k, k), (&self.v, v)] {
            cache.slice_set(&rows.to_dtype(cache.dtype())?.contiguous()?, 1, first)?;
        }
        Ok(())
    }

    /// Rows held.
    pub fn len(&self) -> usize {
        self.len
    }
}
