//! One container's life, from the guest's boot to the program's end.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use vmrun_machine::Running;
use vmrun_proto::{ConsoleSize, Event, ProcessRef, Request};
use vmrun_spec::{ControlReply, ControlRequest, FailureReport, MonitorMessage};

use super::MonitorRequest;
use super::boot::Booting;
use super::control_server::ControlServer;
use super::failure::{Broken, MonitorError, TAIL_LINES};
use super::launcher::Launcher;
use super::streams::{self, ConnectError, HostStreams, Stdio};
use crate::agent_client::{AgentClient, AgentError, Wait};
use crate::error::chain;
use crate::process::ProcessIdentity;
use crate::signals::{self, Signals};
use crate::status::Status;
use crate::stdio::{self, Drained, Relays};
use crate::store::Store;
use crate::timeline::mark;

const BOOT: Wait = Wait { what: "the guest to boot", limit: Duration::from_secs(60) };
const CREATE: Wait = Wait { what: "the agent to make the container", limit: Duration::from_secs(60) };
const START: Wait = Wait { what: "the agent to start the program", limit: Duration::from_secs(60) };
const SIGNAL: Wait = Wait { what: "the agent to send a signal", limit: Duration::from_secs(10) };
const RESIZE: Wait = Wait { what: "the agent to resize the terminal", limit: Duration::from_secs(10) };
const SYNC: Wait = Wait { what: "the guest to write its files back", limit: Duration::from_secs(60) };
const HOOKS: Wait = Wait { what: "the hooks before the creation", limit: Duration::from_secs(24 * 3600) };

const BOOTING: &str = "booting the guest";
const CREATING: &str = "making the container";
const STARTING: &str = "starting the program";
const RUNNING: &str = "running the program";

/// Carries the container to its end and gives its exit code. The machine may
/// still run then: it ends with the process, which has nothing else to do.
pub(crate) fn run(
    request: &MonitorRequest,
    booting: Booting,
    launcher: &Launcher,
    signals: &Signals,
) -> Result<u8, Broken> {
    let session = Session { request, machine: &booting.machine, launcher, signals };
    let result = session.prepare().and_then(|(stdio, prepared)| {
        let agent = session.await_agent(&booting)?;
        session.live(agent, stdio, &prepared)
    });
    let result = result.map_err(|error| {
        let console =
            if error.is_the_guests() { booting.machine.console().tail(TAIL_LINES) } else { Vec::new() };
        Broken { error, console }
    });
    // The kernel takes vCPUs, devices and memory away at once when the process
    // ends; joining each thread before would only delay that.
    std::mem::forget(booting);
    result
}

/// What does not change during the container's life.
struct Session<'s> {
    request: &'s MonitorRequest,
    machine: &'s Running,
    launcher: &'s Launcher,
    signals: &'s Signals,
}

/// What is set up while the guest boots.
struct Prepared {
    /// The terminal whose size the container's follows.
    terminal: Option<OwnedFd>,
    control: ControlServer,
}

impl Prepared {
    /// The size that the container's terminal should have now.
    fn size(&self) -> Option<ConsoleSize> {
        stdio::size(self.terminal.as_ref()?)
    }
}

