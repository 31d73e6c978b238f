//! Children that have ended: processes the host asked for, makers, orphans.

use vmrun_proto::{ErrorKind, ErrorReply, Event, ExitStatus, GuestMark, Reply, Stage};

use super::Server;
use super::process::State;
use crate::{log, marks, sys};

impl Server {
    pub(super) fn children_ended(&mut self) {
        // The descriptor only says that there is something to reap.
        while let Ok(Some(_)) = self.signals.read_signal() {}
        while let Some((pid, status)) = sys::reap() {
            let mut managed = self.processes.iter().filter(|(_, process)| process.pid == Some(pid));
            match managed.next().map(|(id, _)| *id) {
                Some(id) => self.process_ended(id, status),
                None => drop(self.unclaimed_exits.insert(pid, status)),
            }
        }
        let being_made = |process: &super::ManagedProcess| matches!(process.state, State::Making { .. });
        if !self.processes.values().any(being_made) {
            self.unclaimed_exits.clear();
        }
        self.remove_dying_cgroups();
        self.finish_sync();
    }

    /// A process that the agent knows by its pid has ended.
    pub(super) fn process_ended(&mut self, id: u64, status: ExitStatus) {
        // Whether its program ever ran is in the reports.
        self.report_ready(id);
        let Some(process) = self.processes.get_mut(&id) else { return };
        let reference = process.reference.clone();
        let is_init = process.is_init();
        let pid = process.pid.take();
        drop(process.terminal.take());
        let mut tell = true;
        match std::mem::replace(&mut process.state, State::Ended) {
            State::Starting { reply } => self.reply(reply, Reply::Started { pid: pid.unwrap_or_default() }),
            State::StartAwaitsStreams { reply, .. } => {
                let message = format!("cannot start {:?}: its init process {status}", reference.container);
                self.reply_error(
                    reply,
                    ErrorReply { kind: ErrorKind::WrongState, stage: Stage::Io, message },
                );
            }
            State::StartFailed => tell = false,
            _ => {}
        }
        self.notified(id);
        self.send_what_is_written(&reference);
        if is_init {
            marks::tell(GuestMark::ProgramEnded);
            // The notice may still be on its way.
            self.memory_events(id);
        }
        if tell {
            self.tell(Event::Exited { process: reference.clone(), status });
        }
        if is_init {
            self.init_ended(&reference.container);
        } else {
            self.discard_process(id);
        }
    }

    /// Without its init a container ends: nothing of it may hold its pipes open.
    fn init_ended(&mut self, container: &str) {
        let Some(entry) = self.containers.get(container) else { return };
        if let Err(error) = entry.cgroup.kill() {
            log::warn(format_args!("cannot kill what is left of {container:?}: {error}"));
        }
        self.finish_removal(container);
    }
}
