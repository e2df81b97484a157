//! One prompt of one run judged, both modes and the rounds of a search.

use super::subject::{Part, Subject};
use crate::analyze::model_path;
use crate::failure::Failure;
use driftprobe::digest::{LayersDigest, Shard, generator};
use driftprobe::judge::examine::{Oracle, beforehand};
use driftprobe::oracle::replay::Beforehand;
use driftprobe::search::with_search;
use driftprobe::verdict::modes::{alone, combine};
use driftprobe::{Analysis, Options, analyze_against};
use driftprobe_model::Model;
use driftprobe_trace::{ALIGNED_DIR, Contract, Run, xxh3_128_text};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Models, each opened once.
pub struct Models {
    /// In place of each manifest's.
    asked: Option<Model>,
    by_path: BTreeMap<PathBuf, Option<Model>>,
}

impl Models {
    /// With the model at `asked` for all runs, or else each run's own.
    pub fn new(asked: Option<&Path>) -> Result<Models, Failure> {
        Ok(Models { asked: asked.map(Model::open).transpose()?, by_path: BTreeMap::new() })
    }

    /// Opens the model that a run's manifest names, where it lies there.
    pub fn open(&mut self, part: &Part) {
        if let (None, Some(path)) = (&self.asked, path_of(part)) {
            self.by_path.entry(path).or_insert_with_key(|path| Model::open(path).ok());
        }
    }

    fn of(&self, part: &Part) -> Option<&Model> {
        self.asked.as_ref().or_else(|| self.by_path.get(&path_of(part)?)?.as_ref())
    }
}

fn path_of(part: &Part) -> Option<PathBuf> {
    model_path(part.index.manifest(), part.index.dir())
}

/// How units are judged.
pub struct Judging {
    /// The models.
    pub models: Models,
    /// In place of the manifests' contracts.
    pub contract: Option<Contract>,
    /// Operations that simulating one prompt may take.
    pub budget_flops: f64,
}

impl Judging {
    fn oracle<'a>(&'a self, part: &Part) -> Option<Oracle<'a>> {
        let (contract, budget_flops) = (self.contract.as_ref(), self.budget_flops);
        // What a run would have shown of bugs that it does not have is no part of a digest.
        self.models.of(part).map(|model| Oracle { contract, budget_flops, power: false, ..Oracle::new(model) })
    }

    /// Judges one prompt of a run; in each mode, the stages that are known `beforehand` are not judged again.
    pub fn judge(&self, part: &Part, prompt: &str, beforehand: Option<[Beforehand; 2]>) -> Result<Analysis, Failure> {
        let oracle = self.oracle(part);
        let modes = beforehand.as_ref().map_or([None, None], |modes| modes.each_ref().map(Some));
        let analysis = both_modes(recorded(part, prompt)?, oracle.as_ref(), modes);
        let mut rounds = Vec::new();
        for round in part.rounds.iter().filter(|round| round.prompts.iter().any(|id| id == prompt)) {
            let Some(run) = round.run.open()? else { continue };
            let aligned = run.inner(ALIGNED_DIR)?;
            rounds.push(Arc::new(both_modes((run, aligned), oracle.as_ref(), [None, None])));
        }
        // A second pass that is another prompt's is not missing here: the manifest says whose it is.
        Ok(with_search(analysis, rounds))
    }

    /// Stages of a part of the layers of one prompt, in both modes; none without the model that the run was made with.
    pub fn layers(&self, part: &Part, prompt: &str, shard: Shard) -> Result<Option<LayersDigest>, Failure> {
        let Some(oracle) = self.oracle(part) else { return Ok(None) };
        let count = oracle.model.config.num_hidden_layers;
        let wanted = |place| shard.holds_layer(place, count);
        let judged = |run: Run| beforehand((&run, &run), &oracle, &wanted);
        let (run, aligned) = recorded(part, prompt)?;
        let modes: Option<Vec<Beforehand>> = std::iter::once(run).chain(aligned).map(judged).collect();
        Ok(modes.map(|modes| LayersDigest::of(&modes)))
    }

    /// How a part is judged: by which contract and model, and at what cost.
    fn how(&self, part: &Part) -> String {
        format!("{:?}", (self.by_what(part), self.budget_flops.to_bits()))
    }

    /// By which contract and model: weights, and what the config says that is done with them.
    fn by_what(&self, part: &Part) -> String {
        let contract = self.contract.as_ref().and_then(|contract| serde_json::to_string(contract).ok());
        let model = self.models.of(part).map(|model| (model.weights.fingerprint(), &model.config));
        format!("{:?}", (contract, model))
    }

    /// What is here of a run, by part, and how it is judged: the same for a copy of the run.
    pub fn seen(&self, subject: &Subject) -> BTreeMap<String, String> {
        let how: Vec<String> = subject.parts.iter().map(|part| self.how(part)).collect();
        let how = xxh3_128_text(how.join("\n").as_bytes());
        let of = |(part, recorded)| (part, format!("{recorded} {how}"));
        subject.recorded().into_iter().map(of).collect()
    }

    /// Over everything that the stages of a unit depend on: what simulating it may cost, and rounds of a search, are none of that.
    pub fn stages_fingerprint(&self, subject: &Subject, part: usize, prompt: &str) -> String {
        let Some(part) = subject.parts.get(part) else { return String::new() };
        let all = (
            (generator(), &subject.name, prompt),
            part.index.fingerprint(prompt),
            part.aligned.as_ref().map(|aligned| aligned.fingerprint(prompt)),
            self.by_what(part),
        );
        xxh3_128_text(format!("{all:?}").as_bytes())
    }

    /// Over everything that the verdict on a unit depends on: what its stages do, by their fingerprint, and those two.
    pub fn fingerprint(&self, subject: &Subject, part: usize, prompt: &str, stages: &str) -> String {
        let Some(part) = subject.parts.get(part) else { return String::new() };
        let rounds = part.rounds.iter().filter(|round| round.prompts.iter().any(|id| id == prompt));
        let rounds: Vec<u128> = rounds.map(|round| round.fingerprint).collect();
        xxh3_128_text(format!("{:?}", (stages, rounds, self.budget_flops.to_bits())).as_bytes())
    }
}

/// What was recorded of one prompt, and the same with prefill's cache under decode.
fn recorded(part: &Part, prompt: &str) -> Result<(Run, Option<Run>), Failure> {
    let aligned = part.aligned.as_ref().map(|aligned| aligned.prompt(prompt)).transpose()?;
    Ok((part.index.prompt(prompt)?, aligned))
}

fn both_modes(
    (run, aligned): (Run, Option<Run>),
    oracle: Option<&Oracle<'_>>,
    beforehand: [Option<&Beforehand>; 2],
) -> Analysis {
    // One after the other, so that one mode's rows are gone when the other's come.
    let judge = |run: Run, beforehand| {
        let oracle = oracle.map(|oracle| Oracle { beforehand, ..*oracle });
        analyze_against((&run, &run), oracle.as_ref(), Options::default(), &mut |_| {})
    };
    let [of_run, of_aligned] = beforehand;
    let analysis = judge(run, of_run);
    match aligned {
        None => alone(analysis),
        Some(aligned) => combine(analysis, judge(aligned, of_aligned)),
    }
}
