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
    groups: Option<OwnedFd>,
    /// Name servers of the namespace hear what they ask others through it.
    pub(super) lets_answers_in: bool,
}

impl Carried {
    /// The interface may have become another in some respects.
    pub(super) fn follow(&mut self, card: &Card, netlink: &mut Netlink, slots: &dyn Slots) {
        if card.mtu != self.card.mtu
            && let Err(error) = netlink.change(tap_up(self.tap, card.mtu), 0)
        {
            crate::log::warn(&format!("cannot give the tap of {} the MTU {}: {error}", card.name, card.mtu));
        }
        if card.carrier != self.card.carrier
            && let Err(cause) = slots.set_link(card.slot, card.carrier)
        {
            crate::log::warn(&format!("cannot tell the guest of the link of {}: {cause}", card.name));
        }
        if card.name != self.card.name {
            slots.rename(card.slot, &card.name);
        }
        self.card = card.clone();
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
            self.groups = groups(&self.card);
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

/// Makes a tap for each of the interfaces, joins both, and plugs the cards in; what failed goes with
/// the interface's name.
pub(super) fn carry(
    netlink: &mut Netlink,
    slots: &dyn Slots,
    cards: Vec<Card>,
) -> Vec<Result<Carried, (String, NetworkError)>> {
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
                let interface = card.name.clone();
                results.push(Err((card.name, NetworkError::Tap { interface, step, source })));
            }
        }
    }
    let mut said = match netlink.change_all(steps) {
        Ok(said) => said.into_iter(),
        Err(error) => {
            results
                .extend(with_taps.into_iter().map(|(card, tap)| Err(given_up(netlink, card, &tap, &error))));
            return results;
        }
    };
    for (card, tap) in with_taps {
        // What was not said was not done.
        let said = [(); STEPS].map(|()| said.next().unwrap_or(Err(io::ErrorKind::BrokenPipe.into())));
        let name = card.name.clone();
        results.push(
            joined(netlink, &card, &tap, said)
                .and_then(|redirect| plug(netlink, slots, card, tap, redirect))
                .map_err(|error| (name, error)),
        );
    }
    results
}

/// It is not known which of the steps were done: none shall be.
fn given_up(netlink: &mut Netlink, card: Card, tap: &Tap, error: &io::Error) -> (String, NetworkError) {
    redirect::undo(netlink, card.index, tap.index);
    let source = error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error);
    let interface = card.name.clone();
    (card.name, NetworkError::Join { interface, step: "netlink", source })
}

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
        .map_err(|source| NetworkError::Tap { interface: interface(), step: "its MTU, and up", source })
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
    let groups = groups(&card);
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
    Ok(Carried { card, tap: tap.index, redirect, groups, lets_answers_in: false })
}

/// Without it the guest hears of fewer groups, as on a network that filters them.
fn groups(card: &Card) -> Option<OwnedFd> {
    let taken = tap::take_multicast(card.index);
    let warn = |error: &io::Error| {
        crate::log::warn(&format!(
            "{} does not take the frames of all multicast groups: {error}; that takes CAP_NET_RAW in the user namespace that owns the network namespace",
            card.name
        ));
    };
    taken.inspect_err(warn).ok()
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
