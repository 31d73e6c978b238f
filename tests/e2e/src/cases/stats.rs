//! `stats`: what containers use, for people.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::support::{Bundle, Detached, Run, Scratch, Terminal, place, vmrun, wait};

/// A container that is busy, in a store with no others.
fn busy(bundle: &Bundle, store: &Scratch) -> Detached {
    let container = Run::of(bundle).store(store.path()).detach();
    container.started.stdout.await_text(0, "ready\n");
    container
}

fn bundle() -> Bundle {
    Bundle::shell("echo ready; while :; do :; done")
        .set("/linux/resources/memory", json!({ "limit": 64 << 20 }))
        .set("/linux/resources/pids", json!({ "limit": 40 }))
}

/// `vmrun stats` that goes on, with a reader of its lines.
fn stats(store: &Scratch, words: &[&str]) -> (std::process::Child, impl Iterator<Item = Value> + use<>) {
    let mut command = Command::new(&place().vmrun);
    command.arg("--root").arg(store.path()).args(["stats", "--interval", "200ms", "--format", "json"]);
    let mut child = command.args(words).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    (child, lines.map(|line| serde_json::from_str(&line.unwrap()).unwrap()))
}

#[test]
fn table_shows_containers_until_they_end() {
    let (first, second, store) = (bundle(), bundle(), Scratch::new());
    let root = ["--root", store.path().to_str().unwrap()];
    vmrun(&root, &["stats", "--no-stream"]).shows("CONTAINER").exits(0);
    let web = busy(&first, &store);
    let other = busy(&second, &store);
    let (web_id, other_id) = (web.started.id.clone(), other.started.id.clone());

    let table = vmrun(&root, &["stats", "--no-stream", &web_id]).ok();
    let lines: Vec<_> = table.lines().collect();
    assert_eq!(lines.len(), 2, "{table}");
    assert!(lines[0].contains("MEM USAGE / LIMIT") && lines[0].ends_with("HOST MEM"), "{table}");
    assert!(lines[1].starts_with(&web_id) && lines[1].contains(" / 64MiB "), "{table}");
    assert!(!table.contains('\x1b'), "{table:?}");

    // Those that run, the figures as they are elsewhere.
    let lines = vmrun(&root, &["stats", "--no-stream", "--format", "json"]).ok();
    let rows: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut ids: Vec<_> = rows.iter().map(|row| row["id"].as_str().unwrap()).collect();
    ids.sort_unstable();
    let mut expected = [&web_id[..], &other_id];
    expected.sort_unstable();
    assert_eq!(ids, expected);
    for row in &rows {
        let number = |pointer: &str| row.pointer(pointer).and_then(Value::as_f64).unwrap();
        assert!(number("/cpu_percent") > 0.0 && number("/sandbox/cpu_percent") > 0.0, "{row}");
        let percent = number("/memory_percent");
        assert!(percent > 0.0 && percent <= 100.0, "{row}");
        assert!(number("/sandbox/memory_bytes") > number("/memory_bytes"), "{row}");
        assert_eq!((&row["pids"], &row["pids_limit"]), (&json!(1), &json!(40)), "{row}");
        assert_eq!(row["memory_limit_bytes"], json!(64 << 20), "{row}");
    }

    // One of two that were named ends, and is not there any more; then the other.
    let (mut child, mut rows) = stats(&store, &[&web_id, &other_id]);
    assert!(rows.any(|row| row["id"] == web_id[..]) && rows.any(|row| row["id"] == other_id[..]));
    other.verb("kill", &["KILL"]).prints("");
    other.await_status("stopped");
    vmrun(&root, &["stats", "--no-stream", &web_id, &other_id])
        .fails_with(1, &["cannot show the statistics", &other_id, "stopped", "; "]);
    web.verb("kill", &["KILL"]).prints("");
    assert!(rows.last().is_none_or(|row| row["id"] == web_id[..]));
    assert!(wait::end_of(&mut child, wait::LIMIT).unwrap().success());
    web.await_status("stopped");
    vmrun(&root, &["stats", "--no-stream", "nobody"])
        .fails_with(1, &["cannot show the statistics", "\"nobody\"", "no such container", "; "]);
    other.delete();
    web.delete();
}

#[test]
fn control_c_and_a_reader_that_leaves_are_good_ends() {
    let store = Scratch::new();
    // Also where nothing runs, it goes on.
    let mut terminal = Terminal::new(24, 120);
    let mut command = Command::new("setsid");
    command.args(["--ctty".as_ref(), place().vmrun.as_os_str(), "--root".as_ref(), store.path().as_os_str()]);
    let (mut child, output) = terminal.spawn(command.args(["stats", "--interval", "100ms"]));
    let first = output.await_text(0, "HOST MEM");
    assert!(output.so_far().starts_with(b"\x1b[H\x1b[2J"));
    output.await_text(first, "\x1b[HCONTAINER");
    terminal.types("\x03");
    assert_eq!(wait::end_of(&mut child, wait::LIMIT).unwrap().code(), Some(0));

    let bundle = bundle();
    let container = busy(&bundle, &store);
    let (mut child, mut rows) = stats(&store, &[]);
    assert_eq!(rows.next().unwrap()["id"], container.started.id[..]);
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGINT).unwrap();
    assert_eq!(wait::end_of(&mut child, wait::LIMIT).unwrap().code(), Some(0));
    let (mut child, mut rows) = stats(&store, &[]);
    rows.next().unwrap();
    drop(rows);
    assert_eq!(wait::end_of(&mut child, wait::LIMIT).unwrap().code(), Some(0));
    container.verb("delete", &["--force"]).prints("");
    container.started.await_nothing_left();
}
