//! What other tools' gates say of the same pairs of rows.

use driftprobe::Analysis;
use driftprobe::gate::Preset;
use driftprobe::gate::measure::Rows as RowPair;
use driftprobe_trace::{Event, Point, Rows, Run};
use std::fmt::Write as _;

/// The gates: how they are written in tables, and which presets they are.
pub const GATES: [(&str, &str); 7] = [
    ("hash equality", "batch-invariant"),
    ("`torch.testing.assert_close`, defaults by dtype", "torch-assert-close"),
    ("cosine ≥ 0.999", "cosine"),
    ("rel. L2 ≤ 1e-3", "rel-l2"),
    ("top-1 of the logits", "top-1"),
    ("SGLang: 1 − 2Σxy/Σ(x²+y²) ≤ 1e-3", "sglang"),
    ("msprobe: cosine > 0.99 and max abs < 1e-3", "msprobe"),
];

/// A pair: where it stands, and which gates it fails.
pub struct Pair {
    pub point: Point,
    pub layer: i32,
    pub fails: [bool; GATES.len()],
}

/// All pairs in the order of the search.
pub fn pairs(analysis: &Analysis, rows: &Run) -> Vec<Pair> {
    let row = |event: &Event| rows.row(event).ok().flatten().map(|row| (row.dtype, row.to_f64()));
    let one = |pair: &driftprobe::judge::JudgedPair| {
        let ((dtype, x), (_, y)) = (row(&pair.prefill)?, row(&pair.decode)?);
        let (point, rows) = (pair.prefill.point, RowPair::new(dtype, &x, &y));
        // A gate that takes no such rows does not fail on them.
        let fails = GATES.map(|(_, id)| Preset::by_id(id).and_then(|preset| preset.fails(point, &rows)) == Some(true));
        Some(Pair { point, layer: pair.prefill.layer, fails })
    };
    analysis.pairs.iter().filter_map(one).collect()
}

/// Counts by gate.
#[derive(Clone, Default)]
pub struct Gates {
    pub clean_runs: u64,
    pub clean_alarmed: [u64; GATES.len()],
    pub pairs: u64,
    pub pairs_failed: [u64; GATES.len()],
    pub faults: u64,
    pub detected: [u64; GATES.len()],
    pub localised: [u64; GATES.len()],
    /// The same without the alarms that the clean run of the same tokens raises too.
    pub news: [u64; GATES.len()],
}

impl Gates {
    pub fn merge(&mut self, other: Gates) {
        self.clean_runs += other.clean_runs;
        self.pairs += other.pairs;
        self.faults += other.faults;
        let arrays = [
            (&mut self.clean_alarmed, other.clean_alarmed),
            (&mut self.pairs_failed, other.pairs_failed),
            (&mut self.detected, other.detected),
            (&mut self.localised, other.localised),
            (&mut self.news, other.news),
        ];
        for (mine, theirs) in arrays {
            mine.iter_mut().zip(theirs).for_each(|(mine, theirs)| *mine += theirs);
        }
    }

    pub fn clean(&mut self, pairs: &[Pair]) {
        self.clean_runs += 1;
        self.pairs += pairs.len() as u64;
        for gate in 0..GATES.len() {
            let failed = pairs.iter().filter(|pair| pair.fails[gate]).count() as u64;
            self.pairs_failed[gate] += failed;
            self.clean_alarmed[gate] += u64::from(failed > 0);
        }
    }

    /// A faulty run; `clean` says which gates the clean run of the same tokens fails.
    pub fn faulty(&mut self, pairs: &[Pair], clean: &[bool; GATES.len()], is_place: impl Fn(Point, i32) -> bool) {
        self.faults += 1;
        for (gate, is_old) in clean.iter().enumerate() {
            if let Some(first) = pairs.iter().find(|pair| pair.fails[gate]) {
                self.detected[gate] += 1;
                self.localised[gate] += u64::from(is_place(first.point, first.layer));
                self.news[gate] += u64::from(!is_old);
            }
        }
    }
}

/// Which gates fail somewhere.
pub fn alarmed(pairs: &[Pair]) -> [bool; GATES.len()] {
    std::array::from_fn(|gate| pairs.iter().any(|pair| pair.fails[gate]))
}

/// Our own line of the table: clean runs alarmed, faults detected and localised.
pub struct Own {
    pub alarmed: u64,
    pub detected: u64,
    pub localised: u64,
}

pub fn text(gates: &Gates, own: &Own) -> String {
    let share = |part: u64, all: u64| format!("{:.1} %", 100.0 * part as f64 / all.max(1) as f64);
    let mut text = String::from(
        "| gate | clean runs alarmed | clean pairs alarmed | faults alarmed | … where the clean run is silent | first alarm at the fault's own point and layer |\n|---|---|---|---|---|---|\n",
    );
    for (gate, (name, _)) in GATES.iter().enumerate() {
        let _ = writeln!(
            text,
            "| {name} | {} | {} | {} | {} | {} |",
            share(gates.clean_alarmed[gate], gates.clean_runs),
            share(gates.pairs_failed[gate], gates.pairs),
            share(gates.detected[gate], gates.faults),
            share(gates.news[gate], gates.faults),
            share(gates.localised[gate], gates.faults),
        );
    }
    let _ = writeln!(
        text,
        "| **driftprobe** | {} | | {} | {} | {} (and phase) |",
        share(own.alarmed, gates.clean_runs),
        share(own.detected, gates.faults),
        share(own.detected, gates.faults),
        share(own.localised, gates.faults)
    );
    let _ = writeln!(text, "\n{} clean runs with {} pairs; {} faults.", gates.clean_runs, gates.pairs, gates.faults);
    text
}
