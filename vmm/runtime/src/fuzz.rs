//! What other processes send to a monitor, and what they leave in files, for `tests/fuzz`.

use std::fmt::Debug;

use serde::Serialize;
use serde::de::DeserializeOwned;
use vmrun_proto::FrameReader;

use crate::control::{ControlReply, ControlRequest};
use crate::store::State;

/// Frames of a control connection, of both directions.
pub fn control(bytes: &[u8]) {
    conversation::<ControlRequest>(bytes);
    conversation::<ControlReply>(bytes);
    let _ = serde_json::from_slice::<State>(bytes);
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
