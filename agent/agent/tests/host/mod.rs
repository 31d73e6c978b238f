//! The host's side of the contract, for tests: one agent, plain blocking calls.

use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use vmrun_proto::{
    ContainerPlan, Envelope, ErrorReply, Event, ExitStatus, Hello, Message, Network, ProcessIo, ProcessRef,
    Reply, Request, Stream, StreamKind, VERSION, read_frame, write_frame,
};

/// Argument that turns the test into the agent.
pub(crate) const AGENT_ARGUMENT: &str = "--be-the-agent";

/// Standard input, output and error.
pub(crate) const ALL_STREAMS: ProcessIo =
    ProcessIo { terminal: false, stdin: true, stdout: true, stderr: true, console_size: None };

/// Serves on the sockets that come as standard input (listening) and output (control).
pub(crate) fn be_the_agent() -> ! {
    let take = |fd: std::os::fd::BorrowedFd<'_>| fd.try_clone_to_owned().unwrap();
    let (listener, control) = (take(std::io::stdin().as_fd()), take(std::io::stdout().as_fd()));
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null").unwrap();
    nix::unistd::dup2_stdin(&null).unwrap();
    nix::unistd::dup2_stdout(&null).unwrap();
    nix::sys::prctl::set_child_subreaper(true).unwrap();
    vmrun_agent::serve(listener, control)
}

/// What a process left behind.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
}

impl Outcome {
    pub(crate) fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    pub(crate) fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }
}

/// A connected agent.
pub(crate) struct Host {
    agent: Child,
    control: UnixStream,
    socket: PathBuf,
    _directory: tempfile::TempDir,
    rootfs: PathBuf,
    last_seq: u64,
    exits: HashMap<ProcessRef, ExitStatus>,
    /// That of the next container.
    pub(crate) network: Option<Box<Network>>,
}

impl Host {
    pub(crate) fn start(rootfs: &Path) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("agent.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let (control, theirs) = UnixStream::pair().unwrap();
        listener.set_nonblocking(true).unwrap();
        theirs.set_nonblocking(true).unwrap();
        let agent = Command::new(std::env::current_exe().unwrap())
            .arg(AGENT_ARGUMENT)
            .stdin(Stdio::from(OwnedFd::from(listener)))
            .stdout(Stdio::from(OwnedFd::from(theirs)))
            .spawn()
            .unwrap();
        let rootfs = rootfs.to_owned();
        let mut host = Self {
            agent,
            control,
            socket,
            _directory: directory,
            rootfs,
            last_seq: 0,
            exits: HashMap::new(),
            network: None,
        };
        match host.message() {
            Message::Event(Event::Ready { version: VERSION, .. }) => host,
            other => panic!("not ready but {other:?}"),
        }
    }

    fn message(&mut self) -> Message {
        read_frame(&mut self.control).unwrap()
    }

    /// Sends a request and waits for its reply.
    pub(crate) fn ask(&mut self, request: Request) -> Reply {
        self.last_seq += 1;
        write_frame(&mut self.control, &Envelope { seq: self.last_seq, request }).unwrap();
        loop {
            match self.message() {
                Message::Reply { seq, reply } if seq == self.last_seq => return reply,
                Message::Event(Event::Exited { process, status }) => drop(self.exits.insert(process, status)),
                other => panic!("unexpected {other:?}"),
            }
        }
    }

    /// Sends a request that must succeed.
    pub(crate) fn expect(&mut self, request: Request) {
        let text = format!("{request:?}");
        if let Reply::Error(error) = self.ask(request) {
            panic!("{text}: {error:?}");
        }
    }

    /// Opens a stream.
    pub(crate) fn open(&self, container: &str, exec: Option<&str>, kind: StreamKind) -> UnixStream {
        let mut stream = UnixStream::connect(&self.socket).unwrap();
        let process = ProcessRef { container: container.into(), exec: exec.map(str::to_owned) };
        write_frame(&mut stream, &Hello::Stream(Stream { process, kind })).unwrap();
        stream
    }

    pub(crate) fn create(&mut self, id: &str, mut spec: Value, io: ProcessIo) -> Result<(), ErrorReply> {
        if spec["root"]["path"] == "rootfs" {
            spec["root"]["path"] = json!(self.rootfs);
        }
        let spec = serde_json::from_value(spec).unwrap();
        let plan = Box::new(ContainerPlan {
            spec,
            shares: Vec::new(),
            mounts: Vec::new(),
            io,
            bundle: String::new(),
            notify: false,
            settings: BTreeMap::new(),
            network: self.network.take(),
            disks: Vec::new(),
            root_image: None,
            sockets: Vec::new(),
        });
        match self.ask(Request::Create { container: id.into(), plan }) {
            Reply::Error(error) => Err(error),
            _ => Ok(()),
        }
    }

    pub(crate) fn start_container(&mut self, id: &str, spec: Value) {
        self.create(id, spec, ProcessIo::default()).unwrap();
        self.expect(Request::Start { container: id.into() });
    }

    pub(crate) fn kill(&mut self, id: &str, signal: i32) {
        self.expect(Request::Signal { process: init_of(id), signal, all: false });
    }

