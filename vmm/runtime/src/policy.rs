//! The host's policy: what a bundle may choose of its machine besides the size.
//!
//! A file of the host's says it, in JSON; without the file a bundle chooses nothing. A kernel
//! or a boot image may be one that is listed, or any that is below a directory that is.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use vmrun_plan::{Asked, BootRequest};

/// Where the policy is unless something else is said.
pub(crate) const POLICY_FILE: &str = "/etc/vmrun/policy.json";

/// The file's content.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct Policy {
    kernels: Vec<PathBuf>,
    initrds: Vec<PathBuf>,
    /// Names of parameters, without values.
    kernel_parameters: Vec<String>,
}

/// Why a bundle does not get what it asks for.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// The policy cannot be read.
    #[error("the host's policy {}", .path.display())]
    Read {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The policy is none.
    #[error("the host's policy {}: {cause}; see docs/configuration.md for what it may say", .path.display())]
    Parse {
        /// Its path.
        path: PathBuf,
        /// What is wrong, with line and column.
        cause: serde_json::Error,
    },
    /// What is asked for is not there.
    #[error("config.json: {field}: {}", .path.display())]
    Find {
        /// Who asks.
        field: String,
        /// For what.
        path: PathBuf,
        /// Why it cannot be found.
        source: io::Error,
    },
    /// The policy does not have it.
    #[error(
        "config.json: {field}: the host does not allow {what}; leave the field out, or add it to \"{list}\" in {}",
        .policy.display()
    )]
    Forbidden {
        /// Who asks.
        field: String,
        /// For what.
        what: String,
        /// The list that does not have it.
        list: &'static str,
        /// The policy's path.
        policy: PathBuf,
    },
}

/// What a bundle gets of what it asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Permitted {
    pub(crate) kernel: Option<PathBuf>,
    pub(crate) initrd: Option<PathBuf>,
    pub(crate) parameters: Vec<String>,
}

/// Holds `request` against the policy in `given`, or where it usually is.
pub(crate) fn permit(request: &BootRequest, given: Option<&Path>) -> Result<Permitted, PolicyError> {
    if *request == BootRequest::default() {
        return Ok(Permitted::default());
    }
    let file = given.unwrap_or(Path::new(POLICY_FILE));
    let policy = match fs::read(file) {
        Ok(text) => serde_json::from_slice::<Policy>(&text)
            .map_err(|cause| PolicyError::Parse { path: file.to_owned(), cause })?,
        Err(error) if given.is_none() && error.kind() == io::ErrorKind::NotFound => Policy::default(),
        Err(source) => return Err(PolicyError::Read { path: file.to_owned(), source }),
    };
    let path = |asked: &Option<Asked<PathBuf>>, list: &[PathBuf], name| {
        asked.as_ref().map(|asked| permit_path(asked, list, name, file)).transpose()
    };
    Ok(Permitted {
        kernel: path(&request.kernel, &policy.kernels, "kernels")?,
        initrd: path(&request.initrd, &policy.initrds, "initrds")?,
        parameters: permit_parameters(&request.parameters, &policy.kernel_parameters, file)?,
    })
}

/// The path without links and dots, so that none leads out of what is listed.
fn permit_path(
    asked: &Asked<PathBuf>,
    list: &[PathBuf],
    name: &'static str,
    policy: &Path,
) -> Result<PathBuf, PolicyError> {
    let Asked { field, value } = asked;
    let forbidden = || PolicyError::Forbidden {
        field: field.clone(),
        what: value.display().to_string(),
        list: name,
        policy: policy.to_owned(),
    };
    // Where nothing is allowed that is the answer, whether the file is there or not.
    if list.is_empty() {
        return Err(forbidden());
    }
    let found = value.canonicalize().map_err(|source| PolicyError::Find {
        field: field.clone(),
        path: value.clone(),
        source,
    })?;
    // What is listed and not there allows nothing.
    let mut listed = list.iter().filter_map(|entry| entry.canonicalize().ok());
    if listed.any(|entry| found.starts_with(entry)) { Ok(found) } else { Err(forbidden()) }
}

