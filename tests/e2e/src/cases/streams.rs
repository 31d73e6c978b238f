//! Standard streams.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::support::{BOTH, Bundle, Run, STORE, Scratch, end_of, new_id, vmrun, wait};

const MIB: usize = 1 << 20;

/// Bytes without a pattern, the same in each run.
fn noise(count: usize) -> Vec<u8> {
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut bytes = Vec::with_capacity(count);
    while bytes.len() < count {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(count);
    bytes
}

fn sha256(bytes: &[u8]) -> String {
    let mut child = Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(bytes).unwrap();
    let output = child.wait_with_output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn stdout_and_stderr_come_apart() {
    for bundle in Bundle::shells("echo out; echo err >&2; echo more") {
        bundle.on_both(|outcome| {
            assert_eq!((outcome.out().as_str(), outcome.err().as_str()), ("out\nmore\n", "err\n"));
            outcome.exits(0);
        });
    }
}

#[test]
fn stdin_reaches_the_program_and_ends() {
    for bundle in Bundle::shells("cat; echo end") {
        for runtime in BOTH {
            Run::of(&bundle).on(runtime).input("one\ntwo\n").finish().prints("one\ntwo\nend\n");
        }
    }
}

#[test]
fn stdin_of_nothing_ends_at_once() {
    Bundle::shell("cat; echo end").run().prints("end\n");
}

#[test]
fn hundred_mib_pass_from_stdin_to_stdout_unchanged() {
    let sent = noise(100 * MIB);
    let script = "mkfifo /tmp/copy; sha256sum </tmp/copy >&2 & tee /tmp/copy; wait";
    let bundle = Bundle::shell(script);
    let outcome = Run::of(&bundle).input(sent.clone()).finish();
    let hash = sha256(&sent);
    assert_eq!(outcome.err(), hash, "in the container");
    assert_eq!(sha256(&outcome.stdout), hash, "what came back");
    assert!(outcome.stdout == sent);
}

#[test]
fn many_small_writes_arrive_whole_and_in_order() {
    let bundle = Bundle::shell("i=0; while [ $i -lt 5000 ]; do echo $i; echo $i >&2; i=$((i + 1)); done");
    let outcome = bundle.run();
    let expected: String = (0..5000).map(|number| format!("{number}\n")).collect();
    assert!(outcome.out() == expected && outcome.err() == expected);
}

#[test]
fn output_before_the_end_is_never_lost() {
    let bundle = Bundle::shell("head -c 300000 /dev/zero; head -c 200000 /dev/zero >&2; exit 5");
    for _ in 0..5 {
        let outcome = bundle.run();
        assert_eq!((outcome.stdout.len(), outcome.stderr.len()), (300_000, 200_000));
        assert_eq!(outcome.status.code(), Some(5));
    }
}

#[test]
fn slow_reader_holds_the_program_back_and_gets_everything() {
    let scratch = Scratch::new();
    let script = "i=0; while [ $i -lt 64 ]; do head -c 1048576 /dev/zero; i=$((i + 1)); echo $i >/progress/count; done";
    let bundle = Bundle::shell(script).bind(scratch.path(), "/progress", &[]);
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut command = Run::of(&bundle).command();
    let mut child = command.stdin(Stdio::null()).stdout(writer).spawn().unwrap();
    drop(command);
    let count = wait::settled("the program to stand still", || {
        std::fs::read_to_string(scratch.join("count")).unwrap_or_default()
    });
    let count: usize = count.trim().parse().unwrap_or(0);
    assert!(count < 8, "{count} MiB were taken off a program whose output nobody reads");
    let mut total = 0;
    let mut buffer = [0; 4093];
    loop {
        match reader.read(&mut buffer).unwrap() {
            0 => break,
            count => total += count,
        }
    }
    assert_eq!(total, 64 * MIB);
    assert!(wait::end_of(&mut child, wait::LIMIT).unwrap().success());
}

#[test]
fn slow_program_holds_the_writer_back() {
    let bundle = Bundle::shell("read line; until [ -e /data/go ]; do sleep 0.05; done; wc -c");
    let scratch = Scratch::new();
    let bundle = bundle.bind(scratch.path(), "/data", &[]);
    let (reader, writer) = std::io::pipe().unwrap();
    let started = Run::of(&bundle).stdin(reader).start();
    let sent = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counter = std::sync::Arc::clone(&sent);
    let feeder = std::thread::spawn(move || {
        let mut writer = writer;
        let chunk = vec![b'\n'; 1 << 16];
        for _ in 0..32 * MIB / (1 << 16) {
            writer.write_all(&chunk).unwrap();
            counter.fetch_add(chunk.len(), std::sync::atomic::Ordering::Relaxed);
        }
    });
    let settled =
        wait::settled("the writer to stand still", || sent.load(std::sync::atomic::Ordering::Relaxed));
    assert!(settled > 0 && settled < 8 * MIB, "{settled} bytes were taken for a program that does not read");
    scratch.file("go", "");
    feeder.join().unwrap();
    // The shell has read the first line and perhaps no more.
    let outcome = started.finish();
    let count: usize = outcome.ok().trim().parse().unwrap();
    assert_eq!(count, 32 * MIB - 1);
}

#[test]
fn program_that_does_not_read_ends_all_the_same() {
    let bundle = Bundle::shell("exit 6");
    for runtime in BOTH {
        Run::of(&bundle).on(runtime).input(noise(4 * MIB)).finish().exits(6);
    }
}

#[test]
fn program_that_closes_its_stdin_goes_on() {
    let bundle = Bundle::shell("exec <&-; echo closed; exit 4");
    for runtime in BOTH {
        let outcome = Run::of(&bundle).on(runtime).input(noise(4 * MIB)).finish();
        assert_eq!(outcome.out(), "closed\n");
        outcome.exits(4);
    }
}

#[test]
fn closed_output_is_the_end_of_the_stream_for_the_reader() {
    let scratch = Scratch::new();
    let script = "echo last; exec >&-; until [ -e /data/go ]; do sleep 0.05; done; echo still >&2";
    let bundle = Bundle::shell(script).bind(scratch.path(), "/data", &[]);
    let started = Run::of(&bundle).start();
    // As long as vmrun runs it could keep it open itself.
    let whole = started.stdout.whole();
    assert_eq!(whole.as_deref(), Some(&b"last\n"[..]));
    scratch.file("go", "");
    let outcome = started.finish();
    assert_eq!(outcome.err(), "still\n");
    outcome.exits(0);
}

#[test]
fn reader_that_goes_away_is_a_broken_pipe_for_the_program() {
    for runtime in BOTH {
        let bundle = Bundle::shell("yes; echo $? >&2");
        let run = Run::of(&bundle).on(runtime);
        let mut command = Command::new("bash");
        let inner = run.command();
        command.args(["-c", "\"$@\" | head -n 1; exit ${PIPESTATUS[0]}", "bash"]);
        command.arg(inner.get_program()).args(inner.get_args());
        let outcome = end_of(&mut command);
        assert_eq!(outcome.out(), "y\n", "{runtime:?} {outcome:?}");
        assert_eq!(outcome.err().lines().next_back(), Some("141"), "{runtime:?} {outcome:?}");
        outcome.exits(0);
    }
}

#[test]
fn streams_that_are_closed_do_not_matter() {
    let bundle = Bundle::shell("exit 3");
    for closed in ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"] {
        let mut command = Command::new("sh");
        let inner = Run::of(&bundle).command();
        command
            .args(["-c", &format!("\"$@\" {closed}"), "sh"])
            .arg(inner.get_program())
            .args(inner.get_args());
        end_of(&mut command).exits(3);
    }
}

#[test]
fn files_as_streams_are_read_and_written() {
    let scratch = Scratch::new();
    let sent = noise(MIB);
    let input = scratch.file("input", &sent);
    for runtime in BOTH {
        let bundle = Bundle::shell("cat; echo note >&2");
        let inner = Run::of(&bundle).on(runtime).command();
        let mut command = Command::new("sh");
        command.args(["-c", "input=$1 output=$2; shift 2; \"$@\" <$input >$output 2>>$output", "sh"]);
        command.arg(&input).arg(scratch.join("output")).arg(inner.get_program()).args(inner.get_args());
        end_of(&mut command).prints("");
        let written = std::fs::read(scratch.join("output")).unwrap();
        assert!(written.len() == MIB + 5 || written.len() == MIB, "{runtime:?}: {}", written.len());
    }
}

#[test]
fn output_that_nobody_has_read_yet_outlives_kill_and_delete() {
    // More than a pipe holds, and less than all the buffers on its way.
    let count = 200_000;
    let bundle = Bundle::shell(&format!("head -c {count} /dev/zero"));
    let id = new_id();
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut command = Run::of(&bundle).id(&id).option("--detach").command();
    let started = command.stdin(Stdio::null()).stdout(writer).stderr(Stdio::null()).status().unwrap();
    assert!(started.success(), "{started}");
    drop(command);

    // The program has ended; its monitor has not.
    wait::until("the program's end", || {
        let asked = vmrun(&[], &["kill", &id, "0"]);
        (!asked.status.success()).then_some(asked)
    })
    .fails_with(1, &["cannot signal", "container not running", "stopped"]);
    vmrun(&[], &["kill", &id, "TERM"]).fails_with(1, &["container not running", "stopped"]);
    let state: serde_json::Value = serde_json::from_str(&vmrun(&[], &["state", &id]).ok()).unwrap();
    assert_eq!(state["status"], "running", "{state}");

    let deletion = thread::spawn({
        let id = id.clone();
        move || vmrun(&[], &["delete", "--force", &id])
    });
    thread::sleep(Duration::from_secs(1));
    let mut all = Vec::new();
    reader.read_to_end(&mut all).unwrap();
    assert!(all == vec![0; count], "{} bytes of {count}", all.len());
    deletion.join().unwrap().prints("");
    assert!(!Path::new(STORE).join(&id).exists());
}
