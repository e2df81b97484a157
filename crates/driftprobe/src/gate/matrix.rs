//! A matrix of runs that must all be there: every combination of its axes is a cell, and a cell is filled by what a run's
//! manifest says of itself, never by a folder's name. A missing cell is INCOMPLETE, not a pass.

use super::GuardrailVerdict;
use crate::verdict::Verdict;
use serde::{Deserialize, Deserializer};
use std::fmt;

/// Cells beyond which a matrix is refused.
const CELLS_MAX: usize = 100_000;

/// The axes; of each, the values that must be there. An axis that is absent is not asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Matrix {
    /// Ids of prompts.
    #[serde(default, deserialize_with = "one_or_many")]
    pub prompts: Option<Vec<String>>,
    /// Seeds.
    #[serde(default, alias = "seed", deserialize_with = "one_or_many")]
    pub seeds: Option<Vec<u64>>,
    /// Whether decode reads prefill's cache: 0 and 1, or false and true.
    #[serde(default, deserialize_with = "switches")]
    pub kv_aligned: Option<Vec<bool>>,
    /// Type in which activations are stored, as the contract declares it.
    #[serde(default, deserialize_with = "one_or_many")]
    pub dtype: Option<Vec<String>>,
    /// Names of engines.
    #[serde(default, deserialize_with = "one_or_many")]
    pub engine: Option<Vec<String>>,
    /// Tokens of the prompt, those of the decode steps included; of a dump of logits, its `prompt_len`.
    #[serde(default, alias = "prompt_len", deserialize_with = "one_or_many")]
    pub context: Option<Vec<u64>>,
    /// Decode steps; of a dump of logits, the tokens of its span.
    #[serde(default, alias = "gen_len", alias = "span", deserialize_with = "one_or_many")]
    pub steps: Option<Vec<u64>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany<T> {
    Many(Vec<T>),
    One(T),
}

impl<T> OneOrMany<T> {
    fn into_vec(self) -> Vec<T> {
        match self {
            OneOrMany::Many(all) => all,
            OneOrMany::One(one) => vec![one],
        }
    }
}

fn one_or_many<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<Vec<T>>, D::Error> {
    Ok(Some(OneOrMany::deserialize(from)?.into_vec()))
}

#[derive(Clone, Copy, Deserialize)]
#[serde(untagged)]
enum Switch {
    Bool(bool),
    Number(u64),
}

fn switches<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<bool>>, D::Error> {
    let all = OneOrMany::deserialize(from)?.into_vec();
    let switch = |one: Switch| match one {
        Switch::Bool(is) => Ok(is),
        Switch::Number(0) => Ok(false),
        Switch::Number(1) => Ok(true),
        Switch::Number(other) => Err(serde::de::Error::custom(format!("kv_aligned is 0 or 1, not {other}"))),
    };
    all.into_iter().map(switch).collect::<Result<_, _>>().map(Some)
}

/// One combination, or what one prompt of one mode of a run says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Axes {
    /// The prompt's id.
    pub prompt: Option<String>,
    /// The seed.
    pub seed: Option<u64>,
    /// Whether decode reads prefill's cache.
    pub kv_aligned: Option<bool>,
    /// Type of activations.
    pub dtype: Option<String>,
    /// The engine.
    pub engine: Option<String>,
    /// Tokens of the prompt.
    pub context: Option<u64>,
    /// Decode steps.
    pub steps: Option<u64>,
}

/// `prompt p0, seed 1, kv_aligned 0, f32`.
impl fmt::Display for Axes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            self.prompt.clone(),
            self.seed.map(|seed| format!("seed {seed}")),
            self.kv_aligned.map(|is| format!("kv_aligned {}", u8::from(is))),
            self.dtype.clone(),
            self.engine.clone(),
            self.context.map(|tokens| format!("context {tokens}")),
            self.steps.map(|steps| format!("{steps} steps")),
        ];
        f.write_str(&parts.into_iter().flatten().collect::<Vec<_>>().join(", "))
    }
}

impl Axes {
    /// Whether a unit is in this cell: it says of every axis of the cell what the cell has.
    fn holds(&self, unit: &Axes) -> bool {
        fn fits<T: PartialEq>(wanted: &Option<T>, found: &Option<T>) -> bool {
            wanted.is_none() || wanted == found
        }
        fits(&self.prompt, &unit.prompt)
            && fits(&self.seed, &unit.seed)
            && fits(&self.kv_aligned, &unit.kv_aligned)
            && fits(&self.dtype, &unit.dtype)
            && fits(&self.engine, &unit.engine)
            && fits(&self.context, &unit.context)
            && fits(&self.steps, &unit.steps)
    }
}

