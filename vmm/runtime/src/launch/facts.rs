//! What the plan has to know about the host and the caller.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::thread::available_parallelism;
use std::{fs, io};

use nix::sys::resource::{Resource, getrlimit};
use nix::sys::stat::{major, minor};
use nix::unistd::geteuid;
use oci_spec::runtime::{LinuxResources, PosixRlimit, PosixRlimitBuilder, PosixRlimitType};
use vmrun_plan::{Bundle, DiskIdentity, Facts};
use vmrun_spec::VolumeKind;

use super::{LaunchError, network};
use crate::{host_settings, oom_score};

const ONLINE: &str = "/sys/devices/system/cpu/online";

/// The kernel's names and the specification's.
const LIMITS: &[(Resource, PosixRlimitType)] = &[
    (Resource::RLIMIT_CPU, PosixRlimitType::RlimitCpu),
    (Resource::RLIMIT_FSIZE, PosixRlimitType::RlimitFsize),
    (Resource::RLIMIT_DATA, PosixRlimitType::RlimitData),
    (Resource::RLIMIT_STACK, PosixRlimitType::RlimitStack),
    (Resource::RLIMIT_CORE, PosixRlimitType::RlimitCore),
    (Resource::RLIMIT_RSS, PosixRlimitType::RlimitRss),
    (Resource::RLIMIT_NPROC, PosixRlimitType::RlimitNproc),
    (Resource::RLIMIT_NOFILE, PosixRlimitType::RlimitNofile),
    (Resource::RLIMIT_MEMLOCK, PosixRlimitType::RlimitMemlock),
    (Resource::RLIMIT_AS, PosixRlimitType::RlimitAs),
    (Resource::RLIMIT_LOCKS, PosixRlimitType::RlimitLocks),
    (Resource::RLIMIT_SIGPENDING, PosixRlimitType::RlimitSigpending),
    (Resource::RLIMIT_MSGQUEUE, PosixRlimitType::RlimitMsgqueue),
    (Resource::RLIMIT_NICE, PosixRlimitType::RlimitNice),
    (Resource::RLIMIT_RTPRIO, PosixRlimitType::RlimitRtprio),
    (Resource::RLIMIT_RTTIME, PosixRlimitType::RlimitRttime),
];

pub(super) fn facts(bundle: &Bundle) -> Result<Facts, LaunchError> {
    let cpus = available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    let mut sources = BTreeMap::new();
    for source in vmrun_plan::bind_sources(bundle) {
        if let Ok(metadata) = fs::metadata(&source) {
            let kind = kind_of(&source, metadata.file_type());
            sources.insert(source, kind);
        }
    }
    let linux = bundle.spec.linux().as_ref();
    Ok(Facts {
        cpus: u32::try_from(cpus).unwrap_or(u32::MAX),
        online: online_processors(linux.and_then(|linux| linux.resources().as_ref()))?,
        rlimits: rlimits()?,
        settings: host_settings::read(vmrun_plan::NETWORK_SETTINGS),
        oom_score_adj: oom_score::own().map_err(LaunchError::io("look at the own oom_score_adj"))?,
        may_map_ids: geteuid().is_root(),
        sources,
        disks: disks(bundle),
        not_directories: not_directories(bundle),
        interfaces: network::interfaces(&vmrun_plan::network_namespace(&bundle.spec))?,
    })
}

fn disks(bundle: &Bundle) -> BTreeMap<PathBuf, DiskIdentity> {
    let sources = vmrun_plan::disk_sources(bundle).into_iter();
    let known = sources.filter_map(|source| {
        let found = fs::metadata(&source).ok()?;
        let identity = if found.file_type().is_block_device() {
            let number = |part: u64| u32::try_from(part).ok();
            DiskIdentity::Device { major: number(major(found.rdev()))?, minor: number(minor(found.rdev()))? }
        } else {
            DiskIdentity::File { device: found.dev(), inode: found.ino() }
        };
        Some((source, identity))
    });
    known.collect()
}

