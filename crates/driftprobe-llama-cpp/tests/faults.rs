//! Real mistakes in llama.cpp's own run are found, placed and named.

mod support;

use candle_core::quantized::GgmlDType;
use driftprobe::verdict::Parting;
use driftprobe::{Analysis, Verdict};
use driftprobe_engine::{Engine, EngineError, KvRows, Session, Tap};
use driftprobe_llama_cpp::{CacheType, LlamaCppEngine, Options};
use driftprobe_model::Model;
use driftprobe_testkit::{Dice, LlamaShape};
use driftprobe_trace::{Contract, EngineInfo, Phase, Point};
use std::ops::Range;
use support::judged::{judge, plan, reasons};
use support::random_model;

/// What is done to decode's cache before its first step.
type Tamper = fn(&mut dyn Session) -> Result<(), EngineError>;

/// An engine whose decode finds a cache that somebody has written to.
struct Tampered<'a>(&'a LlamaCppEngine, Tamper);

struct TamperedSession<'a> {
    session: Box<dyn Session + 'a>,
    tamper: Option<Tamper>,
}

impl Engine for Tampered<'_> {
    fn info(&self) -> EngineInfo {
        self.0.info()
    }
    fn contract(&self) -> Contract {
        self.0.contract()
    }
    fn points(&self, phase: Phase) -> Vec<Point> {
        self.0.points(phase)
    }
    fn layers(&self) -> usize {
        self.0.layers()
    }
    fn vocab(&self) -> usize {
        self.0.vocab()
    }
    fn session(&self) -> Result<Box<dyn Session + '_>, EngineError> {
        Ok(Box::new(TamperedSession { session: self.0.session()?, tamper: Some(self.1) }))
    }
}

impl Session for TamperedSession<'_> {
    fn len(&self) -> usize {
        self.session.len()
    }
    fn prefill(&mut self, tokens: &[u32], logits: Range<usize>, tap: &mut Tap<'_>) -> Result<Vec<f32>, EngineError> {
        self.session.prefill(tokens, logits, tap)
    }
    fn decode(&mut self, token: u32, tap: &mut Tap<'_>) -> Result<Vec<f32>, EngineError> {
        if let Some(tamper) = self.tamper.take() {
            tamper(&mut *self.session)?;
        }
        self.session.decode(token, tap)
    }
    fn kv(&self, layer: usize, rows: Range<usize>) -> Result<KvRows, EngineError> {
        self.session.kv(layer, rows)
    }
    fn set_kv(&mut self, layer: usize, first: usize, rows: &KvRows) -> Result<(), EngineError> {
        self.session.set_kv(layer, first, rows)
    }
}

struct Subject {
    _dir: tempfile::TempDir,
    model: Model,
    tokens: Vec<u32>,
}

impl Subject {
    fn new() -> Subject {
        let dir = tempfile::tempdir().unwrap();
        let model = random_model(&dir, GgmlDType::F16);
        let tokens = Dice(9).tokens(20, LlamaShape::TINY.vocab);
        Subject { _dir: dir, model, tokens }
    }

    fn engine(&self, options: Options) -> LlamaCppEngine {
        let options = Options { context_tokens: Some(64), threads: Some(2), ..options };
        LlamaCppEngine::new(&self.model, options).unwrap()
    }

    fn look(&self, engine: &dyn Engine) -> Analysis {
        let dir = tempfile::tempdir().unwrap();
        judge(engine, &plan(engine, &self.tokens, 2), &self.model, &dir.path().join("run"))
    }
}

/// Where the first failure is said to be, and the names of what explains it.
fn expect(analysis: &Analysis, what: &str, at: (Point, i32, Option<Phase>), id: &str) {
    assert_eq!(analysis.verdict.verdict, Verdict::Fail, "{what}: {:?}", reasons(analysis));
    let first = analysis.verdict.first_failure.as_ref().unwrap();
    assert_eq!(first.parting, Parting::Fault, "{what}: {first:?}");
    assert_eq!((first.point, first.layer, first.phase), at, "{what}: {first:?}");
    let causes = analysis.examination.iter().flat_map(|e| &e.causes);
    let named: Vec<&str> = causes.flat_map(|cause| &cause.candidates).map(|candidate| candidate.id).collect();
    assert!(named.contains(&id), "{what}: {named:?}");
}

#[test]
fn the_same_run_without_a_mistake_passes() {
    let subject = Subject::new();
    for flash_attention in [false, true] {
        let analysis = subject.look(&subject.engine(Options { flash_attention, ..Options::default() }));
        assert_eq!(analysis.verdict.verdict, Verdict::Pass, "{:?}", reasons(&analysis));
    }
}

#[test]
fn cache_rows_that_are_overwritten_are_found_in_decode() {
    let subject = Subject::new();
    let duplicated: Tamper = |session| {
        let row = session.kv(1, 3..4)?;
        session.set_kv(1, 5, &row)
    };
    let swapped: Tamper = |session| {
        let (a, b) = (session.kv(1, 2..3)?, session.kv(1, 6..7)?);
        session.set_kv(1, 2, &b)?;
        session.set_kv(1, 6, &a)
    };
    let not_written: Tamper = |session| {
        let row = session.kv(1, 4..5)?;
        session.set_kv(1, 4, &KvRows { k: vec![0; row.k.len()], v: vec![0; row.v.len()], ..row })
    };
    let naive = |kv_cache| Options { kv_cache, ..Options::default() };
    let flash = |kv_cache| Options { flash_attention: true, ..naive(kv_cache) };
    let cases = [
        ("duplicated", duplicated, "KV_DUPLICATED_SLOT", naive(CacheType::F16)),
        ("swapped", swapped, "KV_SWAPPED_SLOTS", naive(CacheType::F32)),
        ("not written", not_written, "KV_NOT_WRITTEN", flash(CacheType::F16)),
        ("duplicated, fused", duplicated, "KV_DUPLICATED_SLOT", flash(CacheType::F32)),
    ];
    for (what, tamper, id, options) in cases {
        let engine = subject.engine(options);
        let analysis = subject.look(&Tampered(&engine, tamper));
        expect(&analysis, what, (Point::KCache, 1, Some(Phase::Decode)), id);
    }
}

#[test]
fn shifted_positions_are_found_where_decode_turns_its_queries() {
    let subject = Subject::new();
    for flash_attention in [false, true] {
        let engine = subject.engine(Options { decode_shift: 1, flash_attention, ..Options::default() });
        let at = (Point::QPostRope, 0, Some(Phase::Decode));
        expect(&subject.look(&engine), "shifted", at, "ROPE_POSITION_OFFSET");
    }
}

#[test]
fn a_wrong_rope_base_and_a_wrong_eps_are_found_in_both_phases() {
    let subject = Subject::new();
    let engine = subject.engine(Options { rope_base: Some(10_500.0), ..Options::default() });
    expect(&subject.look(&engine), "rope base", (Point::QPostRope, 0, None), "ROPE_THETA");
    let eps = ("llama.attention.layer_norm_rms_epsilon".to_owned(), 1e-2);
    let engine = subject.engine(Options { overrides: vec![eps], ..Options::default() });
    expect(&subject.look(&engine), "eps", (Point::AttnNormOut, 0, None), "NORM_EPS");
}
