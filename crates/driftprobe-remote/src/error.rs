//! What can go wrong with a remote run, and what to do about it.

use std::path::PathBuf;

/// A remote run that did not work.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// No connection, or it was lost before there was a job.
    #[error("no connection to {destination}: {message}")]
    Connect {
        /// Where to.
        destination: String,
        /// What ssh says.
        message: String,
    },
    /// The connection was lost while a job ran; the job goes on.
    #[error("the connection to {destination} was lost; job {job} goes on there, in {folder}")]
    Lost {
        /// Where to.
        destination: String,
        /// The job.
        job: String,
        /// Its folder there.
        folder: String,
    },
    /// Another job holds the lock.
    #[error("{destination} is in use: {owner} holds the lock {lock}")]
    Locked {
        /// Where.
        destination: String,
        /// Who holds it.
        owner: String,
        /// Path of the lock there.
        lock: String,
    },
    /// A script failed there.
    #[error("on {destination}, {what} failed: {message}")]
    Remote {
        /// Where.
        destination: String,
        /// What was being done.
        what: &'static str,
        /// What it said.
        message: String,
    },
    /// The machine there cannot run this binary.
    #[error("{destination} is {found}, this binary is for {ours}")]
    Architecture {
        /// Where.
        destination: String,
        /// What it is.
        found: String,
        /// What this binary is for.
        ours: String,
    },
    /// What came back is not what was packed, or would be written where it must not.
    #[error("what came back from {destination} is refused: {message}")]
    Refused {
        /// Where from.
        destination: String,
        /// Why.
        message: String,
    },
    /// A local file.
    #[error("could not {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// Somebody stopped it; the job goes on.
    #[error("stopped waiting; job {job} goes on on {destination}, in {folder}")]
    Stopped {
        /// Where.
        destination: String,
        /// The job.
        job: String,
        /// Its folder there.
        folder: String,
    },
}

impl RemoteError {
    /// What to do about it.
    pub fn hint(&self) -> String {
        match self {
            RemoteError::Connect { destination, .. } => {
                format!("see that `ssh {destination} true` works without a password, then try again")
            }
            RemoteError::Lost { job, .. } | RemoteError::Stopped { job, .. } => {
                format!("take it up again with --remote-attach {job}, beside the same --remote and --out")
            }
            RemoteError::Locked { .. } => "wait for it; the lock goes with the process that holds it".to_owned(),
            RemoteError::Remote { .. } => "see that sh, flock, setsid, tar, gzip and sha256sum are there".to_owned(),
            RemoteError::Architecture { .. } => {
                "build there with --remote-build, name a binary there with --remote-binary, or run your own --remote-command"
                    .to_owned()
            }
            RemoteError::Refused { .. } => "what lies there is left as it is; look at it by hand".to_owned(),
            RemoteError::Io { .. } => "check that the path exists and that its disk has room".to_owned(),
        }
    }
}