fn permit_parameters(
    asked: &[Asked<String>],
    names: &[String],
    policy: &Path,
) -> Result<Vec<String>, PolicyError> {
    let permit = |Asked { field, value }: &Asked<String>| {
        let name = value.split_once('=').map_or(value.as_str(), |(name, _)| name);
        // The kernel reads both as one.
        let same = |listed: &String| listed.replace('-', "_") == name.replace('-', "_");
        if names.iter().any(same) {
            return Ok(value.clone());
        }
        Err(PolicyError::Forbidden {
            field: field.clone(),
            what: format!("the parameter {name}"),
            list: "kernelParameters",
            policy: policy.to_owned(),
        })
    };
    asked.iter().map(permit).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn kernel(path: &Path) -> BootRequest {
        let asked = Asked { field: "vm.kernel.path".to_owned(), value: path.to_owned() };
        BootRequest { kernel: Some(asked), ..BootRequest::default() }
    }

    fn parameter(value: &str) -> BootRequest {
        let asked = Asked { field: "vm.kernel.parameters[0]".to_owned(), value: value.to_owned() };
        BootRequest { parameters: vec![asked], ..BootRequest::default() }
    }

    #[test]
    fn nothing_is_asked_and_no_policy_is_read() {
        let missing = Path::new("/no/such/policy");
        assert_eq!(permit(&BootRequest::default(), Some(missing)).unwrap(), Permitted::default());
        let error = permit(&parameter("quiet"), Some(missing)).unwrap_err();
        assert!(matches!(error, PolicyError::Read { .. }), "{error}");
    }

    #[test]
    fn kernel_is_listed_or_below_what_is() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        fs::create_dir_all(dir.join("kernels/more")).unwrap();
        for name in ["kernels/one", "kernels/more/two", "single", "other"] {
            fs::write(dir.join(name), "").unwrap();
        }
        symlink(dir.join("other"), dir.join("kernels/link")).unwrap();
        let policy = dir.join("policy.json");
        let lists = serde_json::json!({ "kernels": [dir.join("kernels"), dir.join("single"), "/none"] });
        fs::write(&policy, lists.to_string()).unwrap();
        let permit = |name: &str| permit(&kernel(&dir.join(name)), Some(&policy));
        for name in ["kernels/one", "kernels/more/two", "single"] {
            assert_eq!(permit(name).unwrap().kernel, Some(dir.join(name)));
        }
        for name in ["other", "kernels/link", "kernels/../other"] {
            let error = permit(name).unwrap_err().to_string();
            assert!(error.contains("vm.kernel.path") && error.contains("\"kernels\""), "{error}");
        }
        assert!(matches!(permit("kernels/none"), Err(PolicyError::Find { .. })));
    }

    #[test]
    fn parameter_is_listed_by_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let policy = dir.path().join("policy.json");
        fs::write(&policy, r#"{ "kernelParameters": ["quiet", "log-level"] }"#).unwrap();
        for value in ["quiet", "log_level=4", "log-level=4"] {
            assert_eq!(permit(&parameter(value), Some(&policy)).unwrap().parameters, [value]);
        }
        for value in ["init=/bin/sh", "quiets", "quie"] {
            let error = permit(&parameter(value), Some(&policy)).unwrap_err().to_string();
            assert!(error.contains("vm.kernel.parameters[0]"), "{error}");
        }
        assert!(permit(&kernel(Path::new("/etc/passwd")), Some(&policy)).is_err());
    }

    #[test]
    fn policy_with_a_mistake_allows_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let policy = dir.path().join("policy.json");
        for text in ["", "{", r#"{ "kernel": [] }"#, r#"{ "kernels": "/boot" }"#] {
            fs::write(&policy, text).unwrap();
            let error = permit(&parameter("quiet"), Some(&policy)).unwrap_err().to_string();
            assert!(error.contains("line 1 column"), "{error}");
        }
    }
}
