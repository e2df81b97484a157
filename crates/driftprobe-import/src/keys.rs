//! Which row is which: phase, step, index, position and token of every row, as far as that is told.

use crate::error::{ImportError, Result};
use crate::mapped::Mapped;
use driftprobe_trace::Phase;
use std::collections::{BTreeMap, BTreeSet};

/// What is known of one row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Key {
    /// Index of its token in the sequence.
    pub index: Option<u64>,
    /// Its position.
    pub position: Option<u64>,
    /// Its token.
    pub token: Option<u32>,
    /// Decode step, from 1; 0 in prefill.
    pub step: u64,
}

/// What a pass became.
#[derive(Clone, Debug)]
pub struct Role {
    /// Its phase; none if nothing of it is recorded.
    pub phase: Option<Phase>,
    /// The rows to record, by their number in the pass.
    pub rows: Vec<(u64, Key)>,
    /// What is said of it.
    pub says: String,
}

/// What the user says of the tokens.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// The whole sequence that both phases were fed.
    pub tokens: Option<Vec<u32>>,
    /// The first token's position; the others follow.
    pub first_position: Option<u64>,
}

/// The roles of all passes, and the sequence, if it is known.
pub struct Plan {
    /// By pass.
    pub roles: Vec<Role>,
    /// All tokens.
    pub sequence: Option<Vec<u32>>,
    /// What the user should know.
    pub notes: Vec<String>,
}

/// Tells the passes apart: many tokens are prefill, one token is decode, unless the user says otherwise.
fn phase_of(pass: &Mapped<'_>) -> Result<Phase> {
    match (pass.tokens, pass.phase) {
        (None, Some(phase)) => Ok(phase),
        (None, None) => {
            let hint =
                "give the two phases' dumps by --prefill DIR --decode DIR, or name their folders prefill and decode";
            Err(ImportError::new(format!("{}: nothing tells its phase", pass.label), hint))
        }
        (Some(1), _) => Ok(Phase::Decode),
        (Some(_), _) => Ok(Phase::Prefill),
    }
}

