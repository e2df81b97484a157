//! The table of the smallest faults seen: sizes go down a ladder until nothing is seen any more.
//!
//! Faults of all rows are made by an engine with another config. Faults of one row are put into a recorded row: the stage
//! in float64, altered, and rounded to the storage format.

use super::case::{Shape, judged, recorded};
use super::models::WIDE;
use super::rows::{Altered, attention_head, linear_row};
use super::{Bench, work};
use anyhow::{Context, Result};
use driftprobe::Verdict;
use driftprobe::oracle::{Float, Replay};
use driftprobe_engine::{EmbeddedEngine, Settings, Storage};
use driftprobe_model::{Config, Model};
use driftprobe_trace::{ContractFields, Event, Phase, Point, Row, Rows, Run};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// What is altered, and the sizes that a first prototype saw (f32, f16, bf16), which are to be reached.
const FAULTS: [(&str, [f64; 3]); 8] = [
    ("attention temperature, all rows, scores recorded", [3e-6, 6e-6, 1e-5]),
    ("the same, only attention's output recorded", [3e-6, 6e-6, 1e-5]),
    ("attention temperature, 1 row and 1 head, by its output", [1e-4, 2e-4, 3e-4]),
    ("stale V slot: its attention weight, by the output", [3e-5, 1e-4, 3e-4]),
    (GAIN, [1e-6, 2e-5, 6e-5]),
    ("rope theta, all rows", [1e-6, 3e-6, 3e-6]),
    ("norm gain (by eps), all rows", [1e-6, 6e-6, 3e-5]),
    (ELEMENT, [6e-6, 6e-4, 3e-3]),
];

const STORAGES: [Storage; 3] = [Storage::F32, Storage::F16, Storage::Bf16];

/// 1, 2, 3, 6 times the powers of ten, the smallest first.
fn ladder() -> Vec<f64> {
    (-8..0).flat_map(|power: i32| [1.0, 2.0, 3.0, 6.0].map(|m| m * 10f64.powi(power))).collect()
}

/// The smallest size that is seen, larger ones being seen too; infinite: none. By halving the ladder.
fn smallest(mut seen: impl FnMut(f64) -> Result<bool>) -> Result<f64> {
    let sizes = ladder();
    let (mut low, mut high) = (0, sizes.len());
    while low < high {
        let middle = (low + high) / 2;
        if seen(sizes[middle])? { high = middle } else { low = middle + 1 }
    }
    Ok(sizes.get(high).copied().unwrap_or(f64::INFINITY))
}

/// A model in one storage, and its clean run.
struct Scene<'a> {
    bench: &'a Bench,
    model: &'a Model,
    settings: Settings,
    run: &'a Run,
}

const SHAPE: ([usize; 1], usize) = ([200], 16);

fn shape() -> Shape {
    Shape { lengths: SHAPE.0.to_vec(), steps: SHAPE.1, seed: 7 }
}

/// The models whose rows are looked at: short ones, and such as real models have.
const MODELS: [&str; 2] = ["demo", WIDE];

pub fn text(bench: &Bench) -> Result<String> {
    let each: Vec<(&str, Storage)> = MODELS.iter().flat_map(|m| STORAGES.map(|storage| (*m, storage))).collect();
    let columns: Vec<([f64; 8], Bounds)> =
        work::each("columns of sizes", &each, |(model, storage)| column(bench, model, *storage))?;
    let mut text = String::from("| fault |");
    for (model, storage) in &each {
        write!(text, " {model}, {} |", storage.dtype().id())?;
    }
    writeln!(text, " prototype |\n|---|{}---|", "---|".repeat(each.len()))?;
    for (row, (name, prototype)) in FAULTS.iter().enumerate() {
        let cell = |(column, bounds): &([f64; 8], Bounds), aim: f64| {
            let size = column[row];
            // Sizes stand on a ladder whose steps are up to a factor of 2.
            let mark = match bounds.get(name) {
                Some(bound) if size > aim * 1.01 && size < bound * 2.0 => format!(" (bound {bound:.0e})"),
                _ if size > aim * 1.01 => " (worse)".to_owned(),
                _ => String::new(),
            };
            if size.is_finite() { format!("{size:.0e}{mark}") } else { "not seen".to_owned() }
        };
        let cells: Vec<String> =
            columns.iter().zip(prototype.iter().cycle()).map(|(column, aim)| cell(column, *aim)).collect();
        let aims: Vec<String> = prototype.iter().map(|aim| format!("{aim:.0e}")).collect();
        writeln!(text, "| {name} | {} | {} |", cells.join(" | "), aims.join(", "))?;
    }
    writeln!(
        text,
        "\nRelative sizes, on a ladder of 1, 2, 3, 6 times powers of ten; a prompt of {} tokens, {} steps, all layers. Worse: than the prototype's. Of one row: the size at which half of the rows are found; bound: at which half of them are stored otherwise at all, so that no test can find half of smaller ones. Prototype: what a first study in numpy saw, on other models.",
        SHAPE.0[0], SHAPE.1
    )?;
    Ok(text)
}

