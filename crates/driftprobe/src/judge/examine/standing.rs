//! What is known of each row: clean, at fault, or why not.

use super::{Examination, Place, RowKey, Standing, place_of, side};
use crate::judge::attribute::in_words;
use crate::oracle::fit::{Finding, rms};
use crate::oracle::{Input, Outcome, PhaseJudgement, StageJudgement, Unjudged};
use crate::pair::place::Part;
use crate::simulate::{Gap, Shown, Study, TokenJudgement};
use driftprobe_trace::{Event, Phase, Point};
use std::collections::{BTreeMap, BTreeSet};

impl Examination {
    /// The judgement of one row.
    pub fn of(&self, event: &Event) -> Option<&StageJudgement> {
        let pos = event.token_index()?;
        let place = Input { point: event.point, layer: event.layer };
        let at = self.index.get(&(event.phase, event.prompt_id.clone(), pos, place))?;
        self.phases.get(side(event.phase))?.stages.get(*at)
    }

    /// Whether all rows of this event's point together show a fault that none of them shows by itself.
    pub fn is_systematic(&self, event: &Event) -> bool {
        [Some(event.layer), None].into_iter().any(|layer| self.systematic.contains(&(event.phase, event.point, layer)))
    }

    /// Every stage at fault, of both phases.
    pub fn faults(&self) -> impl Iterator<Item = &StageJudgement> {
        self.phases.iter().flat_map(|phase| &phase.stages).filter(|stage| stage.outcome.is_fault())
    }

    /// Whether no row that differs could have is judged by its own inputs: nothing but exact copies, or nothing at all.
    pub fn judges_no_stage(&self) -> bool {
        let stages = self.phases.iter().flat_map(|phase| &phase.stages);
        !stages.into_iter().any(|stage| matches!(stage.outcome, Outcome::Clean(_) | Outcome::Flagged { .. }))
    }

    /// How much noise the arithmetic may have at each point of each phase, relative to the row: the median of its rows.
    pub fn loosest(&self) -> Vec<(Phase, Point, f64)> {
        let mut all: BTreeMap<(Phase, Point), Vec<f64>> = BTreeMap::new();
        for stage in self.phases.iter().flat_map(|phase| &phase.stages) {
            if let Outcome::Clean(statistics) | Outcome::Flagged { statistics, .. } = &stage.outcome {
                all.entry((stage.phase, stage.point)).or_default().push(statistics.noise);
            }
        }
        let median = |((phase, point), mut noise): ((Phase, Point), Vec<f64>)| {
            noise.sort_by(f64::total_cmp);
            (phase, point, noise.get(noise.len() / 2).copied().unwrap_or(f64::NAN))
        };
        all.into_iter().map(median).collect()
    }

    /// The RMS of the residuals of each point of each phase, in units of the noise that the arithmetic may have.
    pub fn filled(&self) -> Vec<(Phase, Point, f64)> {
        let mut all: BTreeMap<(Phase, Point), Vec<&StageJudgement>> = BTreeMap::new();
        for stage in self.phases.iter().flat_map(|phase| &phase.stages) {
            all.entry((stage.phase, stage.point)).or_default().push(stage);
        }
        all.into_iter().map(|((phase, point), stages)| (phase, point, rms(stages.into_iter()))).collect()
    }

