//! Plans of namespaces as a kernel has told of them; `dumps/record` wrote what it said.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use vmrun_netlink::core::{NetlinkDeserializable, NetlinkHeader};
use vmrun_netlink::route::link::{
    AfSpecInet6, AfSpecUnspec, Inet6DevConf, InfoData, InfoKind, InfoVlan, LinkAttribute, LinkFlags, LinkInfo,
};
use vmrun_netlink::route::route::{RouteAttribute, RouteType};
use vmrun_netlink::route::{AddressFamily, RouteNetlinkMessage};
use vmrun_proto::{Hop, Network};
use vmrun_spec::NicSlot;

use super::*;

fn recorded(text: &str) -> Dump {
    let families = vec![AddressFamily::Inet, AddressFamily::Inet6];
    let mut dump = Dump { rule_families: families, ..Dump::default() };
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (kind, hex) = line.split_once(' ').unwrap();
        let mut header = NetlinkHeader::default();
        header.message_type = kind.parse().unwrap();
        let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        let body: Vec<u8> = (0..hex.len()).step_by(2).map(byte).collect();
        match RouteNetlinkMessage::deserialize(&header, &body).unwrap() {
            RouteNetlinkMessage::NewLink(link) => dump.links.push(link),
            RouteNetlinkMessage::NewAddress(address) => dump.addresses.push(address),
            RouteNetlinkMessage::NewRoute(route) => dump.routes.push(route),
            RouteNetlinkMessage::NewRule(rule) => dump.rules.push(rule),
            RouteNetlinkMessage::NewNeighbour(neighbour) => dump.neighbours.push(neighbour),
            other => panic!("{other:?}"),
        }
    }
    dump
}

fn as_json(network: &Network) -> Value {
    serde_json::to_value(network).unwrap()
}

#[test]
fn bridge_networks_interface_comes_with_addresses_and_default_routes_and_no_more() {
    let dump = recorded(include_str!("dumps/bridge.dump"));
    assert!(!is_empty(&dump));
    let mut plan = plan(&dump, &Slots::new());
    assert_eq!(plan.unfit, []);
    // The other end of the pair is in the same namespace here.
    assert_eq!(plan.cards.iter().map(|card| card.name.as_str()).collect::<Vec<_>>(), ["peer0", "eth0"]);
    assert_eq!(plan.cards[1].mac, [2, 0, 0, 0, 0, 1]);
    assert_eq!(plan.cards[1].mtu, 1400);
    plan.network.interfaces.retain(|interface| interface.name == "eth0");
    let network = as_json(&plan.network);
    let link_local =
        json!({ "address": "fe80::ff:fe00:1", "prefix": 64, "scope": 253, "flags": 2, "protocol": 3 });
    assert_eq!(
        network["interfaces"][0]["addresses"],
        json!([
            { "address": "10.88.0.2", "prefix": 16, "broadcast": "10.88.255.255", "label": "eth0",
              "scope": 0, "flags": 0, "protocol": 0 },
            { "address": "10.88.0.3", "prefix": 16, "label": "eth0", "scope": 0, "flags": 0, "protocol": 0 },
            { "address": "fd00:88::2", "prefix": 64, "scope": 0, "flags": 2, "protocol": 0 },
            link_local,
        ])
    );
    assert_eq!(
        network["routes"],
        json!([
            { "destination": { "address": "0.0.0.0", "bits": 0 }, "tos": 0, "table": 254, "protocol": 3,
              "scope": 0, "kind": 1, "priority": 100,
              "hops": [{ "interface": "eth0", "gateway": "10.88.0.1", "onlink": false, "weight": 0 }] },
            { "destination": { "address": "::", "bits": 0 }, "tos": 0, "table": 254, "protocol": 3,
              "scope": 0, "kind": 1, "priority": 1024,
              "hops": [{ "interface": "eth0", "gateway": "fd00:88::1", "onlink": false, "weight": 0 }] },
        ])
    );
    assert!(plan.network.rules.is_empty() && plan.network.neighbours.is_empty());
}

