//! What the monitor itself does in a namespace is no news there: each tap that it makes, and each step of
//! its set-up, would have the whole namespace looked at again.

use std::collections::BTreeSet;
use std::ops::Range;

use vmrun_netlink::Answer;
use vmrun_netlink::attributes::attribute;

use super::links::TAP_PREFIX;

/// `RTM_NEWLINK`, `_DELLINK`, `_NEWADDR`, `_DELADDR`, `_NEWROUTE`, `_DELROUTE`, `_NEWNEIGH`, `_DELNEIGH`,
/// `_NEWNETCONF` and `_DELNETCONF`.
const NEW_LINK: u16 = 16;
const DEL_LINK: u16 = 17;
const ADDRESSES: [u16; 2] = [20, 21];
const ROUTES: [u16; 2] = [24, 25];
const NEIGHBOURS: [u16; 2] = [28, 29];
const SETTINGS: [u16; 2] = [80, 81];
/// `RTM_NEWQDISC`, `_NEWTCLASS`, `_NEWTFILTER` and `_NEWCHAIN`: what is added to queues is nobody's loss. Neither is
/// a chain that goes (`RTM_DELCHAIN`): that of its queue or its last filter is told as well.
const NO_LOSS_TO_QUEUES: [u16; 5] = [36, 40, 44, 100, 101];
/// `RTM_DELQDISC`, `_DELTCLASS` and `_DELTFILTER`: what somebody takes away, even from a tap, is a loss.
const GONE_FROM_QUEUES: [u16; 3] = [37, 41, 45];

/// A link's header, its attributes `IFLA_IFNAME` and `IFLA_LINKINFO`, and of the latter `IFLA_INFO_KIND`. To
/// read all of each link would take a start longer than anything else that is done here.
const LINK_HEADER: usize = 16;
const LINK_NAME: u16 = 3;
const LINK_INFO: u16 = 18;
const LINK_KIND: u16 = 1;
const TUN: &str = "tun";

/// Where the interface's number is in the bodies of links, addresses and neighbours.
const INTERFACE_AT: Range<usize> = 4..8;
/// A route's header, and its attribute of the interface (`RTA_OIF`).
const ROUTE_HEADER: usize = 12;
const ROUTE_INTERFACE: u16 = 4;
/// A setting's header, and its attribute of the interface (`NETCONFA_IFINDEX`).
const SETTING_HEADER: usize = 1;
const SETTING_INTERFACE: u16 = 1;

/// What news are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Heard {
    /// Nothing that concerns the guest.
    Nothing,
    /// A queue or filter alone that has gone. A sandbox that gives up a redirection is heard like that, too.
    Queues,
    /// Anything else.
    Changes,
}

/// The numbers of vmrun's own taps that were heard of.
#[derive(Debug, Default)]
pub(super) struct Taps(BTreeSet<u32>);

impl Taps {
    /// What there is about anything else. A tap's settings are told before its name, so all that was heard
    /// together is looked at together.
    pub(super) fn leave_news(&mut self, heard: &[Answer]) -> Heard {
        for answer in heard.iter().filter(|answer| answer.kind() == NEW_LINK) {
            // What is told to a family of addresses alone does not say what it is.
            let (Some(index), Some(0)) = (interface(answer), answer.body().first()) else { continue };
            // The number may be that of a tap which has gone.
            match is_own_tap(answer) {
                true => self.0.insert(index),
                false => self.0.remove(&index),
            };
        }
        let is_of_tap = |answer: &Answer| interface(answer).is_some_and(|index| self.0.contains(&index));
        let about = |answer: &Answer| match answer.kind() {
            kind if NO_LOSS_TO_QUEUES.contains(&kind) => Heard::Nothing,
            kind if GONE_FROM_QUEUES.contains(&kind) => Heard::Queues,
            _ if is_of_tap(answer) => Heard::Nothing,
            _ => Heard::Changes,
        };
        let most = heard.iter().map(about).max().unwrap_or(Heard::Nothing);
        for answer in heard.iter().filter(|answer| answer.kind() == DEL_LINK) {
            interface(answer).map(|index| self.0.remove(&index));
        }
        most
    }
}

fn is_own_tap(link: &Answer) -> bool {
    let name = link.text(LINK_HEADER, LINK_NAME).unwrap_or_default();
    let kind = link.attribute(LINK_HEADER, LINK_INFO).and_then(|info| attribute(info, LINK_KIND));
    name.starts_with(TAP_PREFIX) && kind.is_some_and(|kind| kind.text() == TUN)
}

/// The interface that it is about, if it is about one.
fn interface(answer: &Answer) -> Option<u32> {
    match answer.kind() {
        NEW_LINK | DEL_LINK => answer.number(INTERFACE_AT),
        kind if ADDRESSES.contains(&kind) || NEIGHBOURS.contains(&kind) => answer.number(INTERFACE_AT),
        kind if ROUTES.contains(&kind) => number(answer.attribute(ROUTE_HEADER, ROUTE_INTERFACE)),
        kind if SETTINGS.contains(&kind) => number(answer.attribute(SETTING_HEADER, SETTING_INTERFACE)),
        _ => None,
    }
}

fn number(bytes: Option<&[u8]>) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes?.try_into().ok()?))
}

/// What a look is heard by that has made this tap, joined it, and given all of it up: each as it may come at once.
#[cfg(test)]
pub(super) fn news_of_a_failed_look(tap: u32) -> Vec<Vec<Answer>> {
    use tests::{about, link};
    use vmrun_netlink::route::link::InfoKind;

    let made = link(tap, "vmrun-tap0", InfoKind::Tun);
    let settings = about(SETTINGS[0], SETTING_HEADER, SETTING_INTERFACE, tap);
    let joined = [36, 44, 36, 44].map(|kind| about(kind, 8, 0, 2));
    let parted = [45, 101, 37].map(|kind| about(kind, 8, 0, 2));
    vec![vec![settings, made], joined.into(), parted.into(), vec![about(DEL_LINK, LINK_HEADER, 0, tap)]]
}

