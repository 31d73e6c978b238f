//! System calls that a program with a hole makes for its guest, by the thread that the guest chooses (`vmm/devices/src/planted.rs`).
//!
//! The script behind the order has a call a line: `DOOR NUMBER ARGUMENT...`, where an argument is
//!
//! ```text
//!   -100        a number           "/etc/shadow"  the address of a text
//!   $           the answer before  @0a00          the address of these bytes, with room behind them
//! ```
//!
//! What a call answers is told with the number of its line; of the last call that is told of none the process has died.

use crate::console;
use crate::machine;
use crate::ring::{BUFFERS, Part, Ring};
use crate::virtio::{Device, id};

/// The port by which a vCPU's thread makes a call.
const PORT: u16 = 0x5e0;
const MAGIC: u64 = u64::from_le_bytes(*b"A HOLE!\n");
/// Where a call is written, and the words of it.
const CALL: u64 = BUFFERS;
const CALL_BYTES: u32 = 96;
const MAGIC_AT: u64 = CALL + 16;
const NUMBER_AT: u64 = CALL + 24;
const ADDRESSES_AT: u64 = CALL + 80;
const ANSWER_AT: u64 = CALL + 88;
/// What its arguments point to, a page each.
const POINTED_AT: u64 = BUFFERS + 0x1_0000;
const PAGE: u64 = 0x1000;
/// Room for what a device answers.
const REPLY: Part = Part { address: BUFFERS + 0x2_0000, bytes: 0x100, written: true };
/// What no call answers.
const UNANSWERED: u64 = 1 << 62;

/// The threads that make calls, by the devices whose queues they serve; the first has none.
const DOORS: [(&str, u64, usize); 5] = [
    ("vcpu", 0, 0),
    ("events", id::RNG, 0),
    ("files", id::FS, 1),
    ("disk", id::BLOCK, 0),
    ("card", id::NET, 1),
];

/// Makes the calls of the script, which lies in the memory from `place` on.
pub(crate) fn obey(place: u64, bytes: u64) {
    let mut opened = None;
    let (mut line, mut length, mut answer) = ([0; 512], 0, 0);
    let mut count = 0;
    for at in place..place + bytes {
        let byte = machine::read(at, 0) as u8;
        if byte != b'\n' {
            line[length % 512] = byte;
            length += 1;
            continue;
        }
        let text = core::str::from_utf8(&line[..length.min(512)]).unwrap_or_default();
        match call(&mut opened, text, answer) {
            Some(answered) => answer = answered,
            None => return console::number("FAULT: no call, in line", count),
        }
        console::number("call", count);
        console::number("answer", answer);
        (length, count) = (0, count + 1);
    }
}

/// A door, and the queues of its device.
struct Opened {
    door: usize,
    rings: Option<[Ring; 2]>,
}

impl Opened {
    /// The queues of all devices lie at the same place, so that there is one device at a time.
    fn new(door: usize) -> Self {
        let device = Some(DOORS[door].1).filter(|id| *id != 0).and_then(Device::find);
        Self { door, rings: device.map(|device| device.start(false)) }
    }

    /// Has the call made that is written.
    fn make(&mut self) -> Option<()> {
        let (_, device, queue) = DOORS[self.door];
        if device == 0 {
            machine::port_write(PORT, 2, CALL as u32);
            return Some(());
        }
        let asked = Part { address: CALL, bytes: CALL_BYTES, written: false };
        self.rings.as_mut()?[queue].call(&[asked, REPLY]).map(|_| ())
    }
}

/// One call, and what it answered; nothing where the line says none, or nobody answers.
fn call(opened: &mut Option<Opened>, line: &str, before: u64) -> Option<u64> {
    let mut words = line.split_ascii_whitespace();
    let door = words.next()?;
    let door = DOORS.iter().position(|(name, ..)| *name == door)?;
    let opened = match opened {
        Some(opened) if opened.door == door => opened,
        other => other.insert(Opened::new(door)),
    };
    for at in (CALL..CALL + u64::from(CALL_BYTES)).step_by(8) {
        machine::write(at, 3, 0);
    }
    let mut addresses = 0;
    for (index, word) in (0..).zip(words) {
        let (value, is_address) = argument(word, POINTED_AT + index * PAGE, before)?;
        machine::write(NUMBER_AT + index * 8, 3, value);
        // The number is none of the arguments.
        addresses |= u64::from(is_address) << index >> 1;
    }
    machine::write(MAGIC_AT, 3, MAGIC);
    machine::write(ADDRESSES_AT, 3, addresses);
    machine::write(ANSWER_AT, 3, UNANSWERED);
    opened.make()?;
    Some(machine::read(ANSWER_AT, 3)).filter(|answer| *answer != UNANSWERED)
}

/// An argument, and whether it is an address; what it points to is written to `room`.
fn argument(word: &str, room: u64, before: u64) -> Option<(u64, bool)> {
    if word == "$" {
        return Some((before, false));
    }
    if let Some(text) = word.strip_prefix('"') {
        machine::copy_in(room, text.strip_suffix('"')?.as_bytes());
        machine::write(room + text.len() as u64 - 1, 0, 0);
        return Some((room, true));
    }
    if let Some(digits) = word.strip_prefix('@') {
        for (at, index) in (room..).zip((0..digits.len()).step_by(2)) {
            let byte = u64::from_str_radix(digits.get(index..index + 2)?, 16).ok()?;
            machine::write(at, 0, byte);
        }
        return Some((room, true));
    }
    Some((word.parse::<i64>().ok()? as u64, false))
}
