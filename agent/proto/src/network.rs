//! The network that a container is to have: that of a network namespace on the host.
//!
//! Numbers are the kernel's (`rtnetlink(7)`), names are interfaces' names in the container.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

use crate::netfilter::Table;

/// All of it. A later description replaces the one before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Each has a name of its own. One that another is made on comes before that.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<Interface>,
    /// Beside those that the kernel makes for addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
    /// Beside those that every namespace has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Rule>,
    /// Those of these that somebody has removed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing_rules: Vec<Rule>,
    /// Those that are there for good.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub neighbours: Vec<Neighbour>,
    /// Name servers at addresses of loopback that the host's side of the namespace has: see
    /// [`Question`](crate::Question).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub name_servers: Vec<IpAddr>,
    /// Tables of netfilter.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tables: Vec<Table>,
    /// Settings of the namespace as a whole where they are not the kernel's defaults, by their names below
    /// `/proc/sys/net`. They hold from the start.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<String, String>,
}

/// Settings of an interface that follow those on the host, with the kernel's defaults: `ipv4/NAME` and
/// `ipv6/NAME` of `/proc/sys/net/ipv4/conf/INTERFACE/NAME`.
pub const INTERFACE_SETTINGS: [(&str, i32); 33] = [
    ("ipv4/accept_local", 0),
    ("ipv4/accept_redirects", 1),
    ("ipv4/accept_source_route", 1),
    ("ipv4/arp_accept", 0),
    ("ipv4/arp_announce", 0),
    ("ipv4/arp_filter", 0),
    ("ipv4/arp_ignore", 0),
    ("ipv4/arp_notify", 0),
    ("ipv4/forwarding", 0),
    ("ipv4/log_martians", 0),
    ("ipv4/promote_secondaries", 0),
    ("ipv4/proxy_arp", 0),
    ("ipv4/route_localnet", 0),
    ("ipv4/rp_filter", 0),
    ("ipv4/secure_redirects", 1),
    ("ipv4/send_redirects", 1),
    ("ipv4/shared_media", 1),
    ("ipv4/src_valid_mark", 0),
    ("ipv6/accept_dad", 1),
    ("ipv6/accept_ra", 1),
    ("ipv6/accept_ra_defrtr", 1),
    ("ipv6/accept_ra_pinfo", 1),
    ("ipv6/accept_redirects", 1),
    ("ipv6/autoconf", 1),
    ("ipv6/dad_transmits", 1),
    ("ipv6/disable_ipv6", 0),
    ("ipv6/forwarding", 0),
    ("ipv6/hop_limit", 64),
    ("ipv6/keep_addr_on_down", 0),
    ("ipv6/ndisc_notify", 0),
    ("ipv6/optimistic_dad", 0),
    ("ipv6/proxy_ndp", 0),
    ("ipv6/use_tempaddr", 0),
];

/// One interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Its name in the container.
    pub name: String,
    /// What carries it.
    pub device: NetworkDevice,
    /// Its link-layer address; none for loopback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<[u8; 6]>,
    /// Bytes of a packet; 0 leaves the device's.
    #[serde(default)]
    pub mtu: u32,
    /// Whether it is switched on.
    #[serde(default)]
    pub up: bool,
    /// Whether something is connected to it: then a call returns when it can send.
    #[serde(default)]
    pub carrier: bool,
    /// It resolves no addresses (`IFF_NOARP`).
    #[serde(default)]
    pub noarp: bool,
    /// In the order in which they were given to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<Address>,
    /// How IPv6 makes its link-local address (`IFLA_INET6_ADDR_GEN_MODE`); none leaves it alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address_mode: Option<u8>,
    /// Those of [`INTERFACE_SETTINGS`] that are not the kernel's defaults.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<String, i32>,
}

impl Interface {
    /// One that is on and connected, and holds nothing yet.
    pub fn new(name: &str, device: NetworkDevice) -> Self {
        Self {
            name: name.to_owned(),
            device,
            mac: None,
            mtu: 0,
            up: true,
            carrier: true,
            noarp: false,
            addresses: Vec::new(),
            address_mode: None,
            settings: BTreeMap::new(),
        }
    }
}

