//! From a line's fields to an [`Event`]: what is missing, contradictory or unknown is refused or noted here.

use crate::json::Located;
use crate::notes::Notes;
use crate::raw::{RawEvent, RawPayload};
use crate::row::element_count;
use crate::scalar::{Num, Text};
use crate::{Dtype, Event, HashAlgo, LogitsTop, PayloadRef, Phase, Point, RowHash, RowStats, Sample, Source, payload};
use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

/// An event whose point this version does not know. It is listed, never dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unmapped {
    /// Where it was read.
    pub source: Source,
    /// The point as it was spelled.
    pub point: String,
    /// The prompt.
    pub prompt_id: Arc<str>,
    /// The phase.
    pub phase: Phase,
}

/// What a line turned out to be.
#[expect(clippy::large_enum_variant, reason = "nearly all are events, and none is kept")]
pub enum Accepted {
    Event(Event),
    Unmapped(Unmapped),
    /// An event of another kind; noted.
    Other,
}

/// Strings that many events share.
#[derive(Default)]
pub struct Interner {
    all: HashSet<Arc<str>>,
    /// Those met last, by length and last byte: most lines name what the lines before them named.
    recent: [Option<Arc<str>>; 32],
}

impl Interner {
    /// The shared copy of `text`.
    pub fn get(&mut self, text: &str) -> Arc<str> {
        let last = text.as_bytes().last().copied().unwrap_or_default();
        let at = (text.len() ^ usize::from(last) << 2) % self.recent.len();
        if let Some(Some(known)) = self.recent.get(at)
            && **known == *text
        {
            return known.clone();
        }
        let shared = match self.all.get(text) {
            Some(known) => known.clone(),
            None => Arc::from(text),
        };
        self.all.insert(shared.clone());
        if let Some(recent) = self.recent.get_mut(at) {
            *recent = Some(shared.clone());
        }
        shared
    }
}

fn fault<T>(key: &str, message: impl Into<String>) -> Result<T, Located> {
    Err(Located { line: 1, key: key.to_owned(), message: message.into() })
}

fn need<'a>(key: &str, field: Option<Option<Text<'a>>>) -> Result<Text<'a>, Located> {
    match field.flatten() {
        Some(text) => Ok(text),
        None => fault(key, "missing"),
    }
}

/// Makes an event of a line's fields.
///
/// # Errors
/// The key that is missing or makes no sense.
pub fn accept(
    mut raw: RawEvent<'_>,
    source: Source,
    names: &mut Interner,
    notes: &mut Notes,
) -> Result<Accepted, Located> {
    let Text(kind) = need("event", raw.event.take())?;
    let logits = match kind.as_ref() {
        "stage_trace" => false,
        "stage_logits" => true,
        other => {
            notes.unknown_event(other);
            return Ok(Accepted::Other);
        }
    };
    for name in &raw.unknown {
        notes.unknown_field(name);
    }
    let Text(prompt_id) = need("prompt_id", raw.prompt_id.take())?;
    let prompt_id = names.get(&prompt_id);
    let Text(phase_spelling) = need("phase", raw.phase.take())?;
    let Some(phase) = Phase::parse(&phase_spelling) else {
        return fault(
            "phase",
            format!("`{phase_spelling}` is none of prefill, prefill_last, decode, decode0, decode1, …"),
        );
    };
    let spelling = point_spelling(&mut raw, logits)?;
    let Some(point) = Point::parse(&spelling) else {
        return Ok(Accepted::Unmapped(Unmapped { source, point: spelling.into_owned(), prompt_id, phase }));
    };
    if logits && point != Point::Logits {
        return fault("point", format!("`{spelling}` in a stage_logits event"));
    }
    let layer = layer_of(point, raw.layer.flatten())?;
    let shape = raw.shape.take().flatten();
    if shape.as_ref().is_some_and(|s| element_count(s).is_none()) {
        return fault("shape", "has more elements than can be counted");
    }
    let sample = sample_of(&mut raw, shape.as_deref())?;
    let payload = payload_of(raw.payload.take().flatten(), names)?;
    let hash = hash_of(&mut raw, notes);
    let dtype = dtype_of(raw.dtype.take(), notes);
    let stored_dtype = dtype_of(raw.stored_dtype.take(), notes);
    Ok(Accepted::Event(Event {
        prompt_id,
        phase,
        phase_spelling: names.get(&phase_spelling),
        point,
        point_spelling: names.get(&spelling),
        layer,
        step: raw.step.flatten(),
        pos_id: raw.pos_id.flatten(),
        logical_tok_idx: raw.logical_tok_idx.flatten(),
        token_id: raw.token_id.flatten(),
        seq_len: raw.seq_len.flatten(),
        kv_len: raw.kv_len.flatten(),
        dtype,
        stored_dtype,
        shape,
        hash,
        stats: stats_of(&raw),
        sample,
        payload,
        logits: logits.then(|| logits_of(&raw)),
        source,
    }))
}

