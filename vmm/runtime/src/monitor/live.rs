//! The container while it exists: one loop serves the agent's events, the
//! signals that this process gets and the verbs, until the program has ended.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use oci_spec::runtime::LinuxResources;
use vmrun_proto::{Event, ExitStatus, ProcessInfo, ProcessRef, Reply, Request};
use vmrun_spec::FailureReport;

use super::balloon::{self, BALLOON_VERSION, Balloon};
use super::clock::{self, Comparison};
use super::control_server::{Caller, Watcher};
use super::failure::{Broken, MonitorError};
use super::file_figures::file_figures;
use super::network::{Attached, Follower};
use super::notifier::Notifier;
use super::out_of_memory::OutOfMemory;
use super::proc_view;
use super::session::{Prepared, Session};
use crate::agent_client::{AgentClient, AgentError, Wait, Watch};
use crate::control::{ControlReply, ControlRequest};
use crate::error::chain;
use crate::figures::Figures;
use crate::machine::OrderError;
use crate::signals;
use crate::status::Status;
use crate::step;
use crate::templates::StartKind;

const START: Wait = Wait { what: "the agent to start the program", limit: Duration::from_secs(60) };
const SIGNAL: Wait = Wait { what: "the agent to send a signal", limit: Duration::from_secs(10) };
const LOOK: Wait = Wait { what: "the agent to answer", limit: Duration::from_secs(20) };
const RESIZE: Wait = Wait { what: "the agent to resize the terminal", limit: Duration::from_secs(10) };

/// Since this one agents set the guest's clock.
const CLOCK_VERSION: u32 = 6;

const STARTING: &str = "starting the program";
const RUNNING: &str = "running the program";

/// A container that was created and has not ended.
pub(super) struct Live<'s> {
    session: &'s Session<'s>,
    agent: AgentClient,
    prepared: Prepared,
    /// The container's network.
    network: Option<Attached>,
    status: Status,
    /// The signal that ended the program before its start.
    ended_by: Option<i32>,
    /// While it is paused.
    held: Option<Held>,
    /// Whom to tell how the program is.
    notifier: Option<Notifier>,
    /// Those who want to know when memory runs out.
    watchers: Vec<Watcher>,
    memory: OutOfMemory,
    /// None for a guest whose agent sets no clock.
    clock: Option<Comparison>,
    balloon: Balloon,
    /// The processes are still to be shown in the monitor's mount namespace.
    to_show: bool,
}

/// What is known of a paused container: while its CPUs are held nobody in the
/// guest can be asked, and nothing changes either.
#[derive(Debug, Default)]
struct Held {
    processes: Vec<ProcessInfo>,
    figures: Box<Figures>,
    /// Signals that wait for the container to go on.
    signals: Vec<(i32, bool)>,
    /// Who wants to hear when it does.
    waiting: Vec<Caller>,
}

/// What a request came to: done, or why not.
type Answer = Result<ControlReply, MonitorError>;

impl<'s> Live<'s> {
    pub(super) fn new(
        session: &'s Session<'s>,
        agent: AgentClient,
        prepared: Prepared,
        network: Option<Attached>,
    ) -> Result<Self, MonitorError> {
        let notifier = session.notifier();
        let clock = agent.speaks(CLOCK_VERSION).then(Comparison::new).transpose();
        let clock = clock.map_err(|source| MonitorError::Io { act: "watch the host's clock", source })?;
        Ok(Self {
            session,
            agent,
            prepared,
            network,
            status: Status::Created,
            ended_by: None,
            held: None,
            notifier,
            watchers: Vec::new(),
            memory: OutOfMemory::default(),
            clock,
            balloon: Balloon::default(),
            to_show: false,
        })
    }

    /// What there is to do after the end is the agent's; verbs come too late, and so does what happens to the network.
    pub(super) fn into_parts(self) -> (AgentClient, Option<Box<Follower>>) {
        // Without the thread they cannot reach the monitor, which says as much.
        let _ = self.prepared.control.turn_away();
        (self.agent, self.network.and_then(Attached::leave))
    }

