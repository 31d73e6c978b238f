//! Netlink's attributes as bytes: what a kernel tells is handed on to another one without knowing
//! what each of them is for.

use crate::core::NLA_F_NESTED;

/// Bits of an attribute's kind that say how it is written.
const MASK: u16 = 0x3fff;

const HEADER_BYTES: usize = 4;

/// One of several, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attribute<'b> {
    /// What it is.
    pub kind: u16,
    /// All of it, its header included and padding not.
    pub whole: &'b [u8],
}

impl<'b> Attribute<'b> {
    /// What it holds.
    pub fn value(&self) -> &'b [u8] {
        self.whole.get(HEADER_BYTES..).unwrap_or_default()
    }

    /// A number in the network's order, as nf_tables has them.
    pub fn number(&self) -> Option<u32> {
        self.value().try_into().ok().map(u32::from_be_bytes)
    }

    /// A long one.
    pub fn long(&self) -> Option<u64> {
        self.value().try_into().ok().map(u64::from_be_bytes)
    }

    /// A text, which ends at its first zero.
    pub fn text(&self) -> String {
        let value = self.value();
        let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
        String::from_utf8_lossy(value.get(..end).unwrap_or_default()).into_owned()
    }
}

/// The attributes that `bytes` hold, up to one that is none.
pub fn attributes(bytes: &[u8]) -> impl Iterator<Item = Attribute<'_>> + Clone {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let [low, high, kind_low, kind_high, ..] = *rest else { return None };
        let length = usize::from(u16::from_ne_bytes([low, high]));
        let whole = rest.get(..length).filter(|_| length >= HEADER_BYTES)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Attribute { kind: u16::from_ne_bytes([kind_low, kind_high]) & MASK, whole })
    })
}

/// The first of a kind.
pub fn attribute(bytes: &[u8], kind: u16) -> Option<Attribute<'_>> {
    attributes(bytes).find(|attribute| attribute.kind == kind)
}

/// Attributes that are written one after the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// Appends one. What is too long for one is cut, which the kernel refuses: it makes none such.
    #[must_use]
    pub fn put(mut self, kind: u16, value: &[u8]) -> Self {
        let length = value.len().saturating_add(HEADER_BYTES).try_into().unwrap_or(u16::MAX);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value.iter().take(usize::from(length).saturating_sub(HEADER_BYTES)));
        self.pad()
    }

    /// Appends a number in the network's order.
    #[must_use]
    pub fn number(self, kind: u16, value: u32) -> Self {
        self.put(kind, &value.to_be_bytes())
    }

    /// Appends a text.
    #[must_use]
    pub fn text(self, kind: u16, value: &str) -> Self {
        self.put(kind, &[value.as_bytes(), &[0]].concat())
    }

    /// Appends one that holds others.
    #[must_use]
    pub fn nest(self, kind: u16, inner: Self) -> Self {
        self.put(kind | NLA_F_NESTED, &inner.finish())
    }

    /// Appends one that is there already.
    #[must_use]
    pub fn copy(mut self, attribute: Attribute<'_>) -> Self {
        self.0.extend(attribute.whole);
        self.pad()
    }

    /// Appends several that are there already.
    #[must_use]
    pub fn copy_all(mut self, attributes: &[u8]) -> Self {
        self.0.extend(attributes);
        self.pad()
    }

    /// How many bytes there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The bytes.
    pub fn finish(self) -> Vec<u8> {
        self.0
    }

    fn pad(mut self) -> Self {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let inner = Writer::default().text(1, "nat").number(2, 0x0102_0304);
        let bytes = Writer::default().put(5, &[9, 9, 9]).nest(7, inner).finish();
        let read: Vec<_> = attributes(&bytes).collect();
        assert_eq!(read.iter().map(|one| one.kind).collect::<Vec<_>>(), [5, 7]);
        assert_eq!(read[0].value(), [9, 9, 9]);
        let name = attribute(read[1].value(), 1).unwrap();
        assert_eq!(
            (name.text().as_str(), attribute(read[1].value(), 2).unwrap().number()),
            ("nat", Some(0x0102_0304))
        );
        let again = read.iter().fold(Writer::default(), |writer, one| writer.copy(*one));
        assert_eq!(again.finish(), bytes);
    }

    proptest! {
        #[test]
        fn reading_arbitrary_bytes_ends_and_stays_within_them(bytes: Vec<u8>) {
            let all: usize = attributes(&bytes).map(|attribute| attribute.whole.len()).sum();
            prop_assert!(all <= bytes.len());
        }
    }
}
