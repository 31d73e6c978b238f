//! A guest that answers as the agent does: with frames of garbage, without an end, too long, or good ones that lie.
//!
//! A frame is its length, then that many bytes of JSON. The host hears nothing but what comes by the one connection that the guest opens,
//! and those that it opens itself, for the streams of the program.

use super::sockets::{Header, PORT, Sockets, op};
use crate::random::Random;

/// The port that the connection comes from.
const OWN: u32 = 7000;

const READY: &[u8] = br#"{"event":{"ready":{"version":8,"boot_ns":1000}}}"#;

/// What an agent may say, true or not.
const WORDS: [&[u8]; 12] = [
    READY,
    br#"{"event":{"ready":{"version":4294967295,"boot_ns":18446744073709551615}}}"#,
    br#"{"event":{"exited":{"process":{"container":"hostile","exec":"none"},"status":{"code":0}}}}"#,
    br#"{"event":{"exited":{"process":{"container":"../../x","exec":null},"status":{"signal":-1}}}}"#,
    br#"{"event":{"out_of_memory":{"container":"hostile","kills":18446744073709551615}}}"#,
    br#"{"event":{"notified":{"message":"READY=1\nMAINPID=1","process":{"container":"hostile","exec":null}}}}"#,
    br#"{"reply":{"seq":18446744073709551615,"reply":"ok"}}"#,
    br#"{"reply":{"seq":1,"reply":{"error":{"kind":"failed","stage":"exec","message":"\u001b[2Jgone"}}}}"#,
    br#"{"reply":{"seq":2,"reply":{"processes":[]}}}"#,
    br#"{"reply":{"seq":0,"reply":{"clock":{"realtime_ns":-9223372036854775808}}}}"#,
    br#"{"event":"#,
    b"\0\xff[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
];

pub(crate) fn attack(random: &mut Random, rounds: u64) {
    let Some(mut sockets) = Sockets::open() else {
        return crate::console::say("FAULT: no sockets");
    };
    // How far it gets depends on what the agent begins with.
    if random.once_in(4) {
        connect(&mut sockets);
    } else {
        begin(&mut sockets);
    }
    let polite = random.once_in(2);
    for _ in 0..rounds {
        answer(&mut sockets, random, polite);
        if !polite || random.once_in(16) {
            lie(&mut sockets, random);
        }
    }
}

fn connect(sockets: &mut Sockets) {
    let header = sockets.header(OWN, PORT, op::REQUEST);
    sockets.send(&header, &[]);
}

/// Begins as an agent does.
pub(super) fn begin(sockets: &mut Sockets) {
    connect(sockets);
    say(sockets, READY);
}

/// Sends bytes by the connection to the host.
fn stream(sockets: &mut Sockets, bytes: &[u8]) {
    let mut header = sockets.header(OWN, PORT, op::RW);
    header.length = bytes.len() as u32;
    sockets.send(&header, bytes);
}

fn say(sockets: &mut Sockets, message: &[u8]) {
    stream(sockets, &(message.len() as u32).to_le_bytes());
    stream(sockets, message);
}

fn lie(sockets: &mut Sockets, random: &mut Random) {
    let mut bytes = [0; 256];
    random.fill(&mut bytes);
    match random.below(32) {
        // A length that is not kept, or that is over the limit.
        0 => stream(sockets, &(random.odd() as u32).to_le_bytes()),
        1 => stream(sockets, &bytes),
        2 => say(sockets, &bytes),
        _ => say(sockets, random.one_of(&WORDS)),
    }
}

/// Takes what the host says, and says yes.
fn answer(sockets: &mut Sockets, random: &mut Random, polite: bool) {
    let mut bytes = [0; 512];
    let Some((header, count)) = sockets.receive(&mut bytes) else { return };
    match header.op {
        op::REQUEST => welcome(sockets, random, &header),
        op::RW if header.to_port == OWN && polite => do_as_told(sockets, &bytes[..count]),
        _ => {}
    }
}

/// The same, as good as gold: the host gets its streams, too.
pub(super) fn please(sockets: &mut Sockets) {
    let mut bytes = [0; 512];
    let Some((header, count)) = sockets.receive(&mut bytes) else { return };
    match header.op {
        op::REQUEST => {
            let accepted = sockets.header(header.to_port, header.from_port, op::RESPONSE);
            sockets.send(&accepted, &[]);
        }
        op::RW if header.to_port == OWN => do_as_told(sockets, &bytes[..count]),
        _ => {}
    }
}

/// Says of a request that it is done.
fn do_as_told(sockets: &mut Sockets, request: &[u8]) {
    let Some(number) = number_of(request) else { return };
    let mut reply = [0; 64];
    let length = agree(&mut reply, number);
    say(sockets, &reply[..length]);
    let credit = sockets.header(OWN, PORT, op::CREDIT_UPDATE);
    sockets.send(&credit, &[]);
}

/// The host asks for a stream of the program's: it gets one, with all that there is to say, or none.
fn welcome(sockets: &mut Sockets, random: &mut Random, asked: &Header) {
    let kind = random.one_of(&[op::RESPONSE, op::RESPONSE, op::RST, op::RW]);
    let mut header = sockets.header(asked.to_port, asked.from_port, kind);
    sockets.send(&header, &[]);
    header.op = op::RW;
    let mut bytes = [0; 512];
    random.fill(&mut bytes);
    header.length = bytes.len() as u32;
    for _ in 0..random.below(64) {
        sockets.send(&header, &bytes);
    }
}

/// The number of a request, by which it wants to be answered.
fn number_of(bytes: &[u8]) -> Option<u64> {
    const KEY: &[u8] = br#""seq":"#;
    let at = bytes.windows(KEY.len()).position(|window| window == KEY)?;
    let digits = bytes[at + KEY.len()..].iter().take_while(|byte| byte.is_ascii_digit());
    Some(digits.fold(0u64, |number, digit| number.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'))))
}

/// Writes the reply that all is done: how long it is.
fn agree(into: &mut [u8; 64], number: u64) -> usize {
    let mut digits = [0; 20];
    let mut left = number;
    let mut first = digits.len();
    loop {
        first -= 1;
        digits[first] = b'0' + (left % 10) as u8;
        left /= 10;
        if left == 0 {
            break;
        }
    }
    let mut length = 0;
    for part in [&br#"{"reply":{"seq":"#[..], &digits[first..], br#","reply":"ok"}}"#] {
        into[length..length + part.len()].copy_from_slice(part);
        length += part.len();
    }
    length
}
