//! Folders of safetensors or npy files: `PHASE/LAYER.POINT.POSITION.npy`, or passes of tensors under names of their own.

use super::{Fixed, Named, Pass, below, name_of};
use crate::error::{ImportError, Result};
use crate::load::{Loader, Origin};
use driftprobe_trace::{Phase, Point};
use std::path::{Path, PathBuf};

/// Whether a file holds tensors.
pub fn is_tensor(path: &Path) -> bool {
    is_called(path, "npy") || is_called(path, "safetensors")
}

/// Whether a file's name ends so, in letters of any size.
fn is_called(path: &Path, ending: &str) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case(ending))
}

/// Where the tensor of a key lies.
type OriginOf<'a> = Box<dyn Fn(&str) -> Origin + 'a>;

/// The passes: a file of many tensors is one, and so are the files of a folder that hold one each.
pub fn passes(root: &Path, files: &[PathBuf], loader: &mut Loader) -> Result<Vec<Pass>> {
    let mut passes: Vec<Pass> = Vec::new();
    for file in files.iter().filter(|file| is_tensor(file)) {
        let inner = below(root, file);
        let folder = inner.rsplit_once('/').map_or("", |(folder, _)| folder);
        let stem = name_of(file).rsplit_once('.').map_or("", |(stem, _)| stem);
        let (keys, origin): (Vec<String>, OriginOf<'_>) = match is_called(file, "npy") {
            true => (vec![String::new()], Box::new(|_| Origin::Npy(file.clone()))),
            false => {
                let keys = loader.safetensors_names(file)?.into_iter().map(|(name, _)| name).collect();
                (keys, Box::new(|key| Origin::Safetensors(file.clone(), key.to_owned())))
            }
        };
        let fixed = fixed(stem);
        if fixed.is_some() && keys.len() != 1 {
            let hint = "a file called LAYER.POINT.POSITION holds the one row of that name";
            return Err(ImportError::file(file, format!("holds {} tensors, expected one", keys.len()), hint));
        }
        let (label, names) = match keys.as_slice() {
            [_] => (folder.to_owned(), vec![stem.to_owned()]),
            _ => (inner.clone(), keys.clone()),
        };
        let tensors =
            keys.iter().zip(names).map(|(key, name)| Named { name, origin: origin(key), fixed: fixed.clone() });
        match passes.iter_mut().find(|pass| pass.label == label) {
            Some(pass) => pass.tensors.extend(tensors),
            None => passes.push(Pass { phase: phase(&inner), tensors: tensors.collect(), label, sequence: None }),
        }
    }
    Ok(passes)
}

/// The phase that the first folder's or file's name tells.
fn phase(path: &str) -> Option<Phase> {
    let first = path.split(['/', '.']).next().unwrap_or_default();
    Phase::parse(first)
}

/// `LAYER.POINT.POSITION`; unlayered points have layer −1, whatever number stands there.
fn fixed(stem: &str) -> Option<Fixed> {
    let (layer, rest) = stem.split_once('.')?;
    let (point, position) = rest.rsplit_once('.')?;
    let point = Point::parse(point)?;
    let layer = layer.parse().ok()?;
    let index = position.parse().ok()?;
    Some(Fixed { point, layer: if point.layered() { layer } else { -1 }, index, position: Some(index) })
}
