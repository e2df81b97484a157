//! Faults of the KV cache. They act on what attention gets from it, which is what the tap shows as `k_cache`, `v_cache`.

use super::fault::{Group, Scope, Subject, Workshop};
use super::names::{Parameters, named};
use crate::Session;
use crate::embedded::bytes::tensor_of;
use crate::embedded::interference::{At, Interference};
use crate::error::EngineError;
use crate::settings::Storage;
use crate::tap::Tap;
use candle_core::{DType, Tensor};
use driftprobe_trace::{Phase, Point};

/// A type that values are squeezed through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// bfloat16.
    Bf16,
    /// IEEE binary16.
    F16,
    /// E4M3 of OCP's 8-bit floating point (without a scale; saturates at 448).
    Fp8,
}

named!(Precision { Bf16 = "bf16", F16 = "f16", Fp8 = "fp8" });

/// Which part of the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Keys only.
    K,
    /// Values only.
    V,
    /// Both.
    Kv,
}

named!(Part { K = "k", V = "v", Kv = "kv" });

/// Faults of the KV cache. Slots are positions of the sequence.
#[derive(Clone, Debug, PartialEq)]
pub enum CacheFault {
    /// `KV_STALE_SLOT`: the slot holds what the sequence before has left there.
    StaleSlot(usize),
    /// `KV_DUPLICATED_SLOT`: the slot behind this one holds this one's row too.
    DuplicatedSlot(usize),
    /// `KV_SWAPPED_SLOTS`: two slots' rows are exchanged. With K and V exchanged alike, attention still finds the same
    /// where it sees both.
    SwappedSlots(Part, usize, usize),
    /// `KV_FOREIGN_ROW`: the slot is read from another sequence's, at another position.
    ForeignRow(usize),
    /// `KV_EXCHANGED`: K is read for V, and V for K.
    Exchanged,
    /// `KV_PRECISION`: the rows have been through a smaller type.
    Precision(Precision),
    /// `KV_NOT_WRITTEN`: the pass's last row is not written; the slot stays as it was made, zero.
    NotWritten,
}

use CacheFault::{DuplicatedSlot, Exchanged, ForeignRow, NotWritten, StaleSlot, SwappedSlots};

