//! `create`, `start` and what may be done between and after them.

use std::fs;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;
use serde_json::json;

use crate::support::{Bundle, Detached, Run, Scratch, end_of, new_id, place, vmrun};

/// Asserts the exit code of the process that stands for the container, and its status afterwards.
#[track_caller]
fn ends_with(container: &Detached, pid: i32, code: i32) {
    assert_eq!(container.reap(pid), WaitStatus::Exited(Pid::from_raw(pid), code));
    container.await_status("stopped");
}

#[test]
fn created_container_waits_for_its_start_and_its_process_ends_with_its_code() {
    let scratch = Scratch::new();
    let path = scratch.join("pid");
    let bundle = Bundle::shell("echo ran; read word; echo got $word >&2; exit 23");
    let (reader, writer) = std::io::pipe().unwrap();
    let container = Run::of(&bundle).option("--pid-file").option(&path).stdin(reader).create();
    let pid: i32 = fs::read_to_string(&path).unwrap().parse().unwrap();
    let state = container.state();
    assert_eq!((&state["status"], &state["pid"]), (&json!("created"), &json!(pid)), "{state}");
    assert_eq!(container.started.stdout.so_far(), b"");

    container.verb("start", &[]).prints("");
    assert_eq!(container.state()["status"], "running");
    container.started.stdout.await_text(0, "ran\n");
    std::io::Write::write_all(&mut &writer, b"word\n").unwrap();
    ends_with(&container, pid, 23);
    assert_eq!(container.started.stdout.whole().unwrap(), b"ran\n");
    assert_eq!(container.started.stderr.whole().unwrap(), b"got word\n");
    assert_eq!(container.state()["pid"], 0);
    container.delete();
}

#[test]
fn verbs_that_do_not_fit_the_state_name_it() {
    let bundle = Bundle::shell("echo ready; sleep 1000");
    let container = Run::of(&bundle).create();
    let pid = container.started.monitor();
    container.verb("start", &[]).prints("");
    container.verb("start", &[]).fails_with(1, &["cannot start", "running", "; "]);
    container.verb("delete", &[]).fails_with(1, &["cannot delete", "running", "--force"]);
    container.verb("kill", &["KILL"]).prints("");
    ends_with(&container, pid, 137);
    container.verb("start", &[]).fails_with(1, &["cannot start", "stopped", "; "]);
    // Engines look for these words.
    container.verb("kill", &["TERM"]).fails_with(1, &["cannot signal", "container not running", "stopped"]);
    container.delete();
}

#[test]
fn created_container_can_be_deleted_and_nothing_is_left() {
    let bundle = Bundle::shell("echo ran");
    for options in [&[][..], &["--force"]] {
        let container = Run::of(&bundle).create();
        let pid = container.started.monitor();
        container.verb("delete", options).prints("");
        container.reap(pid);
        container.started.await_nothing_left();
        assert_eq!(container.started.stdout.whole().unwrap(), b"");
    }
}

#[test]
fn created_container_ends_by_the_signal_it_gets() {
    let bundle = Bundle::shell("echo ran");
    for (word, code) in [("TERM", 143), ("KILL", 137)] {
        let container = Run::of(&bundle).create();
        let pid = container.started.monitor();
        container.verb("kill", &["WINCH"]).prints("");
        assert_eq!(container.state()["status"], "created");
        container.verb("kill", &[word]).prints("");
        ends_with(&container, pid, code);
        container.delete();
    }
    let container = Run::of(&bundle).create();
    let pid = container.started.monitor();
    kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
    ends_with(&container, pid, 143);
    container.delete();
}

#[test]
fn monitor_of_a_created_container_that_is_killed_leaves_a_stopped_one() {
    let bundle = Bundle::shell("echo ran");
    let container = Run::of(&bundle).create();
    let pid = container.started.monitor();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    container.reap(pid);
    container.await_status("stopped");
    container.verb("start", &[]).fails_with(1, &["cannot start", "stopped"]);
    container.delete();
}

#[test]
fn state_from_before_a_reboot_is_stopped() {
    let bundle = Bundle::shell("echo ran");
    let container = Run::of(&bundle).create();
    let pid = container.started.monitor();
    let file = container.started.store.join(&container.started.id).join("state.json");
    let mut state: serde_json::Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    state["boot_id"] = json!("another");
    fs::write(&file, state.to_string()).unwrap();
    assert_eq!(container.state()["status"], "stopped");
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    container.reap(pid);
    container.delete();
}

