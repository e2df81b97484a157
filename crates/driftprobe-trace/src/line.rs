//! From an [`Event`] to its line of JSON, the way back of [`accept`](crate::accept).

use crate::{Event, LogitsTop, RowStats};
use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};

/// A number that is written as a string where JSON has none: `"NaN"`, `"Infinity"`, `"-Infinity"`.
struct Num(f64);

impl Serialize for Num {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.is_finite() {
            serializer.serialize_f64(self.0)
        } else if self.0.is_nan() {
            serializer.serialize_str("NaN")
        } else {
            serializer.serialize_str(if self.0 > 0.0 { "Infinity" } else { "-Infinity" })
        }
    }
}

struct Nums<'a>(&'a [f64]);

impl Serialize for Nums<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut seq = serializer.serialize_seq(Some(self.0.len()))?;
        for v in self.0 {
            seq.serialize_element(&Num(*v))?;
        }
        seq.end()
    }
}

/// Writes a field if its value is known.
fn known<M: SerializeMap, T: Serialize>(map: &mut M, key: &'static str, value: Option<T>) -> Result<(), M::Error> {
    value.map_or(Ok(()), |value| map.serialize_entry(key, &value))
}

/// As it stands in a trace: fields that are not known are left out; hashes are integers.
impl Serialize for Event {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("event", if self.logits.is_some() { "stage_logits" } else { "stage_trace" })?;
        map.serialize_entry("prompt_id", &*self.prompt_id)?;
        map.serialize_entry("phase", &*self.phase_spelling)?;
        map.serialize_entry("point", &*self.point_spelling)?;
        map.serialize_entry("layer", &self.layer)?;
        known(&mut map, "step", self.step)?;
        known(&mut map, "pos_id", self.pos_id)?;
        known(&mut map, "logical_tok_idx", self.logical_tok_idx)?;
        known(&mut map, "token_id", self.token_id)?;
        known(&mut map, "seq_len", self.seq_len)?;
        known(&mut map, "kv_len", self.kv_len)?;
        known(&mut map, "dtype", self.dtype.map(|d| d.id()))?;
        known(&mut map, "stored_dtype", self.stored_dtype.map(|d| d.id()))?;
        known(&mut map, "shape", self.shape.as_ref())?;
        known(&mut map, "hash_algo", self.hash.map(|h| h.algo.id()))?;
        known(&mut map, "hash", self.hash.map(|h| h.value))?;
        stats(&mut map, &self.stats)?;
        if let Some(top) = &self.logits {
            logits(&mut map, top)?;
        }
        if let Some(sample) = &self.sample {
            map.serialize_entry("sample", &Nums(&sample.values))?;
            known(&mut map, "sample_idx", sample.idx.as_ref())?;
        }
        if let Some(payload) = &self.payload {
            let fields = [("file", &*payload.file), ("key", &*payload.key)];
            map.serialize_entry("payload", &Pairs(fields))?;
        }
        map.end()
    }
}

struct Pairs<'a>([(&'static str, &'a str); 2]);

impl Serialize for Pairs<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0)
    }
}

fn stats<M: SerializeMap>(map: &mut M, stats: &RowStats) -> Result<(), M::Error> {
    known(map, "min", stats.min.map(Num))?;
    known(map, "max", stats.max.map(Num))?;
    known(map, "mean", stats.mean.map(Num))?;
    known(map, "abs_sum", stats.abs_sum.map(Num))?;
    known(map, "nan", stats.nan)?;
    known(map, "inf", stats.inf)?;
    known(map, "nz_count", stats.nz_count)
}

fn logits<M: SerializeMap>(map: &mut M, top: &LogitsTop) -> Result<(), M::Error> {
    known(map, "top1_id", top.top1_id)?;
    known(map, "top1_logit", top.top1_logit.map(Num))?;
    known(map, "top2_id", top.top2_id)?;
    known(map, "top2_logit", top.top2_logit.map(Num))?;
    known(map, "gap", top.gap.map(Num))?;
    known(map, "vocab", top.vocab)
}
