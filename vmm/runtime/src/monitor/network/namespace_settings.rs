//! Settings of the namespace as a whole that an engine or a plugin has written, like CNI's `tuning`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Those that programs and packets notice, by their names below `/proc/sys/net`, with the kernel's defaults.
/// Those whose default depends on the machine's memory are its own.
const KNOWN: [(&str, &str); 25] = [
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
    ("ipv6/conf/all/forwarding", "0"),
    ("ipv6/ip_nonlocal_bind", "0"),
];

/// Those of the thread's namespace that are not the default. What cannot be read, as where a kernel does not
/// have it, is left to the guest.
pub(super) fn read() -> BTreeMap<String, String> {
    let value = |name: &str| fs::read_to_string(Path::new("/proc/sys/net").join(name)).ok();
    KNOWN.into_iter().filter_map(|(name, default)| changed(name, &value(name)?, default)).collect()
}

fn changed(name: &str, value: &str, default: &str) -> Option<(String, String)> {
    let value = value.trim_end_matches('\n');
    (value != default).then(|| (name.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_not_told() {
        assert_eq!(changed("core/somaxconn", "4096\n", "4096"), None);
        let range = ("ipv4/ip_local_port_range", "1024\t2048");
        let told = changed(range.0, &format!("{}\n", range.1), "32768\t60999");
        assert_eq!(told, Some((range.0.to_owned(), range.1.to_owned())));
    }
}
