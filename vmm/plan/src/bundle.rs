//! Reading a bundle: a directory with `config.json` and a root file system.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use serde::de::DeserializeOwned;

use crate::vm::VmSection;

/// A bundle whose configuration has the right types and whose paths are resolved.
#[derive(Clone, Debug, PartialEq)]
pub struct Bundle {
    /// The bundle's directory, absolute and without symbolic links.
    pub dir: PathBuf,
    /// The root file system's directory, absolute.
    pub rootfs: PathBuf,
    /// The configuration as written, but for `vm`.
    pub spec: Spec,
    /// The `vm` section.
    pub vm: VmSection,
}

/// Why a directory is not a bundle.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// The directory cannot be entered.
    #[error("bundle {}", .dir.display())]
    Directory {
        /// As given.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The bundle is a file.
    #[error("bundle {}: not a directory", .dir.display())]
    NotADirectory {
        /// As given.
        dir: PathBuf,
    },
    /// `config.json` cannot be read.
    #[error("{}", .path.display())]
    ReadConfig {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// `config.json` is not JSON or has a field of the wrong type.
    #[error("{}:{at}", .path.display())]
    ParseConfig {
        /// Its path.
        path: PathBuf,
        /// Where and what.
        at: ConfigError,
    },
    /// `root` is not there.
    #[error("{}: root.path is missing", .path.display())]
    NoRoot {
        /// Of `config.json`.
        path: PathBuf,
    },
    /// The root file system is not there.
    #[error("rootfs {}", .path.display())]
    Rootfs {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The root file system is a file.
    #[error("rootfs {}: not a directory", .path.display())]
    RootfsNotADirectory {
        /// Its path.
        path: PathBuf,
    },
}

/// Where a configuration is wrong, and how.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{line}:{column}: {field}{cause}")]
pub struct ConfigError {
    line: usize,
    column: usize,
    /// `process.cwd: `, or nothing when the text is not JSON at all.
    field: String,
    cause: String,
}

/// Name of the configuration file in a bundle.
pub(crate) const CONFIG: &str = "config.json";

impl Bundle {
    /// Reads the bundle in `dir`.
    ///
    /// # Errors
    /// [`BundleError`], with line, column and field path for a malformed `config.json`.
    pub fn load(dir: &Path) -> Result<Self, BundleError> {
        let absolute =
            dir.canonicalize().map_err(|source| BundleError::Directory { dir: dir.to_owned(), source })?;
        if !absolute.is_dir() {
            return Err(BundleError::NotADirectory { dir: dir.to_owned() });
        }
        let path = absolute.join(CONFIG);
        let text =
            fs::read(&path).map_err(|source| BundleError::ReadConfig { path: path.clone(), source })?;
        let (spec, vm) = parse(&text).map_err(|at| BundleError::ParseConfig { path: path.clone(), at })?;
        let Some(root) = spec.root() else { return Err(BundleError::NoRoot { path }) };
        let rootfs = absolute.join(root.path());
        check_rootfs(&rootfs)?;
        Ok(Self { dir: absolute, rootfs, spec, vm })
    }
}

fn check_rootfs(path: &Path) -> Result<(), BundleError> {
    let metadata =
        fs::metadata(path).map_err(|source| BundleError::Rootfs { path: path.to_owned(), source })?;
    if metadata.is_dir() { Ok(()) } else { Err(BundleError::RootfsNotADirectory { path: path.to_owned() }) }
}

/// Parses a configuration. Unknown fields are accepted, as the specification demands.
pub(crate) fn parse(text: &[u8]) -> Result<(Spec, VmSection), ConfigError> {
    // Nearly every configuration takes the first branch; the others only make
    // a better message or read the rare `vm` section.
    if !contains(text, b"\"vm\"") {
        return match serde_json::from_slice::<Spec>(text) {
            Ok(spec) => Ok((spec, VmSection::default())),
            Err(_) => typed(text).map(|spec| (spec, VmSection::default())),
        };
    }
    #[derive(serde::Deserialize)]
    struct OnlyVm {
        #[serde(default)]
        vm: Option<VmSection>,
    }
    let vm = typed::<OnlyVm>(text)?.vm.unwrap_or_default();
    let mut value: serde_json::Value = typed(text)?;
    if let Some(object) = value.as_object_mut() {
        object.remove("vm");
    }
    match serde_json::from_value::<Spec>(value) {
        Ok(spec) => Ok((spec, vm)),
        // The text has the positions that the value has lost.
        Err(error) => match typed::<Spec>(text) {
            Err(at) if !at.field.starts_with("vm") => Err(at),
            _ => Err(ConfigError { line: 1, column: 1, field: String::new(), cause: error.to_string() }),
        },
    }
}

fn contains(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|window| window == word)
}

pub(crate) fn typed<T: DeserializeOwned>(text: &[u8]) -> Result<T, ConfigError> {
    let mut json = serde_json::Deserializer::from_slice(text);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        locate(error.inner(), &path)
    })?;
    json.end().map_err(|error| locate(&error, "."))?;
    Ok(value)
}

