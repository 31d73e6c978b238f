//! Processes on their way from the order to the running program, and containers
//! on their way out.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Instant;

use vmrun_proto::{ErrorKind, ErrorReply, Event, GuestMark, Reply, Share, Stage, StreamKind};

use super::host_sockets;
use super::names::{describe, stream_name};
use super::poller::Token;
use super::process::{ContainerEntry, Exec, State};
use super::{ReplyTo, Server};
use crate::container::{self, Cgroup, Kind, Members, MemoryEvents, Order, host_user, start_maker};
use crate::report::{self, Received, Report};
use crate::stdio::{ChildStdio, Endpoint, make_pipes};
use crate::{log, marks, removal, sys};

/// Name of the directory, in a process's, with the socket on which it says how it is.
const NOTIFY_DIRECTORY: &str = "notify";

const ENDED_EARLY: &str = "the process ended while it was made";

impl Server {
    /// Starts the maker of a process.
    pub(super) fn launch(&mut self, id: u64, exec: Option<&Exec>) -> Result<(), ErrorReply> {
        let about = |what: &str, cause: &dyn std::fmt::Display| ErrorReply {
            kind: ErrorKind::Failed,
            stage: Stage::Create,
            message: format!("cannot {what}: {cause}"),
        };
        let Some(process) = self.processes.get_mut(&id) else { return Ok(()) };
        let Some(entry) = self.containers.get(&process.reference.container) else { return Ok(()) };
        let user = exec
            .map(|exec| &*exec.spec)
            .or(entry.plan.spec.process().as_ref())
            .map_or(0, |process| process.user().uid());
        let owner = host_user(&entry.plan.spec, user);
        let (near, far) = make_pipes(&process.io, owner).map_err(|error| about("make the pipes", &error))?;
        fs::create_dir_all(&process.directory).map_err(|error| about("make the state directory", &error))?;
        let (report, far_report) = report::pair().map_err(|error| about("make the report socket", &error))?;
        self.poller
            .watch_input(&report, Token::Report(id))
            .map_err(|error| about("watch the reports", &error))?;
        process.endpoints = near;
        process.report = Some(report);
        if entry.plan.notify && exec.is_none() {
            let socket = super::notify::bind(&process.directory.join(NOTIFY_DIRECTORY));
            process.notify = Some(socket.map_err(|error| about("make the notification socket", &error))?);
        }
        let init = exec.is_none().then(|| (process.reference.container.clone(), process.directory.clone()));
        self.watch_notify_socket(id).map_err(|error| about("watch the notification socket", &error))?;
        if let Some((container, directory)) = init {
            self.open_host_sockets(&container, &directory)
                .map_err(|error| about("stand for the host's sockets", &error))?;
        }
        self.fork_maker(id, exec, far, &far_report).map_err(|error| about("fork", &error))?;
        drop(far_report);
        self.attach_streams(id);
        Ok(())
    }

    fn fork_maker(
        &self,
        id: u64,
        exec: Option<&Exec>,
        stdio: ChildStdio,
        far_report: &OwnedFd,
    ) -> io::Result<()> {
        let Some(process) = self.processes.get(&id) else { return Ok(()) };
        let Some(entry) = self.containers.get(&process.reference.container) else { return Ok(()) };
        let shares = self.shares_to_mount(&entry.plan.shares);
        let init = self.processes.get(&entry.init).and_then(|init| init.pid).unwrap_or_default();
        let kind = match exec {
            Some(exec) => Kind::Exec { process: &exec.spec, init, cgroup: exec.cgroup.as_deref() },
            None => Kind::Init {
                shares: &shares,
                mounts: &entry.plan.mounts,
                sockets: (&entry.plan.sockets, process.directory.join(host_sockets::DIRECTORY)),
                disks: &entry.plan.disks,
                root_image: entry.plan.root_image.as_ref(),
                bundle: &entry.plan.bundle,
                settings: &entry.plan.settings,
                network: entry.plan.network.as_deref(),
                notify: process.notify.as_ref().map(|_| process.directory.join(NOTIFY_DIRECTORY)),
            },
        };
        let order = Order {
            container: &process.reference.container,
            spec: &entry.plan.spec,
            kind,
            directory: &process.directory,
            stdio,
            io: process.io,
        };
        start_maker(&order, far_report)
    }

