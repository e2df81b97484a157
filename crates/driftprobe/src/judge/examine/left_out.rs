//! Rows that were left out on purpose: whether what was recorded around them shows that nothing is wrong there.
//!
//! A sample is never taken for its row. But where the next whole row is what the whole row before gives, computed through
//! the stages between, whatever lies between has not moved it by more than rounding does.

use super::standing::token_in_words;
use super::{Examination, RowKey, Standing, place_of};
use crate::oracle::Input;
use crate::simulate::TokenJudgement;
use driftprobe_trace::{Event, Point};
use std::collections::BTreeSet;

impl Examination {
    /// Where a row stands of which only a sample is recorded, as planned; none: it was not left out.
    pub(super) fn left_out(&self, event: &Event, key: &RowKey) -> Option<Standing> {
        let planned = self.recording.as_ref().is_some_and(|plan| plan.is_left_out(event.point, event.layer));
        if !planned || event.payload.is_some() {
            return None;
        }
        let cache = event.point.is_cache();
        if let Some(token) = self.tokens_of(key).find(|token| cache && token.flagged)
            && self.is_first_of_both(key.0, key.3)
        {
            return Some(Standing::Fault(token_in_words(token)));
        }
        Some(self.left_open(event, key).map_or(Standing::LeftOut, Standing::LeftOpen))
    }

    fn tokens_of(&self, key: &RowKey) -> impl Iterator<Item = &TokenJudgement> {
        self.tokens.get(key).into_iter().flatten().filter_map(|at| self.study.tokens.get(*at))
    }

    /// Why a row that was left out may be wrong unseen.
    fn left_open(&self, event: &Event, key: &RowKey) -> Option<String> {
        if self.tokens_of(key).next().is_none() {
            return Some("left out, and not held against the tokens: the prompt was not simulated".to_owned());
        }
        // Statistics alone hide too much: a row of other values may have the same.
        if event.sample.as_ref().is_none_or(|sample| sample.values.is_empty()) {
            return Some("left out, and no value of it is recorded".to_owned());
        }
        if self.tokens_of(key).any(|token| token.flagged) {
            return Some("left out; what is recorded of it is not what the tokens give".to_owned());
        }
        if !self.is_replayed(key) {
            return Some("left out, and no whole row behind it was replayed from one before it".to_owned());
        }
        let cache = event.point.is_cache();
        (cache && !meets_every_slot(event)).then(|| "left out; its sample does not meet every position".to_owned())
    }

    /// Whether the stretch that holds the row was replayed up to a whole row, and ends within rounding.
    fn is_replayed(&self, (phase, prompt, pos, place): &RowKey) -> bool {
        let end = |point, layer| (*phase, prompt.clone(), *pos, Input { point, layer });
        let here = self.gaps.range(end(Point::EmbedOut, i32::MIN)..=end(Point::Logits, i32::MAX));
        let gaps = here.filter_map(|(_, at)| self.study.gaps.get(*at));
        let mut holding = gaps
            .filter(|gap| gap.whole && place_of(gap.from) < place_of(*place) && place_of(*place) <= place_of(gap.to));
        holding.any(|gap| !gap.flagged && !gap.inherited)
    }
}

/// Whether the sample of a cache `[heads, positions, width]` holds a value of each position.
fn meets_every_slot(event: &Event) -> bool {
    let (Some(&[_, positions, width]), Some(sample)) = (event.shape.as_deref(), &event.sample) else { return false };
    let Some(at) = &sample.idx else { return false };
    let met: BTreeSet<u64> = at.iter().filter_map(|at| at.checked_div(width)?.checked_rem(positions)).collect();
    met.len() as u64 == positions
}
