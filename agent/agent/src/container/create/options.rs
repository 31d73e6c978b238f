//! Options of a mount: attributes of its own, attributes of all below it, and what the file system itself reads.

use oci_spec::runtime::Mount;
use rustix::mount::MountAttrFlags as Attributes;

use crate::container::destinations::is_bind;

/// What changes an attribute of the mount: its name, the attribute, and whether it is set.
const OWN: &[(&str, Attributes, bool)] = &[
    ("ro", Attributes::MOUNT_ATTR_RDONLY, true),
    ("rw", Attributes::MOUNT_ATTR_RDONLY, false),
    ("nosuid", Attributes::MOUNT_ATTR_NOSUID, true),
    ("suid", Attributes::MOUNT_ATTR_NOSUID, false),
    ("nodev", Attributes::MOUNT_ATTR_NODEV, true),
    ("dev", Attributes::MOUNT_ATTR_NODEV, false),
    ("noexec", Attributes::MOUNT_ATTR_NOEXEC, true),
    ("exec", Attributes::MOUNT_ATTR_NOEXEC, false),
    ("nodiratime", Attributes::MOUNT_ATTR_NODIRATIME, true),
    ("diratime", Attributes::MOUNT_ATTR_NODIRATIME, false),
    ("nosymfollow", Attributes::MOUNT_ATTR_NOSYMFOLLOW, true),
    ("symfollow", Attributes::MOUNT_ATTR_NOSYMFOLLOW, false),
];

/// The same for it and all mounts below.
const RECURSIVE: &[(&str, Attributes, bool)] = &[
    ("rro", Attributes::MOUNT_ATTR_RDONLY, true),
    ("rrw", Attributes::MOUNT_ATTR_RDONLY, false),
    ("rnosuid", Attributes::MOUNT_ATTR_NOSUID, true),
    ("rsuid", Attributes::MOUNT_ATTR_NOSUID, false),
    ("rnodev", Attributes::MOUNT_ATTR_NODEV, true),
    ("rdev", Attributes::MOUNT_ATTR_NODEV, false),
    ("rnoexec", Attributes::MOUNT_ATTR_NOEXEC, true),
    ("rexec", Attributes::MOUNT_ATTR_NOEXEC, false),
    ("rnodiratime", Attributes::MOUNT_ATTR_NODIRATIME, true),
    ("rdiratime", Attributes::MOUNT_ATTR_NODIRATIME, false),
    ("rrelatime", Attributes::MOUNT_ATTR_RELATIME, true),
    ("rnorelatime", Attributes::MOUNT_ATTR_RELATIME, false),
    ("rnoatime", Attributes::MOUNT_ATTR_NOATIME, true),
    ("ratime", Attributes::MOUNT_ATTR_NOATIME, false),
    ("rstrictatime", Attributes::MOUNT_ATTR_STRICTATIME, true),
    ("rnostrictatime", Attributes::MOUNT_ATTR_STRICTATIME, false),
    ("rnosymfollow", Attributes::MOUNT_ATTR_NOSYMFOLLOW, true),
    ("rsymfollow", Attributes::MOUNT_ATTR_NOSYMFOLLOW, false),
];

/// Which times of access are kept. The kernel takes one of them, and takes this order where there are more.
const ACCESS_TIMES: &[(&str, &str, Attributes)] = &[
    ("strictatime", "nostrictatime", Attributes::MOUNT_ATTR_STRICTATIME),
    ("noatime", "atime", Attributes::MOUNT_ATTR_NOATIME),
    ("relatime", "norelatime", Attributes::MOUNT_ATTR_RELATIME),
];

/// Those that mean nothing here: a new mount is no other's peer, the shared tree has the host's propagation and
/// ids, and it is the kernel that knows what an option's absence means.
const SILENT: &[&str] = &[
    "async",
    "bind",
    "defaults",
    "idmap",
    "iversion",
    "loud",
    "mand",
    "noiversion",
    "nomand",
    "private",
    "rbind",
    "remount",
    "ridmap",
    "rprivate",
    "rshared",
    "rslave",
    "runbindable",
    "shared",
    "silent",
    "slave",
    "unbindable",
];

/// Attributes that are set after others are cleared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::container) struct Change {
    pub(in crate::container) set: Attributes,
    pub(in crate::container) clear: Attributes,
}

