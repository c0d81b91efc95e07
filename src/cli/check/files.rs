//! Whether the files that the configuration names can be read, and written where they are outhook's own. The
//! route to bots reads `egress.ca_file`.

use std::{
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
};

use super::Found;
use crate::{
    admin,
    config::{Config, database::DatabaseUrl},
    exit::Failed,
    zulip::Site,
};

pub(super) fn check(config: &Config) -> Result<Found, Failed> {
    let faults: Vec<String> = [
        admin::check_token(&config.admin).map_err(|fault| fault.message),
        Site::new(&config.zulip).map(drop).map_err(|fault| fault.to_string()),
    ]
    .into_iter()
    .filter_map(Result::err)
    .collect();
    let database = check_database(&config.database.url);
    match (faults.as_slice(), database) {
        ([], Ok(())) => Ok(Found::Well("all that are named can be used".into())),
        ([], Err(fault)) => Err(Failed::unavailable(fault)),
        (faults, Ok(())) => Err(Failed::usage(faults.join("; "))),
        (faults, Err(fault)) => Err(Failed::usage(format!("{}; {fault}", faults.join("; ")))),
    }
}

/// SQLite writes the file, and others beside it.
fn check_database(url: &DatabaseUrl) -> Result<(), String> {
    let DatabaseUrl::Sqlite(path) = url else { return Ok(()) };
    for file in with_neighbors(path) {
        let fault = |error: io::Error| {
            format!(
                "{} can't be written ({error}): let outhook's user write to it and to its folder",
                file.display()
            )
        };
        match OpenOptions::new().append(true).open(&file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            opened => drop(opened.map_err(fault)?),
        }
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    try_folder(folder).map_err(|error| {
        format!(
            "no file can be made in the folder {} ({error}): let outhook's user write to it",
            folder.display()
        )
    })
}

fn with_neighbors(path: &Path) -> impl Iterator<Item = PathBuf> {
    ["", "-wal", "-shm", ".lock"].into_iter().map(|suffix| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        name.into()
    })
}

fn try_folder(folder: &Path) -> io::Result<()> {
    let probe = folder.join(format!(".outhook-check-{}", std::process::id()));
    File::create_new(&probe)?;
    fs::remove_file(probe)
}