/// Of changes of one row, the size at which half of the rows are stored otherwise at all: below it no test can find half.
type Bounds = BTreeMap<&'static str, f64>;

const GAIN: &str = "o-projection's gain, 1 row";
const ELEMENT: &str = "one element of the o-projection";

fn column(bench: &Bench, model: &str, storage: Storage) -> Result<([f64; 8], Bounds)> {
    let model = bench.model(model);
    let settings = Settings { storage, kv_cache: storage, ..Settings::default() };
    let clean = recorded(&EmbeddedEngine::new(model, settings.clone())?, &shape(), bench.scratch())?;
    let scene = Scene { bench, model, settings, run: &clean.run };
    let scores = [Point::AttnScores, Point::AttnProbs];
    let bounds = [
        (GAIN, scene.bound(Point::AttnProjOut, |event, size| scene.gain(event, size))?),
        (ELEMENT, scene.bound(Point::AttnProjOut, |event, size| scene.element(event, size))?),
    ];
    let sizes = [
        smallest(|size| scene.engine(&[], |c| c.attention_scale *= 1.0 + size))?,
        smallest(|size| scene.engine(&scores, |c| c.attention_scale *= 1.0 + size))?,
        smallest(|size| scene.half(Point::AttnOut, |event| scene.temperature(event, size)))?,
        scene.stale()?,
        smallest(|size| scene.half(Point::AttnProjOut, |event| scene.gain(event, size)))?,
        smallest(|size| scene.engine(&[], |c| c.rope.theta *= 1.0 + size))?,
        scene.eps()?,
        smallest(|size| scene.half(Point::AttnProjOut, |event| scene.element(event, size)))?,
    ];
    Ok((sizes, bounds.into()))
}

