//! A container's life as its engine sees it.

use std::fs;
use std::path::PathBuf;
use std::thread;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::support::{BOTH, Bundle, Run, Runtime, Scratch, new_id, vmrun, wait};

/// Ends with the code, having said so, when the signal comes; says when it is ready.
fn trapping(signal: &str, code: i32) -> String {
    format!("trap 'echo caught {signal}; exit {code}' {signal}; echo ready; while :; do sleep 0.05; done")
}

#[test]
fn signals_to_the_command_reach_the_program() {
    for (signal, name) in [
        (Signal::SIGTERM, "TERM"),
        (Signal::SIGINT, "INT"),
        (Signal::SIGHUP, "HUP"),
        (Signal::SIGQUIT, "QUIT"),
        (Signal::SIGUSR1, "USR1"),
    ] {
        let bundle = Bundle::shell(&trapping(name, 42));
        for runtime in BOTH {
            let started = Run::of(&bundle).on(runtime).start();
            started.stdout.await_text(0, "ready\n");
            started.signal(signal);
            let outcome = started.finish();
            assert_eq!(outcome.out(), format!("ready\ncaught {name}\n"), "{outcome:?}");
            outcome.exits(42);
        }
    }
}

#[test]
fn signals_to_the_monitor_reach_the_program() {
    let bundle = Bundle::debian(&trapping("TERM", 17));
    let started = Run::of(&bundle).start();
    started.stdout.await_text(0, "ready\n");
    kill(Pid::from_raw(started.monitor()), Signal::SIGTERM).unwrap();
    started.finish().exits(17);
}

#[test]
fn signal_while_the_guest_boots_ends_everything() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let bundle = Bundle::shell("sleep 1000");
        let started = Run::of(&bundle).start();
        started.monitor();
        started.signal(signal);
        let outcome = started.finish();
        outcome.exits(128 + signal as i32);
        assert!(outcome.err().starts_with("vmrun: error: cannot run"), "{outcome:?}");
    }
}

#[test]
fn pid_file_names_the_process_that_stands_for_the_container() {
    let scratch = Scratch::new();
    let path = scratch.join("pid");
    let bundle = Bundle::shell(&trapping("TERM", 0));
    for runtime in BOTH {
        let started = Run::of(&bundle).on(runtime).option("--pid-file").option(&path).start();
        started.stdout.await_text(0, "ready\n");
        let pid: i32 = wait::until("the pid file", || fs::read_to_string(&path).ok()?.parse().ok());
        assert!(PathBuf::from(format!("/proc/{pid}")).exists());
        kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
        started.finish().exits(0);
        fs::remove_file(&path).unwrap();
    }
}

#[test]
fn pid_file_that_cannot_be_written_fails_the_run() {
    let bundle = Bundle::shell("sleep 1000");
    let outcome = Run::of(&bundle).options(&["--pid-file", "/no/such/directory/pid"]).finish();
    outcome.fails_with(1, &["cannot run", "/no/such/directory/pid", "No such file"]);
}

#[test]
fn detached_container_runs_is_told_of_signalled_and_deleted() {
    let scratch = Scratch::new();
    let path = scratch.join("pid");
    let bundle =
        Bundle::shell(&trapping("TERM", 23)).set("/annotations", json!({ "org.example.key": "value" }));
    let detached = Run::of(&bundle).option("--pid-file").option(&path).detach();
    let state = detached.state();
    let pid: i32 = fs::read_to_string(&path).unwrap().parse().unwrap();
    let expected = json!({
        "id": detached.started.id, "status": "running", "pid": pid,
        "bundle": bundle.path().canonicalize().unwrap(), "annotations": { "org.example.key": "value" },
    });
    for (field, value) in expected.as_object().unwrap() {
        assert_eq!(&state[field], value, "{state}");
    }
    assert!(state["ociVersion"].as_str().unwrap().starts_with("1."), "{state}");
    let list: Value = serde_json::from_str(&vmrun(&[], &["list", "--format", "json"]).ok()).unwrap();
    assert!(list.as_array().unwrap().iter().any(|entry| entry["id"] == detached.started.id), "{list}");
    detached.started.stdout.await_text(0, "ready\n");

    let refused = detached.verb("delete", &[]);
    refused.fails_with(1, &["cannot delete", "running", "--force"]);
    detached.verb("kill", &["TERM"]).prints("");
    assert_eq!(detached.reap(pid), WaitStatus::Exited(Pid::from_raw(pid), 23));
    assert_eq!(detached.started.stdout.whole().unwrap(), b"ready\ncaught TERM\n");
    detached.await_status("stopped");
    detached.verb("kill", &["TERM"]).fails_with(1, &["cannot signal", "stopped"]);
    detached.delete();
}

