//! The end of the VM: what programs have written goes to the host.
//!
//! ```text
//!   Sync ─▶ kill everybody ─▶ wait until nobody is left ─▶ write back ─▶ reply
//! ```
//!
//! A program can write through a mapping until its very last moment, and only when it is gone is all
//! that it has written marked as such. So the order matters.

use nix::unistd::{Pid, getpid};
use vmrun_proto::{ErrorKind, ErrorReply, Reply, Stage};

use super::{ReplyTo, Server, write_back};
use crate::{log, sys};

/// All processes but the first.
const EVERYBODY: i32 = -1;

impl Server {
    /// Begins to write everything back; the reply comes when it is done.
    pub(super) fn begin_sync(&mut self, reply: ReplyTo) -> Option<Reply> {
        for (id, entry) in &self.containers {
            if let Err(error) = entry.cgroup.kill() {
                log::warn(format_args!("cannot kill the processes of {id:?}: {error}"));
            }
        }
        // The guest's first process knows nobody else who would have to live on; who is privileged
        // enough can leave the container's cgroup. Elsewhere, in tests, others are not ours to kill.
        if getpid() == Pid::from_raw(1)
            && let Err(error) = sys::kill(EVERYBODY, libc::SIGKILL)
            && error.raw_os_error() != Some(libc::ESRCH)
        {
            log::warn(format_args!("cannot kill the processes that are left: {error}"));
        }
        self.syncing = Some(reply);
        self.finish_sync();
        None
    }

    /// Writes everything back that programs have left, once nobody is left to write. Orphans are the
    /// agent's children, so it learns of each end.
    pub(super) fn finish_sync(&mut self) {
        if self.syncing.is_none() || sys::has_children() {
            return;
        }
        if let Some(reply) = self.syncing.take() {
            self.end_host_sockets();
            match write_back::everything() {
                Ok(()) => self.reply(reply, Reply::Ok),
                Err(message) => {
                    let error = ErrorReply { kind: ErrorKind::Failed, stage: Stage::Running, message };
                    self.reply_error(reply, error);
                }
            }
        }
    }
}
