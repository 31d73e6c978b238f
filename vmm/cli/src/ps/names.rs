//! Names of users and groups, from the host's files: `ps` runs there under runc.
//!
//! Read without the C library's name services, which a static program cannot load.

use std::collections::BTreeMap;
use std::fs;

/// Numbers and their names.
#[derive(Debug, Default)]
pub(crate) struct Names(BTreeMap<u32, String>);

impl Names {
    pub(crate) fn users() -> Self {
        Self::read(&fs::read_to_string("/etc/passwd").unwrap_or_default())
    }

    pub(crate) fn groups() -> Self {
        Self::read(&fs::read_to_string("/etc/group").unwrap_or_default())
    }

    /// `NAME:PASSWORD:NUMBER:…` a line; the first name of a number counts.
    pub(crate) fn read(text: &str) -> Self {
        let mut names = BTreeMap::new();
        for line in text.lines() {
            let mut fields = line.split(':');
            if let (Some(name), Some(Ok(number))) = (fields.next(), fields.nth(1).map(str::parse)) {
                names.entry(number).or_insert_with(|| name.to_owned());
            }
        }
        Self(names)
    }

    pub(crate) fn of(&self, number: u32) -> Option<String> {
        self.0.get(&number).cloned()
    }

    /// The number of a name, or the number that the text is.
    pub(crate) fn number(&self, text: &str) -> Option<u32> {
        let named = self.0.iter().find(|(_, name)| *name == text).map(|(number, _)| *number);
        named.or_else(|| text.parse().ok())
    }
}
