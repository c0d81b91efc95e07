//! What is wrong with a configuration, in words an operator can act on.

use std::fmt;

/// One thing wrong with the configuration. Its text never holds a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A value that its key does not allow.
    Value {
        /// The key with its section, such as `queue.prefetch`.
        key: String,
        /// The value as it was written, passwords masked.
        value: String,
        /// What would be allowed, as the end of a sentence that begins with "must be".
        allowed: String,
        /// The environment variable that set it, if the file did not.
        variable: Option<String>,
    },
    /// A key that its section does not have. Its value is not told: it may be a secret gone astray.
    UnknownKey {
        /// The key with its section.
        key: String,
        /// The environment variable that set it, if the file did not.
        variable: Option<String>,
        /// The keys of the section.
        known: Vec<&'static str>,
    },
    /// A section, or a key outside any section, that does not exist.
    UnknownSection {
        /// Its name.
        name: String,
        /// The sections there are.
        known: Vec<&'static str>,
    },
    /// A value where a section belongs.
    NotASection {
        /// The name of the section.
        name: &'static str,
    },
    /// A file that is not TOML.
    Syntax {
        /// The parser's message.
        message: String,
    },
    /// An environment variable meant for outhook whose value is not text.
    NotUnicode,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value { key, value, allowed, variable } => {
                write!(f, "{key} = {value}: must be {allowed}{}", set_by(variable.as_deref()))
            }
            Self::UnknownKey { key, variable, known } => {
                let (known, set_by) = (known.join(", "), set_by(variable.as_deref()));
                write!(f, "{key}: unknown key; this section has {known}{set_by}")
            }
            Self::UnknownSection { name, known } => {
                write!(f, "{name}: unknown section; the sections are {}", known.join(", "))
            }
            Self::NotASection { name } => write!(f, "{name}: must be a section, written [{name}]"),
            Self::Syntax { message } => write!(f, "the configuration file: {message}"),
            Self::NotUnicode => f.write_str("the environment: an OUTHOOK__ variable is not UTF-8"),
        }
    }
}

fn set_by(variable: Option<&str>) -> String {
    variable.map_or_else(String::new, |variable| format!(" (set by {variable})"))
}

/// Everything wrong with the configuration, displayed one fault per line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Faults(pub(crate) Vec<Fault>);

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.0.iter().map(Fault::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for Faults {}
