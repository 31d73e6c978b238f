//! Settings of the namespace as a whole that an engine or a plugin has written, like CNI's `tuning`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;

use rustix::fs::{CWD, Mode, OFlags, openat};

/// Those that programs and packets notice, by their names below `/proc/sys/net`, with the kernel's defaults.
/// Those whose default depends on the machine's memory are its own.
const KNOWN: [(&str, &str); 27] = [
    ("core/somaxconn", "4096"),
    ("ipv4/conf/all/arp_announce", "0"),
    ("ipv4/conf/all/arp_ignore", "0"),
    ("ipv4/conf/all/route_localnet", "0"),
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/all/src_valid_mark", "0"),
    ("ipv4/icmp_echo_ignore_all", "0"),
    ("ipv4/ip_default_ttl", "64"),
    ("ipv4/ip_forward", "0"),
    ("ipv4/ip_local_port_range", "32768\t60999"),
    ("ipv4/ip_local_reserved_ports", ""),
    ("ipv4/ip_no_pmtu_disc", "0"),
    ("ipv4/ip_nonlocal_bind", "0"),
    ("ipv4/ip_unprivileged_port_start", "1024"),
    ("ipv4/ping_group_range", "1\t0"),
    ("ipv4/tcp_fin_timeout", "60"),
    ("ipv4/tcp_keepalive_intvl", "75"),
    ("ipv4/tcp_keepalive_probes", "9"),
    ("ipv4/tcp_keepalive_time", "7200"),
    ("ipv4/tcp_mtu_probing", "0"),
    ("ipv4/tcp_slow_start_after_idle", "1"),
    ("ipv4/tcp_syncookies", "1"),
    ("ipv4/tcp_tw_reuse", "2"),
    ("ipv6/conf/all/disable_ipv6", "0"),
    ("ipv6/conf/all/forwarding", "0"),
    ("ipv6/conf/default/disable_ipv6", "0"),
    ("ipv6/ip_nonlocal_bind", "0"),
];

/// Almost every value is shorter. The kernel makes, and clears, a buffer as large as the reader's.
const USUAL_BYTES: usize = 128;

/// A list of ports is the longest value. The kernel gives all of it to the first read, and to no other.
const MOST_BYTES: usize = 128 << 10;

/// How a user namespace shows groups that it does not have, as those of the default are.
const NO_GROUPS: &str = "65534\t65534";

/// Those of the thread's namespace that are not the default, or of which the guest has been `told`. What cannot be
/// read, as where a kernel does not have it, is left to the guest.
pub(super) fn read(told: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    // From there the way to each of them is short.
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(net) = openat(CWD, "/proc/sys/net", flags, Mode::empty()) else { return BTreeMap::new() };
    let known = KNOWN.into_iter();
    known
        .filter_map(|(name, default)| changed(name, &value(&net, name)?, default, told.contains_key(name)))
        .collect()
}

/// What a setting is, as the kernel writes it.
fn value(net: &OwnedFd, name: &str) -> Option<String> {
    let first = |most| {
        let file = openat(net, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
        let mut buffer = vec![0; most];
        let length = File::from(file).read(&mut buffer).ok()?;
        buffer.truncate(length);
        Some(buffer)
    };
    let usual = first(USUAL_BYTES)?;
    let whole = if usual.len() < USUAL_BYTES { usual } else { first(MOST_BYTES)? };
    String::from_utf8(whole).ok()
}

fn changed(name: &str, value: &str, default: &str, is_told: bool) -> Option<(String, String)> {
    let value = value.trim_end_matches('\n');
    let is_default = value == default || (name == "ipv4/ping_group_range" && value == NO_GROUPS);
    (!is_default || is_told).then(|| (name.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_not_told_unless_there_was_something_else() {
        let default = |is_told| changed("core/somaxconn", "4096\n", "4096", is_told);
        assert_eq!(default(false), None);
        assert_eq!(default(true), Some(("core/somaxconn".to_owned(), "4096".to_owned())));
        let range = ("ipv4/ip_local_port_range", "1024\t2048");
        let told = changed(range.0, &format!("{}\n", range.1), "32768\t60999", false);
        assert_eq!(told, Some((range.0.to_owned(), range.1.to_owned())));
        assert_eq!(changed("ipv4/ping_group_range", "65534\t65534\n", "1\t0", false), None);
    }
}