#[test]
fn detached_container_that_is_killed_dies_by_the_signal() {
    let scratch = Scratch::new();
    let path = scratch.join("pid");
    let bundle = Bundle::shell("echo ready; sleep 1000");
    for (word, code) in [("KILL", 137), ("9", 137), ("SIGKILL", 137)] {
        let detached = Run::of(&bundle).option("--pid-file").option(&path).detach();
        detached.started.stdout.await_text(0, "ready\n");
        let pid: i32 = fs::read_to_string(&path).unwrap().parse().unwrap();
        detached.verb("kill", &[word]).prints("");
        assert_eq!(detached.reap(pid), WaitStatus::Exited(Pid::from_raw(pid), code));
        detached.delete();
    }
}

#[test]
fn signal_zero_asks_whether_the_program_is_alive_and_does_nothing() {
    let bundle = Bundle::shell("echo ready; sleep 1000");
    let container = Run::of(&bundle).create();
    container.verb("kill", &["0"]).prints("");
    assert_eq!(container.state()["status"], "created");
    container.verb("start", &[]).prints("");
    container.started.stdout.await_text(0, "ready\n");
    container.verb("kill", &["0"]).prints("");
    container.verb("pause", &[]).prints("");
    container.verb("kill", &["0"]).prints("");
    container.verb("resume", &[]).prints("");
    assert_eq!(container.state()["status"], "running");
    container.verb("kill", &["KILL"]).prints("");
    container.await_status("stopped");
    container.verb("kill", &["0"]).fails_with(1, &["cannot signal", "container not running", "stopped"]);
    container.delete();
}

#[test]
fn kill_of_all_reaches_every_process() {
    let script = "sh -c 'trap \"echo child; exit 0\" USR1; echo up; while :; do sleep 0.05; done' &
        trap 'echo parent' USR1; echo ready; wait; wait; exit 6";
    let bundle = Bundle::shell(script);
    let detached = Run::of(&bundle).detach();
    for word in ["up\n", "ready\n"] {
        detached.started.stdout.await_text(0, word);
    }
    detached.verb("kill", &["--all", "USR1"]).prints("");
    detached.started.stdout.await_text(0, "child\n");
    detached.started.stdout.await_text(0, "parent\n");
    detached.await_status("stopped");
    detached.delete();
}

#[test]
fn delete_with_force_ends_a_running_container() {
    let bundle = Bundle::shell("echo ready; sleep 1000");
    let detached = Run::of(&bundle).detach();
    detached.started.stdout.await_text(0, "ready\n");
    detached.verb("delete", &["--force"]).prints("");
    detached.started.await_nothing_left();
    detached.verb("state", &[]).fails_with(1, &["cannot show the state of", &detached.started.id]);
    // What is not there is as good as deleted.
    detached.verb("delete", &["--force"]).prints("");
}

#[test]
fn unknown_container_is_an_error_for_every_verb() {
    let id = new_id();
    for words in [vec!["state", &id], vec!["start", &id], vec!["kill", &id, "TERM"], vec!["delete", &id]] {
        vmrun(&[], &words).fails_with(1, &["cannot", &id, "no such container", "does not exist", "; "]);
    }
}

