//! Trials of events that may have ended a process.
//!
//! Everything that a daemon held when it ended uncleanly is suspected. Before the daemon does a suspect's own
//! work (building its request, reading its answer), a process of its own does it, alone: if that one dies
//! three times of it, the event is poison. So the daemon dies of an event once at most, a kill from outside
//! convicts nobody, and nobody else waits.

pub(crate) mod work;

use std::{
    io::{self, BufRead, BufReader, Write},
    os::unix::process::ExitStatusExt,
    process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio},
    sync::Arc,
};

use tokio::sync::Mutex;

pub(crate) use work::Work;

/// So many deaths of a process make an event poison.
const DEATHS_MAX: u32 = 3;
/// Signals by which somebody ends a process (SIGHUP, SIGINT, SIGTERM): no fault of what it worked on.
const ASKED_TO_END: [i32; 3] = [1, 2, 15];
/// How often in a row a process may be asked to end before a trial is given up.
const ASKED_MAX: u32 = 10;

/// The command that does the work, see `crate::cli::trial`.
pub(crate) const COMMAND: &str = "trial";

/// What came of a trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The work was done.
    Innocent,
    /// A process died of it three times.
    Poison,
}

/// Where suspects are tried, one at a time. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Trials {
    process: Arc<Mutex<Option<Process>>>,
}

/// A process that does work for us. It ends with its standard input.
struct Process {
    child: Child,
    jobs: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Trials {
    /// Tries the work.
    pub(crate) async fn judge(&self, work: Work) -> Verdict {
        let mut process = Arc::clone(&self.process).lock_owned().await;
        let trial = tokio::task::spawn_blocking(move || judge(&mut process, &work));
        match trial.await {
            Ok(Ok(verdict)) => verdict,
            Ok(Err(error)) => {
                log::warn!("an event that may have ended a process can't be tried and is worked on: {error}");
                Verdict::Innocent
            }
            Err(error) => {
                log::warn!("an event that may have ended a process was not tried: {error}");
                Verdict::Innocent
            }
        }
    }
}

fn judge(process: &mut Option<Process>, work: &Work) -> io::Result<Verdict> {
    let (mut deaths, mut asked) = (0, 0);
    while deaths < DEATHS_MAX && asked < ASKED_MAX {
        let running = match process.as_mut() {
            Some(running) => running,
            None => process.insert(Process::start()?),
        };
        if running.does(work).is_ok() {
            return Ok(Verdict::Innocent);
        }
        let ended = process.take().map(Process::end).transpose()?;
        match ended.and_then(|status| status.signal()) {
            Some(signal) if ASKED_TO_END.contains(&signal) => asked += 1,
            _ => deaths += 1,
        }
    }
    Ok(if deaths < DEATHS_MAX { Verdict::Innocent } else { Verdict::Poison })
}

impl Process {
    fn start() -> io::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg(COMMAND)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let (jobs, answers) = pipes.ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(Self { child, jobs, answers: BufReader::new(answers) })
    }

    /// Fails if the process has died.
    fn does(&mut self, work: &Work) -> io::Result<()> {
        let mut line = serde_json::to_vec(work)?;
        line.push(b'\n');
        self.jobs.write_all(&line)?;
        self.jobs.flush()?;
        match self.answers.read_line(&mut String::new())? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    fn end(mut self) -> io::Result<ExitStatus> {
        drop(self.jobs);
        self.child.wait()
    }
}
