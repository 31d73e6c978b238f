//! Monitors and guests that do not answer: every verb ends in time and says what
//! it has waited for.

use std::collections::HashMap;
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::support::{Bundle, Detached, Outcome, Run, Scratch, place, vmrun, wait};

const SLEEP: &str = "echo ready; sleep 1000";

fn sleeping(bundle: &Bundle) -> (Detached, Pid) {
    let detached = Run::of(bundle).detach();
    detached.started.stdout.await_text(0, "ready\n");
    let pid = Pid::from_raw(detached.started.monitor());
    (detached, pid)
}

/// The command's outcome, which must be there after at most this time.
#[track_caller]
fn within(seconds: u64, verb: impl FnOnce() -> Outcome) -> Outcome {
    let begun = Instant::now();
    let outcome = verb();
    assert!(begun.elapsed() < Duration::from_secs(seconds), "{:?} for {outcome:?}", begun.elapsed());
    outcome
}

#[test]
fn stopped_monitor_hangs_no_verb() {
    let bundle = Bundle::shell(SLEEP);
    let (detached, pid) = sleeping(&bundle);
    kill(pid, Signal::SIGSTOP).unwrap();
    let id = pid.to_string();
    for (verb, words, parts) in [
        (
            "ps",
            vec![],
            ["timed out after 30 s waiting for the monitor", &id, "list the processes", "SIGCONT"],
        ),
        (
            "kill",
            vec!["KILL"],
            ["timed out after 30 s waiting for the monitor", &id, "send the signal", "SIGCONT"],
        ),
    ] {
        let outcome = within(40, || detached.verb(verb, &words));
        outcome.fails_with(1, &["cannot "]).fails_with(1, &parts);
    }
    // The way into the guest is the machine's, which goes on; stopped, that one hangs nobody either.
    detached.verb("exec", &["true"]).ok();
    let machine = Pid::from_raw(detached.started.machine());
    kill(machine, Signal::SIGSTOP).unwrap();
    let outcome = within(40, || detached.verb("exec", &["true"]));
    outcome.fails_with(
        255,
        &[
            "cannot run a process",
            "timed out after 30 s waiting for the agent to take a connection",
            "delete --force",
        ],
    );
    // Nobody but the kernel is asked for it.
    assert_eq!(within(5, || detached.verb("state", &[])).ok().parse::<Value>().unwrap()["status"], "running");

    // One that goes on serves those who have gone away, too.
    kill(machine, Signal::SIGCONT).unwrap();
    kill(pid, Signal::SIGCONT).unwrap();
    detached.await_status("stopped");
    detached.reap(pid.as_raw());
    detached.delete();
}

#[test]
fn monitor_that_is_stopped_while_it_boots_is_given_up_and_named() {
    let bundle = Bundle::shell("echo ran");
    let started = Run::of(&bundle).creating().start();
    let pid = Pid::from_raw(started.monitor());
    kill(pid, Signal::SIGSTOP).unwrap();
    let outcome = within(90, || started.finish());
    let waited = "timed out after 75 s waiting for the monitor";
    outcome.fails_with(1, &["cannot create", waited, &pid.to_string(), "boot the guest", "; "]);
}

#[test]
fn lock_that_somebody_keeps_hangs_no_verb() {
    let (bundle, scratch) = (Bundle::shell("echo ran"), Scratch::new());
    let store = scratch.path();
    let mut holder =
        Command::new("flock").arg("--no-fork").arg(store).args(["sleep", "1000"]).spawn().unwrap();
    wait::until("the lock", || {
        let taken = Command::new("flock").arg("--nonblock").arg(store).arg("true").status().unwrap();
        (!taken.success()).then_some(())
    });
    let pid = Pid::from_raw(i32::try_from(holder.id()).unwrap());
    kill(pid, Signal::SIGSTOP).unwrap();
    let outcome = within(40, || Run::of(&bundle).store(store).finish());
    let parts = [
        "cannot run",
        "timed out after 20 s waiting for the lock of",
        store.to_str().unwrap(),
        &pid.to_string(),
        "SIGCONT",
    ];
    outcome.fails_with(1, &parts);
    // Looking needs no lock.
    within(5, || vmrun(&["--root", store.to_str().unwrap()], &["list", "--quiet"])).prints("");

    holder.kill().unwrap();
    holder.wait().unwrap();
    Run::of(&bundle).store(store).finish().prints("ran\n");
}

