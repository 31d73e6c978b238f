//! Which node is watched by which watch of the host's.

use std::collections::HashMap;

use super::super::ids::Node;

/// What can be watched: `IN_ALL_EVENTS`.
const WATCHABLE: u32 = libc::IN_ALL_EVENTS;
const BITS: usize = 12;

/// A watch of the host's.
pub(super) type Watch = i32;

/// What the host is asked for, if the guest asks for `mask`: whatever it watches, its watch ends with the file, and one that is
/// held open here is not gone when it has no name any more. Of that its attributes tell.
pub(super) fn wanted(mask: u32) -> u32 {
    match mask & WATCHABLE {
        0 => 0,
        mask => mask | libc::IN_ATTRIB,
    }
}

/// What tells that a directory is gone, or is in another one: the one that it was in.
pub(super) const OF_CHILDREN: u32 = libc::IN_DELETE | libc::IN_MOVED_FROM;

/// What becomes of a watch that somebody needs no more.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// It goes.
    Nothing,
    /// It is of this node, for that.
    Node(Node, u32),
    /// It tells of directories there.
    Children,
}

/// The watches. Two nodes may have one: a directory that is mounted twice.
#[derive(Debug, Default)]
pub(super) struct Table {
    nodes: HashMap<Node, Watch>,
    watches: HashMap<Watch, Vec<(Node, u32)>>,
    /// Directories that are watched, by the watch of the one that they are in, and their names there,
    children: HashMap<Watch, HashMap<Vec<u8>, Vec<Node>>>,
    /// and both of each.
    parents: HashMap<Node, (Watch, Vec<u8>)>,
    /// How many want each kind.
    kinds: [usize; BITS],
}

impl Table {
    /// How many nodes are watched.
    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// How many directories are known by the one that they are in.
    pub(super) fn parents(&self) -> usize {
        self.parents.len()
    }

    /// Whether `node` is watched.
    pub(super) fn knows(&self, node: Node) -> bool {
        self.nodes.contains_key(&node)
    }

    /// Whether `watch` is of anything.
    pub(super) fn watches(&self, watch: Watch) -> bool {
        self.watches.contains_key(&watch) || self.children.contains_key(&watch)
    }

    /// All nodes.
    pub(super) fn nodes(&self) -> impl Iterator<Item = Node> {
        self.nodes.keys().copied()
    }

    /// What anybody watches for.
    pub(super) fn kinds(&self) -> u32 {
        let bits = self.kinds.iter().enumerate().filter(|(_, count)| **count > 0);
        bits.fold(0, |mask, (bit, _)| mask | 1 << bit)
    }

    fn count(&mut self, mask: u32, add: bool) {
        for (bit, count) in self.kinds.iter_mut().enumerate().filter(|(bit, _)| mask & 1 << bit != 0) {
            debug_assert!(bit < BITS);
            *count = if add { *count + 1 } else { count.saturating_sub(1) };
        }
    }

    /// What else than `node` the watch of `node` is for.
    pub(super) fn others(&self, node: Node) -> u32 {
        let Some(watch) = self.nodes.get(&node) else { return 0 };
        let others = self.watches.get(watch).into_iter().flatten().filter(|(other, _)| *other != node);
        others.fold(self.of_children(*watch), |masks, (_, mask)| masks | mask)
    }

    /// `node` is watched for `mask` by `watch`.
    pub(super) fn set(&mut self, watch: Watch, node: Node, mask: u32) {
        self.remove(node);
        self.nodes.insert(node, watch);
        self.watches.entry(watch).or_default().push((node, mask));
        self.count(mask, true);
    }

    fn of_children(&self, watch: Watch) -> u32 {
        if self.children.contains_key(&watch) { OF_CHILDREN } else { 0 }
    }

    fn left(&self, watch: Watch) -> Left {
        let of_children = self.of_children(watch);
        match self.watches.get(&watch).map(Vec::as_slice) {
            Some([(node, mask), others @ ..]) => {
                Left::Node(*node, others.iter().fold(mask | of_children, |masks, (_, mask)| masks | mask))
            }
            _ if of_children != 0 => Left::Children,
            _ => Left::Nothing,
        }
    }

    /// `node` is watched no more. Returns its watch, and for what that is there still.
    pub(super) fn remove(&mut self, node: Node) -> Option<(Watch, Left)> {
        let watch = self.nodes.remove(&node)?;
        let watched = self.watches.get_mut(&watch)?;
        let mut gone = 0;
        watched.retain(|(other, mask)| {
            let stays = *other != node;
            gone |= if stays { 0 } else { *mask };
            stays
        });
        if watched.is_empty() {
            self.watches.remove(&watch);
        }
        self.count(gone, false);
        Some((watch, self.left(watch)))
    }

    /// `parent` watches the directory that the directory `node` is in, by this name.
    pub(super) fn set_parent(&mut self, node: Node, parent: Watch, name: Vec<u8>) {
        self.children.entry(parent).or_default().entry(name.clone()).or_default().push(node);
        self.parents.insert(node, (parent, name));
    }

