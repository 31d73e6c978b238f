//! What others do to files is told to whoever watches them in a container, as on the host.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;

use super::requests::requests;
use crate::support::{Bundle, Output, Run, Runtime, Scratch, new_id, wait};

const PROGRAM: &str = include_str!("../programs/watching.py");

/// `watching.py WHAT DIRECTORY`
fn python(what: &str, directory: &Path) -> Command {
    let mut command = Command::new("python3");
    command.args(["-c", PROGRAM, what]).arg(directory);
    command
}

#[track_caller]
fn on_the_host(what: &str, directory: &Path) {
    let output = python(what, directory).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

fn in_a_container(what: &str, directory: &Path) -> Bundle {
    Bundle::debian("").args(&["python3", "-c", PROGRAM, what, "/data"]).bind(directory, "/data", &[])
}

/// What the directory itself tells while `operate` changes it.
fn told_by_the_directory(directory: &Path) -> String {
    on_the_host("prepare", directory);
    let mut child: Child = python("watch", directory).stdout(Stdio::piped()).spawn().unwrap();
    let stdout = Output::collect(child.stdout.take().unwrap());
    stdout.await_text(0, "ready\n");
    on_the_host("operate", directory);
    assert!(child.wait().unwrap().success());
    String::from_utf8(stdout.whole().unwrap()).unwrap()
}

fn told_to_a_container(runtime: Runtime, directory: &Path, operate: impl FnOnce()) -> String {
    on_the_host("prepare", directory);
    let bundle = in_a_container("watch", directory);
    let started = Run::of(&bundle).on(runtime).start();
    started.stdout.await_text(0, "ready\n");
    operate();
    let outcome = started.finish();
    outcome.exits(0);
    outcome.out().to_owned()
}

#[test]
fn what_others_do_to_a_volume_is_told_as_by_the_directory_itself() {
    let scratch = Scratch::new();
    let directory = |name: &str| scratch.directory(name);
    let plain = told_by_the_directory(&directory("plain"));
    for (name, runtime) in [("runc", Runtime::Runc), ("vmrun", Runtime::Vmrun)] {
        let directory = directory(name);
        let told = told_to_a_container(runtime, &directory, || on_the_host("operate", &directory));
        assert_eq!(told, plain, "{runtime:?}");
    }
    // Another sandbox opens files to serve its guest, as to truncate one, which is told to whoever asks.
    let shared = directory("shared");
    let told = told_to_a_container(Runtime::Vmrun, &shared, || {
        in_a_container("operate", &shared).run().prints("");
    });
    let changes = |told: &str| -> Vec<String> {
        let is_change = |line: &&str| !line.starts_with("opened: ") && !line.contains("CLOSE");
        told.lines().filter(is_change).map(str::to_owned).collect()
    };
    assert_eq!(changes(&told), changes(&plain));
}

/// How many watches of the host's the machine's process has.
fn watches(machine: i32) -> usize {
    let entries = fs::read_dir(format!("/proc/{machine}/fdinfo")).unwrap();
    let text = entries.map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap_or_default());
    text.map(|text| text.lines().filter(|line| line.starts_with("inotify wd:")).count()).sum()
}

/// The host's limit of watches, while this is there.
struct Limit(PathBuf, String);

impl Limit {
    fn set(count: u32) -> Self {
        let file = PathBuf::from("/proc/sys/fs/inotify/max_user_watches");
        let before = fs::read_to_string(&file).unwrap();
        fs::write(&file, count.to_string()).unwrap();
        Self(file, before)
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        fs::write(&self.0, &self.1).unwrap();
    }
}

#[test]
fn thousands_of_directories_cost_nothing_until_something_happens_and_the_hosts_limit_is_told() {
    let program = r"
import ctypes, os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
libc = ctypes.CDLL(None, use_errno=True)
fd = libc.inotify_init1(0)
add = lambda name: libc.inotify_add_watch(fd, name.encode(), 0x100)
for number in range(3000):
    assert add(f'/data/{number}') > 0, ctypes.get_errno()
print('watched', flush=True)
print(os.read(fd, 4096)[16:].rstrip(b'\0').decode(), flush=True)
while add(os.mkdir(f'/data/more{number}') or f'/data/more{number}') > 0 and number < 5000:
    number += 1
print(os.strerror(ctypes.get_errno()), flush=True)
for watch in range(2, 3000):
    assert libc.inotify_rm_watch(fd, watch) == 0
print('removed', flush=True)
signal.sigwait([signal.SIGUSR1])
os.close(fd)
print('closed', flush=True)
signal.sigwait([signal.SIGUSR1])
";
    let _limit = Limit::set(3_200);
    let scratch = Scratch::new();
    for number in 0..3_000 {
        scratch.directory(&number.to_string());
    }
    let bundle = Bundle::python(program).bind(scratch.path(), "/data", &[]);
    let id = new_id();
    let started = Run::of(&bundle).id(&id).start();
    let machine = started.machine();
    assert_eq!(watches(machine), 0);
    started.stdout.await_text(0, "watched\n");
    // And the one that they are in.
    assert_eq!(watches(machine), 3_001);
    let before = requests(&id);
    scratch.directory("777/new");
    started.stdout.await_text(0, "watched\nnew\n");
    started.stdout.await_text(0, "No space left on device\nremoved\n");
    wait::until("the watches to be removed", || (watches(machine) < 300).then_some(()));
    started.signal(Signal::SIGUSR1);
    started.stdout.await_text(0, "closed\n");
    wait::until("all watches to be removed", || (watches(machine) == 0).then_some(()));
    let after = requests(&id);
    // One reply with an event, and the next request for some.
    assert_eq!(after["events"] - before["events"], 1, "{before:?} {after:?}");
    started.signal(Signal::SIGUSR1);
    started.finish().prints("watched\nnew\nNo space left on device\nremoved\nclosed\n");
}
