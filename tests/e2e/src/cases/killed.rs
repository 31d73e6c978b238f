//! Processes of a sandbox that are killed at any moment.

use std::time::{Duration, Instant};
use std::{fs, thread};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{Bundle, Run, Scratch};

/// Kills without mercy; it may have ended already.
fn kill_now(pid: i32) {
    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
}

#[test]
fn monitor_that_is_killed_at_any_moment_leaves_nothing() {
    let scratch = Scratch::new();
    let bundle = Bundle::shell("echo ready; cat; sleep 1000").bind(scratch.path(), "/data", &[]);
    // How long a start takes here: the moments are spread over it and a bit more.
    let begun = Instant::now();
    let probe = Run::of(&bundle).start();
    probe.stdout.await_text(0, "ready\n");
    let whole = begun.elapsed();
    kill_now(probe.monitor());
    assert_ne!(probe.finish().status.code(), Some(0));

    for round in 0..20 {
        let started = Run::of(&bundle).start();
        let monitor = started.monitor();
        thread::sleep(whole * round / 18);
        kill_now(monitor);
        let outcome = started.finish();
        outcome.exits(137);
        let err = outcome.err();
        assert!(
            err.starts_with("vmrun: error: cannot run") && err.contains("killed") && err.lines().count() == 1,
            "{outcome:?}"
        );
    }
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
}

#[test]
fn launcher_that_is_killed_while_the_guest_boots_leaves_nothing() {
    let mut came_too_late = 0;
    for round in 0..4 {
        let bundle = Bundle::shell("echo ran; sleep 1000");
        let mut started = Run::of(&bundle).option("--cold").start();
        started.monitor();
        thread::sleep(Duration::from_millis(50 * round));
        kill_now(i32::try_from(started.child.id()).unwrap());
        started.child.wait().unwrap();
        // The launcher may have been quicker: a program that runs goes on without it.
        came_too_late += u32::from(started.ends_or_runs());
        started.await_nothing_left();
    }
    assert!(came_too_late < 4, "no launcher was killed while its guest booted");
}

#[test]
fn launcher_that_is_killed_while_the_program_runs_leaves_nothing_after_the_end() {
    let scratch = Scratch::new();
    let script = "echo ready; until [ -e /data/go ]; do sleep 0.05; done; exit 3";
    let bundle = Bundle::shell(script).bind(scratch.path(), "/data", &[]);
    let mut started = Run::of(&bundle).start();
    started.stdout.await_text(0, "ready\n");
    kill_now(i32::try_from(started.child.id()).unwrap());
    started.child.wait().unwrap();
    scratch.file("go", "");
    started.await_nothing_left();
}

#[test]
fn detached_monitor_that_is_killed_is_stopped_and_can_be_deleted() {
    let bundle = Bundle::shell("echo ready; sleep 1000");
    let detached = Run::of(&bundle).detach();
    detached.started.stdout.await_text(0, "ready\n");
    let pid = detached.started.monitor();
    kill_now(pid);
    detached.reap(pid);
    detached.await_status("stopped");
    detached.verb("kill", &["TERM"]).fails_with(1, &["cannot signal", "stopped"]);
    detached.delete();
}

#[test]
fn files_of_the_container_survive_the_monitor() {
    let scratch = Scratch::new();
    let bundle = Bundle::shell("echo data >/data/file; sync; echo ready; sleep 1000").bind(
        scratch.path(),
        "/data",
        &[],
    );
    let started = Run::of(&bundle).start();
    started.stdout.await_text(0, "ready\n");
    kill_now(started.monitor());
    started.finish().exits(137);
    assert_eq!(scratch.text("file"), "data\n");
}

/// The program runs, and its machine gets `signal`: the launcher tells of it in these words.
fn machine_killed_by(signal: Signal, words: &[&str]) {
    let bundle = Bundle::shell("echo ready; sleep 1000");
    let started = Run::of(&bundle).start();
    started.stdout.await_text(0, "ready\n");
    kill(Pid::from_raw(started.machine()), signal).unwrap();
    let outcome = started.finish();
    outcome.exits(128 + signal as i32);
    let err = outcome.err();
    let (first, console) = err.split_once('\n').unwrap();
    assert!(
        first.starts_with("vmrun: error: cannot run") && first.contains("running the program: "),
        "{err}"
    );
    assert!(words.iter().all(|words| first.contains(words)), "{err}");
    assert!(
        console.contains(&format!("vmrun: the machine's process was killed by signal {}", signal as i32))
    );
}

#[test]
fn machine_that_is_killed_ends_the_sandbox_with_the_reason() {
    machine_killed_by(
        Signal::SIGSYS,
        &["the machine's process was killed by signal 31 (SIGSYS)", "seccomp filter forbids"],
    );
    machine_killed_by(
        Signal::SIGILL,
        &["the machine's process was killed by signal 4 (SIGILL)", "the host's kernel log"],
    );
}

#[test]
fn machine_that_is_killed_at_any_moment_of_a_start_leaves_nothing() {
    let bundle = Bundle::shell("echo ready; sleep 1000");
    for round in 0..6 {
        let started = Run::of(&bundle).options(if round % 2 == 0 { &["--cold"] } else { &[] }).start();
        let machine = started.machine();
        thread::sleep(Duration::from_millis(100 * round));
        kill_now(machine);
        let outcome = started.finish();
        assert!(outcome.err().contains("the machine's process was killed by signal 9"), "{outcome:?}");
    }
    Run::of(&Bundle::shell("echo ran")).finish().prints("ran\n");
}

#[test]
fn machine_ends_with_its_monitor() {
    let bundle = Bundle::shell("echo ready; sleep 1000");
    let detached = Run::of(&bundle).detach();
    detached.started.stdout.await_text(0, "ready\n");
    let (monitor, machine) = (detached.started.monitor(), detached.started.machine());
    kill_now(monitor);
    detached.reap(monitor);
    detached.delete();
    assert!(fs::read(format!("/proc/{machine}/cmdline")).map_or(true, |line| line.is_empty()));
}

#[test]
fn created_sandbox_whose_machine_is_killed_is_stopped_and_can_be_deleted() {
    let bundle = Bundle::shell("echo ready; sleep 1000");
    let detached = Run::of(&bundle).create();
    detached.verb("start", &[]).ok();
    detached.started.stdout.await_text(0, "ready\n");
    let monitor = detached.started.monitor();
    kill_now(detached.started.machine());
    detached.await_status("stopped");
    detached.reap(monitor);
    detached.verb("kill", &["TERM"]).fails_with(1, &["cannot signal", "stopped"]);
    detached.delete();
}
