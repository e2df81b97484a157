//! A run on another machine: the binary and the prompts go there, a job runs under an exclusive lock, its log is followed,
//! and what it wrote comes back, verified by hash.
//!
//! Everything goes over one multiplexed ssh connection. What runs there are the constant scripts of [`script`]; names and
//! arguments reach them as quoted arguments, never as part of a script. The job does not hang on the connection: if that
//! is lost, the job goes on, and [`Remote::attach`] takes it up again.

mod archive;
mod connection;
mod error;
mod job;
pub mod script;

pub use archive::{File, parse_list, unpack};
pub use error::RemoteError;
pub use job::{Job, Outcome, Remote, Step, Target, Watch};
