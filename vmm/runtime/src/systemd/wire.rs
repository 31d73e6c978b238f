//! D-Bus messages as far as systemd's manager needs them: little-endian, version 1.
//!
//! ```text
//!   'l' type flags 1 | length of the body | serial | header fields: a(yv) | pad to 8 | body
//! ```

use std::io::{self, Read};

const METHOD_CALL: u8 = 1;
const METHOD_RETURN: u8 = 2;
const ERROR: u8 = 3;
const SIGNAL: u8 = 4;

const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const ERROR_NAME: u8 = 4;
const REPLY_SERIAL: u8 = 5;
const DESTINATION: u8 = 6;
const SIGNATURE: u8 = 8;

const FIXED_BYTES: usize = 16;

/// Far more than systemd has to say about a scope.
const MOST_BYTES: usize = 1 << 20;

/// What a property of a unit is set to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Bool(bool),
    Text(String),
    Number(u64),
    Numbers(Vec<u32>),
    Bytes(Vec<u8>),
}

impl Value {
    fn signature(&self) -> &'static str {
        match self {
            Self::Bool(_) => "b",
            Self::Text(_) => "s",
            Self::Number(_) => "t",
            Self::Numbers(_) => "au",
            Self::Bytes(_) => "ay",
        }
    }
}

/// The name of a property, and its value.
pub(super) type Property = (&'static str, Value);

/// Values in a row, each where its type may stand.
#[derive(Debug, Default)]
pub(super) struct Writer(Vec<u8>);

impl Writer {
    fn align(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.align(4);
        self.0.extend(value.to_le_bytes());
    }

    pub(super) fn bool(&mut self, value: bool) {
        self.u32(value.into());
    }

    fn u64(&mut self, value: u64) {
        self.align(8);
        self.0.extend(value.to_le_bytes());
    }

    pub(super) fn text(&mut self, text: &str) {
        self.u32(length(text.len()));
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    fn signature(&mut self, signature: &str) {
        self.0.extend(signature.len().to_le_bytes().first());
        self.0.extend(signature.as_bytes());
        self.0.push(0);
    }

    /// An array of what stands at multiples of `alignment`.
    pub(super) fn array(&mut self, alignment: usize, fill: impl FnOnce(&mut Self)) {
        self.u32(0);
        let end_of_length = self.0.len();
        self.align(alignment);
        let start = self.0.len();
        fill(self);
        let bytes = length(self.0.len() - start).to_le_bytes();
        self.0[end_of_length - bytes.len()..end_of_length].copy_from_slice(&bytes);
    }

    /// `a(sv)`
    pub(super) fn properties(&mut self, properties: &[Property]) {
        self.array(8, |all| {
            for (name, value) in properties {
                all.align(8);
                all.text(name);
                all.variant(value);
            }
        });
    }

    fn variant(&mut self, value: &Value) {
        self.signature(value.signature());
        match value {
            Value::Bool(value) => self.bool(*value),
            Value::Text(text) => self.text(text),
            Value::Number(number) => self.u64(*number),
            Value::Numbers(numbers) => self.array(4, |all| numbers.iter().for_each(|one| all.u32(*one))),
            Value::Bytes(bytes) => self.array(1, |all| all.0.extend(bytes)),
        }
    }

    fn field(&mut self, code: u8, signature: &str, value: &str) {
        self.align(8);
        self.0.push(code);
        self.signature(signature);
        if signature == "g" { self.signature(value) } else { self.text(value) }
    }
}

fn length(bytes: usize) -> u32 {
    // Nothing of ours is as long, and a wrong length is refused by the other side.
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// A method to be called.
#[derive(Debug)]
pub(super) struct Call<'a> {
    pub(super) destination: &'a str,
    pub(super) path: &'a str,
    pub(super) interface: &'a str,
    pub(super) member: &'a str,
    /// Of `body`.
    pub(super) signature: &'a str,
    pub(super) body: Writer,
}

impl Call<'_> {
    pub(super) fn message(self, serial: u32) -> Vec<u8> {
        let mut message = Writer(vec![b'l', METHOD_CALL, 0, 1]);
        message.u32(length(self.body.0.len()));
        message.u32(serial);
        message.array(8, |fields| {
            fields.field(PATH, "o", self.path);
            fields.field(INTERFACE, "s", self.interface);
            fields.field(MEMBER, "s", self.member);
            fields.field(DESTINATION, "s", self.destination);
            if !self.signature.is_empty() {
                fields.field(SIGNATURE, "g", self.signature);
            }
        });
        message.align(8);
        message.0.extend(self.body.0);
        message.0
    }
}

/// What the other side says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Message {
    Reply { to: u32, body: Vec<u8> },
    Error { to: u32, name: String, body: Vec<u8> },
    Signal { member: String, body: Vec<u8> },
    Other,
}

