//! Whether the root that we may be is the host's.

use std::fs;

/// Whom a user namespace's root is outside of it. None in the first namespace, which maps every
/// user to the same (user_namespaces(7)).
pub(crate) fn user_outside(map: &str) -> Option<u32> {
    let rows: Vec<Vec<u32>> = map
        .lines()
        .map(|line| line.split_ascii_whitespace().filter_map(|word| word.parse().ok()).collect())
        .collect();
    match rows[..] {
        [ref only] if only[..] == [0, 0, u32::MAX] => None,
        _ => rows.iter().find_map(|row| match row[..] {
            [0, outside, _] => Some(outside),
            _ => None,
        }),
    }
}

/// Whether root here is somebody else outside.
pub(crate) fn is_user_namespace() -> bool {
    fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| user_outside(&map).is_some())
}