#[test]
fn nothing_leads_through_an_interface_that_was_down_when_it_was_read() {
    let mut dump = recorded(include_str!("dumps/bridge.dump"));
    assert_ne!(plan(&dump, &Slots::new()).network.routes, []);
    let eth0 = dump.links.iter_mut().find(|link| links::name(link) == "eth0").unwrap();
    eth0.header.flags.remove(LinkFlags::Up);
    let without = plan(&dump, &Slots::new()).network;
    assert_eq!(without.routes, []);
    assert!(without.interfaces.iter().any(|one| one.name == "eth0" && !one.addresses.is_empty()));
}

#[test]
fn way_through_an_interface_that_is_down_is_none_and_others_are_left() {
    let hop = |name: &str| Hop { interface: Some(name.to_owned()), ..Hop::default() };
    let interface = |name, up| Interface {
        up,
        ..Interface::new(name, NetworkDevice::Card { device: "a".to_owned(), announcement: "b".to_owned() })
    };
    let route = recorded_route();
    let mut plan = NetworkPlan::default();
    plan.network.interfaces = vec![interface("down", false), interface("up", true)];
    let with = |hops: Vec<Hop>| Route { hops, ..route.clone() };
    plan.network.routes = vec![with(vec![hop("down"), hop("up")]), with(vec![hop("down")]), with(vec![])];
    plan.leave_out_dead_ways();
    assert_eq!(plan.network.routes, [with(vec![hop("up")]), with(vec![])]);
}

fn recorded_route() -> Route {
    let dump = recorded(include_str!("dumps/bridge.dump"));
    plan(&dump, &Slots::new()).network.routes.remove(0)
}

#[test]
fn routes_rules_and_neighbours_are_what_somebody_has_set() {
    let dump = recorded(include_str!("dumps/ptp.dump"));
    let plan = plan(&dump, &Slots::new());
    assert_eq!(plan.unfit, []);
    let network = as_json(&plan.network);
    let interfaces = network["interfaces"].as_array().unwrap();
    assert_eq!(interfaces[0]["name"], "lo");
    assert_eq!(interfaces[0]["addresses"][0]["address"], "10.255.0.1");
    // Its route was removed: the guest's kernel must not make it (IFA_F_NOPREFIXROUTE).
    let eth0 = interfaces.iter().find(|interface| interface["name"] == "eth0").unwrap();
    assert_eq!(eth0["addresses"][0]["flags"], 0x200);
    let route = |to: &str| {
        let routes = network["routes"].as_array().unwrap();
        routes.iter().find(|route| route["destination"]["address"] == to).unwrap()
    };
    let hop = |gateway: Value, onlink: bool, weight: u8| {
        let mut hop = json!({ "interface": "eth0", "onlink": onlink, "weight": weight });
        if !gateway.is_null() {
            hop["gateway"] = gateway;
        }
        hop
    };
    assert_eq!(route("10.1.0.1")["hops"], json!([hop(Value::Null, false, 0)]));
    assert_eq!(route("10.1.0.1")["preferred_source"], "10.1.0.2");
    assert_eq!(route("10.1.0.0")["hops"], json!([hop(json!("10.1.0.1"), false, 0)]));
    assert_eq!((&route("10.9.0.0")["kind"], &route("10.9.0.0")["priority"]), (&json!(6), &json!(7)));
    assert_eq!((&route("10.8.0.0")["kind"], route("10.8.0.0").get("hops")), (&json!(7), None));
    assert_eq!(
        (&route("10.7.0.0")["table"], &route("10.7.0.0")["metrics"]["2"]),
        (&json!(1000), &json!(1300))
    );
    assert_eq!(route("10.7.0.0")["hops"], json!([hop(json!("192.0.2.1"), true, 0)]));
    let several = json!([hop(json!("10.1.0.1"), false, 1), hop(json!("192.0.2.1"), true, 0)]);
    assert_eq!(route("10.6.0.0")["hops"], several);
    assert_eq!(
        network["rules"],
        json!([
            { "family": 2, "priority": 100, "action": 1, "table": 1000, "invert": false, "tos": 0, "protocol": 0,
              "source": { "address": "10.1.0.2", "bits": 32 } },
            { "family": 2, "priority": 101, "action": 1, "table": 1000, "invert": true, "tos": 0, "protocol": 0,
              "destination": { "address": "10.9.0.0", "bits": 16 }, "input": "eth0", "mark": [1, 255] },
            { "family": 10, "priority": 102, "action": 8, "table": 0, "invert": false, "tos": 0, "protocol": 0,
              "source": { "address": "fd00::", "bits": 8 } },
        ])
    );
    assert_eq!(
        network["neighbours"],
        json!([{ "address": "10.1.0.1", "interface": "eth0", "mac": [2, 0, 0, 0, 0, 2], "router": false }])
    );
}

