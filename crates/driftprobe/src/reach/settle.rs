//! From the rows of a point to what is found of it: orders are tried, refuted, and what is left is weighed.

use super::finding::{Claim, Finding, Outcome, REFUTED_WELL_MIN, TELLING_ROWS_MIN, TELLING_VALUES};
use super::order::Order;
use super::parts::Parts;
use super::row::{Row, RowName};
use super::targets::Target;
use super::{tried, words};
use crate::oracle::stage::Op;
use std::collections::BTreeSet;

/// Orders that are tried between two looks at the time.
const STEP: usize = 256;
/// Rows that are looked at first; more if these leave a choice.
const ROWS_FIRST: usize = 8;
/// Rows between two looks at what is left.
const ROWS_A_LOOK: usize = 4;
/// Refuted orders that are tried on further rows, to see whether these tell orders apart.
const SAMPLE: usize = 48;
/// Orders refuted by few values that are tried on further rows, to see whether more refute them.
const DOUBTFUL_MAX: usize = 1024;
/// Groups of passes that are looked at each by itself.
const GROUPS_MAX: usize = 6;

/// Asks whether there is time left.
pub type Asked<'a> = dyn FnMut() -> bool + 'a;

/// Settles a point; says too whether the time was up.
pub fn settle(target: &Target, rows: &[(Row, Op)], go_on: &mut Asked<'_>) -> (Vec<Finding>, bool) {
    let whole = rows.iter().all(|(_, op)| *op == Op::Weigh);
    let rows: Vec<&Row> = rows.iter().map(|(row, _)| row).collect();
    let one = Group { target, whole, pass: None };
    let together = one.settle(&rows, go_on);
    let passes: BTreeSet<u64> = rows.iter().filter_map(|row| row.pass).collect();
    let alone = together.outcome == Outcome::NotReproduced { some_alone: true };
    if !alone || passes.len() < 2 {
        let ended = together.outcome == Outcome::Unfinished;
        return (vec![together], ended);
    }
    // Engines have kernels for passes of few tokens and for those of many.
    let groups = passes.iter().rev().take(GROUPS_MAX).map(|pass| {
        let own: Vec<&Row> = rows.iter().filter(|row| row.pass == Some(*pass)).copied().collect();
        Group { target, whole, pass: Some(*pass) }.settle(&own, go_on)
    });
    let groups: Vec<Finding> = groups.collect();
    let ended = groups.iter().any(|finding| finding.outcome == Outcome::Unfinished);
    if groups.iter().any(|finding| finding.outcome.claim().is_some()) {
        (groups, ended)
    } else {
        (vec![together], ended)
    }
}

struct Group<'a> {
    target: &'a Target,
    whole: bool,
    pass: Option<u64>,
}

/// What is left of the orders after some rows.
struct State {
    orders: Vec<Order>,
    /// Values in which each order is not as recorded, up to [`TELLING_VALUES`] a row.
    differing: Vec<usize>,
    rows: usize,
    values: u64,
    telling: u64,
}

impl State {
    fn left(&self) -> Vec<usize> {
        (0..self.orders.len()).filter(|at| self.differing.get(*at) == Some(&0)).collect()
    }

    fn refuted(&self) -> Vec<usize> {
        (0..self.orders.len()).filter(|at| self.differing.get(*at).is_some_and(|n| *n > 0)).collect()
    }

    fn run(&mut self, at: usize, row: &Row, most: usize) -> usize {
        let Some(order) = self.orders.get(at) else { return 0 };
        let tally = row.run(order, most);
        // An order that has nothing to compare on a row is not reproduced by it.
        let differing = if tally.compared == 0 { most } else { tally.differing };
        if let Some(total) = self.differing.get_mut(at) {
            *total += differing;
        }
        if differing == 0 {
            self.values = self.values.max(tally.compared as u64);
        }
        differing
    }
}

/// Whether further rows may tell apart what is one on these.
fn has_aliases(claim: &Claim) -> bool {
    let parts: BTreeSet<Parts> = claim.orders.iter().filter_map(Order::parts).collect();
    parts.len() > 1 && !parts.contains(&Parts::Whole)
}

