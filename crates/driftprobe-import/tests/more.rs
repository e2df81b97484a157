//! GRETA's own lines, built-in maps, warm-ups, and what is refused of damaged npy files and lines.

use driftprobe_import::{ImportError, Map, Report, Request, import};
use driftprobe_trace::{Phase, Run};
use std::fs;
use std::path::{Path, PathBuf};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/import-dumps")
}

fn run(source: &Path, change: impl FnOnce(&mut Request)) -> Result<(Report, Run), ImportError> {
    let folder = tempfile::tempdir().unwrap();
    let mut request = Request::new(Some(source.to_owned()), folder.path().join("run"));
    change(&mut request);
    let report = import(&request, &mut |_| {})?;
    Ok((report, Run::open(&request.out).unwrap()))
}

fn fault(source: &Path) -> String {
    run(source, |_| ()).expect_err("it was imported").to_string()
}

#[test]
fn gretas_events_are_kept_as_they_are() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../driftprobe-trace/tests/fixtures/greta/drift");
    let (report, imported) = run(&source, |_| ()).unwrap();
    let mut before = Run::open(&source).unwrap().events;
    let mut after = imported.events.clone();
    assert_eq!((before.len(), after.len()), (96, 96));
    for event in before.iter_mut().chain(&mut after) {
        event.source.line = 0;
        event.source.file = "".into();
    }
    let key = |event: &driftprobe_trace::Event| format!("{event:?}");
    before.sort_by_key(key);
    after.sort_by_key(key);
    assert_eq!(before, after);
    assert!(!report.is_complete() && !imported.is_complete());
}

#[test]
fn every_built_in_map_is_one() {
    for name in Map::names() {
        Map::open(name).unwrap();
    }
    for (text, why) in [
        ("[[tensor]]\nname = \"x\"", "exactly one of"),
        ("[[tensor]]\nname = \"x\"\npoint = \"nowhere\"", "no point"),
        ("[[tensor]]\nname = \"x\"\npoint = \"logits\"\naxes = \"width\"", "tokens"),
        ("[[tensor]]\nname = \"x\"\npoint = \"logits\"\naxis = 3", "axis"),
        ("[[tensor]]\nname = \"{head}\"\npoint = \"logits\"", "{layer}"),
        ("[[tensor]]\nname = \"x\"\npoint = \"logits\"\nonly = \"odd\"", "no such flag"),
        ("[[tensor]]\nname = \"x\"\npoint = \"logits\"\norder = \"tokens\"", "order"),
        ("[[tensor]]\nname = \"x\"\nrole = \"mask\"", "expected tokens or positions"),
        ("[[tensor", "TOML"),
    ] {
        let e = Map::parse("own", text).err().unwrap_or_else(|| panic!("{text} was read"));
        assert!(e.to_string().contains(why) || why == "TOML", "{e}");
    }
}

#[test]
fn a_warm_up_is_told_apart_or_chosen_away() {
    let folder = tempfile::tempdir().unwrap();
    let hook = folder.path().join("TP0_PP0_Rank0_pid7");
    fs::create_dir_all(&hook).unwrap();
    // The same prefill twice: the first one warmed the engine up.
    for number in 0..4 {
        let name = format!("Pass{number:05}.pt");
        fs::copy(
            fixtures().join("sglang-hook/TP0_PP0_Rank0_pid7").join(&name),
            hook.join(format!("Pass{:05}.pt", number + 1)),
        )
        .unwrap();
    }
    fs::copy(hook.join("Pass00004.pt"), hook.join("Pass00000.pt")).unwrap();
    let config = driftprobe_model::Model::open(&fixtures().join("../transformers-traces/models/llama")).unwrap().config;
    let config = config.to_hugging_face();
    let with = |passes: Option<Vec<(u64, u64)>>| {
        run(folder.path(), |request| {
            request.manifest.config = Some(config.clone());
            request.passes = passes;
        })
    };
    let e = with(None).err().unwrap();
    assert!(e.to_string().contains("passes 1 and 5 both give token 6") && e.hint().contains("--passes"), "{e}");
    let (report, _) = with(Some(vec![(2, 5)])).unwrap();
    assert!(report.is_complete(), "{report:?}");
}