impl Change {
    const NONE: Self = Self { set: Attributes::empty(), clear: Attributes::empty() };

    pub(super) fn is_none(self) -> bool {
        self == Self::NONE
    }
}

/// What a mount's options say.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::container) struct Options<'a> {
    pub(in crate::container) own: Change,
    pub(super) recursive: Change,
    /// For the file system, `KEY` or `KEY=VALUE`.
    pub(in crate::container) data: Vec<&'a str>,
    /// A bind mount takes along what is mounted below.
    pub(super) whole_tree: bool,
}

/// Reads them; later ones win.
pub(in crate::container) fn of(mount: &Mount) -> Options<'_> {
    let given = || mount.options().iter().flatten().map(String::as_str);
    let mut options = Options {
        own: Change::NONE,
        recursive: Change::NONE,
        data: Vec::new(),
        whole_tree: is_bind(mount) && given().any(|option| option == "rbind"),
    };
    let mut times = [false; ACCESS_TIMES.len()];
    for option in given() {
        if let Some((_, attribute, is_set)) = OWN.iter().find(|(name, ..)| *name == option) {
            options.own.set.set(*attribute, *is_set);
        } else if let Some((_, attribute, is_set)) = RECURSIVE.iter().find(|(name, ..)| *name == option) {
            change(&mut options.recursive, *attribute, *is_set);
        } else if let Some(at) =
            ACCESS_TIMES.iter().position(|(name, not, _)| [*name, *not].contains(&option))
        {
            for (index, time) in times.iter_mut().enumerate().filter(|(index, _)| *index == at) {
                *time = ACCESS_TIMES.get(index).is_some_and(|(name, ..)| *name == option);
            }
        } else if !SILENT.contains(&option) && !option.is_empty() {
            options.data.push(option);
        }
    }
    if let Some((_, (.., time))) = times.iter().zip(ACCESS_TIMES).find(|(is_set, _)| **is_set) {
        options.own.clear |= Attributes::MOUNT_ATTR__ATIME;
        options.own.set |= *time;
    }
    options
}

fn change(change: &mut Change, attribute: Attributes, is_set: bool) {
    let to = if is_set { &mut change.set } else { &mut change.clear };
    *to |= attribute;
    // Times of access are one number in these bits: it is cleared whole.
    if Attributes::MOUNT_ATTR__ATIME.contains(attribute) {
        change.clear |= Attributes::MOUNT_ATTR__ATIME;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn mount(typ: &str, options: &[&str]) -> Mount {
        serde_json::from_value(json!({ "destination": "/x", "type": typ, "options": options })).unwrap()
    }

    #[test]
    fn attributes_and_data_are_told_apart_and_later_ones_win() {
        let mount = mount("tmpfs", &["ro", "nosuid", "rw", "size=64m", "mode=755", "rprivate", "sync", ""]);
        let options = of(&mount);
        assert_eq!(options.own, Change { set: Attributes::MOUNT_ATTR_NOSUID, clear: Attributes::empty() });
        assert_eq!(options.data, ["size=64m", "mode=755", "sync"]);
        assert!(options.recursive.is_none() && !options.whole_tree);
    }

    #[test]
    fn one_time_of_access_is_taken_and_the_others_cleared() {
        let own = |options: &[&str]| of(&mount("tmpfs", options)).own;
        let all = Attributes::MOUNT_ATTR__ATIME;
        assert_eq!(
            own(&["relatime", "strictatime"]),
            Change { set: Attributes::MOUNT_ATTR_STRICTATIME, clear: all }
        );
        assert_eq!(own(&["relatime"]), Change { set: Attributes::empty(), clear: all });
        assert_eq!(own(&["noatime", "nodiratime"]).set.bits(), 0x90);
        assert!(own(&["noatime", "atime"]).is_none());
    }

    #[test]
    fn recursive_ones_are_of_the_whole_tree() {
        let mount = mount("bind", &["rbind", "rro", "rexec", "rnoatime"]);
        let options = of(&mount);
        assert!(options.whole_tree && options.own.is_none());
        assert_eq!(options.recursive.set.bits(), 0x11);
        assert_eq!(options.recursive.clear.bits(), 0x78);
    }
}
