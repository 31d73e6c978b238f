//! What the host describes, as the kernel's messages.

use std::net::IpAddr;

use vmrun_netlink::core::DefaultNla;
use vmrun_netlink::route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, CacheInfo,
};
use vmrun_netlink::route::link::{AfSpecInet6, AfSpecUnspec, LinkAttribute, LinkMessage};
use vmrun_netlink::route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use vmrun_netlink::route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteNextHop, RouteNextHopFlags,
    RoutePreference, RouteVia,
};
use vmrun_netlink::route::rule::{RuleAttribute, RuleFlags, RuleMessage, RulePortRange, RuleUidRange};
use vmrun_netlink::route::{AddressFamily, RouteNetlinkMessage};
use vmrun_proto::{Address, Hop, Neighbour, Route, Rule};

const FOR_EVER: u32 = u32::MAX;

/// The number of the interface that has a name, or why there is none.
pub(super) type IndexOf<'f> = &'f dyn Fn(&str) -> Result<u32, String>;

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet }
}

/// How IPv6 makes addresses of an interface by itself.
pub(super) fn address_mode(index: u32, mode: u8) -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    let mode = AfSpecInet6::AddrGenMode(mode.into());
    message.attributes = vec![LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![mode])])];
    RouteNetlinkMessage::SetLink(message)
}

pub(super) fn address(index: u32, address: &Address) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(address.address);
    message.header.prefix_len = address.prefix;
    message.header.scope = address.scope.into();
    message.header.index = index;
    let [low, ..] = address.flags.to_le_bytes();
    message.header.flags = AddressHeaderFlags::from_bits_retain(low);
    let peer = address.peer.unwrap_or(address.address);
    message.attributes = vec![
        AddressAttribute::Local(address.address),
        AddressAttribute::Address(peer),
        AddressAttribute::Flags(AddressFlags::from_bits_retain(address.flags)),
    ];
    let more = &mut message.attributes;
    more.extend(address.broadcast.map(AddressAttribute::Broadcast));
    more.extend(address.label.clone().map(AddressAttribute::Label));
    more.extend(address.priority.map(AddressAttribute::RoutePriority));
    if address.protocol != 0 {
        more.push(AddressAttribute::Protocol(address.protocol.into()));
    }
    if address.preferred_s.is_some() || address.valid_s.is_some() {
        let mut times = CacheInfo::default();
        times.ifa_preferred = address.preferred_s.unwrap_or(FOR_EVER);
        times.ifa_valid = address.valid_s.unwrap_or(FOR_EVER);
        more.push(AddressAttribute::CacheInfo(times));
    }
    message
}

pub(super) fn route(route: &Route, index_of: IndexOf<'_>) -> Result<RouteMessage, String> {
    let mut message = RouteMessage::default();
    let family = family(route.destination.address);
    message.header.address_family = family;
    message.header.destination_prefix_length = route.destination.bits;
    message.header.tos = route.tos;
    message.header.table = u8::try_from(route.table).unwrap_or_default();
    message.header.protocol = route.protocol.into();
    message.header.scope = route.scope.into();
    message.header.kind = route.kind.into();
    let attributes = &mut message.attributes;
    attributes.push(RouteAttribute::Table(route.table));
    if route.destination.bits > 0 {
        attributes.push(RouteAttribute::Destination(route.destination.address.into()));
    }
    if let Some(source) = route.source {
        message.header.source_prefix_length = source.bits;
        attributes.push(RouteAttribute::Source(source.address.into()));
    }
    attributes.extend(route.priority.map(RouteAttribute::Priority));
    attributes.extend(
        route.preferred_source.map(|address| RouteAttribute::PrefSource(RouteAddress::from(address))),
    );
    attributes.extend(route.preference.map(|value| RouteAttribute::Preference(preference(value))));
    attributes.extend(route.expires_s.map(RouteAttribute::Expires));
    if !route.metrics.is_empty() {
        let metrics = route
            .metrics
            .iter()
            .map(|(kind, value)| RouteMetric::Other(DefaultNla::new(*kind, value.to_ne_bytes().to_vec())));
        attributes.push(RouteAttribute::Metrics(metrics.collect()));
    }
    match &route.hops[..] {
        [] => {}
        [hop] => {
            if hop.onlink {
                message.header.flags = RouteFlags::Onlink;
            }
            if let Some(interface) = &hop.interface {
                attributes.push(RouteAttribute::Oif(index_of(interface)?));
            }
            attributes.extend(gateway(hop, family));
        }
        hops => {
            let hops = hops.iter().map(|hop| next_hop(hop, family, index_of));
            attributes.push(RouteAttribute::MultiPath(hops.collect::<Result<_, _>>()?));
        }
    }
    Ok(message)
}