    pub(crate) fn delete(&mut self, id: &str) {
        self.expect(Request::Delete { container: id.into() });
    }

    /// Waits for the end of a process.
    pub(crate) fn exit_of(&mut self, process: &ProcessRef) -> ExitStatus {
        loop {
            if let Some(status) = self.exits.remove(process) {
                return status;
            }
            match self.message() {
                Message::Event(Event::Exited { process, status }) => drop(self.exits.insert(process, status)),
                other => panic!("unexpected {other:?}"),
            }
        }
    }

    /// Runs a container to its end.
    pub(crate) fn run(&mut self, spec: Value) -> Outcome {
        self.run_with(spec, ALL_STREAMS, b"")
    }

    pub(crate) fn run_with(&mut self, spec: Value, io: ProcessIo, input: &[u8]) -> Outcome {
        match self.try_run(spec, io, input) {
            Ok(outcome) => outcome,
            Err(error) => panic!("{error:?}"),
        }
    }

    pub(crate) fn try_run(
        &mut self,
        spec: Value,
        io: ProcessIo,
        input: &[u8],
    ) -> Result<Outcome, ErrorReply> {
        self.create("run", spec, io)?;
        let streams = Streams::open(self, "run", None, input);
        match self.ask(Request::Start { container: "run".into() }) {
            Reply::Error(error) => {
                self.delete("run");
                return Err(error);
            }
            reply => drop(reply),
        }
        let status = self.exit_of(&init_of("run"));
        let (stdout, stderr) = streams.collect();
        self.delete("run");
        Ok(Outcome { status, stdout, stderr })
    }

    pub(crate) fn exec(
        &mut self,
        container: &str,
        exec: &str,
        process: Value,
        input: &[u8],
    ) -> Result<Outcome, ErrorReply> {
        let reference = ProcessRef { container: container.into(), exec: Some(exec.into()) };
        let streams = Streams::open(self, container, Some(exec), input);
        let spec = Box::new(serde_json::from_value(process).unwrap());
        match self.ask(Request::Exec { process: reference.clone(), spec, io: ALL_STREAMS, cgroup: None }) {
            Reply::Error(error) => return Err(error),
            reply => drop(reply),
        }
        let status = self.exit_of(&reference);
        let (stdout, stderr) = streams.collect();
        Ok(Outcome { status, stdout, stderr })
    }

    /// Starts a process whose streams are open already.
    pub(crate) fn start_exec(&mut self, container: &str, exec: &str, process: Value, io: ProcessIo) {
        let reference = ProcessRef { container: container.into(), exec: Some(exec.into()) };
        let spec = Box::new(serde_json::from_value(process).unwrap());
        self.expect(Request::Exec { process: reference, spec, io, cgroup: None });
    }

    /// Waits for the agent to have removed every trace of its containers.
    pub(crate) fn finish(self) {
        let limit = Instant::now() + Duration::from_secs(10);
        loop {
            let entries = std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten();
            let left: Vec<_> = entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
            let state = std::fs::read_dir("/run/vmrun/process").map_or(0, Iterator::count);
            if left.is_empty() && state == 0 {
                return;
            }
            assert!(Instant::now() < limit, "cgroups {left:?} and {state} state directories are left");
            thread::yield_now();
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // It is the end of the test either way.
        let _ = self.agent.kill();
        let _ = self.agent.wait();
    }
}

/// The three streams of a process, served by threads.
struct Streams {
    writer: thread::JoinHandle<()>,
    readers: [thread::JoinHandle<Vec<u8>>; 2],
}

impl Streams {
    fn open(host: &Host, container: &str, exec: Option<&str>, input: &[u8]) -> Self {
        let mut stdin = host.open(container, exec, StreamKind::Stdin);
        let input = input.to_owned();
        let writer = thread::spawn(move || {
            // A process may close its standard input early.
            let _ = stdin.write_all(&input);
            let _ = stdin.shutdown(Shutdown::Write);
        });
        let readers = [StreamKind::Stdout, StreamKind::Stderr].map(|kind| {
            let mut stream = host.open(container, exec, kind);
            thread::spawn(move || {
                let mut bytes = Vec::new();
                stream.read_to_end(&mut bytes).unwrap();
                bytes
            })
        });
        Self { writer, readers }
    }

    fn collect(self) -> (Vec<u8>, Vec<u8>) {
        self.writer.join().unwrap();
        let [stdout, stderr] = self.readers.map(|reader| reader.join().unwrap());
        (stdout, stderr)
    }
}

pub(crate) fn init_of(container: &str) -> ProcessRef {
    ProcessRef { container: container.into(), exec: None }
}

/// A container that runs a shell script.
pub(crate) fn shell(script: &str) -> Value {
    spec(&json!(["sh", "-c", script]))
}

/// A container as engines configure one.
pub(crate) fn spec(args: &Value) -> Value {
    let capabilities = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_DAC_OVERRIDE"]);
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": args,
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "cwd": "/",
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities}
        },
        "root": {"path": "rootfs"},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
             "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
             "options": ["nosuid", "noexec", "nodev", "relatime"]},
            {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"}
        ],
        "linux": {
            "namespaces": [
                {"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "cgroup"}
            ]
        }
    })
}
