//! Interfaces that end in cards: a tap for each, joined to it, with a card behind it.
//!
//! The taps of all are set up in one message to the kernel: each by itself would be a dozen.

use std::io;
use std::os::fd::OwnedFd;

use vmrun_netlink::route::RouteNetlinkMessage;
use vmrun_netlink::route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute, LinkFlags, LinkMessage,
};
use vmrun_netlink::{Change, Netlink};
use vmrun_spec::Frames;

use super::error::NetworkError;
use super::filters::{self, Filter};
use super::plan::Card;
use super::redirect::{self, Earlier, Failure, Redirect};
use super::slots::Slots;
use super::tap::{self, Tap};
use crate::step;

/// An interface that ends in a card.
#[derive(Debug)]
pub(super) struct Carried {
    pub(super) card: Card,
    pub(super) tap: u32,
    pub(super) redirect: Redirect,
    /// Has the interface take frames of all groups.
    pub(super) groups: Option<OwnedFd>,
    /// Name servers of the namespace hear what they ask others through it.
    pub(super) lets_answers_in: bool,
}

/// An interface that could not be carried.
#[derive(Debug)]
pub(super) struct Left {
    /// Its number.
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) why: NetworkError,
}

impl Carried {
    /// The interface may have become another in some respects. What fails of that is done the next time.
    pub(super) fn follow(
        &mut self,
        card: &Card,
        netlink: &mut Netlink,
        slots: &dyn Slots,
    ) -> Vec<NetworkError> {
        let (mut now, mut failures) = (card.clone(), Vec::new());
        if card.mtu != self.card.mtu
            && let Err(source) = netlink.change(tap_up(self.tap, card.mtu), 0)
        {
            now.mtu = self.card.mtu;
            failures.push(NetworkError::Tap { interface: card.name.clone(), step: TAP_UP, source });
        }
        if card.carrier != self.card.carrier
            && let Err(cause) = slots.set_link(card.slot, card.carrier)
        {
            now.carrier = self.card.carrier;
            failures.push(NetworkError::Cable { interface: card.name.clone(), cause });
        }
        if card.name != self.card.name {
            slots.rename(card.slot, &card.name);
        }
        self.card = now;
        failures
    }

    /// Has the interface take the frames of all multicast groups, if it does not yet. Without that the guest hears of
    /// fewer groups, as on a network that filters them.
    pub(super) fn take_groups(&mut self) -> Result<(), NetworkError> {
        if self.groups.is_none() {
            let taken = tap::take_multicast(self.card.index);
            let interface = || self.card.name.clone();
            self.groups =
                Some(taken.map_err(|source| NetworkError::Groups { interface: interface(), source })?);
        }
        Ok(())
    }

    /// Whoever moves the interface away and back, or clears its queues, takes the redirection along: it is made anew.
    pub(super) fn mend(&mut self, netlink: &mut Netlink) -> Result<(), NetworkError> {
        let Card { index, name, .. } = &self.card;
        let failed = |(step, source): Failure| NetworkError::Join { interface: name.clone(), step, source };
        let seen = |source| failed((redirect::FILTER_STEP, source));
        let at_tap = filters::all(netlink, self.tap).map_err(seen)?;
        if !redirect::leads(&at_tap, *index) {
            Filter::Redirection.remove(netlink, self.tap);
            redirect::make(netlink, self.tap, *index).map_err(failed)?;
        }
        let at_interface = filters::all(netlink, *index).map_err(seen)?;
        self.lets_answers_in &= at_interface.iter().any(|filter| Filter::Answers.is(filter));
        if !redirect::leads(&at_interface, self.tap) {
            self.redirect = instead_of_earlier(netlink, &self.card, self.tap)?.instead_of(self.redirect);
            // It has gone with the interface.
            self.groups = None;
            step!("{name} is joined to its tap again");
        }
        Ok(())
    }

    pub(super) fn release(self, netlink: &mut Netlink, slots: &dyn Slots) {
        self.redirect.remove(netlink);
        if let Err(cause) = slots.unplug(self.card.slot) {
            crate::log::warn(&format!("cannot unplug the network card of {}: {cause}", self.card.name));
        }
        step!("{}: unplugged", self.card.name);
    }
}

