//! Reading a bundle: a directory with `config.json` and a root file system.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Process, Spec};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::vm::VmSection;
use crate::{destination, left_out, letters};

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
    /// Names in it that are no capabilities, which are left out as runc leaves them out.
    pub ignored_capabilities: Vec<String>,
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
#[error("{position} {field}{cause}")]
pub struct ConfigError {
    /// `3:1:`, or nothing where the text does not tell.
    position: String,
    /// `process.cwd: `, or nothing when the text is not JSON at all.
    field: String,
    cause: String,
}

/// Name of the configuration file in a bundle.
pub(crate) const CONFIG: &str = "config.json";

/// The only form in which JSON may have one.
const NUL: &[u8] = b"\\u0000";

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
        let parsed = parse(&text).map_err(|at| BundleError::ParseConfig { path: path.clone(), at })?;
        let Parsed { mut spec, vm, ignored_capabilities } = parsed;
        destination::clean(&mut spec);
        let Some(root) = spec.root() else { return Err(BundleError::NoRoot { path }) };
        let rootfs = absolute.join(root.path());
        check_rootfs(&rootfs)?;
        Ok(Self { dir: absolute, rootfs, spec, vm, ignored_capabilities })
    }
}

fn check_rootfs(path: &Path) -> Result<(), BundleError> {
    let metadata =
        fs::metadata(path).map_err(|source| BundleError::Rootfs { path: path.to_owned(), source })?;
    if metadata.is_dir() { Ok(()) } else { Err(BundleError::RootfsNotADirectory { path: path.to_owned() }) }
}

/// What a configuration says.
#[derive(Debug)]
pub(crate) struct Parsed {
    pub(crate) spec: Spec,
    pub(crate) vm: VmSection,
    pub(crate) ignored_capabilities: Vec<String>,
}

/// Parses a configuration. Unknown fields are accepted, as the specification demands.
pub(crate) fn parse(text: &[u8]) -> Result<Parsed, ConfigError> {
    // Nearly every configuration is done here; what follows reads the rare `vm` section, fills in
    // what the types insist on, or makes a better message.
    if !contains(text, b"\"vm\"")
        && !contains(text, NUL)
        && letters::are_as_written(text)
        && let Ok(spec) = serde_json::from_slice::<Spec>(text)
    {
        return Ok(Parsed { spec, vm: VmSection::default(), ignored_capabilities: Vec::new() });
    }
    let mut config: Value = typed(text)?;
    nul_free(&config)?;
    letters::put_right(&mut config).map_err(|field| twice(&field))?;
    let ignored_capabilities =
        config.get_mut("process").map(left_out::take_unknown_capabilities).unwrap_or_default();
    let vm = config.as_object_mut().and_then(|object| object.remove("vm"));
    let vm = left_out::without_nulls(json!({ "vm": vm }));
    let OnlyVm { vm } = completely_typed(text, vm)?;
    let spec = completely_typed(text, left_out::completed(config))?;
    Ok(Parsed { spec, vm, ignored_capabilities })
}

fn twice(field: &str) -> ConfigError {
    let cause = "is there twice, in other letters; leave one out".to_owned();
    ConfigError { position: String::new(), field: format!("{field}: "), cause }
}

#[derive(Deserialize)]
struct OnlyVm {
    #[serde(default)]
    vm: VmSection,
}

/// The value of a text that has been completed; the text has the positions that the value has lost.
fn completely_typed<T: DeserializeOwned>(text: &[u8], value: Value) -> Result<T, ConfigError> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let found = locate(error.inner(), &error.path().to_string());
        match typed::<T>(text) {
            // What the text lacks first may be what was filled in.
            Err(at) if at.field == found.field => ConfigError { position: at.position, ..found },
            _ => found,
        }
    })
}

/// What the kernel is given ends at a NUL.
fn nul_free(config: &Value) -> Result<(), ConfigError> {
    match left_out::place_of_nul(config) {
        None => Ok(()),
        Some(place) => Err(ConfigError {
            position: String::new(),
            field: format!("{place}: "),
            cause: "holds a NUL byte".to_owned(),
        }),
    }
}

