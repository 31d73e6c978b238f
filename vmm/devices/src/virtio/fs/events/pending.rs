//! Events that nobody has been told yet: a bounded number, of which too many are told as lost.

use std::collections::{BTreeSet, VecDeque};

use super::super::ids::Node;
use super::message::Told;
use super::table::Table;

/// As many events as a program's queue has by default, so that what is lost here was lost there, too.
const MOST: usize = 16_384;

/// The events.
#[derive(Debug, Default)]
pub(super) struct Pending {
    events: VecDeque<Told>,
    /// What of `events` tells that others were lost.
    losses: usize,
    /// Files whose attributes have changed, of which the number of links is one.
    changed: BTreeSet<Node>,
}

impl Pending {
    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// One more; one that says the same as the last is none.
    pub(super) fn push(&mut self, told: Told, table: &Table) {
        if told.name.is_empty() && told.mask & libc::IN_ATTRIB != 0 {
            self.changed.insert(told.node);
        }
        if self.events.back() == Some(&told) {
            return;
        }
        if self.events.len() - self.losses >= MOST {
            self.lose(table);
        }
        self.events.push_back(told);
    }

    /// Files whose attributes have changed since this was asked last.
    pub(super) fn take_changed(&mut self) -> BTreeSet<Node> {
        std::mem::take(&mut self.changed)
    }

    /// The last change of the attributes of `node` was that of its last name. If it was told as another already, the end is an
    /// event of its own.
    pub(super) fn is_gone(&mut self, node: Node) {
        let is_change =
            |told: &&mut Told| told.node == node && told.name.is_empty() && told.mask & libc::IN_ATTRIB != 0;
        if let Some(told) = self.events.iter_mut().rev().find(is_change) {
            told.mask |= libc::IN_DELETE_SELF;
        } else {
            self.events.push_back(Told::end(node));
        }
    }

    /// Some were lost: whoever watches anything is told that.
    pub(super) fn lose(&mut self, table: &Table) {
        self.events = table.nodes().map(Told::loss).collect();
        self.losses = self.events.len();
    }

    /// Takes as many as fit into `room` bytes.
    pub(super) fn take(&mut self, room: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while let Some(told) = self.events.front()
            && bytes.len() + told.size() <= room
        {
            told.put(&mut bytes);
            self.events.pop_front();
            self.losses = self.losses.saturating_sub(1);
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(node: u64, name: &str) -> Told {
        Told { node, mask: libc::IN_CREATE, cookie: 0, name: name.as_bytes().into() }
    }

    #[test]
    fn same_events_in_a_row_are_one() {
        let (mut pending, table) = (Pending::default(), Table::default());
        for name in ["a", "a", "b", "a"] {
            pending.push(told(1, name), &table);
        }
        assert_eq!(pending.take(usize::MAX).len(), 3 * 32);
    }

    #[test]
    fn last_change_of_a_file_that_is_gone_says_so() {
        let (mut pending, table) = (Pending::default(), Table::default());
        let change = |node| Told { mask: libc::IN_ATTRIB, ..told(node, "") };
        for told in [change(1), told(2, "a"), change(1), change(3)] {
            pending.push(told, &table);
        }
        assert_eq!(pending.take_changed(), BTreeSet::from([1, 3]));
        assert!(pending.take_changed().is_empty());
        pending.is_gone(1);
        let gone: Vec<_> = pending.events.iter().map(|told| told.mask & libc::IN_DELETE_SELF != 0).collect();
        assert_eq!(gone, [false, false, true, false]);
        // One that was told, and one that was told the same before.
        pending.take(usize::MAX);
        pending.is_gone(3);
        assert_eq!(pending.events, [Told::end(3)]);
        for _ in 0..2 {
            pending.push(change(1), &table);
            assert_eq!(pending.take_changed(), BTreeSet::from([1]));
        }
        assert_eq!(pending.events.len(), 2);
    }

    #[test]
    fn too_many_are_told_as_lost_to_all_who_watch() {
        let (mut pending, mut table) = (Pending::default(), Table::default());
        table.set(1, 7, libc::IN_CREATE);
        for number in 0..=MOST {
            pending.push(told(7, &number.to_string()), &table);
        }
        assert_eq!(pending.events.len(), 2);
        assert_eq!(pending.events[0], Told::loss(7));
        assert_eq!(pending.events[1].name.as_ref(), MOST.to_string().as_bytes());
    }

    #[test]
    fn what_does_not_fit_is_told_next() {
        let (mut pending, table) = (Pending::default(), Table::default());
        for name in ["a", "b", "c"] {
            pending.push(told(1, name), &table);
        }
        assert_eq!(pending.take(70).len(), 64);
        assert_eq!(pending.take(70).len(), 32);
        assert!(pending.is_empty());
    }
}
