//! Room for `process.rlimits`.
//!
//! They are set in the container's user namespace, where nobody may raise a hard limit.

use std::fs;
use std::io;

use oci_spec::runtime::{PosixRlimit, PosixRlimitType, Process};

use crate::sys;

/// More descriptors than this no limit may allow.
const NR_OPEN: &str = "/proc/sys/fs/nr_open";

/// Lets this process, whose children inherit it, have hard limits as high as those of `process`.
/// Its soft limits stay, so it is not held by limits that are meant for the program.
pub(crate) fn make_room(process: &Process) -> io::Result<()> {
    for limit in process.rlimits().iter().flatten() {
        if limit.typ() == PosixRlimitType::RlimitNofile {
            allow_descriptors(limit.hard())?;
        }
        sys::raise_hard_limit(number(limit), limit.hard())?;
    }
    Ok(())
}

/// It only grows: others may rely on what it is.
fn allow_descriptors(wanted: u64) -> io::Result<()> {
    let most: u64 = fs::read_to_string(NR_OPEN)?.trim().parse().map_err(io::Error::other)?;
    if wanted > most { fs::write(NR_OPEN, wanted.to_string()) } else { Ok(()) }
}

/// The specification's types are in the order of the kernel's numbers.
fn number(limit: &PosixRlimit) -> u32 {
    limit.typ() as u32
}

#[cfg(test)]
mod tests {
    use nix::sys::resource::{Resource, getrlimit};
    use serde_json::json;

    use super::*;

    fn process(name: &str, value: u64) -> Process {
        let limits = json!([{ "type": name, "soft": value, "hard": value }]);
        serde_json::from_value(json!({ "cwd": "/", "user": { "uid": 0, "gid": 0 }, "rlimits": limits }))
            .unwrap()
    }

    #[test]
    fn types_have_the_kernels_numbers() {
        for (name, resource) in [
            ("RLIMIT_CPU", Resource::RLIMIT_CPU),
            ("RLIMIT_NOFILE", Resource::RLIMIT_NOFILE),
            ("RLIMIT_MSGQUEUE", Resource::RLIMIT_MSGQUEUE),
            ("RLIMIT_RTTIME", Resource::RLIMIT_RTTIME),
        ] {
            assert_eq!(number(&process(name, 1).rlimits().as_ref().unwrap()[0]), resource as u32, "{name}");
        }
    }

    #[test]
    fn limits_that_are_lower_change_nothing() {
        let before = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        make_room(&process("RLIMIT_NOFILE", 1)).unwrap();
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap(), before);
    }
}
