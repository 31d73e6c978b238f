//! What a guest asks for that is out to leave the tree.

use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use virtiofsd::fuse::{InHeader, ROOT_ID};

use super::super::pass_through::{pass_through, serve_here};
use super::*;

/// A shared tree, and next to it what the guest may not reach.
struct Host {
    outside: TempDir,
    tree: SharedTree,
}

impl Host {
    fn new() -> Self {
        let outside = tempfile::tempdir().unwrap();
        for directory in ["tree/directory", "empty"] {
            fs::create_dir_all(outside.path().join(directory)).unwrap();
        }
        for file in ["secret", "tree/file"] {
            fs::write(outside.path().join(file), file).unwrap();
        }
        symlink(outside.path().join("secret"), outside.path().join("tree/link")).unwrap();
        let host = Arc::new(
            super::Host::new(
                pass_through(&outside.path().join("tree"), 1000).unwrap(),
                100,
                super::super::host::Manner::default(),
            )
            .unwrap(),
        );
        let tree = SharedTree::new(host, Arc::new(Locks::new(100, |_| ()).unwrap()));
        serve_here(&outside.path().join("tree"));
        tree.init(FsOptions::empty()).unwrap();
        Self { outside, tree }
    }

    fn node(&self, name: &CStr) -> Node {
        self.tree.lookup(context(), ROOT_ID, name).unwrap().inode
    }

    /// Names that lead to `target`, which is outside, or are none.
    fn bad_names(&self, target: &str) -> Vec<CString> {
        let absolute = self.outside.path().join(target);
        let relative =
            [format!("../{target}"), format!("directory/../../{target}"), format!("./../{target}")];
        let odd = ["", ".", "..", "/", "file/", "directory/new", "directory/.", "directory/.."];
        let names = relative.iter().map(String::as_str).chain(odd).map(|name| CString::new(name).unwrap());
        names.chain([CString::new(absolute.as_os_str().as_bytes()).unwrap()]).collect()
    }

    /// All files, in and outside the tree, with what tells whether they have been touched.
    fn files(&self) -> Vec<(PathBuf, u32, u64, i64)> {
        let mut files = Vec::new();
        walk(self.outside.path(), &mut files);
        files.sort();
        files
    }

    /// Asks with each bad name for `target`, and finds that each is refused and nothing done.
    fn refuses<T>(&self, target: &str, ask: impl Fn(&SharedTree, &CStr) -> io::Result<T>) {
        let before = self.files();
        for name in self.bad_names(target) {
            let error = ask(&self.tree, &name).err().and_then(|error| error.raw_os_error());
            assert_eq!(error, Some(libc::EINVAL), "{name:?}");
            assert_eq!(self.files(), before, "{name:?}");
        }
    }
}

fn walk(directory: &Path, files: &mut Vec<(PathBuf, u32, u64, i64)>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let metadata = path.symlink_metadata().unwrap();
        if metadata.is_dir() {
            walk(&path, files);
        }
        files.push((path, metadata.mode(), metadata.nlink(), metadata.mtime()));
    }
}

fn context() -> Context {
    InHeader::default().into()
}

fn no_extensions() -> Extensions {
    Extensions::default()
}

#[test]
fn lookup_stays_in_the_tree() {
    Host::new().refuses("secret", |tree, name| tree.lookup(context(), ROOT_ID, name));
}

#[test]
fn unlink_stays_in_the_tree() {
    Host::new().refuses("secret", |tree, name| tree.unlink(context(), ROOT_ID, name));
}

#[test]
fn rmdir_stays_in_the_tree() {
    Host::new().refuses("empty", |tree, name| tree.rmdir(context(), ROOT_ID, name));
}

#[test]
fn mkdir_stays_in_the_tree() {
    Host::new().refuses("new", |tree, name| tree.mkdir(context(), ROOT_ID, name, 0o755, 0, no_extensions()));
}

#[test]
fn mknod_stays_in_the_tree() {
    let mode = libc::S_IFREG | 0o644;
    Host::new()
        .refuses("new", |tree, name| tree.mknod(context(), ROOT_ID, name, mode, 0, 0, no_extensions()));
}

#[test]
fn create_stays_in_the_tree() {
    let flags = libc::O_RDWR.cast_unsigned();
    Host::new().refuses("new", |tree, name| {
        tree.create(context(), ROOT_ID, name, 0o644, false, flags, 0, no_extensions()).map(drop)
    });
}

#[test]
fn symlink_stays_in_the_tree() {
    Host::new()
        .refuses("new", |tree, name| tree.symlink(context(), c"target", ROOT_ID, name, no_extensions()));
}

