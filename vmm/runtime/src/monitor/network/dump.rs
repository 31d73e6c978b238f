//! What a network namespace holds, as the kernel tells it.

use std::collections::BTreeMap;
use std::io;

use vmrun_netlink::Netlink;
use vmrun_netlink::route::address::AddressMessage;
use vmrun_netlink::route::link::{LinkAttribute, LinkExtentMask, LinkMessage};
use vmrun_netlink::route::neighbour::NeighbourMessage;
use vmrun_netlink::route::route::RouteMessage;
use vmrun_netlink::route::rule::RuleMessage;
use vmrun_netlink::route::{AddressFamily, RouteNetlinkMessage};

use super::families;

/// All of it at about one moment: whoever changes it meanwhile sends news of that, too.
#[derive(Clone, Debug, Default)]
pub(super) struct Dump {
    pub(super) links: Vec<LinkMessage>,
    pub(super) addresses: Vec<AddressMessage>,
    pub(super) routes: Vec<RouteMessage>,
    pub(super) rules: Vec<RuleMessage>,
    /// Those whose rules were read.
    pub(super) rule_families: Vec<AddressFamily>,
    pub(super) neighbours: Vec<NeighbourMessage>,
    /// Routes and rules that hold something unknown.
    pub(super) unread: Vec<String>,
}

/// Reads the namespace in which the socket was opened. Where `is_empty` says so of the links and
/// addresses, the rest is not looked at.
pub(super) fn read(netlink: &mut Netlink, is_empty: impl Fn(&Dump) -> bool) -> io::Result<Dump> {
    let mut dump = Dump::default();
    let mut link = LinkMessage::default();
    // Counters are the longest part of an answer.
    link.attributes = vec![LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])];
    for answer in netlink.dump(&RouteNetlinkMessage::GetLink(link))? {
        dump.links.extend(families::link(&answer)?);
    }
    for answer in netlink.dump(&RouteNetlinkMessage::GetAddress(AddressMessage::default()))? {
        if let RouteNetlinkMessage::NewAddress(address) = answer.message()? {
            dump.addresses.push(address);
        }
    }
    if is_empty(&dump) {
        return Ok(dump);
    }
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        read_family(netlink, family, &mut dump)?;
    }
    for answer in netlink.dump(&RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()))? {
        // One that cannot be read is no permanent one of Ethernet.
        if let Ok(RouteNetlinkMessage::NewNeighbour(neighbour)) = answer.message() {
            dump.neighbours.push(neighbour);
        }
    }
    Ok(dump)
}

fn read_family(netlink: &mut Netlink, family: AddressFamily, dump: &mut Dump) -> io::Result<()> {
    let mut route = RouteMessage::default();
    route.header.address_family = family;
    let answers = match netlink.dump(&RouteNetlinkMessage::GetRoute(route)) {
        Err(error) if lacks_family(&error) => return Ok(()),
        answers => answers?,
    };
    for answer in answers {
        match answer.message() {
            Ok(RouteNetlinkMessage::NewRoute(route)) => dump.routes.push(route),
            Ok(_) => {}
            Err(error) => dump.unread.push(format!("a route holds something unknown: {error}")),
        }
    }
    let mut rule = RuleMessage::default();
    rule.header.family = family;
    let answers = match netlink.dump(&RouteNetlinkMessage::GetRule(rule)) {
        Err(error) if lacks_family(&error) => return Ok(()),
        answers => answers?,
    };
    dump.rule_families.push(family);
    for answer in answers {
        match answer.message() {
            Ok(RouteNetlinkMessage::NewRule(rule)) => dump.rules.push(rule),
            Ok(_) => {}
            Err(error) => dump.unread.push(format!("a routing rule holds something unknown: {error}")),
        }
    }
    Ok(())
}

/// The interfaces' names by their numbers.
pub(super) fn names(dump: &Dump) -> BTreeMap<u32, String> {
    dump.links.iter().map(|link| (link.header.index, super::links::name(link).to_owned())).collect()
}

/// A kernel without IPv6, or without rules.
fn lacks_family(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EAFNOSUPPORT))
}
