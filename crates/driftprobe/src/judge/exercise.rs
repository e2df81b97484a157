//! Did the two phases do what their events stand for, and do the rows compared test anything?
//!
//! Equal rows mean something only if prefill ran a batch and decode one token against the cache of earlier ones, if what is
//! compared was computed and not copied, and if the hashes are hashes of the rows. What an event says of its forward pass
//! and what the hashes are to each other is held against that here, over the whole run.

use crate::judge::JudgedPair;
use crate::pair::place::describe;
use crate::verdict::reason::{ReasonCode, Reasons};
use driftprobe_trace::{Event, GRETA_OFFSET_BASIS, HashAlgo, Manifest, Mode, Phase, Point, RowHash};
use std::collections::{BTreeMap, BTreeSet};

/// The engine whose two phases share their integer kernels.
const EMBEDDED: &str = "driftprobe-embedded";

/// Adds why the run's equal rows show less than they seem to.
pub fn reasons(manifest: Option<&Manifest>, pairs: &[JudgedPair], reasons: &mut Reasons) {
    passes(manifest, pairs, reasons);
    tested(pairs, reasons);
    hashes(pairs, reasons);
    manifest.into_iter().for_each(|manifest| slot_tables(manifest, reasons));
    manifest.into_iter().for_each(|manifest| alignment(manifest, pairs, reasons));
    let contract = manifest.and_then(|manifest| manifest.contract.as_ref());
    let engine = manifest.and_then(|manifest| manifest.engine.as_ref()?.name.as_deref());
    let quantised = contract.is_some_and(|contract| {
        let special = contract.by_phase.values().chain(contract.by_point.values());
        std::iter::once(&contract.flat).chain(special).any(|fields| fields.activation_quant.is_some())
    });
    if quantised && engine == Some(EMBEDDED) {
        reasons.add(ReasonCode::SharedKernels, "");
    }
}

/// With prefill's cache under decode, rows of earlier positions are prefill's: only a row's own may differ.
fn alignment(manifest: &Manifest, pairs: &[JudgedPair], reasons: &mut Reasons) {
    if manifest.mode != Some(Mode::KvAligned) {
        return;
    }
    for pair in pairs {
        let Some(cache) = pair.cache else { continue };
        if cache.first_differing.is_some_and(|first| first + 1 < cache.positions) {
            reasons.add(ReasonCode::NotAligned, describe(&pair.prefill));
        }
    }
}

/// Slot tables, where the manifest has them (by prompt and phase, a slot for each position): no two positions share a slot,
/// and each table is as long as its prompt.
fn slot_tables(manifest: &Manifest, reasons: &mut Reasons) {
    let tables = manifest.slots.as_ref().and_then(|slots| slots.as_object());
    for (prompt, phases) in tables.into_iter().flatten() {
        let tokens = manifest.prompts.iter().flatten().find(|one| one.id == *prompt).map(|one| one.tokens.len());
        for (phase, table) in phases.as_object().into_iter().flatten() {
            let Some(table) = table.as_array() else {
                reasons.add(ReasonCode::SlotTable, format!("{prompt}, {phase}: no list of slots"));
                continue;
            };
            let mut first: BTreeMap<Option<u64>, usize> = BTreeMap::new();
            for (position, slot) in table.iter().map(serde_json::Value::as_u64).enumerate() {
                match (slot, first.get(&slot)) {
                    (None, _) => {
                        reasons.add(ReasonCode::SlotTable, format!("{prompt}, {phase}: position {position} has none"))
                    }
                    (Some(slot), Some(other)) => {
                        let example = format!("{prompt}, {phase}: positions {other} and {position} have slot {slot}");
                        reasons.add(ReasonCode::SlotTable, example);
                    }
                    _ => drop(first.insert(slot, position)),
                }
            }
            if tokens.is_some_and(|tokens| tokens != table.len()) {
                let example = format!("{prompt}, {phase}: {} slots for {} tokens", table.len(), tokens.unwrap_or(0));
                reasons.add(ReasonCode::SlotTable, example);
            }
        }
    }
}

/// The larger of the indices that an event names: past 0 by either, the token has others before it.
fn largest_index(event: &Event) -> Option<u64> {
    event.logical_tok_idx.max(event.pos_id)
}

/// Index of the token among the keys, from whichever event names it.
fn own_index(pair: &JudgedPair) -> Option<u64> {
    pair.prefill.token_index().or_else(|| pair.decode.token_index())
}

