//! Against a real sshd on loopback. Ignored by default, since it needs OpenSSH's server: `.ci/remote.sh` runs it.

use driftprobe_remote::{Job, Remote, RemoteError, Step, Target};
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A server of its own: keys, configuration and port are the test's.
struct Server {
    dir: tempfile::TempDir,
    child: Child,
    port: u16,
}

fn key(path: &Path) {
    let status = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(path).status();
    assert!(status.unwrap().success());
}

impl Server {
    fn start() -> Server {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        key(&at("host"));
        key(&at("user"));
        fs::copy(at("user.pub"), at("authorized")).unwrap();
        fs::set_permissions(at("authorized"), fs::Permissions::from_mode(0o600)).unwrap();
        let host = fs::read_to_string(at("host.pub")).unwrap();
        fs::write(at("known"), format!("[127.0.0.1]:{port} {host}")).unwrap();
        let text = |path: PathBuf| path.to_str().unwrap().to_owned();
        let server = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nStrictModes no\nUsePAM no\n\
             PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\n",
            text(at("host")),
            text(at("authorized"))
        );
        fs::write(at("sshd_config"), server).unwrap();
        let client = format!(
            "Host probe\n  HostName 127.0.0.1\n  Port {port}\n  IdentityFile {}\n  IdentitiesOnly yes\n  UserKnownHostsFile {}\n",
            text(at("user")),
            text(at("known"))
        );
        fs::write(at("ssh_config"), client).unwrap();
        let child = Command::new("/usr/sbin/sshd")
            .args(["-D", "-e", "-f"])
            .arg(at("sshd_config"))
            .stderr(Stdio::from(fs::File::create(at("sshd.log")).unwrap()))
            .spawn()
            .expect("openssh-server is installed");
        for _ in 0..200 {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(25));
        }
        Server { dir, child, port }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn target(&self) -> Target {
        let folder = self.at("there").to_str().unwrap().to_owned();
        Target {
            destination: "probe".to_owned(),
            config: Some(self.at("ssh_config")),
            folder: Some(folder),
            ..Target::default()
        }
    }

    fn connect(&self) -> Remote {
        Remote::connect(self.target(), &mut |_| true).unwrap()
    }

    /// Cuts every connection; the server goes on listening.
    fn cut(&self) {
        // The children of the listening server are its connections.
        let children = Command::new("pgrep").args(["-P", &self.child.id().to_string()]).output().unwrap();
        for pid in String::from_utf8_lossy(&children.stdout).split_whitespace() {
            let _ = Command::new("pkill").args(["-KILL", "-P", pid]).status();
            let _ = Command::new("kill").args(["-KILL", pid]).status();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.cut();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn job(id: &str, script: &str, arguments: &[&str]) -> Job {
    let command = ["sh", "-c", script, "job"].iter().chain(arguments).map(|part| (*part).to_owned()).collect();
    Job { id: id.to_owned(), who: "a test".to_owned(), command, ..Job::default() }
}

/// Arguments that a shell would take apart if they were not quoted.
const NASTY: [&str; 9] =
    ["a b", "$(touch /tmp/pwned)", "`id`", "'", "\"", "line\nfeed", ";exit 9", "--", "*?[x]\\ ~ $HOME"];

#[test]
#[ignore = "needs OpenSSH's server; .ci/remote.sh runs it"]
fn a_job_runs_there_and_what_it_wrote_comes_back() {
    let server = Server::start();
    let mut remote = server.connect();
    let prompt = server.at("prompt.txt");
    fs::write(&prompt, "a prompt").unwrap();
    let script = r#"
        mkdir -p run/traces
        printf '%s\0' "$@" >run/arguments
        cp prompts/p.txt run/traces/p.jsonl
        echo "$HIP_LAUNCH_BLOCKING $NAME" >run/environment
        head -c 3000000 /dev/urandom >run/large
        echo first; echo second; exit 7
    "#;
    let job = Job {
        environment: vec![("HIP_LAUNCH_BLOCKING".to_owned(), "1".to_owned()), ("NAME".to_owned(), "$x y'".to_owned())],
        files: vec![(prompt, "prompts/p.txt".to_owned())],
        ..job("one", script, &NASTY)
    };
    remote.start(&job, &mut |_| true).unwrap();
    let mut said = Vec::new();
    let mut watch = |step: Step| {
        if let Step::Says(line) = step {
            said.push(line);
        }
        true
    };
    let outcome = remote.attach("one", &mut watch).unwrap();
    assert_eq!(outcome.status, 7);
    said.retain(|line| !line.is_empty());
    assert_eq!(said, ["first", "second"]);

    let out = server.at("here/run");
    let mut fetched = 0;
    let bytes = remote.fetch("one", &out, &mut |step| {
        if let Step::Fetching(bytes) = step {
            fetched = bytes;
        }
        true
    });
    assert!(bytes.unwrap() > 3_000_000 && fetched > 3_000_000);
    let arguments = fs::read_to_string(out.join("arguments")).unwrap();
    assert_eq!(arguments.split_terminator('\0').collect::<Vec<_>>(), NASTY);
    assert_eq!(fs::read_to_string(out.join("environment")).unwrap(), "1 $x y'\n");
    assert_eq!(fs::read_to_string(out.join("traces/p.jsonl")).unwrap(), "a prompt");
    assert!(!Path::new("/tmp/pwned").exists());
    // What was fetched is not left there, nor is anything half-done here.
    assert!(!server.at("there/jobs/one").exists());
    assert_eq!(fs::read_dir(server.at("here")).unwrap().count(), 1);
}

#[test]
#[ignore = "needs OpenSSH's server; .ci/remote.sh runs it"]
fn one_job_at_a_time() {
    let server = Server::start();
    let mut remote = server.connect();
    remote.start(&job("first", "until [ -f go ]; do sleep 0.05; done; mkdir run", &[]), &mut |_| true).unwrap();
    let refused = remote.start(&job("second", "mkdir run", &[]), &mut |_| true).unwrap_err();
    assert!(matches!(&refused, RemoteError::Locked { owner, .. } if owner == "a test, job first"), "{refused}");
    fs::write(server.at("there/jobs/first/go"), "").unwrap();
    assert_eq!(remote.attach("first", &mut |_| true).unwrap().status, 0);
    // The lock went with its holder; a job that is killed frees it too.
    remote.start(&job("third", "sleep 100", &[]), &mut |_| true).unwrap();
    let pid = fs::read_to_string(server.at("there/jobs/third/pid")).unwrap();
    assert!(Command::new("pkill").args(["-KILL", "-g", pid.trim()]).status().unwrap().success());
    let gone = remote.attach("third", &mut |_| true).unwrap_err();
    assert!(gone.to_string().contains("neither runs nor has it ended"), "{gone}");
    remote.start(&job("fourth", "mkdir run", &[]), &mut |_| true).unwrap();
    assert_eq!(remote.attach("fourth", &mut |_| true).unwrap().status, 0);
}

#[test]
#[ignore = "needs OpenSSH's server; .ci/remote.sh runs it"]
fn a_lost_connection_is_taken_up_again() {
    let server = Server::start();
    let mut remote = server.connect();
    let script = "mkdir run; for i in 1 2 3 4 5 6; do echo $i; sleep 0.4; done; echo done >run/end";
    remote.start(&job("long", script, &[]), &mut |_| true).unwrap();
    let (mut said, mut reconnected) = (Vec::new(), 0);
    let mut watch = |step: Step| {
        match step {
            Step::Says(line) if !line.is_empty() => {
                if line == "2" {
                    server.cut();
                }
                said.push(line);
            }
            Step::Reconnecting => reconnected += 1,
            _ => {}
        }
        true
    };
    assert_eq!(remote.attach("long", &mut watch).unwrap().status, 0);
    assert!(reconnected > 0);
    assert_eq!(said, ["1", "2", "3", "4", "5", "6"]);
    // Somebody who stops waiting is told what is where, and finds it again with a connection of its own.
    remote.start(&job("later", "sleep 1; mkdir run; echo x >run/x", &[]), &mut |_| true).unwrap();
    let stopped = remote.attach("later", &mut |_| false).unwrap_err();
    assert!(
        stopped.to_string().contains("jobs/later") && stopped.hint().contains("--remote-attach later"),
        "{stopped}"
    );
    drop(remote);
    let mut again = server.connect();
    assert_eq!(again.attach("later", &mut |_| true).unwrap().status, 0);
    again.fetch("later", &server.at("later"), &mut |_| true).unwrap();
    assert_eq!(fs::read_to_string(server.at("later/x")).unwrap(), "x\n");
}

#[test]
#[ignore = "needs OpenSSH's server; .ci/remote.sh runs it"]
fn the_binary_goes_there_once_and_what_is_damaged_is_refused() {
    let server = Server::start();
    let mut remote = server.connect();
    let binary = server.at("tool");
    fs::write(&binary, "#!/bin/sh\nmkdir run; echo \"$1\" >run/said; ln -s /etc/passwd run/link\n").unwrap();
    let mut sent = 0;
    let mut watch = |step: Step| {
        sent += usize::from(matches!(step, Step::Sending(..)));
        true
    };
    let there = remote.bring_binary(&binary, &mut watch).unwrap();
    assert_eq!(remote.bring_binary(&binary, &mut |_| panic!("it lies there already")).unwrap(), there);
    assert!(sent > 0);
    let job = Job { command: vec![there, "hello".to_owned()], ..job("tool", "", &[]) };
    remote.start(&job, &mut |_| true).unwrap();
    assert_eq!(remote.attach("tool", &mut |_| true).unwrap().status, 0);
    let refused = remote.fetch("tool", &server.at("out"), &mut |_| true).unwrap_err();
    assert!(refused.to_string().contains("run/link is neither file nor folder"), "{refused}");
    assert!(!server.at("out").exists() && server.at("there/jobs/tool/run/said").exists());
}

#[test]
#[ignore = "needs OpenSSH's server; .ci/remote.sh runs it"]
fn a_host_that_is_not_known_is_refused() {
    let server = Server::start();
    fs::write(server.at("known"), format!("[127.0.0.1]:{} ssh-ed25519 AAAA\n", server.port)).unwrap();
    let refused = Remote::connect(server.target(), &mut |_| true).err().unwrap();
    assert!(matches!(refused, RemoteError::Connect { .. }), "{refused}");
    assert!(refused.hint().contains("ssh probe"));
}
