//! What is to be judged, and by whom: the promise that a merge holds results against.

use super::{MergeError, SCHEMA, generator};
use crate::oracle::Input;
use crate::pair::place::Part;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

/// Every unit that must be there: the prompts of each run, in the order of the search.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Promise {
    runs: BTreeMap<String, Vec<String>>,
}

impl Promise {
    /// Promises these prompts of a run; promised already, they must be the same.
    ///
    /// # Errors
    /// [`MergeError::OtherRun`] if the run was promised with other prompts.
    pub fn add(&mut self, run: &str, prompts: &[String]) -> Result<(), MergeError> {
        match self.runs.get(run) {
            Some(known) if known != prompts => Err(MergeError::OtherRun { run: run.to_owned() }),
            Some(_) => Ok(()),
            None => {
                self.runs.insert(run.to_owned(), prompts.to_vec());
                Ok(())
            }
        }
    }

    /// Promises all that another promises.
    ///
    /// # Errors
    /// As [`Promise::add`].
    pub fn join(&mut self, other: &Promise) -> Result<(), MergeError> {
        other.runs.iter().try_for_each(|(run, prompts)| self.add(run, prompts))
    }

    /// Every unit as run and prompt, in the order of the search.
    pub fn units(&self) -> impl Iterator<Item = (&str, &str)> {
        self.runs.iter().flat_map(|(run, prompts)| prompts.iter().map(move |prompt| (run.as_str(), prompt.as_str())))
    }

    /// Names of the runs.
    pub fn runs(&self) -> impl Iterator<Item = &str> {
        self.runs.keys().map(String::as_str)
    }

    /// Names of the runs of which no unit is promised.
    pub fn empty(&self) -> impl Iterator<Item = &str> {
        self.runs.iter().filter(|(_, prompts)| prompts.is_empty()).map(|(run, _)| run.as_str())
    }

    /// A run that is promised with a prompt twice, if there is one: a plan from a file may be damaged.
    pub fn twice(&self) -> Option<&str> {
        let twice = |prompts: &[String]| prompts.iter().collect::<BTreeSet<_>>().len() < prompts.len();
        self.runs.iter().find(|(_, prompts)| twice(prompts)).map(|(run, _)| run.as_str())
    }
}

/// What was seen of each run, by part of the run: a hash over what was recorded, and over how it was judged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Seen {
    runs: BTreeMap<String, BTreeMap<String, String>>,
}

impl Seen {
    /// Adds what was seen of a run, by part.
    pub fn insert(&mut self, run: &str, parts: BTreeMap<String, String>) {
        self.runs.insert(run.to_owned(), parts);
    }

    /// Adds what another saw.
    ///
    /// # Errors
    /// [`MergeError::Mixed`] if that is something else: results on two runs of one name are no verdict on either.
    pub fn join(&mut self, other: &Seen) -> Result<(), MergeError> {
        for (run, parts) in &other.runs {
            let ours = self.runs.entry(run.clone()).or_default();
            for (part, theirs) in parts {
                let known = ours.entry(part.clone()).or_insert_with(|| theirs.clone());
                if known != theirs {
                    return Err(MergeError::Mixed { run: run.clone() });
                }
            }
        }
        Ok(())
    }
}

/// One part of equal parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Shard {
    /// Which, from 1.
    pub index: u32,
    /// Of how many.
    pub of: u32,
}

impl Shard {
    /// Whether the thing at this place of a fixed order is this shard's.
    pub fn holds(self, place: usize) -> bool {
        self.of > 0 && place % self.of as usize + 1 == self.index as usize
    }

