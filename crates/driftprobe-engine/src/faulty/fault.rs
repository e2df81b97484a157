//! What a fault is: a kind with its parameters, and where it acts.

use super::cache::CacheFault;
use super::ends::EndsFault;
use super::heads::HeadsFault;
use super::linear::LinearFault;
use super::mask::MaskFault;
use super::mlp::MlpFault;
use super::names::Parameters;
use super::norm::NormFault;
use super::rope::RopeFault;
use super::scores::ScoresFault;
use crate::EngineError;
use crate::embedded::EmbeddedEngine;
use crate::embedded::interference::Interference;
use crate::settings::Settings;
use driftprobe_model::{Config, Model};
use driftprobe_trace::{Phase, Point};
use std::fmt;
use std::ops::Range;
use std::str::FromStr;

/// What a fault would act on.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    /// The model.
    pub model: &'a Model,
    /// How the engine computes.
    pub settings: &'a Settings,
    /// Tokens of the sequence, the last of them being decoded.
    pub tokens: usize,
}

impl<'a> Subject<'a> {
    /// The model's config.
    pub fn config(&self) -> &'a Config {
        &self.model.config
    }
}

/// Where a fault acts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// In which phase; `None`: in both.
    pub phase: Option<Phase>,
    /// In which layer; `None`: in all of them.
    pub layer: Option<usize>,
}

impl Scope {
    pub(super) fn phases(&self) -> Vec<Phase> {
        Phase::ALL.into_iter().filter(|p| self.phase.is_none_or(|only| only == *p)).collect()
    }

    pub(super) fn layers(&self, config: &Config) -> Range<usize> {
        self.layer.map_or(0..config.num_hidden_layers, |l| l..l + 1)
    }
}

/// What one group of the catalogue knows of its faults.
pub(super) trait Group: Sized {
    /// The id that reports use.
    fn id(&self) -> &'static str;

    /// The parameters, as they are written behind the id.
    fn parameters(&self) -> Vec<String>;

    /// The fault with this id, if it is of this group.
    fn parse(id: &str, parameters: &mut Parameters<'_>) -> Result<Option<Self>, String>;

    /// Every fault of the group, at every place and with ordinary parameters, void ones among them.
    fn all(subject: &Subject<'_>) -> Vec<Self>;

    /// Whether the fault is one of the layers' and not of the model's ends.
    fn layered(&self) -> bool {
        true
    }

    /// Why the fault would change nothing here, or could not be had.
    fn check(&self, subject: &Subject<'_>, scope: &Scope) -> Result<(), String>;

    /// The first point that the fault changes in this phase.
    fn point(&self, subject: &Subject<'_>, phase: Phase) -> Point;

    /// The stage that does it wrong.
    fn build(&self, workshop: &Workshop<'_>) -> Result<Box<dyn Interference>, EngineError>;
}

/// What faults are made from.
pub(super) struct Workshop<'a> {
    pub subject: Subject<'a>,
    pub scope: Scope,
    /// The engine without a fault.
    pub clean: &'a EmbeddedEngine,
    /// The sequence that foreign cache rows come from.
    pub donor: &'a [u32],
}

/// One entry of the catalogue, with its parameters.
#[derive(Clone, Debug, PartialEq)]
pub enum FaultKind {
    /// Of the rotary embedding.
    Rope(RopeFault),
    /// Of the attention mask.
    Mask(MaskFault),
    /// Of the KV cache.
    Cache(CacheFault),
    /// Of the heads' places.
    Heads(HeadsFault),
    /// Of the attention scores and their softmax.
    Scores(ScoresFault),
    /// Of a norm.
    Norm(NormFault),
    /// Of a matrix.
    Linear(LinearFault),
    /// Of the MLP or a residual add.
    Mlp(MlpFault),
    /// Of the embedding or the output matrix.
    Ends(EndsFault),
}

/// The same expression for every group.
macro_rules! each {
    ($kind:expr, $fault:ident => $value:expr) => {
        match $kind {
            FaultKind::Rope($fault) => $value,
            FaultKind::Mask($fault) => $value,
            FaultKind::Cache($fault) => $value,
            FaultKind::Heads($fault) => $value,
            FaultKind::Scores($fault) => $value,
            FaultKind::Norm($fault) => $value,
            FaultKind::Linear($fault) => $value,
            FaultKind::Mlp($fault) => $value,
            FaultKind::Ends($fault) => $value,
        }
    };
}

impl FaultKind {
    /// The id that reports use.
    pub fn id(&self) -> &'static str {
        each!(self, fault => fault.id())
    }

    /// Whether the fault is one of the layers' and not of the model's ends.
    pub fn layered(&self) -> bool {
        each!(self, fault => fault.layered())
    }

    fn all(subject: &Subject<'_>) -> Vec<FaultKind> {
        let mut all = Vec::new();
        all.extend(RopeFault::all(subject).into_iter().map(FaultKind::Rope));
        all.extend(MaskFault::all(subject).into_iter().map(FaultKind::Mask));
        all.extend(CacheFault::all(subject).into_iter().map(FaultKind::Cache));
        all.extend(HeadsFault::all(subject).into_iter().map(FaultKind::Heads));
        all.extend(ScoresFault::all(subject).into_iter().map(FaultKind::Scores));
        all.extend(NormFault::all(subject).into_iter().map(FaultKind::Norm));
        all.extend(LinearFault::all(subject).into_iter().map(FaultKind::Linear));
        all.extend(MlpFault::all(subject).into_iter().map(FaultKind::Mlp));
        all.extend(EndsFault::all(subject).into_iter().map(FaultKind::Ends));
        all
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id())?;
        each!(self, fault => fault.parameters()).iter().try_for_each(|p| write!(f, ":{p}"))
    }
}

impl FromStr for FaultKind {
    type Err = String;
    fn from_str(s: &str) -> Result<FaultKind, String> {
        fn of<G: Group>(s: &str, wrap: fn(G) -> FaultKind) -> Result<Option<FaultKind>, String> {
            let mut parts = s.split(':');
            let id = parts.next().unwrap_or_default();
            let mut parameters = Parameters::new(parts.collect());
            let Some(fault) = G::parse(id, &mut parameters).map_err(|e| format!("{id}: {e}"))? else { return Ok(None) };
            parameters.end().map_err(|e| format!("{id}: {e}"))?;
            Ok(Some(wrap(fault)))
        }
        let groups = [
            of(s, FaultKind::Rope),
            of(s, FaultKind::Mask),
            of(s, FaultKind::Cache),
            of(s, FaultKind::Heads),
            of(s, FaultKind::Scores),
            of(s, FaultKind::Norm),
            of(s, FaultKind::Linear),
            of(s, FaultKind::Mlp),
            of(s, FaultKind::Ends),
        ];
        for group in groups {
            if let Some(kind) = group? {
                return Ok(kind);
            }
        }
        Err(format!("{s:?} is no fault of the catalogue: `driftprobe power` lists those that there are"))
    }
}

/// A fault: what is wrong, and where.
///
/// As text: the id, its parameters, and behind `@` the phase and the layer: `ROPE_POSITION_OFFSET:+1@decode:layer2`,
/// `NORM_EPS:attn:0.001@both`. Parameters that are left out take their ordinary values.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// What is wrong.
    pub kind: FaultKind,
    /// Where.
    pub scope: Scope,
}

impl Fault {
    /// Whether the fault changes anything here.
    ///
    /// # Errors
    /// Why it does not.
    pub fn applies(&self, subject: &Subject<'_>) -> Result<(), String> {
        match self.scope.layer {
            Some(_) if !self.kind.layered() => Err("is not in a layer".to_owned()),
            Some(l) if l >= subject.config().num_hidden_layers => {
                Err(format!("the model has {} layers, and no layer {l}", subject.config().num_hidden_layers))
            }
            _ => each!(&self.kind, fault => fault.check(subject, &self.scope)),
        }
    }