    /// Lets the program run.
    pub(super) fn start(&mut self, watch: Watch<'_>) -> Result<(), MonitorError> {
        if let Err(cause) = self.settle_network(watch)? {
            return Err(MonitorError::Follow(cause));
        }
        self.becomes(Status::Running)?;
        self.let_run(watch)
    }

    /// Engines may set up the network between the creation and the start. The inner error says what
    /// of it the guest cannot have.
    fn settle_network(&mut self, watch: Watch<'_>) -> Result<Result<(), String>, MonitorError> {
        let Some(network) = &mut self.network else { return Ok(Ok(())) };
        network.settle(watch).map_err(|error| self.session.explain(STARTING, error))
    }

    fn let_run(&mut self, watch: Watch<'_>) -> Result<(), MonitorError> {
        let kind = if self.session.cards.is_empty() { StartKind::Alone } else { StartKind::Networked };
        self.session.warm.is_about_to_run(self.session.machine, kind);
        let container = self.container();
        self.agent
            .call(Request::Start { container }, START, watch)
            .map_err(|error| self.session.explain(STARTING, error))?;
        // Nobody but an engine, which lets its containers run in the background, will look there.
        self.to_show = self.session.request.detached;
        if self.agent.speaks(BALLOON_VERSION) && !self.session.request.plan.host.keeps_memory {
            self.balloon.begin(Instant::now());
        }
        Ok(())
    }

    /// Records the state before it is brought about: what cannot be recorded is not done.
    fn becomes(&mut self, status: Status) -> Result<(), MonitorError> {
        debug_assert!(self.status.may_become(status), "{} -> {status}", self.status);
        self.session.record(status)?;
        self.status = status;
        Ok(())
    }

    /// Serves everybody until the program has ended; gives its exit code.
    pub(super) fn until_the_end(&mut self) -> Result<u8, MonitorError> {
        loop {
            if let Some(code) = self.ended()? {
                return Ok(code);
            }
            if std::mem::take(&mut self.to_show) {
                // Whoever waits for the start has been told of it.
                proc_view::start(self.session.request);
            }
            let ready = self.poll()?;
            if self.held.is_none() && self.balloon.is_due(Instant::now()) {
                self.plug_balloon()?;
                // What was ready may have been taken with the agent's answer.
                continue;
            }
            if ready.agent {
                self.agent.receive().map_err(|error| self.session.explain(RUNNING, error))?;
            }
            if ready.signals {
                self.forward_signals()?;
            }
            if ready.network {
                self.network_changed()?;
            }
            if ready.clock {
                self.follow_clock()?;
            }
            if ready.control {
                self.serve_verb()?;
            }
            // Last, since the agent's final words may have come with the end.
            if ready.machine && !ready.agent {
                return Err(MonitorError::machine_end(RUNNING, self.session.machine.end()));
            }
        }
    }

    fn ended(&mut self) -> Result<Option<u8>, MonitorError> {
        let process = self.session.process();
        while let Some(event) =
            self.agent.kept_event().map_err(|error| self.session.explain(RUNNING, error))?
        {
            match event {
                Event::Exited { process: ended, status } if ended == process => {
                    self.memory.end(self.session.request.state.cgroup.as_deref());
                    let status = self.ended_by.map_or(status, ExitStatus::Signal);
                    return Ok(Some(status.code()));
                }
                Event::Notified { process: speaker, message } if speaker == process => {
                    self.notified(&message);
                }
                Event::OutOfMemory { .. } => {
                    self.watchers.retain(|watcher| watcher.tell(&ControlReply::OutOfMemory));
                    self.memory.ran_out(self.session.request.state.cgroup.as_deref());
                }
                Event::Exited { .. } | Event::Notified { .. } | Event::Ready { .. } => {}
            }
        }
        Ok(None)
    }

    /// A manager that is gone is no reason to end the container.
    fn notified(&mut self, message: &str) {
        let Some(notifier) = &mut self.notifier else { return };
        let session = self.session;
        let (ready, sent) = notifier.pass_on(message, |text| session.relay(text));
        if let Err(error) = sent {
            self.session.warn(&format!("cannot tell NOTIFY_SOCKET how the program is: {error}"));
        }
        if ready {
            self.session.ready();
        }
    }

