//! What the manifest promised against what was found, both ways.
//!
//! Expected are, in each phase, prompts × k positions × ((layered points × layers) + unlayered points), of the points that
//! both phases can give. A prompt of n + k − 1 tokens promises its last k positions. What cannot be known (a field of the
//! manifest is missing) is said, not guessed.

use crate::pair::KeyField;
use driftprobe_trace::{Event, Manifest, Phase, Point};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Rows in one phase beyond which a manifest's promise is not enumerated.
const EXPECTED_ROWS_MAX: u64 = 5_000_000;

/// A row that the manifest promises.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingRow {
    /// The phase in which it was not found.
    pub phase: Phase,
    /// The prompt.
    pub prompt_id: Arc<str>,
    /// Index of the token in the prompt.
    pub logical_tok_idx: u64,
    /// The token there.
    pub token_id: u32,
    /// The layer, −1 where the point has none.
    pub layer: i32,
    /// The point.
    pub point: Point,
}

/// What was promised, and what of it was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expectation {
    /// Rows promised, over both phases; `None`: not known, see `unknown`.
    pub rows: Option<u64>,
    /// Why what was promised is not known.
    pub unknown: Vec<String>,
    /// Promised rows that were not found, in the manifest's order.
    pub missing: Vec<MissingRow>,
    /// Indices of events that were not promised, each with the reason.
    pub unexpected: Vec<(usize, String)>,
    /// Points that only one phase can give, with that phase: expected of neither.
    pub one_phase: Vec<(Point, Phase)>,
}

/// The promise of a manifest, in a form that events can be held against.
struct Promise<'a> {
    /// Tokens and first promised position of each prompt.
    prompts: BTreeMap<&'a str, (&'a [u32], u64)>,
    layers: BTreeSet<i32>,
    points: BTreeSet<Point>,
    /// Layer and point of every row of one position.
    places: Vec<(i32, Point)>,
    one_phase: BTreeMap<Point, Phase>,
    rows_per_phase: u64,
}

/// Holds the events against the manifest.
pub fn expect(manifest: Option<&Manifest>, events: &[&Event]) -> Expectation {
    let promise = match manifest.map(Promise::of) {
        Some(Ok(promise)) => promise,
        Some(Err(unknown)) => return Expectation { unknown, ..Expectation::default() },
        None => {
            return Expectation { unknown: vec!["there is no manifest".to_owned()], ..Expectation::default() };
        }
    };
    let mut found = Vec::with_capacity(events.len());
    let mut unexpected = vec![];
    for (index, event) in events.iter().enumerate() {
        match promise.cell(event) {
            Ok(Some(position)) => {
                // The text last: most keys differ before it.
                found.push((event.phase, position, event.layer, event.point, &*event.prompt_id));
            }
            Ok(None) => {}
            Err(why) => unexpected.push((index, why)),
        }
    }
    found.sort_unstable();
    let mut missing = vec![];
    for prompt in manifest.iter().flat_map(|manifest| manifest.prompts.iter().flatten()) {
        let Some(&(tokens, first)) = promise.prompts.get(prompt.id.as_str()) else { continue };
        let id: Arc<str> = Arc::from(prompt.id.as_str());
        for (position, &token_id) in (0u64..).zip(tokens).skip_while(|(position, _)| *position < first) {
            for (layer, point) in promise.places.iter().copied() {
                for phase in Phase::ALL {
                    if found.binary_search(&(phase, position, layer, point, &*id)).is_err() {
                        let prompt_id = id.clone();
                        missing.push(MissingRow {
                            phase,
                            prompt_id,
                            logical_tok_idx: position,
                            token_id,
                            layer,
                            point,
                        });
                    }
                }
            }
        }
    }
    let one_phase = promise.one_phase.iter().map(|(point, phase)| (*point, *phase)).collect();
    Expectation { rows: Some(2 * promise.rows_per_phase), unknown: vec![], missing, unexpected, one_phase }
}

