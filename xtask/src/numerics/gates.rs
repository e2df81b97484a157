//! What other tools' gates say of the same pairs of rows.

use driftprobe::Analysis;
use driftprobe_trace::{Dtype, Event, Point, Rows, Run};
use std::fmt::Write as _;

/// The gates: how they are written in tables.
pub const GATES: [&str; 7] = [
    "hash equality",
    "`torch.testing.assert_close`, defaults by dtype",
    "cosine ≥ 0.999",
    "rel. L2 ≤ 1e-3",
    "top-1 of the logits",
    "SGLang: 1 − 2Σxy/Σ(x²+y²) ≤ 1e-3",
    "msprobe: cosine > 0.99 and max abs < 1e-3",
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
        let point = pair.prefill.point;
        Some(Pair { point, layer: pair.prefill.layer, fails: fails(point, dtype, (&x, &y)) })
    };
    analysis.pairs.iter().filter_map(one).collect()
}

/// rtol and atol of `torch.testing.assert_close`.
fn tolerances(dtype: Dtype) -> (f64, f64) {
    match dtype {
        Dtype::F64 => (1e-7, 1e-7),
        Dtype::F32 => (1.3e-6, 1e-5),
        Dtype::F16 => (1e-3, 1e-5),
        Dtype::Bf16 => (1.6e-2, 1e-5),
    }
}

fn fails(point: Point, dtype: Dtype, (x, y): (&[f64], &[f64])) -> [bool; GATES.len()] {
    let (rtol, atol) = tolerances(dtype);
    let (mut xx, mut yy, mut xy, mut dd, mut max, mut bits, mut close) = (0.0, 0.0, 0.0, 0.0, 0.0f64, false, true);
    let mut odd = x.len() != y.len();
    for (x, y) in x.iter().zip(y) {
        bits |= x.to_bits() != y.to_bits();
        if x == y && !x.is_finite() {
            continue;
        }
        let d = (x - y).abs();
        odd |= !d.is_finite();
        close &= d <= atol + rtol * y.abs();
        (xx, yy, xy, dd, max) = (xx + x * x, yy + y * y, xy + x * y, dd + d * d, max.max(d));
    }
    let cosine = if xx * yy > 0.0 { xy / (xx.sqrt() * yy.sqrt()) } else { f64::from(u8::from(xx == yy)) };
    let relative = if xx > 0.0 { (dd / xx).sqrt() } else { dd };
    let sglang = if xx + yy > 0.0 { 1.0 - 2.0 * xy / (xx + yy) } else { 0.0 };
    let top = |row: &[f64]| row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map(|(at, _)| at);
    let top1 = point == Point::Logits && top(x) != top(y);
    // What is not finite on one side alone fails every gate that looks at values.
    let near = |held: bool| !held || odd;
    let msprobe = cosine > 0.99 && max < 1e-3;
    [bits, near(close), near(cosine >= 0.999), near(relative <= 1e-3), top1, near(sglang <= 1e-3), near(msprobe)]
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
    for (gate, name) in GATES.iter().enumerate() {
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
