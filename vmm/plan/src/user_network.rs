//! The network that the command line chooses for a sandbox that stands alone: its text, what it changes
//! of the bundle's configuration, and the addresses in it.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::str::FromStr;

use oci_spec::runtime::{LinuxNamespaceBuilder, LinuxNamespaceType, Mount, MountBuilder, Spec};
use vmrun_spec::{NetworkNamespace, PortProtocol, PublishedPort, UserNetwork};

use crate::network::network_namespace;
use crate::validate::PlanError;

/// Where programs look for the addresses of name servers.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// The guest's address for queries that passt sends on to the host's first name server, over UDP.
pub const NAME_SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);

/// `--network`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetworkChoice {
    /// Loopback alone.
    None,
    /// The caller's network.
    User {
        /// Its gateway leads to the host's loopback.
        host_loopback: bool,
    },
}

/// Why a text is no network or port.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NetworkTextError {
    /// `--network`.
    #[error("there is no such network: none, user or user:host-loopback")]
    Choice,
    /// `--publish`.
    #[error("not [ADDRESS:]HOST-PORT:PORT[/udp], as 8080:80, 127.0.0.1:5353:53/udp or [::1]:8080:80")]
    Port,
}

impl FromStr for NetworkChoice {
    type Err = NetworkTextError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "none" => Ok(Self::None),
            "user" => Ok(Self::User { host_loopback: false }),
            "user:host-loopback" => Ok(Self::User { host_loopback: true }),
            _ => Err(NetworkTextError::Choice),
        }
    }
}

/// Reads `[ADDRESS:]HOST:GUEST[/PROTOCOL]`; an IPv6 address stands in brackets.
///
/// # Errors
/// It is something else.
pub fn published_port(text: &str) -> Result<PublishedPort, NetworkTextError> {
    parsed(text).ok_or(NetworkTextError::Port)
}

fn parsed(text: &str) -> Option<PublishedPort> {
    let (ports, protocol) = match text.rsplit_once('/') {
        None => (text, PortProtocol::Tcp),
        Some((ports, "tcp")) => (ports, PortProtocol::Tcp),
        Some((ports, "udp")) => (ports, PortProtocol::Udp),
        Some(_) => return None,
    };
    let (rest, guest) = ports.rsplit_once(':')?;
    let (address, host) = match rest.rsplit_once(':') {
        None => (None, rest),
        Some((address, host)) => (Some(host_address(address)?), host),
    };
    Some(PublishedPort { address, host: port(host)?, guest: port(guest)?, protocol })
}

fn host_address(text: &str) -> Option<IpAddr> {
    match text.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']')?.parse().ok().map(IpAddr::V6),
        None => text.parse().ok().map(IpAddr::V4),
    }
}

/// Digits alone, and not 0.
fn port(text: &str) -> Option<u16> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten().filter(|port| *port > 0)
}

/// The choice as the sandbox has it: with its ports, and the bundle not against it.
///
/// # Errors
/// The bundle names a namespace, or a port is given twice or without a network.
pub fn user_network(
    spec: &Spec,
    choice: Option<&NetworkChoice>,
    ports: &[PublishedPort],
) -> Result<Option<UserNetwork>, PlanError> {
    if let (Some(_), NetworkNamespace::Named(path)) = (choice, network_namespace(spec)) {
        let problem = format!(
            "linux.namespaces names the network namespace {} for the container; leave --network out, or the path",
            path.display()
        );
        return Err(PlanError::Option { option: "--network", problem });
    }
    match choice {
        Some(NetworkChoice::User { host_loopback }) => {
            once_each(ports)?;
            Ok(Some(UserNetwork { ports: ports.to_vec(), host_loopback: *host_loopback }))
        }
        _ if !ports.is_empty() => Err(PlanError::Option {
            option: "--publish",
            problem: "only a sandbox with --network user has ports of the host".to_owned(),
        }),
        _ => Ok(None),
    }
}

/// passt takes a port of the host once, whatever the address.
fn once_each(ports: &[PublishedPort]) -> Result<(), PlanError> {
    let mut seen = HashSet::new();
    match ports.iter().find(|port| !seen.insert((port.host, port.protocol))) {
        Some(port) => Err(PlanError::Option {
            option: "--publish",
            problem: format!("port {} of the host is given twice; give it once", port.host),
        }),
        None => Ok(()),
    }
}

/// Gives the container a network namespace of its own where the configuration shares the caller's.
pub fn add_network_namespace(spec: &mut Spec) {
    if network_namespace(spec) != NetworkNamespace::Callers {
        return;
    }
    let mut linux = spec.linux().clone().unwrap_or_default();
    let namespace = LinuxNamespaceBuilder::default().typ(LinuxNamespaceType::Network).build();
    let mut namespaces = linux.namespaces().clone().unwrap_or_default();
    namespaces.extend(namespace);
    linux.set_namespaces(Some(namespaces));
    spec.set_linux(Some(linux));
}

/// Lets the container find its name servers in the file at `source`, unless the configuration mounts
/// something there. Whether it does.
pub fn mount_resolv_conf(spec: &mut Spec, source: &Path) -> bool {
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    let is_there = |mount: &Mount| mount.destination() == Path::new(RESOLV_CONF);
    if mounts.iter().any(is_there) {
        return false;
    }
    let options = ["bind", "rprivate"].map(str::to_owned).to_vec();
    let mount = MountBuilder::default()
        .destination(RESOLV_CONF)
        .typ("bind".to_owned())
        .source(source)
        .options(options)
        .build();
    mounts.extend(mount);
    spec.set_mounts(Some(mounts));
    true
}

