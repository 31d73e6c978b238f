//! The few messages of FUSE that a read-only tree of small files needs: see fuse(4) and the
//! kernel's `uapi/linux/fuse.h`. Requests are the host kernel's, not the guest's.

/// What the kernel asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    Init,
    Lookup(String),
    GetAttributes,
    ReadLink,
    Open,
    OpenDirectory,
    Read {
        handle: u64,
        offset: usize,
        size: usize,
    },
    ReadDirectory {
        handle: u64,
        offset: usize,
        size: usize,
    },
    Release(u64),
    StatFs,
    /// What needs no answer.
    Nothing,
    /// What there is not.
    Unknown,
}

/// A request, and what its answer needs of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) unique: u64,
    /// The file that it is about.
    pub(super) node: u64,
    pub(super) ask: Ask,
}

const IN_HEADER: usize = 40;
const OUT_HEADER: u32 = 16;

/// The version that is spoken: old enough for any kernel that `vmrun` runs on.
const MAJOR: u32 = 7;
const MINOR: u32 = 31;

/// A file's size is not known before it is read.
const DIRECT_IO: u32 = 1;

/// Nobody writes; the kernel wants a number.
const MAX_WRITE: u32 = 4096;

/// At least what the kernel demands of the buffer that requests are read into.
pub(super) const REQUEST_BYTES: usize = 16 << 10;

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

impl Request {
    /// `None` when it is cut off.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let (unique, node) = (u64_at(bytes, 8)?, u64_at(bytes, 16)?);
        let body = bytes.get(IN_HEADER..)?;
        let handle = || u64_at(body, 0);
        let window = || {
            let offset = usize::try_from(u64_at(body, 8)?).ok()?;
            Some((handle()?, offset, usize::try_from(u32_at(body, 16)?).ok()?))
        };
        let ask = match u32_at(bytes, 4)? {
            1 => Ask::Lookup(String::from_utf8_lossy(body.strip_suffix(&[0])?).into_owned()),
            3 => Ask::GetAttributes,
            5 => Ask::ReadLink,
            14 => Ask::Open,
            15 => {
                let (handle, offset, size) = window()?;
                Ask::Read { handle, offset, size }
            }
            17 => Ask::StatFs,
            18 | 29 => Ask::Release(handle()?),
            26 => Ask::Init,
            27 => Ask::OpenDirectory,
            28 => {
                let (handle, offset, size) = window()?;
                Ask::ReadDirectory { handle, offset, size }
            }
            // Forgotten files, interruptions, and the end.
            2 | 36 | 38 | 42 => Ask::Nothing,
            _ => Ask::Unknown,
        };
        Some(Self { unique, node, ask })
    }
}

/// An answer with this body, or with an error of the system's.
pub(super) fn answer(unique: u64, body: Result<&[u8], i32>) -> Vec<u8> {
    let (error, body) = match body {
        Ok(body) => (0, body),
        Err(errno) => (-errno, &[][..]),
    };
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX).saturating_add(OUT_HEADER);
    let mut bytes = Vec::with_capacity(body.len() + 16);
    bytes.extend_from_slice(&length.to_ne_bytes());
    bytes.extend_from_slice(&error.to_ne_bytes());
    bytes.extend_from_slice(&unique.to_ne_bytes());
    bytes.extend_from_slice(body);
    bytes
}

/// Numbers one behind the other, as the kernel's structures have them.
#[derive(Default)]
struct Body(Vec<u8>);

impl Body {
    fn u64(mut self, value: u64) -> Self {
        self.0.extend_from_slice(&value.to_ne_bytes());
        self
    }

    fn u32(mut self, value: u32) -> Self {
        self.0.extend_from_slice(&value.to_ne_bytes());
        self
    }

    fn zeros(mut self, count: usize) -> Self {
        self.0.resize(self.0.len() + count, 0);
        self
    }

