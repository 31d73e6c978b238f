//! Settings of the host's kernel that programs depend on and administrators change: the guest's kernel
//! gets the same. Those that a namespace has for itself are not here unless a new one begins with those of
//! the first: others begin with the kernel's own, in the guest as on the host, and `linux.sysctl` changes
//! them. What is left out, and why, is in `docs/configuration.md`.

use std::collections::BTreeMap;

/// Of the whole kernel, as paths below `/proc/sys`.
pub const KERNEL_SETTINGS: &[&str] = &[
    "fs/aio-max-nr",
    "fs/epoll/max_user_watches",
    "fs/fanotify/max_queued_events",
    "fs/fanotify/max_user_groups",
    "fs/fanotify/max_user_marks",
    "fs/file-max",
    "fs/inotify/max_queued_events",
    "fs/inotify/max_user_instances",
    "fs/inotify/max_user_watches",
    "fs/lease-break-time",
    "fs/leases-enable",
    "fs/mount-max",
    "fs/nr_open",
    "fs/pipe-max-size",
    "fs/pipe-user-pages-hard",
    "fs/pipe-user-pages-soft",
    "fs/protected_fifos",
    "fs/protected_hardlinks",
    "fs/protected_regular",
    "fs/protected_symlinks",
    "fs/suid_dumpable",
    CORE_PATTERN,
    "kernel/core_uses_pid",
    "kernel/dmesg_restrict",
    "kernel/io_uring_disabled",
    "kernel/keys/maxbytes",
    "kernel/keys/maxkeys",
    "kernel/keys/root_maxbytes",
    "kernel/keys/root_maxkeys",
    "kernel/kptr_restrict",
    "kernel/pid_max",
    "kernel/pty/max",
    "kernel/randomize_va_space",
    "kernel/threads-max",
    "user/max_cgroup_namespaces",
    "user/max_ipc_namespaces",
    "user/max_mnt_namespaces",
    "user/max_net_namespaces",
    "user/max_pid_namespaces",
    "user/max_time_namespaces",
    "user/max_user_namespaces",
    "user/max_uts_namespaces",
    ADMIN_RESERVE,
    "vm/hugetlb_shm_group",
    "vm/legacy_va_layout",
    "vm/max_map_count",
    "vm/memfd_noexec",
    "vm/mmap_min_addr",
    "vm/mmap_rnd_bits",
    "vm/mmap_rnd_compat_bits",
    "vm/nr_overcommit_hugepages",
    OVERCOMMIT_KBYTES,
    OVERCOMMIT,
    OVERCOMMIT_RATIO,
    "vm/unprivileged_userfaultfd",
    USER_RESERVE,
];

/// Of the whole kernel, too, but only seen from its first network namespace.
pub const NETWORK_SETTINGS: &[&str] = &[
    "net/core/optmem_max",
    "net/core/rmem_default",
    "net/core/rmem_max",
    "net/core/wmem_default",
    "net/core/wmem_max",
    // A new namespace begins with those of the first one.
    "net/ipv4/tcp_rmem",
    "net/ipv4/tcp_wmem",
];

const ADMIN_RESERVE: &str = "vm/admin_reserve_kbytes";
const CORE_PATTERN: &str = "kernel/core_pattern";
const OVERCOMMIT: &str = "vm/overcommit_memory";
const OVERCOMMIT_GUESS_KBYTES: &str = "vm/overcommit_guess_kbytes";
const OVERCOMMIT_KBYTES: &str = "vm/overcommit_kbytes";
const OVERCOMMIT_RATIO: &str = "vm/overcommit_ratio";
const TMPFS_RAM_KBYTES: &str = "vm/tmpfs_ram_kbytes";
const USER_RESERVE: &str = "vm/user_reserve_kbytes";

/// How much memory the host may promise, in KiB.
#[derive(Clone, Copy, Debug)]
pub struct Promises {
    /// All that it has, which its heuristic refuses to exceed at once.
    pub memory: u64,
    /// What it promises in all, if it keeps its promises.
    pub limit: u64,
}

/// Whether the host refuses memory: then [`for_the_guest`] has to know when.
pub fn refuses_memory(hosts: &BTreeMap<String, String>) -> bool {
    hosts.get(OVERCOMMIT).is_some_and(|mode| mode != "1")
}

