//! Each tool's dump becomes a run that the core judges: sound ones without a fault, a faulty one with the fault in its place.
//!
//! `fixtures/import_dumps.py` makes the dumps; `DRIFTPROBE_IMPORT_DUMPS` names a folder of other ones.

use driftprobe::judge::examine::Oracle;
use driftprobe::verdict::Parting;
use driftprobe::{Analysis, Options, Verdict, analyze_against};
use driftprobe_import::{Format, ImportError, Report, Request, Told, import};
use driftprobe_model::Model;
use driftprobe_trace::{Manifest, ModelInfo, Phase, Point, Run};
use std::fs;
use std::path::{Path, PathBuf};

const TOKENS: [u32; 8] = [1, 37, 90, 12, 55, 101, 7, 64];

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
}

/// The dumps: those that are committed, or ones that were made anew.
fn dumps() -> PathBuf {
    std::env::var_os("DRIFTPROBE_IMPORT_DUMPS").map_or(fixtures().join("import-dumps"), PathBuf::from)
}

fn model() -> Model {
    Model::open(&fixtures().join("transformers-traces/models/llama")).unwrap()
}

fn request(source: Option<&str>, out: &Path) -> Request {
    let manifest = Manifest {
        config: Some(model().config.to_hugging_face()),
        contract: driftprobe::presets::contract("f32"),
        model: Some(ModelInfo::default()),
        ..Manifest::default()
    };
    Request { manifest, ..Request::new(source.map(|name| dumps().join(name)), out.to_owned()) }
}

fn told() -> Told {
    Told { tokens: Some(TOKENS.to_vec()), first_position: Some(0) }
}

struct Imported {
    report: Report,
    run: Run,
    analysis: Analysis,
    _folder: tempfile::TempDir,
}

impl Imported {
    fn has_no_fault(&self) {
        let first = self.analysis.verdict.first_failure.as_ref();
        assert!(first.is_none_or(|first| first.parting != Parting::Fault), "{:?}", self.analysis.verdict);
        assert_ne!(self.analysis.verdict.verdict, Verdict::Fail);
    }

    fn reasons(&self) -> String {
        format!("{:?}", self.analysis.verdict.reasons)
    }

    fn points(&self, phase: Phase) -> Vec<Point> {
        self.run.manifest.as_ref().unwrap().points.as_ref().unwrap().of(phase).to_vec()
    }
}

fn imported(change: impl FnOnce(&mut Request), source: Option<&str>) -> Result<Imported, ImportError> {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let mut request = request(source, &out);
    change(&mut request);
    let report = import(&request, &mut |_| {})?;
    let run = Run::open(&out).unwrap();
    let model = model();
    let analysis = analyze_against((&run, &run), Some(&Oracle::new(&model)), Options::default(), &mut |_| {});
    Ok(Imported { report, run, analysis, _folder: folder })
}

fn refusal(change: impl FnOnce(&mut Request), source: Option<&str>) -> ImportError {
    imported(change, source).err().expect("it was imported")
}

#[test]
fn sglangs_hook_knows_all_and_a_sound_dump_has_no_fault() {
    let found = imported(|_| (), Some("sglang-hook")).unwrap();
    found.has_no_fault();
    assert_eq!(found.report.format, Format::SglangHook.id());
    assert!(found.report.is_complete() && found.run.is_complete(), "{:?}", found.report.unknown);
    let manifest = found.run.manifest.as_ref().unwrap();
    assert_eq!(manifest.prompts.as_ref().unwrap()[0].tokens, TOKENS);
    assert_eq!((manifest.steps, manifest.layers.as_deref()), (Some(2), Some(&[0, 1][..])));
    // The passes in their order: the fill is prefill, but none of its rows is decode's.
    let says: Vec<&str> = found.report.passes.iter().map(|(_, says)| says.as_str()).collect();
    assert!(says[0].contains("not recorded") && says[1].contains("decode step 1"), "{says:?}");
    assert!(says[2].contains("decode step 2") && says[3].contains("8 tokens: prefill"), "{says:?}");
    assert_eq!(found.points(Phase::Prefill), found.points(Phase::Decode));
    for point in [Point::QPreRope, Point::VProj, Point::KPostRope, Point::MlpUp, Point::ResidualPostAttn, Point::Logits]
    {
        assert!(found.points(Phase::Decode).contains(&point), "{point}");
    }
    // What has no point is listed with its reason, in the manifest too.
    let listed = manifest.extra["import"]["unmapped"].to_string();
    assert!(listed.contains("model.layers.1.1") && listed.contains("residual"), "{listed}");
    assert_eq!(found.analysis.verdict.verdict, Verdict::Pass, "{}", found.reasons());
}

