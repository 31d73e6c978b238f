//! `exec`: one more process in a container.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::process::Stdio;
use std::thread;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::support::{Bundle, Detached, Outcome, Run, Scratch, Terminal, end_of, wait};

/// A container that stays until it is killed.
fn sleeping(bundle: &Bundle) -> Detached {
    let container = Run::of(bundle).detach();
    container.started.stdout.await_text(0, "ready\n");
    container
}

fn sleeper() -> Bundle {
    Bundle::shell("mkdir -p /tmp; chmod 1777 /tmp; echo ready; sleep 1000")
}

#[track_caller]
fn exec(container: &Detached, options: &[&str], words: &[&str]) -> Outcome {
    end_of(&mut container.exec(options, words))
}

#[track_caller]
fn shell(container: &Detached, script: &str) -> Outcome {
    exec(container, &[], &["sh", "-c", script])
}

#[track_caller]
fn end(container: &Detached) {
    container.verb("delete", &["--force"]).prints("");
    container.started.await_nothing_left();
}

fn pid_in(path: &std::path::Path) -> i32 {
    fs::read_to_string(path).unwrap().parse().unwrap()
}

#[test]
fn process_runs_beside_the_program_and_gives_output_and_code() {
    let bundle = sleeper();
    let container = sleeping(&bundle);
    let outcome = shell(&container, "hostname; echo err >&2; cat /proc/1/comm; exit 7");
    assert_eq!(outcome.out(), "sandbox\nsleep\n", "{outcome:?}");
    assert_eq!(outcome.err(), "err\n", "{outcome:?}");
    outcome.exits(7);
    shell(&container, "kill -TERM $$").exits(143);
    exec(&container, &[], &["echo", "--root", "-x"]).prints("--root -x\n");
    end(&container);
}

#[test]
fn options_change_the_process() {
    let bundle = sleeper();
    let container = sleeping(&bundle);
    let script = "id -u; id -g; id -G; pwd; echo $WORD; grep -c . /proc/self/status >/dev/null; \
        grep NoNewPrivs /proc/self/status";
    let options = [
        "-u",
        "1000:1001",
        "--cwd",
        "/tmp",
        "-e",
        "WORD=word",
        "-g",
        "5",
        "--no-new-privs",
        "--cap",
        "CAP_CHOWN",
    ];
    let outcome = exec(&container, &options, &["sh", "-c", script]);
    assert_eq!(outcome.ok(), "1000\n1001\n1001 5\n/tmp\nword\nNoNewPrivs:\t1\n", "{outcome:?}");
    let bounding = |options: &[&str]| {
        let out = exec(&container, options, &["grep", "CapBnd", "/proc/self/status"]).ok();
        u64::from_str_radix(out.trim().rsplit('\t').next().unwrap(), 16).unwrap()
    };
    // CAP_CHOWN is the lowest bit.
    assert_eq!(bounding(&["--cap", "CAP_CHOWN"]), bounding(&[]) | 1);
    end(&container);
}