    /// Nobody wants to know any more whether `node` is gone. Returns the watch that told it, likewise.
    pub(super) fn remove_parent(&mut self, node: Node) -> Option<(Watch, Left)> {
        let (parent, name) = self.parents.remove(&node)?;
        let children = self.children.get_mut(&parent)?;
        let of_that_name = children.get_mut(&name)?;
        of_that_name.retain(|child| *child != node);
        if of_that_name.is_empty() {
            children.remove(&name);
        }
        if children.is_empty() {
            self.children.remove(&parent);
        }
        Some((parent, self.left(parent)))
    }

    /// Directories that are watched, and were `name` in the one that `watch` is of.
    pub(super) fn children(&self, watch: Watch, name: &[u8]) -> Vec<Node> {
        self.children.get(&watch).and_then(|children| children.get(name)).cloned().unwrap_or_default()
    }

    /// The host has taken `watch` away. Returns what becomes of the watches of the directories that its nodes were in.
    pub(super) fn is_gone(&mut self, watch: Watch) -> Vec<(Watch, Left)> {
        let gone = self.watches.remove(&watch).unwrap_or_default();
        for (node, mask) in &gone {
            self.nodes.remove(node);
            self.count(*mask, false);
        }
        for node in self.children.remove(&watch).unwrap_or_default().into_values().flatten() {
            self.parents.remove(&node);
        }
        gone.into_iter().filter_map(|(node, _)| self.remove_parent(node)).collect()
    }

    /// Who is told of an event of `watch`.
    pub(super) fn told_of(&self, watch: Watch, mask: u32) -> Vec<Node> {
        let watched = self.watches.get(&watch).into_iter().flatten();
        watched.filter(|(_, wanted)| wanted & mask != 0).map(|(node, _)| *node).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_that_is_mounted_twice_is_told_to_whom_it_concerns() {
        let mut table = Table::default();
        table.set(1, 10, libc::IN_MODIFY);
        table.set(1, 11, libc::IN_CREATE | libc::IN_MODIFY);
        assert_eq!(table.others(10), libc::IN_CREATE | libc::IN_MODIFY);
        assert_eq!(table.told_of(1, libc::IN_MODIFY), [10, 11]);
        assert_eq!(table.told_of(1, libc::IN_CREATE | libc::IN_ISDIR), [11]);
        assert_eq!(table.remove(11), Some((1, Left::Node(10, libc::IN_MODIFY))));
        assert_eq!(table.kinds(), libc::IN_MODIFY);
        assert_eq!(table.remove(10), Some((1, Left::Nothing)));
        assert_eq!((table.kinds(), table.len(), table.remove(10)), (0, 0, None));
    }

    #[test]
    fn watch_that_is_set_anew_counts_once() {
        let mut table = Table::default();
        table.set(1, 10, libc::IN_MODIFY);
        table.set(2, 10, libc::IN_CREATE);
        assert!(table.told_of(1, libc::IN_MODIFY).is_empty());
        assert_eq!(table.told_of(2, libc::IN_CREATE), [10]);
        assert_eq!(table.kinds(), libc::IN_CREATE);
        table.is_gone(2);
        assert!(!table.knows(10));
        assert_eq!(table.kinds(), 0);
    }

    #[test]
    fn end_of_a_file_is_told_by_its_attributes() {
        let asked = libc::IN_CREATE | libc::IN_ONLYDIR | libc::IN_MASK_ADD;
        assert_eq!(wanted(asked), libc::IN_CREATE | libc::IN_ATTRIB);
        assert_eq!(wanted(libc::IN_ONLYDIR), 0);
    }

    #[test]
    fn directory_is_watched_as_long_as_one_in_it_is() {
        let mut table = Table::default();
        table.set(1, 10, libc::IN_MODIFY);
        table.set_parent(11, 1, b"a".to_vec());
        table.set_parent(12, 1, b"b".to_vec());
        assert_eq!(table.others(10), OF_CHILDREN);
        assert_eq!((table.children(1, b"a"), table.children(1, b"c")), (vec![11], vec![]));
        assert_eq!(table.remove_parent(11), Some((1, Left::Node(10, libc::IN_MODIFY | OF_CHILDREN))));
        assert_eq!(table.remove(10), Some((1, Left::Children)));
        assert_eq!(table.remove_parent(12), Some((1, Left::Nothing)));
        assert_eq!((table.children(1, b"b"), table.remove_parent(12)), (vec![], None));
    }

    #[test]
    fn watch_that_is_gone_takes_all_along() {
        let mut table = Table::default();
        table.set(1, 10, libc::IN_MODIFY);
        table.set_parent(11, 1, b"a".to_vec());
        assert_eq!(table.is_gone(1), []);
        assert_eq!((table.len(), table.remove(10), table.remove_parent(11)), (0, None, None));
        // A directory that is watched leaves the one that it was in.
        table.set(2, 12, libc::IN_MODIFY);
        table.set_parent(12, 3, b"b".to_vec());
        assert_eq!((table.parents(), table.is_gone(2)), (1, vec![(3, Left::Nothing)]));
        assert_eq!((table.parents(), table.children(3, b"b")), (0, vec![]));
    }
}