    /// Those that are not mounted yet.
    fn shares_to_mount(&self, shares: &[Share]) -> Vec<Share> {
        shares.iter().filter(|share| !self.shares.contains_key(&share.mountpoint)).cloned().collect()
    }

    /// Takes every report that has come.
    pub(super) fn report_ready(&mut self, id: u64) {
        while let Some(socket) = self.processes.get(&id).and_then(|process| process.report.as_ref()) {
            match report::receive(socket.as_fd()) {
                Ok(Received::Report(report, descriptor)) => self.reported(id, report, descriptor),
                Ok(Received::Nothing) => return,
                Ok(Received::End) => self.reports_ended(id),
                Err(error) => {
                    log::warn(format_args!("cannot read a report: {error}"));
                    self.reports_ended(id);
                }
            }
        }
    }

    fn reported(&mut self, id: u64, report: Report, descriptor: Option<OwnedFd>) {
        let Some(process) = self.processes.get_mut(&id) else { return };
        match report {
            Report::Failed(error) => self.failed(id, error),
            Report::Made { pid } => {
                process.pid = Some(pid);
                if let Some(side) = descriptor
                    && crate::stdio::set_nonblocking(&side).is_ok()
                {
                    process.terminal = sys::terminal_peer(side.as_fd()).ok();
                    process.endpoints.insert(StreamKind::Terminal, Endpoint::Terminal(side));
                }
                self.made(id, pid);
            }
        }
    }

    fn failed(&mut self, id: u64, error: ErrorReply) {
        let Some(process) = self.processes.get_mut(&id) else { return };
        let starting = match process.state {
            State::Starting { reply } => Some(reply),
            _ => None,
        };
        if let Some(reply) = starting {
            process.state = State::StartFailed;
            self.reply_error(reply, error);
            return;
        }
        // The first one knows best: later ones are its echo in other processes.
        process.failure.get_or_insert(error);
    }

    fn made(&mut self, id: u64, pid: i32) {
        let Some(process) = self.processes.get_mut(&id) else { return };
        let State::Making { reply } = process.state else { return };
        let is_init = process.is_init();
        if is_init {
            let container = process.reference.container.clone();
            if let Err(cause) = self.serve_planned_names(&container, pid) {
                return self.unmake(id, pid, reply, cause);
            }
            let Some(process) = self.processes.get_mut(&id) else { return };
            process.state = State::Created;
            marks::tell(GuestMark::ContainerMade);
            self.remember_shares(&container);
            self.watch_memory(id, &container);
            self.reply(reply, Reply::Started { pid });
        } else {
            // The maker has let it run its program already.
            process.state = State::Starting { reply };
            if let Some(error) = process.failure.take() {
                self.failed(id, error);
            }
        }
        self.attach_streams(id);
        if !is_init && !self.processes.get(&id).is_some_and(|process| self.is_connected(process.owner)) {
            self.kill_exec(id);
        }
        if let Some(status) = self.unclaimed_exits.remove(&pid) {
            self.process_ended(id, status);
        }
    }

    /// Ends an init that cannot have what it needs.
    fn unmake(&mut self, id: u64, pid: i32, reply: ReplyTo, message: String) {
        if let Some(process) = self.processes.get_mut(&id) {
            process.state = State::StartFailed;
        }
        if let Err(error) = sys::kill(pid, libc::SIGKILL) {
            log::warn(format_args!("cannot kill an init that was not made: {error}"));
        }
        self.reply_error(reply, ErrorReply { kind: ErrorKind::Failed, stage: Stage::Create, message });
    }

    /// Where the kernel counts no memory nobody is killed for want of it.
    fn watch_memory(&mut self, init: u64, container: &str) {
        let Some(entry) = self.containers.get_mut(container) else { return };
        let Ok(events) = MemoryEvents::open(entry.cgroup.directory()) else { return };
        if let Err(error) = self.poller.watch_priority(&events, Token::MemoryEvents(init)) {
            log::warn(format_args!("cannot watch the memory of {container:?}: {error}"));
        }
        entry.memory = Some(events);
    }

    /// Tells of kills for want of memory that were not told.
    pub(super) fn memory_events(&mut self, init: u64) {
        let Some(container) = self.processes.get(&init).map(|init| init.reference.container.clone()) else {
            return;
        };
        let memory = self.containers.get_mut(&container).and_then(|entry| entry.memory.as_mut());
        if let Some(kills) = memory.and_then(MemoryEvents::more_kills) {
            self.tell(Event::OutOfMemory { container, kills });
        }
    }

