//! All sections of the configuration, handed out one by one.

use ::config::{Map, Value, ValueKind};

use super::fault::{Fault, Faults};
use super::section::Section;
use super::written::Written;

/// The sections not yet read, and what was found wrong with the others.
pub(super) struct Reader {
    sections: Map<String, Value>,
    known: Vec<&'static str>,
    faults: Vec<Fault>,
    /// What the keys read so far are set to.
    pub(super) written: Written,
}

impl Reader {
    pub(super) fn new(source: ::config::Config) -> Self {
        let sections = source.cache.into_table().unwrap_or_default();
        Self { sections, known: Vec::new(), faults: Vec::new(), written: Written::default() }
    }

    /// What `read` makes of the section `name`, which may be absent.
    pub(super) fn section<T>(&mut self, name: &'static str, read: impl FnOnce(&mut Section) -> T) -> T {
        let mut section = Section::new(name, self.take(name));
        let value = read(&mut section);
        self.faults.extend(section.finish(&mut self.written));
        value
    }

    /// Fails with all faults of all sections, unknown sections last.
    pub(super) fn finish(self) -> Result<(), Faults> {
        let mut left: Vec<String> = self.sections.into_keys().collect();
        left.sort_unstable();
        let mut faults = self.faults;
        for name in left {
            faults.push(Fault::UnknownSection { name, known: self.known.clone() });
        }
        if faults.is_empty() { Ok(()) } else { Err(Faults(faults)) }
    }

    fn take(&mut self, name: &'static str) -> Map<String, Value> {
        self.known.push(name);
        match self.sections.remove(name).map(|value| value.kind) {
            None => Map::new(),
            Some(ValueKind::Table(values)) => values,
            Some(_) => {
                self.faults.push(Fault::NotASection { name });
                Map::new()
            }
        }
    }
}
