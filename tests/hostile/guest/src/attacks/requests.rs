//! Requests to the file server: nodes and handles that nobody gave, names that lead elsewhere, lengths that lie.
//!
//! Next to the container's root file system lies a file of the host's with [`SECRET`] in it, and a link in the root file system leads
//! there. Where a reply shows it, the wall has a hole.

use crate::console;
use crate::machine;
use crate::random::Random;
use crate::ring::{BUFFERS, Part, Ring};
use crate::virtio::{Device, id};

const REPLY: u64 = BUFFERS + 0x2_0000;
const REPLY_BYTES: u32 = 0x2000;
const HEADER_BYTES: usize = 40;

/// A request of which not even the header is there ends the machine: one in so many of 256 each.
const RUDE: u64 = 256;

/// What the test has written where no guest should read it.
const SECRET: &[u8] = b"SECRET-OF-THE-HOST";

/// Kinds of requests (`enum fuse_opcode`) by number, how many bytes follow the header, and how many names.
const KINDS: [(u32, usize, usize); 40] = [
    (1, 0, 1),   // lookup
    (2, 8, 0),   // forget
    (3, 16, 0),  // getattr
    (4, 88, 0),  // setattr
    (5, 0, 0),   // readlink
    (6, 0, 2),   // symlink
    (8, 16, 1),  // mknod
    (9, 8, 1),   // mkdir
    (10, 0, 1),  // unlink
    (11, 0, 1),  // rmdir
    (12, 8, 2),  // rename
    (13, 8, 1),  // link
    (14, 8, 0),  // open
    (15, 40, 0), // read
    (16, 40, 1), // write
    (17, 0, 0),  // statfs
    (18, 24, 0), // release
    (20, 16, 0), // fsync
    (21, 8, 2),  // setxattr
    (22, 8, 1),  // getxattr
    (23, 8, 0),  // listxattr
    (24, 0, 1),  // removexattr
    (25, 24, 0), // flush
    (27, 8, 0),  // opendir
    (28, 40, 0), // readdir
    (29, 24, 0), // releasedir
    (31, 48, 0), // getlk
    (32, 48, 0), // setlk
    (33, 48, 0), // setlkw
    (34, 8, 0),  // access
    (35, 16, 1), // create
    (36, 8, 0),  // interrupt
    (39, 32, 0), // ioctl
    (42, 8, 0),  // batch_forget
    (44, 40, 0), // readdirplus
    (45, 16, 2), // rename2
    (46, 24, 0), // lseek
    (50, 0, 0),  // syncfs
    (51, 16, 1), // tmpfile
    (52, 16, 0), // statx
];

const NAMES: [&[u8]; 20] = [
    b"..",
    b".",
    b"",
    b"/",
    b"a/b",
    b"../../outside",
    b"/etc/shadow",
    b"escape",
    b"escape/secret",
    b"bin",
    b"etc",
    b"rootfs",
    b"volumes",
    b"new",
    b"newer",
    b"user.x",
    b"trusted.overlay.opaque",
    b"security.capability",
    b"\xff\xfe\x01",
    &[b'n'; 300],
];

/// After so many rounds a good driver's words come again.
const STRETCH: u64 = 200;

/// Requests that are made on purpose.
const LOOKUP: u32 = 1;
const MKDIR: u32 = 9;
const RMDIR: u32 = 11;
const OPEN: u32 = 14;
const READ: u32 = 15;
const OPENDIR: u32 = 27;

/// The root of what is shared.
const ROOT: u64 = 1;

/// The files that the guest knows: nodes, the first of which stay, and handles.
struct Known {
    nodes: [u64; 16],
    handles: [u64; 16],
}

impl Known {
    fn node(&self, random: &mut Random) -> u64 {
        if random.once_in(8) { random.odd() } else { random.one_of(&self.nodes) }
    }

