//! One program for all targets: `VMRUN_FUZZ_TARGET` says which. `tests/fuzz/run` builds and runs it.

#![no_main]

use std::fmt::Debug;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use vmrun_devices::fuzz;
use vmrun_proto::{Answer, Envelope, FrameReader, Hello, Message, Question, SocketCall, SocketRefusal};

type Target = fn(&[u8]);

/// Who is asked, and by whom: a guest, a guest's agent, another process, whoever has written a template, a user.
const TARGETS: [(&str, Target); 11] = [
    ("mmio", fuzz::mmio),
    ("queue", fuzz::queue),
    ("net", fuzz::net),
    ("fs", fuzz::fs),
    ("vsock", fuzz::vsock),
    ("balloon", fuzz::balloon),
    ("block", fuzz::block),
    ("frames", frames),
    ("control", vmrun_runtime::fuzz::control),
    ("snapshot", vmrun_runtime::fuzz::snapshot),
    ("config", vmrun_plan::fuzz::config),
];

static TARGET: OnceLock<Target> = OnceLock::new();

fn chosen() -> Target {
    let name = std::env::var("VMRUN_FUZZ_TARGET").unwrap_or_default();
    let found = TARGETS.iter().find(|(known, _)| *known == name);
    let known = TARGETS.map(|(name, _)| name).join(", ");
    found.unwrap_or_else(|| panic!("VMRUN_FUZZ_TARGET is {name:?}, which is none of {known}")).1
}

fuzz_target!(|bytes: &[u8]| TARGET.get_or_init(chosen)(bytes));

/// What host and agent say to each other, both ways, and in pieces of all sizes.
fn frames(bytes: &[u8]) {
    let Some((size, bytes)) = bytes.split_first() else { return };
    conversation::<Envelope>(bytes, *size);
    conversation::<Message>(bytes, *size);
    conversation::<Hello>(bytes, *size);
    conversation::<Question>(bytes, *size);
    conversation::<SocketCall>(bytes, *size);
    conversation::<SocketRefusal>(bytes, *size);
    conversation::<Answer>(bytes, *size);
}

fn conversation<T>(bytes: &[u8], size: u8)
where
    T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + Debug,
{
    let mut reader = FrameReader::default();
    for piece in bytes.chunks(usize::from(size).max(1)) {
        reader.push(piece);
        loop {
            match reader.next_frame::<T>() {
                Ok(Some(message)) => {
                    let encoded = vmrun_proto::encode(&message).expect("a message has a text");
                    let back: T = vmrun_proto::read_frame(&encoded[..]).expect("and comes back from it");
                    assert_eq!(back, message);
                }
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
}