    fn remember_shares(&mut self, container: &str) {
        let Some(entry) = self.containers.get(container) else { return };
        for share in &entry.plan.shares {
            self.shares.insert(share.mountpoint.clone(), share.clone());
        }
    }

    /// Every far end is closed: the program runs, or there will be no process.
    fn reports_ended(&mut self, id: u64) {
        let Some(process) = self.processes.get_mut(&id) else { return };
        process.report = None;
        match process.state {
            State::Starting { reply } => {
                let pid = process.pid.unwrap_or_default();
                process.state = State::Running;
                if process.is_init() {
                    marks::tell(GuestMark::ProgramRuns);
                }
                self.reply(reply, Reply::Started { pid });
            }
            State::Making { reply } => {
                let error = self.failure_of(id);
                self.discard_process(id);
                self.reply_error(reply, error);
            }
            _ => {}
        }
    }

    /// What was reported, or that nothing was.
    fn failure_of(&mut self, id: u64) -> ErrorReply {
        let reported = self.processes.get_mut(&id).and_then(|process| process.failure.take());
        reported.unwrap_or_else(|| ErrorReply {
            kind: ErrorKind::Failed,
            stage: Stage::Create,
            message: ENDED_EARLY.to_owned(),
        })
    }

    /// Forgets a process that could not be made, with its container when it was the init.
    pub(super) fn discard_process(&mut self, id: u64) {
        let Some(process) = self.processes.remove(&id) else { return };
        self.drop_waiting_streams(&process.reference);
        remove_directory(&process.directory);
        if process.is_init()
            && let Some(entry) = self.containers.remove(&process.reference.container)
        {
            self.remove_cgroup(entry.cgroup);
        }
    }

    /// The host has connected a stream: what waited for it may go on.
    pub(super) fn streams_changed(&mut self, id: u64) {
        let Some(process) = self.processes.get_mut(&id) else { return };
        if process.state.deadline().is_none() || !process.missing_streams().is_empty() {
            return;
        }
        match std::mem::replace(&mut process.state, State::Ended) {
            State::AwaitingStreams { reply, exec, .. } => {
                process.state = State::Making { reply };
                if let Err(error) = self.launch(id, Some(&exec)) {
                    self.discard_process(id);
                    self.reply_error(reply, error);
                }
            }
            State::StartAwaitsStreams { reply, .. } => self.start_now(id, reply),
            other => process.state = other,
        }
    }