#[test]
fn a_fault_in_a_dump_is_found_and_placed() {
    let found = imported(|_| (), Some("sglang-hook-fault")).unwrap();
    let verdict = &found.analysis.verdict;
    assert_eq!(verdict.verdict, Verdict::Fail);
    let first = verdict.first_failure.as_ref().unwrap();
    assert_eq!((first.layer, first.point, first.phase), (0, Point::QPostRope, Some(Phase::Decode)));
    assert_eq!(first.parting, Parting::Fault);
}

#[test]
fn a_folder_of_passes_gives_what_hooks_on_functions_see() {
    let found = imported(|request| request.map = Some("transformers".to_owned()), Some("passes")).unwrap();
    found.has_no_fault();
    for point in [Point::KCache, Point::VCache, Point::AttnScores, Point::AttnProbs, Point::ResidualPostMlp] {
        assert!(found.points(Phase::Prefill).contains(&point), "{point}");
    }
    // The last two rows of prefill have as many columns as decode's.
    let shape = |event: &driftprobe_trace::Event| event.shape.clone().unwrap();
    let cache = found.run.events.iter().filter(|event| event.point == Point::KCache && event.layer == 0);
    let mut shapes: Vec<_> = cache.map(|event| (event.logical_tok_idx.unwrap(), shape(event))).collect();
    shapes.sort();
    let [seven, eight] = [vec![2, 7, 16], vec![2, 8, 16]];
    assert_eq!(shapes, [(6, seven.clone()), (6, seven), (7, eight.clone()), (7, eight)]);
    assert_eq!(found.analysis.verdict.verdict, Verdict::Pass, "{}", found.reasons());
}

#[test]
fn msprobe_and_the_debugger_of_hugging_face_are_read_as_they_are() {
    for source in ["msprobe", "huggingface"] {
        let found = imported(|_| (), Some(source)).unwrap();
        found.has_no_fault();
        assert!(found.report.is_complete(), "{source}: {:?}", found.report);
        for point in [Point::ResidualPreAttn, Point::QPreRope, Point::AttnOut, Point::MlpAct, Point::Logits] {
            assert!(found.points(Phase::Decode).contains(&point), "{source}: {point}");
        }
    }
}

#[test]
fn sglangs_dumper_needs_a_map_for_the_users_own_names() {
    let folder = tempfile::tempdir().unwrap();
    let map = folder.path().join("own.toml");
    let text = r#"
        [[tensor]]
        name = "input_ids"
        role = "tokens"
        [[tensor]]
        name = "positions"
        role = "positions"
        [[tensor]]
        name = "q___layer_id={layer}"
        point = "q_pre_rope"
        [[tensor]]
        name = "attn___layer_id={layer}"
        point = "attn_out"
        [[tensor]]
        name = "logits"
        point = "logits"
    "#;
    fs::write(&map, text).unwrap();
    let own = Some(map.to_string_lossy().into_owned());
    let found = imported(|request| request.map = own, Some("sglang")).unwrap();
    found.has_no_fault();
    assert!(found.report.is_complete(), "{:?}", found.report);
    assert_eq!(found.points(Phase::Prefill), [Point::QPreRope, Point::AttnOut, Point::Logits]);
    let left: Vec<&str> = found.report.unmapped.iter().map(|unmapped| unmapped.name.as_str()).collect();
    assert_eq!(left.iter().filter(|name| **name == "mlp___layer_id=1").count(), 3, "{left:?}");
    // Of the built-in map nothing but tokens, positions and logits fits.
    let found = imported(|_| (), Some("sglang")).unwrap();
    assert_eq!(found.points(Phase::Decode), [Point::Logits]);
}

