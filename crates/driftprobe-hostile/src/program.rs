//! What judge and program read: contracts, matrices, prompts, plans of shared work.

use crate::memory::{allowance, bounded};
use crate::told;
use driftprobe::oracle::Arithmetic;
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
