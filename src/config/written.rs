//! What each key is set to, as text: to tell an operator what a reload changes.

use std::{
    collections::{BTreeMap, hash_map::DefaultHasher},
    fmt,
    hash::{Hash, Hasher},
};

use super::connection_url::masked;

/// All keys with their values or defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Written(BTreeMap<String, Shown>);

/// A value whose text shows no password; two passwords still differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shown {
    text: String,
    fingerprint: u64,
}

/// A key that has another value than before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    /// The key with its section.
    pub(crate) key: String,
    before: Shown,
    after: Shown,
}

impl Written {
    pub(super) fn note(&mut self, key: String, value: Shown) {
        self.0.insert(key, value);
    }

    pub(super) fn extend(&mut self, others: Self) {
        self.0.extend(others.0);
    }

    /// The keys that `new` sets otherwise.
    pub(crate) fn changes(&self, new: &Self) -> Vec<Change> {
        let pairs = self.0.iter().filter_map(|(key, before)| Some((key, before, new.0.get(key)?)));
        let changed = pairs.filter(|(_, before, after)| before != after);
        changed
            .map(|(key, before, after)| Change {
                key: key.clone(),
                before: before.clone(),
                after: after.clone(),
            })
            .collect()
    }

    /// Takes on a change.
    pub(crate) fn apply(&mut self, change: Change) {
        self.0.insert(change.key, change.after);
    }

    #[cfg(test)]
    pub(crate) fn has(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }
}

impl Shown {
    /// A value that is never secret.
    pub(super) fn plain(text: impl fmt::Display) -> Self {
        let text = text.to_string();
        Self { fingerprint: fingerprint(&text), text }
    }

    /// A text that may hold a password.
    pub(super) fn quoted(text: &str) -> Self {
        Self { text: format!("{:?}", masked(text)), fingerprint: fingerprint(text) }
    }

    /// Values between brackets.
    pub(super) fn list(items: &[Self]) -> Self {
        let texts: Vec<&str> = items.iter().map(|item| item.text.as_str()).collect();
        let fingerprints: Vec<u64> = items.iter().map(|item| item.fingerprint).collect();
        Self { text: format!("[{}]", texts.join(", ")), fingerprint: fingerprint(&fingerprints) }
    }

    /// A value with its name in a table.
    pub(super) fn named(&self, name: &str) -> Self {
        Self { text: format!("{name} = {}", self.text), fingerprint: fingerprint(&(name, self.fingerprint)) }
    }
}

fn fingerprint(value: &(impl Hash + ?Sized)) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, before, after } = self;
        match before.text == after.text {
            true => write!(f, "{key} {} (another password)", after.text),
            false => write!(f, "{key} {} -> {}", before.text, after.text),
        }
    }
}
