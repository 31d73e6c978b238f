//! Interfaces: which can be carried into a guest, and what they are.

use std::collections::BTreeMap;

use vmrun_netlink::route::link::{
    AfSpecInet, AfSpecInet6, AfSpecUnspec, InfoData, InfoIpVlan, InfoKind, InfoVlan, IpVlanMode,
    LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
};

/// How vmrun's own taps are called.
pub(super) const TAP_PREFIX: &str = "vmrun-tap";

/// IPv6 makes no addresses by itself; it makes them from a secret that it is told, and from one of its own
/// (`IN6_ADDR_GEN_MODE_*`).
const NO_ADDRESSES: u8 = 1;
const STABLE_SECRET: u8 = 2;
const RANDOM_SECRET: u8 = 3;

/// What a tap can have at most: 65535 bytes with the Ethernet header (`tun_net_initialize`).
const MOST_MTU: u32 = 65_521;

/// Settings of loopback that programs notice.
const LOOPBACKS: [&str; 2] = ["ipv4/route_localnet", "ipv6/disable_ipv6"];

/// One interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) mac: [u8; 6],
    pub(super) mtu: u32,
    pub(super) up: bool,
    pub(super) carrier: bool,
    pub(super) noarp: bool,
    pub(super) address_mode: u8,
    pub(super) settings: BTreeMap<String, i32>,
    /// A VLAN of another interface in the same namespace, with its tag and the tag's protocol.
    pub(super) vlan: Option<(u32, u16, u16)>,
}

/// What an interface is to the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// The namespace's loopback: its number, and settings of it that are not the kernel's defaults.
    Loopback(u32, BTreeMap<String, i32>),
    /// Nothing: it is vmrun's own, or the kernel's and without use.
    Nothing,
    /// To be carried.
    Link(Box<Link>),
    /// It cannot be carried, for this reason.
    Unfit(&'static str),
}

/// The name by which messages call an interface.
pub(super) fn name(link: &LinkMessage) -> &str {
    let mut names = link.attributes.iter().filter_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.as_str()),
        _ => None,
    });
    names.next().unwrap_or("?")
}

/// Whether it is a tap of vmrun's.
fn is_own_tap(link: &LinkMessage) -> bool {
    name(link).starts_with(TAP_PREFIX) && Info::of(link).kind == Some(&InfoKind::Tun)
}

pub(super) fn look_at(link: &LinkMessage) -> Found {
    let name = name(link);
    let info = Info::of(link);
    if link.header.link_layer_type == LinkLayerType::Loopback {
        let mut settings = info.settings;
        // The kernel has other defaults for most of them there, and they decide on nothing.
        settings.retain(|name, _| LOOPBACKS.contains(&name.as_str()));
        return Found::Loopback(link.header.index, settings);
    }
    let up = link.header.flags.contains(LinkFlags::Up);
    let is_fallback = !up && vmrun_plan::foreign_interfaces(&[name.to_owned()]).is_empty();
    if is_own_tap(link) || is_fallback {
        return Found::Nothing;
    }
    if link.header.link_layer_type != LinkLayerType::Ether {
        return Found::Unfit("it carries no Ethernet frames");
    }
    if let Some(why) = info.unfit() {
        return Found::Unfit(why);
    }
    let Some(mac) = info.mac else { return Found::Unfit("it has no Ethernet address") };
    if info.mtu > MOST_MTU {
        return Found::Unfit("its MTU is above 65521, the most that a tap can have");
    }
    Found::Link(Box::new(Link {
        index: link.header.index,
        name: name.to_owned(),
        mac,
        mtu: info.mtu,
        up,
        carrier: link.header.flags.contains(LinkFlags::LowerUp),
        noarp: link.header.flags.contains(LinkFlags::Noarp),
        address_mode: match info.address_mode {
            // The kernel does not tell the secret. What it has made of it is carried.
            Some(STABLE_SECRET) => RANDOM_SECRET,
            mode => mode.unwrap_or(NO_ADDRESSES),
        },
        vlan: info.vlan(),
        settings: info.settings,
    }))
}

/// What the attributes tell.
#[derive(Debug, Default)]
struct Info<'l> {
    kind: Option<&'l InfoKind>,
    data: Option<&'l InfoData>,
    mac: Option<[u8; 6]>,
    mtu: u32,
    /// The interface that it is made on, or the other end.
    lower: Option<u32>,
    /// That one is in another namespace.
    lower_is_elsewhere: bool,
    /// It is a port of another interface.
    is_port: bool,
    address_mode: Option<u8>,
    settings: BTreeMap<String, i32>,
}

