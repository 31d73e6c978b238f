//! Rules of netfilter that a container is to have: those of a network namespace on the host.
//!
//! What a rule does is the kernel's own description of it, which one kernel tells and another one takes
//! (`linux/netfilter/nf_tables.h`); named is what has to be found again when it changes.

use serde::{Deserialize, Serialize};

/// Attributes of a netlink message, one after the other; hexadecimal on the wire.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Attributes(#[serde(with = "hex::serde")] pub Vec<u8>);

impl Attributes {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// One table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// Of which packets (`NFPROTO_*`).
    pub family: u8,
    /// Its name, which no other one of the family has.
    pub name: String,
    /// Of `NFT_MSG_NEWTABLE`.
    pub attributes: Attributes,
    /// Its chains.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chains: Vec<Chain>,
    /// What rules refer to by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub objects: Vec<Object>,
    /// Sets and maps that have names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sets: Vec<Set>,
}

/// One chain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chain {
    /// Its name, which no other one of the table has.
    pub name: String,
    /// Of `NFT_MSG_NEWCHAIN`, without the policy.
    pub attributes: Attributes,
    /// What becomes of packets that no rule has decided on; only of one with a hook.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<u32>,
    /// In their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<PacketRule>,
}

/// One rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PacketRule {
    /// Its number on the host, of which there is one in a table at a time. The userdata have it, too:
    /// see [`tag`].
    pub handle: u64,
    /// Of `NFT_MSG_NEWRULE`.
    pub attributes: Attributes,
    /// Sets that are this rule's alone and have no names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sets: Vec<Set>,
}

/// A set or a map.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Set {
    /// Its name, which no other one of the table has; a pattern of names for one that is a rule's.
    pub name: String,
    /// By this number elements and rules refer to it where they come together with it.
    pub id: u32,
    /// Of `NFT_MSG_NEWSET`.
    pub attributes: Attributes,
    /// What it holds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub elements: Vec<Element>,
}

/// An element of a set. How long it has still to live is nothing of what it is.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Element {
    /// Of `NFTA_LIST_ELEM`, without the time.
    pub attributes: Attributes,
    /// Milliseconds until it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_ms: Option<u64>,
}

impl PartialEq for Element {
    fn eq(&self, other: &Self) -> bool {
        self.attributes == other.attributes
    }
}

impl Eq for Element {}

/// A counter, a quota, a flow table, ... with a name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    /// Its name, which no other one of its kind has in the table.
    pub name: String,
    /// Its kind (`NFT_OBJECT_*`); none is a flow table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<u32>,
    /// Of `NFT_MSG_NEWOBJ` or `NFT_MSG_NEWFLOWTABLE`.
    pub attributes: Attributes,
}

/// Kind of the piece of userdata that says that a rule is the host's. Programs that list rules pass over
/// kinds that they do not know.
const TAG: u8 = 0x76;

/// What a rule's userdata (type, length, value, ...) end with: its number on the host.
pub fn tag(handle: u64) -> [u8; 10] {
    let mut tag = [TAG, 8, 0, 0, 0, 0, 0, 0, 0, 0];
    tag[2..].copy_from_slice(&handle.to_be_bytes());
    tag
}

/// The number on the host of a rule with these userdata, if it is the host's.
pub fn tagged(userdata: &[u8]) -> Option<u64> {
    let [TAG, 8, handle @ ..] = userdata.last_chunk::<10>()? else { return None };
    Some(u64::from_be_bytes(*handle))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tag_is_found_behind_a_comment_and_nothing_else_is_one() {
        let comment = [0, 3, b'a', b'b', 0];
        assert_eq!(tagged(&[&comment[..], &tag(0x1234)].concat()), Some(0x1234));
        assert_eq!(tagged(&comment), None);
        assert_eq!(tagged(&[1, 8, 0, 0, 0, 0, 0, 0, 0, 1]), None);
    }
}
