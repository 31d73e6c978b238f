//! The conversation, with a process at the other end that does what a test wants: also what no machine does.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::fs::{self, File};
use std::io::Write;
use std::num::NonZeroU64;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::socket::{ControlMessage, MsgFlags, send, sendmsg};
use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use vmrun_machine::{Ahead, PageRun};
use vmrun_spec::{DiskKind, DiskSlot, DiskSpec, Frames, NetSpec, NicSlot, RateSpec};

use super::handle::{Machine, OrderError, SaveError};
use super::message::{
    Counted, Ending, Fault, FramesKind, MOST_BYTES, Numbered, Order, Report, Stamped, VERSION,
};
use super::process::Child;
use super::socket::{self, SocketError};
use super::{End, StartError};

/// A new message gets a new file, by `UPDATE_SCHEMA=1`; an existing file is never changed.
fn golden<M: Serialize + DeserializeOwned + PartialEq + Debug>(name: &str, message: M) {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/machine/schema");
    let path = directory.join(format!("{name}.json"));
    let numbered = Numbered { number: 7, message };
    let body = serde_json::to_value(&numbered).unwrap();
    if std::env::var_os("UPDATE_SCHEMA").is_some() && !path.exists() {
        fs::write(&path, serde_json::to_string_pretty(&body).unwrap() + "\n").unwrap();
    }
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), body, "{name} is written differently now");
    assert_eq!(serde_json::from_str::<Numbered<M>>(&text).unwrap(), numbered, "{name} is read differently");
}

fn net() -> NetSpec {
    NetSpec { mac: [2, 0, 0, 0, 0, 1], mtu: Some(1500), rx: None, tx: None }
}

fn slot(number: u8) -> NicSlot {
    NicSlot::new(number).unwrap()
}

fn disk() -> DiskSpec {
    DiskSpec {
        bytes: 1 << 20,
        kind: DiskKind::File,
        read_only: true,
        block_bytes: 512,
        physical_block_bytes: 4096,
        serial: "vmrun-3".to_owned(),
        rate: Some(RateSpec { bytes: NonZeroU64::new(1 << 20), packets: NonZeroU64::new(100) }),
    }
}

#[test]
fn orders_are_on_the_wire_as_they_were() {
    golden("order-hold", Order::Hold);
    golden("order-release", Order::Release);
    golden("order-save", Order::Save);
    golden("order-pass-checkpoint", Order::PassCheckpoint);
    golden("order-plug-tap", Order::Plug { slot: slot(1), device: net(), frames: FramesKind::Tap });
    golden("order-plug-stream", Order::Plug { slot: slot(1), device: net(), frames: FramesKind::Stream });
    golden("order-unplug", Order::Unplug { slot: slot(1) });
    golden("order-set-link", Order::SetLink { slot: slot(1), up: true });
    golden("order-counters", Order::Counters);
    golden("order-stamps", Order::Stamps);
    golden("order-tail", Order::Tail { lines: 20 });
    golden("order-plug-balloon", Order::PlugBalloon);
    golden("order-working-set", Order::WorkingSet);
    golden("order-plug-disk", Order::PlugDisk { slot: DiskSlot::new(3).unwrap(), device: disk() });
}

#[test]
fn reports_are_on_the_wire_as_they_were() {
    let cause = || "why".to_owned();
    golden("report-hello", Report::Hello { version: VERSION });
    golden("report-started", Report::Started);
    golden("report-not-started", Report::NotStarted { cause: cause(), fault: Fault::Other });
    golden("report-bad-template", Report::NotStarted { cause: cause(), fault: Fault::Template });
    let ended = |how| Report::Ended { how, console: vec!["line".to_owned()] };
    golden("report-reset", ended(Ending::Reset));
    golden("report-panicked", ended(Ending::Panicked));
    golden("report-device", ended(Ending::Device(cause())));
    golden("report-failed", ended(Ending::Failed(cause())));
    golden("report-done", Report::Done);
    golden("report-refused", Report::Refused { cause: cause() });
    golden("report-not-saved", Report::NotSaved { cause: cause(), full: true });
    let figures = BTreeMap::from([("frames".to_owned(), 3)]);
    golden(
        "report-counters",
        Report::Counters(vec![Counted { device: "d".to_owned(), slot: Some(1), figures }]),
    );
    golden("report-stamps", Report::Stamps(vec![Stamped { code: None, at_ns: 5 }]));
    golden("report-tail", Report::Tail(vec!["line".to_owned()]));
    let mapped = PageRun { first: 9, count: 4, ahead: Ahead::Mapped };
    golden("report-working-set-mapped", Report::WorkingSet(vec![mapped]));
    golden(
        "report-working-set",
        Report::WorkingSet(vec![PageRun { first: 7, count: 2, ahead: Ahead::Copied }]),
    );
}