#[test]
fn stopped_monitor_is_deleted_by_force() {
    let bundle = Bundle::shell(SLEEP);
    let (detached, pid) = sleeping(&bundle);
    kill(pid, Signal::SIGSTOP).unwrap();
    within(40, || detached.verb("delete", &["--force"])).prints("");
    waitpid(pid, None).unwrap();
    detached.started.await_nothing_left();
}

/// A boot image whose init is no agent but this shell script.
fn boot_image(script: &str) -> Vec<u8> {
    let busybox = fs::read(place().busybox.join("bin/busybox")).unwrap();
    let init = format!("#!/bin/busybox sh\n{script}\n");
    let mut image = Vec::new();
    for (name, mode, content) in [
        ("bin", 0o40755, &b""[..]),
        ("bin/busybox", 0o100_755, &busybox),
        ("init", 0o100_755, init.as_bytes()),
        ("TRAILER!!!", 0, b""),
    ] {
        add(&mut image, name, mode, content);
    }
    image
}

/// One file in the format that the kernel's documentation calls `newc`.
fn add(image: &mut Vec<u8>, name: &str, mode: u32, content: &[u8]) {
    let mut fields = HashMap::from([(1, mode), (4, 1)]);
    fields.insert(0, u32::try_from(image.len()).unwrap());
    fields.insert(6, u32::try_from(content.len()).unwrap());
    fields.insert(11, u32::try_from(name.len() + 1).unwrap());
    image.extend(b"070701");
    for number in 0..13 {
        image.extend(format!("{:08x}", fields.get(&number).unwrap_or(&0)).bytes());
    }
    image.extend(name.bytes());
    image.push(0);
    image.resize(image.len().next_multiple_of(4), 0);
    image.extend(content);
    image.resize(image.len().next_multiple_of(4), 0);
}

#[test]
fn boot_image_without_the_agent_is_given_up_and_named() {
    let scratch = Scratch::new();
    let image = scratch.file("image", boot_image("echo init speaks >/dev/console; /bin/busybox sleep 1000"));
    let bundle = Bundle::shell("echo ran");
    let outcome = within(80, || Run::of(&bundle).option("--initramfs").option(&image).finish());
    outcome.fails_with(
        1,
        &[
            "booting the guest",
            image.to_str().unwrap(),
            "timed out after 60 s waiting for the guest's agent",
            "/init",
        ],
    );

    let image = scratch.file("ends", boot_image("exit 3"));
    let outcome = within(40, || Run::of(&bundle).option("--initramfs").option(&image).finish());
    outcome.fails_with(1, &["booting the guest", "panic", "; "]);
}

#[test]
fn state_of_another_boot_or_process_is_stopped() {
    let bundle = Bundle::shell(SLEEP);
    for change in ["start_ticks", "boot_id", "pid"] {
        let (detached, pid) = sleeping(&bundle);
        kill(pid, Signal::SIGKILL).unwrap();
        detached.reap(pid.as_raw());
        let path = detached.started.store.join(&detached.started.id).join("state.json");
        let mut state: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        // Somebody else has the pid now: this test. It must survive the deletion.
        state["monitor"]["pid"] = json!(std::process::id());
        match change {
            "boot_id" => {
                state["monitor"]["start_ticks"] = json!(own_start_ticks());
                state["boot_id"] = json!("00000000-0000-0000-0000-000000000000");
            }
            "pid" => state["monitor"]["pid"] = json!(1),
            _ => {}
        }
        fs::write(&path, state.to_string()).unwrap();
        let shown = detached.state();
        assert_eq!(shown["status"], "stopped", "{change}: {shown}");
        detached.verb("kill", &["KILL"]).fails_with(1, &["cannot signal", "stopped"]);
        detached.verb("exec", &["true"]).fails_with(255, &["cannot run a process", "stopped"]);
        let list = vmrun(&[], &["list"]).ok();
        assert!(list.lines().any(|line| line.contains(&detached.started.id) && line.contains("stopped")));
        detached.delete();
    }
}

/// As the state file counts them.
fn own_start_ticks() -> u64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().nth(19).unwrap().parse().unwrap()
}