/// The guest's `resolv.conf(5)`: passt answers first, then the host's name servers, as far as the guest
/// can reach them; search list and options are the host's.
pub fn resolv_conf(hosts: &str) -> String {
    let reachable = |line: &&str| match line.trim().strip_prefix("nameserver") {
        Some(address) => address.trim().parse().is_ok_and(|address: IpAddr| !address.is_loopback()),
        None => !line.trim_start().starts_with(['#', ';']),
    };
    let kept = hosts.lines().filter(reachable);
    let lines = std::iter::once(format!("nameserver {NAME_SERVER}")).chain(kept.map(str::to_owned));
    lines.map(|line| line + "\n").collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn spec(namespaces: &Value) -> Spec {
        serde_json::from_value(json!({ "ociVersion": "1.0.2", "linux": { "namespaces": namespaces } }))
            .unwrap()
    }

    #[test]
    fn ports_have_dockers_form() {
        let port = |address: Option<&str>, host, guest, protocol| {
            let address = address.map(|text| text.parse().unwrap());
            Ok(PublishedPort { address, host, guest, protocol })
        };
        assert_eq!(published_port("8080:80"), port(None, 8080, 80, PortProtocol::Tcp));
        assert_eq!(published_port("8080:80/tcp"), port(None, 8080, 80, PortProtocol::Tcp));
        assert_eq!(
            published_port("127.0.0.1:53:5353/udp"),
            port(Some("127.0.0.1"), 53, 5353, PortProtocol::Udp)
        );
        assert_eq!(published_port("[::1]:8080:80"), port(Some("::1"), 8080, 80, PortProtocol::Tcp));
        for text in [
            "",
            "80",
            ":80",
            "80:",
            "0:80",
            "80:0",
            "65536:80",
            "80:80/sctp",
            "80:80/",
            "+1:80",
            "::1:80:80",
            "x:80:80",
            "[::1:80:80",
            "[127.0.0.1]:80:80",
            "1.2.3.4:5:6:7",
            "8000-8001:80",
            " 80:80",
        ] {
            assert_eq!(published_port(text), Err(NetworkTextError::Port), "{text:?}");
        }
    }

    #[test]
    fn networks_have_names() {
        assert_eq!("none".parse(), Ok(NetworkChoice::None));
        assert_eq!("user".parse(), Ok(NetworkChoice::User { host_loopback: false }));
        assert_eq!("user:host-loopback".parse(), Ok(NetworkChoice::User { host_loopback: true }));
        assert_eq!("bridge".parse::<NetworkChoice>(), Err(NetworkTextError::Choice));
    }

    #[test]
    fn named_namespace_contradicts_a_choice_and_ports_need_one() {
        let named = spec(&json!([{ "type": "network", "path": "/n" }]));
        let user = NetworkChoice::User { host_loopback: false };
        let error = user_network(&named, Some(&user), &[]).unwrap_err().to_string();
        assert!(error.contains("--network") && error.contains("/n"), "{error}");
        assert_eq!(user_network(&named, None, &[]).unwrap(), None);
        let own = spec(&json!([{ "type": "network" }]));
        let port = published_port("80:80").unwrap();
        assert!(user_network(&own, None, &[port]).unwrap_err().to_string().contains("--publish"));
        assert!(user_network(&own, Some(&NetworkChoice::None), &[port]).is_err());
        assert_eq!(user_network(&own, Some(&user), &[port]).unwrap().unwrap().ports, [port]);
        let other = published_port("127.0.0.1:80:81").unwrap();
        assert!(user_network(&own, Some(&user), &[port, other]).unwrap_err().to_string().contains("twice"));
        let udp = published_port("80:80/udp").unwrap();
        assert!(user_network(&own, Some(&user), &[port, udp]).is_ok());
    }

    #[test]
    fn container_gets_a_namespace_only_where_it_has_none() {
        let mut shared = spec(&json!([{ "type": "mount" }]));
        add_network_namespace(&mut shared);
        assert_eq!(network_namespace(&shared), NetworkNamespace::New);
        let before = shared.clone();
        add_network_namespace(&mut shared);
        assert_eq!(shared, before);
    }

    #[test]
    fn resolv_conf_of_the_configuration_stays() {
        let mut own = spec(&json!([]));
        assert!(mount_resolv_conf(&mut own, Path::new("/r")));
        assert!(!mount_resolv_conf(&mut own, Path::new("/s")));
        let mounts = own.mounts().as_ref().unwrap();
        assert_eq!(mounts.last().unwrap().source().as_deref(), Some(Path::new("/r")));
    }

    #[test]
    fn name_servers_that_only_the_host_reaches_are_left_out() {
        let hosts = "# made by\nnameserver 127.0.0.53\nnameserver ::1\nnameserver 192.0.2.1\nsearch example.org\noptions ndots:2\n";
        let guests = "nameserver 10.0.2.3\nnameserver 192.0.2.1\nsearch example.org\noptions ndots:2\n";
        assert_eq!(resolv_conf(hosts), guests);
        assert_eq!(resolv_conf(""), "nameserver 10.0.2.3\n");
    }
}