#[test]
fn kept_container_stays_until_it_is_deleted() {
    let id = new_id();
    let scratch = Scratch::new();
    let store = scratch.join("store");
    let bundle = Bundle::shell("exit 7");
    let mut command = Run::of(&bundle).id(&id).store(&store).option("--keep").command();
    let mut child = command.spawn().unwrap();
    assert_eq!(wait::end_of(&mut child, wait::LIMIT).unwrap().code(), Some(7));
    let root = ["--root", store.to_str().unwrap()];
    let state: Value = serde_json::from_str(&vmrun(&root, &["state", &id]).ok()).unwrap();
    assert_eq!(state["status"], "stopped", "{state}");
    let again = Run::of(&bundle).id(&id).store(&store).command().output().unwrap();
    assert_eq!(again.status.code(), Some(1));
    vmrun(&root, &["delete", &id]).prints("");
    assert!(!store.join(&id).exists());
}

#[test]
fn id_is_free_again_after_the_end() {
    let id = new_id();
    let bundle = Bundle::shell("echo again");
    for _ in 0..2 {
        Run::of(&bundle).id(&id).finish().prints("again\n");
    }
}

#[test]
fn hooks_can_be_interrupted() {
    // Blocked signals are inherited: a shell of which TERM is blocked would not end by it.
    let end = json!({ "path": "/bin/sh", "args": ["sh", "-c", "kill -TERM $$; exit 0"] });
    let bundle = Bundle::shell("echo ran").push("/hooks/createRuntime", end);
    bundle.run().fails_with(1, &["cannot run", "createRuntime", "signal: 15"]);
}

/// A hook that writes its name and what the runtime tells it.
fn hook(name: &str, to: &Scratch) -> Value {
    let log = to.join("log");
    let script = format!(
        "state=$(cat); echo {name} $(echo \"$state\" | jq -r '.id, .status' | tr '\\n' ' ')$WORD >>{}",
        log.display()
    );
    json!({ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["WORD=word", "PATH=/usr/bin:/bin"] })
}

#[test]
fn hooks_run_on_the_host_in_order_with_the_state() {
    for runtime in BOTH {
        let scratch = Scratch::new();
        let mut bundle = Bundle::shell("true");
        for name in ["prestart", "createRuntime", "poststart", "poststop"] {
            bundle = bundle.push(&format!("/hooks/{name}"), hook(name, &scratch));
        }
        let id = new_id();
        Run::of(&bundle).on(runtime).id(&id).finish().prints("");
        let log = scratch.text("log");
        let names: Vec<_> = log.lines().map(|line| line.split_whitespace().next().unwrap()).collect();
        assert_eq!(names, ["prestart", "createRuntime", "poststart", "poststop"], "{runtime:?}: {log}");
        assert!(log.lines().all(|line| line.contains(&id) && line.ends_with(" word")), "{runtime:?}: {log}");
        assert!(log.contains(&format!("poststop {id} stopped")), "{runtime:?}: {log}");
    }
}

#[test]
fn hook_after_the_start_has_run_when_a_detached_one_is_left_and_ends_it_if_it_fails() {
    let scratch = Scratch::new();
    let with_hook = |hook: Value| Bundle::shell("sleep 1000").push("/hooks/poststart", hook);
    let container = Run::of(&with_hook(hook("poststart", &scratch))).detach();
    let log = scratch.text("log");
    assert!(log.starts_with("poststart ") && log.ends_with(" running word\n"), "{log}");
    container.verb("delete", &["--force"]).prints("");
    let failing = with_hook(json!({ "path": "/bin/false" }));
    Run::of(&failing).option("--detach").finish().fails_with(1, &["cannot run", "poststart"]);
}