    fn handle(&self, random: &mut Random) -> u64 {
        if random.once_in(4) { random.odd() } else { random.one_of(&self.handles) }
    }
}

pub(crate) fn attack(random: &mut Random, rounds: u64) {
    let Some(device) = Device::find(id::FS) else {
        return console::say("FAULT: no file system");
    };
    let [mut urgent, mut ring]: [Ring; 2] = device.start(false);
    let mut known = Known { nodes: begin(&mut ring), handles: [0; 16] };
    let mut granted = 0;
    for round in 0..rounds {
        // The server forgets what it is told to forget.
        if round % STRETCH == STRETCH - 1 {
            known.nodes = begin(&mut ring);
        }
        let (kind, length, names) = random.one_of(&KINDS);
        // Few things are done twice in a row by chance: to look for a file, and to open it.
        let (kind, length, names) = match round % 4 {
            0 => (1, 0, 1),
            1 => random.one_of(&[(14, 8, 0), (27, 8, 0), (15, 40, 0), (44, 40, 0)]),
            _ => (kind, length, names),
        };
        let mut request = Request { bytes: [0; 1024], length: HEADER_BYTES };
        request.body(random, &known, kind, length, names);
        let total = request.header(random, &known, kind);
        machine::copy_in(BUFFERS, &request.bytes[..request.length]);
        let target = if random.once_in(32) { &mut urgent } else { &mut ring };
        let Some(written) = send(target, random, total) else { continue };
        granted += u64::from(learn(kind, &mut known, round, written));
    }
    console::number("reached", granted);
}

struct Request {
    bytes: [u8; 1024],
    length: usize,
}

impl Request {
    fn push(&mut self, bytes: &[u8]) {
        let room = &mut self.bytes[self.length..];
        let count = bytes.len().min(room.len());
        room[..count].copy_from_slice(&bytes[..count]);
        self.length += count;
    }

    fn body(&mut self, random: &mut Random, known: &Known, kind: u32, length: usize, names: usize) {
        for word in 0..length / 8 {
            let value = match (word, kind) {
                (0, 13) => known.node(random),
                (0, _) => known.handle(random),
                // A file is mostly read from its beginning, and as far as there is room.
                (1, 15) if !random.once_in(4) => 0,
                (2, 15) if !random.once_in(4) => 4096,
                // An offset, and a length: what a container may fill is no concern of this test's.
                _ => random.odd() & 0xf_ffff,
            };
            self.push(&value.to_le_bytes());
        }
        for _ in 0..names {
            self.push(random.one_of(&NAMES));
            if !random.once_in(16) {
                self.push(&[0]);
            }
        }
    }

    /// The header, once the rest is known: the length of all, true or not.
    fn header(&mut self, random: &mut Random, known: &Known, kind: u32) -> u32 {
        let total = self.length as u32;
        let length = if random.once_in(16) { random.odd() as u32 } else { total };
        let kind = if random.once_in(32) { random.odd() as u32 } else { kind };
        let owner = if random.once_in(4) { random.odd() as u32 } else { 0 };
        self.bytes[..4].copy_from_slice(&length.to_le_bytes());
        self.bytes[4..8].copy_from_slice(&kind.to_le_bytes());
        self.bytes[8..16].copy_from_slice(&random.next().to_le_bytes());
        self.bytes[16..24].copy_from_slice(&known.node(random).to_le_bytes());
        self.bytes[24..28].copy_from_slice(&owner.to_le_bytes());
        self.bytes[28..32].copy_from_slice(&owner.to_le_bytes());
        total
    }
}

