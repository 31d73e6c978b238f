//! What the options of a bind mount make of its attributes.
//!
//! A mount begins with those of its source. An option like `ro` adds one to the mount alone, and
//! its opposite takes that back, not what the source has: that is crun's rule, and runc's before
//! 1.2. A recursive one like `rro` or `rrw` sets or clears, below the mount too, and comes after.

use oci_spec::runtime::Mount;
use vmrun_proto::mount_attr::{
    ATIME, NOATIME, NODEV, NODIRATIME, NOEXEC, NOSUID, NOSYMFOLLOW, RDONLY, STRICTATIME,
};
use vmrun_spec::MountChange;

/// `relatime` is the access times' bits when all are clear.
const RELATIME: u64 = 0;

/// Option, attribute, whether it sets it.
const OF_THE_MOUNT: &[(&str, u64, bool)] = &[
    ("ro", RDONLY, true),
    ("rw", RDONLY, false),
    ("nosuid", NOSUID, true),
    ("suid", NOSUID, false),
    ("nodev", NODEV, true),
    ("dev", NODEV, false),
    ("noexec", NOEXEC, true),
    ("exec", NOEXEC, false),
    ("nosymfollow", NOSYMFOLLOW, true),
    ("symfollow", NOSYMFOLLOW, false),
    ("nodiratime", NODIRATIME, true),
    ("diratime", NODIRATIME, false),
    ("noatime", NOATIME, true),
    ("atime", NOATIME, false),
    ("strictatime", STRICTATIME, true),
    ("nostrictatime", STRICTATIME, false),
    ("relatime", RELATIME, true),
    ("norelatime", RELATIME, false),
];

/// The same for what is mounted below, too.
const RECURSIVE: &[(&str, u64, bool)] = &[
    ("rro", RDONLY, true),
    ("rrw", RDONLY, false),
    ("rnosuid", NOSUID, true),
    ("rsuid", NOSUID, false),
    ("rnodev", NODEV, true),
    ("rdev", NODEV, false),
    ("rnoexec", NOEXEC, true),
    ("rexec", NOEXEC, false),
    ("rnodiratime", NODIRATIME, true),
    ("rdiratime", NODIRATIME, false),
    ("rnoatime", NOATIME, true),
    ("ratime", NOATIME, false),
    ("rstrictatime", STRICTATIME, true),
    ("rnostrictatime", STRICTATIME, false),
    ("rrelatime", RELATIME, true),
    ("rnorelatime", RELATIME, false),
    ("rnosymfollow", NOSYMFOLLOW, true),
    ("rsymfollow", NOSYMFOLLOW, false),
];

/// The change of the mount alone.
pub(crate) fn of_the_mount(mount: &Mount) -> MountChange {
    let mut change = MountChange::default();
    for &(_, bit, sets) in named(mount, OF_THE_MOUNT) {
        match (sets, is_access_time(bit)) {
            (true, false) => change.set |= bit,
            (false, false) => change.set &= !bit,
            (true, true) => choose_access_time(&mut change, bit),
            (false, true) if change.set & ATIME == bit => {
                change.set &= !ATIME;
                change.clear &= !ATIME;
            }
            (false, true) => {}
        }
    }
    change
}

/// The change of it and of all below it.
pub(crate) fn recursive(mount: &Mount) -> MountChange {
    let mut change = MountChange::default();
    for &(_, bit, sets) in named(mount, RECURSIVE) {
        match (sets, is_access_time(bit)) {
            (true, true) => choose_access_time(&mut change, bit),
            (false, true) => choose_access_time(&mut change, RELATIME),
            (true, false) => {
                change.set |= bit;
                change.clear &= !bit;
            }
            (false, false) => {
                change.clear |= bit;
                change.set &= !bit;
            }
        }
    }
    change
}

/// The kernel wants all of the access times' bits cleared when one is set.
fn choose_access_time(change: &mut MountChange, bit: u64) {
    change.clear |= ATIME;
    change.set = change.set & !ATIME | bit;
}

fn is_access_time(bit: u64) -> bool {
    bit & ATIME == bit
}

fn named<'a>(
    mount: &'a Mount,
    table: &'static [(&str, u64, bool)],
) -> impl Iterator<Item = &'static (&'static str, u64, bool)> + 'a {
    let options = mount.options().iter().flatten();
    options.filter_map(move |option| table.iter().find(|(name, ..)| name == option))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn mount(options: &[&str]) -> Mount {
        serde_json::from_value(json!({ "destination": "/d", "options": options })).unwrap()
    }

    #[test]
    fn option_of_the_mount_adds_and_its_opposite_takes_that_back() {
        let change = |options: &[&str]| {
            let MountChange { set, clear } = of_the_mount(&mount(options));
            (set, clear)
        };
        assert_eq!(change(&["rbind", "rw", "exec", "atime", "rro"]), (0, 0));
        assert_eq!(change(&["ro", "nosuid", "noexec", "exec"]), (RDONLY | NOSUID, 0));
        assert_eq!(change(&["ro", "rw"]), (0, 0));
        assert_eq!(change(&["noatime", "nodiratime"]), (NOATIME | NODIRATIME, ATIME));
        assert_eq!(change(&["noatime", "strictatime"]), (STRICTATIME, ATIME));
        assert_eq!(change(&["noatime", "relatime"]), (0, ATIME));
        assert_eq!(change(&["noatime", "atime"]), (0, 0));
    }

    #[test]
    fn recursive_option_sets_or_clears() {
        let change = |options: &[&str]| {
            let MountChange { set, clear } = recursive(&mount(options));
            (set, clear)
        };
        assert_eq!(change(&["ro", "noexec"]), (0, 0));
        assert_eq!(change(&["rro", "rexec", "rnosymfollow"]), (RDONLY | NOSYMFOLLOW, NOEXEC));
        assert_eq!(change(&["rro", "rrw"]), (0, RDONLY));
        assert_eq!(change(&["rnodiratime", "rnoatime"]), (NODIRATIME | NOATIME, ATIME));
        assert_eq!(change(&["rnoatime", "ratime"]), (0, ATIME));
        assert_eq!(change(&["rrelatime"]), (0, ATIME));
    }

    #[test]
    fn every_option_in_the_tables_is_a_known_one() {
        for (name, ..) in OF_THE_MOUNT.iter().chain(RECURSIVE) {
            assert!(crate::MOUNT_OPTIONS.contains(name), "{name}");
        }
    }
}