#[test]
fn create_that_fails_leaves_nothing_and_tells_the_log() {
    let scratch = Scratch::new();
    let log = scratch.join("log.json");
    let missing = Bundle::shell("").args(&["nosuch"]);
    let run = Run::of(&missing).creating().option("--log").option(&log).options(&["--log-format", "json"]);
    run.finish().fails_with(127, &["cannot create", "nosuch", "executable file not found in $PATH", "; "]);
    let entry: serde_json::Value = serde_json::from_str(&scratch.text("log.json")).unwrap();
    assert_eq!(entry["level"], "error");
    assert!(entry["msg"].as_str().unwrap().contains("nosuch"), "{entry}");
    let bundle = Bundle::shell("true");
    Run::of(&bundle)
        .creating()
        .options(&["--pid-file", "/no/such/directory/pid"])
        .finish()
        .fails_with(1, &["cannot create", "/no/such/directory/pid"]);
    // A guest that does not come up: stage, cause and the console's last lines.
    let log = scratch.join("log.txt");
    let run =
        Run::of(&bundle).creating().options(&["--initramfs", "/etc/passwd"]).option("--log").option(&log);
    run.finish().fails_with(1, &["cannot create", "booting the guest"]);
    let text = scratch.text("log.txt");
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.contains("level=error") && text.contains("booting the guest"), "{text}");
    assert!(text.contains("console=\""), "{text}");
}

#[test]
fn hooks_run_with_the_verb_they_belong_to() {
    let scratch = Scratch::new();
    let log = scratch.join("log");
    let mut bundle = Bundle::shell("true");
    for name in ["prestart", "createRuntime", "createContainer", "poststart", "poststop"] {
        let script = format!("echo {name} $(jq -r .status) >>{}", log.display());
        let hook = json!({ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"] });
        bundle = bundle.push(&format!("/hooks/{name}"), hook);
    }
    let container = Run::of(&bundle).create();
    let pid = container.started.monitor();
    assert_eq!(scratch.text("log"), "prestart creating\ncreateRuntime creating\ncreateContainer creating\n");
    container.verb("start", &[]).prints("");
    assert_eq!(scratch.text("log").lines().nth(3).and_then(|line| line.split(' ').next()), Some("poststart"));
    ends_with(&container, pid, 0);
    container.delete();
    assert_eq!(scratch.text("log").lines().nth(4), Some("poststop stopped"));
}

#[test]
fn log_is_not_taken_for_a_socket_of_a_service_manager() {
    let scratch = Scratch::new();
    let bundle = Bundle::shell("true");
    let mut command = Command::new(&place().vmrun);
    command.arg("--log").arg(scratch.join("log")).args(["run", "--bundle"]).arg(bundle.path()).arg(new_id());
    command.env_remove("LISTEN_PID").env("LISTEN_FDS", "1");
    end_of(&mut command).prints("");
}

#[test]
fn what_there_is_not_yet_says_so() {
    for verb in ["checkpoint", "restore"] {
        let words = [verb, "--image-path", "/x", &new_id()];
        vmrun(&[], &words).fails_with(1, &["cannot", verb, "not supported yet", "; "]);
    }
}

#[test]
fn bundle_may_change_and_vanish_once_the_container_is_made() {
    let scratch = Scratch::new();
    let log = scratch.join("log");
    let note = |name: &str| json!([{ "path": "/bin/sh", "args": ["sh", "-c", format!("echo {name} >>{}", log.display())] }]);
    let bundle = Bundle::shell("echo ready; sleep 1000")
        .env("MADE_WITH=this")
        .set("/hooks/poststart", note("poststart"))
        .set("/hooks/poststop", note("poststop"));
    let container = Run::of(&bundle).create();
    let execute = |script: &str| end_of(&mut container.exec(&[], &["sh", "-c", script]));
    let config = bundle.path().join("config.json");

    let changed = bundle.config().replace("MADE_WITH=this", "MADE_WITH=that").replace("sleep 1000", "exit 9");
    fs::write(&config, changed.replace("poststop >>", "another >>")).unwrap();
    execute("echo $MADE_WITH").prints("this\n");
    fs::write(&config, "no JSON").unwrap();
    container.verb("start", &[]).prints("");
    container.started.stdout.await_text(0, "ready\n");
    fs::remove_file(&config).unwrap();
    execute("echo $MADE_WITH").prints("this\n");

    // Its root file system goes with it: what is mounted stays.
    let elsewhere = scratch.join("elsewhere");
    fs::rename(bundle.path(), &elsewhere).unwrap();
    execute("echo $MADE_WITH").prints("this\n");
    assert_eq!(container.state()["status"], "running");
    for verb in ["ps", "pause", "resume"] {
        container.verb(verb, &[]).exits(0);
    }
    container.verb("events", &["--stats"]).exits(0);
    container.verb("update", &["--pids-limit", "100"]).prints("");
    let pid = container.started.monitor();
    container.verb("kill", &["KILL"]).prints("");
    ends_with(&container, pid, 137);
    container.delete();
    assert_eq!(scratch.text("log"), "poststart\npoststop\n");
    fs::rename(elsewhere, bundle.path()).unwrap();
}
