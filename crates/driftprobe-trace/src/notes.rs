//! What a reader noticed and did not refuse. A note never goes unsaid: the report lists it.

use crate::Source;
use std::collections::BTreeMap;
use std::fmt;

/// Something that was noticed while a run was read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Note {
    /// There is no `manifest.json`: nothing is known of what was asked for, nor whether the run ended.
    ManifestMissing,
    /// The manifest does not say `complete: true`: the run was cut short.
    Incomplete,
    /// A self-repeat's folder holds nothing: the run was cut short before it.
    EmptyRepeat {
        /// N of `repeat-N`.
        number: u32,
    },
    /// The last line of this file is cut off and was left out.
    TornTail {
        /// The file and the line.
        source: Source,
    },
    /// Events had a hash and no `hash_algo`: taken for `greta-fnv1a-256`, as the format says.
    HashAlgoAssumed {
        /// How many events.
        count: u64,
    },
    /// Hashes by an algorithm that this version does not know: they cannot be compared and were left out.
    UnknownHashAlgo {
        /// Its name.
        name: String,
        /// How many events.
        count: u64,
    },
    /// A dtype that this version does not know: taken as not known.
    UnknownDtype {
        /// Its name.
        name: String,
        /// How many fields.
        count: u64,
    },
    /// A field that this version does not know.
    UnknownField {
        /// Its name.
        name: String,
        /// How many events.
        count: u64,
    },
    /// Lines whose `event` is neither `stage_trace` nor `stage_logits`.
    UnknownEvent {
        /// Its name.
        kind: String,
        /// How many lines.
        count: u64,
    },
    /// A file where traces lie that is not called `*.jsonl` or `*.jsonl.gz`, or traces beside `traces/`: not read.
    IgnoredFile {
        /// Its path in the run's folder.
        name: String,
    },
    /// A point that this version does not know; each of its events stands in [`Run::unmapped`](crate::Run::unmapped).
    UnknownPoint {
        /// Its name.
        point: String,
        /// How many events.
        count: u64,
    },
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Note::ManifestMissing => {
                f.write_str("no manifest.json: what was asked for, and whether the run ended, is not known")
            }
            Note::Incomplete => f.write_str("the manifest does not say `complete: true`: the run was cut short"),
            Note::EmptyRepeat { number } => write!(f, "repeat-{number}/ holds no run"),
            Note::TornTail { source } => write!(f, "{source}: the last line is cut off and was left out"),
            Note::HashAlgoAssumed { count } => {
                write!(f, "{count} hashes without `hash_algo`, taken for greta-fnv1a-256 (first 256 values)")
            }
            Note::UnknownHashAlgo { name, count } => {
                write!(f, "{count} hashes by the unknown algorithm `{name}`, left out")
            }
            Note::UnknownDtype { name, count } => {
                write!(f, "{count} times the unknown dtype `{name}`, taken as not known")
            }
            Note::UnknownField { name, count } => write!(f, "{count} events have the unknown field `{name}`"),
            Note::UnknownEvent { kind, count } => write!(f, "{count} lines are events of the unknown kind `{kind}`"),
            Note::IgnoredFile { name } => write!(f, "`{name}` was not read: traces are *.jsonl(.gz) files in traces/"),
            Note::UnknownPoint { point, count } => write!(f, "{count} events of the unknown point `{point}`"),
        }
    }
}

/// Notes as they gather.
#[derive(Clone, Debug, Default)]
pub struct Notes {
    pub torn: Vec<Source>,
    pub hash_algo_assumed: u64,
    hash_algos: BTreeMap<String, u64>,
    dtypes: BTreeMap<String, u64>,
    fields: BTreeMap<String, u64>,
    events: BTreeMap<String, u64>,
    points: BTreeMap<String, u64>,
}

fn count(map: &mut BTreeMap<String, u64>, name: &str) {
    match map.get_mut(name) {
        Some(n) => *n += 1,
        None => drop(map.insert(name.to_owned(), 1)),
    }
}

impl Notes {
    pub fn unknown_hash_algo(&mut self, name: &str) {
        count(&mut self.hash_algos, name);
    }

    pub fn unknown_dtype(&mut self, name: &str) {
        count(&mut self.dtypes, name);
    }

    pub fn unknown_field(&mut self, name: &str) {
        count(&mut self.fields, name);
    }

    pub fn unknown_event(&mut self, kind: &str) {
        count(&mut self.events, kind);
    }

    pub fn unknown_point(&mut self, point: &str) {
        count(&mut self.points, point);
    }

    /// Adds what was noticed further on.
    pub fn append(&mut self, behind: Notes) {
        let Notes { torn, hash_algo_assumed, hash_algos, dtypes, fields, events, points } = behind;
        self.torn.extend(torn);
        self.hash_algo_assumed += hash_algo_assumed;
        let ours = [&mut self.hash_algos, &mut self.dtypes, &mut self.fields, &mut self.events, &mut self.points];
        for (ours, theirs) in ours.into_iter().zip([hash_algos, dtypes, fields, events, points]) {
            for (name, count) in theirs {
                *ours.entry(name).or_default() += count;
            }
        }
    }

    /// All of them, in a fixed order.
    pub fn into_list(self, manifest_complete: Option<bool>) -> Vec<Note> {
        let mut list = Vec::new();
        match manifest_complete {
            None => list.push(Note::ManifestMissing),
            Some(false) => list.push(Note::Incomplete),
            Some(true) => {}
        }
        list.extend(self.torn.into_iter().map(|source| Note::TornTail { source }));
        if self.hash_algo_assumed > 0 {
            list.push(Note::HashAlgoAssumed { count: self.hash_algo_assumed });
        }
        list.extend(self.hash_algos.into_iter().map(|(name, count)| Note::UnknownHashAlgo { name, count }));
        list.extend(self.dtypes.into_iter().map(|(name, count)| Note::UnknownDtype { name, count }));
        list.extend(self.points.into_iter().map(|(point, count)| Note::UnknownPoint { point, count }));
        list.extend(self.events.into_iter().map(|(kind, count)| Note::UnknownEvent { kind, count }));
        list.extend(self.fields.into_iter().map(|(name, count)| Note::UnknownField { name, count }));
        list
    }
}