impl Message {
    pub(super) fn read(stream: &mut impl Read) -> io::Result<Self> {
        let mut fixed = [0; FIXED_BYTES];
        stream.read_exact(&mut fixed)?;
        let mut head = Reader::new(&fixed);
        let [endian, kind, _, version] = head.bytes()?;
        let (body, _serial, fields) = (head.u32()?, head.u32()?, head.u32()?);
        if (endian, version) != (b'l', 1) {
            return Err(nonsense());
        }
        let fields = sized(stream, fields, 8)?;
        let body = sized(stream, body, 1)?;
        // Those before it in the message are a multiple of 8.
        let fields = Fields::read(&mut Reader::new(&fields))?;
        Ok(match (kind, fields) {
            (METHOD_RETURN, Fields { reply: Some(to), .. }) => Self::Reply { to, body },
            (ERROR, Fields { reply: Some(to), error: Some(name), .. }) => Self::Error { to, name, body },
            (SIGNAL, Fields { member: Some(member), .. }) => Self::Signal { member, body },
            _ => Self::Other,
        })
    }
}

/// So many bytes and what pads them, which is not in the answer.
fn sized(stream: &mut impl Read, bytes: u32, alignment: usize) -> io::Result<Vec<u8>> {
    let bytes = usize::try_from(bytes).ok().filter(|bytes| *bytes <= MOST_BYTES).ok_or_else(nonsense)?;
    let mut read = vec![0; bytes.next_multiple_of(alignment)];
    stream.read_exact(&mut read)?;
    read.truncate(bytes);
    Ok(read)
}

#[derive(Default)]
struct Fields {
    member: Option<String>,
    error: Option<String>,
    reply: Option<u32>,
}

impl Fields {
    fn read(from: &mut Reader<'_>) -> io::Result<Self> {
        let mut found = Self::default();
        while !from.is_at_end() {
            from.align(8);
            let [code] = from.bytes()?;
            match from.signature()?.as_str() {
                "u" => {
                    let number = from.u32()?;
                    found.reply = if code == REPLY_SERIAL { Some(number) } else { found.reply };
                }
                "g" => drop(from.signature()?),
                "s" | "o" => {
                    let text = from.text()?;
                    match code {
                        MEMBER => found.member = Some(text),
                        ERROR_NAME => found.error = Some(text),
                        _ => {}
                    }
                }
                _ => return Err(nonsense()),
            }
        }
        Ok(found)
    }
}