#[test]
fn npy_files_are_read_strictly() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("prefill");
    fs::create_dir_all(&dir).unwrap();
    let path = dir.join("0.attn_out.3.npy");
    let file = |header: &str, values: &[u8]| {
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.extend(values);
        fs::write(&path, bytes).unwrap();
    };
    let good = "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }\n";
    file(good, &[0; 8]);
    let (report, imported) = run(folder.path(), |_| ()).unwrap();
    assert_eq!((report.prefill_rows, imported.events[0].logical_tok_idx), (1, Some(3)));
    for (header, values, why) in [
        (good, &[0; 7][..], "7 bytes are no tensor"),
        (good, &[0; 9], "9 bytes are no tensor"),
        ("{'descr': '>f4', 'fortran_order': False, 'shape': (2,), }", &[0; 8], ">f4"),
        ("{'descr': '|O', 'fortran_order': False, 'shape': (2,), }", &[0; 8], "|O"),
        ("{'descr': '<f4', 'fortran_order': True, 'shape': (2,), }", &[0; 8], "fortran_order"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (-2,), }", &[0; 8], "(-2,)"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296), }", &[0; 8], "no tensor"),
        ("{'descr': '<i4', 'fortran_order': False, 'shape': (2,), }", &[0; 8], "its values are i32"),
        ("{'descr': '<f4'", &[], "descr"),
    ] {
        file(header, values);
        let message = fault(folder.path());
        assert!(message.contains(why) && message.contains("0.attn_out.3.npy"), "{why}: {message}");
    }
    for bytes in [&b""[..], b"\x93NUMPY", b"\x93NUMPY\x01\x00\xff\xff{", b"\x93NUMPY\x02\x00\xff\xff\xff\xff{"] {
        fs::write(&path, bytes).unwrap();
        fault(folder.path());
    }
}

#[test]
fn lines_of_logits_are_read_strictly() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("dump");
    fs::create_dir_all(&dir).unwrap();
    let path = dir.join("logits.jsonl");
    fs::write(&path, "{\"token_idx\": 3, \"token_id\": 5, \"logits\": [0.5, 1.5]}\n").unwrap();
    assert!(fault(folder.path()).contains("nothing tells which phase"));
    fs::write(dir.join("metadata.json"), "{\"phase\": \"decode\"}").unwrap();
    let (_, imported) = run(folder.path(), |_| ()).unwrap();
    let event = &imported.events[0];
    assert_eq!((event.phase, event.logical_tok_idx, event.token_id), (Phase::Decode, Some(3), None));
    assert_eq!(event.logits.unwrap().top1_id, Some(1));
    let as_prefill = |request: &mut Request| (request.prefill, request.source) = (vec![dir.clone()], None);
    assert!(run(folder.path(), as_prefill).err().unwrap().to_string().contains("says decode"));
    fs::write(&path, "{\"token_idx\": 3, \"token_id\": 5, \"logits\": [0.5, 1.5]}\n{\"token_idx\": 4, \"log").unwrap();
    assert!(fault(folder.path()).contains("logits.jsonl:2"));
}

/// A pass that is not read is a pass that is not compared.
#[test]
fn a_pass_that_would_not_be_read_is_refused_or_read() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let pass = |number: u32| fixtures().join(format!("passes/pass{number}.safetensors"));
    let put = |number: u32, to: &Path| {
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(pass(number), to).unwrap();
    };
    let by_map = |request: &mut Request| request.map = Some("transformers".to_owned());
    let passes = |source: &Path| run(source, by_map).map(|(report, _)| report.passes.len());
    put(0, &root.join("dump/pass0.safetensors"));
    put(1, &root.join("dump/pass1.SAFETENSORS"));
    assert_eq!(passes(&root.join("dump")).unwrap(), 2);
    let deep = |depth: usize| (0..depth).fold(root.join("dump"), |path, number| path.join(number.to_string()));
    put(2, &deep(8).join("pass2.safetensors"));
    assert_eq!(passes(&root.join("dump")).unwrap(), 3);
    put(3, &deep(9).join("pass3.safetensors"));
    assert!(fault(&root.join("dump")).contains("more than 8 folders within each other"));
    fs::remove_dir_all(deep(1)).unwrap();
    #[cfg(unix)]
    {
        put(2, &root.join("elsewhere/pass2.safetensors"));
        std::os::unix::fs::symlink(root.join("elsewhere"), root.join("dump/more")).unwrap();
        assert!(fault(&root.join("dump")).contains("is a link to a folder"));
    }
}
