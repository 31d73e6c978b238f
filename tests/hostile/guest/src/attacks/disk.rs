//! Requests to a disk (virtio 1.2, §5.2.6): sectors behind its end, ranges that overflow, headers cut short.

use crate::machine;
use crate::random::Random;
use crate::ring::{BUFFERS, Part};
use crate::virtio::{Device, id};

const HEADER_BYTES: u32 = 16;
const DATA: u64 = BUFFERS + 0x1000;
const STATUS: u64 = BUFFERS + 0x800;

/// No status that there is; zero is that all went well.
const UNKNOWN: u64 = 0xee;

/// Read, write, flush, name, discard, zeros; and some that there are not.
const KINDS: [u64; 9] = [0, 1, 4, 8, 11, 13, 2, 9, 0xffff_ffff];

/// Chains that have room in the ring.
const MOST_UNDER_WAY: u16 = 16;

/// A request lacks its header or its status: one in so many of 32 each.
const RUDE: u64 = 32;

pub(crate) fn attack(random: &mut Random, rounds: u64) {
    let Some(device) = Device::find(id::BLOCK) else {
        return crate::console::say("FAULT: no disk");
    };
    let [mut ring] = device.start(false);
    let mut done = 0;
    for _ in 0..rounds {
        let kind = random.one_of(&KINDS);
        machine::write(BUFFERS, 3, kind);
        machine::write(STATUS, 0, UNKNOWN);
        let sector = if random.once_in(2) { random.below(0x5000) } else { random.odd() };
        machine::write(BUFFERS + 8, 3, sector);
        // A range: sector, count, flags.
        machine::write(DATA, 3, random.odd());
        machine::write(DATA + 8, 3, random.odd());
        let header = Part { address: BUFFERS, bytes: HEADER_BYTES, written: false };
        let data = Part {
            address: DATA,
            bytes: if random.once_in(2) { 512 } else { random.below(0x2000) as u32 },
            written: if random.once_in(8) { random.once_in(2) } else { kind == 0 || kind == 8 },
        };
        let status = Part { address: STATUS, bytes: 1, written: true };
        match random.below(64) {
            // Which end the machine.
            0 if random.once_in(RUDE) => drop(ring.call(&[header, data])),
            1 if random.once_in(RUDE) => drop(ring.call(&[data, status])),
            2..8 => drop(ring.call(&[header, status])),
            8..16 => drop(ring.call(&[header, data, data, data, data, status])),
            // Not waited for: many at a time.
            16..32 if ring.under_way() < MOST_UNDER_WAY => {
                ring.put(&[header, data, status]);
                ring.kick();
            }
            _ => drop(ring.call(&[header, data, status])),
        }
        done += u64::from(machine::read(STATUS, 0) == 0);
    }
    crate::console::number("reached", done);
}
