//! What an engine shows of its work. A tap only copies what was computed anyway, so that tracing changes no bit.

use crate::error::EngineError;
use driftprobe_trace::{Dtype, Point};
use std::collections::BTreeSet;
use std::ops::Range;

/// Which points of which layers are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Wanted points.
    pub points: BTreeSet<Point>,
    /// Wanted layers.
    pub layers: BTreeSet<usize>,
}

/// One row that was tapped.
#[derive(Clone, Debug)]
pub struct TappedRow {
    /// Where.
    pub point: Point,
    /// In which layer; −1 for unlayered points.
    pub layer: i32,
    /// Position in the sequence.
    pub pos: usize,
    /// Tokens in this forward pass.
    pub seq_len: usize,
    /// Storage type of the values.
    pub dtype: Dtype,
    /// Shape of the row.
    pub shape: Vec<u64>,
    /// Little-endian bytes of the values.
    pub bytes: Vec<u8>,
}

/// Where a tap's rows go, and who hears of the progress.
pub trait Receiver {
    /// Takes a row.
    ///
    /// # Errors
    /// Anything that should end the forward pass.
    fn row(&mut self, row: TappedRow) -> Result<(), EngineError>;

    /// Hears that a layer begins, and how many tokens this forward pass takes through it.
    ///
    /// # Errors
    /// [`EngineError::Interrupted`] to end the forward pass.
    fn layer(&mut self, layer: usize, tokens: usize) -> Result<(), EngineError> {
        let _ = (layer, tokens);
        Ok(())
    }
}

/// A tap: the rows that are wanted, and where they go.
pub struct Tap<'a> {
    wanted: Option<(&'a Selection, Range<usize>)>,
    receiver: Option<&'a mut dyn Receiver>,
}

impl<'a> Tap<'a> {
    /// A tap that takes nothing and tells nobody.
    pub fn closed() -> Tap<'static> {
        Tap { wanted: None, receiver: None }
    }

    /// A tap that takes no rows, but tells of the progress.
    pub fn watched(receiver: &'a mut dyn Receiver) -> Tap<'a> {
        Tap { wanted: None, receiver: Some(receiver) }
    }

    /// A tap that takes the selected points at these positions.
    pub fn open(selection: &'a Selection, positions: Range<usize>, receiver: &'a mut dyn Receiver) -> Tap<'a> {
        Tap { wanted: Some((selection, positions)), receiver: Some(receiver) }
    }

    /// The wanted positions of this point, if it is wanted at all. `layer` is ignored for unlayered points.
    pub fn positions(&self, point: Point, layer: usize) -> Option<Range<usize>> {
        let (selection, positions) = self.wanted.as_ref()?;
        let layer_wanted = !point.layered() || selection.layers.contains(&layer);
        (selection.points.contains(&point) && layer_wanted).then(|| positions.clone())
    }

    /// Hands a row over.
    ///
    /// # Errors
    /// Whatever the receiver says.
    pub fn put(&mut self, row: TappedRow) -> Result<(), EngineError> {
        match &mut self.receiver {
            Some(receiver) => receiver.row(row),
            None => Ok(()),
        }
    }

    /// Tells that a layer begins, and how many tokens this forward pass takes through it.
    ///
    /// # Errors
    /// Whatever the receiver says.
    pub fn enter(&mut self, layer: usize, tokens: usize) -> Result<(), EngineError> {
        match &mut self.receiver {
            Some(receiver) => receiver.layer(layer, tokens),
            None => Ok(()),
        }
    }
}
