//! What judge and program read: contracts, matrices, prompts, plans and results of shared work.

use crate::memory::{allowance, bounded};
use crate::told;
use driftprobe::digest::LayersDigest;
use driftprobe::oracle::Arithmetic;
use driftprobe::oracle::replay::Beforehand;
use driftprobe_cli::{Failure, bytes};
use driftprobe_trace::{Contract, Dtype, Phase, Point};

fn told_by(failure: &Failure) {
    told(failure.what(), failure.hint().unwrap_or_default());
}

/// A contract: what is read can be written, and is read again as it was.
pub fn contract(data: &[u8]) {
    let read = bounded(4 * allowance(data.len()), || serde_json::from_slice::<Contract>(data));
    let Ok(contract) = read else { return };
    let written = serde_json::to_vec(&contract).expect("a contract that was read can be written");
    let again: Contract = serde_json::from_slice(&written).expect("a contract that was written can be read");
    assert_eq!(again, contract, "{}", String::from_utf8_lossy(&written));
    for phase in Phase::ALL {
        for point in Point::ALL {
            Arithmetic::resolve(Some(&contract), phase, *point, Dtype::F32);
        }
    }
}

/// A matrix of runs, TOML or JSON.
pub fn matrix(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    // Up to a hundred thousand cells, of up to seven axes each.
    match bounded(4 * allowance(data.len()) + (128 << 20), || bytes::matrix(text)) {
        Err(e) => told_by(&e),
        Ok(matrix) => assert!(matrix.cells().is_ok_and(|cells| !cells.is_empty())),
    }
}

/// Prompts and token ids.
pub fn prompts(data: &[u8]) {
    for raw in [false, true] {
        match bounded(allowance(data.len()), || bytes::tokens(data, raw)) {
            Err(e) => told_by(&e),
            Ok(ids) => assert!(!ids.is_empty()),
        }
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Err(e) = bounded(allowance(data.len()), || bytes::prompts(text)) {
        told_by(&e);
    }
}

/// Stages of some layers: what is read can be written, is read again as it was, and is taken up.
pub fn layers(data: &[u8]) {
    let read = bounded(4 * allowance(data.len()), || serde_json::from_slice::<LayersDigest>(data));
    let Ok(found) = read else { return };
    let written = serde_json::to_vec(&found).expect("stages that were read can be written");
    let again: LayersDigest = serde_json::from_slice(&written).expect("stages that were written can be read");
    // NaN is not equal to itself.
    assert_eq!(format!("{again:?}"), format!("{found:?}"));
    let mut modes = [Beforehand::default(), Beforehand::default()];
    bounded(8 * allowance(data.len()), || found.add_to("p", &mut modes));
    let taken = LayersDigest::of(&modes);
    assert!(taken.len() <= again.len());
}

/// The plan of a folder of results, and a result.
pub fn plan(data: &[u8]) {
    if let Err(e) = bounded(allowance(data.len()), || bytes::plan(data)) {
        told_by(&e);
    }
    let digest = bounded(allowance(data.len()), || serde_json::from_slice::<driftprobe::digest::Digest>(data));
    if let Ok(digest) = digest {
        digest.contradiction();
    }
}