/// Makes a tap for each of the interfaces, joins both, and plugs the cards in.
pub(super) fn carry(
    netlink: &mut Netlink,
    slots: &dyn Slots,
    cards: Vec<Card>,
) -> Vec<Result<Carried, Left>> {
    let (mut results, mut with_taps, mut steps) = (Vec::new(), Vec::new(), Vec::new());
    for card in cards {
        let tap = tap::make()
            .and_then(|tap| Ok((join(tap.index, &card).map_err(|error| ("its number", error))?, tap)));
        match tap {
            Ok((joining, tap)) => {
                steps.extend(joining);
                with_taps.push((card, tap));
            }
            Err((step, source)) => {
                let why = NetworkError::Tap { interface: card.name.clone(), step, source };
                results.push(Err(left(&card, why)));
            }
        }
    }
    let mut said = match netlink.change_all(steps) {
        Ok(said) => said.into_iter(),
        Err(error) => {
            results.extend(with_taps.iter().map(|(card, tap)| Err(given_up(netlink, card, tap, &error))));
            return results;
        }
    };
    for (card, tap) in with_taps {
        // What was not said was not done.
        let said = [(); STEPS].map(|()| said.next().unwrap_or(Err(io::ErrorKind::BrokenPipe.into())));
        let carried = joined(netlink, &card, &tap, said)
            .and_then(|redirect| plug(netlink, slots, card.clone(), tap, redirect));
        results.push(carried.map_err(|why| left(&card, why)));
    }
    results
}

/// It is not known which of the steps were done: none shall be.
fn given_up(netlink: &mut Netlink, card: &Card, tap: &Tap, error: &io::Error) -> Left {
    redirect::undo(netlink, card.index, tap.index);
    let source = error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error);
    left(card, NetworkError::Join { interface: card.name.clone(), step: "netlink", source })
}

fn left(card: &Card, why: NetworkError) -> Left {
    Left { index: card.index, name: card.name.clone(), why }
}

/// Whether the interface of that number is not in the socket's namespace any more.
pub(super) fn has_gone(netlink: &mut Netlink, index: u32) -> bool {
    let mut link = LinkMessage::default();
    link.header.index = index;
    let asked = netlink.get(RouteNetlinkMessage::GetLink(link));
    asked.is_err_and(|error| error.raw_os_error() == Some(libc::ENODEV))
}

const TAP_UP: &str = "its MTU, and up";

/// How many steps join an interface to its tap.
const STEPS: usize = 6;

fn join(tap: u32, card: &Card) -> io::Result<[Change; STEPS]> {
    let [tap_queue, tap_filter] = redirect::steps(tap, card.index)?;
    let [queue, filter] = redirect::steps(card.index, tap)?;
    Ok([(silence(tap), 0), (tap_up(tap, card.mtu), 0), tap_queue, tap_filter, queue, filter])
}

/// What the kernel has said of the steps. What was made at the tap goes with it.
fn joined(
    netlink: &mut Netlink,
    card: &Card,
    tap: &Tap,
    said: [io::Result<()>; STEPS],
) -> Result<Redirect, NetworkError> {
    let interface = || card.name.clone();
    let joining = |(step, source): Failure| NetworkError::Join { interface: interface(), step, source };
    // A kernel without IPv6 has nothing to say through the tap.
    let [_silent, up, tap_queue, tap_filter, queue, filter] = said;
    let there = is_there(&filter);
    let redirect = redirect::made(netlink, card.index, [queue, filter]);
    let at_tap = up
        .map_err(|source| NetworkError::Tap { interface: interface(), step: TAP_UP, source })
        .and_then(|()| redirect::made(netlink, tap.index, [tap_queue, tap_filter]).map_err(joining));
    match redirect {
        Ok(redirect) => match at_tap {
            Ok(_) => Ok(redirect),
            Err(error) => {
                redirect.remove(netlink);
                Err(error)
            }
        },
        Err(_) if there => {
            at_tap?;
            instead_of_earlier(netlink, card, tap.index)
        }
        Err(failure) => Err(joining(failure)),
    }
}

fn is_there(said: &io::Result<()>) -> bool {
    said.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::EEXIST))
}

/// A filter of vmrun's may be there already: of another sandbox, or of one whose monitor was killed.
fn instead_of_earlier(netlink: &mut Netlink, card: &Card, tap: u32) -> Result<Redirect, NetworkError> {
    let interface = || card.name.clone();
    let joining = |(step, source): Failure| NetworkError::Join { interface: interface(), step, source };
    let failed = |step| move |error| joining((step, error));
    match redirect::earlier(netlink, card.index).map_err(failed("its filters"))? {
        Earlier::Live => return Err(NetworkError::Taken { interface: interface() }),
        Earlier::Stale => redirect::clean(netlink, card.index),
        Earlier::None => {}
    }
    redirect::make(netlink, card.index, tap).map_err(joining)
}

