//! Where the monitor's cgroup on the host is.
//!
//! | `linux.cgroupsPath` | cgroup |
//! |---|---|
//! | `/a/b` | that one |
//! | `a/b` | that one below the parent of the caller's own cgroup: a cgroup that has processes cannot share its controllers out |
//! | none | the container's id, in the same place |
//! | `SLICE:PREFIX:NAME`, with `--systemd-cgroup` | the scope `PREFIX-NAME.scope` in that slice |

use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::Spec;
use vmrun_spec::{HostCgroup, ScopePlan};

use crate::validate::PlanError;

const FIELD: &str = "linux.cgroupsPath";
const SLICE: &str = ".slice";

/// What systemd allows in the name of a unit besides letters and digits.
const PUNCTUATION: &str = ":-_.\\@";

/// The longest name of a unit.
const MOST_BYTES: usize = 255;

/// The cgroup that the configuration names, or the one that a container without any gets.
pub(crate) fn host_cgroup(spec: &Spec, id: &str, systemd: bool) -> Result<HostCgroup, PlanError> {
    let path = spec.linux().as_ref().and_then(|linux| linux.cgroups_path().as_deref());
    let path = path.unwrap_or(Path::new(""));
    if systemd { scope(&path.to_string_lossy(), id).map(HostCgroup::Scope) } else { below(path, id) }
}

fn below(path: &Path, id: &str) -> Result<HostCgroup, PlanError> {
    if path.components().any(|part| part == Component::ParentDir) {
        let text = path.to_string_lossy();
        return Err(PlanError::invalid(FIELD, format!("{text:?} has a `..` in it")));
    }
    let parts = path.components().filter(|part| matches!(part, Component::Normal(_)));
    let below: PathBuf = parts.collect();
    Ok(match (below.as_os_str().is_empty(), path.is_absolute()) {
        (false, true) => HostCgroup::Absolute(below),
        (false, false) => HostCgroup::BesideCaller(below),
        (true, _) => HostCgroup::BesideCaller(id.into()),
    })
}

fn scope(text: &str, id: &str) -> Result<ScopePlan, PlanError> {
    let invalid = |problem| PlanError::invalid(FIELD, problem);
    if text.is_empty() {
        return Ok(ScopePlan { slice: None, unit: format!("vmrun-{id}.scope") });
    }
    let parts: Vec<_> = text.split(':').collect();
    let [slice, prefix, name] = parts[..] else {
        let problem = format!("{text:?} is not SLICE:PREFIX:NAME, which --systemd-cgroup asks for");
        return Err(invalid(problem));
    };
    if name.is_empty() || name.ends_with(SLICE) {
        return Err(invalid(format!("{text:?} names no scope: {name:?} is no name of one")));
    }
    let unit = if prefix.is_empty() { format!("{name}.scope") } else { format!("{prefix}-{name}.scope") };
    if !is_unit(&unit) {
        return Err(invalid(format!("{unit:?} is no name of a systemd unit")));
    }
    if !slice.is_empty() && expand(slice).is_none() {
        return Err(invalid(format!("{slice:?} is no name of a systemd slice")));
    }
    Ok(ScopePlan { slice: Some(slice.to_owned()).filter(|slice| !slice.is_empty()), unit })
}

fn is_unit(name: &str) -> bool {
    let allowed = |letter: char| letter.is_ascii_alphanumeric() || PUNCTUATION.contains(letter);
    name.len() <= MOST_BYTES && name.chars().all(allowed)
}

/// The cgroup of a slice: systemd has `a-b.slice` in `a.slice/a-b.slice`, and `-.slice` at the root.
/// None where the name is none of a slice.
pub fn expand(slice: &str) -> Option<PathBuf> {
    let stem = slice.strip_suffix(SLICE).filter(|stem| !stem.is_empty() && is_unit(slice))?;
    if stem == "-" {
        return Some(PathBuf::new());
    }
    let ends = stem.match_indices('-').map(|(at, _)| at).chain([stem.len()]);
    let above: Vec<_> = ends.map(|end| &stem[..end]).collect();
    let is_right = above.iter().all(|stem| !stem.is_empty() && !stem.ends_with('-'));
    is_right.then(|| above.iter().map(|stem| format!("{stem}{SLICE}")).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn planned(path: Option<&str>, systemd: bool) -> Result<HostCgroup, PlanError> {
        let linux = path.map_or(json!({}), |path| json!({ "cgroupsPath": path }));
        let spec = serde_json::from_value(json!({ "ociVersion": "1.0.2", "linux": linux })).unwrap();
        host_cgroup(&spec, "web", systemd)
    }

    #[test]
    fn paths_are_absolute_or_beside_the_caller() {
        assert_eq!(planned(Some("/a//b/"), false), Ok(HostCgroup::Absolute("a/b".into())));
        assert_eq!(planned(Some("a/./b"), false), Ok(HostCgroup::BesideCaller("a/b".into())));
        for none in [None, Some(""), Some("/"), Some(".")] {
            assert_eq!(planned(none, false), Ok(HostCgroup::BesideCaller("web".into())), "{none:?}");
        }
        assert!(planned(Some("/a/../b"), false).is_err());
    }

    #[test]
    fn scopes_are_named_by_prefix_and_name() {
        let scope = |slice: Option<&str>, unit: &str| {
            Ok(HostCgroup::Scope(ScopePlan { slice: slice.map(str::to_owned), unit: unit.to_owned() }))
        };
        assert_eq!(planned(Some("a-b.slice:libpod:7"), true), scope(Some("a-b.slice"), "libpod-7.scope"));
        assert_eq!(planned(Some("::7"), true), scope(None, "7.scope"));
        assert_eq!(planned(None, true), scope(None, "vmrun-web.scope"));
        for bad in [
            "/a",
            "a:b",
            "a:b:c:d",
            "a.slice:b:",
            "a.slice:b:c.slice",
            "a:b:c",
            "-a.slice:b:c",
            "a.slice:b/:c",
        ] {
            assert!(planned(Some(bad), true).is_err(), "{bad}");
        }
    }

    #[test]
    fn slices_are_below_those_that_their_names_begin_with() {
        let expanded = |slice| expand(slice).map(|path| path.display().to_string());
        assert_eq!(expanded("a.slice").as_deref(), Some("a.slice"));
        assert_eq!(expanded("a-b-c.slice").as_deref(), Some("a.slice/a-b.slice/a-b-c.slice"));
        assert_eq!(expanded("-.slice").as_deref(), Some(""));
        for bad in ["", ".slice", "a", "a--b.slice", "-a.slice", "a-.slice", "a/b.slice"] {
            assert_eq!(expanded(bad), None, "{bad}");
        }
    }
}
