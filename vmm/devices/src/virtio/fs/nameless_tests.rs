use std::os::unix::fs::MetadataExt;

use tempfile::TempDir;

use super::*;

/// A directory of the host's, and the nameless files that are made in it.
struct Place {
    directory: TempDir,
    nameless: Nameless,
}

impl Place {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap(), nameless: Nameless::new(100).unwrap() }
    }

    fn make(&self, flags: libc::c_int, mode: u32) -> (Entry, Handle) {
        let directory = File::open(self.directory.path()).unwrap();
        self.nameless.make((7, &directory), context(), flags.cast_unsigned(), mode).unwrap()
    }

    fn link(&self, node: Node, name: &CStr) -> io::Result<()> {
        self.nameless.link(node, &File::open(self.directory.path()).unwrap(), name)
    }
}

fn context() -> Context {
    let user = std::fs::metadata("/proc/self").unwrap();
    Context { uid: user.uid().into(), gid: user.gid().into(), pid: 1 }
}

#[test]
fn file_has_no_name_until_it_is_linked() {
    let place = Place::new();
    let (entry, handle) = place.make(0, 0o640);
    assert_eq!((entry.attr.mode, entry.attr.nlink), (0o100_640, 0));
    assert_eq!(std::fs::read_dir(place.directory.path()).unwrap().count(), 0);
    std::io::Write::write_all(&mut &*place.nameless.opened(handle).unwrap(), b"content").unwrap();
    place.link(entry.inode, c"named").unwrap();
    let (attr, valid) = place.nameless.getattr(context(), entry.inode, None).unwrap();
    assert_eq!((attr.nlink, attr.size, valid), (1, 7, Duration::ZERO));
    assert_eq!(std::fs::read(place.directory.path().join("named")).unwrap(), b"content");
    assert_eq!(place.nameless.parent(entry.inode), Some(7));
}

#[test]
fn file_that_may_have_no_name_gets_none() {
    let place = Place::new();
    let (entry, _) = place.make(libc::O_EXCL, 0o600);
    assert_eq!(place.link(entry.inode, c"named").unwrap_err().raw_os_error(), Some(libc::ENOENT));
}

#[test]
fn each_open_has_a_description_of_its_own() {
    let place = Place::new();
    let (entry, first) = place.make(0, 0o600);
    let access = libc::O_RDONLY.cast_unsigned();
    let second = place.nameless.open(context(), entry.inode, false, access).unwrap().0.unwrap();
    let opened = |handle| place.nameless.opened(handle).unwrap();
    assert!(opened(first).try_lock().is_ok());
    assert!(opened(second).try_lock().is_err());
    place.nameless.release(context(), entry.inode, 0, second, false, false, None).unwrap();
    assert!(place.nameless.opened(second).is_none());
}

#[test]
fn file_goes_with_its_last_handle_and_node() {
    let place = Place::new();
    let (entry, handle) = place.make(0, 0o600);
    place.link(entry.inode, c"named").unwrap();
    place.nameless.forget(context(), entry.inode, 1);
    let error = place.nameless.getattr(context(), entry.inode, None).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EBADF));
    assert!(place.nameless.opened(handle).is_some());
    place.nameless.clear();
    assert!(place.nameless.opened(handle).is_none());
}

#[test]
fn truncation_by_one_who_may_not_keep_them_takes_special_bits() {
    let place = Place::new();
    let (entry, _) = place.make(0, 0o600);
    let mode = SetattrIn { mode: 0o6755, ..SetattrIn::default() };
    place.nameless.setattr(context(), entry.inode, mode, None, SetattrValid::MODE).unwrap();
    let size = SetattrIn { size: 3, ..SetattrIn::default() };
    let valid = SetattrValid::SIZE | SetattrValid::KILL_SUIDGID;
    let (attr, _) = place.nameless.setattr(context(), entry.inode, size, None, valid).unwrap();
    assert_eq!((attr.mode, attr.size), (0o100_755, 3));
}

#[test]
fn guest_gets_no_more_of_them_by_forgetting_what_it_has_open() {
    let place = Place { directory: tempfile::tempdir().unwrap(), nameless: Nameless::new(10).unwrap() };
    let directory = File::open(place.directory.path()).unwrap();
    let made = (0..100).filter_map(|_| {
        let (entry, handle) = place.nameless.make((7, &directory), context(), 0, 0o600).ok()?;
        place.nameless.forget(context(), entry.inode, 1);
        Some(handle)
    });
    let handles: Vec<_> = made.collect();
    assert!(handles.len() <= 10, "{}", handles.len());
    for handle in handles {
        place.nameless.release(context(), 0, 0, handle, false, false, None).unwrap();
    }
    place.make(0, 0o600);
}

#[test]
fn access_lists_and_ids_that_are_none_are_refused() {
    let place = Place::new();
    let (entry, _) = place.make(0, 0o600);
    let number = |error: io::Error| error.raw_os_error();
    let list = c"system.posix_acl_access";
    let set = place.nameless.setxattr(context(), entry.inode, list, &[2, 0, 0, 0], 0, SetxattrFlags::empty());
    assert_eq!(set.map_err(number), Err(Some(libc::ENOTSUP)));
    let got = place.nameless.getxattr(context(), entry.inode, list, 100);
    assert_eq!(got.map(drop).map_err(number), Err(Some(libc::ENOTSUP)));
    let nobody = SetattrIn { uid: u32::MAX.into(), ..SetattrIn::default() };
    let owned = place.nameless.setattr(context(), entry.inode, nobody, None, SetattrValid::UID);
    assert_eq!(owned.map(drop).map_err(number), Err(Some(libc::EINVAL)));
    let directory = File::open(place.directory.path()).unwrap();
    let nobody = Context { uid: u32::MAX.into(), ..context() };
    let made = place.nameless.make((7, &directory), nobody, 0, 0o600);
    assert_eq!(made.map(drop).map_err(number), Err(Some(libc::EINVAL)));
}
