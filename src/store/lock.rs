//! One daemon for each SQLite file.
//!
//! Two locks of the operating system, which end with the process. The first is on the file itself, so no
//! other name of it leads past: a link of either kind, a bind mount, `..`. It is an flock, which SQLite's own
//! locks (fcntl) do not meet on Linux. The second is on a file beside it: when somebody moves the database
//! away from a running daemon, its log (`-wal`) stays, and a new database under the old name would read it.

use std::{
    fs::{self, File, TryLockError},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::{
    OpenError,
    sqlite::{beside, canonical, create, open_private},
};

/// What the name of the lock file ends with.
pub(super) const LOCK: &str = ".lock";

/// The right to work on an SQLite file, until dropped: not before SQLite has closed it, see
/// [`create`].
#[derive(Debug)]
#[expect(dead_code, reason = "kept open")]
pub(crate) struct FileLock {
    database: File,
    name: File,
}

impl FileLock {
    /// Takes the locks of a database, which is created if it is missing.
    ///
    /// # Errors
    /// If another process has one of them, or the files can't be opened.
    pub(crate) fn take(database: &Path) -> Result<Self, OpenError> {
        let file = create(database)?;
        let path = canonical(database)?;
        Ok(Self { database: lock(file, &path)?, name: lock(open_private(&beside(&path, LOCK))?, &path)? })
    }
}

fn lock(file: File, database: &Path) -> Result<File, OpenError> {
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::Unusable(taken(&file, database))),
        Err(TryLockError::Error(error)) => Err(OpenError::Unusable(format!(
            "the lock of {} can't be taken ({error}): put the database on a local disk",
            database.display()
        ))),
    }
}

fn taken(file: &File, database: &Path) -> String {
    let database = database.display();
    let who = match holder(file) {
        Some((process, name)) => format!("process {process}, has {} open", name.display()),
        None => "which can't be named, has it open".into(),
    };
    format!(
        "another outhook daemon is working on the database {database} ({who}): stop it first, or give this \
         daemon a database of its own"
    )
}

/// The process that has locked a file, and the name under which it has that open, as Linux tells it
/// (proc_locks(5), proc_pid_fd(5)).
fn holder(file: &File) -> Option<(u32, PathBuf)> {
    let file = file.metadata().ok()?;
    let is_same = |other: &Path| {
        fs::metadata(other).is_ok_and(|other| (other.dev(), other.ino()) == (file.dev(), file.ino()))
    };
    let locks = fs::read_to_string("/proc/locks").ok()?;
    locks.lines().filter_map(flock_process).find_map(|process| {
        let open = fs::read_dir(format!("/proc/{process}/fd")).ok()?;
        let found = open.filter_map(Result::ok).find(|open| is_same(&open.path()))?;
        Some((process, fs::read_link(found.path()).ok()?))
    })
}

/// The process of a line such as `7: FLOCK  ADVISORY  WRITE 4711 08:01:131 0 EOF`.
fn flock_process(line: &str) -> Option<u32> {
    let mut fields = line.split_whitespace().skip(1);
    (fields.next()? == "FLOCK").then(|| fields.nth(2)?.parse().ok())?
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_file_is_locked_under_each_of_its_names() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        let held = FileLock::take(&at("db")).expect("free");
        fs::create_dir(at("sub")).expect("a folder");
        symlink(at("db"), at("symbolic")).expect("a link");
        symlink(folder.path(), at("folder")).expect("a link");
        fs::hard_link(at("db"), at("hard")).expect("a link");
        let holder = fs::canonicalize(at("db")).expect("a path");
        for name in ["db", "symbolic", "hard", "sub/../db", "folder/db", "folder/symbolic"] {
            let refusal = FileLock::take(&at(name)).expect_err(name).to_string();
            assert!(refusal.contains("another outhook daemon"), "{refusal}");
            assert!(refusal.contains(&*holder.to_string_lossy()), "{refusal}");
            assert!(refusal.contains(&format!("process {}", std::process::id())), "{refusal}");
        }
        drop(held);
        FileLock::take(&at("hard")).expect("free again");
    }

    #[test]
    fn a_file_that_was_moved_away_keeps_its_old_and_its_new_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        let _held = FileLock::take(&at("db")).expect("free");
        fs::rename(at("db"), at("moved")).expect("moved");
        for name in ["db", "moved"] {
            assert!(FileLock::take(&at(name)).is_err(), "{name}");
        }
    }

    #[test]
    fn only_a_held_flock_names_a_process() {
        let lines = [
            ("7: FLOCK  ADVISORY  WRITE 4711 08:01:131 0 EOF", Some(4711)),
            ("7: -> FLOCK  ADVISORY  WRITE 4711 08:01:131 0 EOF", None),
            ("8: POSIX  ADVISORY  READ 4711 08:01:131 128 128", None),
            ("9: FLOCK", None),
            ("", None),
        ];
        for (line, process) in lines {
            assert_eq!(flock_process(line), process, "{line}");
        }
    }
}
