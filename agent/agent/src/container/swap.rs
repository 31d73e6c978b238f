//! The limit of swap, where libcgroups' way with it is not runc's.
//!
//! The OCI's number is the sum of memory and swap, and cgroup v2's is swap alone. libcgroups writes
//! no zero, takes a zero that means "not given" for a limit, and refuses to lift the limit of swap
//! without a limit of memory.

use std::fs;
use std::io;

use oci_spec::runtime::LinuxResources;

use super::cgroup::Cgroup;

/// What is written besides what libcgroups writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Swap(Option<&'static str>);

impl Swap {
    /// The resources as libcgroups understands them, and what is left to write.
    pub(crate) fn take_out(resources: &LinuxResources) -> (LinuxResources, Self) {
        let mut rest = resources.clone();
        let Some(mut memory) = rest.memory().as_ref().copied() else { return (rest, Self(None)) };
        let given = |limit: Option<i64>| limit.filter(|limit| *limit != 0);
        let (limit, swap) = (given(memory.limit()), given(memory.swap()));
        let written = match (limit, swap) {
            (None, Some(-1)) => Some("max"),
            (Some(limit), Some(swap)) if limit == swap && limit > 0 => Some("0"),
            _ => None,
        };
        memory.set_limit(limit).set_swap(if limit.is_none() && written.is_some() { None } else { swap });
        rest.set_memory(Some(memory));
        (rest, Self(written))
    }

    /// Writes it.
    pub(crate) fn apply(self, cgroup: &Cgroup) -> Result<(), String> {
        let Some(value) = self.0 else { return Ok(()) };
        match fs::write(cgroup.directory().join("memory.swap.max"), value) {
            // A guest kernel without swap has no such file, and no swap.
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(format!("failed to write {value} to memory.swap.max: {error}"))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_libcgroups_does_not_write_is_taken_out_and_nothing_else() {
        let table = [
            (json!({"limit": 5, "swap": 5}), json!({"limit": 5, "swap": 5}), Some("0")),
            (json!({"limit": 5, "swap": 9}), json!({"limit": 5, "swap": 9}), None),
            (json!({"limit": -1, "swap": -1}), json!({"limit": -1, "swap": -1}), None),
            (json!({"swap": -1}), json!({}), Some("max")),
            (json!({"limit": 0, "swap": -1, "reservation": 3}), json!({"reservation": 3}), Some("max")),
            (json!({"limit": 5, "swap": 0}), json!({"limit": 5}), None),
            (json!({"swap": 7}), json!({"swap": 7}), None),
        ];
        for (given, expected, written) in table {
            let resources = serde_json::from_value(json!({ "memory": given })).unwrap();
            let (rest, swap) = Swap::take_out(&resources);
            assert_eq!(serde_json::to_value(rest.memory()).unwrap(), expected, "{given}");
            assert_eq!(swap, Swap(written), "{given}");
        }
    }
}
