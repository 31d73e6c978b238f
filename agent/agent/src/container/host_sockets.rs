//! What stands for the host's sockets is put where the shared tree has them, so that it is what the configuration's mounts bind.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, lchown};
use std::path::Path;

use nix::mount::{MsFlags, mount};
use vmrun_proto::HostSocket;

use crate::host_sockets::place;

/// Puts the stand-in for each socket, which is in `directory`, over it; its owner and its mode are the host's.
pub(crate) fn put_over(sockets: &[HostSocket], directory: &Path) -> Result<(), String> {
    for (number, socket) in sockets.iter().enumerate() {
        put(&place(directory, number), Path::new(&socket.path))
            .map_err(|error| format!("cannot stand for the host's socket at {}: {error}", socket.path))?;
    }
    Ok(())
}

fn put(stand_in: &Path, socket: &Path) -> io::Result<()> {
    let found = fs::symlink_metadata(socket)?;
    if !found.file_type().is_socket() {
        // Another one took its name before it was mounted: it is mounted as what it is.
        return Ok(());
    }
    lchown(stand_in, Some(found.uid()), Some(found.gid()))?;
    fs::set_permissions(stand_in, Permissions::from_mode(found.mode()))?;
    let none: Option<&str> = None;
    Ok(mount(Some(stand_in), socket, none, MsFlags::MS_BIND, none)?)
}