    /// Fields that the contract leaves open and that were assumed, with the points that need them.
    pub fn assumed(&self) -> BTreeMap<&'static str, BTreeSet<Point>> {
        let mut all: BTreeMap<&'static str, BTreeSet<Point>> = BTreeMap::new();
        for stage in self.phases.iter().flat_map(|phase| &phase.stages) {
            for field in &stage.assumed {
                all.entry(field).or_default().insert(stage.point);
            }
        }
        all
    }

    /// What the oracle found of both phases, the arithmetics that it found, and what the simulation found, to be looked up by row.
    pub fn new(phases: [PhaseJudgement; 2], contract_findings: Vec<Finding>, study: Study) -> Examination {
        let mut all = Examination { phases, contract_findings, study, ..Examination::default() };
        for phase in &all.phases {
            for (at, stage) in phase.stages.iter().enumerate() {
                let place = Input { point: stage.point, layer: stage.layer };
                all.index.insert((stage.phase, stage.prompt_id.clone(), stage.pos, place), at);
            }
            let by_row: BTreeSet<Point> =
                phase.stages.iter().filter(|s| s.outcome.is_fault()).map(|s| s.point).collect();
            let flagged = phase.systematic.iter().filter(|s| s.test.is_flagged() && !by_row.contains(&s.point));
            let flagged: Vec<_> = flagged.map(|s| (s.phase, s.point, s.layer)).collect();
            let of_layers: BTreeSet<Point> = flagged.iter().filter(|f| f.2.is_some()).map(|f| f.1).collect();
            // Where single layers show it, the sum over all of them says nothing more.
            all.systematic.extend(flagged.into_iter().filter(|f| f.2.is_some() || !of_layers.contains(&f.1)));
        }
        for (at, gap) in all.study.gaps.iter().enumerate() {
            all.gaps.insert((gap.phase, gap.prompt_id.clone(), gap.pos as u64, gap.to), at);
        }
        for (at, token) in all.study.tokens.iter().enumerate() {
            let place = Input { point: token.point, layer: token.layer };
            all.tokens.entry((token.phase, token.prompt_id.clone(), token.pos as u64, place)).or_default().push(at);
        }
        all.first = all.first_places();
        all
    }

    /// Where each phase is at fault first: a stage, a stretch that was not recorded, or a row that nothing else judges.
    fn first_places(&self) -> BTreeMap<Phase, Place> {
        let mut first: BTreeMap<Phase, Place> = BTreeMap::new();
        let mut found = |phase, place| {
            let known = first.entry(phase).or_insert(place);
            *known = place.min(*known);
        };
        for stage in self.faults() {
            found(stage.phase, place_of(Input { point: stage.point, layer: stage.layer }));
        }
        for (phase, point, layer) in &self.systematic {
            let layer = layer.or_else(|| {
                self.phases.iter().flat_map(|p| &p.stages).filter(|s| s.point == *point).map(|s| s.layer).min()
            });
            found(*phase, place_of(Input { point: *point, layer: layer.unwrap_or(-1) }));
        }
        for gap in self.study.gaps.iter().filter(|gap| gap.flagged) {
            found(gap.phase, place_of(gap.to));
        }
        for token in self.study.tokens.iter().filter(|token| token.flagged) {
            let place = Input { point: token.point, layer: token.layer };
            let key = (token.phase, token.prompt_id.clone(), token.pos as u64, place);
            let judged = self.index.get(&key).and_then(|at| self.phases.get(side(token.phase))?.stages.get(*at));
            // A stage that is clean given its inputs, or a copy, has inherited what is wrong.
            let inherited = judged.is_some_and(|stage| stage.outcome.is_clean()) && token.slot.is_none();
            if !inherited {
                found(token.phase, place_of(place));
            }
        }
        first
    }

    /// What is known of a row, by its stage, else by the stretch before it, else by the tokens alone.
    pub fn standing(&self, event: &Event) -> Standing {
        let Some(pos) = event.token_index() else {
            return Standing::Unknown("the event names no position".to_owned());
        };
        let stage = self.of(event);
        if let Some(stage) = stage.filter(|stage| stage.outcome.is_fault()) {
            return Standing::Fault(in_words(&stage.outcome));
        }
        if self.is_systematic(event) {
            return Standing::Fault("small in this row, too much over all rows of the point together".to_owned());
        }
        let place = Input { point: event.point, layer: event.layer };
        let key = (event.phase, event.prompt_id.clone(), pos, place);
        let standing = match event.point {
            Point::KCache | Point::VCache => self.cache_standing(&key, stage),
            _ => self.row_standing(&key, stage),
        };
        match standing {
            Standing::Unknown(_) | Standing::LastRows(_) => self.left_out(event, &key).unwrap_or(standing),
            known => known,
        }
    }

    /// Of any row but a cache's.
    fn row_standing(&self, key: &RowKey, stage: Option<&StageJudgement>) -> Standing {
        let (phase, pos, place) = (key.0, key.2, key.3);
        if stage.is_some_and(|stage| stage.outcome.is_clean()) {
            return Standing::Clean;
        }
        if let Some(gap) = self.gaps.get(key).and_then(|at| self.study.gaps.get(*at)) {
            match (gap.flagged, gap.whole) {
                (true, _) => return Standing::Gap(gap_in_words(gap)),
                (false, true) => return Standing::Clean,
                // A sample is not taken for the row.
                (false, false) => {}
            }
        }
        let why = match stage.map(|stage| &stage.outcome) {
            Some(Outcome::Unjudged(why)) => unjudged_in_words(why, pos),
            _ => "nothing of this row to judge".to_owned(),
        };
        let mut tokens = self.tokens.get(key).into_iter().flatten().filter_map(|at| self.study.tokens.get(*at));
        let Some(token) = tokens.next_back() else { return Standing::Unknown(why) };
        match (token.flagged, token.shown == Shown::Row, self.is_first(phase, place)) {
            (false, true, _) => Standing::Clean,
            // What is recorded of it is too far off, whatever the rest may be.
            (true, _, true) => Standing::Fault(token_in_words(token)),
            (false, false, _) => Standing::Unknown(format!("what is recorded of it is within rounding; {why}")),
            (true, _, false) => Standing::Unknown(why),
        }
    }

    /// Of a cache: its own row by its stage, those of earlier positions by the tokens.
    fn cache_standing(&self, key: &RowKey, stage: Option<&StageJudgement>) -> Standing {
        let tokens = self.tokens.get(key).into_iter().flatten().filter_map(|at| self.study.tokens.get(*at));
        let slots: Vec<&TokenJudgement> = tokens.filter(|token| token.slot.is_some()).collect();
        let wrong = slots.iter().find(|token| token.flagged);
        match (wrong, stage.map(|stage| &stage.outcome)) {
            (Some(token), _) if self.is_first_of_both(key.0, key.3) => Standing::Fault(token_in_words(token)),
            // What reaches the cache has been wrong before.
            (Some(_), Some(Outcome::Exact { .. })) => Standing::Clean,
            (None, Some(Outcome::Exact { compared })) => {
                let partial = stage.is_some_and(|stage| *compared < stage.values);
                match partial && slots.is_empty() {
                    true => Standing::LastRows(
                        "what was written to the rows of earlier positions was not recorded".to_owned(),
                    ),
                    false => Standing::Clean,
                }
            }
            (None, _) if !slots.is_empty() => Standing::Clean,
            (_, Some(Outcome::Unjudged(why))) => Standing::Unknown(unjudged_in_words(why, key.2)),
            _ => Standing::Unknown("nothing of this row to judge".to_owned()),
        }
    }

    /// As [`Examination::is_first`], where the other phase counts too: rows of earlier positions in decode's cache were
    /// written by a prefill, and whatever is wrong with that is in them.
    pub(super) fn is_first_of_both(&self, phase: Phase, place: Input) -> bool {
        let other = if phase == Phase::Prefill { Phase::Decode } else { Phase::Prefill };
        let earlier = self.first.get(&other).is_some_and(|(part, layer, point)| {
            let cache = point.is_cache();
            (*part, *layer, *point) < place_of(place) && !(cache && *layer == place.layer)
        });
        self.is_first(phase, place) && !earlier
    }

    /// Whether nothing earlier in the computation of the phase is at fault. K and V of one layer count as one.
    pub(super) fn is_first(&self, phase: Phase, place: Input) -> bool {
        let Some((part, layer, point)) = self.first.get(&phase).copied() else { return true };
        (part, layer, point) >= place_of(place)
            || ((part, layer) == (Part::of(place.point), place.layer) && point.is_cache() && place.point.is_cache())
    }
}