/// Does as a good driver does: `FUSE_INIT` of FUSE 7.31, without any feature, and a look for the container's root directory. Then reads
/// what it may, and tries what lies behind the link: there, a directory that comes and goes leaves its time behind.
fn begin(ring: &mut Ring) -> [u64; 16] {
    let words = [7u32, 31, 4096, 0].map(u32::to_le_bytes);
    ask(ring, 26, 0, words.as_flattened());
    let root = ask(ring, LOOKUP, ROOT, b"rootfs\0");
    read_file(ring, root, b"new\0");
    let link = read_file(ring, root, b"escape\0");
    read_file(ring, link, b"secret\0");
    read_file(ring, root, b"escape/secret\0");
    ask(ring, MKDIR, root, b"\xff\x01\0\0\0\0\0\0escape/made\0");
    ask(ring, RMDIR, root, b"escape/made\0");
    let mut nodes = [ROOT; 16];
    nodes[4..].fill(root);
    nodes
}

/// Looks for a file, opens and reads it: its node.
fn read_file(ring: &mut Ring, directory: u64, name: &[u8]) -> u64 {
    let node = ask(ring, LOOKUP, directory, name);
    let mut read = [0; 40];
    let handle = ask(ring, OPEN, node, &[0; 8]);
    read[..8].copy_from_slice(&handle.to_le_bytes());
    read[16..20].copy_from_slice(&4096u32.to_le_bytes());
    ask(ring, READ, node, &read);
    node
}

/// A request as it should be: the first word of what it gives.
fn ask(ring: &mut Ring, kind: u32, node: u64, body: &[u8]) -> u64 {
    let bytes = (HEADER_BYTES + body.len()) as u32;
    machine::copy_in(BUFFERS, &[0; HEADER_BYTES]);
    machine::write(BUFFERS, 2, bytes.into());
    machine::write(BUFFERS + 4, 2, kind.into());
    machine::write(BUFFERS + 8, 3, 1);
    machine::write(BUFFERS + 16, 3, node);
    machine::copy_in(BUFFERS + HEADER_BYTES as u64, body);
    let request = Part { address: BUFFERS, bytes, written: false };
    let written = ring.call(&[request, Part { address: REPLY, bytes: REPLY_BYTES, written: true }]);
    look_for_secret(kind, written.unwrap_or(0));
    machine::read(REPLY + 16, 3)
}

/// Tells of a reply that shows what it must not.
fn look_for_secret(kind: u32, written: u32) {
    let mut reply = [0; REPLY_BYTES as usize];
    let reply = &mut reply[..written.min(REPLY_BYTES) as usize];
    machine::copy_out(REPLY, reply);
    if reply.windows(SECRET.len()).any(|bytes| bytes == SECRET) {
        console::number("LEAK: a file of the host's, by request", kind.into());
    }
}

/// In one piece or in several; with little room for the reply, now and then.
fn send(ring: &mut Ring, random: &mut Random, bytes: u32) -> Option<u32> {
    let cut = random.below(bytes.into()) as u32;
    let all = Part { address: BUFFERS, bytes, written: false };
    let first = Part { bytes: cut, ..all };
    let second = Part { address: BUFFERS + u64::from(cut), bytes: bytes - cut, ..all };
    let room = if random.once_in(16) { 16 + random.below(32) as u32 } else { REPLY_BYTES };
    let reply = Part { address: REPLY, bytes: room, written: true };
    match random.below(256) {
        0 if random.once_in(RUDE) => ring.call(&[first, reply]),
        1..64 => ring.call(&[first, second, reply]),
        _ => ring.call(&[all, reply]),
    }
}

/// Takes what a reply gives: a node of an entry, the handle of an open file. Whether it gives anything.
fn learn(kind: u32, known: &mut Known, round: u64, written: u32) -> bool {
    look_for_secret(kind, written);
    if written < 24 || machine::read(REPLY + 4, 2) != 0 {
        return false;
    }
    let given = machine::read(REPLY + 16, 3);
    let turn = round / 4;
    match kind {
        LOOKUP => known.nodes[8 + (turn % 8) as usize] = given,
        OPEN | OPENDIR => known.handles[(turn % 16) as usize] = given,
        _ => {}
    }
    true
}