fn point_spelling<'a>(raw: &mut RawEvent<'a>, logits: bool) -> Result<Cow<'a, str>, Located> {
    let point = raw.point.take().flatten().map(|t| t.0);
    let tensor = raw.tensor.take().flatten().map(|t| t.0);
    match (point, tensor) {
        (Some(point), Some(tensor)) if point != tensor => {
            fault("tensor", format!("`{tensor}`, but `point` is `{point}`: they mean the same and must be equal"))
        }
        (Some(name), _) | (None, Some(name)) => Ok(name),
        (None, None) if logits => Ok(Cow::Borrowed(Point::Logits.id())),
        (None, None) => fault("point", "missing"),
    }
}

fn layer_of(point: Point, layer: Option<i32>) -> Result<i32, Located> {
    match layer {
        _ if !point.layered() => Ok(-1),
        None => fault("layer", format!("missing; `{point}` exists once a layer")),
        Some(layer) if layer < 0 => fault("layer", format!("{layer}; `{point}` exists once a layer, from 0")),
        Some(layer) => Ok(layer),
    }
}

fn sample_of(raw: &mut RawEvent<'_>, shape: Option<&[u64]>) -> Result<Option<Sample>, Located> {
    let idx = raw.sample_idx.take().flatten();
    let Some(values) = raw.sample.take().flatten() else {
        return match idx {
            Some(_) => fault("sample_idx", "stands there without `sample`"),
            None => Ok(None),
        };
    };
    let values: Vec<f64> = values.into_iter().map(|Num(v)| v).collect();
    let elements = shape.and_then(element_count).unwrap_or(u64::MAX);
    match &idx {
        Some(idx) if idx.len() != values.len() => {
            fault("sample_idx", format!("{} indices for {} values of `sample`", idx.len(), values.len()))
        }
        Some(idx) => match idx.iter().find(|&&i| i >= elements) {
            Some(i) => fault("sample_idx", format!("{i} is outside the row's {elements} elements")),
            None => Ok(Some(Sample { values, idx: Some(idx.clone()) })),
        },
        None if values.len() as u64 > elements => {
            fault("sample", format!("{} values of a row of {elements} elements", values.len()))
        }
        None => Ok(Some(Sample { values, idx: None })),
    }
}

fn payload_of(raw: Option<RawPayload<'_>>, names: &mut Interner) -> Result<Option<PayloadRef>, Located> {
    let Some(raw) = raw else { return Ok(None) };
    match payload::path_fault(&raw.file.0) {
        Some(what) => fault("payload.file", format!("`{}` is {what}", raw.file.0)),
        None => Ok(Some(PayloadRef { file: names.get(&raw.file.0), key: Arc::from(raw.key.0.as_ref()) })),
    }
}

fn hash_of(raw: &mut RawEvent<'_>, notes: &mut Notes) -> Option<RowHash> {
    let value = raw.hash.flatten()?.0;
    let algo = match raw.hash_algo.take().flatten() {
        None => {
            notes.hash_algo_assumed += 1;
            HashAlgo::GretaFnv1a256
        }
        Some(Text(name)) => match HashAlgo::parse(&name) {
            Some(algo) => algo,
            None => {
                notes.unknown_hash_algo(&name);
                return None;
            }
        },
    };
    Some(RowHash { algo, value })
}

fn dtype_of(name: Option<Option<Text<'_>>>, notes: &mut Notes) -> Option<Dtype> {
    let Text(name) = name.flatten()?;
    let dtype = Dtype::parse(&name);
    if dtype.is_none() {
        notes.unknown_dtype(&name);
    }
    dtype
}

fn stats_of(raw: &RawEvent<'_>) -> RowStats {
    let num = |n: Option<Num>| n.map(|Num(v)| v);
    RowStats {
        min: num(raw.min),
        max: num(raw.max),
        mean: num(raw.mean),
        abs_sum: num(raw.abs_sum),
        nan: raw.nan.flatten(),
        inf: raw.inf.flatten(),
        nz_count: raw.nz_count.flatten(),
    }
}

fn logits_of(raw: &RawEvent<'_>) -> LogitsTop {
    let num = |n: Option<Num>| n.map(|Num(v)| v);
    LogitsTop {
        top1_id: raw.top1_id.flatten(),
        top1_logit: num(raw.top1_logit),
        top2_id: raw.top2_id.flatten(),
        top2_logit: num(raw.top2_logit),
        gap: num(raw.gap),
        vocab: raw.vocab.flatten(),
    }
}
