//! Lifetimes of addresses and routes, of which the kernel tells what is left.
//!
//! What has only become less as time went by is no news. What somebody has set to more or to less is, also where
//! it is as much as was told before: then it is told as a second less, to be seen as another one.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Instant;

use vmrun_proto::{Address, Interface, Network, Route};

/// The kernel counts whole seconds, and so do we, each from a beginning of its own.
const ROUNDING_S: u64 = 2;

/// When what the guest has been told of ends, in seconds from a beginning.
#[derive(Debug)]
pub(super) struct Lifetimes {
    begun: Instant,
    /// By interface and address, preferred and valid.
    addresses: BTreeMap<(String, IpAddr), [Option<u64>; 2]>,
    /// Of routes that are the same but for it.
    routes: BTreeMap<Route, u64>,
}

impl Lifetimes {
    /// Nothing has been told by `now`.
    pub(super) fn begin(now: Instant) -> Self {
        Self { begun: now, addresses: BTreeMap::new(), routes: BTreeMap::new() }
    }

    /// Whether `new` is what the guest has been told, and time has gone by. Where it is not, what was renewed to as
    /// much as before is made a second less.
    pub(super) fn are_as_told(&self, told: &Network, new: &mut Network, now: Instant) -> bool {
        let now = self.seconds(now);
        let mut settled = new.clone();
        for (interface, later) in settled.interfaces.iter_mut().zip(&mut new.interfaces) {
            let Some(before) = told.interfaces.iter().find(|before| before.name == interface.name) else {
                continue;
            };
            for (address, later) in interface.addresses.iter_mut().zip(&mut later.addresses) {
                let key = (interface.name.clone(), address.address);
                let older = before.addresses.iter().find(|before| before.address == address.address);
                let (Some(older), Some(ends)) = (older, self.addresses.get(&key)) else { continue };
                if lives(address).into_iter().zip(*ends).all(|(left, end)| is_when(now, left, end)) {
                    (address.preferred_s, address.valid_s) = (older.preferred_s, older.valid_s);
                } else if lives(address) == lives(older) {
                    (later.preferred_s, later.valid_s) = (less(later.preferred_s), less(later.valid_s));
                    *address = later.clone();
                }
            }
        }
        // There may be thousands, of which few end.
        let older: BTreeMap<_, _> =
            told.routes.iter().rev().filter(|route| route.expires_s.is_some()).map(ending).collect();
        let limited =
            settled.routes.iter_mut().zip(&mut new.routes).filter(|(one, _)| one.expires_s.is_some());
        for (route, later) in limited {
            let bare = without_end(route);
            let Some(before) = older.get(&bare) else { continue };
            if is_when(now, route.expires_s, self.routes.get(&bare).copied()) {
                route.expires_s = *before;
            } else if route.expires_s == *before {
                later.expires_s = less(later.expires_s);
                *route = later.clone();
            }
        }
        settled == *told
    }

    /// The guest has been told of `network`, and of no other.
    pub(super) fn told(&mut self, network: &Network, now: Instant) {
        let now = self.seconds(now);
        let limited = |interface: &Interface| {
            let name = interface.name.clone();
            let addresses = interface.addresses.clone().into_iter();
            let addresses = addresses.filter(|address| lives(address) != [None; 2]);
            addresses.map(move |one| ((name.clone(), one.address), lives(&one).map(|left| end(now, left))))
        };
        self.addresses = network.interfaces.iter().flat_map(limited).collect();
        let limited = |route: &Route| Some((end(now, route.expires_s)?, without_end(route)));
        // Of two that are the same but for their ends the first one counts.
        self.routes =
            network.routes.iter().rev().filter_map(limited).map(|(end, route)| (route, end)).collect();
    }

    fn seconds(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.begun).as_secs()
    }
}

fn lives(address: &Address) -> [Option<u32>; 2] {
    [address.preferred_s, address.valid_s]
}

fn without_end(route: &Route) -> Route {
    Route { expires_s: None, ..route.clone() }
}

fn ending(route: &Route) -> (Route, Option<u32>) {
    (without_end(route), route.expires_s)
}