/// What the events say of their forward passes and caches.
fn passes(manifest: Option<&Manifest>, pairs: &[JudgedPair], reasons: &mut Reasons) {
    let prompts = manifest.and_then(|manifest| manifest.prompts.as_ref());
    let tokens: BTreeMap<&str, u64> =
        prompts.into_iter().flatten().map(|prompt| (prompt.id.as_str(), prompt.tokens.len() as u64)).collect();
    let mut one_token = vec![];
    let mut batches = 0u64;
    for pair in pairs {
        let place = describe(&pair.prefill);
        let index = largest_index(&pair.prefill).max(largest_index(&pair.decode));
        if pair.decode.seq_len.is_none() || (index.is_none_or(|index| index > 0) && pair.prefill.seq_len.is_none()) {
            reasons.add(ReasonCode::SeqLenUnknown, place.clone());
        }
        if let (Some(seq_len), Some(&tokens)) = (pair.prefill.seq_len, tokens.get(&*pair.prefill.prompt_id))
            && seq_len > tokens
        {
            let detail = format!("{place}: prefill has seq_len {seq_len}, the prompt {tokens} tokens");
            reasons.add(ReasonCode::SeqLenWrong, detail);
        }
        if let Some(detail) = cache_in_doubt(manifest, pair) {
            reasons.add(ReasonCode::CacheInDoubt, format!("{place}: {detail}"));
        }
        match pair.prefill.seq_len {
            Some(0 | 1) if index.is_some_and(|index| index > 0) => one_token.push(place),
            Some(2..) => batches += 1,
            _ => {}
        }
    }
    let code = if batches == 0 { ReasonCode::PrefillOneToken } else { ReasonCode::SomePrefillOneToken };
    for place in one_token {
        reasons.add(code, place);
    }
}

/// Why the two events do not read the cache that their position has, if so.
fn cache_in_doubt(manifest: Option<&Manifest>, pair: &JudgedPair) -> Option<String> {
    let (prefill, decode) = (&pair.prefill, &pair.decode);
    if let (Some(ours), Some(theirs)) = (prefill.stored_dtype, decode.stored_dtype)
        && ours != theirs
    {
        return Some(format!("the cache holds {ours} in prefill and {theirs} in decode"));
    }
    if let (Some(ours), Some(theirs)) = (prefill.kv_len, decode.kv_len)
        && ours != theirs
    {
        return Some(format!("kv_len is {ours} in prefill and {theirs} in decode"));
    }
    let all = own_index(pair)?.checked_add(1)?;
    let least = window(manifest, prefill.layer).map_or(all, |window| window.min(all));
    [(Phase::Prefill, prefill.kv_len), (Phase::Decode, decode.kv_len)].into_iter().find_map(|(phase, kv_len)| {
        let kv_len = kv_len.filter(|kv_len| !(least..=all).contains(kv_len))?;
        Some(format!("{phase} has kv_len {kv_len}, its position attends over {all} keys"))
    })
}

/// The sliding window that the manifest names for a layer (any layer's, the smallest, for a point that has none).
fn window(manifest: Option<&Manifest>, layer: i32) -> Option<u64> {
    let windows = manifest?.config.as_ref()?.get("sliding_windows")?.as_array()?;
    match usize::try_from(layer) {
        Ok(layer) => windows.get(layer)?.as_u64(),
        Err(_) => windows.iter().filter_map(serde_json::Value::as_u64).min(),
    }
}

/// Whether the row is a copy of a row of the embedding table.
fn copied(pair: &JudgedPair) -> bool {
    match pair.prefill.point {
        Point::EmbedOut => true,
        Point::ResidualPreAttn => pair.prefill.layer == 0,
        _ => false,
    }
}

/// Whether decode's row depends on rows that the cache holds of earlier positions.
fn reads_cache(pair: &JudgedPair) -> bool {
    let point = pair.prefill.point;
    let reads = match point {
        Point::EmbedOut => false,
        _ if !point.layered() => true,
        _ => pair.prefill.layer > 0 || point >= Point::KCache,
    };
    reads && own_index(pair).is_none_or(|index| index > 0)
}

/// Whether the rows compared can show anything of the two phases.
pub(crate) fn tested(pairs: &[JudgedPair], reasons: &mut Reasons) {
    if pairs.is_empty() {
        return;
    }
    if pairs.iter().all(copied) {
        reasons.add(ReasonCode::OnlyCopies, "");
    }
    let mut order: Vec<&str> = vec![];
    let mut read: BTreeSet<&str> = BTreeSet::new();
    for pair in pairs {
        let prompt = &*pair.prefill.prompt_id;
        if order.last() != Some(&prompt) {
            order.push(prompt);
        }
        if reads_cache(pair) {
            read.insert(prompt);
        }
    }
    if read.is_empty() {
        reasons.add(ReasonCode::NoCacheRead, "");
        return;
    }
    for prompt in order.into_iter().filter(|prompt| !read.contains(prompt)) {
        reasons.add(ReasonCode::SomeNoCacheRead, prompt);
    }
}

/// Rows that are plain copies of one another, or may be: they may have one hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Origin {
    /// The residual stream before a layer.
    Residual(i32),
    /// Q, or K, or V of a layer: a norm or a rotation may leave them as they are, a cache of one row is its row.
    Projection(i32, Point),
    /// Any other row.
    Row(i32, Point),
}