/// What one prompt of one mode of a run came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Unit {
    /// The run's name.
    pub run: String,
    /// What the run says of itself.
    pub axes: Axes,
    /// The noise model's verdict; `None`: it judges stages, and this is a dump of logits.
    pub noise: Option<Verdict>,
    /// Presets: name, verdict, and the guardrail's own.
    pub presets: Vec<(&'static str, Verdict, Option<GuardrailVerdict>)>,
}

/// A cell and what fills it.
#[derive(Clone, Debug, PartialEq)]
pub struct Cell {
    /// The combination.
    pub axes: Axes,
    /// Runs that fill it, each once; empty: missing.
    pub runs: Vec<String>,
    /// The worst of their noise verdicts.
    pub noise: Option<Verdict>,
    /// The worst of each preset.
    pub presets: Vec<(&'static str, Verdict, Option<GuardrailVerdict>)>,
}

/// A matrix held against runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Every cell, in the order of the axes.
    pub cells: Vec<Cell>,
    /// Units in no cell: run and axes.
    pub extra: Vec<(String, Axes)>,
}

impl Outcome {
    /// Cells that no run fills.
    pub fn missing(&self) -> impl Iterator<Item = &Cell> {
        self.cells.iter().filter(|cell| cell.runs.is_empty())
    }

    /// Cells that more than one run fills.
    pub fn double(&self) -> impl Iterator<Item = &Cell> {
        self.cells.iter().filter(|cell| cell.runs.len() > 1)
    }

    /// Whether every cell is filled.
    pub fn is_complete(&self) -> bool {
        !self.cells.is_empty() && self.missing().next().is_none()
    }
}

impl Matrix {
    /// Every combination.
    ///
    /// # Errors
    /// If no axis is named, one is empty or names a value twice, or there are too many cells.
    pub fn cells(&self) -> Result<Vec<Axes>, String> {
        let mut cells = vec![Axes::default()];
        let mut named = 0;
        fn along<T: Clone + PartialEq>(
            cells: &mut Vec<Axes>,
            (name, values): (&str, &Option<Vec<T>>),
            set: impl Fn(&mut Axes, T),
        ) -> Result<usize, String> {
            let Some(values) = values else { return Ok(0) };
            if values.is_empty() {
                return Err(format!("`{name}` is empty: no run could fill its cells"));
            }
            if cells.len().saturating_mul(values.len()) > CELLS_MAX {
                return Err(format!("the matrix has more than {CELLS_MAX} cells"));
            }
            if values.iter().enumerate().any(|(at, value)| values.iter().take(at).any(|other| other == value)) {
                return Err(format!("`{name}` names a value twice"));
            }
            *cells = (cells.iter())
                .flat_map(|cell| values.iter().map(move |value| (cell.clone(), value.clone())))
                .map(|(mut cell, value)| {
                    set(&mut cell, value);
                    cell
                })
                .collect();
            Ok(1)
        }
        named += along(&mut cells, ("prompts", &self.prompts), |cell, value| cell.prompt = Some(value))?;
        named += along(&mut cells, ("seeds", &self.seeds), |cell, value| cell.seed = Some(value))?;
        named += along(&mut cells, ("kv_aligned", &self.kv_aligned), |cell, value| cell.kv_aligned = Some(value))?;
        named += along(&mut cells, ("dtype", &self.dtype), |cell, value| cell.dtype = Some(value))?;
        named += along(&mut cells, ("engine", &self.engine), |cell, value| cell.engine = Some(value))?;
        named += along(&mut cells, ("context", &self.context), |cell, value| cell.context = Some(value))?;
        named += along(&mut cells, ("steps", &self.steps), |cell, value| cell.steps = Some(value))?;
        match named {
            0 => Err("the matrix names no axis".to_owned()),
            _ => Ok(cells),
        }
    }

    /// Holds runs against the matrix.
    ///
    /// # Errors
    /// As [`Matrix::cells`].
    pub fn fill(&self, units: &[Unit]) -> Result<Outcome, String> {
        let mut used = vec![false; units.len()];
        let mut cells = Vec::new();
        for axes in self.cells()? {
            let mut cell = Cell { axes, runs: vec![], noise: None, presets: vec![] };
            for (unit, used) in units.iter().zip(&mut used) {
                if cell.axes.holds(&unit.axes) {
                    *used = true;
                    cell.take(unit);
                }
            }
            cells.push(cell);
        }
        let extra = units.iter().zip(used).filter(|(_, used)| !used);
        Ok(Outcome { cells, extra: extra.map(|(unit, _)| (unit.run.clone(), unit.axes.clone())).collect() })
    }
}

