//! One value of the configuration: a file gives it its type, the environment gives text.

use std::collections::BTreeMap;

use ::config::{File, FileFormat, Source, Value, ValueKind};

use super::connection_url::masked;

/// What the `config` crate names as the origin of a value that a variable set.
const ENVIRONMENT: &str = "the environment";

/// The most characters of a value that a fault shows.
const SHOWN_CHARS_MAX: usize = 120;

pub(super) fn text(kind: &ValueKind) -> Option<&str> {
    match kind {
        ValueKind::String(text) => Some(text),
        _ => None,
    }
}

pub(super) fn integer(kind: &ValueKind) -> Option<i64> {
    match kind {
        ValueKind::I64(number) => Some(*number),
        ValueKind::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

pub(super) fn float(kind: &ValueKind) -> Option<f64> {
    match kind {
        ValueKind::Float(number) => Some(*number),
        ValueKind::I64(number) => Some(*number as f64),
        ValueKind::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

pub(super) fn boolean(kind: &ValueKind) -> Option<bool> {
    match kind {
        ValueKind::Boolean(value) => Some(*value),
        ValueKind::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

/// An entry of a list as text: ports are numbers in a file, and text in a variable.
pub(super) fn entry(kind: &ValueKind) -> Option<String> {
    match kind {
        ValueKind::String(text) => Some(text.trim().to_owned()),
        ValueKind::I64(number) => Some(number.to_string()),
        _ => None,
    }
}

/// The entries of a list, which a variable may give as `["a", "b"]` or as `a, b`. An IPv6 address in brackets
/// is no list: `[::1]:8080`.
pub(super) fn entries(value: &Value) -> Option<Vec<Value>> {
    match &value.kind {
        ValueKind::Array(entries) => Some(entries.clone()),
        ValueKind::String(text) => {
            let origin = value.origin().map(str::to_owned);
            let kinds = entries_of_text(text.trim());
            Some(kinds.into_iter().map(|kind| Value::new(origin.as_ref(), kind)).collect())
        }
        _ => None,
    }
}

fn entries_of_text(text: &str) -> Vec<ValueKind> {
    match toml(text) {
        Some(ValueKind::Array(entries)) => entries.into_iter().map(|entry| entry.kind).collect(),
        _ => items(text).map(ValueKind::from).collect(),
    }
}

/// What stands between commas, or on lines of its own.
fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split([',', '\n']).map(str::trim).filter(|item| !item.is_empty())
}

/// The entries of a table, which a variable may give as `{ a = "b" }` or as `a=b, c=d`.
pub(super) fn table(value: &Value) -> Option<BTreeMap<String, Value>> {
    match &value.kind {
        ValueKind::Table(table) => Some(table.clone().into_iter().collect()),
        ValueKind::String(text) => match toml(text.trim()) {
            Some(ValueKind::Table(table)) => Some(table.into_iter().collect()),
            _ => pairs(text, value.origin().map(str::to_owned).as_ref()),
        },
        _ => None,
    }
}

fn pairs(text: &str, origin: Option<&String>) -> Option<BTreeMap<String, Value>> {
    let pair = |item: &str| {
        let (name, entry) = item.split_once('=')?;
        Some((name.trim().to_owned(), Value::new(origin, entry.trim())))
    };
    items(text).map(pair).collect()
}

/// Reads `text` as the right-hand side of a TOML assignment.
fn toml(text: &str) -> Option<ValueKind> {
    let mut document = File::from_str(&format!("value = {text}"), FileFormat::Toml).collect().ok()?;
    let value = document.remove("value")?;
    document.is_empty().then_some(value.kind)
}

/// Whether a variable set the value, and not the file.
pub(super) fn is_from_environment(value: &Value) -> bool {
    value.origin() == Some(ENVIRONMENT)
}

/// The value as it was written, shortened, with passwords masked.
pub(super) fn shown(value: &Value) -> String {
    match &value.kind {
        ValueKind::String(text) if is_from_environment(value) && !text.is_empty() => {
            shortened(&masked(text)).escape_debug().to_string()
        }
        ValueKind::String(text) => format!("{:?}", shortened(&masked(text))),
        ValueKind::Array(_) => "[…]".to_owned(),
        ValueKind::Table(_) => "{…}".to_owned(),
        scalar => scalar.to_string(),
    }
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