/// Which recording would settle it.
fn unjudged_in_words(why: &Unjudged, pos: u64) -> String {
    match why {
        Unjudged::InputsMissing(inputs) => {
            let name = |input: &Input| match input.layer {
                0.. => format!("{} of layer {}", input.point, input.layer),
                _ => input.point.to_string(),
            };
            let names: Vec<String> = inputs.iter().map(name).collect();
            format!("record {} at position {pos}, as payload", names.join(" and "))
        }
        Unjudged::NoPayload => format!("record its payload at position {pos}"),
        Unjudged::OnlyPart { compared, values, rest } => {
            let rest = unjudged_in_words(rest, pos);
            format!("{compared} of its {values} values are known and as they should be; for the others {rest}")
        }
        other => other.to_string(),
    }
}

fn gap_in_words(gap: &Gap) -> String {
    format!(
        "{:.3e} times the distance that rounding makes, from {} of layer {} on, replayed through what was not recorded",
        gap.ratio, gap.from.point, gap.from.layer
    )
}

pub(super) fn token_in_words(token: &TokenJudgement) -> String {
    let what = token.slot.map_or_else(|| "the row".to_owned(), |slot| format!("the row of position {slot}"));
    format!("{what} is {:.3e} times as far from what the tokens give as rounding makes it", token.distance_ratio)
}

#[cfg(test)]
mod tests;
