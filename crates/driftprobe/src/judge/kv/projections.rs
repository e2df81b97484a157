//! Hashes of the Q, K and V projections by layer and prompt, in both phases.

use crate::pair::place::Places;
use driftprobe_trace::{Event, HashAlgo, Phase, Point, RowHash, Rows};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Which projection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Projection {
    /// Queries.
    Q,
    /// Keys.
    K,
    /// Values.
    V,
}

impl Projection {
    /// All three.
    pub const ALL: [Projection; 3] = [Projection::Q, Projection::K, Projection::V];

    /// As reports spell it.
    pub const fn id(self) -> &'static str {
        match self {
            Projection::Q => "q_proj",
            Projection::K => "k_proj",
            Projection::V => "v_proj",
        }
    }

    /// Points that hold it, the nearest to the matrix first: where a model has no norm on Q and K, the projection is what
    /// the rotary embedding reads.
    const fn points(self) -> &'static [Point] {
        match self {
            Projection::Q => &[Point::QProjOut, Point::QPreRope],
            Projection::K => &[Point::KProjOut, Point::KPreRope],
            Projection::V => &[Point::VProj],
        }
    }

    fn of(point: Point) -> Option<Projection> {
        Projection::ALL.into_iter().find(|projection| projection.points().contains(&point))
    }
}

/// One projection of one prompt in one layer.
#[derive(Clone, Debug, PartialEq)]
pub struct ProjectionHash {
    /// The layer.
    pub layer: i32,
    /// The prompt.
    pub prompt_id: Arc<str>,
    /// The projection.
    pub projection: Projection,
    /// The point that was recorded of it.
    pub point: Point,
    /// Its rows, by position.
    pub rows: Vec<RowOfHash>,
}

/// One row of a projection.
#[derive(Clone, Debug, PartialEq)]
pub struct RowOfHash {
    /// The position, if recorded.
    pub pos: Option<u64>,
    /// The token, if recorded.
    pub token_id: Option<u32>,
    /// Prefill's hash and decode's: as recorded, else of the payload.
    pub hashes: [Option<RowHash>; 2],
}

impl RowOfHash {
    /// Whether both hashes are one; `None` where one is not known, or by another algorithm.
    pub fn equal(&self) -> Option<bool> {
        let [Some(ours), Some(theirs)] = self.hashes else { return None };
        (ours.algo == theirs.algo).then_some(ours.value == theirs.value)
    }
}

impl ProjectionHash {
    /// What the hashes say, in words.
    pub fn note(&self) -> String {
        let equal = self.rows.iter().filter(|row| row.equal() == Some(true)).count();
        let known = self.rows.iter().filter(|row| row.equal().is_some()).count();
        let has = |side: usize| self.rows.iter().any(|row| row.hashes.get(side).is_some_and(Option::is_some));
        let all = self.rows.len();
        match (has(0), has(1)) {
            (false, false) => "neither hashes nor payloads recorded".to_owned(),
            (true, false) => "no hash of decode".to_owned(),
            (false, true) => "no hash of prefill".to_owned(),
            _ if known == 0 => "hashes of unlike algorithms or positions".to_owned(),
            _ if equal == all && all == 1 => "equal".to_owned(),
            _ if equal == 0 && all == 1 => "differs".to_owned(),
            _ => format!("{equal} of {all} rows equal"),
        }
    }
}

/// By layer, prompt, projection and position.
pub(super) fn of(events: &[&Event], rows: &dyn Rows, places: &Places) -> Vec<ProjectionHash> {
    type Key = (i32, usize, Projection);
    type Rows = (Arc<str>, Point, BTreeMap<u64, RowOfHash>);
    let mut all: BTreeMap<Key, Rows> = BTreeMap::new();
    for &event in events {
        let Some(projection) = Projection::of(event.point) else { continue };
        let key = (event.layer, places.rank(&event.prompt_id), projection);
        let (_, point, of) = all.entry(key).or_insert_with(|| (event.prompt_id.clone(), event.point, BTreeMap::new()));
        let rank = |point: Point| projection.points().iter().position(|one| *one == point);
        if rank(event.point) > rank(*point) {
            continue;
        }
        if event.point != *point {
            (*point, *of) = (event.point, BTreeMap::new());
        }
        let pos = event.position();
        let row = of.entry(places.of(event).position).or_insert(RowOfHash {
            pos,
            token_id: event.token_id,
            hashes: [None, None],
        });
        let [prefill, decode] = &mut row.hashes;
        let side = if event.phase == Phase::Prefill { prefill } else { decode };
        if side.is_none() {
            *side = hash_of(event, rows);
        }
    }
    let one = |((layer, _, projection), (prompt_id, point, rows)): (Key, Rows)| ProjectionHash {
        layer,
        prompt_id,
        projection,
        point,
        rows: rows.into_values().collect(),
    };
    all.into_iter().map(one).collect()
}

/// As recorded, else of the payload.
fn hash_of(event: &Event, rows: &dyn Rows) -> Option<RowHash> {
    event.hash.or_else(|| Some(rows.row(event).ok().flatten()?.hash(HashAlgo::Xxh3_64)))
}

