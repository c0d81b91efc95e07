//! Standard error, written by a thread of its own: it may be a pipe that nobody reads, or a full disk.
//!
//! Whoever logs waits for nothing. When the queue is full, or a write fails, lines are dropped until all that
//! was queued is out and standard error has taken a line that says how many were.

use std::{
    collections::VecDeque,
    io::{self, ErrorKind, Write},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use log::{Level, Record};

use super::{Logged, line};

/// The most lines that wait to be written …
const LINES_MAX: usize = 2000;
/// … and their bytes.
const BYTES_MAX: usize = 1_048_576;
/// Lines are written together up to this many bytes, or one line.
const CHUNK_BYTES: usize = 65_536;
/// The pause before standard error is tried again that took nothing.
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// The pause before it is tried again that was full, where a write does not wait.
const FULL_DELAY: Duration = Duration::from_millis(10);

/// Lines on their way to standard error. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Stderr(Arc<Shared>);

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// Signaled when there is something to write.
    filled: Condvar,
    /// Signaled when nothing is left to write.
    emptied: Condvar,
}

#[derive(Default)]
struct Queue {
    lines: VecDeque<String>,
    bytes: usize,
    /// Lines of which standard error has not been told yet that they are lost.
    dropped: u64,
    is_writing: bool,
}

/// What the thread has to write.
enum Job {
    /// So many lines.
    Lines(String),
    /// That so many were dropped.
    Dropped(u64),
}

impl Stderr {
    /// Starts the thread, which lives as long as the process.
    pub(super) fn start() -> Self {
        let stderr = Self::default();
        let writer = stderr.clone();
        thread::spawn(move || writer.work(&mut io::stderr()));
        stderr
    }

    /// Queues a line, or drops it if there is no room or those before it were dropped.
    pub(super) fn push(&self, line: String) -> Logged {
        let mut queue = self.queue();
        if queue.has_room(&line) {
            queue.bytes += line.len();
            queue.lines.push_back(line);
            self.0.filled.notify_one();
            return Logged::Well;
        }
        queue.dropped += 1;
        drop(queue);
        count_dropped(1);
        Logged::Dropped
    }

    /// Waits until all is written, for at most this long.
    pub(super) fn flush(&self, timeout: Duration) {
        let has_more = |queue: &mut Queue| !queue.is_written();
        // The lock of a panicked thread is as good: nothing is half done under it.
        drop(self.0.emptied.wait_timeout_while(self.queue(), timeout, has_more));
    }

    fn work(&self, stderr: &mut impl Write) {
        let mut is_torn = false;
        loop {
            match self.next_job() {
                Job::Lines(text) => is_torn |= self.write_lines(stderr, &text),
                Job::Dropped(lines) if self.tell(stderr, is_torn, lines) => is_torn = false,
                Job::Dropped(_) => thread::sleep(RETRY_DELAY),
            }
        }
    }

