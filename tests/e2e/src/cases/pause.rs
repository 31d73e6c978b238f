//! `pause`, `resume`, and what is possible in between.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;

use crate::support::{Bundle, Detached, Run, end_of};

/// Counts for as long as it runs.
fn counting() -> Bundle {
    Bundle::shell("trap 'echo caught; exit 6' TERM; i=0; while :; do i=$((i + 1)); echo $i; sleep 0.05; done")
}

fn started(bundle: &Bundle) -> Detached {
    let container = Run::of(bundle).detach();
    container.started.stdout.await_text(0, "2\n");
    container
}

#[test]
fn paused_container_stands_still_and_goes_on() {
    let bundle = counting();
    let container = started(&bundle);
    container.verb("resume", &[]).fails_with(1, &["cannot resume", "running", "; "]);
    container.verb("pause", &[]).prints("");
    assert_eq!(container.state()["status"], "paused");
    // What was on its way has arrived by then.
    thread::sleep(Duration::from_millis(300));
    let before = container.started.stdout.so_far().len();
    thread::sleep(Duration::from_millis(1000));
    assert_eq!(container.started.stdout.so_far().len(), before);

    container.verb("pause", &[]).fails_with(1, &["cannot pause", "paused", "; "]);
    container.verb("delete", &[]).fails_with(1, &["cannot delete", "paused", "--force"]);
    end_of(&mut container.exec(&[], &["true"])).fails_with(255, &["paused", "resume"]);
    let mut waiting = container.exec(&["--ignore-paused"], &["echo", "at last"]);
    let waiting = waiting.stdout(Stdio::piped()).spawn().unwrap();
    container.verb("update", &["--pids-limit", "50"]).prints("");
    assert_eq!(container.state()["status"], "paused");
    // It is frozen, so what was true still is.
    assert!(container.verb("ps", &[]).ok().lines().count() >= 2);
    let figures = container.verb("events", &["--stats"]).ok();
    assert!(figures.contains("\"type\":\"stats\"") && figures.contains("\"limit\":50"), "{figures}");

    container.verb("resume", &[]).prints("");
    assert_eq!(container.state()["status"], "running");
    container.started.stdout.await_text(before, "\n");
    assert_eq!(waiting.wait_with_output().unwrap().stdout, b"at last\n");
    end_of(&mut container.exec(&[], &["true"])).prints("");
    container.verb("delete", &["--force"]).prints("");
    container.started.await_nothing_left();
}

#[test]
fn signals_wait_for_the_end_of_the_pause_but_for_the_one_that_kills() {
    let bundle = counting();
    let container = started(&bundle);
    let pid = container.started.monitor();
    container.verb("pause", &[]).prints("");
    container.verb("kill", &["TERM"]).prints("");
    assert_eq!(container.state()["status"], "paused");
    container.verb("resume", &[]).prints("");
    assert_eq!(container.reap(pid), WaitStatus::Exited(Pid::from_raw(pid), 6));
    container.delete();

    let container = started(&bundle);
    let pid = container.started.monitor();
    container.verb("pause", &[]).prints("");
    container.verb("kill", &["KILL"]).prints("");
    assert_eq!(container.reap(pid), WaitStatus::Exited(Pid::from_raw(pid), 137));
    container.delete();
}

#[test]
fn paused_container_can_be_deleted_by_force() {
    let bundle = counting();
    let container = started(&bundle);
    container.verb("pause", &[]).prints("");
    container.verb("delete", &["--force"]).prints("");
    container.started.await_nothing_left();
}

/// Keeps the monitor from writing the state for as long as it is there.
struct Unwritable(PathBuf);

impl Unwritable {
    fn new(container: &Detached) -> Self {
        let draft = container.started.store.join(&container.started.id).join("state.json.new");
        fs::create_dir(&draft).unwrap();
        Self(draft)
    }
}

impl Drop for Unwritable {
    fn drop(&mut self) {
        fs::remove_dir(&self.0).unwrap();
    }
}

#[test]
fn state_that_cannot_be_written_costs_the_verb_and_not_the_container() {
    let bundle = counting();
    let container = Run::of(&bundle).create();
    let pid = container.started.monitor();
    let unwritable = Unwritable::new(&container);
    container.verb("start", &[]).fails_with(1, &["cannot start", "state.json"]);
    assert_eq!(container.state()["status"], "created");
    drop(unwritable);
    container.verb("start", &[]).prints("");
    let seen = container.started.stdout.await_text(0, "2\n");

    let unwritable = Unwritable::new(&container);
    container.verb("pause", &[]).fails_with(1, &["cannot pause", "state.json"]);
    assert_eq!(container.state()["status"], "running");
    // It goes on, thawed.
    let before = container.started.stdout.so_far().len().max(seen);
    container.started.stdout.await_text(before, "\n");
    drop(unwritable);
    container.verb("pause", &[]).prints("");

    let unwritable = Unwritable::new(&container);
    container.verb("resume", &[]).fails_with(1, &["cannot resume", "state.json"]);
    assert_eq!(container.state()["status"], "paused");
    // What kills it needs no record.
    container.verb("kill", &["KILL"]).prints("");
    assert_eq!(container.reap(pid), WaitStatus::Exited(Pid::from_raw(pid), 137));
    drop(unwritable);
    container.delete();
}
