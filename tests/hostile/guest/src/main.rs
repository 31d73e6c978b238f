//! A kernel that attacks the machine it runs on.
//!
//! ```text
//!   boot image: "CASE SEED ROUNDS"  ─▶  attack, the same for the same words  ─▶  "hostile: done"  ─▶  halt for ever
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
    let mut image = [0; 64];
    let length = machine::boot_image(boot_params, &mut image);
    let text = core::str::from_utf8(&image[..length]).unwrap_or_default();
    match Order::read(text) {
        Some(order) => attack(&order),
        None => console::say("no order: the boot image is not CASE SEED ROUNDS"),
    }
    machine::halt()
}

fn attack(order: &Order<'_>) {
    let Some(round) = attacks::by_name(order.case) else {
        return console::say("no such case");
    };
    if !virtio::Device::await_last() {
        return console::say("FAULT: not all devices came");
    }
    console::say("begins");
    round(&mut Random::new(order.seed), order.rounds);
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