#[test]
fn hooks_after_the_end_run_once_however_many_delete() {
    let scratch = Scratch::new();
    let bundle = Bundle::shell("echo ready; sleep 1000").push("/hooks/poststop", hook("poststop", &scratch));
    let container = Run::of(&bundle).detach();
    container.started.stdout.await_text(0, "ready\n");
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| drop(container.verb("delete", &["--force"]).ok()));
        }
    });
    container.started.await_nothing_left();
    assert_eq!(scratch.text("log"), format!("poststop {} stopped word\n", container.started.id));
}

#[test]
fn failing_hook_before_the_start_fails_the_run() {
    let bundle = Bundle::shell("echo ran").push("/hooks/createRuntime", json!({ "path": "/bin/false" }));
    let outcome = bundle.run();
    outcome.fails_with(1, &["cannot run", "createRuntime", "/bin/false"]);
}

#[test]
fn hooks_after_the_end_run_when_one_before_the_start_has_failed() {
    for name in ["prestart", "createRuntime", "createContainer"] {
        for create in [false, true] {
            let scratch = Scratch::new();
            let bundle = Bundle::shell("echo ran")
                .push(&format!("/hooks/{name}"), json!({ "path": "/bin/false" }))
                .push("/hooks/poststop", hook("poststop", &scratch));
            let id = new_id();
            let run = Run::of(&bundle).id(&id);
            let outcome = if create { run.creating().finish() } else { run.finish() };
            outcome.fails_with(1, &["cannot", name, "/bin/false"]);
            assert_eq!(scratch.text("log"), format!("poststop {id} stopped word\n"), "{name}");
        }
    }
}

#[test]
fn log_file_gets_the_error_in_the_format_asked_for() {
    let scratch = Scratch::new();
    let bundle = Bundle::shell("").args(&["/none"]);
    for format in ["text", "json"] {
        let path = scratch.join(format);
        let run = Run::of(&bundle).option("--log").option(&path).options(&["--log-format", format]);
        run.finish().fails_with(127, &["/none"]);
        let text = scratch.text(format);
        assert_eq!(text.lines().count(), 1, "{text}");
        if format == "json" {
            let entry: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(entry["level"], "error", "{text}");
            assert!(entry["msg"].as_str().unwrap().contains("/none"), "{text}");
        } else {
            assert!(text.contains("level=error") && text.contains("/none"), "{text}");
        }
    }
}

#[test]
fn start_hook_is_told_of_a_created_container_and_has_its_environment() {
    for runtime in [Runtime::Runc, Runtime::Vmrun] {
        let scratch = Scratch::new();
        let script = "cat >/data/state; echo $HOME $A >/data/env";
        let hook = json!({ "path": "/bin/sh", "args": ["sh", "-c", script] });
        let bundle = Bundle::shell("true")
            .env("A=1")
            .bind(scratch.path(), "/data", &[])
            .push("/hooks/startContainer", hook);
        let run = Run::of(&bundle).on(runtime).id("told-of-its-start");
        run.finish().exits(0);
        let state: Value = serde_json::from_str(&scratch.text("state")).unwrap();
        let told = (&state["id"], &state["status"], &state["pid"], &state["bundle"]);
        let bundle = json!(fs::canonicalize(bundle.path()).unwrap());
        assert_eq!(told, (&json!("told-of-its-start"), &json!("created"), &json!(1), &bundle), "{runtime:?}");
        assert_eq!(scratch.text("env"), "/root 1\n", "{runtime:?}");
        if runtime == Runtime::Vmrun {
            assert_eq!(state["ociVersion"], json!("1.0.2"));
        }
    }
}

#[test]
fn start_hook_that_fails_is_named() {
    let bundle = Bundle::shell("echo ran").push("/hooks/startContainer", json!({ "path": "/bin/false" }));
    let outcome = bundle.run();
    outcome.fails_with(1, &["startContainer"]);
    assert_eq!(outcome.out(), "", "{outcome:?}");
}
