use std::fmt::Debug;
use std::fs;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::thread;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::*;
use crate::figures::Figures;
use crate::process::ProcessIdentity;
use crate::store::{CONTROL_SOCKET, StateSource};

/// A new message gets a new file, by `UPDATE_SCHEMA=1`; an existing file is never changed.
fn golden<M: Serialize + DeserializeOwned + PartialEq + Debug>(name: &str, message: &M) {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/control/schema");
    let path = directory.join(format!("{name}.json"));
    let body = serde_json::to_value(message).unwrap();
    if std::env::var_os("UPDATE_SCHEMA").is_some() && !path.exists() {
        fs::create_dir_all(&directory).unwrap();
        fs::write(&path, serde_json::to_string_pretty(&body).unwrap() + "\n").unwrap();
    }
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), body, "{name} is written differently now");
    assert_eq!(&serde_json::from_str::<M>(&text).unwrap(), message, "{name} is read differently");
}

#[test]
fn requests_are_on_the_wire_as_they_were() {
    let limits = serde_json::from_value(json!({ "pids": { "limit": 5 } })).unwrap();
    golden("request-start", &ControlRequest::Start);
    golden("request-start-notifying", &ControlRequest::StartNotifying("/run/notify".into()));
    golden("request-await-ready", &ControlRequest::AwaitReady);
    golden("request-signal", &ControlRequest::Signal { signal: 15, all: true });
    golden("request-pause", &ControlRequest::Pause);
    golden("request-resume", &ControlRequest::Resume);
    golden("request-update", &ControlRequest::Update(limits));
    golden("request-processes", &ControlRequest::Processes);
    golden("request-figures", &ControlRequest::Figures);
    golden("request-watch", &ControlRequest::Watch);
    golden("request-await-resume", &ControlRequest::AwaitResume);
}

#[test]
fn replies_are_on_the_wire_as_they_were() {
    let report = vmrun_spec::FailureReport { message: "why".to_owned(), exit_code: 1, console: Vec::new() };
    golden("reply-ok", &ControlReply::Ok);
    golden("reply-processes", &ControlReply::Processes(Vec::new()));
    golden("reply-figures", &ControlReply::Figures(Box::<Figures>::default()));
    golden("reply-notified", &ControlReply::Notified("READY=1".to_owned()));
    golden("reply-out-of-memory", &ControlReply::OutOfMemory);
    golden("reply-failed", &ControlReply::Failed(report));
    golden("reply-wrong-state", &ControlReply::WrongState(Status::Stopped));
    golden("reply-unknown", &ControlReply::Unknown);
}

#[test]
fn greeting_is_on_the_wire_as_it_was() {
    let greeting: Greeting =
        serde_json::from_value(json!({ "hello": { "version": 2, "program": "0.1.0" } })).unwrap();
    golden("greeting", &greeting);
}

/// Asks a monitor that says it is of `version`, hears `heard` frames and says `words`: what came of it, and what it heard.
fn ask_one(version: u32, heard: usize, words: &[Value]) -> (Result<ControlReply, Error>, Vec<Value>) {
    let directory = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(directory.path().join(CONTROL_SOCKET)).unwrap();
    let me = ProcessIdentity::of(i32::try_from(std::process::id()).unwrap()).unwrap();
    let state = State { control_version: version, ..StateSource::plain("x").state(Status::Running, me) };
    thread::scope(|scope| {
        let monitor = scope.spawn(|| {
            let (connection, _) = listener.accept().unwrap();
            let frames = (0..heard).map(|_| vmrun_proto::read_frame(&connection).unwrap()).collect();
            words.iter().for_each(|word| vmrun_proto::write_frame(&connection, word).unwrap());
            frames
        });
        let request = ControlRequest::Pause;
        let reply = converse(request.limit(), directory.path(), &state, &request).map(|(reply, _)| reply);
        (reply, monitor.join().unwrap())
    })
}

fn greeting(version: u32) -> Value {
    json!({ "hello": { "version": version, "program": "7.7", "later": true } })
}

fn told(result: Result<ControlReply, Error>) -> (String, Option<&'static str>) {
    let error = result.unwrap_err();
    (crate::chain(&error), error.next_step())
}

#[test]
fn monitor_of_before_greetings_is_asked_without() {
    let (reply, heard) = ask_one(BEFORE_GREETINGS, 1, &[json!("ok")]);
    assert_eq!(reply.unwrap(), ControlReply::Ok);
    assert_eq!(heard, [json!("pause")]);
}

#[test]
fn monitor_is_greeted_and_greets() {
    let (reply, heard) = ask_one(VERSION, 2, &[greeting(VERSION), json!("ok")]);
    assert_eq!(reply.unwrap(), ControlReply::Ok);
    assert_eq!(heard, [serde_json::to_value(Greeting::ours()).unwrap(), json!("pause")]);
}

#[test]
fn monitor_of_a_newer_vmrun_is_understood_as_far_as_it_says_what_is_known() {
    let (reply, _) = ask_one(VERSION + 1, 2, &[greeting(VERSION + 1), json!("ok")]);
    assert_eq!(reply.unwrap(), ControlReply::Ok);
    let (reply, _) = ask_one(VERSION + 1, 2, &[greeting(VERSION + 1), json!({ "shiny": 1 })]);
    let (text, step) = told(reply);
    assert!(text.contains("the monitor, vmrun 7.7 with version 3 of the control socket, answers"), "{text}");
    assert!(step.unwrap().contains("use the vmrun that has started the container"));
    // One of this version that says what nobody knows is broken, not new.
    let (reply, _) = ask_one(VERSION, 2, &[greeting(VERSION), json!({ "shiny": 1 })]);
    assert!(told(reply).0.contains("the monitor broke off"));
}

#[test]
fn monitor_that_does_not_know_the_request_is_named() {
    let (reply, _) = ask_one(VERSION, 2, &[greeting(VERSION), json!("unknown")]);
    let (text, step) = told(reply);
    assert!(text.contains("the monitor, vmrun 7.7 with version 2 of the control socket, does not know how"));
    assert!(step.unwrap().contains("run it anew"));
}
