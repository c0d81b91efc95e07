//! One section of the configuration, read key by key.
//!
//! A getter takes its key out of the section. A value that is not allowed becomes a fault and the getter goes
//! on with the default, so that one run reports everything. Keys that are left at the end are unknown.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use ::config::{Map, Value, ValueKind};

use super::fault::Fault;
use super::value;
use super::written::{Shown, Written};

/// The values of one section, and what was found wrong with them.
pub(super) struct Section {
    name: &'static str,
    values: Map<String, Value>,
    known: Vec<&'static str>,
    faults: Vec<Fault>,
    written: Written,
}

impl Section {
    pub(super) fn new(name: &'static str, values: Map<String, Value>) -> Self {
        Self { name, values, known: Vec::new(), faults: Vec::new(), written: Written::default() }
    }

    /// A whole number within `range`.
    pub(super) fn integer<T>(&mut self, key: &'static str, default: T, range: RangeInclusive<T>) -> T
    where
        T: Copy + PartialOrd + fmt::Display + TryFrom<i64>,
    {
        let allowed = format!("an integer from {} to {}", range.start(), range.end());
        let number = self.read(key, default, &allowed, move |kind| {
            let number = T::try_from(value::integer(kind)?).ok()?;
            range.contains(&number).then_some(number)
        });
        self.note(key, Shown::plain(number));
        number
    }

    /// A number, whole or not, within `range`.
    pub(super) fn float(&mut self, key: &'static str, default: f64, range: RangeInclusive<f64>) -> f64 {
        let allowed = format!("a number from {} to {}", range.start(), range.end());
        let number = self.read(key, default, &allowed, move |kind| {
            value::float(kind).filter(|number| range.contains(number))
        });
        self.note(key, Shown::plain(number));
        number
    }

    /// A duration with its unit, such as `"1m 30s"`, within `range`.
    pub(super) fn duration(
        &mut self,
        key: &'static str,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Duration {
        let [example, start, end] = [default, *range.start(), *range.end()].map(humantime::format_duration);
        let allowed = format!("a duration with its unit, such as \"{example}\", from {start} to {end}");
        let duration = self.read(key, default, &allowed, move |kind| {
            let duration = humantime::parse_duration(value::text(kind)?.trim()).ok()?;
            range.contains(&duration).then_some(duration)
        });
        self.note(key, Shown::plain(humantime::format_duration(duration)));
        duration
    }

    /// `true` or `false`.
    pub(super) fn boolean(&mut self, key: &'static str, default: bool) -> bool {
        let value = self.read(key, default, "true or false", value::boolean);
        self.note(key, Shown::plain(value));
        value
    }

    /// The value whose name is given.
    pub(super) fn choice<T>(&mut self, key: &'static str, default: T, options: &[(&str, T)]) -> T
    where
        T: Copy + PartialEq,
    {
        let names: Vec<&str> = options.iter().map(|(name, _)| *name).collect();
        let chosen = self.read(key, default, &one_of(&names), |kind| {
            let text = value::text(kind)?;
            options.iter().find(|(name, _)| *name == text).map(|(_, value)| *value)
        });
        let name = options.iter().find(|(_, value)| *value == chosen).map_or("", |(name, _)| *name);
        self.note(key, Shown::quoted(name));
        chosen
    }

    /// A text that `parse` accepts.
    pub(super) fn parsed<T: fmt::Display>(
        &mut self,
        key: &'static str,
        default: T,
        allowed: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> T {
        self.note_text(key, &default.to_string());
        self.read(key, default, allowed, |kind| parse(value::text(kind)?))
    }

    /// A text that `parse` accepts, or `""` for none.
    pub(super) fn optional<T: fmt::Debug>(
        &mut self,
        key: &'static str,
        default: Option<T>,
        allowed: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        self.note_text(key, &default.as_ref().map_or_else(String::new, |default| format!("{default:?}")));
        self.read(key, default, allowed, |kind| match value::text(kind)? {
            "" => Some(None),
            text => parse(text).map(Some),
        })
    }

    /// A list, empty by default, each of whose entries `parse` accepts.
    pub(super) fn list<T>(
        &mut self,
        key: &'static str,
        allowed: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Vec<T> {
        self.explained_list(key, allowed, |text| parse(text).ok_or_else(|| allowed.to_owned()))
    }

    /// The same, where `parse` says of an entry that it does not accept what it must be.
    pub(super) fn explained_list<T>(
        &mut self,
        key: &'static str,
        allowed: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Vec<T> {
        self.note(key, Shown::list(&[]));
        let Some(value) = self.take(key) else { return Vec::new() };
        let Some(entries) = value::entries(&value) else {
            self.refuse(key, &value, &format!("a list, each entry {allowed}"));
            return Vec::new();
        };
        let (mut accepted, mut shown) = (Vec::with_capacity(entries.len()), Vec::new());
        for entry in entries {
            let text = value::entry(&entry.kind).ok_or_else(|| allowed.to_owned());
            shown.extend(text.iter().map(|text| Shown::quoted(text)));
            match text.and_then(|text| parse(&text)) {
                Ok(item) => accepted.push(item),
                Err(allowed) => self.refuse(key, &entry, &allowed),
            }
        }
        self.note(key, Shown::list(&shown));
        accepted
    }

    /// A table, empty by default, each of whose values `parse` accepts.
    pub(super) fn map<T>(
        &mut self,
        key: &'static str,
        allowed: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> BTreeMap<String, T> {
        self.note(key, Shown::list(&[]));
        let Some(value) = self.take(key) else { return BTreeMap::new() };
        let Some(entries) = value::table(&value) else {
            self.refuse(key, &value, &format!("a table, each value {allowed}"));
            return BTreeMap::new();
        };
        let (mut accepted, mut shown) = (BTreeMap::new(), Vec::new());
        for (name, entry) in entries {
            shown.extend(value::text(&entry.kind).map(|text| Shown::quoted(text).named(&name)));
            match value::text(&entry.kind).and_then(&parse) {
                Some(item) => {
                    accepted.insert(name, item);
                }
                None => self.refuse(&format!("{key}.{name}"), &entry, allowed),
            }
        }
        self.note(key, Shown::list(&shown));
        accepted
    }

    /// Two durations, each with its key and default, of which the second is not shorter than the first. A
    /// default gives way to the other key, so that one of the two can be changed alone.
    pub(super) fn ordered(
        &mut self,
        (first_key, first_default): (&'static str, Duration),
        (second_key, second_default): (&'static str, Duration),
        range: RangeInclusive<Duration>,
    ) -> (Duration, Duration) {
        let first = self.duration(first_key, first_default, range.clone());
        let second = self.duration(second_key, second_default, range);
        if second >= first {
            return (first, second);
        }
        if second == second_default {
            return (first, first);
        }
        if first != first_default {
            let [shown, limit] = [second, first].map(humantime::format_duration);
            let allowed = format!("at least {}, which is {limit}", self.full(first_key));
            self.reject(second_key, &format!("\"{shown}\""), &allowed);
        }
        (second, second)
    }

    /// Records a fault that only shows when several keys are looked at together.
    pub(super) fn reject(&mut self, key: &str, shown: &str, allowed: &str) {
        let (key, value, allowed) = (self.full(key), shown.to_owned(), allowed.to_owned());
        self.faults.push(Fault::Value { key, value, allowed, variable: None });
    }

    /// Whether the value of `key` was refused, so that a check on its default would only confuse.
    pub(super) fn has_fault(&self, key: &str) -> bool {
        let full = self.full(key);
        self.faults.iter().any(|fault| matches!(fault, Fault::Value { key, .. } if *key == full))
    }

    /// Sets down what a key is set to.
    pub(super) fn note(&mut self, key: &str, value: Shown) {
        self.written.note(self.full(key), value);
    }

    /// Sets down a text, or else the `default` one.
    fn note_text(&mut self, key: &str, default: &str) {
        let text = self.values.get(key).and_then(|value| value::text(&value.kind));
        self.note(key, Shown::quoted(text.unwrap_or(default)));
    }

    /// All faults of the section, unknown keys last, and what its keys are set to.
    pub(super) fn finish(self, written: &mut Written) -> Vec<Fault> {
        written.extend(self.written);
        let left: BTreeMap<String, Value> = self.values.into_iter().collect();
        let mut faults = self.faults;
        for (key, value) in left {
            let key = format!("{}.{key}", self.name);
            let variable = variable_of(&key, &value);
            faults.push(Fault::UnknownKey { key, variable, known: self.known.clone() });
        }
        faults
    }

    fn read<T>(
        &mut self,
        key: &'static str,
        default: T,
        allowed: &str,
        parse: impl FnOnce(&ValueKind) -> Option<T>,
    ) -> T {
        let Some(value) = self.take(key) else { return default };
        parse(&value.kind).unwrap_or_else(|| {
            self.refuse(key, &value, allowed);
            default
        })
    }

    fn take(&mut self, key: &'static str) -> Option<Value> {
        self.known.push(key);
        self.values.remove(key)
    }

    fn refuse(&mut self, key: &str, value: &Value, allowed: &str) {
        let key = self.full(key);
        let variable = variable_of(&key, value);
        let (value, allowed) = (value::shown(value), allowed.to_owned());
        self.faults.push(Fault::Value { key, value, allowed, variable });
    }

    fn full(&self, key: &str) -> String {
        format!("{}.{key}", self.name)
    }
}

/// The name of the variable that set `value`, if it was one.
fn variable_of(key: &str, value: &Value) -> Option<String> {
    let name = || format!("OUTHOOK__{}", key.replace('.', "__").to_uppercase());
    value::is_from_environment(value).then(name)
}

/// `"a"`, `"b"` or `"c"`.
fn one_of(names: &[&str]) -> String {
    match names {
        [] => "absent".to_owned(),
        [only] => format!("\"{only}\", the only one available"),
        [first @ .., last] => format!("\"{}\" or \"{last}\"", first.join("\", \"")),
    }
}