impl Session<'_> {
    fn prepare(&self) -> Result<(Stdio, Prepared), MonitorError> {
        let (stdio, terminal) = HostStreams::open(self.request)?.split();
        let control = ControlServer::bind()
            .map_err(|source| MonitorError::Io { act: "listen on the control socket", source })?;
        Ok((stdio, Prepared { terminal, control }))
    }

    fn await_agent(&self, booting: &Booting) -> Result<AgentClient, MonitorError> {
        if !self.request.plan.host.hooks.create.is_empty() {
            self.await_hooks()?;
        }
        AgentClient::accept(&booting.ready, BOOT, &self.watch()).map_err(|error| self.explain(BOOTING, error))
    }

    fn await_hooks(&self) -> Result<(), MonitorError> {
        let watch = self.watch();
        // The launcher is what is waited for here, not what interrupts.
        let others: Vec<_> = watch.into_iter().skip(1).collect();
        HOOKS
            .readable(self.launcher.as_fd(), HOOKS.deadline(), &others)
            .map_err(|error| self.explain(BOOTING, error))?;
        match self.launcher.receive() {
            Ok(vmrun_spec::LauncherMessage::HooksDone) => Ok(()),
            Err(_) => Err(MonitorError::LauncherGone { stage: BOOTING }),
        }
    }

    /// What ends a wait before the start: the launcher's end, a signal, the machine's end.
    fn watch(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.launcher.as_fd(), self.signals.as_fd(), self.machine.ended_fd()]
    }

    /// Says why a wait was interrupted.
    fn explain(&self, stage: &'static str, error: AgentError) -> MonitorError {
        if is_readable(self.machine.ended_fd()) {
            return MonitorError::machine_end(stage, self.machine.end());
        }
        if !matches!(error, AgentError::Interrupted { .. }) {
            return MonitorError::Agent { stage, source: error };
        }
        while let Ok(Some(arrived)) = self.signals.next() {
            if signals::ends_a_process(arrived.number) {
                return MonitorError::Signal { stage, signal: arrived.number };
            }
        }
        MonitorError::LauncherGone { stage }
    }

    fn process(&self) -> ProcessRef {
        ProcessRef { container: self.request.state.id.clone(), exec: None }
    }

    fn live(&self, mut agent: AgentClient, stdio: Stdio, prepared: &Prepared) -> Result<u8, MonitorError> {
        mark("agent-ready");
        let mut relays = self.create(&mut agent, stdio)?;
        mark("container-created");
        // An error means that the launcher is gone: then nobody wants the container.
        let gone = |_| MonitorError::LauncherGone { stage: CREATING };
        self.launcher.send(&MonitorMessage::Created).map_err(gone)?;
        let container = self.request.state.id.clone();
        agent
            .call(Request::Start { container }, START, &self.watch())
            .map_err(|error| self.explain(STARTING, error))?;
        mark("program-started");
        self.record(Status::Running)?;
        // From here on the launcher may come and go.
        let _ = self.launcher.send(&MonitorMessage::Started);
        let code = self.attend(&mut agent, prepared)?;
        mark("program-ended");
        self.finish(&mut agent, &mut relays);
        mark("output-drained");
        Ok(code)
    }

    fn create(&self, agent: &mut AgentClient, stdio: Stdio) -> Result<Relays, MonitorError> {
        let watch = self.watch();
        let failed = |error| self.explain(CREATING, error);
        let plan = Box::new(self.request.plan.guest.clone());
        let io = plan.io;
        let container = self.request.state.id.clone();
        let seq = agent.send(Request::Create { container, plan }).map_err(failed)?;
        // While the agent makes the container its streams are connected.
        let connected = streams::connect(&self.process(), io, stdio, &watch);
        agent.reply(seq, CREATE, &watch).map_err(failed)?;
        connected.map_err(|error| match error {
            ConnectError::Agent(error) => self.explain(CREATING, error),
            ConnectError::Io(source) => MonitorError::Io { act: "copy the standard streams", source },
        })
    }

    fn record(&self, status: Status) -> Result<(), MonitorError> {
        let me = i32::try_from(std::process::id()).unwrap_or_default();
        let identity = ProcessIdentity::of(me)
            .map_err(|source| MonitorError::Io { act: "look at this process", source })?;
        let Ok(id) = self.request.state.id.parse() else { return Ok(()) };
        let entry = Store::new(Some(&self.request.root)).open(&id)?;
        let state = self.request.state.state(status, identity);
        Ok(entry.update(|_| Some(state))?)
    }

    /// Serves signals, control requests and the agent's events until the program ends.
    fn attend(&self, agent: &mut AgentClient, prepared: &Prepared) -> Result<u8, MonitorError> {
        loop {
            while let Some(event) = agent.kept_event().map_err(|error| self.explain(RUNNING, error))? {
                match event {
                    Event::Exited { process, status } if process == self.process() => {
                        return Ok(status.code());
                    }
                    Event::Exited { .. } | Event::Ready { .. } => {}
                }
            }
            let ready = self.poll(agent, prepared)?;
            if ready.agent {
                agent.receive().map_err(|error| self.explain(RUNNING, error))?;
            }
            if ready.signals {
                self.forward_signals(agent, prepared)?;
            }
            if ready.control {
                self.serve_control(agent, prepared)?;
            }
            // Last, since the agent's final words may have come with the end.
            if ready.machine && !ready.agent {
                return Err(MonitorError::machine_end(RUNNING, self.machine.end()));
            }
        }
    }

    fn poll(&self, agent: &AgentClient, prepared: &Prepared) -> Result<Ready, MonitorError> {
        let sources =
            [agent.as_fd(), self.signals.as_fd(), prepared.control.as_fd(), self.machine.ended_fd()];
        let mut fds = sources.map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(MonitorError::Io { act: "poll", source: errno.into() }),
        }
        let is_ready = |index: usize| fds.get(index).and_then(PollFd::any).unwrap_or(false);
        Ok(Ready { agent: is_ready(0), signals: is_ready(1), control: is_ready(2), machine: is_ready(3) })
    }

    fn forward_signals(&self, agent: &mut AgentClient, prepared: &Prepared) -> Result<(), MonitorError> {
        let failed = |source| MonitorError::Io { act: "read a signal", source };
        while let Some(arrived) = self.signals.next().map_err(failed)? {
            let size = if arrived.number == libc::SIGWINCH { prepared.size() } else { None };
            if let Some(size) = size {
                self.ask(agent, Request::Resize { process: self.process(), size }, RESIZE)?;
            } else if signals::is_forwarded(arrived.number) {
                let signal = arrived.number;
                self.ask(agent, Request::Signal { process: self.process(), signal, all: false }, SIGNAL)?;
            }
        }
        Ok(())
    }

    /// A refusal is the agent's answer, for instance because the program has just ended.
    fn ask(
        &self,
        agent: &mut AgentClient,
        request: Request,
        wait: Wait,
    ) -> Result<Option<String>, MonitorError> {
        match agent.call(request, wait, &[self.machine.ended_fd()]) {
            Ok(_) => Ok(None),
            Err(AgentError::Refused(reply)) => Ok(Some(reply.message)),
            Err(error) => Err(self.explain(RUNNING, error)),
        }
    }

    fn serve_control(&self, agent: &mut AgentClient, prepared: &Prepared) -> Result<(), MonitorError> {
        let Some((request, caller)) = prepared.control.accept() else { return Ok(()) };
        let refused =
            |message| ControlReply::Failed(FailureReport { message, exit_code: 1, console: Vec::new() });
        let result = match request {
            ControlRequest::Signal { signal, all } => {
                self.ask(agent, Request::Signal { process: self.process(), signal, all }, SIGNAL)
            }
            ControlRequest::Start => Ok(Some("the container is running already".to_owned())),
        };
        match &result {
            Ok(None) => caller.answer(&ControlReply::Ok),
            Ok(Some(message)) => caller.answer(&refused(message.clone())),
            Err(error) => caller.answer(&refused(chain(error))),
        }
        result.map(drop)
    }

    /// After the program's end: its output, its files. Neither changes the exit code.
    fn finish(&self, agent: &mut AgentClient, relays: &mut Relays) {
        // What cannot be written back any more is lost with the guest: nothing to be done.
        let _ = agent.call(Request::Sync, SYNC, &[self.machine.ended_fd()]);
        match relays.drain() {
            // A process that outlived the program holds the stream; its output goes with it.
            Drained::Fully | Drained::GaveUp => {}
        }
    }
}

/// What [`Session::poll`] found.
#[derive(Clone, Copy, Debug)]
struct Ready {
    agent: bool,
    signals: bool,
    control: bool,
    machine: bool,
}

fn is_readable(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|count| count > 0)
}
