//! The product as its own process.

use std::io;
use std::net::SocketAddr;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::{Child, ChildStderr, Command};
use tokio::task::JoinHandle;

use super::server_process::Leash;
use super::{Config, PATIENCE, eventually, http, process, secrets};

type Lines = Arc<Mutex<Vec<String>>>;

/// A running `outhook`; killed when dropped, and when the test process ends. A test that fails shows its log;
/// one whose log shows a secret fails.
pub struct Outhook {
    child: Child,
    leash: Option<Leash>,
    admin: SocketAddr,
    lines: Lines,
    readers: Vec<JoinHandle<()>>,
}

impl Outhook {
    /// Starts the daemon.
    pub fn run(config: &Config) -> Self {
        Self::spawn(config, &["run"])
    }

    /// Starts the daemon, and waits until it is ready.
    pub async fn start(config: &Config) -> Self {
        let outhook = Self::run(config);
        outhook.ready().await;
        outhook
    }

    /// Starts any command that goes on running.
    pub fn spawn(config: &Config, arguments: &[&str]) -> Self {
        let (mut outhook, stderr) = Self::spawn_unread(config, arguments);
        outhook.read(stderr);
        outhook
    }

    /// Starts the daemon with a standard error that nobody reads yet.
    pub fn run_unread(config: &Config) -> (Self, ChildStderr) {
        Self::spawn_unread(config, &["run"])
    }

    fn spawn_unread(config: &Config, arguments: &[&str]) -> (Self, ChildStderr) {
        let mut child = config.command().args(arguments).process_group(0).spawn().unwrap();
        let leash = child.id().map(Leash::hold);
        let lines = Lines::default();
        let readers = vec![tokio::spawn(collect(child.stdout.take().unwrap(), Arc::clone(&lines)))];
        let stderr = child.stderr.take().unwrap();
        (Self { child, leash, admin: config.admin(), lines, readers }, stderr)
    }

    /// Collects what comes from its standard error.
    pub fn read(&mut self, stderr: ChildStderr) {
        self.readers.push(tokio::spawn(collect(stderr, Arc::clone(&self.lines))));
    }

    /// Waits until it says that it is ready.
    pub async fn ready(&self) {
        let ready = || async {
            assert!(!self.has_ended(), "outhook ended before it was ready");
            let answer = self.try_get("/health/ready").await.ok()?;
            (answer.0 == 200).then_some(())
        };
        eventually("outhook to be ready", PATIENCE, ready).await;
    }

    /// Waits until it says that it is not ready for want of this part: `broker` or `database`.
    pub async fn misses(&self, part: &str) {
        let complaint = format!("{part}: ");
        let misses = || async {
            let (status, body) = self.try_get("/health/ready").await.ok()?;
            (status == 503 && body.lines().any(|line| line.starts_with(&complaint))).then_some(())
        };
        eventually(&format!("outhook to name the {part}"), PATIENCE, misses).await;
    }

    /// Checks that it is not ready at any of many looks over some seconds: readiness that comes and goes tells
    /// nobody anything.
    pub async fn stays_unready(&self) {
        self.readiness_stays(503, 60).await;
    }

    /// Checks that it is ready at each of many looks, for longer than what counts as a standstill (10 s).
    pub async fn stays_ready(&self) {
        self.readiness_stays(200, 120).await;
    }

    async fn readiness_stays(&self, expected: u16, looks: usize) {
        for _ in 0..looks {
            let (status, body) = self.get("/health/ready").await;
            assert_eq!(status, expected, "{body}");
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id().expect("outhook has ended")
    }

    /// The share of a core that it uses, measured over the next few seconds.
    pub async fn cpu_share(&self) -> f64 {
        process::cpu_share(self.pid()).await
    }

    /// The memory that it has in use, in bytes.
    pub fn memory(&self) -> u64 {
        process::memory(self.pid())
    }

    /// Lets it open so many files more, and no further ones.
    pub fn leave_files(&self, left: usize) {
        process::leave_files(self.pid(), left);
    }

    /// Where its admin server listens.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// GETs a path of the admin server: status and body.
    pub async fn get(&self, path: &str) -> (u16, String) {
        self.try_get(path).await.unwrap()
    }

    /// GETs a path of the admin server that may not be listening.
    pub async fn try_get(&self, path: &str) -> io::Result<(u16, String)> {
        http::request(self.admin, "GET", path, &[], b"").await
    }

    /// POSTs to a path of the admin server: status and body.
    pub async fn post(&self, path: &str, headers: &[(&str, &str)], body: &[u8]) -> (u16, String) {
        self.try_post(path, headers, body).await.unwrap()
    }

    /// POSTs to a path of the admin server that may not be listening.
    pub async fn try_post(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<(u16, String)> {
        http::request(self.admin, "POST", path, headers, body).await
    }

    /// The sum of the metric's samples that begin with `prefix`: a whole name, or a name and the
    /// beginning of its labels (`calls_total{outcome="ok"`); 0 if there are none.
    pub async fn metric(&self, prefix: &str) -> f64 {
        let (status, text) = self.get("/metrics").await;
        assert_eq!(status, 200, "{text}");
        text.lines().filter_map(|line| sample(line, prefix)).sum()
    }

    /// Asks it to drain and end, with SIGTERM.
    pub async fn terminate(&self) {
        self.signal("TERM").await;
    }

    /// Sends it a signal, by its name without SIG.
    pub async fn signal(&self, name: &str) {
        let pid = self.pid().to_string();
        let status = Command::new("sh").args(["-c", r#"kill -s "$0" "$1""#, name, &pid]).status().await;
        assert!(status.unwrap().success(), "kill -s {name} {pid}");
    }

    /// Ends it with SIGKILL.
    pub async fn kill(&mut self) -> ExitStatus {
        self.child.start_kill().unwrap();
        self.wait().await
    }

    /// Waits for its end.
    pub async fn wait(&mut self) -> ExitStatus {
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        let status = ended.expect("outhook did not end").unwrap();
        // From now on its process id may be somebody else's.
        self.leash = None;
        for reader in self.readers.drain(..) {
            reader.await.unwrap();
        }
        status
    }

    /// The lines it has written so far, to its standard output and error.
    pub fn log(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    /// Waits for a line with this in it, and returns the first.
    pub async fn wait_for_log(&self, part: &str) -> String {
        let what = format!("a line with {part:?} in outhook's log");
        let line = || async { self.log().into_iter().find(|line| line.contains(part)) };
        eventually(&what, PATIENCE, line).await
    }

    /// Whether its process has ended.
    pub fn has_ended(&self) -> bool {
        self.readers.iter().all(JoinHandle::is_finished)
    }
}

impl Drop for Outhook {
    #[expect(clippy::print_stderr, reason = "the test harness shows it with the failed test")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- outhook's log ---\n{}\n---", self.log().join("\n"));
        } else {
            self.lines.lock().unwrap().iter().for_each(|line| secrets::assert_none("outhook's log", line));
        }
    }
}

async fn collect(from: impl AsyncRead + Unpin, lines: Lines) {
    let mut segments = BufReader::new(from).split(b'\n');
    while let Ok(Some(line)) = segments.next_segment().await {
        lines.lock().unwrap().push(String::from_utf8_lossy(&line).into_owned());
    }
}

fn sample(line: &str, prefix: &str) -> Option<f64> {
    let rest = line.strip_prefix(prefix)?;
    let is_whole_name = prefix.contains('{') || rest.starts_with(['{', ' ']);
    let (_, value) = line.rsplit_once(' ').filter(|_| is_whole_name)?;
    Some(value.parse().unwrap())
}