fn end(now: u64, left: Option<u32>) -> Option<u64> {
    left.map(|left| now.saturating_add(left.into()))
}

fn less(left: Option<u32>) -> Option<u32> {
    left.map(|left| left.saturating_sub(1))
}

/// Whether what has so much left now ends then. What is over by now stays so.
fn is_when(now: u64, left: Option<u32>, then: Option<u64>) -> bool {
    match (end(now, left), then) {
        (None, None) => true,
        (Some(end), Some(then)) => end.abs_diff(then.max(now)) <= ROUNDING_S,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    fn network(preferred: Option<u32>, valid: Option<u32>, expires: Option<u32>) -> Network {
        let address =
            json!({ "address": "fd00::1", "prefix": 64, "preferred_s": preferred, "valid_s": valid });
        let route = json!({ "destination": { "address": "fd00:1::", "bits": 64 }, "table": 254, "protocol": 9,
            "scope": 0, "kind": 1, "expires_s": expires });
        let interface = json!({ "name": "eth0", "device": "loopback", "addresses": [address] });
        serde_json::from_value(json!({ "interfaces": [interface], "routes": [route] })).unwrap()
    }

    /// What is told after `seconds` of what is found then, if it is news.
    fn news(lifetimes: &Lifetimes, told: &Network, mut found: Network, seconds: u64) -> Option<Network> {
        let now = lifetimes.begun + Duration::from_secs(seconds);
        (!lifetimes.are_as_told(told, &mut found, now)).then_some(found)
    }

    fn told(network: &Network) -> Lifetimes {
        let begun = Instant::now();
        let mut lifetimes = Lifetimes::begin(begun);
        lifetimes.told(network, begun);
        lifetimes
    }

    #[test]
    fn time_that_goes_by_is_no_news() {
        let first = network(Some(100), Some(200), Some(300));
        let lifetimes = told(&first);
        assert_eq!(news(&lifetimes, &first, network(Some(60), Some(161), Some(259)), 40), None);
        assert_eq!(news(&lifetimes, &first, network(Some(0), Some(50), Some(150)), 150), None);
        let for_ever = network(None, None, None);
        assert_eq!(news(&told(&for_ever), &for_ever, for_ever.clone(), 40), None);
    }

    #[test]
    fn what_somebody_sets_is_news_whether_it_is_more_or_less() {
        let first = network(Some(100), Some(200), Some(300));
        let lifetimes = told(&first);
        let changes = [
            network(Some(0), Some(160), Some(260)),
            network(Some(100), Some(200), Some(260)),
            network(Some(60), None, Some(260)),
            network(Some(60), Some(160), Some(100)),
            network(Some(60), Some(160), None),
        ];
        for found in changes {
            assert!(news(&lifetimes, &first, found.clone(), 40).is_some(), "{found:?}");
        }
    }

    #[test]
    fn what_is_told_is_what_is_left() {
        let first = network(Some(100), Some(200), Some(300));
        let mut lifetimes = told(&first);
        // The address is renewed after 40 s to as much as before; the route is as it was.
        let renewed = news(&lifetimes, &first, network(Some(100), Some(200), Some(260)), 40).unwrap();
        assert_eq!(renewed, network(Some(99), Some(199), Some(260)));
        lifetimes.told(&renewed, lifetimes.begun + Duration::from_secs(40));
        assert_eq!(news(&lifetimes, &renewed, network(Some(70), Some(170), Some(230)), 70), None);
        assert!(news(&lifetimes, &renewed, network(Some(30), Some(130), Some(230)), 70).is_some());
    }

    #[test]
    fn many_routes_are_found_again_each_by_itself() {
        let mut all = network(None, None, Some(300));
        let route = all.routes.remove(0);
        all.routes = (0..5_000).map(|metric| Route { priority: Some(metric), ..route.clone() }).collect();
        let lifetimes = told(&all);
        let mut later = all.clone();
        later.routes.iter_mut().for_each(|route| route.expires_s = Some(260));
        assert_eq!(news(&lifetimes, &all, later.clone(), 40), None);
        later.routes[2_000].expires_s = Some(200);
        assert!(news(&lifetimes, &all, later, 40).is_some());
    }
}