impl<'l> Info<'l> {
    fn of(link: &'l LinkMessage) -> Self {
        let mut info = Self::default();
        for attribute in &link.attributes {
            match attribute {
                LinkAttribute::Address(bytes) => info.mac = bytes.as_slice().try_into().ok(),
                LinkAttribute::Mtu(mtu) => info.mtu = *mtu,
                LinkAttribute::Link(index) => info.lower = Some(*index),
                LinkAttribute::LinkNetNsId(_) => info.lower_is_elsewhere = true,
                LinkAttribute::Controller(_) => info.is_port = true,
                LinkAttribute::LinkInfo(parts) => info.take_kind(parts),
                LinkAttribute::AfSpecUnspec(specs) => specs.iter().for_each(|spec| info.take_family(spec)),
                _ => {}
            }
        }
        info
    }

    fn take_kind(&mut self, parts: &'l [LinkInfo]) {
        for part in parts {
            match part {
                LinkInfo::Kind(kind) => self.kind = Some(kind),
                LinkInfo::Data(data) => self.data = Some(data),
                _ => {}
            }
        }
    }

    fn take_family(&mut self, spec: &AfSpecUnspec) {
        match spec {
            AfSpecUnspec::Inet(parts) => {
                for part in parts {
                    if let AfSpecInet::DevConf(conf) = part {
                        self.settings.extend(super::settings::ipv4(conf));
                    }
                }
            }
            AfSpecUnspec::Inet6(parts) => {
                for part in parts {
                    match part {
                        AfSpecInet6::AddrGenMode(mode) => self.address_mode = Some(u8::from(mode)),
                        AfSpecInet6::DevConf(conf) => self.settings.extend(super::settings::ipv6(conf)),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }

    /// Why it cannot be carried, if so.
    fn unfit(&self) -> Option<&'static str> {
        let on_another = self.lower.is_some_and(|lower| lower != 0) && !self.lower_is_elsewhere;
        let is_tunnel = self.kind.is_some_and(is_tunnel);
        match self.kind {
            _ if self.is_port => Some("it is a port of a bridge or bond in the namespace"),
            Some(InfoKind::Bridge) => Some("bridges of the namespace stay on the host"),
            Some(InfoKind::Bond | InfoKind::Vrf | InfoKind::Hsr) => {
                Some("what joins interfaces of the namespace stays on the host")
            }
            Some(InfoKind::Other(kind)) if kind == "team" => {
                Some("what joins interfaces of the namespace stays on the host")
            }
            Some(InfoKind::MacVlan | InfoKind::MacVtap | InfoKind::IpVlan | InfoKind::IpVtap)
                if on_another =>
            {
                Some("it is made on an interface of the same namespace, whose frames go to the guest")
            }
            _ if is_tunnel && !self.lower_is_elsewhere => Some(
                "its frames travel in packets of another interface of the namespace, which go to the guest",
            ),
            Some(InfoKind::MacVtap | InfoKind::IpVtap) => Some("its frames go to a program of the host's"),
            Some(InfoKind::IpVlan) if self.ipvlan_mode() == Some(IpVlanMode::L3S) => {
                Some("ipvlan in mode l3s delivers packets past the interface; use l2 or l3")
            }
            _ => None,
        }
    }

    fn ipvlan_mode(&self) -> Option<IpVlanMode> {
        let Some(InfoData::IpVlan(parts)) = self.data else { return None };
        parts.iter().find_map(|part| match part {
            InfoIpVlan::Mode(mode) => Some(*mode),
            _ => None,
        })
    }

    /// One whose parent is in the namespace is made in the guest: the parent's frames come with tags.
    fn vlan(&self) -> Option<(u32, u16, u16)> {
        let (Some(InfoKind::Vlan), Some(InfoData::Vlan(parts)), false) =
            (self.kind, self.data, self.lower_is_elsewhere)
        else {
            return None;
        };
        let id = parts.iter().find_map(|part| match part {
            InfoVlan::Id(id) => Some(*id),
            _ => None,
        })?;
        let protocol = parts.iter().find_map(|part| match part {
            InfoVlan::Protocol(protocol) => Some(u16::from(*protocol)),
            _ => None,
        });
        Some((self.lower?, id, protocol.unwrap_or(0x8100)))
    }
}

/// Whether an interface of this kind carries Ethernet frames in packets or frames of others. Where the packets
/// are those of the namespace that it was made in, which is not the container's, it is as good as any.
fn is_tunnel(kind: &InfoKind) -> bool {
    match kind {
        InfoKind::Vxlan | InfoKind::Geneve | InfoKind::GreTap | InfoKind::GreTap6 | InfoKind::MacSec => true,
        InfoKind::Other(kind) => {
            matches!(kind.as_str(), "erspan" | "ip6erspan" | "bareudp" | "batadv" | "l2tp")
        }
        _ => false,
    }
}