impl Cell {
    fn take(&mut self, unit: &Unit) {
        if !self.runs.contains(&unit.run) {
            self.runs.push(unit.run.clone());
        }
        self.noise = match (self.noise, unit.noise) {
            (Some(ours), Some(theirs)) => Some(Verdict::worst([ours, theirs])),
            (ours, theirs) => ours.or(theirs),
        };
        for (id, verdict, name) in &unit.presets {
            match self.presets.iter_mut().find(|(own, ..)| own == id) {
                Some((_, own, own_name)) if Verdict::worst([*own, *verdict]) != *own => {
                    (*own, *own_name) = (*verdict, *name);
                }
                Some(_) => {}
                None => self.presets.push((id, *verdict, *name)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(json: &str) -> Matrix {
        serde_json::from_str(json).unwrap()
    }

    fn unit(run: &str, prompt: &str, seed: Option<u64>, verdict: Verdict) -> Unit {
        let axes = Axes { prompt: Some(prompt.to_owned()), seed, kv_aligned: Some(false), ..Axes::default() };
        Unit { run: run.to_owned(), axes, noise: Some(verdict), presets: vec![("sglang", verdict, None)] }
    }

    #[test]
    fn every_combination_is_a_cell_and_what_is_missing_is_named() {
        let matrix = matrix(r#"{"prompts": ["a", "b"], "seeds": [1, 2]}"#);
        let units = [
            unit("one", "a", Some(1), Verdict::Pass),
            unit("one", "b", Some(1), Verdict::Pass),
            unit("two", "a", Some(2), Verdict::Pass),
        ];
        let outcome = matrix.fill(&units).unwrap();
        assert_eq!(outcome.cells.len(), 4);
        assert_eq!(outcome.missing().map(|cell| cell.axes.to_string()).collect::<Vec<_>>(), ["b, seed 2"]);
        assert!(!outcome.is_complete() && outcome.extra.is_empty());
    }

    #[test]
    fn a_run_that_does_not_say_fills_no_cell_and_is_listed() {
        let outcome = matrix(r#"{"seeds": [1]}"#).fill(&[unit("one", "a", None, Verdict::Pass)]).unwrap();
        assert_eq!((outcome.missing().count(), outcome.extra.len()), (1, 1));
    }

    #[test]
    fn of_two_runs_in_a_cell_the_worse_counts_and_both_are_named() {
        let units = [unit("one", "a", Some(1), Verdict::Fail), unit("two", "a", Some(1), Verdict::Pass)];
        for units in [units.clone(), [units[1].clone(), units[0].clone()]] {
            let outcome = matrix(r#"{"seeds": 1, "prompts": "a"}"#).fill(&units).unwrap();
            let cell = outcome.double().next().unwrap();
            assert_eq!((cell.runs.len(), cell.noise), (2, Some(Verdict::Fail)));
            assert_eq!(cell.presets, [("sglang", Verdict::Fail, None)]);
            assert!(outcome.is_complete());
        }
    }

    #[test]
    fn gretas_config_is_a_matrix() {
        let matrix =
            matrix(r#"{"kv_aligned": [0, 1], "seeds": [0, 1, 2], "dtype": "bf16", "prompt_len": 512, "gen_len": 128}"#);
        assert_eq!(matrix.cells().unwrap().len(), 6);
        assert_eq!((matrix.context, matrix.steps), (Some(vec![512]), Some(vec![128])));
    }

    #[test]
    fn a_matrix_that_asks_for_nothing_is_refused() {
        for json in ["{}", r#"{"seeds": []}"#, r#"{"seeds": [1, 1]}"#] {
            assert!(matrix(json).cells().is_err(), "{json}");
        }
        assert!(serde_json::from_str::<Matrix>(r#"{"sedes": [1]}"#).is_err());
        assert!(serde_json::from_str::<Matrix>(r#"{"kv_aligned": 2}"#).is_err());
        let many: Vec<u64> = (0..400).collect();
        let large = Matrix { seeds: Some(many.clone()), context: Some(many), ..Matrix::default() };
        assert!(large.cells().is_err());
    }
}