/// The host's settings as the guest gets them.
///
/// Memory is promised as on the host. Its heuristic (mode 0) refuses what is more than all memory at
/// once, which in a small machine is next to nothing: it compares with the host's. Where the host keeps
/// its promises (mode 2) the guest does, up to the host's limit. So is a tmpfs that is told no size: it is
/// half of `ram`, the host's in KiB, and what the container may fill is its limit of memory.
pub fn for_the_guest(
    mut hosts: BTreeMap<String, String>,
    ram: u64,
    promises: Option<Promises>,
) -> BTreeMap<String, String> {
    // A program of the host's is not in the guest: there the kernel's own pattern stays.
    hosts.retain(|name, value| name != CORE_PATTERN || !value.starts_with('|'));
    // Setting one of these unsets the other.
    let in_kbytes = hosts.get(OVERCOMMIT_KBYTES).is_some_and(|kbytes| kbytes != "0");
    hosts.remove(if in_kbytes { OVERCOMMIT_RATIO } else { OVERCOMMIT_KBYTES });
    if hosts.get(OVERCOMMIT).is_none_or(|mode| mode != "2") {
        // They count nowhere else, and the guest's own fit its size.
        hosts.remove(ADMIN_RESERVE);
        hosts.remove(USER_RESERVE);
    }
    match (hosts.get(OVERCOMMIT).map(String::as_str), promises) {
        (Some("0"), Some(promises)) => {
            hosts.insert(OVERCOMMIT_GUESS_KBYTES.to_owned(), promises.memory.to_string());
        }
        (Some("2"), Some(promises)) => {
            hosts.remove(OVERCOMMIT_RATIO);
            hosts.insert(OVERCOMMIT_KBYTES.to_owned(), promises.limit.to_string());
        }
        _ => {}
    }
    hosts.insert(TMPFS_RAM_KBYTES.to_owned(), ram.to_string());
    hosts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guests(hosts: &[(&str, &str)]) -> Vec<(String, String)> {
        let hosts = hosts.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let mut guests = for_the_guest(hosts, 8000, Some(Promises { memory: 9000, limit: 4096 }));
        assert_eq!(guests.remove(TMPFS_RAM_KBYTES).as_deref(), Some("8000"));
        guests.into_iter().collect()
    }

    fn owned(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    #[test]
    fn names_are_sorted_and_each_is_there_once() {
        assert!(KERNEL_SETTINGS.is_sorted_by(|a, b| a < b));
        assert!(NETWORK_SETTINGS.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn heuristic_compares_with_the_hosts_memory() {
        let hosts =
            [("vm/overcommit_kbytes", "0"), ("vm/overcommit_memory", "0"), ("vm/overcommit_ratio", "50")];
        assert_eq!(
            guests(&hosts),
            [
                owned("vm/overcommit_guess_kbytes", "9000"),
                owned("vm/overcommit_memory", "0"),
                owned("vm/overcommit_ratio", "50")
            ]
        );
        assert_eq!(guests(&[("vm/overcommit_memory", "1")]), [owned("vm/overcommit_memory", "1")]);
    }

    #[test]
    fn promises_are_kept_up_to_the_hosts_limit() {
        let hosts =
            [("vm/overcommit_kbytes", "0"), ("vm/overcommit_memory", "2"), ("vm/overcommit_ratio", "80")];
        assert_eq!(
            guests(&hosts),
            [owned("vm/overcommit_kbytes", "4096"), owned("vm/overcommit_memory", "2")]
        );
    }

    #[test]
    fn reserves_are_the_hosts_where_promises_are_kept() {
        let reserve = ("vm/user_reserve_kbytes", "131072");
        assert_eq!(guests(&[reserve, ("vm/overcommit_memory", "1")]), [owned(OVERCOMMIT, "1")]);
        assert_eq!(
            guests(&[reserve, ("vm/overcommit_memory", "2")]),
            [owned(OVERCOMMIT_KBYTES, "4096"), owned(OVERCOMMIT, "2"), owned(USER_RESERVE, "131072")]
        );
    }

    #[test]
    fn core_pattern_that_names_a_program_of_the_host_stays_there() {
        assert_eq!(guests(&[(CORE_PATTERN, "|/usr/lib/dump %p")]), []);
        assert_eq!(guests(&[(CORE_PATTERN, "/tmp/core.%p")]), [owned(CORE_PATTERN, "/tmp/core.%p")]);
    }
}
