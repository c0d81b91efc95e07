//! The file of an SQLite database: creating and opening it, and its faults in words.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::OnceLock,
};

use sea_orm::{
    DbErr, RuntimeErr,
    sqlx::{
        ConnectOptions,
        sqlite::{SqliteConnectOptions, SqliteError, SqliteJournalMode, SqliteSynchronous},
    },
};

use super::{OpenError, connect::PATIENCE, lock::LOCK};
use crate::config::database::{self, DatabaseUrl};

/// A database holds tokens, API keys and messages.
const OWNER_ONLY: u32 = 0o600;
/// The permission bits of everybody but the owner.
const OTHERS: u32 = 0o077;

/// The file of this process, of which there is one, for errors that come from deep inside.
static FILE: OnceLock<PathBuf> = OnceLock::new();

/// What `outhook check` finds out about a file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum FileState {
    /// It is not there, and can be created.
    Missing,
    /// It can be written.
    Usable,
}

/// How to open a file that is there. Only [`create`] creates one.
pub(super) fn options(path: &Path) -> Result<SqliteConnectOptions, OpenError> {
    let path = absolute(path)?;
    if !is_there(&path)? {
        return Err(OpenError::Unusable(format!(
            "there is no database at {}, where database.url has it: `outhook run` or `outhook migrate` creates it",
            path.display()
        )));
    }
    FILE.get_or_init(|| path.clone());
    warn_of_links(&path);
    Ok(SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(PATIENCE)
        .disable_statement_logging())
}

/// Opens the file itself, and creates it if it is missing. SQLite gives the files beside it (`-wal`, `-shm`)
/// the same permissions.
///
/// Whoever closes it drops the locks that SQLite has on it in this process (fcntl(2)): close it before SQLite
/// opens the database, or after.
pub(super) fn create(path: &Path) -> Result<File, OpenError> {
    let path = absolute(path)?;
    is_there(&path)?;
    open_private(&path)
}

/// Opens a file for writing, and creates it for its owner only.
pub(super) fn open_private(path: &Path) -> Result<File, OpenError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(OWNER_ONLY);
    options.open(path).map_err(|error| OpenError::Unusable(refusal(path, &error)))
}

/// Creates the file of a configuration if it is an SQLite file that is missing.
pub(crate) fn create_file(config: &database::Database) -> Result<(), OpenError> {
    match &config.url {
        DatabaseUrl::Sqlite(path) => create(path).map(drop),
        DatabaseUrl::Postgres(_) => Ok(()),
    }
}

/// Finds out whether the file can be used, without changing anything.
pub(crate) fn examine_file(path: &Path) -> Result<FileState, OpenError> {
    let path = absolute(path)?;
    let is_there = is_there(&path)?;
    let real = if is_there { canonical(&path)? } else { path };
    let refuse = |error: io::Error| OpenError::Unusable(refusal(&real, &error));
    if is_there {
        OpenOptions::new().write(true).open(&real).map_err(refuse)?;
    }
    // SQLite keeps files beside it. This one has no name, and is gone at once.
    tempfile::tempfile_in(real.parent().unwrap_or(&real)).map_err(refuse)?;
    Ok(if is_there { FileState::Usable } else { FileState::Missing })
}

/// What to do about files of a database that other users may open, if there are any.
pub(crate) fn exposure(path: &Path) -> Option<String> {
    let real = fs::canonicalize(path).ok()?;
    let exposed: Vec<String> = ["", "-wal", "-shm", LOCK]
        .into_iter()
        .map(|suffix| beside(&real, suffix))
        .filter(|file| fs::metadata(file).is_ok_and(|metadata| metadata.mode() & OTHERS != 0))
        .map(|file| file.display().to_string())
        .collect();
    (!exposed.is_empty()).then(|| {
        let exposed = exposed.join(" ");
        format!(
            "other users may open the database, which holds tokens and messages: run `chmod go= {exposed}`"
        )
    })
}

