//! What the host asks of the agent.

use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use oci_spec::runtime::LinuxResources;
use vmrun_proto::{
    ConsoleSize, ContainerPlan, ErrorKind, ErrorReply, GuestMark, Network, ProcessIo, ProcessRef, Reply,
    Request, Stage, StreamKind,
};

use super::lifecycle::cgroup_of;
use super::names::describe;
use super::process::{ContainerEntry, Exec, ManagedProcess, State};
use super::{ReplyTo, Server};
use crate::container::{Members, describe_processes, figures};
use crate::{clock, free_memory, generation, marks, network, sys};

/// Where the agent keeps what belongs to processes: numbered, since ids of the
/// host are no file names.
const STATE_DIRECTORY: &str = "/run/vmrun/process";

/// How long the host may take to connect the streams that it has announced.
const STREAM_LIMIT: Duration = Duration::from_secs(10);

fn refused(kind: ErrorKind, message: String) -> ErrorReply {
    ErrorReply { kind, stage: Stage::Request, message }
}

fn failed(act: &str, id: &str, cause: &dyn std::fmt::Display) -> ErrorReply {
    let message = format!("cannot {act} container {id:?}: {cause}");
    ErrorReply { kind: ErrorKind::Failed, stage: Stage::Running, message }
}

impl Server {
    /// Carries a request out, or begins to; the reply may come later.
    pub(super) fn handle(&mut self, request: Request, reply: ReplyTo) {
        let done = match request {
            Request::Create { container, plan } => {
                marks::tell(GuestMark::ContainerOrdered);
                self.create(container, plan, reply)
            }
            Request::Start { container } => self.start(container, reply),
            Request::Exec { process, spec, io, cgroup } => {
                self.exec(process, Exec { spec, cgroup }, io, reply)
            }
            Request::Signal { process, signal, all } => {
                self.signal(&process, signal, all).map(|()| Some(Reply::Ok))
            }
            Request::Resize { process, size } => self.resize(&process, size).map(|()| Some(Reply::Ok)),
            Request::Delete { container } => self.delete(&container, reply),
            Request::Freeze { container } => self.freeze(&container, true),
            Request::Thaw { container } => self.freeze(&container, false),
            Request::Update { container, resources } => self.update(&container, &resources),
            Request::Network { container, network } => self.set_network(&container, &network),
            Request::Processes { container } => self.list_processes(&container),
            Request::Figures { container } => {
                let figures = |members: Members| {
                    Reply::Figures(Box::new(figures(members.home().directory(), members.init())))
                };
                self.members(&container).map(|members| Some(figures(members)))
            }
            Request::Sync => Ok(self.begin_sync(reply)),
            Request::NewGeneration { entropy, realtime_ns } => {
                // Nothing may run in a guest that is not one of its own: what was asked behind this is on its way.
                if let Err(error) = generation::begin(&entropy, realtime_ns) {
                    crate::die(&format_args!("cannot become another guest than the saved one: {error}"));
                }
                Ok(Some(Reply::Ok))
            }
            Request::Balloon { device, announcement } => {
                free_memory::give_back(&device, &announcement).map(|()| Some(Reply::Ok)).map_err(|cause| {
                    refused(ErrorKind::Failed, format!("cannot give memory back to the host: {cause}"))
                })
            }
            Request::Clock { adjust_ns } => clock::adjust(adjust_ns, self.nobody_has_run())
                .map(|realtime_ns| Some(Reply::Clock { realtime_ns }))
                .map_err(|cause| {
                    refused(ErrorKind::Failed, format!("cannot set the guest's clock: {cause}"))
                }),
        };
        match done {
            Ok(Some(answer)) => self.reply(reply, answer),
            Ok(None) => {}
            Err(error) => self.reply_error(reply, error),
        }
    }

    /// Whether no program has been started yet.
    fn nobody_has_run(&self) -> bool {
        self.processes.values().all(|process| matches!(process.state, State::Making { .. } | State::Created))
    }

    fn create(
        &mut self,
        id: String,
        plan: Box<ContainerPlan>,
        reply: ReplyTo,
    ) -> Result<Option<Reply>, ErrorReply> {
        if self.containers.contains_key(&id) {
            return Err(refused(ErrorKind::WrongState, format!("container {id:?} exists already")));
        }
        if let Some(clash) = plan
            .shares
            .iter()
            .find(|share| self.shares.get(&share.mountpoint).is_some_and(|mounted| mounted != *share))
        {
            let message = format!("something else is mounted at {:?} already", clash.mountpoint);
            return Err(refused(ErrorKind::InvalidConfig, message));
        }
        let reference = ProcessRef { container: id.clone(), exec: None };
        let init = self.add_process(reference, plan.io, State::Making { reply }, reply);
        let cgroup = cgroup_of(&plan, &id);
        self.containers.insert(id, ContainerEntry::new(plan, cgroup, init));
        self.launch(init, None).inspect_err(|_| self.discard_process(init))?;
        Ok(None)
    }

    fn start(&mut self, id: String, reply: ReplyTo) -> Result<Option<Reply>, ErrorReply> {
        let reference = ProcessRef { container: id, exec: None };
        let number = self.known(&reference)?;
        let Some(process) = self.processes.get_mut(&number) else { return Ok(None) };
        if !matches!(process.state, State::Created) {
            return Err(wrong_state("start", process));
        }
        process.state = State::StartAwaitsStreams { deadline: Instant::now() + STREAM_LIMIT, reply };
        self.streams_changed(number);
        Ok(None)
    }