#[test]
fn input_reaches_the_process_and_its_end_too() {
    let bundle = sleeper();
    let container = sleeping(&bundle);
    let mut command = container.exec(&[], &["sh", "-c", "wc -c; echo end"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&vec![b'x'; 1 << 20]).unwrap();
    let mut out = String::new();
    child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    assert_eq!(out, "1048576\nend\n");
    assert_eq!(wait::end_of(&mut child, wait::LIMIT).unwrap().code(), Some(0));
    end(&container);
}

#[test]
fn output_is_complete_when_the_process_ends() {
    let bundle = sleeper();
    let container = sleeping(&bundle);
    for _ in 0..5 {
        let outcome = shell(&container, "head -c 300000 /dev/zero; printf end");
        assert_eq!(outcome.stdout.len(), 300_003);
        assert!(outcome.stdout.ends_with(b"end"));
    }
    // A child that keeps the streams keeps nobody waiting.
    shell(&container, "sleep 900 & echo done").prints("done\n");
    end(&container);
}

#[test]
fn many_processes_run_at_once() {
    let bundle = sleeper();
    let container = sleeping(&bundle);
    thread::scope(|scope| {
        for number in 0..8 {
            let container = &container;
            scope.spawn(move || {
                let outcome = shell(container, &format!("echo {number}; exit {number}"));
                assert_eq!(outcome.out(), format!("{number}\n"), "{outcome:?}");
                outcome.exits(number);
            });
        }
    });
    end(&container);
}

#[test]
fn what_cannot_be_run_exits_as_the_shell_would() {
    let bundle = sleeper();
    let container = sleeping(&bundle);
    let act = "cannot run a process in";
    exec(&container, &[], &["nosuch"]).fails_with(127, &[act, "executable file not found in $PATH"]);
    exec(&container, &[], &["/etc/passwd"]).fails_with(126, &[act, "/etc/passwd", "ermission denied"]);
    exec(&container, &["--cwd", "relative"], &["true"]).fails_with(255, &[act, "process.cwd", "relative"]);
    exec(&container, &["--cgroup", ".."], &["true"]).fails_with(255, &[act, "bad sub cgroup path: ..", "; "]);
    exec(&container, &["--preserve-fds", "1"], &["true"]).fails_with(255, &[act, "--preserve-fds", "; "]);
    exec(&container, &["-d", "-t"], &["true"]).fails_with(255, &[act, "--console-socket"]);
    container.verb("kill", &["KILL"]).prints("");
    container.await_status("stopped");
    exec(&container, &[], &["true"]).fails_with(255, &[act, "stopped", "; "]);
    container.delete();
}

/// As conmon and containerd's shim do: a file, in the background, with a pid file.
fn detached(container: &Detached, scratch: &Scratch, script: &str) -> i32 {
    let process: Value = json!({
        "user": { "uid": 0, "gid": 0 }, "cwd": "/", "args": ["sh", "-c", script],
        "env": ["PATH=/bin:/usr/bin"], "terminal": false,
    });
    let file = scratch.file("process.json", process.to_string());
    let pid_file = scratch.join("pid");
    let options = ["--process", file.to_str().unwrap(), "--detach", "--pid-file", pid_file.to_str().unwrap()];
    let mut command = container.exec(&options, &[]);
    // Who writes to a file is not waited for by whoever reads a pipe.
    let out = fs::File::create(scratch.join("out")).unwrap();
    let mut child = command.stdin(Stdio::null()).stdout(out).spawn().unwrap();
    assert!(wait::end_of(&mut child, wait::LIMIT).unwrap().success());
    pid_in(&pid_file)
}

#[test]
fn process_runs_on_the_cpus_that_its_file_names() {
    let bundle = sleeper().set("/process/execCPUAffinity", json!({ "final": "0" }));
    let scratch = Scratch::new();
    let container = Run::of(&bundle).options(&["--vcpus", "2"]).detach();
    let show = ["grep", "Cpus_allowed_list", "/proc/self/status"];
    // The container's own is for what is run by options, and not for its first process.
    exec(&container, &[], &show).prints("Cpus_allowed_list:\t0\n");
    exec(&container, &[], &["grep", "Cpus_allowed_list", "/proc/1/status"])
        .prints("Cpus_allowed_list:\t0-1\n");
    for (affinity, expected) in [
        (json!({ "initial": "0", "final": "1" }), "1"),
        (json!({ "initial": "1" }), "1"),
        (json!({ "final": "0-1,7" }), "0-1"),
        (json!({}), "0-1"),
    ] {
        let process = json!({
            "user": { "uid": 0, "gid": 0 }, "cwd": "/", "args": show, "env": ["PATH=/bin"],
            "execCPUAffinity": affinity,
        });
        let file = scratch.file("process.json", process.to_string());
        let outcome = exec(&container, &["--process", file.to_str().unwrap()], &[]);
        outcome.prints(&format!("Cpus_allowed_list:\t{expected}\n"));
    }
    let missing = json!({
        "user": { "uid": 0, "gid": 0 }, "cwd": "/", "args": ["true"], "execCPUAffinity": { "final": "9" },
    });
    let file = scratch.file("process.json", missing.to_string());
    let outcome = exec(&container, &["--process", file.to_str().unwrap()], &[]);
    outcome
        .fails_with(255, &["cannot run a process", "process.execCPUAffinity.final", "\"9\"", "0 to 1", "; "]);
    let bundle = sleeper().set("/process/execCPUAffinity", json!({ "initial": "1-3" }));
    bundle.run().fails_with(1, &["cannot run", "process.execCPUAffinity.initial", "CPU 0 only", "; "]);
    container.verb("delete", &["--force"]).prints("");
    container.started.await_nothing_left();
}

#[test]
fn detached_process_ends_with_its_code_for_its_reaper() {
    let bundle = sleeper();
    let (container, scratch) = (sleeping(&bundle), Scratch::new());
    let pid = detached(&container, &scratch, "echo out; exit 9");
    assert_eq!(container.reap(pid), WaitStatus::Exited(Pid::from_raw(pid), 9));
    assert_eq!(scratch.text("out"), "out\n");

    let pid = detached(&container, &scratch, "trap 'exit 4' TERM; echo up; while :; do sleep 0.05; done");
    wait::until("its output", || (scratch.text("out") == "up\n").then_some(()));
    kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
    assert_eq!(container.reap(pid), WaitStatus::Exited(Pid::from_raw(pid), 4));
    end(&container);
}

#[test]
fn more_processes_run_at_once_than_a_thousand_descriptors_serve() {
    let bundle = sleeper();
    let (container, scratch) = (sleeping(&bundle), Scratch::new());
    // Each takes the agent seven.
    let pids: Vec<i32> = (0..160).map(|_| detached(&container, &scratch, "exec sleep 1000")).collect();
    shell(&container, "ps | grep -c '[s]leep 1000'").prints("161\n");
    for pid in pids {
        kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
        assert_eq!(container.reap(pid), WaitStatus::Exited(Pid::from_raw(pid), 143));
    }
    end(&container);
}

#[test]
fn process_whose_relay_is_killed_is_killed() {
    let bundle = sleeper();
    let (container, scratch) = (sleeping(&bundle), Scratch::new());
    let pid = detached(&container, &scratch, "echo up; exec sleep 4242");
    let running = || shell(&container, "ps | grep -c '[s]leep 4242'").out();
    wait::until("the process", || (running() == "1\n").then_some(()));
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    container.reap(pid);
    wait::until("its end", || (running() == "0\n").then_some(()));
    end(&container);
}

#[test]
fn end_of_the_container_is_the_end_of_every_process() {
    let bundle = sleeper();
    let (container, scratch) = (sleeping(&bundle), Scratch::new());
    let pid = detached(&container, &scratch, "echo up; sleep 1000");
    wait::until("its output", || (scratch.text("out") == "up\n").then_some(()));
    container.verb("kill", &["KILL"]).prints("");
    assert_eq!(container.reap(pid), WaitStatus::Exited(Pid::from_raw(pid), 137));
    container.await_status("stopped");
    container.delete();
}

#[test]
fn terminal_of_a_process_goes_through_the_console_socket() {
    let bundle = sleeper();
    let (container, scratch) = (sleeping(&bundle), Scratch::new());
    let path = scratch.join("console.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let pid_file = scratch.join("pid");
    let options =
        ["-t", "-d", "--console-socket", path.to_str().unwrap(), "--pid-file", pid_file.to_str().unwrap()];
    let script =
        "test -t 0 && echo yes; trap 'stty size; exit 5' WINCH; echo up; while :; do sleep 0.05; done";
    exec(&container, &options, &["sh", "-c", script]).prints("");
    let (terminal, output) = Terminal::receive(&listener);
    output.await_text(0, "yes\r\nup\r\n");
    terminal.resize(44, 55);
    output.await_text(0, "44 55\r\n");
    let pid = pid_in(&pid_file);
    assert_eq!(container.reap(pid), WaitStatus::Exited(Pid::from_raw(pid), 5));
    end(&container);
}

#[test]
fn terminal_in_the_foreground_is_the_users() {
    let bundle = sleeper();
    let container = sleeping(&bundle);
    let mut terminal = Terminal::new(41, 99);
    let inner = container.exec(&["-t"], &["sh", "-c", "stty size; read word; echo got $word; exit 6"]);
    let mut command = std::process::Command::new("setsid");
    command.arg("--ctty").arg("--wait").arg(inner.get_program()).args(inner.get_args());
    let before = terminal.settings();
    let (mut child, output) = terminal.spawn(&mut command);
    let sized = output.await_text(0, "41 99\r\n");
    terminal.types("word\n");
    output.await_text(sized, "got word\r\n");
    assert_eq!(wait::end_of(&mut child, wait::LIMIT).unwrap().code(), Some(6));
    assert_eq!(terminal.settings(), before);
    end(&container);
}

/// What is open while a process is made is no way out of its root: neither to a program, nor to a directory.
#[test]
fn descriptors_of_the_agent_lead_nowhere() {
    let bundle = sleeper().set("/linux/sysctl", json!({ "kernel.msgmax": "8192" }));
    let container = sleeping(&bundle);
    for number in 3..12 {
        let out = format!("/proc/self/fd/{number}/../../../../../..");
        let outcome = exec(&container, &[], &[&format!("{out}/init")]);
        assert!(matches!(outcome.status.code(), Some(126 | 127)), "{number}: {outcome:?}");
        exec(&container, &["--cwd", &out], &["true"]).fails_with(255, &["process.cwd"]);
    }
    end(&container);
    for number in 3..12 {
        let directory = format!("/proc/self/fd/{number}/../../../../../../tmp/made");
        let cwd = Bundle::shell("true").set("/process/cwd", json!(directory));
        cwd.set("/linux/sysctl", json!({ "kernel.msgmax": "8192" })).run().fails_with(1, &["process.cwd"]);
    }
}
