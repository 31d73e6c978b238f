//! Writing to the host what the guest's kernel still has of its files.
//!
//! What programs wrote through mappings reaches the host later than they end, so there is nobody left
//! whom a full file system could be told by its call. The kernel remembers for each file system that
//! something could not be written, and tells it once, to the next who asks.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::unistd::{sync, syncfs};
use vmrun_proto::DISKS_DIR;

use crate::container::close_disks;

/// Of the agent, which has seen each mount of the host's before a container was made.
const TABLE: &str = "/proc/self/mountinfo";
/// As what the kernel has the host's files; those on disks are below [`DISKS_DIR`].
const KIND: &[u8] = b"virtiofs";

/// Writes everything back, and ends writing to disks. The error says which files it is that are not all on the host.
pub(super) fn everything() -> Result<(), String> {
    // Opened before: of what nobody was told until then, and of what fails from then on, it is told.
    let opened = open_each();
    // Others may lie in files on those: all of them.
    sync();
    let opened = opened.map_err(|error| format!("cannot read {TABLE}: {error}"))?;
    let failed = opened.iter().filter_map(|(place, root)| Some((place, syncfs(root).err()?)));
    let failed: Vec<_> = failed
        .map(|(place, errno)| {
            let cause = io::Error::from(errno);
            format!("cannot write back all files of {}: {cause}", place.display())
        })
        .collect();
    drop(opened);
    close_disks();
    if failed.is_empty() { Ok(()) } else { Err(failed.join("; ")) }
}

/// The root of each file system of the host's; each of its mounts in the shared tree is one here.
fn open_each() -> io::Result<Vec<(PathBuf, File)>> {
    let mut seen = HashSet::new();
    let table = fs::read(TABLE)?;
    let rows = table.split(|byte| *byte == b'\n').filter_map(row);
    // One that is gone, or below another, cannot be asked. A file that is mounted is its directory's.
    let opened = rows.filter_map(|(device, place)| {
        if seen.contains(&device) {
            return None;
        }
        let root = open(&place).ok()?;
        seen.insert(device);
        Some((place, root))
    });
    Ok(opened.collect())
}

fn open(place: &Path) -> io::Result<File> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    OpenOptions::new().read(true).custom_flags(flags.bits()).open(place)
}

/// `ID PARENT DEVICE ROOT POINT OPTIONS [TAG…] - KIND SOURCE SUPER` (proc_pid_mountinfo(5)): device and
/// place of a mount of the host's files.
fn row(line: &[u8]) -> Option<(Vec<u8>, PathBuf)> {
    let mut words = line.split(|byte| *byte == b' ');
    let device = words.nth(2)?.to_vec();
    let place = PathBuf::from(OsString::from_vec(unescaped(words.nth(1)?)));
    let is_the_hosts = place.starts_with(DISKS_DIR) || words.skip_while(|word| *word != b"-").nth(1)? == KIND;
    is_the_hosts.then_some((device, place))
}

/// Blanks and backslashes are written as three octal digits.
fn unescaped(word: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((first, others)) = rest.split_first() {
        let octal = others
            .get(..3)
            .filter(|_| *first == b'\\')
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        bytes.push(octal.unwrap_or(*first));
        rest = if octal.is_some() { others.get(3..).unwrap_or_default() } else { others };
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_of_the_hosts_files_are_told_from_others() {
        let line =
            b"31 30 0:25 / /run/vmrun/share/volumes/0/a\\040b rw,relatime shared:7 - virtiofs vmrun rw";
        assert_eq!(row(line), Some((b"0:25".to_vec(), PathBuf::from("/run/vmrun/share/volumes/0/a b"))));
        let disk = b"40 1 254:0 / /run/vmrun/disks/0.7 rw,relatime - ext4 /dev/vda rw";
        assert_eq!(row(disk), Some((b"254:0".to_vec(), PathBuf::from("/run/vmrun/disks/0.7"))));
        assert_eq!(row(b"22 1 0:3 / /proc rw - proc proc rw"), None);
        assert_eq!(row(b""), None);
    }

    #[test]
    fn where_nothing_is_the_hosts_nothing_is_missing() {
        assert!(open(Path::new("/no/such/place")).is_err());
        assert!(open_each().is_ok_and(|opened| opened.is_empty()));
    }
}