    /// `fuse_attr`: a file of root's with this mode.
    fn attributes(self, node: u64, mode: u32, owner: (u32, u32)) -> Self {
        let times = 3 * 8 + 3 * 4;
        let body = self.u64(node).zeros(2 * 8 + times).u32(mode).u32(1);
        body.u32(owner.0).u32(owner.1).zeros(3 * 4)
    }
}

pub(super) fn init() -> Vec<u8> {
    // No read-ahead and no features; the rest is for later versions.
    Body::default().u32(MAJOR).u32(MINOR).zeros(12).u32(MAX_WRITE).u32(1).zeros(36).0
}

/// What was looked up, to be looked up anew the next time.
pub(super) fn entry(node: u64, mode: u32, owner: (u32, u32)) -> Vec<u8> {
    Body::default().u64(node).zeros(8 + 2 * 8 + 2 * 4).attributes(node, mode, owner).0
}

pub(super) fn attributes(node: u64, mode: u32, owner: (u32, u32)) -> Vec<u8> {
    Body::default().zeros(16).attributes(node, mode, owner).0
}

pub(super) fn opened(handle: u64) -> Vec<u8> {
    Body::default().u64(handle).u32(DIRECT_IO).zeros(4).0
}

/// `fuse_kstatfs` of a file system without blocks.
pub(super) fn statfs() -> Vec<u8> {
    const NAME_MAX: u32 = 255;
    Body::default().zeros(40).u32(4096).u32(NAME_MAX).zeros(32).0
}

/// An entry of a directory; `next` is where the one behind it begins.
pub(super) fn directory_entry(node: u64, next: u64, mode: u32, name: &str) -> Vec<u8> {
    let length = u32::try_from(name.len()).unwrap_or_default();
    let mut body = Body::default().u64(node).u64(next).u32(length).u32(mode >> 12);
    body.0.extend_from_slice(name.as_bytes());
    let padded = body.0.len().next_multiple_of(8);
    body.0.resize(padded, 0);
    body.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(opcode: u32, body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&0u32.to_ne_bytes());
        bytes.extend_from_slice(&opcode.to_ne_bytes());
        bytes.extend_from_slice(&77u64.to_ne_bytes());
        bytes.extend_from_slice(&5u64.to_ne_bytes());
        bytes.resize(IN_HEADER, 0);
        bytes.extend_from_slice(body);
        bytes
    }

    #[test]
    fn requests_are_read_and_cut_ones_are_not() {
        let ask = |opcode, body: &[u8]| Request::parse(&request(opcode, body)).map(|request| request.ask);
        assert_eq!(ask(1, b"stat\0"), Some(Ask::Lookup("stat".to_owned())));
        assert_eq!(ask(1, b"stat"), None);
        let mut window = [0u8; 40];
        window[0] = 3;
        window[8] = 9;
        window[16] = 100;
        assert_eq!(ask(15, &window), Some(Ask::Read { handle: 3, offset: 9, size: 100 }));
        assert_eq!(ask(15, &window[..10]), None);
        assert_eq!(ask(99, &[]), Some(Ask::Unknown));
        assert_eq!(Request::parse(&[0; 39]), None);
        let whole = Request::parse(&request(3, &[])).unwrap();
        assert_eq!((whole.unique, whole.node), (77, 5));
    }

    #[test]
    fn answers_have_the_kernels_sizes() {
        assert_eq!(init().len(), 64);
        assert_eq!(entry(1, 0o100_444, (0, 0)).len(), 128);
        assert_eq!(attributes(1, 0o100_444, (0, 0)).len(), 104);
        assert_eq!(opened(1).len(), 16);
        assert_eq!(statfs().len(), 80);
        assert_eq!(directory_entry(1, 1, 0o040_555, "12345").len(), 32);
        assert_eq!(answer(1, Err(2)).len(), 16);
        assert_eq!(
            answer(1, Ok(b"abc")),
            [&19u32.to_ne_bytes()[..], &[0; 4], &1u64.to_ne_bytes(), b"abc"].concat()
        );
    }
}
