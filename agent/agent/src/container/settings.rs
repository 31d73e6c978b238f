//! Settings of the kernel: those of the host, for programs that depend on what an administrator set there.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Component, Path};

use crate::log;

const SETTINGS: &str = "/proc/sys";

/// Sets them by their names below `/proc/sys`. Another kernel than the host's may not have each one,
/// or not with each value: then its own stays.
pub(crate) fn apply(settings: &BTreeMap<String, String>) {
    apply_in(Path::new(SETTINGS), settings);
}

fn apply_in(directory: &Path, settings: &BTreeMap<String, String>) {
    for (name, value) in settings {
        let name = Path::new(name);
        let inside = name.components().all(|part| matches!(part, Component::Normal(_)));
        let written = if inside { put(&directory.join(name), value) } else { Ok(()) };
        match written {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                log::info(format_args!("{} keeps the guest's own value: {value}: {error}", name.display()));
            }
            _ => {}
        }
    }
}

fn put(path: &Path, value: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(path)?.write_all(value.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn those_that_there_are_get_their_values_and_nothing_else_is_touched() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("sys");
        fs::create_dir_all(directory.join("vm")).unwrap();
        fs::write(directory.join("vm/known"), "").unwrap();
        fs::write(root.path().join("outside"), "").unwrap();
        let settings = [("vm/known", "7"), ("vm/unknown", "8"), ("../outside", "9")];
        let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
        apply_in(&directory, &settings.into());
        assert_eq!(fs::read_to_string(directory.join("vm/known")).unwrap(), "7");
        assert!(!directory.join("vm/unknown").exists());
        assert_eq!(fs::read_to_string(root.path().join("outside")).unwrap(), "");
    }
}
