//! One multiplexed ssh connection, used from code that does not know of futures.

use crate::job::Target;
use openssh::{KnownHosts, Session, SessionBuilder, Stdio};
use std::io::{Read, Write};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::{Builder, Runtime};

/// Longest output of a script that is kept: a list of a hundred thousand files.
const OUTPUT_BYTES_MAX: usize = 32 << 20;
const PART_BYTES: usize = 1 << 16;

/// Takes output as it comes.
pub type Sink<'a> = dyn FnMut(&[u8]) -> std::io::Result<()> + 'a;

/// The connection itself failed, not what ran over it.
#[derive(Debug)]
pub struct Broken(pub String);

/// What a script gave.
#[derive(Debug)]
pub struct Output {
    pub ok: bool,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

/// An open connection.
pub struct Connection {
    runtime: Runtime,
    /// None once it is closed.
    session: Option<Session>,
}

impl Connection {
    pub fn open(target: &Target) -> Result<Connection, Broken> {
        let broken = |e: &dyn std::fmt::Display| Broken(e.to_string());
        let runtime = Builder::new_current_thread().enable_all().build().map_err(|e| broken(&e))?;
        let mut builder = SessionBuilder::default();
        builder.known_hosts_check(KnownHosts::Strict).connect_timeout(Duration::from_secs(20));
        builder.server_alive_interval(Duration::from_secs(10));
        if let Some(port) = target.port {
            builder.port(port);
        }
        if let Some(key) = &target.key {
            builder.keyfile(key);
        }
        if let Some(config) = &target.config {
            builder.config_file(config);
        }
        let session = runtime.block_on(builder.connect_mux(&target.destination)).map_err(|e| broken(&chain(&e)))?;
        Ok(Connection { runtime, session: Some(session) })
    }

    /// Runs a script. `input` is its standard input.
    pub fn script(&self, script: &str, arguments: &[&str], input: Option<&mut dyn Read>) -> Result<Output, Broken> {
        let mut stdout = Vec::new();
        let mut keep = |part: &[u8]| {
            let room = OUTPUT_BYTES_MAX.saturating_sub(stdout.len());
            stdout.extend_from_slice(part.get(..room.min(part.len())).unwrap_or_default());
            Ok(())
        };
        let (ok, stderr) = self.stream(script, arguments, (input, &mut keep))?;
        Ok(Output { ok, stdout, stderr })
    }

    /// Runs a script whose output is handed over as it comes. Whether it succeeded, and its standard error.
    pub fn stream(
        &self,
        script: &str,
        arguments: &[&str],
        (input, output): (Option<&mut dyn Read>, &mut Sink<'_>),
    ) -> Result<(bool, String), Broken> {
        let Some(session) = &self.session else { return Err(Broken("it is closed".to_owned())) };
        let broken = |e: openssh::Error| Broken(chain(&e));
        let lost = |e: std::io::Error| Broken(e.to_string());
        self.runtime.block_on(async {
            // `command` and `arg` quote what they are given for the shell there.
            let mut command = session.command("sh");
            command.arg("-c").arg(script).arg("driftprobe").args(arguments);
            let stdin = if input.is_some() { Stdio::piped() } else { Stdio::null() };
            let mut child =
                command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().await.map_err(broken)?;
            if let (Some(input), Some(mut stdin)) = (input, child.stdin().take()) {
                let mut buffer = vec![0; PART_BYTES];
                loop {
                    let read = input.read(&mut buffer).map_err(lost)?;
                    let Some(part) = buffer.get(..read).filter(|part| !part.is_empty()) else { break };
                    stdin.write_all(part).await.map_err(lost)?;
                }
            }
            let (mut stdout, mut stderr) = (child.stdout().take(), child.stderr().take());
            let (mut part, mut complaint) = (vec![0; PART_BYTES], vec![0; PART_BYTES]);
            let mut said = Vec::new();
            while stdout.is_some() || stderr.is_some() {
                let from_stdout = async { read(&mut stdout, &mut part).await };
                let from_stderr = async { read(&mut stderr, &mut complaint).await };
                let (out, count) = either(from_stdout, from_stderr).await.map_err(lost)?;
                match (out, count) {
                    (true, 0) => stdout = None,
                    (false, 0) => stderr = None,
                    (true, count) => output(part.get(..count).unwrap_or_default()).map_err(lost)?,
                    (false, count) if said.len() < PART_BYTES => {
                        said.extend_from_slice(complaint.get(..count).unwrap_or_default());
                    }
                    (false, _) => {}
                }
            }
            let status = child.wait().await.map_err(broken)?;
            Ok((status.success(), String::from_utf8_lossy(&said).trim().to_owned()))
        })
    }
}

/// The next bytes; waits for ever where nothing is open.
async fn read(from: &mut Option<impl AsyncReadExt + Unpin>, into: &mut [u8]) -> std::io::Result<usize> {
    match from {
        Some(from) => from.read(into).await,
        None => std::future::pending().await,
    }
}

/// Whichever is ready first; `true` for the one.
async fn either(
    one: impl Future<Output = std::io::Result<usize>>,
    other: impl Future<Output = std::io::Result<usize>>,
) -> std::io::Result<(bool, usize)> {
    let (mut one, mut other) = (std::pin::pin!(one), std::pin::pin!(other));
    std::future::poll_fn(|context| {
        if let std::task::Poll::Ready(count) = one.as_mut().poll(context) {
            return std::task::Poll::Ready(count.map(|count| (true, count)));
        }
        other.as_mut().poll(context).map(|count| count.map(|count| (false, count)))
    })
    .await
}

fn chain(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut source = e.source();
    while let Some(e) = source {
        let more = e.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = e.source();
    }
    text
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            // Nothing hangs on how the end of it goes.
            let _ = self.runtime.block_on(session.close());
        }
    }
}

/// Writes to a file as it comes.
pub fn to_file(file: &mut impl Write) -> impl FnMut(&[u8]) -> std::io::Result<()> {
    |part| file.write_all(part)
}