fn kind_of(source: &Path, found: fs::FileType) -> VolumeKind {
    if found.is_dir() {
        VolumeKind::Directory
    } else if found.is_socket() && !takes_datagrams(source) {
        VolumeKind::Socket
    } else {
        VolumeKind::File
    }
}

/// Only the kernel knows of which type a socket is, and tells it to one who would send datagrams there. Who listens for
/// connections hears nothing of that.
fn takes_datagrams(socket: &Path) -> bool {
    UnixDatagram::unbound().and_then(|probe| probe.connect(socket)).is_ok()
}

/// Where proc and sysfs are to be mounted and something else than a directory is: what is behind a
/// link may be somebody's trap, so the link itself is looked at.
fn not_directories(bundle: &Bundle) -> BTreeMap<PathBuf, &'static str> {
    let places = vmrun_plan::kernel_mount_points(bundle).into_iter();
    let kinds = places.filter_map(|place| {
        let kind = fs::symlink_metadata(&place).ok()?.file_type();
        match (kind.is_dir(), kind.is_symlink()) {
            (true, _) => None,
            (false, true) => Some((place, "a symbolic link")),
            (false, false) => Some((place, "not a directory")),
        }
    });
    kinds.collect()
}

/// Numbers of the processors that this host uses, where somebody asks for some.
pub(crate) fn online_processors(resources: Option<&LinuxResources>) -> Result<BTreeSet<u32>, LaunchError> {
    if !vmrun_plan::names_processors(resources) {
        return Ok(BTreeSet::new());
    }
    fs::read_to_string(ONLINE)
        .and_then(|list| vmrun_plan::online_processors(&list).map_err(io::Error::other))
        .map_err(LaunchError::io("look which processors are online"))
}

/// The limits of this process.
pub(crate) fn rlimits() -> Result<Vec<PosixRlimit>, LaunchError> {
    let limit = |(resource, typ): &(Resource, PosixRlimitType)| {
        let (soft, hard) = getrlimit(*resource).map_err(std::io::Error::from)?;
        let limit = PosixRlimitBuilder::default().typ(*typ).soft(soft).hard(hard).build();
        limit.map_err(std::io::Error::other)
    };
    LIMITS.iter().map(limit).collect::<Result<_, _>>().map_err(LaunchError::io("look at the own limits"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn every_limit_is_told_once() {
        let mut numbers: Vec<_> = rlimits().unwrap().iter().map(|limit| limit.typ() as u32).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (0..16).collect::<Vec<_>>());
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        let files = rlimits().unwrap().into_iter().find(|limit| limit.typ() == PosixRlimitType::RlimitNofile);
        assert_eq!(files.map(|limit| (limit.soft(), limit.hard())), Some((soft, hard)));
    }

    #[test]
    fn sockets_are_told_apart_without_the_notice_of_who_listens() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let listener = UnixListener::bind(path("stream")).unwrap();
        listener.set_nonblocking(true).unwrap();
        let _datagrams = UnixDatagram::bind(path("datagrams")).unwrap();
        drop(UnixListener::bind(path("left")).unwrap());
        let kind = |name: &str| kind_of(&path(name), fs::metadata(path(name)).unwrap().file_type());
        assert_eq!(
            [kind("stream"), kind("left"), kind("datagrams")],
            [VolumeKind::Socket, VolumeKind::Socket, VolumeKind::File]
        );
        assert!(listener.accept().is_err());
        assert_eq!(kind_of(Path::new("/"), fs::metadata("/").unwrap().file_type()), VolumeKind::Directory);
    }

    #[test]
    fn first_processor_is_online() {
        let some = serde_json::from_str(r#"{"cpu": {"cpus": "0"}}"#).unwrap();
        assert!(online_processors(Some(&some)).unwrap().contains(&0));
        assert!(online_processors(None).unwrap().is_empty());
    }
}
