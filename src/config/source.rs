//! Where the configuration comes from: a file, then `OUTHOOK__SECTION__KEY` variables over it.

use std::path::Path;
use std::{fs, io};

use ::config::{ConfigError, Environment, File, FileFormat};

use super::fault::{Fault, Faults};

/// The text of the file at `path`; a file that is not there is empty unless it is `required`.
pub(super) fn text(path: &Path, required: bool) -> io::Result<String> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text.strip_prefix('\u{feff}').unwrap_or(&text).to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound && !required => Ok(String::new()),
        Err(error) => Err(error),
    }
}

/// The variables of the process that are meant for outhook.
pub(super) fn variables() -> Environment {
    Environment::with_prefix("OUTHOOK").prefix_separator("__").separator("__")
}

/// The file's `text` with `variables` over it.
pub(super) fn layered(text: &str, variables: Environment) -> Result<::config::Config, Faults> {
    ::config::Config::builder()
        .add_source(File::from_str(text, FileFormat::Toml))
        .add_source(variables)
        .build()
        .map_err(|error| Faults(vec![fault(&error)]))
}

fn fault(error: &ConfigError) -> Fault {
    match error {
        ConfigError::FileParse { cause, .. } => {
            Fault::Syntax { message: without_excerpt(&cause.to_string()) }
        }
        // The crate's own message would show the value.
        _ => Fault::NotUnicode,
    }
}

/// The parser's message without the line of the file it quotes, which may hold a password.
fn without_excerpt(message: &str) -> String {
    let lines: Vec<&str> = message.lines().filter(|line| !is_excerpt(line)).collect();
    lines.join(": ")
}

fn is_excerpt(line: &str) -> bool {
    line.trim_start_matches(|c: char| c == ' ' || c.is_ascii_digit()).starts_with('|')
}