    fn next_job(&self) -> Job {
        let mut queue = self.queue();
        queue.is_writing = false;
        while queue.is_written() {
            self.0.emptied.notify_all();
            queue = self.0.filled.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        queue.is_writing = true;
        queue.take_chunk().map_or(Job::Dropped(queue.dropped), Job::Lines)
    }

    /// Whether a line was written in part.
    fn write_lines(&self, stderr: &mut impl Write, text: &str) -> bool {
        let Err(unwritten) = write_all(stderr, text.as_bytes()) else { return false };
        let (written, lost) = text.as_bytes().split_at(text.len() - unwritten);
        let lines = lost.iter().filter(|byte| **byte == b'\n').count() as u64;
        self.queue().dropped += lines;
        count_dropped(lines);
        written.last().is_some_and(|byte| *byte != b'\n')
    }

    /// Says how many lines were dropped; more are until this has succeeded.
    fn tell(&self, stderr: &mut impl Write, is_torn: bool, lines: u64) -> bool {
        let text = format_args!("{lines} log lines were dropped here: standard error did not take them");
        let record = Record::builder().level(Level::Warn).target(module_path!()).args(text).build();
        let text = ["", "\n"][usize::from(is_torn)].to_owned() + &line::of(&record);
        let is_told = write_all(stderr, text.as_bytes()).is_ok();
        if is_told {
            self.queue().dropped -= lines;
        }
        is_told
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn has_room(&self, line: &str) -> bool {
        self.dropped == 0 && self.lines.len() < LINES_MAX && self.bytes + line.len() <= BYTES_MAX
    }

    fn is_written(&self) -> bool {
        self.lines.is_empty() && self.dropped == 0 && !self.is_writing
    }

    fn take_chunk(&mut self) -> Option<String> {
        let mut chunk = self.lines.pop_front()?;
        while let Some(line) = self.lines.pop_front_if(|line| chunk.len() + line.len() <= CHUNK_BYTES) {
            chunk += &line;
        }
        self.bytes -= chunk.len();
        Some(chunk)
    }
}

/// Writes all of it, or says how many bytes of it were not written.
fn write_all(stderr: &mut impl Write, mut bytes: &[u8]) -> Result<(), usize> {
    while !bytes.is_empty() {
        match stderr.write(bytes) {
            Ok(0) => return Err(bytes.len()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Somebody else who has the same pipe or terminal has made it so.
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(FULL_DELAY),
            Err(_) => return Err(bytes.len()),
        }
    }
    Ok(())
}

fn count_dropped(lines: u64) {
    metrics::counter!("outhook_log_lines_dropped_total").increment(lines);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// Takes a write only when it is let, fails if it is told to, and passes on what it was given.
    struct Sink {
        answers: mpsc::Receiver<io::Result<()>>,
        written: mpsc::Sender<String>,
    }

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.answers.recv().map_err(|_| io::Error::from(ErrorKind::BrokenPipe))??;
            let _ = self.written.send(String::from_utf8_lossy(bytes).into_owned());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Scene {
        stderr: Stderr,
        answer: mpsc::Sender<io::Result<()>>,
        written: mpsc::Receiver<String>,
    }

    impl Scene {
        fn new() -> Self {
            let stderr = Stderr::default();
            let ((answer, answers), (write, written)) = (mpsc::channel(), mpsc::channel());
            let writer = stderr.clone();
            thread::spawn(move || writer.work(&mut Sink { answers, written: write }));
            Self { stderr, answer, written }
        }

        fn lets(&self, writes: usize) {
            (0..writes).for_each(|_| self.answer.send(Ok(())).expect("a writer"));
        }

        fn next(&self) -> String {
            self.written.recv_timeout(PATIENCE).expect("a write")
        }

        /// Pushes a line whose write waits, so that what follows is queued.
        fn stall(&self) {
            self.stderr.push("first\n".into());
            while !self.stderr.queue().is_writing {
                thread::yield_now();
            }
        }
    }

    #[test]
    fn lines_are_written_in_their_order() {
        let scene = Scene::new();
        scene.stall();
        for line in ["a\n", "b\n", "c\n"] {
            assert_eq!(scene.stderr.push(line.into()), Logged::Well);
        }
        scene.lets(2);
        scene.stderr.flush(PATIENCE);
        assert_eq!([scene.next(), scene.next()], ["first\n", "a\nb\nc\n"]);
    }

    #[test]
    fn a_full_queue_drops_lines_until_it_is_written_and_says_how_many() {
        let long = "x".repeat(BYTES_MAX / 2 - 1) + "\n";
        for (line, fits) in [("line\n", LINES_MAX), (long.as_str(), 2)] {
            let scene = Scene::new();
            scene.stall();
            let kept = (0..fits + 7).filter(|_| scene.stderr.push(line.into()) == Logged::Well).count();
            assert_eq!(kept, fits);
            // For the first line, each of the others, that some were dropped, and the last line.
            scene.lets(fits + 3);
            scene.stderr.flush(PATIENCE);
            let all: String = scene.written.try_iter().collect();
            let (before, told) = all.trim_end().rsplit_once('\n').expect("lines");
            assert!(told.contains("] 7 log lines were dropped"), "{told}");
            assert_eq!(before.len() + 1, "first\n".len() + fits * line.len());
            assert_eq!(scene.stderr.push("after\n".into()), Logged::Well);
            assert_eq!(scene.next(), "after\n");
        }
    }

    #[test]
    fn a_write_that_fails_drops_its_lines() {
        let scene = Scene::new();
        scene.stall();
        scene.stderr.push("a\n".into());
        scene.answer.send(Err(ErrorKind::StorageFull.into())).expect("a writer");
        while scene.stderr.queue().dropped == 0 {
            thread::yield_now();
        }
        assert_eq!(scene.stderr.push("b\n".into()), Logged::Dropped);
        scene.lets(2);
        assert_eq!(scene.next(), "a\n");
        assert!(scene.next().contains("] 2 log lines were dropped"));
        scene.stderr.flush(PATIENCE);
    }

    #[test]
    fn the_end_does_not_wait_for_ever() {
        let scene = Scene::new();
        scene.stall();
        scene.stderr.flush(Duration::from_millis(1));
        assert!(scene.written.try_recv().is_err());
    }
}
