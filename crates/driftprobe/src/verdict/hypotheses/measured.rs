//! Each piece of evidence, with its measurement.

use super::{Evidence, Supports, modes, simulated};
use crate::analysis::Analysis;
use crate::evidence::Bits;
use crate::judge::examine::Examination;
use crate::judge::kv::Projection;
use crate::oracle::Outcome;
use crate::report::format::brief;
use crate::report::recordings::recordings;
use crate::report::suspects::cause_in_words;
use crate::verdict::modes::Says;
use driftprobe_trace::{Phase, Point};

/// All of it, from what is asked first to what decides.
pub(super) fn evidence(analysis: &Analysis) -> Vec<Evidence> {
    let mut all = vec![
        across_prompts(analysis, (Projection::K, "K hashes vary across prompts")),
        across_prompts(analysis, (Projection::V, "V hashes vary across prompts")),
    ];
    all.extend(modes(analysis).into_iter().map(|(name, one)| same_rows(name, one)));
    all.extend(modes(analysis).into_iter().map(|(name, one)| outputs(name, one)));
    all.push(with_prefills_cache(analysis));
    for phase in Phase::ALL {
        all.push(stages(analysis, phase));
    }
    all.extend(simulated::evidence(analysis));
    all.push(causes(analysis));
    all
}

pub(super) fn row(what: &'static str, measured: impl Into<String>, (supports, why): (Supports, &str)) -> Evidence {
    Evidence { what, measured: measured.into(), supports, why: why.to_owned() }
}

pub(super) const NO_MODEL: &str = "no model was given: nothing was held against it";

