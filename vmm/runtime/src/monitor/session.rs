//! One sandbox, from the guest's boot to its end. What happens while the container
//! exists is in `live`.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use vmrun_plan::{SHARE_DIR, VSOCK_SOCKET};
use vmrun_proto::{
    ConsoleSize, Network, ProcessRef, ROOTFS_DIR, Reply, Request, SHARE_MOUNT, SharedMount, VOLUMES_DIR,
};
use vmrun_spec::{HostPlan, Image, LauncherMessage, MonitorMessage};

use super::MonitorRequest;
use super::boot::Booting;
use super::control_server::ControlServer;
use super::disks::{self, OpenDisk, Unplugged};
use super::failure::{BOOTING, Broken, MonitorError, TAIL_LINES};
use super::kernels::LaterMounts;
use super::launcher::Launcher;
use super::live::Live;
use super::network::{Alone, Attached, Cards, Follower, Mirror, NetworkError, News, ResolvConf, Slots};
use super::notifier::{Notifier, Teller};
use super::sockets::{HostSockets, SOCKETS_VERSION};
use super::streams::{self, HostStreams, Stdio};
use super::tree::{self, TreeError};
use super::warm::{self, Warm};
use super::{clock, hook_mounts, view};
use crate::agent_client::{AgentClient, AgentError, Wait, Watch};
use crate::error::chain;
use crate::hooks::{self, Surroundings};
use crate::launch::network;
use crate::machine::{Machine, STILL_THERE};
use crate::process::ProcessIdentity;
use crate::signals::{self, Signals};
use crate::status::Status;
use crate::stdio::{self, Drained, Home, Patience, Relays};
use crate::store::{CONTROL_SOCKET, Entry, StoreError};
use crate::timeline::{self, Point, mark};
use crate::verbs::OciState;
use crate::{host_cgroup, host_settings, log, step};

const BOOT: Wait = Wait { what: "the guest's agent to report", limit: Duration::from_secs(60) };
const CREATE: Wait = Wait { what: "the agent to make the container", limit: Duration::from_secs(60) };
const SYNC: Wait = Wait { what: "the guest to write its files back", limit: Duration::from_secs(60) };
const CLOCK: Wait = Wait { what: "the agent to look at its clock", limit: Duration::from_secs(10) };
const HOOKS: Wait =
    Wait { what: "the hooks that run before the creation", limit: Duration::from_secs(24 * 3600) };

/// The streams of a container that has ended. Nobody is left in the guest then who could write.
const OUTPUT: Patience =
    Patience { silence: Duration::from_secs(5), total: Duration::from_secs(30), bytes: 64 << 20 };

/// What the programs of a container that has ended have said on sockets of the host's, where nobody reads it.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Within that the guest's clock is right, by which it was told the time.
const PROMPT: Duration = Duration::from_millis(5);

/// A process that ends closes its connections a moment before it is gone.
const END_LIMIT: Duration = Duration::from_secs(5);

const HOOKING: &str = "running the hooks before the creation";
const CREATING: &str = "making the container";
const FINISHING: &str = "writing the program's files back";

/// How a program has ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    /// Its exit code.
    pub(crate) code: u8,
    /// What went wrong afterwards: one line each.
    pub(crate) warnings: Vec<String>,
}