    /// The first point that the fault changes in this phase: the truth that a search for it should find. Of a fault in
    /// all layers it is the point of the first layer that the fault changes. Of a phase in which the fault does not act it
    /// says nothing.
    pub fn point(&self, subject: &Subject<'_>, phase: Phase) -> Point {
        each!(&self.kind, fault => fault.point(subject, phase))
    }

    /// Every fault that applies here, at every place that it can have, with ordinary parameters. The layer is left out
    /// of faults of the model's ends.
    pub fn catalogue(subject: &Subject<'_>, scope: Scope) -> Vec<Fault> {
        let placed = |kind: FaultKind| {
            let layer = scope.layer.filter(|_| kind.layered());
            Fault { kind, scope: Scope { layer, ..scope } }
        };
        FaultKind::all(subject).into_iter().map(placed).filter(|f| f.applies(subject).is_ok()).collect()
    }

    pub(super) fn build(&self, workshop: &Workshop<'_>) -> Result<Box<dyn Interference>, EngineError> {
        each!(&self.kind, fault => fault.build(workshop))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.scope.phase {
            Some(phase) => write!(f, "{}@{phase}", self.kind)?,
            None => write!(f, "{}@both", self.kind)?,
        }
        self.scope.layer.map_or(Ok(()), |l| write!(f, ":layer{l}"))
    }
}

impl FromStr for Fault {
    type Err = String;
    fn from_str(s: &str) -> Result<Fault, String> {
        let (kind, places) = s.split_once('@').unwrap_or((s, ""));
        let mut scope = Scope::default();
        for place in places.split(':').filter(|p| !p.is_empty()) {
            match (place, place.strip_prefix("layer").map(str::parse)) {
                ("both", _) => scope.phase = None,
                ("prefill", _) => scope.phase = Some(Phase::Prefill),
                ("decode", _) => scope.phase = Some(Phase::Decode),
                (_, Some(Ok(layer))) => scope.layer = Some(layer),
                _ => return Err(format!("{place:?}: expected prefill, decode, both or layerN")),
            }
        }
        Ok(Fault { kind: kind.parse()?, scope })
    }
}