/// What carries an interface in the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkDevice {
    /// The namespace's own loopback.
    Loopback,
    /// A network card that the host has plugged into a slot of the machine.
    Card {
        /// The slot's platform device in the guest.
        device: String,
        /// What the guest's kernel must be told of the slot when it does not know it yet: the
        /// value of `virtio_mmio.device`.
        announcement: String,
    },
    /// Tagged frames of another interface.
    Vlan {
        /// Its name.
        parent: String,
        /// The tag.
        id: u16,
        /// The tag's protocol (`ETH_P_8021Q`, `ETH_P_8021AD`).
        protocol: u16,
    },
}

/// One address of an interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// The address.
    pub address: IpAddr,
    /// Bits of the network's part.
    pub prefix: u8,
    /// The other end's, on a link between two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<IpAddr>,
    /// IPv4's broadcast address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broadcast: Option<Ipv4Addr>,
    /// IPv4's label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Its scope.
    #[serde(default)]
    pub scope: u8,
    /// Its flags (`IFA_F_*`), as far as they can be set.
    #[serde(default)]
    pub flags: u32,
    /// Metric of the route that comes with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u32>,
    /// For how many seconds it is used for new connections; none is for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preferred_s: Option<u32>,
    /// For how many seconds it is there; none is for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_s: Option<u32>,
    /// Who has set it (`IFAPROT_*`).
    #[serde(default)]
    pub protocol: u8,
}

/// A network's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Prefix {
    /// Its address.
    pub address: IpAddr,
    /// Bits of it that count.
    pub bits: u8,
}

/// One route.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Route {
    /// Where it leads; a default route has no bits. Its family is the route's.
    pub destination: Prefix,
    /// For packets from there only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Prefix>,
    /// For packets of this type of service.
    #[serde(default)]
    pub tos: u8,
    /// Its table.
    pub table: u32,
    /// Who has set it (`RTPROT_*`).
    pub protocol: u8,
    /// How far it leads (`RT_SCOPE_*`).
    pub scope: u8,
    /// What it does (`RTN_*`).
    pub kind: u8,
    /// Its metric.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u32>,
    /// The address that packets from here get.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preferred_source: Option<IpAddr>,
    /// IPv6's preference of routers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preference: Option<u8>,
    /// By their numbers (`RTAX_*`).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metrics: BTreeMap<u16, u32>,
    /// Seconds until it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_s: Option<u32>,
    /// Where packets go; none where it only forbids.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hops: Vec<Hop>,
}

/// Where packets of a route go next.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Hop {
    /// Through this interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// To this router, which may be of the other family.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// The router can be reached although no route says so.
    #[serde(default)]
    pub onlink: bool,
    /// Its share among several, less one.
    #[serde(default)]
    pub weight: u8,
}

/// One rule of which table is looked into.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Rule {
    /// `AF_INET` or `AF_INET6`.
    pub family: u8,
    /// Rules are looked at by this.
    #[serde(default)]
    pub priority: u32,
    /// What it does (`FR_ACT_*`).
    pub action: u8,
    /// The table.
    #[serde(default)]
    pub table: u32,
    /// The condition is turned round.
    #[serde(default)]
    pub invert: bool,
    /// Packets from there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Prefix>,
    /// Packets to there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<Prefix>,
    /// Packets of this type of service.
    #[serde(default)]
    pub tos: u8,
    /// Packets that have come through this interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<String>,
    /// Packets of sockets that are bound to this interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
    /// Packets with this mark, in the bits of the second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mark: Option<(u32, u32)>,
    /// Packets of this protocol of IP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_protocol: Option<u8>,
    /// From these ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_ports: Option<(u16, u16)>,
    /// To these ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination_ports: Option<(u16, u16)>,
    /// Of these users' sockets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub users: Option<(u32, u32)>,
    /// Routes of so many bits or fewer do not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suppress_prefix: Option<u32>,
    /// The rule to go on with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub goto: Option<u32>,
    /// Who has set it (`RTPROT_*`).
    #[serde(default)]
    pub protocol: u8,
}

/// A neighbour that is not asked for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Neighbour {
    /// Its address.
    pub address: IpAddr,
    /// The interface behind which it is.
    pub interface: String,
    /// Its link-layer address.
    pub mac: Vec<u8>,
    /// It routes.
    #[serde(default)]
    pub router: bool,
}