fn preference(value: u8) -> RoutePreference {
    match value {
        0 => RoutePreference::Medium,
        1 => RoutePreference::High,
        3 => RoutePreference::Low,
        other => RoutePreference::Other(other),
    }
}

fn next_hop(hop: &Hop, family: AddressFamily, index_of: IndexOf<'_>) -> Result<RouteNextHop, String> {
    let mut next = RouteNextHop::default();
    if hop.onlink {
        next.flags = RouteNextHopFlags::Onlink;
    }
    next.hops = hop.weight;
    next.interface_index = hop.interface.as_deref().map(index_of).transpose()?.unwrap_or_default();
    next.attributes.extend(gateway(hop, family));
    Ok(next)
}

/// A router of the other family has an attribute of its own.
fn gateway(hop: &Hop, of: AddressFamily) -> Option<RouteAttribute> {
    let address = hop.gateway?;
    Some(if family(address) == of {
        RouteAttribute::Gateway(address.into())
    } else {
        RouteAttribute::Via(RouteVia::from(address))
    })
}

pub(super) fn rule(rule: &Rule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = AddressFamily::from(rule.family);
    message.header.tos = rule.tos;
    message.header.table = u8::try_from(rule.table).unwrap_or_default();
    message.header.action = rule.action.into();
    if rule.invert {
        message.header.flags = RuleFlags::Invert;
    }
    let attributes = &mut message.attributes;
    attributes.push(RuleAttribute::Priority(rule.priority));
    attributes.push(RuleAttribute::Table(rule.table));
    attributes.push(RuleAttribute::Protocol(rule.protocol.into()));
    if let Some(source) = rule.source {
        message.header.src_len = source.bits;
        attributes.push(RuleAttribute::Source(source.address));
    }
    if let Some(destination) = rule.destination {
        message.header.dst_len = destination.bits;
        attributes.push(RuleAttribute::Destination(destination.address));
    }
    attributes.extend(rule.input.clone().map(RuleAttribute::Iifname));
    attributes.extend(rule.output.clone().map(RuleAttribute::Oifname));
    if let Some((mark, mask)) = rule.mark {
        attributes.extend([RuleAttribute::FwMark(mark), RuleAttribute::FwMask(mask)]);
    }
    attributes.extend(rule.ip_protocol.map(|protocol| RuleAttribute::IpProtocol(protocol.into())));
    attributes.extend(rule.source_ports.map(|range| RuleAttribute::SourcePortRange(ports(range))));
    attributes.extend(rule.destination_ports.map(|range| RuleAttribute::DestinationPortRange(ports(range))));
    attributes.extend(rule.users.map(|(start, end)| RuleAttribute::UidRange(RuleUidRange { start, end })));
    attributes.extend(rule.suppress_prefix.map(RuleAttribute::SuppressPrefixLen));
    attributes.extend(rule.goto.map(RuleAttribute::Goto));
    message
}

fn ports((start, end): (u16, u16)) -> RulePortRange {
    RulePortRange { start, end }
}

pub(super) fn neighbour(index: u32, neighbour: &Neighbour) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(neighbour.address);
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    if neighbour.router {
        message.header.flags = NeighbourFlags::Router;
    }
    let address = match neighbour.address {
        IpAddr::V4(address) => NeighbourAddress::Inet(address),
        IpAddr::V6(address) => NeighbourAddress::Inet6(address),
    };
    message.attributes = vec![
        NeighbourAttribute::Destination(address),
        NeighbourAttribute::LinkLayerAddress(neighbour.mac.clone()),
    ];
    message
}
