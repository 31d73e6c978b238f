//! Guests that go on from one template: each is another one.

use std::collections::BTreeSet;
use std::io::{PipeWriter, Write};
use std::path::Path;

use nix::time::{ClockId, clock_gettime};
use serde_json::json;

use crate::support::{Bundle, Run, Scratch, Started};

/// How many, the one that the template is made of among them.
fn clones() -> usize {
    std::env::var("VMRUN_E2E_CLONES").map_or(12, |number| number.parse().unwrap())
}

/// Prints what a guest has by chance, its name, and by which key it numbers connections; then answers with times.
///
/// The first number of a connection is a keyed hash of its two ends plus 1/64 of the time in ns (`secure_tcp_seq` in
/// net/core/secure_seq.c); its socket tells it when it is in repair mode. The connections have the same ends in every guest.
const PROGRAM: &str = "import ctypes, fcntl, os, socket, struct, time
libc = ctypes.CDLL(None)
libc.getauxval.restype = ctypes.c_ulong
AT_RANDOM = 25
print(ctypes.string_at(libc.getauxval(AT_RANDOM), 16).hex())
print(os.getrandom(32).hex())
print(open('/dev/urandom', 'rb').read(32).hex())
print(open('/proc/sys/kernel/random/boot_id').read().strip())
print(open('/proc/sys/kernel/random/uuid').read().strip())
print(next(line for line in open('/proc/self/maps') if 'libc.so' in line).split('-')[0])
print(os.uname().nodename)
SIOCSIFFLAGS, IFF_UP = 0x8914, 1
fcntl.ioctl(socket.socket(), SIOCSIFFLAGS, struct.pack('16sh14x', b'lo', IFF_UP))
TCP_REPAIR, TCP_REPAIR_QUEUE, TCP_QUEUE_SEQ, SEND_QUEUE = 19, 20, 21, 2
for port in 1001, 1002, 1003:
    server = socket.create_server(('127.0.0.1', port))
    client = socket.socket()
    client.bind(('127.0.0.1', port + 1000))
    before = time.time_ns()
    client.connect(('127.0.0.1', port))
    after = time.time_ns()
    client.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
    client.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR_QUEUE, SEND_QUEUE)
    number = client.getsockopt(socket.IPPROTO_TCP, TCP_QUEUE_SEQ) - 1
    print((number - (before >> 6)) % 2**32, (after >> 6) - (before >> 6) + 1, flush=True)
for clock in time.CLOCK_REALTIME, time.CLOCK_MONOTONIC, time.CLOCK_MONOTONIC:
    input()
    print(time.clock_gettime_ns(clock), flush=True)";

/// Of those lines: what is random, and the numbers of connections behind the name.
const RANDOM: usize = 5;
const ADDRESS: usize = 5;
const NAME: usize = 6;
const CONNECTIONS: std::ops::Range<usize> = 7..10;

#[test]
fn guests_from_one_template_have_nothing_random_in_common() {
    let scratch = Scratch::new();
    let templates = scratch.join("templates");
    let mut bundle = Bundle::python(PROGRAM).capabilities(&["CAP_NET_ADMIN", "CAP_NET_BIND_SERVICE"]);
    let mut seen = Seen::default();
    for number in 0..clones() {
        let name = format!("guest-{number}");
        bundle = bundle.set("/hostname", json!(name));
        let text = ask_for_times(&bundle, &templates);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[NAME], name);
        seen.add(&lines);
    }
}

/// Runs one, holds its times against the host's, and gives all that it has printed.
fn ask_for_times(bundle: &Bundle, templates: &Path) -> String {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let run = Run::of(bundle).option("--templates").option(templates);
    let started = run.stdin(reader).start();
    let mut end = 0;
    for _ in 0..CONNECTIONS.end {
        end = started.stdout.await_text(end, "\n");
    }
    let wall = Answer::of(&started, &mut writer, &mut end);
    let possible = wall.asked - TOLERANCE_NS..=wall.answered + TOLERANCE_NS;
    assert!(possible.contains(&wall.time), "{} {possible:?}", wall.time);
    let [one, other] = [(); 2].map(|()| Answer::of(&started, &mut writer, &mut end));
    let passed = other.time - one.time;
    let possible = other.asked - one.answered - TOLERANCE_NS..=other.answered - one.asked + TOLERANCE_NS;
    assert!(possible.contains(&passed), "{passed} {possible:?}");
    started.finish().ok()
}

const TOLERANCE_NS: i64 = 10_000_000;

/// A time that a guest has told, and between which times of the host's.
struct Answer {
    asked: i64,
    time: i64,
    answered: i64,
}

impl Answer {
    fn of(started: &Started, questions: &mut PipeWriter, end: &mut usize) -> Self {
        let asked = now();
        questions.write_all(b"\n").unwrap();
        let begin = *end;
        *end = started.stdout.await_text(begin, "\n");
        let answered = now();
        let text = String::from_utf8(started.stdout.so_far()[begin..*end].to_vec()).unwrap();
        Self { asked, time: text.trim().parse().unwrap(), answered }
    }
}

fn now() -> i64 {
    let now = clock_gettime(ClockId::CLOCK_REALTIME).unwrap();
    now.tv_sec() * 1_000_000_000 + now.tv_nsec()
}

/// What guests have printed so far.
#[derive(Default)]
struct Seen {
    parts: BTreeSet<Vec<u8>>,
    addresses: BTreeSet<String>,
    connections: Vec<Vec<Numbered>>,
}

/// The key's part of a connection's first number, at most so much too large.
#[derive(Clone, Copy)]
struct Numbered {
    number: u32,
    spread: u32,
}

impl Seen {
    /// One more guest's lines, which have nothing of these.
    fn add(&mut self, lines: &[&str]) {
        for line in &lines[..RANDOM] {
            // Nor a part of it.
            let bytes: Vec<_> = line.bytes().filter(|byte| *byte != b'-').collect();
            for part in bytes.windows(12) {
                assert!(self.parts.insert(part.to_vec()), "a part of {line} comes twice");
            }
        }
        assert!(self.addresses.insert(lines[ADDRESS].to_owned()), "a program at {} again", lines[ADDRESS]);
        let numbers: Vec<_> = lines[CONNECTIONS].iter().map(|line| Numbered::of(line)).collect();
        for others in &self.connections {
            // One may be near another's by chance.
            let alike = numbers.iter().zip(others).all(|(one, other)| one.is_near(*other));
            assert!(!alike, "connections are numbered by the same key: {:?}", &lines[CONNECTIONS]);
        }
        self.connections.push(numbers);
    }
}

impl Numbered {
    fn of(line: &str) -> Self {
        let (number, spread) = line.split_once(' ').unwrap();
        Self { number: number.parse().unwrap(), spread: spread.parse().unwrap() }
    }

    fn is_near(self, other: Self) -> bool {
        let apart = self.number.wrapping_sub(other.number);
        apart.min(apart.wrapping_neg()) <= self.spread.max(other.spread)
    }
}