impl Group for CacheFault {
    fn id(&self) -> &'static str {
        match self {
            StaleSlot(_) => "KV_STALE_SLOT",
            DuplicatedSlot(_) => "KV_DUPLICATED_SLOT",
            SwappedSlots(..) => "KV_SWAPPED_SLOTS",
            ForeignRow(_) => "KV_FOREIGN_ROW",
            Exchanged => "KV_EXCHANGED",
            CacheFault::Precision(_) => "KV_PRECISION",
            NotWritten => "KV_NOT_WRITTEN",
        }
    }

    fn parameters(&self) -> Vec<String> {
        match self {
            StaleSlot(slot) | DuplicatedSlot(slot) | ForeignRow(slot) => vec![slot.to_string()],
            SwappedSlots(part, one, other) => vec![part.to_string(), one.to_string(), other.to_string()],
            CacheFault::Precision(precision) => vec![precision.to_string()],
            Exchanged | NotWritten => vec![],
        }
    }

    fn parse(id: &str, p: &mut Parameters<'_>) -> Result<Option<Self>, String> {
        Ok(Some(match id {
            "KV_STALE_SLOT" => StaleSlot(p.take("slot", 0)?),
            "KV_DUPLICATED_SLOT" => DuplicatedSlot(p.take("slot", 0)?),
            "KV_SWAPPED_SLOTS" => SwappedSlots(p.take("part", Part::K)?, p.take("slot", 0)?, p.take("other slot", 1)?),
            "KV_FOREIGN_ROW" => ForeignRow(p.take("slot", 0)?),
            "KV_EXCHANGED" => Exchanged,
            "KV_PRECISION" => CacheFault::Precision(p.take("precision", Precision::Fp8)?),
            "KV_NOT_WRITTEN" => NotWritten,
            _ => return Ok(None),
        }))
    }

    fn all(subject: &Subject<'_>) -> Vec<Self> {
        let middle = subject.tokens / 2;
        let before = middle.saturating_sub(1);
        let mut all = vec![StaleSlot(middle), DuplicatedSlot(before), ForeignRow(middle), Exchanged, NotWritten];
        all.extend(Part::ALL.iter().map(|part| SwappedSlots(*part, before, middle)));
        all.extend(Precision::ALL.iter().map(|precision| CacheFault::Precision(*precision)));
        all
    }

    fn check(&self, subject: &Subject<'_>, _: &Scope) -> Result<(), String> {
        let there = |slot: usize| match slot < subject.tokens {
            true => Ok(()),
            false => Err(format!("there are {} slots, and no slot {slot}", subject.tokens)),
        };
        match self {
            StaleSlot(slot) | ForeignRow(slot) => there(*slot),
            DuplicatedSlot(slot) => there(slot.saturating_add(1)),
            SwappedSlots(_, one, other) if one == other => Err("a slot swapped with itself stays".to_owned()),
            SwappedSlots(_, one, other) => there(*one.max(other)),
            CacheFault::Precision(precision) => match (precision, subject.settings.kv_cache) {
                (Precision::Bf16, Storage::Bf16) | (Precision::F16, Storage::F16) => {
                    Err(format!("the cache is in {precision} already"))
                }
                (Precision::F16, Storage::Bf16) => Err("f16 holds what bf16 holds, but for extremes".to_owned()),
                _ => Ok(()),
            },
            Exchanged | NotWritten => Ok(()),
        }
    }

    fn point(&self, _: &Subject<'_>, _: Phase) -> Point {
        match self {
            SwappedSlots(Part::V, ..) => Point::VCache,
            _ => Point::KCache,
        }
    }

    fn build(&self, workshop: &Workshop<'_>) -> Result<Box<dyn Interference>, EngineError> {
        let donated = match self {
            StaleSlot(slot) => donated(workshop, *slot)?,
            ForeignRow(slot) => donated(workshop, slot + 1)?,
            _ => Vec::new(),
        };
        Ok(Box::new(WrongCache { fault: self.clone(), donated }))
    }
}

/// K and V of every layer `[kv_heads, 1, head_dim]` that the clean engine has for the donor's position.
fn donated(workshop: &Workshop<'_>, pos: usize) -> Result<Vec<(Tensor, Tensor)>, EngineError> {
    let tokens = workshop.donor.get(..=pos).ok_or_else(|| {
        let what = format!("the other sequence has {} tokens, {} are needed", workshop.donor.len(), pos + 1);
        EngineError::request(what, "give a longer one")
    })?;
    let device = &workshop.subject.settings.device;
    let mut session = workshop.clean.session_with(&crate::embedded::interference::NoInterference)?;
    session.prefill(tokens, 0..0, &mut Tap::closed())?;
    let layers = 0..workshop.subject.config().num_hidden_layers;
    let row = |layer| -> Result<(Tensor, Tensor), EngineError> {
        let rows = session.kv(layer, pos..pos + 1)?;
        let dtype = workshop.subject.settings.kv_cache.candle();
        let tensor = |bytes| -> Result<Tensor, EngineError> {
            Ok(tensor_of(bytes, rows.dtype, rows.shape)?.to_device(device)?.to_dtype(dtype)?)
        };
        Ok((tensor(&rows.k)?, tensor(&rows.v)?))
    };
    layers.map(row).collect()
}

struct WrongCache {
    fault: CacheFault,
    /// Rows of another sequence, a layer each.
    donated: Vec<(Tensor, Tensor)>,
}

impl Interference for WrongCache {
    fn written(&self, _: At, k: Tensor, v: Tensor) -> Result<(Tensor, Tensor), EngineError> {
        let unwritten = |x: Tensor| -> Result<Tensor, EngineError> {
            let last = x.dim(0)? - 1;
            let zero = x.narrow(0, last, 1)?.zeros_like()?;
            Ok(Tensor::cat(&[x.narrow(0, 0, last)?, zero], 0)?)
        };
        if self.fault == NotWritten { Ok((unwritten(k)?, unwritten(v)?)) } else { Ok((k, v)) }
    }

