//! Which arithmetic a replay takes a point to have: the contract's, and what the record has shown it to leave out.

use super::Replay;
use crate::oracle::arithmetic::Arithmetic;
use crate::oracle::float::Float;
use driftprobe_trace::{Contract, ContractFields, Dtype, Phase, Point};
use std::collections::BTreeMap;

impl<'a> Replay<'a> {
    /// With another contract than the manifest's.
    pub fn with_contract(self, contract: &'a Contract) -> Replay<'a> {
        Replay { contract: Some(contract), ..self }
    }

    /// From now on, this point of this phase has this arithmetic, whatever the contract says.
    pub fn declare(&mut self, phase: Phase, point: Point, fields: ContractFields) {
        let fields = self.beside_fitted(phase, point, &fields);
        self.fitted.insert((phase, point), fields);
    }

    /// These fields, and what has been declared of the point before.
    fn beside_fitted(&self, phase: Phase, point: Point, fields: &ContractFields) -> ContractFields {
        let mut all = fields.clone();
        if let Some(before) = self.fitted.get(&(phase, point)) {
            all.fill(before);
        }
        all
    }

    /// The format in which a point's rows, recorded in `dtype`, are declared to be stored. None where the contract does not
    /// say, or has a word for it that is not known.
    pub(in crate::oracle) fn storage(&self, phase: Phase, point: Point, dtype: Dtype) -> Option<Float> {
        let arithmetic = Arithmetic::resolve(self.contract, phase, point, dtype);
        match point {
            Point::KCache | Point::VCache => arithmetic.kv_cache().ok().flatten(),
            _ => arithmetic.output().ok(),
        }
    }

    /// What the contract says of a point of a phase.
    pub fn declared(&self, phase: Phase, point: Point) -> ContractFields {
        Arithmetic::resolve(self.contract, phase, point, Dtype::F32).into_fields()
    }

    /// What has been declared so.
    pub fn fitted(&self) -> &BTreeMap<(Phase, Point), ContractFields> {
        &self.fitted
    }

    /// The same for one point alone, with this arithmetic in one phase.
    pub fn only(&self, point: Point, phase: Phase, fields: &ContractFields) -> Replay<'a> {
        Replay {
            model: self.model,
            contract: self.contract,
            own_cache: self.own_cache,
            stages: self.stages.iter().filter(|stage| stage.point == point).cloned().collect(),
            fitted: [((phase, point), self.beside_fitted(phase, point, fields))].into(),
        }
    }
}