#[cfg(test)]
mod tests {
    use vmrun_netlink::core::Emitable;
    use vmrun_netlink::route::AddressFamily;
    use vmrun_netlink::route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};

    use super::*;

    pub(super) fn link(index: u32, name: &str, kind: InfoKind) -> Answer {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.attributes =
            vec![LinkAttribute::IfName(name.to_owned()), LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)])];
        let mut body = vec![0; link.buffer_len()];
        link.emit(&mut body);
        Answer::new(NEW_LINK, body)
    }

    /// A header of `header` bytes with the number at its fifth, and an attribute with it.
    pub(super) fn about(kind: u16, header: usize, attribute: u16, index: u32) -> Answer {
        let mut body = vec![0; header.next_multiple_of(4)];
        if header >= 8 {
            body[4..8].copy_from_slice(&index.to_ne_bytes());
        }
        body.extend([8, 0]);
        body.extend(attribute.to_ne_bytes());
        body.extend(index.to_ne_bytes());
        Answer::new(kind, body)
    }

    fn is_news(taps: &mut Taps, answer: Answer) -> bool {
        taps.leave_news(&[answer]) != Heard::Nothing
    }

    #[test]
    fn what_is_about_own_taps_is_no_news_and_all_else_is() {
        let mut taps = Taps::default();
        assert!(is_news(&mut taps, link(2, "eth0", InfoKind::Veth)));
        assert!(!is_news(&mut taps, link(3, "vmrun-tap0", InfoKind::Tun)));
        for (number, expected) in [(2, true), (3, false)] {
            assert_eq!(is_news(&mut taps, about(20, 8, 0, number)), expected);
            assert_eq!(is_news(&mut taps, about(28, 12, 0, number)), expected);
            assert_eq!(is_news(&mut taps, about(24, 12, ROUTE_INTERFACE, number)), expected);
            assert_eq!(is_news(&mut taps, about(80, 1, SETTING_INTERFACE, number)), expected);
        }
        // A queue that is made, and one that is removed.
        assert!(!is_news(&mut taps, about(36, 8, 0, 2)) && !is_news(&mut taps, about(44, 8, 0, 2)));
        assert!(is_news(&mut taps, about(37, 8, 0, 2)) && is_news(&mut taps, about(45, 8, 0, 3)));
        // A rule, and what is not known.
        assert!(is_news(&mut taps, about(32, 12, ROUTE_INTERFACE, 3)));
        assert!(is_news(&mut taps, about(99, 8, 0, 3)));
        assert_eq!(taps.leave_news(&[]), Heard::Nothing);
    }

    #[test]
    fn what_a_redirection_that_is_given_up_leaves_behind_is_of_queues_alone() {
        let mut taps = Taps::default();
        let (filter, chain, qdisc) = (about(45, 8, 0, 2), about(101, 8, 0, 2), about(37, 8, 0, 2));
        assert_eq!(taps.leave_news(std::slice::from_ref(&chain)), Heard::Nothing);
        let mut heard = vec![link(3, "vmrun-tap0", InfoKind::Tun), filter, chain, qdisc];
        assert_eq!(taps.leave_news(&heard), Heard::Queues);
        heard.push(about(20, 8, 0, 2));
        assert_eq!(taps.leave_news(&heard), Heard::Changes);
    }

    #[test]
    fn what_a_family_is_told_of_a_tap_is_no_news_and_leaves_it_a_tap() {
        let mut taps = Taps::default();
        assert!(!is_news(&mut taps, link(3, "vmrun-tap0", InfoKind::Tun)));
        let mut of_ipv6 = LinkMessage::default();
        of_ipv6.header.interface_family = AddressFamily::Inet6;
        of_ipv6.header.index = 3;
        of_ipv6.attributes = vec![LinkAttribute::IfName("vmrun-tap0".to_owned())];
        let mut body = vec![0; of_ipv6.buffer_len()];
        of_ipv6.emit(&mut body);
        for _ in 0..2 {
            assert!(!is_news(&mut taps, Answer::new(NEW_LINK, body.clone())));
        }
    }

    #[test]
    fn settings_of_a_tap_that_come_before_its_name_are_no_news() {
        let settings = || about(80, 1, SETTING_INTERFACE, 3);
        let mut taps = Taps::default();
        assert_eq!(taps.leave_news(&[settings(), link(3, "vmrun-tap0", InfoKind::Tun)]), Heard::Nothing);
        assert_eq!(taps.leave_news(&[settings(), about(20, 8, 0, 2)]), Heard::Changes);
        assert!(is_news(&mut Taps::default(), settings()));
    }

    #[test]
    fn interface_of_the_name_of_a_tap_and_one_with_its_number_are_news() {
        let mut taps = Taps::default();
        assert!(is_news(&mut taps, link(2, "vmrun-tap0", InfoKind::Dummy)));
        assert!(!is_news(&mut taps, link(3, "vmrun-tap0", InfoKind::Tun)));
        assert!(!is_news(&mut taps, about(DEL_LINK, 16, 0, 3)));
        assert!(is_news(&mut taps, about(20, 8, 0, 3)));
        assert!(!is_news(&mut taps, link(3, "vmrun-tap0", InfoKind::Tun)));
        assert!(is_news(&mut taps, link(3, "eth1", InfoKind::Tun)));
        assert!(is_news(&mut taps, about(20, 8, 0, 3)));
        assert!(is_news(&mut taps, about(DEL_LINK, 16, 0, 2)));
    }
}
