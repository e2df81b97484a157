//! Rows into a run: what is known goes into events, what is not stays out.

use crate::error::{ImportError, Result};
use crate::keys::Key;
use crate::report::Report;
use driftprobe_trace::{Event, Manifest, Phase, Point, PointSet, PromptInfo, Row, RunWriter};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

/// A run that is being written.
pub struct Recorder {
    writer: RunWriter,
    prompt_id: Arc<str>,
    layers: BTreeSet<i32>,
    points: [BTreeSet<Point>; 2],
    rows: [u64; 2],
    keys: [BTreeSet<Option<u64>>; 2],
    weak: bool,
}

fn at(phase: Phase) -> usize {
    match phase {
        Phase::Prefill => 0,
        Phase::Decode => 1,
    }
}

/// An event of which no more than this is known.
pub fn event(prompt_id: &Arc<str>, phase: Phase, (point, layer): (Point, i32), key: &Key) -> Event {
    Event {
        phase_spelling: phase.spelling(key.step),
        step: Some(key.step),
        pos_id: key.position,
        logical_tok_idx: key.index,
        token_id: key.token,
        ..Event::at(prompt_id.clone(), phase, point, layer)
    }
}

impl Recorder {
    /// Starts a run.
    ///
    /// # Errors
    /// If a run lies there and is not to be replaced, or the folder cannot be written.
    pub fn create(out: &Path, overwrite: bool, manifest: Manifest, prompt_id: &str) -> Result<Recorder> {
        let mut writer = match overwrite {
            true => RunWriter::overwrite(out, manifest)?,
            false => RunWriter::create(out, manifest)?,
        };
        if let Some([first, ..]) = writer.manifest_mut().prompts.as_deref_mut() {
            prompt_id.clone_into(&mut first.id);
        }
        Ok(Recorder {
            writer,
            prompt_id: Arc::from(prompt_id),
            layers: BTreeSet::new(),
            points: Default::default(),
            rows: [0; 2],
            keys: Default::default(),
            weak: false,
        })
    }

    /// Begins a phase of a prompt.
    ///
    /// # Errors
    /// If what is pending cannot be written.
    pub fn begin(&mut self, prompt_id: &Arc<str>, phase: Phase) -> Result<()> {
        self.prompt_id = prompt_id.clone();
        Ok(self.writer.begin(prompt_id, phase)?)
    }

    /// Records a row of which `key` is known.
    ///
    /// # Errors
    /// If it is no row of its point.
    pub fn row(
        &mut self,
        phase: Phase,
        place: (Point, i32),
        key: &Key,
        seq_len: Option<u64>,
        values: Row,
    ) -> Result<()> {
        let (point, layer) = place;
        if point.layered() && layer < 0 {
            let hint = "the map's name has to hold {layer} where the point exists once a layer";
            return Err(ImportError::new(format!("`{point}` without a layer"), hint));
        }
        let event = Event { seq_len, ..event(&self.prompt_id, phase, place, key) };
        self.event(event, Some(values))
    }

    /// Records an event as it is.
    ///
    /// # Errors
    /// If it is no row of its point.
    pub fn event(&mut self, event: Event, values: Option<Row>) -> Result<()> {
        let side = at(event.phase);
        self.weak |= event.is_weakly_keyed();
        if event.point.layered() {
            self.layers.insert(event.layer);
        }
        if let Some(points) = self.points.get_mut(side) {
            points.insert(event.point);
        }
        if let Some(keys) = self.keys.get_mut(side) {
            keys.insert(event.logical_tok_idx);
        }
        if let Some(rows) = self.rows.get_mut(side) {
            *rows += 1;
        }
        Ok(self.writer.record_event(event, values)?)
    }

    /// Ends the run: the manifest says what the dump holds, `complete` only if nothing in `report` is unknown.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn finish(mut self, sequence: Option<Vec<u32>>, report: &mut Report) -> Result<()> {
        let [prefill, decode] = &self.points;
        let [prefill_rows, decode_rows] = self.rows;
        (report.prefill_rows, report.decode_rows) = (prefill_rows, decode_rows);
        let [in_prefill, in_decode] = &self.keys;
        let steps = in_decode.len() as u64;
        let ends = sequence.as_ref().is_some_and(|sequence| {
            let length = sequence.len() as u64;
            (1..=length).contains(&steps) && in_decode.iter().copied().eq((length - steps..length).map(Some))
        });
        let mut unknown = |unknown: bool, what: &str| {
            if unknown {
                report.unknown.push(what.to_owned())
            }
        };
        unknown(prefill_rows == 0, "prefill: nothing of it was imported");
        unknown(decode_rows == 0, "decode: nothing of it was imported");
        unknown(sequence.is_none(), "the tokens of the sequence (--tokens FILE)");
        unknown(self.weak, "token, index or position of some rows (--tokens FILE --positions-from 0)");
        unknown(
            sequence.is_some() && steps > 0 && !ends,
            "what comes after decode's steps: they are not the last tokens of the sequence",
        );
        unknown(!in_prefill.is_subset(in_decode) || in_prefill.is_disjoint(in_decode), "which rows are in both phases");
        let manifest = self.writer.manifest_mut();
        manifest.layers = Some(self.layers.iter().copied().collect());
        let list = |points: &BTreeSet<Point>| points.iter().copied().collect::<Vec<Point>>();
        manifest.points = Some(PointSet::PerPhase { prefill: list(prefill), decode: list(decode) });
        if let Some(tokens) = sequence {
            let steps = u32::try_from(steps).ok().filter(|_| ends);
            manifest.prompts =
                Some(vec![PromptInfo { id: self.prompt_id.to_string(), tokens, ..PromptInfo::default() }]);
            manifest.steps = steps;
        }
        manifest.extra.insert("import".to_owned(), report.to_json());
        self.writer.finish(report.is_complete())?;
        Ok(())
    }
}
