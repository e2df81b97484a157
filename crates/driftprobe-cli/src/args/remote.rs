//! Arguments of `driftprobe run --remote`.

use clap::Args;
use std::path::PathBuf;

/// Another machine, over ssh.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "On another machine")]
pub struct RemoteArgs {
    /// Run there, fetch the run and judge it here: USER@HOST, or a name of the ssh config. --model and --tokenizer are paths
    /// there; where the same path lies here too, the run is judged with it
    #[arg(long, value_name = "HOST")]
    pub remote: Option<String>,
    /// Port
    #[arg(long, value_name = "PORT", requires = "remote")]
    pub remote_port: Option<u16>,
    /// Private key
    #[arg(long, value_name = "FILE", requires = "remote")]
    pub remote_key: Option<PathBuf>,
    /// ssh config in place of ~/.ssh/config
    #[arg(long, value_name = "FILE", requires = "remote")]
    pub remote_config: Option<PathBuf>,
    /// Folder there for binaries, the lock and jobs [default: ~/.driftprobe]
    #[arg(long, value_name = "DIR", requires = "remote")]
    pub remote_folder: Option<String>,
    /// A driftprobe that lies there, in place of a copy of this one
    #[arg(long, value_name = "PATH", requires = "remote", conflicts_with_all = ["remote_build", "remote_command"])]
    pub remote_binary: Option<String>,
    /// Folder there with driftprobe's sources, from home if relative: build them there (for its CPU and GPU)
    #[arg(long, value_name = "DIR", requires = "remote", conflicts_with = "remote_command")]
    pub remote_build: Option<String>,
    /// Cargo features for --remote-build, such as llama-cpp-rocm
    #[arg(long, value_name = "FEATURES", requires = "remote_build")]
    pub remote_features: Option<String>,
    /// A shell command of your own that writes a run to the folder `$DRIFTPROBE_RUN`
    #[arg(long, value_name = "COMMAND", requires = "remote")]
    pub remote_command: Option<String>,
    /// Take up a job that is there already
    #[arg(long, value_name = "JOB", requires = "remote")]
    pub remote_attach: Option<String>,
}
