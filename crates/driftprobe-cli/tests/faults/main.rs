//! Faults of the machine: processes that are killed, disks that are full, pipes that close, two at once, clocks that jump.
//! No verdict without its evidence, no finished run lost, and no bytes that depend on chance.
#![cfg(target_os = "linux")]

mod changed;
mod clock;
mod determinism;
mod disk;
mod kill;
mod killed;
mod pipe;
mod support;
mod together;