fn across_prompts(analysis: &Analysis, (projection, what): (Projection, &'static str)) -> Evidence {
    let (compared, shared) = analysis.attention.across_prompts(projection);
    let id = projection.id();
    match (compared, shared) {
        (0, _) => row(
            what,
            format!("no two prompts with unlike tokens have hashes of {id} in one layer"),
            (Supports::NotMeasured, "record it for prompts that end in unlike tokens"),
        ),
        (_, 0) => row(
            what,
            format!("yes: none of {compared} rows has the hash of another prompt's row with an unlike token"),
            (Supports::Neither, "other tokens give other rows in a sound engine and in most faulty ones"),
        ),
        _ => row(
            what,
            format!("no: {shared} of {compared} rows have the hash of another prompt's row with an unlike token"),
            (Supports::Mismatch, "unlike tokens cannot give one row: it is left over, or was never written"),
        ),
    }
}

fn same_rows(mode: &'static str, analysis: &Analysis) -> Evidence {
    let what = match mode {
        "kv_aligned" => "K-V rows equal for the same layer in both phases, kv_aligned",
        "as_designed" => "K-V rows equal for the same layer in both phases, as_designed",
        _ => "K-V rows equal for the same layer in both phases",
    };
    let all = &analysis.attention.indicators;
    let aligned = all.iter().filter(|one| one.aligned() == Some(true)).count();
    let known = all.iter().filter(|one| one.aligned().is_some()).count();
    let sum =
        |of: fn(&crate::judge::kv::Consistency) -> u64| -> u64 { all.iter().map(|one| of(&one.k) + of(&one.v)).sum() };
    let earlier = sum(|one| one.earlier);
    let measured = format!(
        "{aligned} of {} layers; {} of {} rows bit-equal, rows of earlier positions differ in {earlier} of {} caches",
        all.len(),
        sum(|one| one.equal),
        sum(|one| one.held),
        sum(|one| one.caches),
    );
    match (known, aligned == all.len()) {
        (0, _) => row(
            what,
            "K and V caches of both phases were not recorded, or are not comparable",
            (Supports::NotMeasured, "record k_cache and v_cache in both phases"),
        ),
        (_, true) => {
            row(what, measured, (Supports::Structural, "what the cache holds cannot be what parts the phases"))
        }
        _ if earlier == 0 => row(
            what,
            measured,
            (
                Supports::Neither,
                "only rows of the newest position differ: what was computed before them differs already",
            ),
        ),
        _ => row(
            what,
            measured,
            (Supports::Neither, "rounding before them parts the rows too; the stages below say which it is"),
        ),
    }
}

fn outputs(mode: &'static str, analysis: &Analysis) -> Evidence {
    let what = match mode {
        "kv_aligned" => "Attention outputs diverge, kv_aligned",
        "as_designed" => "Attention outputs diverge, as_designed",
        _ => "Attention outputs diverge",
    };
    let pairs: Vec<_> = analysis.pairs.iter().filter(|pair| pair.prefill.point == Point::AttnOut).collect();
    let differing = pairs.iter().filter(|pair| matches!(pair.bits, Bits::Differ { .. })).count();
    let far = |pair: &&&crate::judge::JudgedPair| pair.numbers.as_ref().and_then(|numbers| numbers.rel_l2);
    let widest = pairs.iter().filter(|pair| far(pair).is_some()).max_by(|a, b| {
        let of = |pair| far(pair).unwrap_or(f64::NEG_INFINITY);
        of(a).total_cmp(&of(b))
    });
    let by = widest.map_or_else(
        || "by an amount that is not known".to_owned(),
        |pair| format!("at most by rel L2 {} (layer {})", brief(far(&pair).unwrap_or(f64::NAN)), pair.prefill.layer),
    );
    match (pairs.len(), differing) {
        (0, _) => {
            row(what, "no pair of attn_out was recorded", (Supports::NotMeasured, "record attn_out in both phases"))
        }
        (all, 0) => row(
            what,
            format!("no: {all} of {all} rows equal"),
            (Supports::Structural, "attention gives the same in both phases"),
        ),
        (all, _) => row(
            what,
            format!("{differing} of {all} rows, {by}"),
            (
                Supports::Neither,
                "another order of summation makes them diverge too; the stages below measure whether it is that",
            ),
        ),
    }
}

fn with_prefills_cache(analysis: &Analysis) -> Evidence {
    let what = "Drift gone with prefill's cache under decode";
    if analysis.modes.is_empty() {
        let why = (Supports::NotMeasured, "run both modes (--mode both)");
        return row(what, "the run has one mode only", why);
    }
    let count = |says: Says| analysis.modes.iter().filter(|row| row.says == says).count();
    let differing = analysis.modes.iter().filter(|row| row.as_designed.differing > 0).count();
    let (gone, mostly, stays) = (count(Says::Cache), count(Says::MostlyCache), count(Says::Step));
    let measured =
        format!("of {differing} tensors that drift: gone {gone}, less than half left {mostly}, stays {stays}");
    match differing {
        0 => row(what, "nothing drifts", (Supports::Structural, "there is no drift to explain")),
        _ => row(
            what,
            measured,
            (
                Supports::Neither,
                "it says where drift arises (what the cache holds, or the step itself), not what makes it",
            ),
        ),
    }
}

/// What was judged of one phase in one mode.
struct Tally {
    clean: usize,
    faults: usize,
    open: usize,
    largest: f64,
}

fn tally(examination: &Examination, phase: Phase) -> Tally {
    let mut tally = Tally { clean: 0, faults: 0, open: 0, largest: 0.0 };
    for stage in examination.phases.iter().flat_map(|all| &all.stages).filter(|stage| stage.phase == phase) {
        match &stage.outcome {
            outcome if outcome.is_clean() => tally.clean += 1,
            Outcome::Unjudged(_) => tally.open += 1,
            _ => tally.faults += 1,
        }
        if let Outcome::Clean(statistics) | Outcome::Flagged { statistics, .. } = &stage.outcome {
            let rms = statistics.rms;
            tally.largest = if rms.is_nan() { f64::INFINITY } else { tally.largest.max(rms) };
        }
    }
    tally
}

fn stages(analysis: &Analysis, phase: Phase) -> Evidence {
    let what = match phase {
        Phase::Prefill => "Stages of prefill within rounding",
        Phase::Decode => "Stages of decode within rounding",
    };
    let (mut parts, mut faults, mut clean) = (vec![], 0, 0);
    for (mode, one) in modes(analysis) {
        let Some(examination) = &one.examination else { continue };
        let of = tally(examination, phase);
        (faults, clean) = (faults + of.faults, clean + of.clean);
        let open = if of.open > 0 { format!(", {} could not be judged", of.open) } else { String::new() };
        parts.push(format!(
            "{mode}: {} of {} judged, largest RMS z {}{open}",
            of.clean,
            of.clean + of.faults,
            brief(of.largest)
        ));
    }
    let measured = parts.join("; ");
    match (parts.is_empty(), faults, clean) {
        (true, ..) => row(what, NO_MODEL, (Supports::NotMeasured, "give the model (--model)")),
        (_, 0, 0) => row(what, measured, (Supports::NotMeasured, "record the stages' inputs and outputs as payloads")),
        (_, 0, _) => {
            let why = "each row is what its own inputs and the model give, as exactly as its arithmetic can";
            row(what, measured, (Supports::Structural, why))
        }
        _ => row(what, measured, (Supports::Mismatch, "rounding cannot make rows that far off")),
    }
}

fn causes(analysis: &Analysis) -> Evidence {
    let what = "A known bug explains what is off";
    if analysis.examination.is_none() {
        return row(what, NO_MODEL, (Supports::NotMeasured, "give the model (--model)"));
    }
    let all = recordings(analysis);
    let causes: Vec<String> = all
        .iter()
        .filter_map(|one| Some((&one.name, one.analysis.examination.as_ref()?)))
        .flat_map(|(name, e)| e.causes.iter().map(move |cause| format!("{name}: {}", cause_in_words(cause))))
        .collect();
    match causes.is_empty() {
        true => row(
            what,
            "nothing is off that a bug would have to explain",
            (Supports::Neither, "it is asked only where a row is off; the power table says which bugs would have been"),
        ),
        false => row(
            what,
            causes.join("; "),
            (Supports::Mismatch, "what is off was replayed with each bug of the catalogue"),
        ),
    }
}
