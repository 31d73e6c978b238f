//! Writing the planned limits.

use std::io;
use std::path::Path;

use vmrun_spec::HostLimit;

use super::tree::{put, read};
use super::{HostCgroupError, OwnCgroup, is_forbidden, on_this_host};
use crate::error::chain;
use crate::step;

/// Sets those limits that hold from the beginning.
pub(super) fn limit(path: &Path, limits: &[HostLimit]) -> Result<(), HostCgroupError> {
    limits.iter().filter(|limit| !limit.late).try_for_each(|limit| write(path, limit))
}

/// Sets the others, when the container is made.
pub(crate) fn limit_late(cgroup: Option<OwnCgroup<'_>>, limits: &[HostLimit]) -> Result<(), HostCgroupError> {
    set(cgroup, limits.iter().filter(|limit| limit.late))
}

/// Sets limits of a container that runs.
pub(crate) fn change(cgroup: Option<OwnCgroup<'_>>, limits: &[HostLimit]) -> Result<(), HostCgroupError> {
    set(cgroup, limits.iter())
}

fn set<'a>(
    cgroup: Option<OwnCgroup<'_>>,
    mut limits: impl Iterator<Item = &'a HostLimit> + Clone,
) -> Result<(), HostCgroupError> {
    let Some(own) = cgroup.filter(|_| limits.clone().next().is_some()) else { return Ok(()) };
    let Some(path) = on_this_host(own.below) else { return Ok(()) };
    if let Some(scope) = own.scope {
        match scope.set(limits.clone()) {
            // There may be none: see `enter`.
            Err(error) if scope.is_the_users() => step!("limits not told to systemd: {}", chain(&error)),
            other => other.map_err(|source| own.systemd(source))?,
        }
    }
    limits.try_for_each(|limit| write(&path, limit))
}

/// A limit that the guest holds, too, may fail here for want of its controller or of the right to
/// set it: nobody gets more by that.
fn write(path: &Path, limit: &HostLimit) -> Result<(), HostCgroupError> {
    match put(path, &limit.file, &limit.value) {
        Err(error)
            if !limit.host_only && (error.kind() == io::ErrorKind::NotFound || is_forbidden(&error)) =>
        {
            Ok(())
        }
        written => written.map_err(|source| HostCgroupError::Limit {
            field: limit.field.clone(),
            value: limit.value.clone(),
            file: path.join(&limit.file),
            source,
        }),
    }
}

/// The quota of CPU time that the cgroup has now, -1 for none: a new period alone keeps it.
pub(crate) fn current_quota(path: &Path) -> Option<i64> {
    let text = read(path, "cpu.max").ok()?;
    let word = text.split_ascii_whitespace().next()?;
    if word == "max" { Some(-1) } else { word.parse().ok() }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn planned(file: &str, host_only: bool) -> HostLimit {
        HostLimit {
            file: file.to_owned(),
            value: "5".to_owned(),
            field: "linux.resources.x".to_owned(),
            host_only,
            late: false,
        }
    }

    #[test]
    fn missing_controller_matters_where_the_guest_does_not_hold_the_limit() {
        let cgroup = tempfile::tempdir().unwrap();
        limit(cgroup.path(), &[planned("pids.max", false)]).unwrap();
        let error = limit(cgroup.path(), &[planned("io.max", true)]).unwrap_err().to_string();
        assert!(error.starts_with("linux.resources.x: cannot write \"5\" to "), "{error}");
    }

    #[test]
    fn late_limits_wait() {
        let cgroup = tempfile::tempdir().unwrap();
        fs::write(cgroup.path().join("cpu.max"), "max 100000\n").unwrap();
        limit(cgroup.path(), &[HostLimit { late: true, ..planned("cpu.max", false) }]).unwrap();
        assert_eq!(current_quota(cgroup.path()), Some(-1));
        fs::write(cgroup.path().join("cpu.max"), "5000 100000\n").unwrap();
        assert_eq!(current_quota(cgroup.path()), Some(5000));
        assert_eq!(current_quota(Path::new("/nowhere")), None);
    }
}
