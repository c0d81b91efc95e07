//! An object whose members are not taken apart.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{MapAccess, Visitor},
    ser::SerializeMap,
};
use serde_json::value::RawValue;

/// The members of a JSON object, in their order, their values as they were written.
#[derive(Debug, Default)]
pub struct Fields<'a>(pub Vec<(Cow<'a, str>, &'a RawValue)>);

/// What a field is, if it is not what it must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// It is missing.
    Nothing,
    /// A value of this kind.
    Kind(Kind),
    /// An empty array.
    Empty,
    /// An array of other values than it must hold.
    OtherItems,
    /// A number with a fraction or an exponent, such as `1.0` or `1e3`.
    NoInteger,
    /// An integer that 64 bits can't hold.
    BeyondRange,
    /// An integer below 0.
    Negative,
    /// Text with an escape that stands for no character.
    BrokenText,
}

/// The kind of a JSON value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `null`
    Null,
    /// `true` or `false`
    Boolean,
    /// A number.
    Number,
    /// A string.
    Text,
    /// An array.
    Array,
    /// An object.
    Object,
}

impl<'a> Fields<'a> {
    /// A member as it was written; the last, if there are several of one name.
    pub fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.0.iter().rev().find(|(key, _)| key == name).map(|(_, value)| *value)
    }

    /// A member that is an integer.
    pub fn integer(&self, name: &str) -> Option<i64> {
        self.exact_integer(name).ok()
    }

    /// A member that is text.
    pub fn text(&self, name: &str) -> Option<Cow<'a, str>> {
        self.exact_text(name).ok()
    }

    /// The kind of a member, if it is there.
    pub fn kind(&self, name: &str) -> Option<Kind> {
        self.get(name).map(Kind::of)
    }

    /// A member that must be an integer.
    ///
    /// # Errors
    /// What it is instead.
    pub fn exact_integer(&self, name: &str) -> Result<i64, Found> {
        let raw = self.get(name).ok_or(Found::Nothing)?;
        match Kind::of(raw) {
            Kind::Number => serde_json::from_str(raw.get()).map_err(|_| number(raw.get())),
            other => Err(Found::Kind(other)),
        }
    }

    /// A member that must be text.
    ///
    /// # Errors
    /// What it is instead.
    pub fn exact_text(&self, name: &str) -> Result<Cow<'a, str>, Found> {
        let raw = self.get(name).ok_or(Found::Nothing)?;
        match raw.get().strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
            None => Err(Found::Kind(Kind::of(raw))),
            Some(inner) if !inner.contains('\\') => Ok(Cow::Borrowed(inner)),
            Some(_) => serde_json::from_str(raw.get()).map(Cow::Owned).map_err(|_| Found::BrokenText),
        }
    }

    /// A member that must be an object.
    ///
    /// # Errors
    /// What it is instead.
    pub fn exact_object(&self, name: &str) -> Result<Fields<'a>, Found> {
        let raw = self.get(name).ok_or(Found::Nothing)?;
        match Kind::of(raw) {
            Kind::Object => serde_json::from_str(raw.get()).map_err(|_| Found::BrokenText),
            other => Err(Found::Kind(other)),
        }
    }

    /// A member that must be an array of objects.
    ///
    /// # Errors
    /// What it is instead.
    pub fn exact_objects(&self, name: &str) -> Result<Vec<Fields<'a>>, Found> {
        let raw = self.get(name).ok_or(Found::Nothing)?;
        match Kind::of(raw) {
            Kind::Array => serde_json::from_str(raw.get()).map_err(|_| Found::OtherItems),
            other => Err(Found::Kind(other)),
        }
    }

    /// The first of these names that two members have.
    pub fn repeated<'n>(&self, names: &[&'n str]) -> Option<&'n str> {
        let times = |name: &str| self.0.iter().filter(|(key, _)| key == name).count();
        names.iter().copied().find(|name| times(name) > 1)
    }
}

/// What a number is that is no `i64`.
fn number(text: &str) -> Found {
    // serde_json reads `-0` as a fraction too.
    let is_fraction = text == "-0" || text.contains(['.', 'e', 'E']);
    if is_fraction { Found::NoInteger } else { Found::BeyondRange }
}

impl Kind {
    /// Told by its first character, because raw values are valid.
    pub fn of(raw: &RawValue) -> Self {
        match raw.get().as_bytes().first() {
            Some(b'{') => Self::Object,
            Some(b'[') => Self::Array,
            Some(b'"') => Self::Text,
            Some(b't' | b'f') => Self::Boolean,
            Some(b'n') | None => Self::Null,
            Some(_) => Self::Number,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Null => "null",
            Self::Boolean => "a boolean",
            Self::Number => "a number",
            Self::Text => "text",
            Self::Array => "an array",
            Self::Object => "an object",
        })
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("missing"),
            Self::Kind(kind) => kind.fmt(f),
            Self::Empty => f.write_str("empty"),
            Self::OtherItems => f.write_str("an array of something else"),
            Self::NoInteger => f.write_str("a number with a fraction or an exponent"),
            Self::BeyondRange => f.write_str("beyond 64 bits"),
            Self::Negative => f.write_str("negative"),
            Self::BrokenText => f.write_str("text with half a surrogate pair"),
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                let mut fields = Vec::with_capacity(24);
                while let Some((Name(name), value)) = map.next_entry()? {
                    fields.push((name, value));
                }
                Ok(Fields(fields))
            }
        }

        deserializer.deserialize_map(Members)
    }
}

#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

impl Serialize for Fields<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}
