//! A kernel that attacks the machine it runs on.
//!
//! ```text
//!   boot image: "CASE SEED ROUNDS\n"  ─▶  attack, the same for the same words  ─▶  "hostile: done"  ─▶  halt for ever
//! ```
//!
//! It is a guest that somebody has taken over whole: no driver stands between it and the devices. What it does is random, from a seed, so
//! that whatever it finds comes again. Behind its last round it stands still, and so must the host.

#![no_std]
#![no_main]

mod attacks;
mod console;
mod machine;
mod random;
mod ring;
mod virtio;

use core::panic::PanicInfo;

use random::Random;

/// The case that does what its script says.
const PLANTED: &str = "planted";

/// The attack that the boot image asks for.
struct Order<'o> {
    case: &'o str,
    seed: u64,
    rounds: u64,
}

impl<'o> Order<'o> {
    fn read(text: &'o str) -> Option<Self> {
        let mut words = text.split_ascii_whitespace();
        let number = |word: Option<&str>| word?.parse().ok();
        let case = words.next()?;
        Some(Self { case, seed: number(words.next())?, rounds: number(words.next())? })
    }
}

/// What the entry calls when the processor is as Rust wants it.
fn main(boot_params: u64) -> ! {
    let (image, bytes) = machine::boot_image(boot_params);
    let mut text = [0; 64];
    machine::copy_out(image, &mut text[..bytes.min(64) as usize]);
    let length = text.iter().position(|byte| *byte == b'\n').unwrap_or(0);
    match Order::read(core::str::from_utf8(&text[..length]).unwrap_or_default()) {
        Some(order) => {
            let read = length as u64 + 1;
            attack(&order, image + read, bytes - read);
        }
        None => console::say("no order: the boot image does not begin with CASE SEED ROUNDS"),
    }
    machine::halt()
}

/// Does as ordered; a script is what the boot image has behind the order.
fn attack(order: &Order<'_>, script: u64, bytes: u64) {
    let round = attacks::by_name(order.case);
    if round.is_none() && order.case != PLANTED {
        return console::say("no such case");
    }
    if !virtio::Device::await_last() {
        return console::say("FAULT: not all devices came");
    }
    console::say("begins");
    match round {
        Some(round) => round(&mut Random::new(order.seed), order.rounds),
        None => attacks::planted::obey(script, bytes),
    }
    console::say("done");
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    // A fault of this program, which the test must not take for the host's.
    console::say("FAULT of its own");
    if let Some(place) = info.location() {
        console::number(place.file(), place.line().into());
    }
    machine::halt()
}