/// Carries the container to its end. The machine, and its process, are gone then.
pub(crate) fn run(
    request: &MonitorRequest,
    entry: &Entry,
    (booting, warm): (Booting, &Warm),
    alone: Option<Alone>,
    launcher: &Launcher,
    signals: &Signals,
) -> Result<Ended, Broken> {
    let Booting { machine, ready, waited, mounts, later, disks, sockets } = booting;
    let cards = Arc::new(Cards::new(machine.clone(), request.plan.host.network_rates));
    let session = Session {
        request,
        entry,
        machine: &machine,
        cards: &cards,
        mounts: &mounts,
        warm,
        made: Cell::new(false),
        launcher,
        signals,
    };
    let result = session.prepare(sockets).and_then(|(stdio, prepared)| {
        session.plug_disks(disks)?;
        if request.plan.host.hooks.precede_creation() {
            session.let_hooks_run()?;
        }
        if let Some(later) = later {
            session.keep_out(later)?;
        }
        // Hooks may have set it up.
        let network = match alone {
            Some(alone) => Some(session.connect(alone)?),
            None => session.mirror_network()?,
        };
        let agent = session.await_agent(ready, waited)?;
        session.live(agent, stdio, prepared, network)
    });
    if timeline::is_asked_for() {
        timeline::guest_marks(&machine.stamps());
    }
    let (result, network) = match result {
        Ok((ended, network)) => (Ok(ended), network),
        Err(error) => (Err(session.broken(error)), None),
    };
    // The kernel waits for its readers (RCU) where a machine ends and where an interface is let go: it does both at once.
    machine.kill();
    if let Some(network) = network {
        network.let_go();
    }
    // Nothing of the guest may happen any more when others are told of the end, and hooks run.
    if !machine.stop() {
        super::warn(&request.log, STILL_THERE);
    }
    // What the guest does with a container is not the template's fault.
    if result.as_ref().is_err_and(|broken| broken.error.is_likely_again()) && !session.made.get() {
        warm.has_failed();
    }
    result
}

/// What does not change during the container's life.
pub(super) struct Session<'s> {
    pub(super) request: &'s MonitorRequest,
    entry: &'s Entry,
    pub(super) machine: &'s Machine,
    pub(super) cards: &'s Arc<Cards>,
    mounts: &'s [SharedMount],
    pub(super) warm: &'s Warm,
    /// The container has been made.
    made: Cell<bool>,
    launcher: &'s Launcher,
    pub(super) signals: &'s Signals,
}

/// A network that the guest is to have.
struct Planned {
    attached: Attached,
    /// Nothing where there is but loopback.
    network: Option<Network>,
}

/// What is set up while the guest boots.
pub(super) struct Prepared {
    /// What the guest's kernel is to be set to.
    settings: BTreeMap<String, String>,
    /// The terminal whose size the container's follows.
    terminal: Option<OwnedFd>,
    pub(super) control: ControlServer,
    /// Sockets of the host's that are mounted.
    sockets: Vec<OwnedFd>,
}

impl Prepared {
    /// The size that the container's terminal should have now.
    pub(super) fn size(&self) -> Option<ConsoleSize> {
        stdio::size(self.terminal.as_ref()?)
    }
}