    /// Lets a created init run its program; the reply comes when it does.
    pub(super) fn start_now(&mut self, id: u64, reply: ReplyTo) {
        let Some(process) = self.processes.get_mut(&id) else { return };
        process.state = State::Starting { reply };
        let near = process.report.as_ref().map(OwnedFd::as_fd);
        let started = near.map_or_else(|| Err(io::ErrorKind::NotConnected.into()), report::start);
        if let Err(cause) = started {
            process.state = State::Created;
            let message = format!("cannot start {:?}: {cause}", process.reference.container);
            self.reply_error(reply, ErrorReply { kind: ErrorKind::Failed, stage: Stage::Exec, message });
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.processes.values().filter_map(|process| process.state.deadline()).min()
    }

    /// Gives up on processes whose streams did not come in time.
    pub(super) fn expire_deadlines(&mut self) {
        let now = Instant::now();
        let expired = |process: &super::ManagedProcess| {
            process.state.deadline().is_some_and(|deadline| deadline <= now)
        };
        let expired: Vec<u64> =
            self.processes.iter().filter(|(_, process)| expired(process)).map(|(id, _)| *id).collect();
        for id in expired {
            let Some(process) = self.processes.get_mut(&id) else { continue };
            let missing = process.missing_streams();
            let missing: Vec<_> = missing.into_iter().map(stream_name).collect();
            let message = format!(
                "the host announced streams of {} and did not connect them in time: {}",
                describe(&process.reference),
                missing.join(", ")
            );
            let error = ErrorReply { kind: ErrorKind::Failed, stage: Stage::Io, message };
            match std::mem::replace(&mut process.state, State::Created) {
                State::AwaitingStreams { reply, .. } => {
                    self.discard_process(id);
                    self.reply_error(reply, error);
                }
                State::StartAwaitsStreams { reply, .. } => self.reply_error(reply, error),
                other => process.state = other,
            }
        }
    }

    /// Kills what is left of a container; [`Self::finish_removal`] does the rest.
    pub(super) fn begin_removal(&mut self, container: &str, reply: ReplyTo) {
        let Some(entry) = self.containers.get_mut(container) else { return };
        entry.removal = Some(reply);
        let Some(entry) = self.containers.get(container) else { return };
        if let Err(error) = self.members_of(entry).kill() {
            log::warn(format_args!("cannot kill the processes of {container:?}: {error}"));
        }
        self.finish_removal(container);
    }

    /// Removes a container that shall be removed, once its init has been reaped.
    pub(super) fn finish_removal(&mut self, container: &str) {
        let Some(entry) = self.containers.get(container) else { return };
        let Some(reply) = entry.removal else { return };
        if self.processes.get(&entry.init).is_some_and(|init| init.pid.is_some()) {
            return;
        }
        let Some(entry) = self.containers.remove(container) else { return };
        self.remove_cgroup(entry.cgroup);
        let left: Vec<u64> = self
            .processes
            .iter()
            .filter(|(_, process)| process.reference.container == container && process.pid.is_none())
            .map(|(id, _)| *id)
            .collect();
        for id in left {
            self.discard_process(id);
        }
        self.reply(reply, Reply::Ok);
    }

    /// The processes of a container.
    pub(super) fn members_of(&self, entry: &ContainerEntry) -> Members {
        Members::new(&entry.cgroup, self.processes.get(&entry.init).and_then(|init| init.pid))
    }

    fn remove_cgroup(&mut self, cgroup: Cgroup) {
        if let Err(error) = cgroup.kill() {
            log::warn(format_args!("cannot kill the processes in {}: {error}", cgroup.directory().display()));
        }
        self.dying_cgroups.push(cgroup);
        self.remove_dying_cgroups();
    }

    /// A cgroup can be removed when its last process has been reaped, so this is
    /// tried again whenever one is.
    pub(super) fn remove_dying_cgroups(&mut self) {
        self.dying_cgroups.retain(|cgroup| match cgroup.remove() {
            Ok(removed) => !removed,
            Err(error) => {
                log::warn(format_args!("cannot remove the cgroup {}: {error}", cgroup.directory().display()));
                false
            }
        });
    }

    /// The host's relay of these processes is gone: nobody can reap or signal them any more.
    pub(super) fn kill_execs_of(&mut self, connection: u64) {
        let owned = |process: &super::ManagedProcess| !process.is_init() && process.owner == connection;
        let owned: Vec<u64> =
            self.processes.iter().filter(|(_, process)| owned(process)).map(|(id, _)| *id).collect();
        for id in owned {
            self.kill_exec(id);
        }
    }

    /// One that is being made is killed when it is there: [`Self::made`] sees to it.
    fn kill_exec(&mut self, id: u64) {
        let Some(process) = self.processes.get(&id) else { return };
        match (process.pid, &process.state) {
            (Some(pid), _) => {
                if let Err(error) = sys::kill(pid, libc::SIGKILL) {
                    log::warn(format_args!("cannot kill {}: {error}", describe(&process.reference)));
                }
            }
            (None, State::AwaitingStreams { .. }) => self.discard_process(id),
            (None, _) => {}
        }
    }

    /// Sends a signal to a process, or to all of its container.
    pub(super) fn send_signal(&self, id: u64, signal: i32, all: bool) -> io::Result<()> {
        let Some(process) = self.processes.get(&id) else { return Ok(()) };
        if all && let Some(entry) = self.containers.get(&process.reference.container) {
            return self.members_of(entry).signal(signal);
        }
        process.pid.map_or(Ok(()), |pid| sys::kill(pid, signal))
    }
}

fn remove_directory(directory: &Path) {
    if let Err(error) = removal::remove(directory) {
        log::warn(format_args!("cannot remove {}: {error}", directory.display()));
    }
}

/// The cgroup that a plan's container will be in.
pub(super) fn cgroup_of(plan: &vmrun_proto::ContainerPlan, id: &str) -> Cgroup {
    Cgroup::at(&container::cgroup_path(&plan.spec, id))
}
