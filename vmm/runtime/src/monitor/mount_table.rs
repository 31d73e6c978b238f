//! The mounts of the shared tree, as `/proc/self/mountinfo` lists them.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use vmrun_proto::{ROOTFS_DIR, SHARE_MOUNT, SharedMount, mount_attr};

/// File systems through which the host's kernel is told what to do, or tells of its processes. One
/// of a container's own is the guest's; there is no use for the host's in it but to get out.
const KERNELS: &[&str] = &[
    "proc",
    "sysfs",
    "cgroup",
    "cgroup2",
    "binfmt_misc",
    "bpf",
    "configfs",
    "debugfs",
    "devpts",
    "efivarfs",
    "fusectl",
    "nfsd",
    "pstore",
    "resctrl",
    "rpc_pipefs",
    "securityfs",
    "selinuxfs",
    "smackfs",
    "tracefs",
];

/// A mount below the tree's root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    /// Relative to the tree's root.
    pub(super) at: PathBuf,
    kind: String,
    /// In the bits of `mount_setattr(2)`.
    attributes: u64,
}

impl Row {
    /// The root file system or a volume, not what is mounted below it.
    pub(super) fn is_top(&self) -> bool {
        let depth = if self.at.starts_with(ROOTFS_DIR) { 1 } else { 2 };
        self.at.components().count() <= depth
    }

    pub(super) fn is_kernels(&self) -> bool {
        KERNELS.contains(&self.kind.as_str())
    }

    /// The host's device nodes: the guest opens none of them, but could remove them.
    pub(super) fn is_of_devices(&self) -> bool {
        self.kind == "devtmpfs"
    }

    pub(super) fn is_readonly(&self) -> bool {
        self.attributes & mount_attr::RDONLY != 0
    }

    /// Name of its file system.
    pub(super) fn kind(&self) -> &str {
        &self.kind
    }

    /// What the guest is to be told of it: nothing of a root file system or volume that has what
    /// every mount begins with. One without a name in UTF-8 gets what the mount above it has.
    fn for_the_guest(&self) -> Option<SharedMount> {
        if self.is_top() && self.attributes == 0 {
            return None;
        }
        let path = Path::new(SHARE_MOUNT).join(&self.at).into_os_string().into_string().ok()?;
        Some(SharedMount { path, attributes: self.attributes })
    }
}

/// Of this process.
pub(super) const TABLE: &str = "/proc/self/mountinfo";

/// More than most tables have.
const USUAL_BYTES: usize = 16 << 10;

/// The mounts below `share`, which has no links in it, outer ones first.
pub(super) fn read(share: &Path) -> io::Result<Vec<Row>> {
    // Each reading costs the kernel a line for each mount of the host's: so few of them.
    let mut table = Vec::with_capacity(USUAL_BYTES);
    File::open(TABLE)?.read_to_end(&mut table)?;
    Ok(parse(&table, share))
}

fn parse(table: &[u8], share: &Path) -> Vec<Row> {
    let rows = table.split(|byte| *byte == b'\n').filter_map(|line| row(line, share));
    let mut rows: Vec<_> = rows.filter(|row| row.at != Path::new("")).collect();
    rows.sort_by_key(|row| row.at.components().count());
    rows
}

/// `ID PARENT DEVICE ROOT POINT OPTIONS [TAG…] - KIND SOURCE SUPER` (proc_pid_mountinfo(5))
fn row(line: &[u8], share: &Path) -> Option<Row> {
    let mut words = line.split(|byte| *byte == b' ');
    let point = PathBuf::from(OsString::from_vec(unescaped(words.nth(4)?)));
    let at = point.strip_prefix(share).ok()?.to_owned();
    let attributes = words.next()?.split(|byte| *byte == b',').map(bit).fold(NONE, |all, bit| match bit {
        // One that is named takes the place of the one that none stands for.
        mount_attr::NOATIME | RELATIME => all & !mount_attr::ATIME | bit & mount_attr::ATIME,
        other => all | other,
    });
    let kind = words.skip_while(|word| *word != b"-").nth(1)?;
    Some(Row {
        at,
        kind: String::from_utf8_lossy(kind).into_owned(),
        attributes: attributes & mount_attr::ALL,
    })
}

/// A mount whose options name no kind of access times has `strictatime`.
const NONE: u64 = mount_attr::STRICTATIME;

/// No bit of the kernel's: `relatime` is that none of the others is set.
const RELATIME: u64 = 1 << 63;

fn bit(option: &[u8]) -> u64 {
    match option {
        b"ro" => mount_attr::RDONLY,
        b"nosuid" => mount_attr::NOSUID,
        b"nodev" => mount_attr::NODEV,
        b"noexec" => mount_attr::NOEXEC,
        b"noatime" => mount_attr::NOATIME,
        b"nodiratime" => mount_attr::NODIRATIME,
        b"relatime" => RELATIME,
        b"nosymfollow" => mount_attr::NOSYMFOLLOW,
        _ => 0,
    }
}