impl Session<'_> {
    fn prepare(&self, sockets: Vec<OwnedFd>) -> Result<(Stdio, Prepared), MonitorError> {
        let (stdio, terminal) =
            HostStreams::open(&self.request.plan.guest.io, &self.request.console, true)?.split();
        let control = ControlServer::bind()
            .map_err(StoreError::io("listen on", &self.request.directory.join(CONTROL_SOCKET)))?;
        let settings = host_settings::for_the_guest();
        Ok((stdio, Prepared { settings, terminal, control, sockets }))
    }

    /// The guest hears of them when it is to make the container.
    fn plug_disks(&self, disks: Vec<OpenDisk>) -> Result<(), MonitorError> {
        disks::plug_all(self.machine, disks).map_err(|unplugged| match unplugged {
            Unplugged::Refused(error) => error.into(),
            Unplugged::Ended => MonitorError::machine_end(BOOTING, self.machine.end()),
        })
    }

    fn await_agent(&self, ready: UnixStream, waited: Duration) -> Result<AgentClient, MonitorError> {
        let agent = AgentClient::greeted(ready, BOOT, waited, &self.watch());
        agent.map_err(|error| self.about_boot_image(self.explain(BOOTING, error)))
    }

    /// Says which file it is that may hold another program than the agent.
    fn about_boot_image(&self, error: MonitorError) -> MonitorError {
        match (&self.request.plan.machine.initramfs, error) {
            (Image::File(path), MonitorError::Agent { source, .. }) => {
                MonitorError::NotOurAgent { path: path.clone(), source }
            }
            (_, error) => error,
        }
    }

    /// Carries the interfaces of this process's network namespace into the guest, if it is the container's.
    fn mirror_network(&self) -> Result<Option<Planned>, MonitorError> {
        if !network::is_own(&self.request.plan.host.network) || network::is_in_the_hosts() {
            return Ok(None);
        }
        // From here on nothing is missed.
        let news = News::listen().map_err(NetworkError::Read)?;
        let slots: Arc<dyn Slots> = Arc::<Cards>::clone(self.cards);
        // This process is in the container's directory.
        let resolv_conf = ResolvConf::of(&self.request.plan.host.view, Path::new(SHARE_DIR));
        let mut mirror =
            Mirror::new(&self.request.state.id, &news, slots, resolv_conf, self.request.log.clone())?;
        let (network, warnings) = mirror.begin()?;
        warnings.iter().for_each(|warning| self.warn(warning));
        mark(Point::NetworkRead);
        let attached = Attached::Namespace(Box::new(Follower::new(news, mirror, self.request.log.clone())));
        Ok(Some(Planned { attached, network }))
    }

    /// Puts passt's card into the guest.
    fn connect(&self, alone: Alone) -> Result<Planned, MonitorError> {
        let slots: Arc<dyn Slots> = Arc::<Cards>::clone(self.cards);
        let (connected, network) = alone.connect(slots, &self.watch())?;
        mark(Point::NetworkPlugged);
        Ok(Planned { attached: Attached::Passt(connected), network: Some(network) })
    }

    /// First those that the launcher runs in the caller's namespaces, then those of the
    /// container's, which are this process's.
    fn let_hooks_run(&self) -> Result<(), MonitorError> {
        let gone = |_| MonitorError::LauncherGone { stage: HOOKING };
        let plan = &self.request.plan.host;
        let out_of_reach = hook_mounts::out_of_reach(plan)?;
        self.launcher.send(&MonitorMessage::Prepared).map_err(gone)?;
        let watch = self.watch();
        // The launcher is what is waited for here, not what interrupts.
        let others: Vec<_> = watch.iter().skip(1).copied().collect();
        HOOKS
            .readable(self.launcher.as_fd(), HOOKS.deadline(), &others)
            .map_err(|error| self.explain(HOOKING, error))?;
        match self.launcher.receive().map_err(gone)? {
            LauncherMessage::HooksDone => {}
        }
        self.run_container_hooks(&watch)?;
        hook_mounts::nothing_is_lost(plan, &out_of_reach)?;
        self.launcher.send(&MonitorMessage::Hooked).map_err(gone)
    }

    /// What must not be in the shared tree goes: what has appeared there until now before there is a
    /// container that could look at it.
    fn keep_out(&self, mut later: LaterMounts) -> Result<(), MonitorError> {
        later.take_out().map_err(TreeError::from)?;
        Ok(later.watch(self.machine.failing()).map_err(TreeError::from)?)
    }

    fn run_container_hooks(&self, watch: Watch<'_>) -> Result<(), MonitorError> {
        let host = &self.request.plan.host;
        if host.hooks.create_container.is_empty() {
            return Ok(());
        }
        // As runc does it: where it is about to make this directory the root.
        let at = Surroundings { directory: &host.rootfs, watch };
        let state = OciState::of(&self.request.state.state(Status::Creating, own_identity()?));
        match hooks::run_all(&host.hooks.create_container, &state, &at) {
            Err(error) if error.is_interruption() => {
                Err(self.explain(HOOKING, AgentError::Interrupted { what: HOOKS.what }))
            }
            other => Ok(other?),
        }
    }

    /// What ends a wait before the start: the launcher's end, a signal that
    /// ends a process, the machine's end.
    fn watch(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.launcher.as_fd(), self.signals.ending(), self.machine.ended_fd()]
    }

    /// Says why a wait was interrupted.
    pub(super) fn explain(&self, stage: &'static str, error: AgentError) -> MonitorError {
        if is_readable(self.machine.ended_fd()) || (error.is_hang_up() && self.machine.ends_within(END_LIMIT))
        {
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

    /// The error with the console's last lines, where they may tell more.
    pub(super) fn broken(&self, error: MonitorError) -> Broken {
        let console =
            if error.console_may_tell() { self.machine.console_tail(TAIL_LINES) } else { Vec::new() };
        Broken { error, console }
    }

    /// Who is told how the program is, if anybody wants to hear it.
    pub(super) fn notifier(&self) -> Option<Notifier> {
        let request = self.request;
        let socket = self.launcher.manager().and_then(|socket| socket.try_clone().ok());
        let teller = match (request.start_later, request.detached) {
            (true, _) => Teller::Verbs,
            // Nobody listens, as the launcher has said.
            (false, _) if socket.is_none() => return None,
            (false, detached) => Teller::Launcher { leaves: detached },
        };
        request.plan.guest.notify.then(|| Notifier::new(teller, socket))
    }

    /// Has the launcher tell the service manager how the program is: it is the process that the manager
    /// has started, and others it need not listen to.
    pub(super) fn relay(&self, text: &str) -> io::Result<()> {
        self.launcher.send(&MonitorMessage::Notified(text.to_owned())).map_err(io::Error::other)
    }

    /// Tells the engine's log of a failure that ends nothing.
    pub(super) fn warn(&self, message: &str) {
        super::warn(&self.request.log, message);
    }

    /// The program has said that it is ready.
    pub(super) fn ready(&self) {
        // The launcher may have left.
        let _ = self.launcher.send(&MonitorMessage::Ready);
    }

    /// What the guest has to say, for who looks at the steps.
    fn tell_console(&self) {
        if log::tells_steps() {
            for line in self.machine.console_tail(TAIL_LINES) {
                step!("the guest's console: {}", line.trim_end());
            }
        }
    }

    pub(super) fn process(&self) -> ProcessRef {
        ProcessRef { container: self.request.state.id.clone(), exec: None }
    }

    fn live(
        &self,
        mut agent: AgentClient,
        stdio: Stdio,
        mut prepared: Prepared,
        network: Option<Planned>,
    ) -> Result<(Ended, Option<Box<Follower>>), MonitorError> {
        mark(Point::AgentHeard);
        step!("agent ready");
        let settings = std::mem::take(&mut prepared.settings);
        let (mut attached, network) =
            network.map_or((None, None), |planned| (Some(planned.attached), planned.network));
        let mut relays = self.create(&mut agent, stdio, settings, network)?;
        if let Some(attached) = &mut attached {
            attached.begun(&self.watch()).map_err(|error| self.explain(CREATING, error))?;
        }
        let sockets = self.connect_sockets(&agent, std::mem::take(&mut prepared.sockets))?;
        self.made.set(true);
        mark(Point::ContainerCreated);
        step!("container created");
        // An error means that the launcher is gone: then nobody wants the container.
        let gone = |_| MonitorError::LauncherGone { stage: CREATING };
        if self.request.start_later {
            self.record(Status::Created)?;
        }
        self.launcher.send(&MonitorMessage::Created).map_err(gone)?;
        let mut live = Live::new(self, agent, prepared, attached)?;
        if !self.request.start_later {
            live.start(&self.watch())?;
            mark(Point::ProgramStarted);
            step!("program started");
            // From here on the launcher may come and go.
            let _ = self.launcher.send(&MonitorMessage::Started);
        }
        if self.request.detached {
            log::leave_standard_error();
        }
        let code = live.until_the_end()?;
        mark(Point::EndHeard);
        step!("program ended with code {code}");
        self.tell_console();
        let (mut agent, network) = live.into_parts();
        let warnings = self.finish(&mut agent, &mut relays);
        if let Some(sockets) = sockets {
            sockets.drain(LAST_WORDS);
        }
        mark(Point::OutputDrained);
        step!("files written back, output drained");
        Ok((Ended { code, warnings }, network))
    }

    /// Connects the container's programs to the sockets that it has of the host's, if it has any.
    fn connect_sockets(
        &self,
        agent: &AgentClient,
        sockets: Vec<OwnedFd>,
    ) -> Result<Option<HostSockets>, MonitorError> {
        if sockets.is_empty() {
            return Ok(None);
        }
        if !agent.speaks(SOCKETS_VERSION) {
            self.warn("the container does not reach the host's sockets that are mounted: this boot image's agent is too old");
            return Ok(None);
        }
        let (container, log) = (&self.request.state.id, self.request.log.clone());
        let user = self.request.plan.host.socket_user.clone().unwrap_or_default();
        HostSockets::start(container, sockets, user, log, &self.watch())
            .map(Some)
            .map_err(|error| self.explain(CREATING, error))
    }

    fn create(
        &self,
        agent: &mut AgentClient,
        stdio: Stdio,
        settings: BTreeMap<String, String>,
        network: Option<Network>,
    ) -> Result<Relays, MonitorError> {
        let watch = self.watch();
        let failed = |error| self.explain(CREATING, error);
        let mut plan = Box::new(self.request.plan.guest.clone());
        plan.settings.extend(settings);
        plan.mounts = self.mounts.to_vec();
        plan.network = network.map(Box::new);
        let io = plan.io;
        let container = self.request.state.id.clone();
        let generation = self.begin_generation(agent)?;
        let seq = agent.send(Request::Create { container, plan }).map_err(failed)?;
        let late = match generation {
            Some((seq, told)) => {
                agent.reply(seq, CREATE, &watch).map_err(failed)?;
                told.elapsed() > PROMPT
            }
            None => false,
        };
        // While the agent makes the container, the launcher hears of it and the streams are
        // connected. A launcher that is gone is noticed by those who wait.
        let _ = self.launcher.send(&MonitorMessage::Booted);
        let home = Home::Monitor(Arc::new(self.machine.failing()));
        let connected = streams::connect(Path::new(VSOCK_SOCKET), &self.process(), io, stdio, home, &watch);
        agent.reply(seq, CREATE, &watch).map_err(failed)?;
        if late {
            // Before there is a program that would see its time jump.
            clock::follow(|adjust_ns| self.ask_clock(agent, adjust_ns, CREATING))?;
        }
        let relays = connected.map_err(|error| error.at(failed))?;
        // Now the guest has made the mount points that were missing.
        let share = self.request.directory.join(SHARE_DIR);
        if self.request.plan.host.view.readonly {
            tree::close_rootfs(&share)?;
        }
        view::build(&share, &self.request.plan.host.view)?;
        mark(Point::ViewBuilt);
        step!("view of the container's files built");
        // The guest is made: what it does from now on is the container's.
        host_cgroup::limit_late(self.request.state.own_cgroup(), &self.request.plan.host.limits)?;
        Ok(relays)
    }

    /// Makes a guest that was saved another one than those that have come, or will come, from the same template.
    /// Gives the request's number, and when it was told what time it is.
    fn begin_generation(&self, agent: &mut AgentClient) -> Result<Option<(u64, Instant)>, MonitorError> {
        if !self.warm.shares_randomness() {
            return Ok(None);
        }
        let now = Instant::now();
        let request = warm::new_generation().map_err(|errno| MonitorError::Io {
            act: "get random bytes for the guest",
            source: errno.into(),
        })?;
        let seq = agent.send(request).map_err(|error| self.explain(CREATING, error))?;
        Ok(Some((seq, now)))
    }

    /// Has the guest's clock adjusted by so much and told; nothing where it is not.
    pub(super) fn ask_clock(
        &self,
        agent: &mut AgentClient,
        adjust_ns: i64,
        stage: &'static str,
    ) -> Result<Option<i64>, MonitorError> {
        match agent.call(Request::Clock { adjust_ns }, CLOCK, &[self.machine.ended_fd()]) {
            Ok(Reply::Clock { realtime_ns }) => {
                step!("the guest's clock: {realtime_ns} ns, after {adjust_ns} ns");
                Ok(Some(realtime_ns))
            }
            Ok(_) | Err(AgentError::TimedOut { .. }) => Ok(None),
            Err(AgentError::Refused(reply)) => {
                step!("{}", reply.message);
                Ok(None)
            }
            Err(error) => Err(self.explain(stage, error)),
        }
    }

    pub(super) fn record(&self, status: Status) -> Result<(), MonitorError> {
        let state = self.request.state.state(status, own_identity()?);
        self.entry.update(|_| Some(state))?;
        step!("state recorded: {status}");
        Ok(())
    }

    /// Has the guest write its files back, for as long as a disk gets anything: it may be slow, or have a rate. Who sends a signal
    /// does not want to wait longer than for other files.
    fn write_back(&self, agent: &mut AgentClient) -> Result<Reply, AgentError> {
        let seq = agent.send(Request::Sync)?;
        let (ended, signals) = (self.machine.ended_fd(), self.signals.ending());
        agent.reply_during(seq, SYNC, &[ended], signals, || disks::written(self.machine))
    }

    /// After the program's end: its output, its files. Neither changes the exit code.
    fn finish(&self, agent: &mut AgentClient, relays: &mut Relays) -> Vec<String> {
        let synced = self.write_back(agent);
        // What cannot be written back any more is lost with the guest.
        let lost = synced.err().map(|error| {
            let cause =
                with_the_hosts_paths(&chain(&self.explain(FINISHING, error)), &self.request.plan.host);
            // A disk has what its file system has written back, whichever way a program wrote it.
            let what = if self.request.plan.host.disks.is_empty() {
                "the program's last writes through mappings may be missing in its files"
            } else {
                "the program's last writes may be missing on its disks, and those through mappings in its files"
            };
            format!("{cause}; {what}")
        });
        match relays.drain(OUTPUT) {
            // Only a guest that makes output up, or does not answer, keeps a stream open: its loss.
            Drained::Fully | Drained::GaveUp => {}
        }
        let disks = &self.request.plan.host.disks;
        let failures = if disks.is_empty() { Vec::new() } else { disks::failures(self.machine, disks) };
        lost.into_iter().chain(failures).collect()
    }
}

/// With the host's paths for the guest's, of a volume as of the root file system.
fn with_the_hosts_paths(text: &str, host: &HostPlan) -> String {
    let volumes = host.volumes.iter().enumerate();
    let volumes = volumes.map(|(number, volume)| (format!("{VOLUMES_DIR}/{number}"), &volume.source));
    let tops: Vec<_> = volumes.chain([(ROOTFS_DIR.to_owned(), &host.rootfs)]).collect();
    // The last of several numbers that begin alike is the longest.
    let text = tops.iter().rev().fold(text.to_owned(), |text, (top, path)| {
        text.replace(&format!("{SHARE_MOUNT}/{top}"), &path.to_string_lossy())
    });
    disks::with_the_hosts_paths(&text, &host.disks)
}

fn own_identity() -> Result<ProcessIdentity, MonitorError> {
    let me = i32::try_from(std::process::id()).unwrap_or_default();
    ProcessIdentity::of(me).map_err(|source| MonitorError::Io { act: "look at this process", source })
}

fn is_readable(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|count| count > 0)
}