impl Origin {
    /// `layers`: one more than the last layer that was recorded.
    fn of(event: &Event, layers: i32) -> Origin {
        let layer = event.layer;
        match event.point {
            Point::EmbedOut => Origin::Residual(0),
            Point::ResidualPreAttn => Origin::Residual(layer),
            Point::ResidualPostMlp => Origin::Residual(layer.saturating_add(1)),
            Point::FinalNormIn => Origin::Residual(layers),
            Point::QProjOut | Point::QPreRope | Point::QPostRope => Origin::Projection(layer, Point::QPreRope),
            Point::KProjOut | Point::KPreRope | Point::KPostRope | Point::KCache => {
                Origin::Projection(layer, Point::KPreRope)
            }
            Point::VProj | Point::VCache | Point::AttnOut => Origin::Projection(layer, Point::VProj),
            Point::AttnPostNormOut => Origin::Row(layer, Point::AttnProjOut),
            Point::MlpPostNormOut => Origin::Row(layer, Point::MlpOut),
            point => Origin::Row(layer, point),
        }
    }
}

/// Hashes that are none: of no value, or the same for rows that were computed differently.
fn hashes(pairs: &[JudgedPair], reasons: &mut Reasons) {
    let layers = pairs.iter().map(|pair| pair.prefill.layer.saturating_add(1)).max().unwrap_or(0);
    let mut places: BTreeMap<(&str, u64, u64), BTreeMap<Origin, String>> = BTreeMap::new();
    let mut tokens: BTreeMap<(&str, i32, Point, u64), BTreeMap<u32, String>> = BTreeMap::new();
    for pair in pairs {
        let Some(hash) = pair.prefill.hash.or(pair.decode.hash) else { continue };
        let (event, place) = (&pair.prefill, describe(&pair.prefill));
        if let Some(what) = [pair.prefill.hash, pair.decode.hash].into_iter().flatten().find_map(empty) {
            reasons.add(ReasonCode::VacuousHash, format!("{place}: {what}"));
            continue;
        }
        // Equal values in many places are told by their own reason; one key has probability 1 in every layer.
        if pair.vacuous.is_some() || event.point == Point::AttnProbs {
            continue;
        }
        // A hash that was held against its row is that row's.
        if pair.prefill.payload.is_some() && pair.decode.payload.is_some() {
            continue;
        }
        let prompt = &*event.prompt_id;
        let position = own_index(pair).unwrap_or(0);
        let origins = places.entry((prompt, position, hash.value)).or_default();
        origins.entry(Origin::of(event, layers)).or_insert_with(|| place.clone());
        if let Some(token) = pair.token_id().filter(|_| event.layer > 0 || event.point >= Point::AttnOut) {
            tokens.entry((prompt, event.layer, event.point, hash.value)).or_default().entry(token).or_insert(place);
        }
    }
    // Behind an attention sink rows may well be one value's: there only rows that are all alike are in doubt.
    let mut alike: BTreeMap<(i32, Point), (BTreeSet<u64>, BTreeSet<u32>)> = BTreeMap::new();
    for ((_, layer, point, hash), found) in &tokens {
        let (hashes, fed) = alike.entry((*layer, *point)).or_default();
        hashes.insert(*hash);
        fed.extend(found.keys());
    }
    let in_doubt = |(_, layer, point, _): &(&str, i32, Point, u64)| {
        let is_attention = matches!(point, Point::AttnOut | Point::AttnProjOut | Point::AttnPostNormOut);
        !is_attention || alike.get(&(*layer, *point)).is_some_and(|(hashes, fed)| hashes.len() == 1 && fed.len() > 2)
    };
    let same = places.values().map(|found| found.values().collect::<Vec<_>>());
    let of_tokens = tokens.iter().filter(|(key, _)| in_doubt(key)).map(|(_, found)| found.values().collect());
    for found in same.chain(of_tokens) {
        if let [first, second, ..] = found.as_slice() {
            reasons.add(ReasonCode::VacuousHash, format!("{first} and {second} have one hash"));
        }
    }
}

/// Why a hash is that of no row, if so.
fn empty(hash: RowHash) -> Option<String> {
    let basis = hash.algo == HashAlgo::GretaFnv1a256 && hash.value == GRETA_OFFSET_BASIS;
    (hash.value == 0 || basis).then(|| format!("the hash {} is what hashing starts from", hash.value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use driftprobe_engine::{EmbeddedEngine, Engine, Settings};
    use driftprobe_model::Model;

    #[test]
    fn the_embedded_engine_is_known_by_the_name_that_it_gives_itself() {
        let model = Model::demo().unwrap();
        let engine = EmbeddedEngine::new(&model, Settings::default()).unwrap();
        assert_eq!(engine.info().name.as_deref(), Some(EMBEDDED));
    }
}
