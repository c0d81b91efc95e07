//! A child server that never outlives the test process.
//!
//! Nothing can clean up after its own SIGKILL, so a shell does it: it holds the reading end of a pipe
//! whose other end closes when the test process ends, in whatever way.

use std::fs;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use super::{PATIENCE, eventually, within};

/// A server's first start on a busy machine may take longer than any other wait.
const START_PATIENCE: Duration = Duration::from_secs(120);

/// A server in a temporary folder; both are gone when this is dropped or the test process has ended.
pub struct ServerProcess {
    name: &'static str,
    folder: PathBuf,
    guardian: Mutex<Child>,
}

impl ServerProcess {
    /// Makes a temporary folder for the server that `command` describes; nothing is started yet.
    pub fn new(name: &'static str, command: impl FnOnce(&Path) -> Command) -> Self {
        let folder = tempfile::Builder::new().prefix("outhook-test-").tempdir().unwrap().keep();
        let guardian = Mutex::new(guardian(&folder, &command(&folder)));
        Self { name, folder, guardian }
    }

    /// The server's own folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Starts the server, and again should it end before it is `ready`: a killed one may still hold
    /// its files or its port for a moment.
    pub async fn start<F, Fut>(&self, ready: F)
    where
        F: Fn() -> Fut,
        Fut: Future<Output = bool>,
    {
        let started = within(START_PATIENCE, || async {
            if !self.is_running() {
                fs::write(self.running(), "").unwrap();
                self.order("start");
            }
            ready().await.then_some(())
        });
        assert!(started.await.is_some(), "{} did not start:\n{}", self.name, self.output());
    }

    /// Sends a signal, by its name without SIG, to the server and everything it started.
    pub fn signal(&self, name: &str) {
        self.order(name);
    }

    /// Sends a signal, and waits until the server has ended.
    pub async fn end(&self, signal: &str) {
        self.signal(signal);
        let what = format!("the end of {}", self.name);
        eventually(&what, PATIENCE, || async { (!self.is_running()).then_some(()) }).await;
    }

    /// What the server has written to its standard output and error.
    pub fn output(&self) -> String {
        let bytes = fs::read(self.folder.join("output")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn running(&self) -> PathBuf {
        self.folder.join("running")
    }

    fn is_running(&self) -> bool {
        self.running().exists()
    }

    fn order(&self, order: &str) {
        let mut guardian = self.guardian.lock().unwrap();
        let orders = guardian.stdin.as_mut().unwrap();
        orders.write_all(format!("{order}\n").as_bytes()).unwrap();
    }
}

fn guardian(folder: &Path, server: &Command) -> Child {
    shell(include_str!("guardian.sh"))
        .arg(folder)
        .arg(server.get_program())
        .args(server.get_args())
        .envs(server.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .current_dir(folder)
        .spawn()
        .unwrap()
}

/// A shell that reads a pipe and is out of the reach of Ctrl-C.
fn shell(script: &str) -> Command {
    let mut shell = Command::new("sh");
    shell
        .args(["-c", script, "guardian"])
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    shell
}

/// Kills a process when the test process ends without having dropped this first.
pub struct Leash(Child);

impl Leash {
    /// Holds the process `pid`.
    pub fn hold(pid: u32) -> Self {
        Self(shell(r#"read -r _; kill -s KILL "$1""#).arg(pid.to_string()).spawn().unwrap())
    }
}

impl Drop for Leash {
    fn drop(&mut self) {
        // The pipe is still open, so the shell ends before it could kill anything.
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// The first of `folders`, or of those in PATH, that has the program.
pub fn folder_with(program: &str, folders: Vec<PathBuf>) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = folders.into_iter().chain(std::env::split_paths(&path)).find(|f| f.join(program).is_file());
    found.unwrap_or_else(|| panic!("{program} is not installed: run tests/services.sh"))
}