#[test]
fn link_stays_in_the_tree() {
    let host = Host::new();
    let file = host.node(c"file");
    host.refuses("new", |tree, name| tree.link(context(), file, ROOT_ID, name));
}

#[test]
fn rename_stays_in_the_tree_with_both_names() {
    let host = Host::new();
    for flags in [0, libc::RENAME_NOREPLACE] {
        host.refuses("secret", |tree, name| tree.rename(context(), ROOT_ID, name, ROOT_ID, c"in", flags));
        host.refuses("new", |tree, name| tree.rename(context(), ROOT_ID, c"file", ROOT_ID, name, flags));
    }
    let exchange = libc::RENAME_EXCHANGE;
    host.refuses("secret", |tree, name| tree.rename(context(), ROOT_ID, c"file", ROOT_ID, name, exchange));
}

#[test]
fn names_that_only_look_odd_are_names() {
    let host = Host::new();
    for name in [c"...", c"..file", c"-", c"\\", c"a\nb", c"\xff\xfe", c" "] {
        let made = host.tree.mkdir(context(), ROOT_ID, name, 0o755, 0, no_extensions()).unwrap();
        assert_eq!(host.tree.lookup(context(), ROOT_ID, name).unwrap().inode, made.inode);
        host.tree.rename(context(), ROOT_ID, name, ROOT_ID, c"moved", 0).unwrap();
        host.tree.rmdir(context(), ROOT_ID, c"moved").unwrap();
    }
}

#[test]
fn symbolic_link_is_never_followed() {
    let host = Host::new();
    let link = host.node(c"link");
    let before = fs::metadata(host.outside.path().join("secret")).unwrap();
    let flags = libc::O_RDWR.cast_unsigned();
    assert!(host.tree.open(context(), link, false, flags).is_err());
    assert!(host.tree.opendir(context(), link, 0).is_err());
    assert!(host.tree.lookup(context(), link, c"secret").is_err());
    let created =
        host.tree.create(context(), ROOT_ID, c"link", 0o644, false, flags, 0, no_extensions()).map(drop);
    assert!(created.is_err());
    // Each of these may work, on the link.
    for valid in [SetattrValid::MODE, SetattrValid::SIZE, SetattrValid::MTIME] {
        let _ = host.tree.setattr(context(), link, SetattrIn::default(), None, valid);
    }
    let _ = host.tree.setxattr(context(), link, c"user.a", b"b", 0, SetxattrFlags::empty());
    host.tree.link(context(), link, ROOT_ID, c"again").unwrap();
    let secret = host.outside.path().join("secret");
    assert!(rustix::fs::getxattr(&secret, "user.a", &mut [0; 8][..]).is_err());
    let after = fs::metadata(&secret).unwrap();
    let of = |file: &fs::Metadata| (file.mode(), file.len(), file.mtime(), file.nlink());
    assert_eq!(of(&before), of(&after));
}

/// One of each kind, under its name; a device only where this user may make one.
fn special_files(host: &Host) -> Vec<Node> {
    let kinds = [(c"fifo", libc::S_IFIFO), (c"socket", libc::S_IFSOCK), (c"null", libc::S_IFCHR)];
    let null = 1 << 8 | 3;
    let made = kinds.map(|(name, kind)| {
        host.tree.mknod(context(), ROOT_ID, name, kind | 0o666, null, 0, no_extensions())
    });
    made.into_iter().flatten().map(|entry| entry.inode).collect()
}

#[test]
fn devices_pipes_and_sockets_of_the_host_are_never_opened() {
    let host = Host::new();
    let nodes = special_files(&host);
    assert!(nodes.len() >= 2);
    for node in nodes {
        for flags in [libc::O_RDONLY, libc::O_WRONLY, libc::O_RDWR | libc::O_NONBLOCK, libc::O_TRUNC] {
            let opened = host.tree.open(context(), node, false, flags.cast_unsigned());
            assert_eq!(opened.err().and_then(|error| error.raw_os_error()), Some(libc::EBADF));
        }
        let resized = host.tree.setattr(context(), node, SetattrIn::default(), None, SetattrValid::SIZE);
        assert_eq!(resized.err().and_then(|error| error.raw_os_error()), Some(libc::EBADF));
    }
    let flags = libc::O_WRONLY.cast_unsigned();
    let created =
        host.tree.create(context(), ROOT_ID, c"fifo", 0o666, false, flags, 0, no_extensions()).map(drop);
    assert_eq!(created.err().and_then(|error| error.raw_os_error()), Some(libc::EBADF));
}
