//! What is attacked, by the names that the test calls it.

mod addresses;
mod agent;
mod balloon;
mod chains;
mod console;
mod disk;
mod frames;
mod packets;
pub(crate) mod planted;
mod ports;
mod queues;
mod registers;
mod requests;
mod sockets;

use crate::random::Random;

/// So many rounds of an attack.
pub(crate) type Attack = fn(&mut Random, u64);

const ATTACKS: [(&str, Attack); 12] = [
    ("registers", registers::attack),
    ("queues", queues::attack),
    ("chains", chains::attack),
    ("requests", requests::attack),
    ("packets", packets::attack),
    ("agent", agent::attack),
    ("balloon", balloon::attack),
    ("disk", disk::attack),
    ("frames", frames::attack),
    ("ports", ports::attack),
    ("addresses", addresses::attack),
    ("console", console::attack),
];

/// The attack of this name.
pub(crate) fn by_name(name: &str) -> Option<Attack> {
    ATTACKS.iter().find(|(known, _)| *known == name).map(|(_, attack)| *attack)
}
