//! A node of llama.cpp's graph: its name and shape, and its values, walked by its strides.

use half::f16;
use llama_cpp_sys_2 as sys;
use std::ffi::CStr;

/// A tensor of a graph, while llama.cpp shows it.
#[derive(Clone, Copy)]
pub struct Node<'g>(&'g sys::ggml_tensor);

/// Why values cannot be read or written.
#[derive(Debug, PartialEq, Eq)]
pub struct Unreadable(pub String);

impl<'g> Node<'g> {
    /// The tensor at this address; none for null.
    ///
    /// # Safety
    /// The address is null or that of a tensor whose sources and buffer live at least for `'g`.
    pub unsafe fn new(tensor: *const sys::ggml_tensor) -> Option<Node<'g>> {
        // SAFETY: null or a live tensor, by this function's contract. ggml does not move tensors.
        unsafe { tensor.as_ref() }.map(Node)
    }

    /// Its address, for [`Node::new`].
    pub fn address(&self) -> *const sys::ggml_tensor {
        self.0
    }

    /// Its name; empty where it is no text.
    pub fn name(&self) -> &'g str {
        let bytes: &'g [u8] = bytemuck_bytes(&self.0.name);
        CStr::from_bytes_until_nul(bytes).ok().and_then(|name| name.to_str().ok()).unwrap_or_default()
    }

    /// What computes it.
    pub fn op(&self) -> sys::ggml_op {
        self.0.op
    }

    /// Its element type.
    pub fn dtype(&self) -> sys::ggml_type {
        self.0.type_
    }

    /// Elements along an axis, 0 to 3; 0 if it claims fewer than none.
    pub fn len(&self, axis: usize) -> usize {
        self.0.ne.get(axis).and_then(|n| usize::try_from(*n).ok()).unwrap_or(0)
    }

    /// Bytes from one element of an axis to the next.
    pub fn stride(&self, axis: usize) -> usize {
        self.0.nb.get(axis).copied().unwrap_or(0)
    }

    /// What it is computed from.
    pub fn source(&self, number: usize) -> Option<Node<'g>> {
        let source = *self.0.src.get(number)?;
        // SAFETY: the sources of a node of the graph at hand live as long as the graph does.
        unsafe { Node::new(source) }
    }

    /// The tensor whose memory it shows, itself if that is its own.
    pub fn root(&self) -> Node<'g> {
        let mut node = *self;
        // SAFETY: what a view shows lives as long as the view does.
        while let Some(next) = unsafe { Node::new(node.0.view_src) } {
            node = next;
        }
        node
    }

    /// A parameter of its operation, as the f32 that it is.
    pub fn parameter_f32(&self, number: usize) -> f32 {
        self.0.op_params.get(number).map_or(f32::NAN, |bits| f32::from_bits(bits.cast_unsigned()))
    }

    /// `size` bytes from `offset`, counted from the tensor's first element.
    ///
    /// # Errors
    /// When the tensor has no memory, or not so much.
    pub fn bytes(&self, offset: usize, size: usize) -> Result<Vec<u8>, Unreadable> {
        self.check(offset, size)?;
        let mut bytes = vec![0u8; size];
        // SAFETY: the tensor is allocated and has these bytes, by the check; `bytes` is as long as what is copied into it.
        unsafe { sys::ggml_backend_tensor_get(self.0, bytes.as_mut_ptr().cast(), offset, size) };
        Ok(bytes)
    }

    /// Overwrites the bytes from `offset`.
    ///
    /// # Errors
    /// As [`Node::bytes`].
    ///
    /// # Safety
    /// Nothing computes with the tensor meanwhile.
    pub unsafe fn write(&self, offset: usize, bytes: &[u8]) -> Result<(), Unreadable> {
        self.check(offset, bytes.len())?;
        let tensor = std::ptr::from_ref(self.0).cast_mut();
        // SAFETY: the tensor is allocated and has these bytes, by the check; ggml changes its memory, not the struct; nothing
        // else uses that memory meanwhile, by this function's contract.
        unsafe { sys::ggml_backend_tensor_set(tensor, bytes.as_ptr().cast(), offset, bytes.len()) };
        Ok(())
    }

    fn check(&self, offset: usize, size: usize) -> Result<(), Unreadable> {
        let no = |why: &str| Err(Unreadable(format!("{}: {why}", self.name())));
        if self.0.data.is_null() || self.root().0.buffer.is_null() {
            return no("has no memory");
        }
        // SAFETY: a live tensor; only its shape is looked at.
        let has = unsafe { sys::ggml_nbytes(self.0) };
        match offset.checked_add(size) {
            Some(end) if end <= has => Ok(()),
            _ => no(&format!("bytes {offset} to {offset}+{size} of {has} were asked for")),
        }
    }

    /// The f32 values of row `row` along `axis` (1 or 2), all other axes in order, of the first axis at most `columns`.
    ///
    /// # Errors
    /// When it is no f32 tensor, or has no such row.
    pub fn row(&self, axis: usize, row: usize, columns: usize) -> Result<Vec<f32>, Unreadable> {
        if self.dtype() != sys::GGML_TYPE_F32 || row >= self.len(axis) || self.len(3) != 1 {
            let shape = (0..4).map(|a| self.len(a)).collect::<Vec<_>>();
            return Err(Unreadable(format!("{}: no row {row} of f32 along axis {axis} in {shape:?}", self.name())));
        }
        let width = self.len(0).min(columns);
        let across = if axis == 1 { 2 } else { 1 };
        let mut values = Vec::with_capacity(width * self.len(across));
        let packed = self.stride(0) == size_of::<f32>();
        let joined = packed && width == self.len(0) && self.stride(across) == width * size_of::<f32>();
        let start = row * self.stride(axis);
        if joined {
            values.extend(floats(&self.bytes(start, width * self.len(across) * size_of::<f32>())?));
            return Ok(values);
        }
        for other in 0..self.len(across) {
            let start = start + other * self.stride(across);
            if packed {
                values.extend(floats(&self.bytes(start, width * size_of::<f32>())?));
            } else {
                for column in 0..width {
                    values.extend(floats(&self.bytes(start + column * self.stride(0), size_of::<f32>())?));
                }
            }
        }
        Ok(values)
    }

    /// Row `row` of a mask, whose values are f32 or f16: `[columns]`.
    ///
    /// # Errors
    /// When it has no such row.
    pub fn mask_row(&self, row: usize, columns: usize) -> Result<Vec<f32>, Unreadable> {
        let start = row * self.stride(1);
        match self.dtype() {
            sys::GGML_TYPE_F32 => Ok(floats(&self.bytes(start, columns * 4)?).collect()),
            sys::GGML_TYPE_F16 => Ok(halves(&self.bytes(start, columns * 2)?).collect()),
            other => Err(Unreadable(format!("{}: a mask of ggml type {other}", self.name()))),
        }
    }
}

/// Little-endian f32.
pub fn floats(bytes: &[u8]) -> impl Iterator<Item = f32> {
    bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b))
}

/// Little-endian f16, widened.
pub fn halves(bytes: &[u8]) -> impl Iterator<Item = f32> {
    bytes.as_chunks::<2>().0.iter().map(|b| f16::from_le_bytes(*b).to_f32())
}

/// The name's characters as bytes.
fn bytemuck_bytes(name: &[std::ffi::c_char]) -> &[u8] {
    // SAFETY: c_char is i8 or u8: same size, same alignment, every bit pattern valid.
    unsafe { std::slice::from_raw_parts(name.as_ptr().cast(), name.len()) }
}
