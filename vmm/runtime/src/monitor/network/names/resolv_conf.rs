//! The container's `/etc/resolv.conf`, as it is on the host.

use std::fs::File;
use std::io::Read;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, open, openat2};
use vmrun_proto::{ROOTFS_DIR, VOLUMES_DIR};
use vmrun_spec::View;

use super::served::served;

const FILE: &str = "/etc/resolv.conf";

/// No more is read.
const MAX_BYTES: u64 = 64 << 10;

/// As many as the C library asks (`MAXNS`).
const MAX_SERVERS: usize = 3;

/// Where it is: a volume, or below one, or in the root file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ResolvConf {
    tree: PathBuf,
    /// Empty where the tree is the file itself.
    below: PathBuf,
}

impl ResolvConf {
    /// In the shared tree at `share`; none where the guest alone has it.
    pub(crate) fn of(view: &View, share: &Path) -> Option<Self> {
        let file = Path::new(FILE);
        // The last one is on top.
        let mount = view.mounts.iter().rev().find(|mount| file.starts_with(&mount.destination));
        let (tree, at) = match mount {
            Some(mount) => {
                (share.join(VOLUMES_DIR).join(mount.volume?.to_string()), mount.destination.as_path())
            }
            None => (share.join(ROOTFS_DIR), Path::new("/")),
        };
        Some(Self { tree, below: file.strip_prefix(at).ok()?.to_owned() })
    }

    /// The name servers at loopback addresses that it names now, and the host has in this thread's
    /// namespace.
    pub(crate) fn servers(&self) -> Vec<IpAddr> {
        served(self.loopback_servers())
    }

    /// A container without the file has none.
    fn loopback_servers(&self) -> Vec<IpAddr> {
        self.read().map_or(Vec::new(), |text| loopback_servers(&text))
    }

    fn read(&self) -> Option<String> {
        // Whatever the container has put there: nothing outside of it is read.
        let named = OFlags::PATH | OFlags::CLOEXEC;
        let found = if self.below.as_os_str().is_empty() {
            openat2(CWD, &self.tree, named, Mode::empty(), ResolveFlags::NO_MAGICLINKS)
        } else {
            let tree = openat2(CWD, &self.tree, named, Mode::empty(), ResolveFlags::empty());
            let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
            tree.and_then(|tree| openat2(&tree, &self.below, named, Mode::empty(), inside))
        };
        let found = found.ok()?;
        // To open a device of the host's does something already.
        if FileType::from_raw_mode(fstat(&found).ok()?.st_mode) != FileType::RegularFile {
            return None;
        }
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = open(format!("/proc/self/fd/{}", found.as_raw_fd()), flags, Mode::empty()).ok()?;
        let mut bytes = Vec::new();
        File::from(file).take(MAX_BYTES).read_to_end(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// As the C library reads it (`resolv.conf(5)`).
fn loopback_servers(text: &str) -> Vec<IpAddr> {
    let address = |line: &str| {
        let rest = line.strip_prefix("nameserver")?;
        let word = rest.starts_with([' ', '\t']).then(|| rest.split_ascii_whitespace().next()).flatten()?;
        word.parse::<IpAddr>().ok()
    };
    let mut servers: Vec<_> = text.lines().filter_map(address).take(MAX_SERVERS).collect();
    servers.retain(IpAddr::is_loopback);
    servers.dedup();
    servers
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use vmrun_spec::ViewMount;

    use super::*;

    fn view(mounts: &[(&str, Option<usize>)]) -> View {
        let mount = |(destination, volume): &(&str, Option<usize>)| ViewMount {
            destination: destination.into(),
            volume: *volume,
        };
        View { readonly: false, mounts: mounts.iter().map(mount).collect() }
    }

    fn place(mounts: &[(&str, Option<usize>)]) -> Option<(String, String)> {
        let found = ResolvConf::of(&view(mounts), Path::new("share"))?;
        Some((found.tree.display().to_string(), found.below.display().to_string()))
    }

    #[test]
    fn file_is_where_the_last_mount_over_it_has_it() {
        let pair = |tree: &str, below: &str| Some((tree.to_owned(), below.to_owned()));
        assert_eq!(place(&[("/etcetera", Some(0))]), pair("share/rootfs", "etc/resolv.conf"));
        assert_eq!(place(&[("/etc/resolv.conf", Some(1)), ("/proc", None)]), pair("share/volumes/1", ""));
        assert_eq!(place(&[("/etc", Some(2))]), pair("share/volumes/2", "resolv.conf"));
        assert_eq!(place(&[("/etc/resolv.conf", Some(1)), ("/etc", None)]), None);
    }

    #[test]
    fn loopback_servers_among_those_that_are_asked() {
        let table: &[(&str, &[&str])] = &[
            ("nameserver 127.0.0.11\noptions ndots:0\n", &["127.0.0.11"]),
            ("# nameserver 127.0.0.11\n;nameserver 127.0.0.2\nnameserver 10.0.0.1\n", &[]),
            ("nameserver\t::1 # here\nnameserver 127.0.0.53\n", &["::1", "127.0.0.53"]),
            ("nameserver 127.0.0.1\nnameserver 127.0.0.1\n", &["127.0.0.1"]),
            ("nameserver 9.9.9.9\nnameserver 9.9.9.8\nnameserver 9.9.9.7\nnameserver 127.0.0.1\n", &[]),
            ("nameserver127.0.0.1\nnameserver \nnameserver localhost\nsearch nameserver\n", &[]),
        ];
        for (text, expected) in table {
            let found: Vec<_> = loopback_servers(text).iter().map(ToString::to_string).collect();
            assert_eq!(found, *expected, "{text:?}");
        }
    }

    #[test]
    fn links_stay_in_the_container_and_what_is_no_file_is_not_read() {
        let share = tempfile::tempdir().unwrap();
        let etc = share.path().join("rootfs/etc");
        std::fs::create_dir_all(&etc).unwrap();
        let conf = ResolvConf::of(&View::default(), share.path()).unwrap();
        assert!(conf.loopback_servers().is_empty());
        symlink("/etc/else", etc.join("resolv.conf")).unwrap();
        std::fs::write(etc.join("else"), "nameserver 127.0.0.7\n").unwrap();
        assert_eq!(conf.loopback_servers(), ["127.0.0.7".parse::<IpAddr>().unwrap()]);
        std::fs::remove_file(etc.join("else")).unwrap();
        nix::unistd::mkfifo(&etc.join("else"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert!(conf.loopback_servers().is_empty());
    }
}
