//! Which of the host's events come of the guest's own request.
//!
//! Those that came between the request's beginning and its end, of its kind, about its files. Anybody else's of the same kind
//! about the same file within these microseconds would be merged with the request's own by any inotify.

use std::io::Read;

use virtiofsd::descriptor_utils::Reader;
use virtiofsd::fuse::{CreateIn, InHeader, LinkIn, MkdirIn, MknodIn, Opcode, Rename2In, RenameIn};

use super::super::ids::Node;
use super::message::Told;

/// What comes of opening a file and closing it, which the server does for many a request.
const OPENS: u32 = libc::IN_OPEN | libc::IN_CLOSE_WRITE | libc::IN_CLOSE_NOWRITE;
const CHANGES: u32 = libc::IN_MODIFY | libc::IN_ATTRIB | libc::IN_ACCESS;
const MOVES: u32 = libc::IN_MOVED_FROM | libc::IN_MOVED_TO | libc::IN_MOVE_SELF | libc::IN_CREATE;
const GOES: u32 = libc::IN_DELETE_SELF | libc::IN_ATTRIB;
/// Two names and their ends.
const MOST_NAMES: u64 = 2 * 256;

/// What may come of a request.
pub(super) fn kinds(opcode: u32) -> u32 {
    let Ok(opcode) = Opcode::try_from(opcode) else { return 0 };
    match opcode {
        Opcode::Setattr
        | Opcode::Write
        | Opcode::Fallocate
        | Opcode::CopyFileRange
        | Opcode::Open
        | Opcode::Opendir
        | Opcode::Setxattr
        | Opcode::Removexattr => CHANGES | OPENS,
        Opcode::Symlink | Opcode::Mknod | Opcode::Mkdir | Opcode::Link | Opcode::Create => {
            libc::IN_CREATE | CHANGES | OPENS
        }
        Opcode::Unlink | Opcode::Rmdir => libc::IN_DELETE | GOES,
        Opcode::Rename | Opcode::Rename2 => MOVES | GOES,
        Opcode::Read | Opcode::Readdir | Opcode::Readdirplus => libc::IN_ACCESS,
        Opcode::Getxattr
        | Opcode::Listxattr
        | Opcode::Release
        | Opcode::Releasedir
        | Opcode::Flush
        | Opcode::Getlk
        | Opcode::Setlk
        | Opcode::Setlkw
        | Opcode::TmpFile => OPENS,
        _ => 0,
    }
}

/// What a request may leave behind.
#[derive(Debug, Default)]
pub(crate) struct Echo {
    kinds: u32,
    /// The files that it names by their nodes,
    nodes: Vec<Node>,
    /// and by what they are called in a directory.
    names: Vec<(Node, Vec<u8>)>,
    /// What these are called, once that is known.
    called: Option<Vec<(Node, Vec<u8>)>>,
    /// What has been taken for it.
    taken: Vec<Told>,
}

impl Echo {
    /// Of this request.
    pub(super) fn of(header: &InHeader, reader: &Reader<'_>) -> Self {
        let kinds = kinds(header.opcode);
        let mut echo = Self { kinds, nodes: vec![header.nodeid], ..Self::default() };
        // What is not understood here, virtiofsd refuses.
        let _ = echo.read(header, reader.clone());
        echo
    }

    fn read(&mut self, header: &InHeader, mut reader: Reader<'_>) -> Option<()> {
        reader.read_obj::<InHeader>().ok()?;
        let parent = header.nodeid;
        let mut parents = [Some(parent), None];
        match Opcode::try_from(header.opcode).ok()? {
            Opcode::Create => drop(reader.read_obj::<CreateIn>().ok()?),
            Opcode::Mknod => drop(reader.read_obj::<MknodIn>().ok()?),
            Opcode::Mkdir => drop(reader.read_obj::<MkdirIn>().ok()?),
            Opcode::Link => self.nodes.push(reader.read_obj::<LinkIn>().ok()?.oldnodeid),
            Opcode::Rename => parents[1] = Some(reader.read_obj::<RenameIn>().ok()?.newdir),
            Opcode::Rename2 => parents[1] = Some(reader.read_obj::<Rename2In>().ok()?.newdir),
            Opcode::Symlink | Opcode::Unlink | Opcode::Rmdir => {}
            Opcode::CopyFileRange => {
                // From which handle and offset, and to which node.
                self.nodes.push(reader.read_obj::<[u64; 3]>().ok()?[2]);
                return Some(());
            }
            _ => return Some(()),
        }
        let mut bytes = Vec::new();
        reader.take(MOST_NAMES).read_to_end(&mut bytes).ok()?;
        let names = bytes.split(|byte| *byte == 0);
        self.names.extend(parents.into_iter().flatten().zip(names.map(<[u8]>::to_vec)));
        Some(())
    }