    /// Whether a stage's layer is this shard's, of a model of so many: of layers in a row, as many as fall to each. What lies
    /// before all layers goes with the first, what lies behind them with the last.
    pub fn holds_layer(self, place: Input, layers: usize) -> bool {
        let last = i64::from(self.of) - 1;
        let part = match (Part::of(place.point), i64::from(place.layer)) {
            (Part::Embedding, _) => 0,
            (Part::Layer, layer) if layer >= 0 => layer * i64::from(self.of) / layers.max(1) as i64,
            _ => last,
        };
        part.clamp(0, last.max(0)) + 1 == i64::from(self.index)
    }
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Shard, String> {
        let number = |part: &str| part.parse::<u32>().ok();
        let both = text.split_once('/').and_then(|(index, of)| number(index).zip(number(of)));
        match both {
            Some((index, of)) if (1..=of).contains(&index) => Ok(Shard { index, of }),
            _ => Err("expected I/N with I from 1 to N, such as 1/3".to_owned()),
        }
    }
}

/// `I/N`.
impl std::fmt::Display for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.index, self.of)
    }
}

/// What one program was to judge, as it stands beside its results.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// [`SCHEMA`].
    pub schema: u32,
    /// [`generator`].
    pub generator: String,
    /// Which part of the promise it took; none: all of it.
    pub shard: Option<Shard>,
    /// What is promised by all shards together.
    pub promise: Promise,
    /// What it saw of each run.
    pub seen: Seen,
    /// What this one was to judge.
    pub units: Vec<PlannedUnit>,
}

/// One unit that was to be judged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedUnit {
    /// The run's name.
    pub run: String,
    /// The prompt's id.
    pub prompt: String,
    /// Over everything that the verdict depends on; a result with another one is not this unit's.
    pub fingerprint: String,
}

impl Plan {
    /// A plan of this version.
    pub fn new(shard: Option<Shard>, promise: Promise, units: Vec<PlannedUnit>) -> Plan {
        Plan { schema: SCHEMA, generator: generator(), shard, promise, seen: Seen::default(), units }
    }

    /// With what it saw.
    pub fn with_seen(self, seen: Seen) -> Plan {
        Plan { seen, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_part_everything_and_share_nothing() {
        for of in 1..6 {
            for place in 0..40 {
                let holders = (1..=of).filter(|&index| Shard { index, of }.holds(place)).count();
                assert_eq!(holders, 1, "{place} of {of}");
            }
        }
        for wrong in ["0/3", "4/3", "1", "1/0", "-1/3", "a/b", "1/3/5", ""] {
            assert!(wrong.parse::<Shard>().is_err(), "{wrong}");
        }
        assert_eq!("2/3".parse::<Shard>().unwrap().to_string(), "2/3");
    }

    #[test]
    fn a_run_is_promised_in_one_way_only() {
        let names = |all: &[&str]| all.iter().map(|&id| id.to_owned()).collect::<Vec<_>>();
        let mut promise = Promise::default();
        promise.add("b", &names(&["y", "x"])).unwrap();
        promise.add("a", &names(&["z"])).unwrap();
        promise.add("a", &names(&["z"])).unwrap();
        assert_eq!(promise.units().collect::<Vec<_>>(), [("a", "z"), ("b", "y"), ("b", "x")]);
        assert!(promise.add("b", &names(&["x", "y"])).is_err());
        assert_eq!(promise.twice(), None);
        promise.add("c", &names(&["p", "p"])).unwrap();
        assert_eq!(promise.twice(), Some("c"));
    }

    #[test]
    fn what_was_seen_of_a_part_is_one_thing() {
        let of = |run: &str, parts: &[(&str, &str)]| {
            let mut seen = Seen::default();
            seen.insert(run, parts.iter().map(|(part, hash)| (part.to_string(), hash.to_string())).collect());
            seen
        };
        let mut all = Seen::default();
        for other in
            [of("a", &[("1/2", "x")]), of("a", &[("2/2", "y")]), of("b", &[("1/2", "z")]), of("a", &[("1/2", "x")])]
        {
            all.join(&other).expect("other parts, other runs, and the same once more");
        }
        let refused = all.join(&of("a", &[("2/2", "x")])).expect_err("another run of that name");
        assert_eq!(refused, MergeError::Mixed { run: "a".into() });
    }
}
