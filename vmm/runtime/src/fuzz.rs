//! What other processes send to a monitor, and what they leave in files and templates, for `tests/fuzz`.

use std::fmt::Debug;

use serde::Serialize;
use serde::de::DeserializeOwned;
use vmrun_proto::FrameReader;

use crate::control::{ControlReply, ControlRequest, Greeting};
use crate::store::State;
use crate::templates;

/// Frames of a control connection, of both directions.
pub fn control(bytes: &[u8]) {
    conversation::<ControlRequest>(bytes);
    conversation::<ControlReply>(bytes);
    conversation::<Greeting>(bytes);
    let _ = serde_json::from_slice::<State>(bytes);
}

/// A template: the first byte says whether the rest is a whole state file, what is behind the header of one, or a machine
/// without processors and what its guest's memory begins with.
pub fn snapshot(bytes: &[u8]) {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    match kind % 4 {
        0 => templates::fuzz::file(bytes),
        1 => templates::fuzz::payload(bytes),
        _ => {
            if let Ok((state, pages)) = postcard::take_from_bytes::<vmrun_machine::fuzz::Bare>(bytes) {
                vmrun_machine::fuzz::restore(&state.into(), pages);
            }
        }
    }
}

/// Whole frames are messages or end the conversation; a message comes back from its text.
fn conversation<T: Serialize + DeserializeOwned + PartialEq + Debug>(bytes: &[u8]) {
    let mut reader = FrameReader::default();
    reader.push(bytes);
    while let Ok(Some(message)) = reader.next_frame::<T>() {
        let encoded = vmrun_proto::encode(&message).expect("a message has a text");
        let back: T = vmrun_proto::read_frame(&encoded[..]).expect("and comes back from it");
        assert_eq!(back, message);
    }
}