impl Group<'_> {
    fn settle(&self, rows: &[&Row], go_on: &mut Asked<'_>) -> Finding {
        let orders = tried::orders(rows);
        let count = orders.len();
        let mut state = State { differing: vec![0; count], orders, rows: 0, values: 0, telling: 0 };
        let mut compared = 0;
        let mut outcome = Outcome::NotReproduced { some_alone: false };
        for (number, row) in rows.iter().enumerate() {
            if !self.add(&mut state, number, row, go_on) {
                outcome = Outcome::Unfinished;
                break;
            }
            state.rows = number + 1;
            compared += std::mem::take(&mut state.values);
            if state.left().is_empty() {
                // Those before this one were given by the orders that were left.
                let some_alone = number > 0 || Self::alone(&state.orders, rows.get(1..).unwrap_or_default(), go_on);
                outcome = Outcome::NotReproduced { some_alone };
                break;
            }
            let is_time = state.rows.is_multiple_of(ROWS_A_LOOK) || state.rows == rows.len();
            if state.rows >= ROWS_FIRST.min(rows.len()) && is_time {
                outcome = self.weigh(&state, &rows[..state.rows]);
                // Where most orders give all values of so many rows, others will not part them.
                let hopeless = state.left().len() * 2 > count;
                if hopeless || outcome.claim().is_some_and(|claim| !has_aliases(claim)) {
                    break;
                }
            }
        }
        self.finding(&state, rows, (outcome, compared))
    }

    /// Tries the orders on one row: all of them on the first, on others those that are left, and some of the refuted ones.
    fn add(&self, state: &mut State, number: usize, row: &Row, go_on: &mut Asked<'_>) -> bool {
        if number == 0 {
            for at in 0..state.orders.len() {
                if at % STEP == 0 && !go_on() {
                    return false;
                }
                state.run(at, row, TELLING_VALUES);
            }
            let refuted = state.refuted().len();
            state.telling += u64::from(refuted * 2 > state.orders.len());
            return true;
        }
        // Those that are left, and those that too few values speak against.
        let mut open: Vec<usize> = state.refuted();
        open.retain(|at| state.differing.get(*at).is_some_and(|n| *n < TELLING_VALUES));
        open.truncate(DOUBTFUL_MAX);
        open.extend(state.left());
        for (i, at) in open.iter().enumerate() {
            if i % STEP == 0 && !go_on() {
                return false;
            }
            state.run(*at, row, TELLING_VALUES);
        }
        let Some(kept) = state.left().first().and_then(|at| state.orders.get(*at)).copied() else { return true };
        let own = row.symbols(&kept).1;
        let refuted = state.refuted();
        let (mut tried, mut told) = (0, 0);
        for i in 0..refuted.len().min(SAMPLE) {
            let Some(at) = refuted.get(i * refuted.len() / refuted.len().min(SAMPLE)).copied() else { continue };
            if state.orders.get(at).is_none_or(|order| row.symbols(order).1 == own) {
                continue;
            }
            tried += 1;
            told += usize::from(state.run(at, row, TELLING_VALUES) > 0);
        }
        state.telling += u64::from(told * 2 > tried && told > 0);
        true
    }

    /// How many rows an order reproduces each by itself, of a few.
    fn alone(orders: &[Order], rows: &[&Row], go_on: &mut Asked<'_>) -> bool {
        let reproduced = |row: &&Row| -> bool {
            let mut chunks = orders.chunks(STEP);
            chunks.any(|chunk| {
                go_on()
                    && chunk.iter().any(|order| {
                        let tally = row.run(order, 1);
                        tally.differing == 0 && tally.compared > 0
                    })
            })
        };
        rows.iter().take(ROWS_FIRST).any(reproduced)
    }

    fn weigh(&self, state: &State, rows: &[&Row]) -> Outcome {
        let left: Vec<Order> = state.left().iter().filter_map(|at| state.orders.get(*at).copied()).collect();
        let refuted: Vec<usize> = state.differing.iter().copied().filter(|n| *n > 0).collect();
        let well = refuted.iter().filter(|n| **n >= TELLING_VALUES).count();
        // Of none refuted the share is NaN, and too small.
        let enough = well as f64 / refuted.len() as f64 >= REFUTED_WELL_MIN;
        if !enough {
            let why = match refuted.len() {
                0 => "every order tried gives these values".to_owned(),
                all => format!("only {well} of the {all} orders refuted differ in {TELLING_VALUES} values or more"),
            };
            return Outcome::Weak { why, orders: left };
        }
        let first = left.first();
        let is_other = |row: &&Row, order: &Order| first.is_some_and(|f| row.symbols(f).0 != row.symbols(order).0);
        let differ = || left.iter().rev().any(|order| rows.iter().any(|row| is_other(row, order)));
        let longest = rows.iter().filter_map(|row| row.keys()).max();
        let parts: BTreeSet<Parts> = left.iter().filter_map(Order::parts).collect();
        if words::least_block(&parts, longest.unwrap_or(1)).is_none() && differ() {
            return Outcome::Ambiguous { says: words::each(&left), orders: left };
        }
        if state.telling < TELLING_ROWS_MIN {
            let why = "no second row tells the orders apart".to_owned();
            return Outcome::Weak { why, orders: left };
        }
        let (says, open) = words::claim(&left, longest, self.whole);
        Outcome::Claimed(Claim { says, open, orders: left, whole: self.whole })
    }

    fn finding(&self, state: &State, rows: &[&Row], (outcome, values): (Outcome, u64)) -> Finding {
        let looked_at = rows.iter().take(state.rows.max(1));
        let refuted = state.refuted();
        let well = refuted.iter().filter(|at| state.differing.get(**at).is_some_and(|n| *n >= TELLING_VALUES)).count();
        let longest = looked_at.clone().filter_map(|row| row.keys()).max();
        Finding {
            phase: self.target.phase,
            point: self.target.point,
            pass: self.pass,
            rows: looked_at.map(|row| row.name.clone()).collect::<Vec<RowName>>(),
            values,
            tried: state.orders.len() as u64,
            refuted: refuted.len() as u64,
            refuted_well: well as u64,
            telling_rows: state.telling,
            longest: longest.map(|keys| keys as u64),
            outcome,
        }
    }
}
