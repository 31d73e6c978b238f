//! Settings of the namespace as a whole that an engine or a plugin has written, like CNI's `tuning`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;

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

/// Those of the thread's namespace that are not the default, or of which the guest has been `told`. What this kernel does not
/// have, or this user may not read, is left to the guest.
///
/// # Errors
/// Something else keeps one from being read.
pub(super) fn read(told: &BTreeMap<String, String>) -> io::Result<BTreeMap<String, String>> {
    // From there the way to each of them is short.
    let Some(net) = there(openat(
        CWD,
        "/proc/sys/net",
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    ))?
    else {
        return Ok(BTreeMap::new());
    };
    let mut read = BTreeMap::new();
    for (name, default) in KNOWN {
        let Some(value) = value(&net, name)? else { continue };
        read.extend(changed(name, &value, default, told.contains_key(name)));
    }
    Ok(read)
}

/// What a setting is, as the kernel writes it.
fn value(net: &OwnedFd, name: &str) -> io::Result<Option<String>> {
    let first = |most| -> io::Result<Option<Vec<u8>>> {
        let Some(file) = there(openat(net, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()))? else {
            return Ok(None);
        };
        let mut buffer = vec![0; most];
        let length = File::from(file).read(&mut buffer)?;
        buffer.truncate(length);
        Ok(Some(buffer))
    };
    let whole = match first(USUAL_BYTES)? {
        Some(usual) if usual.len() == USUAL_BYTES => first(MOST_BYTES)?,
        usual => usual,
    };
    whole.map(|bytes| String::from_utf8(bytes).map_err(io::Error::other)).transpose()
}

/// Nothing where there is no such file, or none for this user.
fn there(opened: Result<OwnedFd, Errno>) -> io::Result<Option<OwnedFd>> {
    match opened {
        Err(Errno::NOENT | Errno::ACCESS | Errno::PERM) => Ok(None),
        opened => Ok(opened.map(Some)?),
    }
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
    fn setting_is_read_whole_however_long_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let long = "1-2,".repeat(USUAL_BYTES);
        for (name, value) in [("short", "64\n"), ("just", &long[..USUAL_BYTES]), ("long", &long)] {
            std::fs::write(directory.path().join(name), value).unwrap();
            let net = File::open(directory.path()).unwrap().into();
            assert_eq!(super::value(&net, name).unwrap().as_deref(), Some(value));
            assert_eq!(super::value(&net, "none").unwrap(), None);
            assert!(super::value(&net, ".").is_err());
        }
    }

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