/// Reads what a [`Writer`] writes; what is too short or no text is an error.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    fn is_at_end(&self) -> bool {
        self.at >= self.bytes.len()
    }

    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn take(&mut self, bytes: usize) -> io::Result<&'a [u8]> {
        let end = self.at.checked_add(bytes).ok_or_else(nonsense)?;
        let taken = self.bytes.get(self.at..end).ok_or_else(nonsense)?;
        self.at = end;
        Ok(taken)
    }

    fn bytes<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        self.take(N)?.try_into().map_err(|_| nonsense())
    }

    pub(super) fn u32(&mut self) -> io::Result<u32> {
        self.align(4);
        Ok(u32::from_le_bytes(self.bytes()?))
    }

    pub(super) fn text(&mut self) -> io::Result<String> {
        let bytes = usize::try_from(self.u32()?).map_err(|_| nonsense())?;
        self.terminated(bytes)
    }

    pub(super) fn signature(&mut self) -> io::Result<String> {
        let [bytes] = self.bytes()?;
        self.terminated(bytes.into())
    }

    fn terminated(&mut self, bytes: usize) -> io::Result<String> {
        let text = String::from_utf8(self.take(bytes)?.to_vec()).map_err(|_| nonsense())?;
        self.take(1).map(|_| text)
    }
}

fn nonsense() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "that is no D-Bus message")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u8, fields: impl FnOnce(&mut Writer), body: Writer) -> Vec<u8> {
        let mut message = Writer(vec![b'l', kind, 0, 1]);
        message.u32(length(body.0.len()));
        message.u32(9);
        message.array(8, fields);
        message.align(8);
        message.0.extend(body.0);
        message.0
    }

    #[test]
    fn call_has_the_layout_of_the_specification() {
        let mut body = Writer::default();
        body.text("a");
        body.properties(&[("P", Value::Number(7))]);
        let call =
            Call { destination: "d", path: "/p", interface: "i", member: "m", signature: "sa(sv)", body };
        let expected = [
            &b"l\x01\x00\x01\x28\x00\x00\x00\x05\x00\x00\x00\x4c\x00\x00\x00"[..],
            b"\x01\x01o\x00\x02\x00\x00\x00/p\x00\x00\x00\x00\x00\x00",
            b"\x02\x01s\x00\x01\x00\x00\x00i\x00\x00\x00\x00\x00\x00\x00",
            b"\x03\x01s\x00\x01\x00\x00\x00m\x00\x00\x00\x00\x00\x00\x00",
            b"\x06\x01s\x00\x01\x00\x00\x00d\x00\x00\x00\x00\x00\x00\x00",
            b"\x08\x01g\x00\x06sa(sv)\x00\x00\x00\x00\x00",
            b"\x01\x00\x00\x00a\x00\x00\x00\x18\x00\x00\x00\x00\x00\x00\x00",
            b"\x01\x00\x00\x00P\x00\x01t\x00\x00\x00\x00\x00\x00\x00\x00",
            b"\x07\x00\x00\x00\x00\x00\x00\x00",
        ];
        assert_eq!(call.message(5), expected.concat());
    }

    #[test]
    fn replies_errors_and_signals_are_told_apart() {
        let mut text = Writer::default();
        text.text("no");
        let body = text.0.clone();
        let error = message(
            ERROR,
            |fields| {
                fields.align(8);
                fields.0.push(REPLY_SERIAL);
                fields.signature("u");
                fields.u32(3);
                fields.field(ERROR_NAME, "s", "e.E");
            },
            text,
        );
        let read = Message::read(&mut error.as_slice()).unwrap();
        assert_eq!(read, Message::Error { to: 3, name: "e.E".to_owned(), body });
        let signal = message(SIGNAL, |fields| fields.field(MEMBER, "s", "JobRemoved"), Writer::default());
        let read = Message::read(&mut signal.as_slice()).unwrap();
        assert_eq!(read, Message::Signal { member: "JobRemoved".to_owned(), body: Vec::new() });
    }

    #[test]
    fn what_is_cut_off_or_too_long_is_an_error() {
        let whole = message(SIGNAL, |fields| fields.field(MEMBER, "s", "m"), Writer::default());
        for end in 0..whole.len() {
            assert!(Message::read(&mut &whole[..end]).is_err(), "{end}");
        }
        let mut long = whole.clone();
        long[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(Message::read(&mut long.as_slice()).is_err());
        let mut far = whole;
        far[20..24].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(Message::read(&mut far.as_slice()).is_err());
    }
}
