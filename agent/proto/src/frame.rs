//! Frames: a little-endian `u32` length, then that many bytes of JSON.
//!
//! The length is checked before anything is allocated, since either side may be
//! hostile to the other.

use std::io::{self, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Hard cap on the body of a frame. A `config.json` is tens of kilobytes; the
/// largest seccomp profiles in use stay under 200 KiB.
pub const MAX_FRAME_BYTES: usize = 4 << 20;

const HEADER_BYTES: usize = 4;

/// Why a frame could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The peer closed the connection between two frames.
    #[error("the peer closed the connection")]
    Closed,
    /// The frame is larger than [`MAX_FRAME_BYTES`].
    #[error("a frame of {0} bytes is over the limit of {MAX_FRAME_BYTES}")]
    TooLarge(usize),
    /// The bytes are not the JSON of the expected message.
    #[error("the frame does not hold the expected message")]
    Decode(#[source] serde_json::Error),
    /// The value cannot be written as JSON.
    #[error("cannot encode the message")]
    Encode(#[source] serde_json::Error),
    /// The connection failed.
    #[error("the connection failed")]
    Io(#[from] io::Error),
}

/// Encodes `message` as one frame, header included.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, FrameError> {
    let mut bytes = vec![0; HEADER_BYTES];
    serde_json::to_writer(&mut bytes, message).map_err(FrameError::Encode)?;
    let body = bytes.len() - HEADER_BYTES;
    if body > MAX_FRAME_BYTES {
        return Err(FrameError::TooLarge(body));
    }
    let length = u32::try_from(body).map_err(|_| FrameError::TooLarge(body))?;
    bytes[..HEADER_BYTES].copy_from_slice(&length.to_le_bytes());
    Ok(bytes)
}

/// Writes `message` as one frame with one `write_all`.
pub fn write_frame<T: Serialize>(mut to: impl Write, message: &T) -> Result<(), FrameError> {
    to.write_all(&encode(message)?)?;
    Ok(to.flush()?)
}

/// Reads one frame from a blocking connection.
///
/// # Errors
/// [`FrameError::Closed`] when the connection ends before the first byte;
/// `UnexpectedEof` when it ends inside a frame.
pub fn read_frame<T: DeserializeOwned>(mut from: impl Read) -> Result<T, FrameError> {
    let mut header = [0; HEADER_BYTES];
    loop {
        match from.read(&mut header[..1]) {
            Ok(0) => return Err(FrameError::Closed),
            Ok(_) => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    from.read_exact(&mut header[1..])?;
    let mut body = vec![0; body_length(header)?];
    from.read_exact(&mut body)?;
    serde_json::from_slice(&body).map_err(FrameError::Decode)
}

fn body_length(header: [u8; HEADER_BYTES]) -> Result<usize, FrameError> {
    let length = usize::try_from(u32::from_le_bytes(header)).unwrap_or(usize::MAX);
    if length > MAX_FRAME_BYTES { Err(FrameError::TooLarge(length)) } else { Ok(length) }
}

/// Puts frames together from whatever pieces a non-blocking connection yields.
#[derive(Debug, Default)]
pub struct FrameReader {
    buffer: Vec<u8>,
}

impl FrameReader {
    /// Adds received bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Takes the next whole frame out of the buffer; `None` when more bytes are needed.
    pub fn next_frame<T: DeserializeOwned>(&mut self) -> Result<Option<T>, FrameError> {
        let Some((header, rest)) = self.buffer.split_first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let Some(body) = rest.get(..body_length(*header)?) else { return Ok(None) };
        let end = HEADER_BYTES + body.len();
        let message = serde_json::from_slice(body).map_err(FrameError::Decode)?;
        self.buffer.drain(..end);
        Ok(Some(message))
    }

    /// The bytes behind the last whole frame: what a stream connection sent right after its hello.
    pub fn into_rest(self) -> Vec<u8> {
        self.buffer
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn frames_cut_at_any_place_come_back_whole(
            messages in prop::collection::vec(".{0,40}", 0..8),
            chunk in 1usize..9,
        ) {
            let mut bytes = Vec::new();
            for message in &messages {
                write_frame(&mut bytes, message).unwrap();
            }
            let mut reader = FrameReader::default();
            let mut seen = Vec::new();
            for piece in bytes.chunks(chunk) {
                reader.push(piece);
                while let Some(message) = reader.next_frame::<String>().unwrap() {
                    seen.push(message);
                }
            }
            prop_assert_eq!(&seen, &messages);
            let mut blocking = bytes.as_slice();
            for message in &messages {
                prop_assert_eq!(&read_frame::<String>(&mut blocking).unwrap(), message);
            }
            let end = read_frame::<String>(&mut blocking);
            prop_assert!(matches!(end, Err(FrameError::Closed)));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut reader = FrameReader::default();
            reader.push(&bytes);
            while let Ok(Some(_)) = reader.next_frame::<crate::Message>() {}
            let _ = read_frame::<crate::Message>(bytes.as_slice());
        }
    }

    #[test]
    fn oversized_header_is_refused_before_allocation() {
        let header = u32::MAX.to_le_bytes();
        assert!(matches!(read_frame::<String>(header.as_slice()), Err(FrameError::TooLarge(_))));
        let mut reader = FrameReader::default();
        reader.push(&header);
        assert!(matches!(reader.next_frame::<String>(), Err(FrameError::TooLarge(_))));
    }

    #[test]
    fn connection_cut_inside_a_frame_is_an_io_error() {
        let mut bytes = encode(&"hello").unwrap();
        bytes.pop();
        assert!(matches!(read_frame::<String>(bytes.as_slice()), Err(FrameError::Io(_))));
    }

    #[test]
    fn rest_behind_the_hello_is_kept() {
        let mut bytes = encode(&"hello").unwrap();
        bytes.extend_from_slice(b"raw");
        let mut reader = FrameReader::default();
        reader.push(&bytes);
        assert_eq!(reader.next_frame::<String>().unwrap().as_deref(), Some("hello"));
        assert_eq!(reader.into_rest(), b"raw");
    }
}
