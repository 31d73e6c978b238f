//! What routers advertise: the host has heard of it before the sandbox was there.
//!
//! From then on advertisements reach the guest, which renews its addresses and routes by itself, and the host hears
//! none: there they end after a while. So what the guest has stays as it is for as long as it listens, whatever becomes
//! of it on the host, and its own kernel forgets it in time.

use std::collections::{BTreeMap, BTreeSet};

use vmrun_proto::{Address, Interface, Network, Route};

use super::difference::kept;

/// `IFAPROT_KERNEL_RA` and `RTPROT_RA`: whose addresses and routes these are.
const ADDRESS: u8 = 2;
const ROUTE: u8 = 9;

/// Has `new` hold what is advertised in `old` as it is there.
pub(super) fn keep(old: &Network, new: &mut Network) {
    let listening = |(place, now): (usize, &Interface)| {
        let before = kept(new, old, now)?;
        (listens(before) && listens(now)).then_some((place, before))
    };
    let listening: Vec<_> = new.interfaces.iter().enumerate().filter_map(listening).collect();
    for (place, before) in &listening {
        if let Some(now) = new.interfaces.get_mut(*place) {
            keep_addresses(before, now);
        }
    }
    let names = listening.iter().map(|(_, before)| before.name.as_str()).collect();
    keep_routes(old, new, &names);
}

fn keep_addresses(before: &Interface, now: &mut Interface) {
    let addresses = now.addresses.iter().enumerate();
    let places: BTreeMap<_, _> = addresses.map(|(place, one)| (one.address, place)).collect();
    for address in before.addresses.iter().filter(|one| is_address(one)) {
        match places.get(&address.address).and_then(|place| now.addresses.get_mut(*place)) {
            Some(there) if is_address(there) => there.clone_from(address),
            // Somebody has set it by hand.
            Some(_) => {}
            None => now.addresses.push(address.clone()),
        }
    }
}

/// Those that lead through these interfaces alone.
fn keep_routes(old: &Network, new: &mut Network, interfaces: &BTreeSet<&str>) {
    let routes = new.routes.iter().enumerate().filter(|(_, one)| is_route(one));
    let places: BTreeMap<_, _> = routes.map(|(place, one)| (without_end(one), place)).collect();
    let leads = |route: &Route| {
        let mut names = route.hops.iter().map(|hop| hop.interface.as_deref());
        names.all(|name| name.is_some_and(|name| interfaces.contains(name)))
    };
    for route in old.routes.iter().filter(|one| is_route(one) && leads(one)) {
        match places.get(&without_end(route)).and_then(|place| new.routes.get_mut(*place)) {
            Some(there) => there.clone_from(route),
            None => new.routes.push(route.clone()),
        }
    }
}

fn is_address(address: &Address) -> bool {
    address.protocol == ADDRESS
}

fn is_route(route: &Route) -> bool {
    route.protocol == ROUTE && route.destination.address.is_ipv6()
}

fn without_end(route: &Route) -> Route {
    Route { expires_s: None, ..route.clone() }
}

/// Whether the guest hears routers there (`ipv6_accept_ra`).
fn listens(interface: &Interface) -> bool {
    let setting = |name: &str, default| interface.settings.get(name).copied().unwrap_or(default);
    let accepts = match setting("ipv6/accept_ra", 1) {
        0 => false,
        1 => setting("ipv6/forwarding", 0) == 0,
        _ => true,
    };
    interface.up && accepts && setting("ipv6/disable_ipv6", 0) == 0
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::difference::{Change, difference};
    use super::*;

    fn address(ip: &str, protocol: u8, valid: u32) -> Value {
        json!({ "address": ip, "prefix": 64, "protocol": protocol, "valid_s": valid })
    }

    fn network(addresses: &[Value], routes: &[(u8, u32)], settings: &Value) -> Network {
        let route = |(protocol, expires): &(u8, u32)| {
            json!({ "destination": { "address": "::", "bits": 0 }, "table": 254, "protocol": protocol, "scope": 0,
                "kind": 1, "expires_s": expires, "hops": [{ "interface": "eth0", "gateway": "fe80::1" }] })
        };
        let routes: Vec<_> = routes.iter().map(route).collect();
        let interface = json!({ "name": "eth0", "device": "loopback", "up": true, "addresses": addresses,
            "settings": settings });
        serde_json::from_value(json!({ "interfaces": [interface], "routes": routes })).unwrap()
    }

    #[test]
    fn what_was_advertised_stays_as_it_is_and_all_else_goes() {
        let (advertised, own) = (address("fd00::1", 2, 90), address("fd00::2", 0, 90));
        let old = network(&[advertised.clone(), own], &[(9, 60), (3, 60)], &json!({}));
        let kept = network(std::slice::from_ref(&advertised), &[(9, 60)], &json!({}));
        // They have ended on the host, or have less left.
        let mut ended = network(&[], &[], &json!({}));
        keep(&old, &mut ended);
        assert_eq!(ended, kept);
        let mut older = network(&[address("fd00::1", 2, 50)], &[(9, 20)], &json!({}));
        keep(&old, &mut older);
        assert_eq!(older, kept);
        // Somebody has set it for good, and one that is new comes as it is.
        let set = network(&[address("fd00::1", 0, 0), address("fd00::3", 2, 70)], &[(9, 60)], &json!({}));
        let mut now = set.clone();
        keep(&old, &mut now);
        assert_eq!(now, set);
    }

    #[test]
    fn guest_that_hears_no_routers_keeps_nothing() {
        let old = network(&[address("fd00::1", 2, 90)], &[(9, 60)], &json!({}));
        for settings in [
            json!({ "ipv6/accept_ra": 0 }),
            json!({ "ipv6/forwarding": 1 }),
            json!({ "ipv6/disable_ipv6": 1 }),
        ] {
            let gone = network(&[], &[], &settings);
            let mut now = gone.clone();
            keep(&old, &mut now);
            assert_eq!(now, gone);
        }
        let mut down = network(&[], &[], &json!({}));
        down.interfaces[0].up = false;
        keep(&old, &mut down);
        assert!(down.interfaces[0].addresses.is_empty() && down.routes.is_empty());
        let mut without = Network::default();
        keep(&old, &mut without);
        assert_eq!(without, Network::default());
    }

    #[test]
    fn of_many_that_are_kept_none_is_changed() {
        let all = |metrics: std::ops::Range<u32>, expires| {
            let mut all = network(&[], &[(9, expires)], &json!({}));
            let route = all.routes.remove(0);
            all.routes = metrics.map(|metric| Route { priority: Some(metric), ..route.clone() }).collect();
            all
        };
        let (old, mut new) = (all(0..5_000, 600), all(2_000..5_001, 500));
        keep(&old, &mut new);
        let added = all(5_000..5_001, 500);
        assert_eq!(difference(&old, &new), [Change::AddRoute(&added.routes[0])]);
    }
}
