//! Its command line, and the addresses that the guest has behind it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::RawFd;

use vmrun_plan::NAME_SERVER;
use vmrun_spec::{PortProtocol, PublishedPort, UserNetwork};

/// The guest's addresses, with their prefixes' lengths, and the gateways', which passt answers for.
pub(crate) const GUEST_V4: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 0, 2, 100), 24);
pub(crate) const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
pub(crate) const GUEST_V6: (Ipv6Addr, u8) = (Ipv6Addr::new(0xfd00, 0x766d, 0x7275, 0x6e, 0, 0, 0, 0x100), 64);
pub(crate) const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x766d, 0x7275, 0x6e, 0, 0, 0, 2);

/// passt's hardware address, locally administered.
const GATEWAY_MAC: &str = "02:76:6d:72:75:02";

/// The IP versions by which the caller's network leads anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Families {
    pub(crate) v4: bool,
    pub(crate) v6: bool,
}

pub(super) fn arguments(network: &UserNetwork, families: Families, socket: RawFd) -> Vec<String> {
    let mut words = vec!["--quiet".to_owned(), "--fd".to_owned(), socket.to_string()];
    let mut pair = |option: &str, value: String| words.extend([option.to_owned(), value]);
    pair("--mac-addr", GATEWAY_MAC.to_owned());
    pair("--address", GUEST_V4.0.to_string());
    pair("--netmask", GUEST_V4.1.to_string());
    pair("--gateway", GATEWAY_V4.to_string());
    pair("--dns-forward", NAME_SERVER.to_string());
    if families.v6 {
        pair("--address", GUEST_V6.0.to_string());
        pair("--gateway", GATEWAY_V6.to_string());
    } else {
        // Without a default route it wants to be told an interface, and any will do: the host's
        // routes decide all the same.
        pair("--interface", "lo".to_owned());
    }
    for (option, protocol) in [("--tcp-ports", PortProtocol::Tcp), ("--udp-ports", PortProtocol::Udp)] {
        let mut ports = network.ports.iter().filter(|port| port.protocol == protocol).peekable();
        if ports.peek().is_none() {
            pair(option, "none".to_owned());
        }
        ports.for_each(|port| pair(option, forwarded(port)));
    }
    if !families.v6 {
        words.push("--ipv4-only".to_owned());
    }
    if !network.host_loopback {
        words.push("--no-map-gw".to_owned());
    }
    words
}

/// As passt(1) writes a port.
fn forwarded(port: &PublishedPort) -> String {
    let address = port.address.map(|address: IpAddr| format!("{address}/")).unwrap_or_default();
    format!("{address}{}:{}", port.host, port.guest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(ports: &[&str], families: Families, host_loopback: bool) -> String {
        let ports = ports.iter().map(|text| vmrun_plan::published_port(text).unwrap()).collect();
        arguments(&UserNetwork { ports, host_loopback }, families, 7).join(" ")
    }

    #[test]
    fn ports_are_told_in_its_form_and_no_others_are_forwarded() {
        let line =
            line(&["8080:80", "[::1]:81:82", "127.0.0.1:53:5353/udp"], Families { v4: true, v6: true }, true);
        assert!(
            line.contains("--tcp-ports 8080:80 --tcp-ports ::1/81:82 --udp-ports 127.0.0.1/53:5353"),
            "{line}"
        );
        assert!(
            line.contains("--fd 7") && !line.contains("--no-map-gw") && !line.contains("--ipv4-only"),
            "{line}"
        );
    }

    #[test]
    fn host_without_routes_has_ipv4_and_its_loopback_is_not_the_guests() {
        let line = line(&[], Families { v4: false, v6: false }, false);
        assert!(line.contains("--tcp-ports none --udp-ports none"), "{line}");
        assert!(line.contains("--interface lo") && line.contains("--ipv4-only"), "{line}");
        assert!(line.ends_with("--no-map-gw"), "{line}");
    }
}