/// A file beside a database, as SQLite names them.
pub(super) fn beside(database: &Path, suffix: &str) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// The path that does not depend on where the process runs. SQLite would take one that begins with `file:`
/// for a URL.
fn absolute(path: &Path) -> Result<PathBuf, OpenError> {
    std::path::absolute(path).map_err(|error| OpenError::Unusable(refusal(path, &error)))
}

/// The one name of a file that is there.
pub(super) fn canonical(path: &Path) -> Result<PathBuf, OpenError> {
    fs::canonicalize(path).map_err(|error| OpenError::Unusable(refusal(path, &error)))
}

fn is_there(path: &Path) -> Result<bool, OpenError> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => Ok(true),
        Ok(metadata) if metadata.is_dir() => {
            Err(OpenError::Unusable(refusal(path, &ErrorKind::IsADirectory.into())))
        }
        Ok(_) => {
            Err(OpenError::Unusable(format!("{} is not a regular file: change database.url", path.display())))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(OpenError::Unusable(refusal(path, &error))),
    }
}

/// SQLite keeps the log of a database by its name: two names, two logs, and neither has all that was
/// committed.
fn warn_of_links(path: &Path) {
    let links = fs::metadata(path).map_or(1, |metadata| metadata.nlink());
    if links > 1 {
        log::warn!(
            "{} has {links} names (hard links), and is damaged if it is used under more than one of them: \
             remove the others",
            path.display()
        );
    }
}

/// Why the operating system does not let us have a file, and what to do.
fn refusal(path: &Path, error: &io::Error) -> String {
    let path = path.display();
    match error.kind() {
        ErrorKind::NotFound => {
            format!("the folder of {path} does not exist: create it, or change database.url")
        }
        ErrorKind::IsADirectory => format!("{path} is a directory: let database.url name a file in it"),
        ErrorKind::NotADirectory => format!("the folder of {path} is a file: change database.url"),
        ErrorKind::ReadOnlyFilesystem => {
            format!("{path} is on a read-only file system: mount it for writing, or change database.url")
        }
        ErrorKind::PermissionDenied => unwritable(&path),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => full(&path),
        _ => format!("{path} can't be opened ({error}): mend that, or change database.url"),
    }
}

fn unwritable(path: &impl std::fmt::Display) -> String {
    format!(
        "{path} can't be written: let outhook's user write to it and to its folder, or change database.url"
    )
}

fn full(path: &impl std::fmt::Display) -> String {
    format!("the disk of {path} is full: free some space")
}

/// Primary result codes of SQLite (<https://www.sqlite.org/rescode.html>).
mod code {
    pub(super) const PERM: i64 = 3;
    pub(super) const BUSY: i64 = 5;
    pub(super) const LOCKED: i64 = 6;
    pub(super) const READONLY: i64 = 8;
    pub(super) const IOERR: i64 = 10;
    pub(super) const CORRUPT: i64 = 11;
    pub(super) const FULL: i64 = 13;
    pub(super) const CANTOPEN: i64 = 14;
    pub(super) const NOTADB: i64 = 26;
}

/// What waiting does not mend.
const LASTING: [i64; 5] = [code::PERM, code::READONLY, code::CORRUPT, code::CANTOPEN, code::NOTADB];

/// An error that has to do with the file and not with the statement, with its file and the remedy.
pub(super) fn fault_of_file(error: &DbErr) -> Option<String> {
    let path = FILE.get()?.display();
    told(result_code(error)?, &path)
}

/// The same, if waiting does not mend it.
pub(super) fn lasting_fault(error: &DbErr) -> Option<String> {
    fault_of_file(error).filter(|_| result_code(error).is_some_and(|code| LASTING.contains(&code)))
}