#[test]
fn route_that_forbids_by_a_next_hop_of_its_own_number_leads_through_nothing() {
    let mut dump = recorded(include_str!("dumps/ptp.dump"));
    let forbidding = dump.routes.iter_mut().filter(|route| route.header.kind == RouteType::BlackHole);
    // As the kernel tells of `ip route add … nhid 5` after `ip nexthop add id 5 blackhole`.
    let changed = forbidding.map(|route| route.attributes.push(RouteAttribute::Oif(1))).count();
    assert_eq!(changed, 1);
    let plan = plan(&dump, &Slots::new());
    let found =
        plan.network.routes.iter().find(|route| route.kind == u8::from(RouteType::BlackHole)).unwrap();
    assert_eq!(found.hops, []);
}

#[test]
fn what_cannot_be_carried_is_named_with_the_reason() {
    let dump = recorded(include_str!("dumps/unfit.dump"));
    assert!(!is_empty(&dump));
    let plan = plan(&dump, &Slots::new());
    let unfit: BTreeMap<_, _> =
        plan.unfit.iter().map(|unfit| (unfit.interface.as_deref().unwrap(), unfit.why.as_str())).collect();
    assert_eq!(unfit["br0"], "bridges of the namespace stay on the host");
    assert_eq!(unfit["port0"], "it is a port of a bridge or bond in the namespace");
    assert_eq!(unfit["tun0"], "it carries no Ethernet frames");
    assert_eq!(unfit.len(), 3);
    assert_eq!(plan.cards.iter().map(|card| card.name.as_str()).collect::<Vec<_>>(), ["port1"]);
}

#[test]
fn tunnel_is_carried_where_its_packets_are_anothers() {
    let dump = recorded(include_str!("dumps/bridge.dump"));
    let mut link = dump.links.into_iter().find(|link| super::links::name(link) == "eth0").unwrap();
    let kind = LinkInfo::Kind(InfoKind::Vxlan);
    link.attributes.retain(|attribute| {
        !matches!(
            attribute,
            LinkAttribute::LinkInfo(_) | LinkAttribute::Link(_) | LinkAttribute::LinkNetNsId(_)
        )
    });
    link.attributes.push(LinkAttribute::LinkInfo(vec![kind]));
    assert!(matches!(super::links::look_at(&link), Found::Unfit(why) if why.contains("travel in packets")));
    // It was made in another namespace.
    link.attributes.push(LinkAttribute::LinkNetNsId(0));
    assert!(matches!(super::links::look_at(&link), Found::Link(_)));
}

#[test]
fn vlans_come_behind_what_they_are_made_on_and_go_with_it() {
    let dump = recorded(include_str!("dumps/bridge.dump"));
    let eth0 = dump.links.iter().find(|link| super::links::name(link) == "eth0").unwrap();
    let vlan = |index: u32, name: &str, parent: u32| {
        let mut link = eth0.clone();
        link.header.index = index;
        let data = InfoData::Vlan(vec![InfoVlan::Id(5), InfoVlan::Protocol(0x8100.into())]);
        link.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::Address(vec![2, 0, 0, 0, 0, 1]),
            LinkAttribute::Link(parent),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Vlan), LinkInfo::Data(data)]),
        ];
        link
    };
    let links = vec![vlan(52, "inner", 51), vlan(51, "outer", eth0.header.index), eth0.clone()];
    let mut network = plan(&Dump { links, ..Dump::default() }, &Slots::new()).network;
    let names = |network: &Network| -> Vec<String> {
        network.interfaces.iter().map(|interface| interface.name.clone()).collect()
    };
    assert_eq!(names(&network), ["eth0", "outer", "inner"]);
    leave_out(&mut network, "eth0");
    assert_eq!(names(&network), [""; 0]);
}