/// Blanks and backslashes are written as three octal digits.
fn unescaped(word: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((first, others)) = rest.split_first() {
        let escaped = others.get(..3).filter(|_| *first == b'\\').and_then(octal);
        bytes.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { others.get(3..).unwrap_or_default() } else { others };
    }
    bytes
}

fn octal(digits: &[u8]) -> Option<u8> {
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()
}

/// What the guest is told. Nothing of what lies below one of `hidden`; of mounts on one place, the
/// last, which is on top.
pub(super) fn for_the_guest(rows: &[Row], hidden: &[PathBuf]) -> Vec<SharedMount> {
    let shown = |row: &&Row| !hidden.iter().any(|path| row.at.starts_with(path));
    let mut told: Vec<SharedMount> = Vec::new();
    for mount in rows.iter().filter(shown).filter_map(Row::for_the_guest) {
        match told.iter_mut().find(|other| other.path == mount.path) {
            Some(below) => *below = mount,
            None => told.push(mount),
        }
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
        20 1 8:1 / / rw,relatime shared:1 - ext4 /dev/root rw\n\
        30 20 0:9 / /s ro,nosuid,nodev,noexec,relatime - tmpfs vmrun rw,size=1024k\n\
        31 30 8:1 /bundle/rootfs /s/rootfs rw,relatime master:1 - ext4 /dev/root rw\n\
        33 32 0:5 / /s/volumes/0/proc rw,nosuid,nodev,noexec,relatime master:2 master:3 - proc proc rw\n\
        32 30 8:1 /data /s/volumes/0 ro,noatime,nodiratime - ext4 /dev/root rw\n\
        34 32 8:2 / /s/volumes/0/a\\040b\\134 rw - xfs /dev/b rw\n\
        35 33 0:7 / /s/volumes/0/proc/sys/fs/binfmt_misc rw,relatime - autofs systemd-1 rw\n\
        36 32 0:6 / /s/volumes/0/dev rw,nosuid,relatime - devtmpfs udev rw\n\
        37 20 8:2 / /surely rw,relatime - xfs /dev/b rw\n";

    #[test]
    fn mounts_of_the_tree_are_read_outer_ones_first() {
        let rows = parse(TABLE.as_bytes(), Path::new("/s"));
        let places: Vec<_> = rows.iter().map(|row| row.at.to_str().unwrap()).collect();
        let below = ["volumes/0/proc", "volumes/0/a b\\", "volumes/0/dev"];
        assert_eq!(places[..2], ["rootfs", "volumes/0"]);
        assert_eq!(places[2..5], below);
        assert_eq!(places[5..], ["volumes/0/proc/sys/fs/binfmt_misc"]);
        let tops: Vec<_> = rows.iter().map(Row::is_top).collect();
        assert_eq!(tops, [true, true, false, false, false, false]);
        assert!(rows[2].is_kernels() && !rows[3].is_kernels() && rows[4].is_of_devices());
    }

    #[test]
    fn attributes_are_those_of_the_options() {
        use mount_attr::{NOATIME, NODEV, NODIRATIME, NOEXEC, NOSUID, RDONLY, STRICTATIME};
        let rows = parse(TABLE.as_bytes(), Path::new("/s"));
        let attributes: Vec<_> = rows.iter().map(|row| row.attributes).collect();
        assert_eq!(attributes[..4], [0, RDONLY | NOATIME | NODIRATIME, NOSUID | NODEV | NOEXEC, STRICTATIME]);
    }

    #[test]
    fn guest_is_told_what_it_would_not_show_by_itself() {
        let rows = parse(TABLE.as_bytes(), Path::new("/s"));
        let told = for_the_guest(&rows, &[PathBuf::from("volumes/0/proc")]);
        let paths: Vec<_> = told.iter().map(|mount| mount.path.as_str()).collect();
        let share = SHARE_MOUNT;
        let expected = ["volumes/0", "volumes/0/a b\\", "volumes/0/dev"].map(|at| format!("{share}/{at}"));
        assert_eq!(paths, expected);
    }

    #[test]
    fn of_two_mounts_on_one_place_the_upper_one_counts() {
        let table = "32 30 8:1 /data /s/rootfs ro,relatime - ext4 /dev/root rw\n\
            33 32 8:1 /data /s/rootfs rw,nodev,relatime - ext4 /dev/root rw\n";
        let told = for_the_guest(&parse(table.as_bytes(), Path::new("/s")), &[]);
        let mount = SharedMount { path: format!("{SHARE_MOUNT}/rootfs"), attributes: mount_attr::NODEV };
        assert_eq!(told, [mount]);
    }
}