fn told(code: i64, path: &impl std::fmt::Display) -> Option<String> {
    Some(match code {
        code::PERM | code::READONLY => unwritable(path),
        code::BUSY | code::LOCKED => format!("{path} is locked by another process: end that one"),
        code::IOERR => format!("{path} can't be read or written: check its disk, and whether that is full"),
        code::CORRUPT => format!("{path} is damaged: restore it from a backup"),
        code::FULL => full(path),
        code::CANTOPEN => {
            format!(
                "{path} or a file beside it can't be opened: let outhook's user write to it and to its folder"
            )
        }
        code::NOTADB => {
            format!("{path} is not an SQLite database: change database.url, or move that file away")
        }
        _ => return None,
    })
}

fn result_code(error: &DbErr) -> Option<i64> {
    let (DbErr::Conn(error) | DbErr::Exec(error) | DbErr::Query(error)) = error else { return None };
    let RuntimeErr::SqlxError(error) = error else { return None };
    let error = error.as_database_error()?;
    error.try_downcast_ref::<SqliteError>()?;
    // The lowest byte of an extended code is the primary one.
    Some(error.code()?.parse::<i64>().ok()? & 0xff)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn refused(path: &Path) -> String {
        create(path).expect_err("refused").to_string()
    }

    #[test]
    fn a_refusal_names_the_path_and_the_remedy() {
        let kinds = [
            (ErrorKind::NotFound, "create it"),
            (ErrorKind::IsADirectory, "name a file"),
            (ErrorKind::NotADirectory, "change database.url"),
            (ErrorKind::ReadOnlyFilesystem, "mount it for writing"),
            (ErrorKind::PermissionDenied, "let outhook's user write"),
            (ErrorKind::StorageFull, "free some space"),
            (ErrorKind::QuotaExceeded, "free some space"),
            (ErrorKind::InvalidInput, "change database.url"),
        ];
        for (kind, remedy) in kinds {
            let told = refusal(Path::new("/x/outhook.db"), &kind.into());
            assert!(told.contains("/x/outhook.db") && told.contains(remedy), "{told}");
            assert_eq!(told.lines().count(), 1, "{told}");
        }
    }

    #[test]
    fn a_fault_of_the_file_names_the_path_and_the_remedy() {
        let faults = [
            (3, "let outhook's user"),
            (5, "end that one"),
            (6, "end that one"),
            (8, "let outhook's user"),
            (10, "check its disk"),
            (11, "backup"),
            (13, "free some space"),
            (14, "let outhook's user"),
            (26, "move that file away"),
        ];
        for (code, remedy) in faults {
            let told = told(code, &"/x/outhook.db").expect("a fault of the file");
            assert!(told.contains("/x/outhook.db") && told.contains(remedy), "{told}");
        }
        assert_eq!(told(1, &"/x/outhook.db"), None, "a fault of the statement");
    }

    #[test]
    fn what_is_no_place_for_a_database_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        fs::write(at("file"), "x").expect("a file");
        assert!(refused(&at("missing/db")).contains("does not exist"));
        assert!(refused(folder.path()).contains("is a directory"));
        assert!(refused(&at("file/db")).contains("is a file"));
        assert!(refused(Path::new("/dev/null")).contains("not a regular file"));
    }

    #[test]
    fn a_new_file_is_for_its_owner_only_also_behind_a_link() {
        let folder = tempfile::tempdir().expect("a folder");
        let (real, link) = (folder.path().join("real"), folder.path().join("link"));
        symlink(&real, &link).expect("a link");
        assert_eq!(examine_file(&link).expect("usable"), FileState::Missing);
        create(&link).expect("created");
        assert_eq!(fs::metadata(&real).expect("the file").mode() & 0o777, OWNER_ONLY);
        assert_eq!(exposure(&link), None);
        assert_eq!(examine_file(&link).expect("usable"), FileState::Usable);
        fs::set_permissions(&real, fs::Permissions::from_mode(0o644)).expect("chmod");
        let told = exposure(&link).expect("exposed");
        assert!(
            told.contains(&format!("chmod go= {}", fs::canonicalize(&real).expect("a path").display())),
            "{told}"
        );
    }
}
