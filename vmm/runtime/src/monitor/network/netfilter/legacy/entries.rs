//! Entries of a table, one behind the other (`struct ipt_entry`, `struct ip6t_entry`): addresses and interfaces, what
//! else a packet must be like, and a target. A chain begins with a target `ERROR` and ends with what its policy says.

use std::net::{IpAddr, Ipv4Addr};
use std::ops::Range;

/// Which of the two families' entries they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    V4,
    V6,
}

impl Shape {
    pub(super) fn is_ipv6(self) -> bool {
        self == Self::V6
    }

    /// Bytes of what is said of a packet's header (`struct ipt_ip`, `struct ip6t_ip6`).
    fn header(self) -> usize {
        match self {
            Self::V4 => 84,
            Self::V6 => 136,
        }
    }

    /// Where that says which conditions are turned round.
    fn inverted_at(self) -> usize {
        match self {
            Self::V4 => 83,
            Self::V6 => 132,
        }
    }

    fn address(self, bytes: &[u8]) -> Option<IpAddr> {
        Some(match self {
            Self::V4 => <[u8; 4]>::try_from(bytes).ok()?.into(),
            Self::V6 => <[u8; 16]>::try_from(bytes).ok()?.into(),
        })
    }

    fn address_bytes(self) -> usize {
        match self {
            Self::V4 => 4,
            Self::V6 => 16,
        }
    }
}

/// A target: its size, its name and revision, and of the standard one what it says.
const NAME: Range<usize> = 2..31;
const VERDICT: Range<usize> = 32..36;

/// `NF_ACCEPT` and `XT_RETURN` as the standard target says them; what is not below zero is a jump.
const ACCEPT: i32 = -2;
const RETURN: i32 = -5;

/// Whether any entry decides on a packet. What cannot be read counts.
pub(super) fn decide(mut entries: &[u8], shape: Shape, servers: &[IpAddr]) -> bool {
    while !entries.is_empty() {
        let Some(entry) = Entry::read(entries, shape) else { return true };
        if entry.decides() && !entry.serves(servers) {
            return true;
        }
        entries = entries.get(entry.bytes.len()..).unwrap_or_default();
    }
    false
}

struct Entry<'e> {
    shape: Shape,
    bytes: &'e [u8],
    target: &'e [u8],
}

impl<'e> Entry<'e> {
    /// The first of them.
    fn read(entries: &'e [u8], shape: Shape) -> Option<Self> {
        let offset = |at: usize| {
            let at = shape.header().checked_add(at)?;
            Some(usize::from(u16::from_ne_bytes(entries.get(at..at.checked_add(2)?)?.try_into().ok()?)))
        };
        let (target, next) = (offset(4)?, offset(6)?);
        let bytes = entries.get(..next)?;
        Some(Self { shape, bytes, target: bytes.get(target..).filter(|target| target.len() >= NAME.end)? })
    }

    /// Whether it does more than to let a packet go on.
    fn decides(&self) -> bool {
        let name = self.target.get(NAME).unwrap_or_default();
        match name.split(|byte| *byte == 0).next() {
            Some(b"ERROR") => false,
            Some(b"") => {
                let verdict = self.target.get(VERDICT).and_then(|bytes| bytes.try_into().ok());
                !verdict
                    .map(i32::from_ne_bytes)
                    .is_some_and(|verdict| matches!(verdict, ACCEPT | RETURN | 0..))
            }
            _ => true,
        }
    }

    /// Whether it is about a name server at loopback alone, which is asked another way. Docker makes such rules before
    /// the server is named.
    fn serves(&self, servers: &[IpAddr]) -> bool {
        const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let size = self.shape.address_bytes();
        let part = |number: usize| self.bytes.get(number * size..(number + 1) * size);
        let is_server = |number: usize| {
            let is_one = part(number + 2).is_some_and(|mask| mask.iter().all(|byte| *byte == 0xff));
            let address = part(number).and_then(|bytes| self.shape.address(bytes));
            let is_one_of_loopback =
                |address: IpAddr| address.is_loopback() && address.is_ipv4() && address != LOOPBACK;
            is_one && address.is_some_and(|address| servers.contains(&address) || is_one_of_loopback(address))
        };
        self.bytes.get(self.shape.inverted_at()) == Some(&0) && (is_server(0) || is_server(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An entry for packets to this address, with the target of this name and verdict.
    fn entry(shape: Shape, to: &[u8], name: &str, verdict: i32) -> Vec<u8> {
        let head = shape.header() + 8 + 4 + 16 + if shape.is_ipv6() { 4 } else { 0 };
        let mut bytes = vec![0; head];
        let size = shape.address_bytes();
        if !to.is_empty() {
            bytes[size..2 * size].copy_from_slice(to);
            bytes[3 * size..4 * size].fill(0xff);
        }
        let mut target = vec![40, 0];
        target.extend(name.bytes());
        target.resize(32, 0);
        target.extend(verdict.to_ne_bytes());
        target.extend([0; 4]);
        let (at, next) = (u16::try_from(head).unwrap(), u16::try_from(head + target.len()).unwrap());
        bytes[shape.header() + 4..][..2].copy_from_slice(&at.to_ne_bytes());
        bytes[shape.header() + 6..][..2].copy_from_slice(&next.to_ne_bytes());
        bytes.extend(target);
        bytes
    }

    fn decides(shape: Shape, entries: &[(&[u8], &str, i32)]) -> bool {
        let bytes: Vec<u8> =
            entries.iter().flat_map(|(to, name, verdict)| entry(shape, to, name, *verdict)).collect();
        decide(&bytes, shape, &["::1".parse().unwrap()])
    }

    #[test]
    fn tables_that_let_everything_go_decide_on_nothing() {
        for shape in [Shape::V4, Shape::V6] {
            let policy = (&[][..], "", ACCEPT);
            assert!(!decides(shape, &[policy, policy, policy, (&[], "ERROR", 0)]));
            // A jump to a chain that is empty.
            assert!(!decides(shape, &[(&[], "", 300), policy, (&[], "ERROR", 0), (&[], "", RETURN)]));
            assert!(decides(shape, &[policy, (&[], "", -1)]));
            assert!(decides(shape, &[(&[], "REDIRECT", 0), policy]));
        }
    }

    #[test]
    fn rules_of_name_servers_at_loopback_are_done_without() {
        let docker = [127, 0, 0, 11];
        assert!(!decides(Shape::V4, &[(&docker, "", 300), (&docker, "DNAT", 0)]));
        assert!(decides(Shape::V4, &[(&[127, 0, 0, 1], "REDIRECT", 0)]));
        assert!(decides(Shape::V4, &[(&[10, 0, 0, 1], "DNAT", 0)]));
        let mut one = [0; 16];
        one[15] = 1;
        assert!(!decides(Shape::V6, &[(&one, "DNAT", 0)]));
        one[15] = 2;
        assert!(decides(Shape::V6, &[(&one, "DNAT", 0)]));
        let mut inverted = entry(Shape::V4, &docker, "DNAT", 0);
        inverted[83] = 0x10;
        assert!(decide(&inverted, Shape::V4, &[]));
    }

    #[test]
    fn what_is_cut_off_counts_and_what_has_no_end_is_not_walked_for_ever() {
        let whole = entry(Shape::V4, &[], "", ACCEPT);
        assert!((1..whole.len()).all(|length| decide(&whole[..length], Shape::V4, &[])));
        assert!(!decide(&[], Shape::V4, &[]));
        assert!(decide(&[0; 400], Shape::V4, &[]));
    }
}