/// A process that is a machine's for as long as `life` lasts.
fn machine(life: impl FnOnce(&OwnedFd) -> i32) -> Result<Machine, StartError> {
    let (ours, theirs) = socket::pair().unwrap();
    // Only the child may keep the other end open.
    let child = Child::start(move || life(&theirs)).unwrap();
    Machine::started(child, ours, &console())
}

fn console() -> PathBuf {
    let directory = tempfile::tempdir().unwrap().keep();
    let path = directory.join("console.log");
    fs::write(&path, "printed\n").unwrap();
    path
}

fn tell(socket: &OwnedFd, number: u64, report: &Report) {
    socket::tell(socket, number, report, None, MsgFlags::empty()).unwrap();
}

fn begin(socket: &OwnedFd) {
    tell(socket, 0, &Report::Hello { version: VERSION });
    tell(socket, 0, &Report::Started);
}

/// The next order, when it has come.
fn order(socket: &OwnedFd) -> (Numbered<Order>, Option<OwnedFd>) {
    loop {
        if let Some(order) = socket::hear_with(socket).unwrap() {
            return order;
        }
        std::thread::yield_now();
    }
}

/// What becomes of a machine that answers an order like this.
fn end_after(answer: impl FnOnce(&OwnedFd, u64) -> i32) -> End {
    let machine = machine(|socket| {
        begin(socket);
        let (Numbered { number, .. }, _) = order(socket);
        answer(socket, number)
    })
    .unwrap();
    assert!(machine.counters().is_empty());
    assert!(machine.ends_within(Duration::from_secs(60)));
    machine.end().unwrap()
}

#[test]
fn orders_are_answered_and_a_descriptor_comes_along() {
    let machine = machine(|socket| {
        begin(socket);
        let (Numbered { number, message }, beside) = order(socket);
        assert_eq!(message, Order::Plug { slot: slot(2), device: net(), frames: FramesKind::Stream });
        File::from(beside.unwrap()).write_all(b"came").unwrap();
        tell(socket, number, &Report::Done);
        let (Numbered { number, message }, beside) = order(socket);
        assert!(message == Order::Unplug { slot: slot(2) } && beside.is_none());
        tell(socket, number, &Report::Refused { cause: "it is\n\x1b[1mnot there".to_owned() });
        order(socket);
        tell(socket, 0, &Report::Ended { how: Ending::Panicked, console: vec!["last".to_owned()] });
        0
    })
    .unwrap();
    let mut frames = tempfile::tempfile().unwrap();
    machine.plug(slot(2), net(), &Frames::Stream(frames.try_clone().unwrap().into())).unwrap();
    std::io::Seek::rewind(&mut frames).unwrap();
    assert_eq!(std::io::read_to_string(&frames).unwrap(), "came");
    let refused = machine.unplug(slot(2)).unwrap_err();
    assert!(matches!(&refused, OrderError::Refused(why) if why == "it is  [1mnot there"), "{refused:?}");
    assert!(machine.stamps().is_empty());
    assert_eq!(machine.end(), Some(End::Panicked));
    assert_eq!(machine.console_tail(20), ["last"]);
}