fn locate(error: &serde_json::Error, path: &str) -> ConfigError {
    let (line, column) = (error.line(), error.column());
    let message = error.to_string();
    let suffix = format!(" at line {line} column {column}");
    let cause = message.strip_suffix(&suffix).unwrap_or(&message).to_owned();
    let field = if path == "." || error.is_syntax() { String::new() } else { format!("{path}: ") };
    ConfigError { line, column, field, cause }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn malformed_config_is_located() {
        let table: &[(&str, &str)] = &[
            ("", "1:0: EOF while parsing a value"),
            ("{\n  \"ociVersion\": \"1.0.2\",\n}", "3:1: trailing comma"),
            ("{\"root\":{\"path\":7}}", "1:17: root.path: invalid type: integer `7`, expected path string"),
            ("{\"root\":{\"path\":\"x\"}} x", "1:23: trailing characters"),
            ("{\"process\":{\"cwd\":\"/\",\"user\":{\"uid\":-1,\"gid\":0}}}", "1:38: process.user.uid: "),
            ("{\"vm\":{\"hwConfig\":{\"vcpus\":\"two\"}}}", "1:32: vm.hwConfig.vcpus: "),
        ];
        for (text, expected) in table {
            let shown = parse(text.as_bytes()).unwrap_err().to_string();
            assert!(shown.starts_with(expected), "{text:?} gives {shown:?}, not {expected:?}");
        }
    }

    #[test]
    fn unknown_fields_and_a_vm_section_without_a_kernel_are_accepted() {
        let text = br#"{"ociVersion":"1.2.0","new":{"x":1},"vm":{"hwConfig":{"vcpus":2,"memory":1048576}}}"#;
        let (spec, vm) = parse(text).unwrap();
        assert_eq!(spec.version(), "1.2.0");
        assert_eq!(vm.hw_config.vcpus, Some(2));
        assert_eq!(vm.hw_config.memory, Some(1 << 20));
    }

    #[test]
    fn directory_errors_name_the_path() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("none");
        assert!(matches!(Bundle::load(&missing), Err(BundleError::Directory { .. })));
        assert!(matches!(Bundle::load(dir.path()), Err(BundleError::ReadConfig { .. })));
        fs::write(dir.path().join(CONFIG), r#"{"ociVersion":"1.0.2"}"#).unwrap();
        assert!(matches!(Bundle::load(dir.path()), Err(BundleError::NoRoot { .. })));
        fs::write(dir.path().join(CONFIG), r#"{"ociVersion":"1.0.2","root":{"path":"r"}}"#).unwrap();
        assert!(matches!(Bundle::load(dir.path()), Err(BundleError::Rootfs { .. })));
        fs::write(dir.path().join("r"), "").unwrap();
        assert!(matches!(Bundle::load(dir.path()), Err(BundleError::RootfsNotADirectory { .. })));
        fs::remove_file(dir.path().join("r")).unwrap();
        fs::create_dir(dir.path().join("r")).unwrap();
        let bundle = Bundle::load(dir.path()).unwrap();
        assert_eq!(bundle.rootfs, bundle.dir.join("r"));
        assert!(matches!(Bundle::load(&dir.path().join(CONFIG)), Err(BundleError::NotADirectory { .. })));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(text in prop::collection::vec(any::<u8>(), 0..256)) {
            let _ = parse(&text);
        }

        #[test]
        fn arbitrary_cuts_of_a_real_config_never_panic(cut in 0usize..2048, at in 0usize..2048, byte: u8) {
            let mut text = include_bytes!("../tests/bundles/full.json").to_vec();
            let at = at % text.len();
            text[at] = byte;
            text.truncate(cut.max(1));
            let _ = parse(&text);
        }
    }
}
