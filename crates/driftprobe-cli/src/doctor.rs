//! `driftprobe doctor`: what this machine has, and whether a run could be made here.
use crate::args::DoctorArgs;
use crate::failure::Failure;
pub fn run(_: &DoctorArgs) -> Result<u8, Failure> {
    Ok(0)
}
