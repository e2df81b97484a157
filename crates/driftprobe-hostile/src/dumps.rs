//! Readers of what other tools and other machines wrote: arrays, pickles, archives, lines of numbers, and maps of them.

use crate::built;
use crate::memory::{allowance, bounded};
use crate::runs::folder;
use crate::told;
use driftprobe_import::{
    LogitsLines, Map, Tensor, TorchFile, hugging_face_tensors, logprob_line, logprobs_of_bytes, msprobe_tensors, npy,
};
use driftprobe_remote::{parse_list, unpack};
use driftprobe_trace::Phase;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A tensor whose values are larger than its file: an expanded view.
const EXPANDED_BYTES: usize = 64 << 20;

/// Parts of a tensor, inside and outside of it.
fn cut(tensor: &Tensor) {
    let axes: Vec<usize> = (0..tensor.shape.len()).collect();
    let reversed: Vec<usize> = axes.iter().rev().copied().collect();
    let last = tensor.shape.last().copied().unwrap_or(0);
    for (from, width) in [(0, last), (0, 1), (1, last), (last, 0), (u64::MAX, 1), (last / 2, last / 2)] {
        if let Ok(part) = tensor.columns(from, width) {
            assert_eq!(part.shape.last(), Some(&width));
        }
    }
    assert_eq!(tensor.slice(None, None, &axes).as_ref().map(|same| &same.bytes), Ok(&tensor.bytes));
    for order in [axes.as_slice(), &reversed, axes.get(1..).unwrap_or_default(), &[7]] {
        for at in [None, Some((0, 0)), Some((0, 1)), Some((1, u64::MAX)), Some((9, 0))] {
            for cut in [None, Some((0, 1)), Some((1, 0)), Some((9, 9))] {
                drop(tensor.slice(at, cut, order));
            }
        }
    }
    tensor.integers();
}

/// A `.npy` file.
pub fn npy(data: &[u8]) {
    match bounded(allowance(data.len()), || npy::read(Path::new("a.npy"), data)) {
        Err(e) => told(&e, e.hint()),
        Ok(tensor) => bounded(allowance(data.len()), || cut(&tensor)),
    }
}

/// A pickle, and its tensors' names.
pub fn pickle(data: &[u8]) {
    let read = bounded(allowance(data.len()), || driftprobe_import::pickle::read(data));
    match read {
        Err(e) => assert!(e.offset <= data.len() && !e.what.is_empty()),
        Ok(objects) => match bounded(8 * allowance(data.len()), || objects.tensors()) {
            Err(e) => assert!(!e.is_empty()),
            Ok(tensors) => {
                assert!(tensors.iter().all(|(_, view)| view.end().is_some_and(|end| end <= view.storage.values)));
            }
        },
    }
}

/// A `.pt` file as it lies there.
pub fn torch(data: &[u8]) {
    let open = bounded(8 * allowance(data.len()), || TorchFile::of_bytes(Path::new("a.pt"), data.to_vec()));
    match open {
        Err(e) => told(&e, e.hint()),
        Ok(mut file) => {
            let names: Vec<String> = file.tensors().take(16).map(|(name, _)| name.to_owned()).collect();
            let mut expanded = 0;
            for name in names {
                // Several of the largest would take seconds and show no more than one.
                if expanded > EXPANDED_BYTES / 2 {
                    break;
                }
                match bounded(allowance(data.len()) + 2 * EXPANDED_BYTES, || file.read(&name)) {
                    Err(e) => told(&e, e.hint()),
                    Ok(tensor) if tensor.bytes.len() <= 1 << 16 => cut(&tensor),
                    Ok(tensor) => expanded += tensor.bytes.len(),
                }
            }
        }
    }
}

/// A `.pt` file whose archive is in order, made of a pickle and values.
pub fn torch_built(data: &[u8]) {
    torch(&built::torch(data));
}

/// Lines of logits.
pub fn logits(data: &[u8]) {
    bounded(allowance(data.len()), || {
        for line in LogitsLines::of_bytes(Path::new("logits.jsonl"), data.to_vec()) {
            if let Err(e) = line {
                told(&e, e.hint());
            }
        }
    });
}

/// Lines of log-probabilities: what is read can be written, and is read again as it was.
pub fn logprobs(data: &[u8]) {
    let path = Path::new("a.jsonl");
    let read = |bytes: Vec<u8>| logprobs_of_bytes(path, bytes, Phase::Decode);
    match bounded(allowance(data.len()), || read(data.to_vec())) {
        Err(e) => told(&e, e.hint()),
        Ok(file) => {
            let text: String = file.lines.iter().map(|line| logprob_line(line, Phase::Decode)).collect();
            let again = read(text.into_bytes()).expect("lines that were written can be read");
            assert_eq!(format!("{:?}", again.lines), format!("{:?}", file.lines));
        }
    }
}

/// Indices of dumps: the trees of the model debugger, msprobe's lists.
pub fn trees(data: &[u8]) {
    let allowed = 8 * allowance(data.len());
    for read in [
        bounded(allowed, || hugging_face_tensors(Path::new("M_debug_tree_FULL_TENSORS.json"), data).map(drop)),
        bounded(allowed, || msprobe_tensors(Path::new("dump.json"), data).map(drop)),
    ] {
        if let Err(e) = read {
            told(&e, e.hint());
        }
    }
}

/// What comes back from another machine: nothing but what was announced is written, and nothing outside the folder.
pub fn archive(data: &[u8]) {
    let (list, packed) = built::archive(data);
    let Ok(files) = parse_list(&list) else { return };
    let outer = folder().join("unpacked");
    let inner = outer.join("run");
    let done = bounded(8 * allowance(packed.len()), || unpack(packed.as_slice(), &files, &inner));
    let strays = fs::read_dir(&outer).map(|all| all.count()).unwrap_or_default();
    match done {
        Err(e) => assert!(!e.is_empty()),
        Ok(bytes) => {
            let len = |path: &Path| fs::metadata(inner.join(path)).expect("a file that came out").len();
            let paths: BTreeSet<&PathBuf> = files.iter().map(|file| &file.path).collect();
            assert_eq!(bytes, paths.into_iter().map(|path| len(path)).sum::<u64>());
        }
    }
    let _ = fs::remove_dir_all(&outer);
    assert!(strays <= 1, "something was written beside the folder");
}

/// A mapping file, asked for some names.
pub fn map(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match bounded(4 * allowance(data.len()), || Map::parse("m", text)) {
        Err(e) => told(&e, e.hint()),
        Ok(map) => {
            let names = ["model.layers.3.self_attn.q_proj", "a.0", "", "é.1.2", "model.layers.99999999999.x"];
            let flags = map.flags(None, names.iter().copied());
            for name in names {
                map.find(name, &flags);
            }
        }
    }
}
