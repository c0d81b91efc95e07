//! `outhook trial`: not for people. Does the work that comes on standard input, one job a line, and answers
//! each with an empty line: see `crate::trial`.

use std::{
    io::{self, BufRead, Write},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::mpsc,
    thread,
    time::Duration,
};

use crate::{
    exit::{Exit, Failed},
    fail_points,
    trial::Work,
};

/// Work that takes longer has failed.
const TIME_MAX: Duration = Duration::from_secs(10);

/// Works until standard input ends, which it does with the daemon.
pub(super) fn execute() -> Result<Exit, Failed> {
    fail_points::set_up();
    // Not on the first thread, whose stack is larger than that of the threads on which the daemon works.
    thread::spawn(work).join().unwrap_or_else(|panic| resume_unwind(panic))
}

fn work() -> Result<Exit, Failed> {
    let watch = watch();
    for line in io::stdin().lock().lines() {
        let line = line.map_err(Failed::internal)?;
        // Nobody watches only if the process is ending.
        let _ = watch.send(true);
        if let Ok(work) = serde_json::from_str::<Work>(&line) {
            // A panic ends nothing but the call, in the daemon too.
            let _ = catch_unwind(AssertUnwindSafe(|| work.rehearse()));
        }
        let _ = watch.send(false);
        writeln!(io::stdout().lock()).map_err(Failed::internal)?;
    }
    Ok(Exit::Success)
}

/// Ends the process if work takes too long; is told when it begins and ends.
fn watch() -> mpsc::Sender<bool> {
    let (sender, changes) = mpsc::channel();
    thread::spawn(move || {
        while let Ok(is_working) = changes.recv() {
            if is_working && matches!(changes.recv_timeout(TIME_MAX), Err(mpsc::RecvTimeoutError::Timeout)) {
                std::process::abort();
            }
        }
    });
    sender
}