impl<'a> Promise<'a> {
    fn of(manifest: &'a Manifest) -> Result<Promise<'a>, Vec<String>> {
        let (Some(prompts), Some(layers), Some(sets), Some(steps)) =
            (&manifest.prompts, &manifest.layers, &manifest.points, manifest.steps)
        else {
            let fields = [
                ("prompts", manifest.prompts.is_some()),
                ("layers", manifest.layers.is_some()),
                ("points", manifest.points.is_some()),
                ("steps", manifest.steps.is_some()),
            ];
            let absent = fields.iter().filter(|(_, there)| !there);
            return Err(absent.map(|(name, _)| format!("the manifest has no `{name}`")).collect());
        };
        let [prefill, decode]: [BTreeSet<Point>; 2] = Phase::ALL.map(|phase| sets.of(phase).iter().copied().collect());
        let steps = u64::from(steps);
        let mut by_id = BTreeMap::new();
        let mut unknown = vec![];
        if let Some(point) = prefill.union(&decode).find(|point| point.layered() && layers.is_empty()) {
            unknown.push(format!("the manifest's `layers` is empty, its `points` name `{point}`, which layers have"));
        }
        for prompt in prompts {
            match (prompt.tokens.len() as u64).checked_sub(steps) {
                Some(first) => drop(by_id.insert(prompt.id.as_str(), (prompt.tokens.as_slice(), first))),
                None => unknown.push(format!(
                    "{} steps do not fit into the {} tokens of prompt `{}`",
                    steps,
                    prompt.tokens.len(),
                    prompt.id
                )),
            }
        }
        let mut promise = Promise {
            prompts: by_id,
            layers: layers.iter().copied().collect(),
            points: prefill.intersection(&decode).copied().collect(),
            places: manifest.expected_places().unwrap_or_default(),
            one_phase: manifest.one_sided_points().into_iter().collect(),
            rows_per_phase: 0,
        };
        let rows = promise.prompts.len() as u128 * u128::from(steps) * promise.places.len() as u128;
        match u64::try_from(rows) {
            Ok(0) if unknown.is_empty() => unknown.push("the manifest promises no row at all".to_owned()),
            Ok(rows) if rows <= EXPECTED_ROWS_MAX => promise.rows_per_phase = rows,
            _ => unknown.push(format!(
                "the manifest promises {rows} rows a phase, more than {EXPECTED_ROWS_MAX}: --by-prompt judges one prompt at a time"
            )),
        }
        if unknown.is_empty() { Ok(promise) } else { Err(unknown) }
    }

    /// The promised position that an event fills; `None` for a point of one phase, an error if it was not promised.
    fn cell(&self, event: &Event) -> Result<Option<u64>, String> {
        let Some(&(tokens, first)) = self.prompts.get(&*event.prompt_id) else {
            return Err("the manifest has no such prompt".to_owned());
        };
        if event.point.layered() && !self.layers.contains(&event.layer) {
            return Err(format!("layer {} is not among the manifest's layers", event.layer));
        }
        if !self.points.contains(&event.point) {
            return match self.one_phase.get(&event.point) {
                Some(phase) if *phase == event.phase => Ok(None),
                Some(_) => Err("the manifest names this point for the other phase only".to_owned()),
                None => Err("the point is not among the manifest's points".to_owned()),
            };
        }
        let promised = (0u64..).zip(tokens).filter(|(position, _)| *position >= first);
        let Some(position) = event.token_index() else {
            let mut fits = promised.filter(|(_, token)| event.token_id.is_none_or(|id| id == **token));
            return match (fits.next(), fits.next()) {
                (Some((position, _)), None) => Ok(Some(position)),
                _ => Err("the event does not say which position it is of".to_owned()),
            };
        };
        let token = usize::try_from(position).ok().and_then(|at| tokens.get(at));
        match (token, event.token_id) {
            (None, _) => Err(format!("position {position} is past the prompt's {} tokens", tokens.len())),
            _ if position < first => Err(format!("position {position} is before the first traced one, {first}")),
            (Some(token), Some(id)) if *token != id => {
                Err(format!("{} is {id}, the manifest has {token} at position {position}", KeyField::TokenId.name()))
            }
            _ => Ok(Some(position)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{event, manifest};

    #[test]
    fn every_promised_row_is_found_or_listed() {
        let manifest = manifest(&[("p", &[5, 6, 7])], &[0, 1], &[Point::EmbedOut, Point::AttnOut], 2);
        // 2 positions × (1 unlayered + 1 layered × 2 layers) × 2 phases.
        let nothing = expect(Some(&manifest), &[]);
        assert_eq!((nothing.rows, nothing.missing.len()), (Some(12), 12));
        let one = expect(Some(&manifest), &[&event("p", Phase::Decode, Point::AttnOut, 1, 2, 7)]);
        assert_eq!((one.missing.len(), one.unexpected.len()), (11, 0));
        assert!(!one.missing.iter().any(|row| {
            (row.phase, row.point, row.layer, row.logical_tok_idx) == (Phase::Decode, Point::AttnOut, 1, 2)
        }));
    }

    #[test]
    fn what_was_not_promised_is_listed() {
        let manifest = manifest(&[("p", &[5, 6, 7])], &[0], &[Point::AttnOut], 1);
        let unexpected = [
            event("q", Phase::Decode, Point::AttnOut, 0, 2, 7),
            event("p", Phase::Decode, Point::AttnOut, 3, 2, 7),
            event("p", Phase::Decode, Point::MlpOut, 0, 2, 7),
            event("p", Phase::Decode, Point::AttnOut, 0, 1, 6),
            event("p", Phase::Decode, Point::AttnOut, 0, 3, 7),
            event("p", Phase::Decode, Point::AttnOut, 0, 2, 8),
        ];
        assert_eq!(expect(Some(&manifest), &unexpected.iter().collect::<Vec<_>>()).unexpected.len(), unexpected.len());
    }

    #[test]
    fn an_event_without_an_index_fills_the_one_promised_position_of_its_token() {
        // Which of decode's promised positions stay empty, and whether the event is called unexpected.
        let found = |tokens: &[u32], steps: u32, token_id: Option<u32>| {
            let manifest = manifest(&[("p", tokens)], &[0], &[Point::AttnOut], steps);
            let named = event("p", Phase::Decode, Point::AttnOut, 0, 0, 0);
            let bare = Event { logical_tok_idx: None, pos_id: None, token_id, ..named };
            let got = expect(Some(&manifest), &[&bare]);
            let missing = got.missing.iter().filter(|row| row.phase == Phase::Decode).map(|row| row.logical_tok_idx);
            (missing.collect::<Vec<_>>(), got.unexpected.len())
        };
        assert_eq!(found(&[5, 6, 7], 2, Some(6)), (vec![2], 0));
        assert_eq!(found(&[5, 6, 7], 2, Some(7)), (vec![1], 0));
        assert_eq!(found(&[6, 6, 7], 2, Some(6)), (vec![2], 0), "the first 6 is not traced");
        assert_eq!(found(&[5, 6, 7], 1, None), (vec![], 0), "there is only one");
        for (tokens, token) in [([5, 6, 7], Some(5)), ([5, 6, 7], Some(8)), ([5, 6, 6], Some(6)), ([5, 6, 7], None)] {
            assert_eq!(found(&tokens, 2, token), (vec![1, 2], 1), "{tokens:?} {token:?}");
        }
    }

    #[test]
    fn a_point_of_one_phase_is_expected_of_neither() {
        let mut manifest = manifest(&[("p", &[5, 6])], &[0], &[], 1);
        let (prefill, decode) = (vec![Point::AttnOut, Point::AttnProbs], vec![Point::AttnOut]);
        manifest.points = Some(driftprobe_trace::PointSet::PerPhase { prefill, decode });
        let got = expect(Some(&manifest), &[&event("p", Phase::Prefill, Point::AttnProbs, 0, 1, 6)]);
        assert_eq!(got.one_phase, [(Point::AttnProbs, Phase::Prefill)]);
        assert_eq!((got.rows, got.missing.len(), got.unexpected.len()), (Some(2), 2, 0));
        let other = expect(Some(&manifest), &[&event("p", Phase::Decode, Point::AttnProbs, 0, 1, 6)]);
        assert_eq!(other.unexpected.len(), 1);
    }

    #[test]
    fn an_absurd_promise_is_refused_not_enumerated() {
        let layers: Vec<i32> = (0..100_000).collect();
        let tokens = vec![1; 1000];
        let manifest = manifest(&[("p", &tokens)], &layers, &[Point::AttnOut], 1000);
        let got = expect(Some(&manifest), &[]);
        assert!(got.rows.is_none() && got.missing.is_empty() && !got.unknown.is_empty());
    }

    #[test]
    fn an_unknown_promise_is_said() {
        let mut manifest = manifest(&[("p", &[5, 6])], &[0], &[Point::AttnOut], 1);
        manifest.steps = None;
        assert_eq!(expect(Some(&manifest), &[]).unknown, ["the manifest has no `steps`"]);
        manifest.steps = Some(3);
        assert_eq!(expect(Some(&manifest), &[]).unknown.len(), 1);
        manifest.steps = Some(0);
        assert_eq!(expect(Some(&manifest), &[]).unknown, ["the manifest promises no row at all"]);
        assert_eq!(expect(None, &[]).rows, None);
    }
}