    fn read(&self, at: At, k: Tensor, v: Tensor) -> Result<(Tensor, Tensor), EngineError> {
        let rows = k.dim(1)?;
        match &self.fault {
            StaleSlot(slot) | ForeignRow(slot) => match at.layer.and_then(|l| self.donated.get(l)) {
                Some((other_k, other_v)) if *slot < rows => {
                    Ok((with_row(&k, *slot, other_k)?, with_row(&v, *slot, other_v)?))
                }
                _ => Ok((k, v)),
            },
            DuplicatedSlot(slot) if slot + 1 < rows => {
                let again = |x: &Tensor| with_row(x, slot + 1, &x.narrow(1, *slot, 1)?);
                Ok((again(&k)?, again(&v)?))
            }
            SwappedSlots(part, one, other) if *one.max(other) < rows => {
                let swapped = |x: &Tensor| {
                    let (a, b) = (x.narrow(1, *one, 1)?, x.narrow(1, *other, 1)?);
                    with_row(&with_row(x, *one, &b)?, *other, &a)
                };
                match part {
                    Part::K => Ok((swapped(&k)?, v)),
                    Part::V => Ok((k, swapped(&v)?)),
                    Part::Kv => Ok((swapped(&k)?, swapped(&v)?)),
                }
            }
            // Attention takes K and V laid out alike, and the views that come from the cache are.
            Exchanged => Ok((v, k)),
            CacheFault::Precision(precision) => Ok((squeezed(&k, *precision)?, squeezed(&v, *precision)?)),
            DuplicatedSlot(_) | SwappedSlots(..) | NotWritten => Ok((k, v)),
        }
    }
}

/// `[kv_heads, rows, head_dim]` with another row in one slot.
fn with_row(x: &Tensor, slot: usize, row: &Tensor) -> Result<Tensor, EngineError> {
    let behind = x.dim(1)? - slot - 1;
    Ok(Tensor::cat(&[&x.narrow(1, 0, slot)?, row, &x.narrow(1, slot + 1, behind)?], 1)?.contiguous()?)
}

/// The values after a stay in another type, in their own type again.
fn squeezed(x: &Tensor, precision: Precision) -> Result<Tensor, EngineError> {
    let through = match precision {
        Precision::Bf16 => x.to_dtype(DType::BF16)?,
        Precision::F16 => x.to_dtype(DType::F16)?,
        Precision::Fp8 => {
            let values = x.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
            Tensor::from_vec(values.into_iter().map(e4m3).collect::<Vec<_>>(), x.dims(), x.device())?
        }
    };
    Ok(through.to_dtype(x.dtype())?)
}

/// To the nearest value of E4M3 (OCP OFP8, revision 1.0): three bits of mantissa, exponents from −6, subnormals in steps
/// of 2⁻⁹, at most 448; ties to even.
fn e4m3(x: f32) -> f32 {
    if x.is_nan() {
        return x;
    }
    let exponent = ((x.abs().to_bits() >> 23) as i32 - 127).max(-6);
    let step = f32::powi(2.0, exponent - 3);
    ((x / step).round_ties_even() * step).clamp(-448.0, 448.0)
}

#[cfg(test)]
mod tests {
    use super::e4m3;

    #[test]
    fn eight_bits_hold_what_the_format_says() {
        // From the table of OFP8: largest, smallest normal, smallest subnormal; and ties.
        let exact = [448.0, 2f32.powi(-6), 2f32.powi(-9), 1.0, 1.125, 0.0, 240.0];
        exact.into_iter().flat_map(|x| [x, -x]).for_each(|x| assert_eq!(e4m3(x), x));
        let rounded = [(1.0625, 1.0), (1.1875, 1.25), (1e9, 448.0), (2f32.powi(-10), 0.0), (0.3, 0.3125), (17.5, 18.0)];
        rounded.into_iter().for_each(|(x, to)| assert_eq!((e4m3(x), e4m3(-x)), (to, -to), "{x}"));
        assert!(e4m3(f32::NAN).is_nan());
    }
}
