//! The host's file behind a handle.

use std::fs::File;
use std::io;

use virtiofsd::filesystem::{Context, ZeroCopyWriter};
use virtiofsd::oslib::ReadvFlags;

use super::host::Host;
use super::ids::{Handle, Node};

/// Lends `act` the file that is open on the host as `handle` of `node`.
///
/// virtiofsd keeps these to itself. It lends one to whoever takes what is read of it: here nothing is.
pub(super) fn with_file<T>(
    host: &Host,
    ctx: Context,
    node: Node,
    handle: Handle,
    act: impl FnOnce(&File) -> io::Result<T>,
) -> io::Result<T> {
    let mut borrower = Borrower { act: Some(act), result: None };
    host.read(ctx, node, handle, &mut borrower, 0, 0, None, 0)?;
    borrower.result.unwrap_or_else(|| Err(io::Error::from_raw_os_error(libc::EBADF)))
}

struct Borrower<F, T> {
    act: Option<F>,
    result: Option<io::Result<T>>,
}

impl<T, F: FnOnce(&File) -> io::Result<T>> ZeroCopyWriter for Borrower<F, T> {
    fn read_from_file_at(
        &mut self,
        file: &File,
        _: usize,
        _: u64,
        _: Option<ReadvFlags>,
    ) -> io::Result<usize> {
        self.result = self.act.take().map(|act| act(file));
        Ok(0)
    }
}
