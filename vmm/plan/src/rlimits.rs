//! `process.rlimits`: what it does not say is as a child of the caller would have it.

use oci_spec::runtime::{PosixRlimit, Process};

/// Adds those of `callers` that the process has no limit for.
pub(crate) fn inherit(process: &mut Process, callers: &[PosixRlimit]) {
    let mut limits = process.rlimits().clone().unwrap_or_default();
    let given: Vec<_> = limits.iter().map(PosixRlimit::typ).collect();
    limits.extend(callers.iter().filter(|limit| !given.contains(&limit.typ())));
    process.set_rlimits(Some(limits).filter(|limits| !limits.is_empty()));
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn limit(name: &str, value: u64) -> Value {
        json!({ "type": format!("RLIMIT_{name}"), "soft": value, "hard": value })
    }

    #[test]
    fn given_limits_stay_and_the_others_are_added() {
        let mut process = Process::default();
        process.set_rlimits(serde_json::from_value(json!([limit("NOFILE", 1)])).unwrap());
        let callers: Vec<PosixRlimit> =
            serde_json::from_value(json!([limit("NOFILE", 9), limit("CORE", 2)])).unwrap();
        inherit(&mut process, &callers);
        let found = serde_json::to_value(process.rlimits()).unwrap();
        assert_eq!(found, json!([limit("NOFILE", 1), limit("CORE", 2)]));
    }
}