/// Parses a process that stands alone. The names with it are those that are no capabilities.
pub(crate) fn parse_process(text: &[u8]) -> Result<(Process, Vec<String>), ConfigError> {
    if !contains(text, NUL)
        && letters::are_as_written(text)
        && let Ok(process) = serde_json::from_slice(text)
    {
        return Ok((process, Vec::new()));
    }
    let mut process: Value = typed(text)?;
    nul_free(&process)?;
    letters::put_right(&mut process).map_err(|field| twice(&field))?;
    let ignored = left_out::take_unknown_capabilities(&mut process);
    Ok((completely_typed(text, left_out::completed_process(process))?, ignored))
}

fn contains(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|window| window == word)
}

fn typed<T: DeserializeOwned>(text: &[u8]) -> Result<T, ConfigError> {
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
    let cause = message.strip_suffix(&suffix).unwrap_or(&message);
    let cause = cause.to_owned();
    let field = if path == "." || error.is_syntax() { String::new() } else { format!("{path}: ") };
    let position = if line == 0 { String::new() } else { format!("{line}:{column}:") };
    ConfigError { position, field, cause }
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
            ("{\"vm\":{},\"root\":{\"path\":7}}", " root.path: invalid type: integer `7`"),
            ("{\"process\":{\"args\":[]}}", "1:22: process: missing field `cwd`"),
            ("{\"process\":{\"args\":[],\"cwd\":null}}", " process: missing field `cwd`"),
            ("{\"process\":{},\"Process\":{}}", " process: is there twice, in other letters"),
            ("7", "1:1: invalid type: integer `7`, expected struct Spec"),
        ];
        for (text, expected) in table {
            let shown = parse(text.as_bytes()).unwrap_err().to_string();
            assert!(shown.starts_with(expected), "{text:?} gives {shown:?}, not {expected:?}");
        }
    }

    #[test]
    fn unknown_fields_and_a_vm_section_without_a_kernel_are_accepted() {
        let text = br#"{"ociVersion":"1.2.0","new":{"x":1},"vm":{"hwConfig":{"vcpus":2,"memory":1048576}}}"#;
        let Parsed { spec, vm, .. } = parse(text).unwrap();
        assert_eq!(spec.version(), "1.2.0");
        assert_eq!(vm.hw_config.vcpus, Some(2));
        assert_eq!(vm.hw_config.memory, Some(1 << 20));
    }

    #[test]
    fn unknown_capabilities_are_left_out_and_told() {
        let text = br#"{"ociVersion":"1.0.2","process":{"cwd":"/","capabilities":{
            "bounding":["CAP_X","CAP_KILL","CAP_X"],"permitted":["CAP_X","CAP_ABC"]}}}"#;
        let Parsed { spec, ignored_capabilities, .. } = parse(text).unwrap();
        assert_eq!(ignored_capabilities, ["CAP_ABC", "CAP_X"]);
        let process = spec.process().clone().unwrap();
        let kept = process.capabilities().clone().unwrap();
        assert_eq!(kept.bounding().as_ref().unwrap().len(), 1);
        assert_eq!(kept.permitted().as_ref().unwrap().len(), 0);
        let (_, ignored) = parse_process(br#"{"cwd":"/","capabilities":{"ambient":["CAP_X"]}}"#).unwrap();
        assert_eq!(ignored, ["CAP_X"]);
    }

    #[test]
    fn names_in_other_letters_are_understood() {
        let text = br#"{"ociVersion":"1.0.2","Linux":{"Resources":{"CPU":{"Shares":5}}},
            "annotations":{"CPU":"x","cpu":"y"}}"#;
        let Parsed { spec, .. } = parse(text).unwrap();
        let linux = spec.linux().clone().unwrap();
        assert_eq!(linux.resources().as_ref().unwrap().cpu().as_ref().unwrap().shares(), Some(5));
        assert_eq!(spec.annotations().as_ref().unwrap().len(), 2);
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