#[test]
fn loopback_that_lacks_ipv6_is_told_of() {
    let mut dump = recorded(include_str!("dumps/bridge.dump"));
    dump.links.retain(|link| link.header.index == 1);
    dump.addresses.retain(|address| address.header.index == 1);
    let mut conf = Inet6DevConf::default();
    conf.disable_ipv6 = 1;
    let specs = vec![AfSpecUnspec::Inet6(vec![AfSpecInet6::DevConf(conf)])];
    dump.links[0].attributes.push(LinkAttribute::AfSpecUnspec(specs));
    assert!(!is_empty(&dump));
    let network = plan(&dump, &Slots::new()).network;
    let settings = BTreeMap::from([("ipv6/disable_ipv6".to_owned(), 1)]);
    assert_eq!((&network.interfaces[0].settings, network.interfaces.len()), (&settings, 1));
}

#[test]
fn namespace_with_loopback_alone_is_empty() {
    let mut dump = recorded(include_str!("dumps/bridge.dump"));
    dump.links.retain(|link| link.header.index == 1);
    dump.addresses.retain(|address| address.header.index == 1);
    assert!(is_empty(&dump));
    let more = recorded(include_str!("dumps/ptp.dump"));
    dump.addresses = more.addresses;
    assert!(!is_empty(&dump), "loopback has an address of its own");
}

#[test]
fn interfaces_keep_their_slots_and_new_ones_take_the_lowest_that_is_free() {
    let dump = recorded(include_str!("dumps/bridge.dump"));
    let index =
        |name: &str| dump.links.iter().find(|link| super::links::name(link) == name).unwrap().header.index;
    let taken = Slots::from([(index("eth0"), NicSlot::new(0).unwrap()), (99, NicSlot::new(1).unwrap())]);
    let plan = plan(&dump, &taken);
    let slots: Vec<_> = plan.cards.iter().map(|card| (card.name.as_str(), card.slot.number())).collect();
    assert_eq!(slots, [("peer0", 2), ("eth0", 0)]);
    let full = NicSlot::all().zip(100..).map(|(slot, index)| (index, slot)).collect();
    let unfit = super::plan(&dump, &full).unfit;
    assert_eq!(unfit[0].why, "the machine has room for 8 network cards");
}

#[test]
fn route_that_is_told_by_the_number_of_its_next_hop_alone_is_unfit() {
    let mut dump = recorded(include_str!("dumps/bridge.dump"));
    let plan = |dump: &Dump| plan(dump, &Slots::new()).unfit;
    let route = dump.routes.iter_mut().find(|route| route.header.destination_prefix_length == 0).unwrap();
    let number = vmrun_netlink::core::DefaultNla::new(30, 5_u32.to_ne_bytes().to_vec());
    route.attributes.push(RouteAttribute::Other(number));
    assert_eq!(plan(&dump), []);
    let route = dump.routes.iter_mut().find(|route| route.header.destination_prefix_length == 0).unwrap();
    route.attributes.retain(|one| !matches!(one, RouteAttribute::Oif(_) | RouteAttribute::Gateway(_)));
    let [Unfit { interface: None, why }] = &plan(&dump)[..] else { panic!("{:?}", plan(&dump)) };
    assert!(why.starts_with("the route to 0.0.0.0/0 refers to a nexthop object"), "{why}");
}

#[test]
fn mtu_is_what_a_tap_can_have_and_a_secret_stays_on_the_host() {
    let mut dump = recorded(include_str!("dumps/bridge.dump"));
    let eth0 = |dump: &mut Dump, mtu: u32| {
        let link = dump.links.iter_mut().find(|link| links::name(link) == "eth0").unwrap();
        for attribute in &mut link.attributes {
            match attribute {
                LinkAttribute::Mtu(is) => *is = mtu,
                LinkAttribute::AfSpecUnspec(specs) => {
                    specs.push(AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(
                        vmrun_netlink::route::link::In6AddrGenMode::StablePrivacy,
                    )]));
                }
                _ => {}
            }
        }
    };
    eth0(&mut dump, 65_521);
    let plan_of = |dump: &Dump| plan(dump, &Slots::new());
    let carried = plan_of(&dump);
    assert_eq!(carried.unfit, []);
    let eth0_of = |plan: &NetworkPlan| {
        plan.network.interfaces.iter().find(|interface| interface.name == "eth0").cloned()
    };
    assert_eq!(eth0_of(&carried).unwrap().address_mode, Some(3));
    eth0(&mut dump, 65_522);
    let refused = plan_of(&dump);
    assert!(refused.unfit[0].why.contains("65521") && eth0_of(&refused).is_none(), "{refused:?}");
}
