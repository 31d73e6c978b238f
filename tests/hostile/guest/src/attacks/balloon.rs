//! The balloon (virtio 1.2, §5.5): pages that are no memory, that overlap, that are in use.
//!
//! It comes when a program has run for a while, so that this begins as an agent that says yes to everything.

use super::agent;
use super::sockets::Sockets;
use crate::console;
use crate::machine;
use crate::random::Random;
use crate::ring::{BUFFERS, Part, Ring};
use crate::virtio::{Device, id};

/// So often the host is answered until there must be a balloon, and so often afterwards, for what it says of it.
const PATIENCE: u32 = 2000;
const LAST_WORDS: u32 = 4;

/// Its rings lie behind those of the sockets, which the host goes on with.
const FIRST_RING: u64 = 8;

/// Where pages are reported of, so many.
const PAGES: u64 = 0x180_0000;
const COUNT: u64 = 0x400;
const PAGE: u64 = 0x1000;
/// What they have in them before.
const MARK: u64 = 0x6d61_726b_6d61_726b;

/// What is no memory ends the machine: one in so many of 64 each.
const RUDE: u64 = 64;

pub(crate) fn attack(random: &mut Random, rounds: u64) {
    let Some(device) = await_balloon() else {
        return console::say("FAULT: no balloon");
    };
    let [mut inflate, mut deflate, mut report] = device.start_from(FIRST_RING);
    let mut given_back = 0;
    for _ in 0..rounds {
        match random.below(64) {
            0 if random.once_in(RUDE) => drop(report.call(&[anywhere(random), anywhere(random)])),
            1..8 => fill(&mut inflate, random),
            8..16 => fill(&mut deflate, random),
            // Not for the device to write, and so nothing that it has.
            16..20 => drop(report.call(&[Part { written: false, ..page(random) }])),
            20..28 => drop(report.call(&[page(random), Part { bytes: 0, ..page(random) }, page(random)])),
            _ => given_back += u64::from(returns(&mut report, random)),
        }
    }
    console::number("reached", given_back);
}

/// Plays the agent until the host has plugged it in, and told.
fn await_balloon() -> Option<Device> {
    let mut sockets = Sockets::open()?;
    agent::begin(&mut sockets);
    let is_there = |_: &u32| {
        agent::please(&mut sockets);
        Device::find(id::BALLOON).is_some_and(Device::listens)
    };
    (0..PATIENCE).find(is_there)?;
    (0..LAST_WORDS).for_each(|_| agent::please(&mut sockets));
    Device::find(id::BALLOON)
}

/// Numbers of pages, as the balloon's own queues have them.
fn fill(ring: &mut Ring, random: &mut Random) {
    for at in 0..16 {
        machine::write(BUFFERS + at * 4, 2, random.odd());
    }
    ring.call(&[Part { address: BUFFERS, bytes: random.below(80) as u32, written: random.once_in(8) }]);
}

/// A few of the pages, or parts of them.
fn page(random: &mut Random) -> Part {
    let address = PAGES + random.below(COUNT) * PAGE + if random.once_in(4) { random.below(PAGE) } else { 0 };
    Part { address, bytes: random.below(4 * PAGE) as u32, written: true }
}

fn anywhere(random: &mut Random) -> Part {
    Part { address: random.odd(), bytes: random.odd() as u32, written: true }
}

/// Whether a page that is reported is given back: it is empty then, as one that nobody had before. What else it has in it is
/// somebody else's.
fn returns(report: &mut Ring, random: &mut Random) -> bool {
    let address = PAGES + random.below(COUNT) * PAGE;
    let words = || (address..address + PAGE).step_by(8);
    words().for_each(|at| machine::write(at, 3, MARK));
    if report.call(&[Part { address, bytes: PAGE as u32, written: true }]).is_none() {
        return false;
    }
    if words().any(|at| !matches!(machine::read(at, 3), 0 | MARK)) {
        console::number("LEAK: a page that was given back has come with content, at", address);
    }
    words().all(|at| machine::read(at, 3) == 0)
}