pub(super) fn across_prompts(all: &[ProjectionHash], projection: Projection) -> (u64, u64) {
    /// A prompt, and the token of its row.
    type Owner = (Arc<str>, Option<u32>);
    /// Rows of one layer and phase by hash: who has it.
    type Seen = BTreeMap<(i32, usize, RowHashKey), Vec<Owner>>;
    let mut seen: Seen = BTreeMap::new();
    let mut prompts: BTreeMap<i32, Vec<Owner>> = BTreeMap::new();
    for one in all.iter().filter(|one| one.projection == projection) {
        for row in &one.rows {
            let who = (one.prompt_id.clone(), row.token_id);
            prompts.entry(one.layer).or_default().push(who.clone());
            for (side, hash) in row.hashes.iter().enumerate() {
                let Some(hash) = hash else { continue };
                seen.entry((one.layer, side, (hash.algo.id(), hash.value))).or_default().push(who.clone());
            }
        }
    }
    // The same token in layer 0 gives the same row in every prompt.
    let unlike = |a: &Owner, b: &Owner| a.0 != b.0 && a.1.is_some() && b.1.is_some() && a.1 != b.1;
    let (mut compared, mut shared) = (0, 0);
    for ((layer, _, _), owners) in &seen {
        let others = prompts.get(layer).map(Vec::as_slice).unwrap_or_default();
        for owner in owners {
            compared += u64::from(others.iter().any(|other| unlike(owner, other)));
            shared += u64::from(owners.iter().any(|other| unlike(owner, other)));
        }
    }
    (compared, shared)
}

/// Algorithm and value.
type RowHashKey = (&'static str, u64);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Memory, event};
    use driftprobe_trace::Row;

    fn recorded(memory: &mut Memory, (prompt, phase, point): (&str, Phase, Point), token: u32, values: &[f32]) {
        let event = event(prompt, phase, point, 0, 4, token);
        memory.record(event, Row::from_f32(values));
    }

    fn hashes(memory: &Memory) -> Vec<ProjectionHash> {
        let events: Vec<&Event> = memory.run.events.iter().collect();
        of(&events, memory, &Places::new(["a", "b"].into_iter(), &memory.run.events))
    }

    #[test]
    fn equal_rows_have_equal_hashes_and_others_do_not() {
        let mut memory = Memory::default();
        for phase in Phase::ALL {
            recorded(&mut memory, ("a", phase, Point::VProj), 1, &[1.0, 2.0]);
        }
        recorded(&mut memory, ("a", Phase::Prefill, Point::KPreRope), 1, &[1.0]);
        recorded(&mut memory, ("a", Phase::Decode, Point::KPreRope), 1, &[1.5]);
        recorded(&mut memory, ("a", Phase::Decode, Point::QPreRope), 1, &[1.5]);
        let got = hashes(&memory);
        let notes: Vec<(&str, String)> = got.iter().map(|one| (one.projection.id(), one.note())).collect();
        let expected = [("q_proj", "no hash of prefill"), ("k_proj", "differs"), ("v_proj", "equal")];
        assert_eq!(notes, expected.map(|(id, note)| (id, note.to_owned())));
        // As any other implementation hashes the little-endian bytes of 1 and 2.
        let bytes: Vec<u8> = [1.0f32, 2.0].iter().flat_map(|x| x.to_le_bytes()).collect();
        let row = Row::new(driftprobe_trace::Dtype::F32, vec![2], bytes).unwrap();
        assert_eq!(got[2].rows[0].hashes[0], Some(row.hash(HashAlgo::Xxh3_64)));
    }

    #[test]
    fn the_hash_is_taken_of_the_payload_where_none_is_recorded() {
        let mut memory = Memory::default();
        recorded(&mut memory, ("a", Phase::Prefill, Point::VProj), 1, &[1.0, 2.0]);
        let hash = memory.run.events[0].hash.take();
        assert_eq!(hashes(&memory)[0].rows[0].hashes, [hash, None]);
    }

    #[test]
    fn where_q_has_a_norm_the_projection_is_what_comes_before_it() {
        let mut memory = Memory::default();
        for point in [Point::QPreRope, Point::QProjOut] {
            recorded(&mut memory, ("a", Phase::Prefill, point), 1, &[point as usize as f32]);
        }
        let got = hashes(&memory);
        assert_eq!((got.len(), got[0].point), (1, Point::QProjOut));
        memory.run.events.reverse();
        assert_eq!(hashes(&memory), got);
    }

    #[test]
    fn a_row_that_two_prompts_share_is_counted_unless_it_is_of_one_token() {
        let mut memory = Memory::default();
        for (prompt, token) in [("a", 1), ("b", 2)] {
            recorded(&mut memory, (prompt, Phase::Prefill, Point::KPreRope), token, &[token as f32]);
            recorded(&mut memory, (prompt, Phase::Decode, Point::KPreRope), token, &[7.0]);
            recorded(&mut memory, (prompt, Phase::Decode, Point::VProj), 3, &[7.0]);
        }
        let got = hashes(&memory);
        assert_eq!(across_prompts(&got, Projection::K), (4, 2));
        assert_eq!(across_prompts(&got, Projection::V), (0, 0));
    }
}
