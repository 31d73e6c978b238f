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

/// The limits as they are now, to be put back.
pub(crate) fn in_force(cgroup: Option<OwnCgroup<'_>>, limits: &[HostLimit]) -> Vec<HostLimit> {
    let path = cgroup.and_then(|own| on_this_host(own.below));
    path.map_or_else(Vec::new, |path| held(&path, limits))
}

fn held(path: &Path, limits: &[HostLimit]) -> Vec<HostLimit> {
    let value = |limit: &HostLimit| {
        let text = read(path, &limit.file).ok()?;
        Some(HostLimit { value: line_of(&text, &limit.value), ..limit.clone() })
    };
    limits.iter().filter_map(value).collect()
}

/// A file of block I/O has a line for each device that is limited.
fn line_of(text: &str, written: &str) -> String {
    let device = written.split_ascii_whitespace().next().filter(|word| word.contains(':'));
    let Some(device) = device else { return text.trim().to_owned() };
    let mut lines = text.lines();
    let line = lines.find(|line| line.split_ascii_whitespace().next() == Some(device));
    line.map_or_else(
        || match written.contains('=') {
            true => format!("{device} rbps=max wbps=max riops=max wiops=max"),
            false => format!("{device} default"),
        },
        str::to_owned,
    )
}

/// Puts them back, the last first. What fails is left: another error is told already.
pub(crate) fn put_back(cgroup: Option<OwnCgroup<'_>>, before: &[HostLimit]) {
    for limit in before.iter().rev() {
        let _ = change(cgroup, std::slice::from_ref(limit));
    }
}

/// The quota of CPU time that the cgroup has now, -1 for none, and its period.
pub(crate) fn cpu_time_in_force(path: &Path) -> Option<(i64, u64)> {
    let text = read(path, "cpu.max").ok()?;
    let (quota, period) = text.trim().split_once(' ')?;
    Some((if quota == "max" { -1 } else { quota.parse().ok()? }, period.parse().ok()?))
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
    fn what_was_in_force_is_put_back() {
        let cgroup = tempfile::tempdir().unwrap();
        fs::write(cgroup.path().join("pids.max"), "7").unwrap();
        let limits = [planned("pids.max", false), planned("memory.max", false)];
        let before = held(cgroup.path(), &limits);
        limit(cgroup.path(), &limits).unwrap();
        assert_eq!(fs::read_to_string(cgroup.path().join("pids.max")).unwrap(), "5");
        limit(cgroup.path(), &before).unwrap();
        assert_eq!(fs::read_to_string(cgroup.path().join("pids.max")).unwrap(), "7");
        let lines = "8:0 rbps=5 wbps=max riops=max wiops=max\n";
        assert_eq!(line_of(lines, "8:0 rbps=7"), lines.trim());
        assert_eq!(line_of(lines, "8:16 rbps=7"), "8:16 rbps=max wbps=max riops=max wiops=max");
        assert_eq!(line_of("default 100\n", "8:0 50"), "8:0 default");
    }

    #[test]
    fn late_limits_wait() {
        let cgroup = tempfile::tempdir().unwrap();
        fs::write(cgroup.path().join("cpu.max"), "max 100000\n").unwrap();
        limit(cgroup.path(), &[HostLimit { late: true, ..planned("cpu.max", false) }]).unwrap();
        assert_eq!(cpu_time_in_force(cgroup.path()), Some((-1, 100_000)));
        fs::write(cgroup.path().join("cpu.max"), "5000 100000\n").unwrap();
        assert_eq!(cpu_time_in_force(cgroup.path()), Some((5000, 100_000)));
        assert_eq!(cpu_time_in_force(Path::new("/nowhere")), None);
    }
}