#[test]
fn process_that_breaks_the_rules_is_ended_with_the_reason() {
    let why = |end: End| {
        let End::Failed(why) = end else { panic!("{end:?}") };
        why
    };
    let wait = || loop {
        std::thread::park();
    };
    let raw = |bytes: &'static [u8]| {
        why(end_after(move |socket, _| {
            send(socket.as_raw_fd(), bytes, MsgFlags::empty()).unwrap();
            wait()
        }))
    };
    assert!(raw(b"nonsense").starts_with("its process a message is none"), "{}", raw(b"nonsense"));
    static LONG: [u8; MOST_BYTES + 1] = [b' '; MOST_BYTES + 1];
    assert!(raw(&LONG).contains("is too long"));
    assert!(raw(br#"{"number":99,"message":"done"}"#).contains("out of turn"));
    assert!(raw(br#"{"number":0,"message":"started"}"#).contains("out of turn"));
    assert!(raw(br#"{"number":0,"message":{"hello":{"version":1}}}"#).contains("out of turn"));
}

#[test]
fn end_without_a_word_is_told_and_noted() {
    assert_eq!(end_after(|_, _| 0), End::Failed("its process ended with code 0 without a word".to_owned()));
    let killed = end_after(|_, _| {
        let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
        0
    });
    assert_eq!(killed, End::Killed(9));
    assert_eq!(killed.to_string(), "the machine's process was killed by signal 9 (SIGKILL)");
    let machine = machine(|socket| {
        begin(socket);
        order(socket);
        0
    })
    .unwrap();
    machine.failing()("its owner has found something".to_owned());
    assert_eq!(machine.counters(), []);
    assert!(machine.ends_within(Duration::from_secs(60)));
    let end = machine.end();
    let told = machine.console_tail(2);
    assert_eq!(end, Some(End::Failed("its owner has found something".to_owned())));
    assert_eq!(told, ["printed", "vmrun: its owner has found something"]);
}

#[test]
fn machine_that_does_not_start_says_why() {
    let not_started = |fault| {
        machine(move |socket| {
            tell(socket, 0, &Report::Hello { version: VERSION });
            tell(socket, 0, &Report::NotStarted { cause: "no; do this".to_owned(), fault });
            1
        })
    };
    assert!(matches!(not_started(Fault::Template), Err(StartError::Template(why)) if why == "no; do this"));
    assert!(matches!(not_started(Fault::Other), Err(StartError::Refused(why)) if why == "no; do this"));
    let silent = machine(|_| 3).unwrap_err().to_string();
    assert_eq!(silent, "the machine's process ended with code 3 before its guest ran");
    let newer = machine(|socket| {
        tell(socket, 0, &Report::Hello { version: VERSION + 1 });
        0
    });
    assert!(newer.unwrap_err().to_string().contains("another version"));
}

#[test]
fn machine_that_comes_to_no_checkpoint_is_let_go_on() {
    let machine = machine(|socket| {
        begin(socket);
        let (Numbered { number: save, message }, _) = order(socket);
        assert_eq!(message, Order::Save);
        let (Numbered { number, .. }, _) = order(socket);
        // One after the other, as the process does it.
        tell(socket, save, &Report::NotSaved { cause: "nobody waits for it".to_owned(), full: false });
        tell(socket, number, &Report::Done);
        let (Numbered { number, .. }, _) = order(socket);
        tell(socket, number, &Report::NotSaved { cause: "no room".to_owned(), full: true });
        let (Numbered { number, .. }, _) = order(socket);
        tell(socket, number, &Report::Done);
        order(socket);
        0
    })
    .unwrap();
    let state = tempfile::tempfile().unwrap();
    let (_theirs, ready) = std::os::unix::net::UnixStream::pair().unwrap();
    ready.shutdown(std::net::Shutdown::Read).unwrap();
    let watch = [std::os::fd::AsFd::as_fd(&ready)];
    assert!(matches!(machine.save(&state, &watch), Err(SaveError::NotThere)));
    machine.pass_checkpoint();
    assert!(matches!(machine.save(&state, &[]), Err(SaveError::Full)));
    // The process says that it is written, and nothing is there.
    assert!(matches!(machine.save(&state, &[]), Err(SaveError::Failed(_))));
    assert_eq!(machine.end(), None);
    machine.stop();
    assert_eq!(machine.end(), Some(End::Killed(9)));
}

#[test]
fn descriptors_are_taken_where_one_is_expected_and_nowhere_else() {
    let (ours, theirs) = socket::pair().unwrap();
    let file = tempfile::tempfile().unwrap();
    let message = serde_json::to_vec(&Numbered { number: 1, message: Order::Hold }).unwrap();
    let offer = |count: usize| {
        let numbers = vec![file.as_raw_fd(); count];
        let data = [std::io::IoSlice::new(&message)];
        let rights = [ControlMessage::ScmRights(&numbers)];
        sendmsg::<()>(theirs.as_raw_fd(), &data, &rights, MsgFlags::empty(), None).unwrap();
    };
    let open = || {
        fs::read_dir("/proc/thread-self/fd")
            .unwrap()
            .filter(|entry| {
                let link = fs::read_link(entry.as_ref().unwrap().path());
                link.is_ok_and(|link| {
                    link == fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap()
                })
            })
            .count()
    };
    offer(1);
    let (heard, beside) = socket::hear_with::<Order>(&ours).unwrap().unwrap();
    assert!(heard.message == Order::Hold && beside.is_some() && open() == 2);
    drop(beside);
    for count in [2, 5] {
        offer(count);
        assert!(matches!(socket::hear_with::<Order>(&ours), Err(SocketError::Descriptors)));
        assert_eq!(open(), 1);
    }
    offer(3);
    assert_eq!(socket::hear::<Order>(&ours).unwrap().unwrap().message, Order::Hold);
    assert_eq!(open(), 1);
    drop(theirs);
    assert!(matches!(socket::hear::<Order>(&ours), Err(SocketError::Closed)));
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_a_message_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let (ours, theirs) = socket::pair().unwrap();
        send(theirs.as_raw_fd(), &bytes, MsgFlags::empty()).unwrap();
        let _ = socket::hear::<Report>(&ours);
        send(theirs.as_raw_fd(), &bytes, MsgFlags::empty()).unwrap();
        let _ = socket::hear_with::<Order>(&ours);
    }
}