impl Scene<'_> {
    /// Whether a run of an engine with another config is found out, these points not being recorded.
    fn engine(&self, hidden: &[Point], change: impl Fn(&mut Config)) -> Result<bool> {
        let mut config = self.model.config.clone();
        change(&mut config);
        let faulty = self.model.with_config(config);
        let engine = EmbeddedEngine::new(&faulty, self.settings.clone())?;
        let recorded = recorded(&engine, &shape(), self.bench.scratch())?;
        let mut run = recorded.run.clone();
        run.events.retain(|event| !hidden.contains(&event.point));
        // The config in the manifest is the faulty engine's own.
        Ok(judged(self.model, &run, &run, 0.0).verdict.verdict == Verdict::Fail)
    }

    /// The gain of the norms at which a wrong eps is found: half the change of eps over the mean square, the median of
    /// all rows.
    fn eps(&self) -> Result<f64> {
        let mut squares = Vec::new();
        for event in self.run.events.iter().filter(|e| e.point == Point::ResidualPostAttn) {
            let row = self.row(event)?;
            squares.push(row.values().map(|x| x * x).sum::<f64>() / row.len().max(1) as f64);
        }
        squares.sort_by(f64::total_cmp);
        let median = squares.get(squares.len() / 2).copied().context("no residual is recorded")?;
        smallest(|gain| self.engine(&[], |c| c.rms_norm_eps += 2.0 * gain * median))
    }

    fn row(&self, event: &Event) -> Result<Row> {
        self.run.row(event)?.with_context(|| format!("{} has no row", event.point))
    }

    fn format(&self) -> Float {
        Float::of(self.settings.storage.dtype())
    }

    /// The row of another point of the same token and layer.
    fn beside(&self, event: &Event, point: Point) -> Result<Vec<f64>> {
        let is_it = |e: &&Event| {
            (e.phase, e.point, e.layer, e.logical_tok_idx) == (event.phase, point, event.layer, event.logical_tok_idx)
        };
        let other = self.run.events.iter().find(is_it).with_context(|| format!("{point} is not recorded"))?;
        Ok(self.row(other)?.to_f64())
    }

    /// Decoded rows of a point.
    fn events(&self, point: Point) -> impl Iterator<Item = &Event> {
        self.run.events.iter().filter(move |e| e.phase == Phase::Decode && e.point == point)
    }

    /// Whether at least half of the point's rows are flagged, each altered so.
    fn half(&self, point: Point, alter: impl Fn(&Event) -> Result<Vec<f64>>) -> Result<bool> {
        let (mut found, mut all) = (0, 0);
        for event in self.events(point) {
            found += usize::from(self.is_flagged(event, alter(event)?)?);
            all += 1;
        }
        Ok(found * 2 >= all)
    }

    /// The size at which half of the point's rows are stored otherwise at all.
    fn bound(&self, point: Point, alter: impl Fn(&Event, f64) -> Result<Vec<f64>>) -> Result<f64> {
        smallest(|size| {
            let (mut changed, mut all) = (0, 0);
            for event in self.events(point) {
                changed += usize::from(alter(event, size)? != alter(event, 0.0)?);
                all += 1;
            }
            Ok(changed * 2 >= all)
        })
    }

    /// Whether the row is flagged if it has these values, the attention's scores not being recorded.
    fn is_flagged(&self, event: &Event, values: Vec<f64>) -> Result<bool> {
        let same = |e: &&Event| {
            (e.phase, e.layer, e.logical_tok_idx) == (event.phase, event.layer, event.logical_tok_idx)
                && !e.point.is_per_key()
        };
        let events: Vec<Event> = self.run.events.iter().filter(same).cloned().collect();
        let altered = Altered { run: self.run, event, values };
        let replay = Replay::new(self.model, self.run.manifest.as_ref());
        let only = replay.only(event.point, event.phase, &ContractFields::default());
        let judged = only.phase(&events, &altered, event.phase)?;
        Ok(judged.stages.iter().any(|stage| stage.outcome.is_fault()))
    }

    /// Attention's output of one head (by turns), the scale being larger.
    fn temperature(&self, event: &Event, size: f64) -> Result<Vec<f64>> {
        self.with_head(event, |q, k, v, config| attention_head(q, (k, v), config.attention_scale * (1.0 + size)).0)
    }

    /// The recorded row, the part of one head being replaced.
    fn with_head(
        &self,
        event: &Event,
        compute: impl Fn(&[f64], &[f64], &[f64], &Config) -> Vec<f64>,
    ) -> Result<Vec<f64>> {
        let config = &self.model.config;
        let (width, pos) = (config.head_dim, event.logical_tok_idx.unwrap_or(0) as usize);
        let head = (pos + event.layer as usize) % config.num_attention_heads;
        let mut values = self.row(event)?.to_f64();
        let [q, k, v] = [Point::QPostRope, Point::KCache, Point::VCache].map(|point| self.beside(event, point));
        let (q, k, v) = (q?, k?, v?);
        let rows = k.len() / (config.num_key_value_heads * width);
        let kv = head / config.group() * rows * width;
        let own =
            compute(&q[head * width..(head + 1) * width], &k[kv..kv + rows * width], &v[kv..kv + rows * width], config);
        for (at, value) in own.iter().enumerate() {
            values[head * width + at] = self.format().round(*value);
        }
        Ok(values)
    }

    /// The smallest attention weight of a slot whose V is the slot's before it: half of the slots with about this weight
    /// are found.
    fn stale(&self) -> Result<f64> {
        let width = self.model.config.head_dim;
        let mut found: Vec<(f64, bool)> = Vec::new();
        for event in self.events(Point::AttnOut) {
            let rows = event.logical_tok_idx.unwrap_or(0) as usize + 1;
            for slot in (1..rows).step_by(7) {
                let mut weight = 0.0;
                let values = {
                    let weight = std::cell::Cell::new(0.0);
                    let compute = |q: &[f64], k: &[f64], v: &[f64], config: &Config| {
                        let mut stale = v.to_vec();
                        stale.copy_within((slot - 1) * width..slot * width, slot * width);
                        let (out, probs) = attention_head(q, (k, &stale), config.attention_scale);
                        weight.set(probs[slot]);
                        out
                    };
                    let values = self.with_head(event, compute)?;
                    (values, weight.get())
                };
                weight += values.1;
                found.push((weight, self.is_flagged(event, values.0)?));
            }
        }
        let lightest = found.iter().map(|(weight, _)| *weight).fold(f64::INFINITY, f64::min);
        smallest(|size| {
            // Of slots lighter than all there are, nothing is claimed.
            if size * 1.5 < lightest {
                return Ok(false);
            }
            let near: Vec<bool> =
                found.iter().filter(|(p, _)| *p > size / 1.5 && *p < size * 1.5).map(|(_, found)| *found).collect();
            // Where no slot has such a weight, nothing is known against it.
            Ok(near.is_empty() || near.iter().filter(|f| **f).count() * 2 >= near.len())
        })
    }

    fn projected(&self, event: &Event) -> Result<Vec<f64>> {
        let x = self.beside(event, Point::AttnOut)?;
        let name = format!("model.layers.{}.self_attn.o_proj.weight", event.layer);
        Ok(linear_row(&self.model.weights.get(&name)?.to_f32(), &x))
    }

    fn gain(&self, event: &Event, size: f64) -> Result<Vec<f64>> {
        Ok(self.projected(event)?.into_iter().map(|y| self.format().round(y * (1.0 + size))).collect())
    }

    /// The element of median size, larger; the others as they are recorded.
    fn element(&self, event: &Event, size: f64) -> Result<Vec<f64>> {
        let y = self.projected(event)?;
        let mut order: Vec<usize> = (0..y.len()).collect();
        order.sort_by(|a, b| y[*a].abs().total_cmp(&y[*b].abs()));
        let at = order[order.len() / 2];
        let mut values = self.row(event)?.to_f64();
        values[at] = self.format().round(y[at] * (1.0 + size));
        Ok(values)
    }
}