    fn exec(
        &mut self,
        reference: ProcessRef,
        exec: Exec,
        io: ProcessIo,
        reply: ReplyTo,
    ) -> Result<Option<Reply>, ErrorReply> {
        if reference.exec.is_none() {
            return Err(refused(ErrorKind::InvalidConfig, "an exec needs an exec id".to_owned()));
        }
        if self.process_id(&reference).is_some() {
            return Err(refused(ErrorKind::WrongState, format!("{} exists already", describe(&reference))));
        }
        let init = self.known(&ProcessRef { container: reference.container.clone(), exec: None })?;
        let Some(init) = self.processes.get(&init) else { return Ok(None) };
        if !matches!(init.state, State::Running | State::Created) {
            return Err(wrong_state("run a process in", init));
        }
        let deadline = Instant::now() + STREAM_LIMIT;
        let number = self.add_process(reference, io, State::AwaitingStreams { deadline, reply, exec }, reply);
        self.streams_changed(number);
        Ok(None)
    }

    fn add_process(&mut self, reference: ProcessRef, io: ProcessIo, state: State, to: ReplyTo) -> u64 {
        let number = self.new_id();
        let directory = Path::new(STATE_DIRECTORY).join(number.to_string());
        self.processes.insert(number, ManagedProcess::new(reference, io, directory, state, to.connection));
        self.adopt_waiting_streams(number);
        number
    }

    fn signal(&mut self, reference: &ProcessRef, signal: i32, all: bool) -> Result<(), ErrorReply> {
        let number = self.known(reference)?;
        let Some(process) = self.processes.get(&number) else { return Ok(()) };
        if process.pid.is_none() && !all {
            return Err(wrong_state("send a signal to", process));
        }
        self.send_signal(number, signal, all).map_err(|error| {
            let message = format!("cannot send signal {signal} to {}: {error}", describe(reference));
            ErrorReply { kind: ErrorKind::Failed, stage: Stage::Running, message }
        })
    }

    fn resize(&mut self, reference: &ProcessRef, size: ConsoleSize) -> Result<(), ErrorReply> {
        let failed = |cause: String| ErrorReply {
            kind: ErrorKind::Failed,
            stage: Stage::Running,
            message: format!("cannot resize the terminal of {}: {cause}", describe(reference)),
        };
        let number = self.known(reference)?;
        if let Some(relay) = self.terminal_stream(reference) {
            let [_, terminal] = relay.descriptors();
            return sys::set_window_size(terminal, size).map_err(|error| failed(error.to_string()));
        }
        let Some(process) = self.processes.get_mut(&number) else { return Ok(()) };
        match process.endpoints.get(&StreamKind::Terminal) {
            Some(endpoint) => {
                sys::set_window_size(endpoint.as_fd(), size).map_err(|error| failed(error.to_string()))
            }
            None if process.io.terminal => {
                process.io.console_size = Some(size);
                Ok(())
            }
            None => Err(refused(ErrorKind::WrongState, format!("{} has no terminal", describe(reference)))),
        }
    }

    fn delete(&mut self, id: &str, reply: ReplyTo) -> Result<Option<Reply>, ErrorReply> {
        let number = self.known(&ProcessRef { container: id.to_owned(), exec: None })?;
        let Some(process) = self.processes.get(&number) else { return Ok(None) };
        if matches!(process.state, State::Making { .. }) {
            return Err(wrong_state("delete", process));
        }
        self.begin_removal(id, reply);
        Ok(None)
    }

    fn members(&self, id: &str) -> Result<Members, ErrorReply> {
        let members = self.containers.get(id).map(|entry| self.members_of(entry));
        members.ok_or_else(|| refused(ErrorKind::NotFound, format!("container {id:?} does not exist")))
    }

    fn freeze(&self, id: &str, frozen: bool) -> Result<Option<Reply>, ErrorReply> {
        let act = if frozen { "freeze" } else { "thaw" };
        self.members(id)?.freeze(frozen).map_err(|error| failed(act, id, &error))?;
        Ok(Some(Reply::Ok))
    }

    fn update(&self, id: &str, resources: &LinuxResources) -> Result<Option<Reply>, ErrorReply> {
        let cgroup = self.members(id)?.home();
        cgroup.update(resources).map_err(|error| failed("update the limits of", id, &error))?;
        Ok(Some(Reply::Ok))
    }

    /// What cannot be done is told, and tried again with the next description.
    fn set_network(&mut self, id: &str, wanted: &Network) -> Result<Option<Reply>, ErrorReply> {
        let number = self.known(&ProcessRef { container: id.to_owned(), exec: None })?;
        let Some(process) = self.processes.get(&number) else { return Ok(None) };
        let Some(pid) = process.pid else { return Err(wrong_state("change the network of", process)) };
        let Some(entry) = self.containers.get_mut(id) else { return Ok(None) };
        let (reached, result) = network::change(pid, entry.plan.network.as_deref(), wanted);
        if let Some(reached) = reached {
            entry.plan.network = Some(Box::new(reached));
        }
        let served = self.serve_names(id, pid, &wanted.name_servers);
        result.and(served).map_err(|cause| failed("change the network of", id, &cause))?;
        Ok(Some(Reply::Ok))
    }

    fn list_processes(&self, id: &str) -> Result<Option<Reply>, ErrorReply> {
        let pids =
            self.members(id)?.processes().map_err(|error| failed("list the processes of", id, &error))?;
        Ok(Some(Reply::Processes(describe_processes(pids))))
    }

    fn known(&self, reference: &ProcessRef) -> Result<u64, ErrorReply> {
        self.process_id(reference)
            .ok_or_else(|| refused(ErrorKind::NotFound, format!("{} does not exist", describe(reference))))
    }
}

fn wrong_state(act: &str, process: &ManagedProcess) -> ErrorReply {
    let message = format!("cannot {act} {}: it is {}", describe(&process.reference), process.state.name());
    refused(ErrorKind::WrongState, message)
}