fn plug(
    netlink: &mut Netlink,
    slots: &dyn Slots,
    card: Card,
    tap: Tap,
    redirect: Redirect,
) -> Result<Carried, NetworkError> {
    let frames = Frames::Tap(tap.descriptor);
    let plugged = slots.plug(card.slot, &card.name, card.mac, frames).and_then(|()| {
        // A cable is in it at first.
        if card.carrier { Ok(()) } else { slots.set_link(card.slot, false) }
    });
    if let Err(cause) = plugged {
        redirect.remove(netlink);
        return Err(NetworkError::Plug { interface: card.name, cause });
    }
    step!(
        "{} is carried into the guest: {}, MTU {}, tap {}, slot {}",
        card.name,
        mac_shown(card.mac),
        card.mtu,
        tap.name,
        card.slot.number()
    );
    Ok(Carried { card, tap: tap.index, redirect, groups: None, lets_answers_in: false })
}

/// The host's IPv6 is not to speak through the tap.
fn silence(index: u32) -> RouteNetlinkMessage {
    let mut link = LinkMessage::default();
    link.header.index = index;
    let mode = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
    link.attributes = vec![LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![mode])])];
    RouteNetlinkMessage::SetLink(link)
}

fn tap_up(index: u32, mtu: u32) -> RouteNetlinkMessage {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
    link.attributes = vec![LinkAttribute::Mtu(mtu)];
    RouteNetlinkMessage::SetLink(link)
}

fn mac_shown(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use vmrun_spec::NicSlot;

    use super::*;

    /// An interface that is nowhere.
    const NOWHERE: u32 = 0x7fff_fff0;

    /// A machine that does what it is told from the second time on.
    #[derive(Default)]
    struct Slow(Mutex<Vec<bool>>);

    impl Slots for Slow {
        fn plug(&self, _: NicSlot, _: &str, _: [u8; 6], _: Frames) -> Result<(), String> {
            Ok(())
        }

        fn rename(&self, _: NicSlot, _: &str) {}

        fn unplug(&self, _: NicSlot) -> Result<(), String> {
            Ok(())
        }

        fn set_link(&self, _: NicSlot, up: bool) -> Result<(), String> {
            let mut told = self.0.lock().unwrap();
            told.push(up);
            if told.len() == 1 { Err("not yet".to_owned()) } else { Ok(()) }
        }
    }

    fn card(mtu: u32, carrier: bool) -> Card {
        let slot = NicSlot::all().next().unwrap();
        Card { slot, index: NOWHERE, name: "eth0".to_owned(), mac: [2; 6], mtu, carrier }
    }

    fn carried(netlink: &mut Netlink) -> Carried {
        let redirect = redirect::made(netlink, NOWHERE, [Ok(()), Ok(())]).unwrap();
        Carried { card: card(1500, true), tap: NOWHERE, redirect, groups: None, lets_answers_in: false }
    }

    #[test]
    fn what_could_not_be_set_is_set_the_next_time() {
        let (mut netlink, slots) = (Netlink::open().unwrap(), Slow::default());
        let mut carried = carried(&mut netlink);
        let now = card(1500, false);
        let failures = carried.follow(&now, &mut netlink, &slots);
        assert!(matches!(&failures[..], [NetworkError::Cable { cause, .. }] if cause == "not yet"));
        assert!(carried.follow(&now, &mut netlink, &slots).is_empty());
        assert!(carried.follow(&now, &mut netlink, &slots).is_empty());
        assert_eq!(*slots.0.lock().unwrap(), [false, false]);
        // Its tap has gone: nobody takes the MTU.
        for _ in 0..3 {
            let failures = carried.follow(&card(1400, false), &mut netlink, &slots);
            assert!(matches!(&failures[..], [NetworkError::Tap { step: TAP_UP, .. }]), "{failures:?}");
        }
        assert!(carried.follow(&now, &mut netlink, &slots).is_empty());
    }

    #[test]
    fn interface_that_is_there_is_told_from_one_that_has_gone() {
        let mut netlink = Netlink::open().unwrap();
        assert!(has_gone(&mut netlink, NOWHERE) && !has_gone(&mut netlink, 1));
        let groups = carried(&mut netlink).take_groups();
        assert!(matches!(groups, Err(NetworkError::Groups { .. })), "{groups:?}");
    }
}
