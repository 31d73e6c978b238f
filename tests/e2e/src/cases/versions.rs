//! Peers of other versions at a monitor's control socket, and records that another `vmrun` has written.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::support::{Bundle, Detached, Run, Scratch};

const SLEEP: &str = "echo ready; sleep 1000";

/// A container that runs, in a store of its own.
fn running(bundle: &Bundle, store: &Scratch) -> (Detached, PathBuf) {
    let run = Run::of(bundle).store(store.path()).id("x").detach();
    run.started.stdout.await_text(0, "ready\n");
    (run, store.join("x"))
}

fn send(connection: &mut UnixStream, message: &Value) {
    let body = message.to_string();
    let length = u32::try_from(body.len()).unwrap().to_le_bytes();
    connection.write_all(&[&length, body.as_bytes()].concat()).unwrap();
}

fn receive(connection: &mut UnixStream) -> Value {
    let mut length = [0; 4];
    connection.read_exact(&mut length).unwrap();
    let mut body = vec![0; usize::try_from(u32::from_le_bytes(length)).unwrap()];
    connection.read_exact(&mut body).unwrap();
    serde_json::from_slice(&body).unwrap()
}

#[test]
fn verb_of_a_newer_vmrun_is_told_what_the_monitor_does_not_know() {
    let (bundle, store) = (Bundle::shell(SLEEP), Scratch::new());
    let (container, record) = running(&bundle, &store);
    let greeting = json!({ "hello": { "version": 99, "program": "9.9.9", "more": [] } });
    let mut newer = UnixStream::connect(record.join("control.sock")).unwrap();
    send(&mut newer, &greeting);
    send(&mut newer, &json!({ "teleport": { "to": "there" } }));
    assert_eq!(receive(&mut newer)["hello"]["version"], 2);
    assert_eq!(receive(&mut newer), "unknown");
    // What both know goes on.
    let mut newer = UnixStream::connect(record.join("control.sock")).unwrap();
    send(&mut newer, &greeting);
    send(&mut newer, &json!("processes"));
    assert_eq!(receive(&mut newer)["hello"]["version"], 2);
    assert!(receive(&mut newer)["processes"].is_array());
    container.await_status("running");
    container.end().ok();
}

#[test]
fn verb_of_before_greetings_is_answered_without() {
    let (bundle, store) = (Bundle::shell(SLEEP), Scratch::new());
    let (container, record) = running(&bundle, &store);
    let mut older = UnixStream::connect(record.join("control.sock")).unwrap();
    send(&mut older, &json!("processes"));
    assert!(receive(&mut older)["processes"].is_array());
    container.end().ok();
}

#[test]
fn container_whose_record_is_of_before_greetings_takes_every_verb() {
    let (bundle, store) = (Bundle::shell(SLEEP), Scratch::new());
    let (container, record) = running(&bundle, &store);
    let path = record.join("state.json");
    let mut state: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert_eq!(state.as_object_mut().unwrap().remove("control_version"), Some(json!(2)));
    fs::write(&path, state.to_string()).unwrap();
    container.verb("exec", &["true"]).ok();
    container.verb("ps", &[]).ok();
    container.verb("pause", &[]).ok();
    container.verb("resume", &[]).ok();
    container.verb("kill", &["KILL"]).ok();
    container.await_status("stopped");
    container.delete();
}

#[test]
fn record_of_a_newer_schema_is_named_with_both() {
    let (bundle, store) = (Bundle::shell(SLEEP), Scratch::new());
    let (container, record) = running(&bundle, &store);
    let path = record.join("state.json");
    let text = fs::read_to_string(&path).unwrap();
    let newer = text.replacen("\"schema\":1", "\"schema\":2", 1);
    assert_ne!(newer, text);
    fs::write(&path, newer).unwrap();
    container.verb("state", &[]).fails_with(1, &["state.json has schema 2, this vmrun reads 1"]);
    fs::write(&path, text).unwrap();
    container.end().ok();
}
