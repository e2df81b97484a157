//! Simulation: what a sequence's token ids give by themselves, exactly and with the rounding errors that an engine makes.
//!
//! The oracle judges a stage by its recorded inputs. A simulation needs none: it computes the whole sequence from its
//! tokens, in float64 and in draws, in which every stage gives its value plus a normal error of its arithmetic's variance
//! and *then rounds to the storage format*. What a record says is held against both.

pub mod drift;
pub mod gap;
pub mod lane;
mod lockstep;
mod measure;
mod random;
mod record;
pub(crate) mod student;
mod study;
pub mod token;

pub use drift::{EndToEnd, PlaceDrift};
pub use gap::Gap;
pub use random::uniform;
pub use record::Shown;
pub use study::{Skipped, Study};
pub use token::TokenJudgement;

use crate::oracle::judgement::Unjudged;
use crate::oracle::stage::Input;
use driftprobe_model::{Config, Model};
use driftprobe_trace::{Contract, ContractFields, Manifest, Phase, Point};
use lane::{Formats, Kind};
use lockstep::{Lockstep, Sequence, whole};
use std::collections::{BTreeMap, BTreeSet};

/// Simulates sequences of a model.
#[derive(Clone, Copy)]
pub struct Simulation<'a> {
    model: &'a Model,
    manifest: Option<&'a Manifest>,
    contract: Option<&'a Contract>,
    fitted: Option<&'a BTreeMap<(Phase, Point), ContractFields>>,
    draws: usize,
    seed: u64,
    budget_flops: f64,
}

/// Draws of each phase, if not told otherwise.
pub const DRAWS: usize = 8;

impl<'a> Simulation<'a> {
    /// With the contract, mode and prompts of this manifest.
    pub fn new(model: &'a Model, manifest: Option<&'a Manifest>) -> Simulation<'a> {
        let contract = manifest.and_then(|m| m.contract.as_ref());
        Simulation { model, manifest, contract, fitted: None, draws: DRAWS, seed: 0, budget_flops: f64::INFINITY }
    }

    /// The model's config.
    pub fn config(&self) -> &'a Config {
        &self.model.config
    }

    /// With another contract than the manifest's.
    #[must_use]
    pub fn with_contract(self, contract: &'a Contract) -> Simulation<'a> {
        Simulation { contract: Some(contract), ..self }
    }

    /// With what the record has shown the contract to leave out.
    #[must_use]
    pub fn with_fitted(self, fitted: &'a BTreeMap<(Phase, Point), ContractFields>) -> Simulation<'a> {
        Simulation { fitted: Some(fitted), ..self }
    }

    /// With another number of draws; at least 3.
    #[must_use]
    pub fn with_draws(self, draws: usize) -> Simulation<'a> {
        Simulation { draws: draws.max(3), ..self }
    }

    /// With other random numbers.
    #[must_use]
    pub fn with_seed(self, seed: u64) -> Simulation<'a> {
        Simulation { seed, ..self }
    }

    /// Prompts that would cost more than this, all together, are left out; see [`cost_flops`].
    #[must_use]
    pub fn with_budget(self, budget_flops: f64) -> Simulation<'a> {
        Simulation { budget_flops, ..self }
    }

    /// The whole sequence in float64. Of rows only those are kept whose place is `wanted`; cached rows are one position's.
    ///
    /// # Errors
    /// Says what cannot be computed.
    pub fn exact(&self, tokens: &[u32], wanted: &dyn Fn(Input) -> bool) -> Result<Pass, Unjudged> {
        self.pass(tokens, (Kind::Exact, &Formats::default()), wanted)
    }

    /// The whole sequence as an engine might compute it in this phase, were its cache its own.
    ///
    /// # Errors
    /// As there, and where the contract claims what is not known.
    pub fn draw(
        &self,
        tokens: &[u32],
        (phase, seed, formats): (Phase, u64, &Formats),
        wanted: &dyn Fn(Input) -> bool,
    ) -> Result<Pass, Unjudged> {
        self.pass(tokens, (Kind::Draw(phase, seed), formats), wanted)
    }

    fn pass(
        &self,
        tokens: &[u32],
        (kind, formats): (Kind, &Formats),
        wanted: &dyn Fn(Input) -> bool,
    ) -> Result<Pass, Unjudged> {
        let sequence = Sequence { model: self.model, contract: self.contract, formats, tokens };
        let ends: BTreeSet<usize> = (0..tokens.len()).collect();
        let mut lockstep = Lockstep::new(sequence, vec![whole(kind, tokens.len())], ends);
        let mut pass = Pass::default();
        for number in 0..lockstep.stages().len() {
            lockstep.step(number)?;
            let Some(stage) = lockstep.stages().get(number) else { continue };
            let place = Input { point: stage.point, layer: stage.layer };
            if !wanted(place) {
                continue;
            }
            for pos in 0..tokens.len() {
                if let Some(row) = lockstep.row(0, place.point, pos) {
                    pass.rows.insert((place, pos), row.to_vec());
                }
            }
        }
        Ok(pass)
    }
}

/// Rows of one computation of a sequence.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pass {
    rows: BTreeMap<(Input, usize), Vec<f64>>,
}

impl Pass {
    /// The row of a place at a position, if it was asked for.
    pub fn row(&self, point: Point, layer: i32, pos: usize) -> Option<&[f64]> {
        self.rows.get(&(Input { point, layer }, pos)).map(Vec::as_slice)
    }
}

/// Floating-point operations of a simulation of one sequence, about: the exact pass with the squares of its products, and
/// one of sums alone for each draw.
pub fn cost_flops(config: &Config, tokens: usize, draws: usize) -> f64 {
    let c = config;
    let (hidden, width) = (c.hidden_size as f64, c.head_dim as f64);
    let (q, kv) = (c.num_attention_heads as f64 * width, c.num_key_value_heads as f64 * width);
    let layer = hidden * (2.0 * q + 2.0 * kv) + 3.0 * hidden * c.intermediate_size as f64;
    let attention = 2.0 * q * tokens as f64 / 2.0;
    2.0 * c.num_hidden_layers as f64 * (layer + attention) * tokens as f64 * (2.0 + draws as f64)
}