/// The sequence, put together from what passes say of positions and tokens, if that is all of it.
fn assembled(passes: &[Mapped<'_>]) -> Result<Option<Vec<u32>>> {
    let mut tokens: BTreeMap<u64, (u32, &str)> = BTreeMap::new();
    for pass in passes {
        let positions: Vec<u64> = match (&pass.positions, &pass.sequence) {
            (Some(positions), _) => positions.clone(),
            (None, Some(sequence)) => (0..sequence.len() as u64).collect(),
            (None, None) => continue,
        };
        let ids = pass.ids.as_ref().or(pass.sequence.as_ref());
        for (position, id) in positions.iter().zip(ids.into_iter().flatten()) {
            let (known, label) = tokens.entry(*position).or_insert((*id, &pass.label));
            if known != id {
                let what = format!("position {position} has token {known} in {label} and {id} in {}", pass.label);
                let hint = "these are two sequences (a warm-up?): choose the passes of one of them by --passes";
                return Err(ImportError::new(what, hint));
            }
        }
    }
    let whole = tokens.keys().copied().eq(0..tokens.len() as u64) && !tokens.is_empty();
    Ok(whole.then(|| tokens.into_values().map(|(id, _)| id).collect()))
}

/// Finds out which row is which.
///
/// # Errors
/// If what the dump says of tokens contradicts itself or the user, or a phase cannot be told.
pub fn plan(passes: &[Mapped<'_>], told: &Told) -> Result<Plan> {
    let phases: Vec<Phase> = passes.iter().map(phase_of).collect::<Result<_>>()?;
    let sequence = match &told.tokens {
        Some(tokens) => Some(tokens.clone()),
        None => assembled(passes)?,
    };
    let steps = phases.iter().zip(passes).filter(|(phase, pass)| decodes(**phase, pass)).count() as u64;
    let mut notes = Vec::new();
    let mut step = 0;
    let mut roles = Vec::new();
    for (pass, phase) in passes.iter().zip(&phases) {
        step += u64::from(decodes(*phase, pass));
        let step = if *phase == Phase::Decode { step } else { 0 };
        let rows = match pass.tokens {
            Some(_) => block(pass, (step, steps), sequence.as_deref(), told)?,
            None => loose(pass, sequence.as_deref(), told)?,
        };
        let left_out = pass.phase.is_some_and(|given| given != *phase);
        let says = says(pass, *phase, left_out, step);
        roles.push(Role { phase: (!left_out).then_some(*phase), rows, says });
    }
    number_loose_steps(&mut roles, passes);
    choose(&mut roles, &mut notes)?;
    Ok(Plan { roles, sequence, notes })
}

/// Whether a pass is a decode step that counts.
fn decodes(phase: Phase, pass: &Mapped<'_>) -> bool {
    phase == Phase::Decode && pass.tokens.is_some() && pass.phase != Some(Phase::Prefill)
}

fn says(pass: &Mapped<'_>, phase: Phase, left_out: bool, step: u64) -> String {
    match (pass.tokens, left_out, phase) {
        (None, _, phase) => format!("loose rows of {phase}"),
        (Some(tokens), true, Phase::Prefill) => format!("{tokens} tokens: fills decode's cache, not recorded"),
        (Some(_), true, Phase::Decode) => "1 token, in prefill's dump: not recorded".to_owned(),
        (Some(tokens), false, Phase::Prefill) => format!("{tokens} tokens: prefill"),
        (Some(_), false, Phase::Decode) => format!("1 token: decode step {step}"),
    }
}

/// The keys of a pass that fed its tokens together.
fn block(pass: &Mapped<'_>, steps: (u64, u64), sequence: Option<&[u32]>, told: &Told) -> Result<Vec<(u64, Key)>> {
    let tokens = pass.tokens.unwrap_or(0);
    let (step, all) = steps;
    let length = sequence.map(|sequence| sequence.len() as u64);
    let first = match (&told.tokens, length) {
        // By the user's word the whole sequence is one pass, and decode's steps are its end.
        (Some(_), Some(length)) if tokens == length => Some(0),
        (Some(_), Some(length)) if step > 0 => (length + step - 1).checked_sub(all),
        _ => None,
    };
    let mut rows = Vec::new();
    for row in 0..tokens {
        let at = row as usize;
        let position = pass.positions.as_ref().and_then(|positions| positions.get(at)).copied();
        let base = told.first_position.unwrap_or(0);
        let index = match position {
            Some(position) if sequence.is_some() => position.checked_sub(base),
            Some(_) => None,
            None => first.map(|first| first + row),
        };
        let fed = pass.ids.as_ref().and_then(|ids| ids.get(at)).copied();
        let token = token(pass, index, fed, sequence)?;
        let position = position.or_else(|| index.and_then(|index| told.first_position.map(|first| first + index)));
        rows.push((row, Key { index, position, token, step }));
    }
    Ok(rows)
}

/// The token of a row, by the dump and by the sequence, which must agree.
fn token(pass: &Mapped<'_>, index: Option<u64>, fed: Option<u32>, sequence: Option<&[u32]>) -> Result<Option<u32>> {
    let hint = "give the tokens that were fed, all of them (--tokens)";
    let Some((index, sequence)) = index.zip(sequence) else { return Ok(fed) };
    let Some(stated) = sequence.get(index as usize).copied() else {
        let what = format!("{}: token {index} of a sequence of {}", pass.label, sequence.len());
        return Err(ImportError::new(what, hint));
    };
    match fed {
        Some(fed) if fed != stated => Err(ImportError::new(
            format!("{}: token {index} is {fed} there and {stated} in the sequence", pass.label),
            hint,
        )),
        _ => Ok(Some(stated)),
    }
}

/// The keys of rows whose names tell their place; numbered as they stand.
fn loose(pass: &Mapped<'_>, sequence: Option<&[u32]>, told: &Told) -> Result<Vec<(u64, Key)>> {
    let mut rows = Vec::new();
    for (row, named) in pass.fixed.iter().enumerate() {
        let Some(fixed) = &named.fixed else { continue };
        let fed = pass.sequence.as_ref().and_then(|sequence| sequence.get(fixed.index as usize)).copied();
        let position = fixed.position.or(told.first_position.map(|first| first + fixed.index));
        let token = token(pass, Some(fixed.index), fed, sequence)?;
        rows.push((row as u64, Key { index: Some(fixed.index), position, token, step: 0 }));
    }
    Ok(rows)
}

/// Loose rows of decode: their steps are the order of their tokens.
fn number_loose_steps(roles: &mut [Role], passes: &[Mapped<'_>]) {
    let loose = |(role, pass): &(&mut Role, &Mapped<'_>)| role.phase == Some(Phase::Decode) && pass.tokens.is_none();
    let mut found: Vec<_> = roles.iter_mut().zip(passes).filter(loose).collect();
    let keys = found.iter().flat_map(|(role, _)| role.rows.iter().filter_map(|(_, key)| key.index));
    let order: Vec<u64> = keys.collect::<BTreeSet<u64>>().into_iter().collect();
    for (_, key) in found.iter_mut().flat_map(|(role, _)| &mut role.rows) {
        let at = key.index.and_then(|index| order.binary_search(&index).ok());
        key.step = at.map_or(0, |at| at as u64 + 1);
    }
}

/// Leaves those rows of prefill that decode has too; all of decode.
fn choose(roles: &mut [Role], notes: &mut Vec<String>) -> Result<()> {
    let of = |roles: &[Role], phase: Phase| -> BTreeSet<Option<u64>> {
        roles
            .iter()
            .filter(|role| role.phase == Some(phase))
            .flat_map(|role| role.rows.iter().map(|(_, key)| key.index))
            .collect()
    };
    let (prefill, decode) = (of(roles, Phase::Prefill), of(roles, Phase::Decode));
    let (prefilled, decoded) = (!prefill.is_empty(), !decode.is_empty());
    let both: BTreeSet<u64> = prefill.intersection(&decode).filter_map(|index| *index).collect();
    let last = roles.iter().rposition(|role| role.phase == Some(Phase::Prefill));
    for (i, role) in roles.iter_mut().enumerate().filter(|(_, role)| role.phase == Some(Phase::Prefill)) {
        let before = role.rows.len();
        match both.is_empty() {
            false => role.rows.retain(|(_, key)| key.index.is_some_and(|index| both.contains(&index))),
            true if Some(i) == last => drop(role.rows.drain(..before.saturating_sub(1))),
            true => role.rows.clear(),
        }
        role.says.push_str(&match role.rows.len() {
            0 => ", none of its rows is decode's, not recorded".to_owned(),
            rows if rows == before => String::new(),
            rows => format!(", {rows} of its rows recorded"),
        });
    }
    notes.extend(note(prefilled, decoded, both.is_empty(), &prefill));
    once(roles)
}

fn note(prefilled: bool, decoded: bool, apart: bool, prefill: &BTreeSet<Option<u64>>) -> Option<String> {
    let note = match (prefilled, decoded) {
        (false, _) => "there is no prefill: no pass of many tokens, and nothing given as prefill",
        (_, false) => "there is no decode: no pass of one token, and nothing given as decode",
        _ if !apart => return None,
        _ if prefill.contains(&None) => {
            "which rows of the two phases are the same token is not told: prefill's last row was recorded, and decode's steps"
        }
        _ => {
            "no token is in both phases: let prefill compute the whole sequence, the tokens of the decode steps included"
        }
    };
    Some(note.to_owned())
}

/// One pass gives a token's rows in one phase.
fn once(roles: &[Role]) -> Result<()> {
    let mut seen: BTreeMap<(Phase, u64), usize> = BTreeMap::new();
    for (number, role) in roles.iter().enumerate() {
        let Some(phase) = role.phase else { continue };
        for index in role.rows.iter().filter_map(|(_, key)| key.index) {
            let first = *seen.entry((phase, index)).or_insert(number);
            if first != number && !role.says.starts_with("loose") {
                let what = format!("passes {} and {} both give token {index} of {phase}", first + 1, number + 1);
                return Err(ImportError::new(what, "choose one of them by --passes"));
            }
        }
    }
    Ok(())
}