    fn poll(&self) -> Result<Ready, MonitorError> {
        let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut control = readable(self.prepared.control.as_fd());
        let rest = self.prepared.control.rest();
        if rest.is_some() {
            control.set_events(PollFlags::empty());
        }
        // A guest that stands still gives nothing back.
        let due = self.balloon.rest(Instant::now()).filter(|_| self.held.is_none());
        let limit = rest.into_iter().chain(due).min().map_or(PollTimeout::NONE, |rest| {
            // Not before it is over.
            PollTimeout::try_from(rest.as_millis().saturating_add(1)).unwrap_or(PollTimeout::MAX)
        });
        let mut fds = vec![
            readable(self.agent.as_fd()),
            readable(self.session.signals.as_fd()),
            control,
            readable(self.session.machine.ended_fd()),
        ];
        // A paused container gets the network and the time that it is when it goes on.
        let is_held = self.held.is_some();
        let clock = self.clock.as_ref().filter(|_| !is_held);
        fds.extend(clock.map(|clock| readable(clock.as_fd())));
        let network = self.network.as_ref().filter(|_| !is_held);
        fds.extend(network.map(|network| readable(network.as_fd())));
        match poll(&mut fds, limit) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(MonitorError::Io { act: "poll", source: errno.into() }),
        }
        let is_ready = |at: usize| fds.get(at).and_then(PollFd::any).unwrap_or(false);
        let [agent, signals, control, machine] = [0, 1, 2, 3].map(is_ready);
        let (clock, network) = (clock.is_some() && is_ready(4), is_ready(4 + usize::from(clock.is_some())));
        Ok(Ready { agent, signals, control, machine, clock, network })
    }

    /// A guest that takes no balloon, being another's kernel, keeps its memory.
    fn plug_balloon(&mut self) -> Result<(), MonitorError> {
        match self.session.machine.plug_balloon() {
            Ok(()) => {}
            Err(OrderError::Refused(why)) => {
                self.session.warn(&format!("the guest keeps the memory that it has free: {why}"));
                return Ok(());
            }
            // That it has ended is heard of elsewhere.
            Err(OrderError::Ended | OrderError::Interrupted) => return Ok(()),
        }
        if let ControlReply::Failed(report) = self.ask(balloon::request(), LOOK)? {
            step!("the guest keeps the memory that it has free: {}", report.message);
        }
        Ok(())
    }

    fn network_changed(&mut self) -> Result<(), MonitorError> {
        let Some(network) = &mut self.network else { return Ok(()) };
        Ok(network.news_came()?)
    }

    /// A guest that does not answer keeps its time: the next comparison is due soon enough.
    fn follow_clock(&mut self) -> Result<(), MonitorError> {
        let Some(clock) = &self.clock else { return Ok(()) };
        clock.put_off().map_err(|source| MonitorError::Io { act: "watch the host's clock", source })?;
        let (agent, session) = (&mut self.agent, self.session);
        clock::follow(|adjust_ns| session.ask_clock(agent, adjust_ns, RUNNING))
    }

    fn forward_signals(&mut self) -> Result<(), MonitorError> {
        let failed = |source| MonitorError::Io { act: "read a signal", source };
        while let Some(arrived) = self.session.signals.next().map_err(failed)? {
            if arrived.number == libc::SIGWINCH && self.prepared.size().is_some() {
                // One that is paused gets the size that it is when it goes on.
                if self.held.is_none() {
                    self.resize()?;
                }
            } else if signals::is_forwarded(arrived.number) {
                self.signal(arrived.number, false)?;
            }
        }
        Ok(())
    }

    /// Gives the container's terminal the size of ours, if there is one.
    fn resize(&mut self) -> Result<(), MonitorError> {
        if let Some(size) = self.prepared.size() {
            self.ask(Request::Resize { process: self.process(), size }, RESIZE)?;
        }
        Ok(())
    }

    fn process(&self) -> ProcessRef {
        self.session.process()
    }

    /// What the agent refuses, or does not do in time, is an answer: the program may
    /// just have ended, or the guest be busy. Only a broken link ends the container.
    fn ask(&mut self, request: Request, wait: Wait) -> Answer {
        match self.agent.call(request, wait, &[self.session.machine.ended_fd()]) {
            Ok(Reply::Processes(processes)) => Ok(ControlReply::Processes(processes)),
            Ok(Reply::Figures(container)) => {
                let (cards, files) = (self.session.cards.figures(), file_figures(self.session.machine));
                let figures = Figures { container: *container, cards, files };
                Ok(ControlReply::Figures(Box::new(figures)))
            }
            Ok(_) => Ok(ControlReply::Ok),
            Err(AgentError::Refused(reply)) => Ok(refusal(reply.message)),
            Err(error @ AgentError::TimedOut { .. }) => Ok(refusal(chain(&error))),
            Err(error) => Err(self.session.explain(RUNNING, error)),
        }
    }

    /// Before its start the program is not there to handle a signal, and what waits
    /// in its place is the first process of its namespace, which only SIGKILL ends:
    /// so what would end the program kills it, and its exit code says by what.
    fn signal(&mut self, number: i32, all: bool) -> Answer {
        if let Some(held) = &mut self.held {
            step!("signal {number} waits for the end of the pause");
            held.signals.push((number, all));
            if number != libc::SIGKILL {
                return Ok(ControlReply::Ok);
            }
            // Nothing else ends a frozen process, and it must not wait for anybody. The record
            // is soon another: that it has ended.
            let answer = self.go_on();
            let _ = self.session.record(Status::Running);
            return answer;
        }
        let mut signal = number;
        if self.status == Status::Created && signals::ends_a_process(number) {
            self.ended_by = Some(number);
            signal = libc::SIGKILL;
        }
        step!("signal {signal} for the container, to all of it: {all}");
        self.ask(Request::Signal { process: self.process(), signal, all }, SIGNAL)
    }

    fn serve_verb(&mut self) -> Result<(), MonitorError> {
        let Some((request, caller)) = self.prepared.control.accept() else { return Ok(()) };
        let act = request.act();
        step!("somebody asks to {}; the container is {}", request.what(), self.status);
        if !self.status.allows(act) {
            caller.answer(&ControlReply::WrongState(self.status));
            return Ok(());
        }
        let answer = match request {
            ControlRequest::AwaitReady => match &mut self.notifier {
                Some(notifier) => {
                    notifier.tell_when_ready(caller);
                    return Ok(());
                }
                None => Ok(ControlReply::Ok),
            },
            ControlRequest::Watch => {
                // One that is gone already needs nothing.
                self.watchers.extend(caller.watch().ok());
                return Ok(());
            }
            ControlRequest::Start => self.start_created(),
            ControlRequest::StartNotifying(socket) => {
                if let Some(notifier) = &mut self.notifier {
                    notifier.redirect(&socket);
                }
                self.start_created()
            }
            // Its end would have been heard of.
            ControlRequest::Signal { signal: 0, .. } => Ok(ControlReply::Ok),
            ControlRequest::Signal { signal, all } => self.signal(signal, all),
            ControlRequest::Pause => self.pause(),
            ControlRequest::Resume => self.resume(),
            ControlRequest::Update(resources) => self.update(resources),
            ControlRequest::AwaitResume => match &mut self.held {
                Some(held) => {
                    held.waiting.push(caller);
                    return Ok(());
                }
                None => Ok(ControlReply::Ok),
            },
            ControlRequest::Processes => match &self.held {
                Some(held) => Ok(ControlReply::Processes(held.processes.clone())),
                None => self.ask(Request::Processes { container: self.container() }, LOOK),
            },
            ControlRequest::Figures => match &self.held {
                Some(held) => Ok(ControlReply::Figures(held.figures.clone())),
                None => self.ask(Request::Figures { container: self.container() }, LOOK),
            },
        };
        self.answer(caller, answer)
    }

    /// A store that takes no record, being full or locked, costs the verb and not the container.
    fn start_created(&mut self) -> Answer {
        let machine = self.session.machine;
        if let Err(cause) = self.settle_network(&[machine.ended_fd()])? {
            return Ok(unrecorded(MonitorError::Follow(cause)));
        }
        if let Err(error) = self.becomes(Status::Running) {
            return Ok(unrecorded(error));
        }
        self.let_run(&[self.session.machine.ended_fd()]).map(|()| ControlReply::Ok)
    }

    /// First the container's processes, so that they find themselves frozen together,
    /// then the CPUs, with the agent and the guest's kernel.
    fn pause(&mut self) -> Answer {
        let frozen = self.ask(Request::Freeze { container: self.container() }, LOOK)?;
        if frozen != ControlReply::Ok {
            return Ok(frozen);
        }
        let mut held = Held::default();
        self.look_at(&mut held)?;
        if let Err(error) = self.becomes(Status::Paused) {
            self.ask(Request::Thaw { container: self.container() }, LOOK)?;
            return Ok(unrecorded(error));
        }
        if let Some(network) = &self.network {
            network.hold()?;
        }
        self.session.machine.hold();
        self.held = Some(held);
        Ok(ControlReply::Ok)
    }

    /// Keeps what can be asked for while the CPUs are held.
    fn look_at(&mut self, held: &mut Held) -> Result<(), MonitorError> {
        let container = self.container();
        if let ControlReply::Processes(processes) =
            self.ask(Request::Processes { container: container.clone() }, LOOK)?
        {
            held.processes = processes;
        }
        if let ControlReply::Figures(figures) = self.ask(Request::Figures { container }, LOOK)? {
            held.figures = figures;
        }
        Ok(())
    }

    /// A paused container's machine wakes up for it; the container in it stays frozen.
    fn update(&mut self, resources: Box<LinuxResources>) -> Answer {
        let request = Request::Update { container: self.container(), resources };
        let Some(mut held) = self.held.take() else { return self.ask(request, LOOK) };
        self.session.machine.release();
        let answer = self.ask(request, LOOK)?;
        self.look_at(&mut held)?;
        self.session.machine.hold();
        self.held = Some(held);
        Ok(answer)
    }

    fn resume(&mut self) -> Answer {
        match self.becomes(Status::Running) {
            Ok(()) => self.go_on(),
            Err(error) => Ok(unrecorded(error)),
        }
    }

    /// Ends the pause, whatever the record says.
    fn go_on(&mut self) -> Answer {
        self.status = Status::Running;
        self.session.machine.release();
        let held = self.held.take().unwrap_or_default();
        if let Some(network) = &mut self.network {
            network.go_on()?;
        }
        let thawed = self.ask(Request::Thaw { container: self.container() }, LOOK)?;
        for caller in held.waiting {
            caller.answer(&thawed);
        }
        self.resize()?;
        for (signal, all) in held.signals {
            self.signal(signal, all)?;
        }
        Ok(thawed)
    }

    fn container(&self) -> String {
        self.session.request.state.id.clone()
    }

    /// An error that ends the container is told to the caller, too.
    fn answer(&self, caller: Caller, answer: Answer) -> Result<(), MonitorError> {
        match answer {
            Ok(reply) => caller.answer(&reply),
            Err(error) => {
                let broken = self.session.broken(error);
                caller.answer(&ControlReply::Failed(broken.report()));
                return Err(broken.error);
            }
        }
        Ok(())
    }
}

fn unrecorded(error: MonitorError) -> ControlReply {
    ControlReply::Failed(Broken::from(error).report())
}

fn refusal(message: String) -> ControlReply {
    ControlReply::Failed(FailureReport { message, exit_code: 1, console: Vec::new() })
}

/// What [`Live::poll`] found.
#[derive(Clone, Copy, Debug)]
struct Ready {
    agent: bool,
    signals: bool,
    control: bool,
    machine: bool,
    clock: bool,
    network: bool,
}