    /// Whether the request removes a directory of this name: what comes of that, the guest tells.
    pub(super) fn removes(&self, name: &[u8]) -> bool {
        self.kinds & libc::IN_DELETE != 0 && self.names.iter().any(|(_, own)| own == name)
    }

    /// Whether `told` comes of the request; `name` tells what a node is called.
    pub(super) fn takes(&mut self, told: &Told, name: &impl Fn(Node) -> Option<Vec<u8>>) -> bool {
        let kind = told.mask & libc::IN_ALL_EVENTS;
        if kind & !self.kinds != 0 {
            return false;
        }
        // Each comes once, but for files that are opened to serve the request.
        let is_own = (kind & OPENS != 0 || !self.taken.contains(told)) && self.is_about(told, name);
        if is_own {
            self.taken.push(told.clone());
        }
        is_own
    }

    fn is_about(&mut self, told: &Told, name: &impl Fn(Node) -> Option<Vec<u8>>) -> bool {
        let Self { nodes, names, called, .. } = self;
        let is_opened = told.mask & OPENS != 0;
        // A directory in which a name comes or goes is itself no more than opened.
        let is_meant = |node: Node| is_opened || !names.iter().any(|(parent, _)| *parent == node);
        if told.name.is_empty() {
            let own = (!names.is_empty()).then(|| name(told.node)).flatten();
            return (nodes.contains(&told.node) && is_meant(told.node))
                || own.is_some_and(|own| names.iter().any(|(_, name)| *name == own));
        }
        if names.iter().any(|(parent, name)| *parent == told.node && **name == *told.name) {
            return true;
        }
        let called = called
            .get_or_insert_with(|| nodes.iter().filter_map(|node| Some((*node, name(*node)?))).collect());
        called.iter().any(|(node, name)| is_meant(*node) && **name == *told.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(node: Node, mask: u32, name: &str) -> Told {
        Told { node, mask, cookie: 0, name: name.as_bytes().into() }
    }

    fn echo(opcode: Opcode, nodes: &[Node], names: &[(Node, &str)]) -> Echo {
        let names = names.iter().map(|(node, name)| (*node, name.as_bytes().to_vec())).collect();
        Echo { kinds: kinds(opcode as u32), nodes: nodes.to_vec(), names, ..Echo::default() }
    }

    const NAMELESS: fn(Node) -> Option<Vec<u8>> = |_| None;

    #[test]
    fn name_that_the_guest_makes_is_its_own_once() {
        let mut echo = echo(Opcode::Mkdir, &[1], &[(1, "new")]);
        let made = told(1, libc::IN_CREATE | libc::IN_ISDIR, "new");
        assert!(!echo.takes(&told(1, libc::IN_CREATE, "other"), &NAMELESS));
        assert!(!echo.takes(&told(2, libc::IN_CREATE, "new"), &NAMELESS));
        assert!(!echo.takes(&told(1, libc::IN_DELETE, "new"), &NAMELESS));
        assert!(echo.takes(&made, &NAMELESS));
        assert!(!echo.takes(&made, &NAMELESS));
    }

    #[test]
    fn file_that_is_written_is_known_by_what_it_is_called() {
        let name = |node| (node == 7).then(|| b"log".to_vec());
        let mut echo = echo(Opcode::Write, &[7], &[]);
        assert!(echo.takes(&told(7, libc::IN_MODIFY, ""), &name));
        assert!(echo.takes(&told(1, libc::IN_MODIFY, "log"), &name));
        assert!(!echo.takes(&told(1, libc::IN_MODIFY, "another"), &name));
        assert!(!echo.takes(&told(8, libc::IN_MODIFY, ""), &name));
    }

    #[test]
    fn file_that_loses_its_name_is_known_by_that() {
        let name = |node| (node == 7).then(|| b"old".to_vec());
        let mut echo = echo(Opcode::Unlink, &[1], &[(1, "old")]);
        assert!(echo.takes(&told(7, libc::IN_ATTRIB, ""), &name));
        assert!(!echo.takes(&told(8, libc::IN_ATTRIB, ""), &name));
        assert!(echo.takes(&told(1, libc::IN_DELETE, "old"), &name));
    }

    #[test]
    fn files_that_are_opened_to_serve_a_request_are_its_own_each_time() {
        let mut echo = echo(Opcode::Setxattr, &[7], &[]);
        for _ in 0..2 {
            assert!(echo.takes(&told(7, libc::IN_OPEN, ""), &NAMELESS));
            assert!(echo.takes(&told(7, libc::IN_CLOSE_NOWRITE, ""), &NAMELESS));
        }
    }

    #[test]
    fn looks_leave_nothing_behind() {
        for opcode in [Opcode::Lookup, Opcode::Getattr, Opcode::Forget, Opcode::Statfs, Opcode::Readlink] {
            assert_eq!(kinds(opcode as u32), 0);
        }
        assert_eq!(kinds(super::super::EVENTS), 0);
    }
}
