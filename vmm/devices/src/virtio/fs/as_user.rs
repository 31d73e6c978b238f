//! Files that are made as the user who asks.

use std::io;

use rustix::process::{getegid, geteuid};
use rustix::thread::{Gid, Uid, set_thread_res_gid, set_thread_res_uid};
use virtiofsd::filesystem::Context;
use virtiofsd::soft_idmap::Id;

use super::nameless::id;

/// Acts as the user and group of `ctx`, with the capabilities that this thread has kept.
pub(super) fn as_user<T>(ctx: Context, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let server = (geteuid(), getegid());
    let user = (Uid::from_raw(id(ctx.uid.into_inner())?), Gid::from_raw(id(ctx.gid.into_inner())?));
    if user == server {
        return act();
    }
    let _back = Back(server);
    set_thread_res_gid(None, user.1, None)?;
    set_thread_res_uid(None, user.0, None)?;
    act()
}

/// Who the thread is again when this is dropped.
struct Back((Uid, Gid));

impl Drop for Back {
    fn drop(&mut self) {
        let Self((uid, gid)) = self;
        let back = set_thread_res_uid(None, *uid, None).and_then(|()| set_thread_res_gid(None, *gid, None));
        if back.is_err() {
            // The kernel gives back what the thread has saved. As somebody else it could serve nobody.
            std::process::abort();
        }
    }
}