#[test]
fn what_a_dump_does_not_tell_stays_unknown() {
    for source in ["llama-cpp", "rows", "greta"] {
        let bare = imported(|_| (), Some(source)).unwrap();
        bare.has_no_fault();
        assert!(!bare.report.is_complete() && !bare.run.is_complete(), "{source}");
        assert!(bare.run.events.iter().all(|event| event.is_weakly_keyed()), "{source}");
        assert_ne!(bare.analysis.verdict.verdict, Verdict::Pass, "{source}");
        let told = imported(|request| request.told = told(), Some(source)).unwrap();
        told.has_no_fault();
        assert!(told.report.is_complete() && told.run.is_complete(), "{source}: {:?}", told.report.unknown);
        assert!(told.run.events.iter().all(|event| !event.is_weakly_keyed()), "{source}");
    }
    // Tokens that are not those of the dump are refused.
    let wrong = |request: &mut Request| request.told = Told { tokens: Some(vec![1; 8]), first_position: Some(0) };
    assert!(refusal(wrong, Some("llama-cpp")).to_string().contains("token 7 is 64 there and 1"));
    assert!(refusal(wrong, Some("sglang-hook")).to_string().contains("token"));
}

#[test]
fn two_phases_may_come_from_two_sources() {
    let dump = |name: &str| dumps().join("huggingface").join(name);
    let apart = |request: &mut Request| {
        (request.prefill, request.decode) = (vec![dump("prefill")], vec![dump("decode")]);
    };
    let found = imported(apart, None).unwrap();
    assert!(found.report.is_complete());
    found.has_no_fault();
    // The other way round a pass of eight tokens fills decode's cache, and one of one token is no prefill.
    let swapped = |request: &mut Request| {
        (request.prefill, request.decode) = (vec![dump("decode")], vec![dump("prefill")]);
    };
    let found = imported(swapped, None).unwrap();
    assert!(!found.report.is_complete() && found.run.events.is_empty(), "{:?}", found.report);
    assert_ne!(found.analysis.verdict.verdict, Verdict::Pass);
}

#[test]
fn passes_of_one_phase_only_are_no_pass() {
    let found = imported(|request| request.passes = Some(vec![(4, 4)]), Some("sglang-hook")).unwrap();
    assert!(found.report.unknown.iter().any(|what| what.contains("decode")), "{:?}", found.report);
    assert_ne!(found.analysis.verdict.verdict, Verdict::Pass);
    // Decode after the prompt: no token is in both.
    let found = imported(|request| request.passes = Some(vec![(1, 3)]), Some("sglang-hook")).unwrap();
    assert!(found.report.notes.iter().any(|note| note.contains("no token is in both")), "{:?}", found.report);
    assert_ne!(found.analysis.verdict.verdict, Verdict::Pass);
    assert!(!found.report.is_complete());
}

#[test]
fn maps_and_folders_that_do_not_fit_are_refused_with_a_hint() {
    let e = refusal(|request| request.map = Some("llama-cpp".to_owned()), Some("msprobe"));
    assert!(e.to_string().contains("fits none") && e.hint().contains("transformers"), "{e}");
    let e = refusal(|_| (), Some("passes"));
    assert!(e.hint().contains("--map"), "{e}");
    let e = refusal(|request| request.map = Some("no such map".to_owned()), Some("passes"));
    assert!(e.hint().contains("vllm"), "{e}");
    let e = refusal(|request| request.manifest.config = None, Some("sglang-hook"));
    assert!(e.to_string().contains("no --model"), "{e}");
    let e = refusal(|request| request.rank = Some(3), Some("sglang-hook"));
    assert!(e.to_string().contains("[0], not 3"), "{e}");
    let empty = tempfile::tempdir().unwrap();
    let e = refusal(|request| request.source = Some(empty.path().to_owned()), None);
    assert!(e.hint().contains("--from"), "{e}");
}

#[test]
fn a_shape_that_is_not_the_models_is_refused() {
    let smaller = |request: &mut Request| {
        let config = request.manifest.config.as_mut().unwrap();
        config.insert("intermediate_size".to_owned(), 48.into());
    };
    let e = refusal(smaller, Some("sglang-hook"));
    assert!(e.to_string().contains("gate_up_proj") && e.to_string().contains("[8, 192]"), "{e}");
    let e = refusal(smaller, Some("msprobe"));
    assert!(e.to_string().contains("96 values, by the model's config 48"), "{e}");
}

#[test]
fn an_index_that_names_files_elsewhere_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let rank = folder.path().join("step0/rank0");
    fs::create_dir_all(&rank).unwrap();
    let data = r#"{"data": {"Module.lm_head.Linear.forward.0": {"output": [{"data_name": "../../../etc/passwd"}]}}}"#;
    fs::write(rank.join("dump.json"), data).unwrap();
    let e = refusal(|request| request.source = Some(folder.path().to_owned()), None);
    assert!(e.to_string().contains("not the name of a file beside it"), "{e}");
}
