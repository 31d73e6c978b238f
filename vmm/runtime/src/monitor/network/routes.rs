//! Routes and neighbours, from the kernel's words to the guest's description.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use vmrun_netlink::core::Nla;
use vmrun_netlink::route::AddressFamily;
use vmrun_netlink::route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use vmrun_netlink::route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteNextHopFlags, RouteProtocol, RouteType,
    RouteVia,
};
use vmrun_proto::{Hop, Neighbour, Prefix, Route};

/// Tables that every namespace has (`RT_TABLE_*`).
pub(super) const DEFAULT: u32 = 253;
pub(super) const MAIN: u32 = 254;
pub(super) const LOCAL: u32 = 255;

/// Ticks in which the kernel tells how long a route will be there.
const TICKS_A_SECOND: u32 = 100;

/// `RTA_NH_ID`, the number of a next hop that is a thing of its own.
const NEXT_HOP: u16 = 30;

/// `RTAX_CC_ALGO`, the one metric that is a name.
const CONGESTION_CONTROL: u16 = 16;

/// Names of the interfaces that the guest has, by their numbers on the host.
pub(super) type Names = BTreeMap<u32, String>;

/// A route as it is found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// The kernel's own, of no interface that the guest has, or a copy.
    Nothing,
    Route(Route),
    /// It cannot be carried, for this reason.
    Unfit(String),
}

pub(super) fn route(message: &RouteMessage, names: &Names) -> Found {
    let any = match message.header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return Found::Nothing,
    };
    let mut route = Route {
        destination: Prefix { address: any, bits: message.header.destination_prefix_length },
        source: None,
        tos: message.header.tos,
        table: message.header.table.into(),
        protocol: message.header.protocol.into(),
        scope: message.header.scope.into(),
        kind: message.header.kind.into(),
        priority: None,
        preferred_source: None,
        preference: None,
        metrics: BTreeMap::new(),
        expires_s: None,
        hops: Vec::new(),
    };
    let onlink = message.header.flags.contains(RouteFlags::Onlink);
    let mut hop = Hop { onlink, ..Hop::default() };
    let (mut strange, mut by_number) = (None, false);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(table) => route.table = *table,
            RouteAttribute::Destination(to) => match ip(to) {
                Some(to) => route.destination.address = to,
                None => strange = Some("an address of another kind"),
            },
            RouteAttribute::Source(from) => {
                let bits = message.header.source_prefix_length;
                route.source = ip(from).map(|address| Prefix { address, bits });
            }
            RouteAttribute::Priority(priority) => route.priority = Some(*priority),
            RouteAttribute::PrefSource(source) => route.preferred_source = ip(source),
            RouteAttribute::Preference(preference) => {
                route.preference = Some(u8::from(*preference)).filter(|value| *value != 0);
            }
            RouteAttribute::Metrics(metrics) => {
                if metrics.iter().any(|metric| metric.kind() == CONGESTION_CONTROL) {
                    strange = Some("a congestion control of its own");
                }
                for metric in metrics {
                    let mut value = [0; 4];
                    if metric.value_len() == value.len() {
                        metric.emit_value(&mut value);
                        route.metrics.insert(metric.kind(), u32::from_ne_bytes(value));
                    }
                }
            }
            RouteAttribute::CacheInfo(info) if info.expires > 0 => {
                route.expires_s = Some(info.expires.div_ceil(TICKS_A_SECOND));
            }
            RouteAttribute::Encap(_) | RouteAttribute::EncapType(_) => strange = Some("an encapsulation"),
            RouteAttribute::NewDestination(_) => strange = Some("MPLS labels"),
            RouteAttribute::Other(number) if number.kind() == NEXT_HOP => by_number = true,
            attribute => take_hop(&mut hop, attribute, names),
        }
        if let RouteAttribute::MultiPath(hops) = attribute {
            for next in hops {
                let onlink = next.flags.contains(RouteNextHopFlags::Onlink);
                let mut hop = Hop { onlink, weight: next.hops, ..Hop::default() };
                hop.interface = names.get(&next.interface_index).cloned();
                next.attributes.iter().for_each(|attribute| take_hop(&mut hop, attribute, names));
                route.hops.push(hop);
            }
        }
    }
    if forbids(message.header.kind) {
        // The kernel tells of loopback where the route is by a next hop's number, and takes none itself.
        route.hops.clear();
    } else if hop.interface.is_some() || hop.gateway.is_some() {
        route.hops.push(hop);
    }
    let Prefix { address, bits } = route.destination;
    if by_number && !forbids(message.header.kind) && !message.attributes.iter().any(is_way) {
        return Found::Unfit(format!(
            "the route to {address}/{bits} refers to a nexthop object by its ID alone; set net.ipv4.nexthop_compat_mode=1, with which the kernel tells the whole route"
        ));
    }
    if is_the_kernels(message, &route) || !leads_somewhere(message, &route) {
        return Found::Nothing;
    }
    match strange {
        Some(strange) => Found::Unfit(format!("the route to {address}/{bits} has {strange}")),
        None => Found::Route(route),
    }
}

/// Whether it says where packets go.
fn is_way(attribute: &RouteAttribute) -> bool {
    use RouteAttribute::{Gateway, MultiPath, Oif, Via};
    matches!(attribute, Oif(_) | Gateway(_) | Via(_) | MultiPath(_))
}

fn take_hop(hop: &mut Hop, attribute: &RouteAttribute, names: &Names) {
    match attribute {
        RouteAttribute::Oif(index) => hop.interface = names.get(index).cloned(),
        RouteAttribute::Gateway(gateway) => hop.gateway = ip(gateway),
        RouteAttribute::Via(RouteVia::Inet(gateway)) => hop.gateway = Some((*gateway).into()),
        RouteAttribute::Via(RouteVia::Inet6(gateway)) => hop.gateway = Some((*gateway).into()),
        _ => {}
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some((*ip).into()),
        RouteAddress::Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}

/// Those that come with addresses and interfaces, and copies of others.
fn is_the_kernels(message: &RouteMessage, route: &Route) -> bool {
    let kernels = message.header.protocol == RouteProtocol::Kernel;
    message.header.flags.contains(RouteFlags::Cloned)
        || (kernels && route.table == LOCAL)
        || (kernels && route.priority == Some(u32::MAX))
}

/// One that forbids leads nowhere and is one; another one needs an interface that the guest has.
fn leads_somewhere(message: &RouteMessage, route: &Route) -> bool {
    forbids(message.header.kind)
        || (!route.hops.is_empty() && route.hops.iter().all(|hop| hop.interface.is_some()))
}

fn forbids(kind: RouteType) -> bool {
    matches!(kind, RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit | RouteType::Throw)
}

/// None for those that the kernel has found by itself, and of interfaces that the guest has not.
pub(super) fn neighbour(message: &NeighbourMessage, names: &Names) -> Option<Neighbour> {
    let flags = message.header.flags;
    if message.header.state != NeighbourState::Permanent || flags.contains(NeighbourFlags::Proxy) {
        return None;
    }
    let interface = names.get(&message.header.ifindex)?.clone();
    let mut address = None;
    let mut mac = None;
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => address = Some(IpAddr::V4(*ip)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => address = Some(IpAddr::V6(*ip)),
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = Some(bytes.clone()),
            _ => {}
        }
    }
    let router = flags.contains(NeighbourFlags::Router);
    Some(Neighbour { address: address?, interface, mac: mac?, router })
}
