use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;

use vmrun_proto::{ErrorKind, ExitStatus, ProcessRef, Stage, StreamKind, read_frame, write_frame};

use super::*;

const SOON: Wait = Wait { what: "the test", limit: Duration::from_secs(20) };
const NOW: Wait = Wait { what: "the test", limit: Duration::from_millis(20) };

fn exited() -> Event {
    let process = ProcessRef { container: "x".to_owned(), exec: None };
    Event::Exited { process, status: ExitStatus::Code(3) }
}

/// A client and an agent that answers one request after `before` with `reply`.
fn client_of(before: Vec<Message>, reply: impl FnOnce(u64) -> Message + Send + 'static) -> AgentClient {
    let (ours, theirs) = UnixStream::pair().unwrap();
    thread::spawn(move || {
        let envelope: Envelope = read_frame(&theirs).unwrap();
        for message in before {
            write_frame(&theirs, &message).unwrap();
        }
        write_frame(&theirs, &reply(envelope.seq)).unwrap();
    });
    AgentClient::new(ours).unwrap()
}

#[test]
fn events_before_a_reply_are_kept() {
    let ok = |seq| Message::Reply { seq, reply: Reply::Ok };
    let mut client = client_of(vec![Message::Event(exited())], ok);
    assert_eq!(client.call(Request::Sync, SOON, &[]).unwrap(), Reply::Ok);
    assert_eq!(client.kept_event().unwrap(), Some(exited()));
    assert_eq!(client.kept_event().unwrap(), None);
}

#[test]
fn refusal_is_an_error_with_the_agents_words() {
    let refusal =
        ErrorReply { kind: ErrorKind::NotFound, stage: Stage::Request, message: "no \"x\"".to_owned() };
    let expected = refusal.clone();
    let mut client = client_of(Vec::new(), move |seq| Message::Reply { seq, reply: Reply::Error(refusal) });
    match client.call(Request::Sync, SOON, &[]) {
        Err(AgentError::Refused(refusal)) => assert_eq!(refusal, expected),
        other => panic!("{other:?}"),
    }
}

#[test]
fn reply_to_another_request_is_out_of_turn() {
    let mut client = client_of(Vec::new(), |seq| Message::Reply { seq: seq + 1, reply: Reply::Ok });
    assert!(matches!(client.call(Request::Sync, SOON, &[]), Err(AgentError::Unexpected { .. })));
}

#[test]
fn silence_is_limited_and_named() {
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let mut client = AgentClient::new(ours).unwrap();
    match client.call(Request::Sync, NOW, &[]) {
        Err(AgentError::TimedOut { what, .. }) => assert_eq!(what, "the test"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn silence_is_waited_out_while_there_is_progress() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut client = AgentClient::new(ours).unwrap();
    let mut looks = 0;
    let (never, keeper) = UnixStream::pair().unwrap();
    let seq = client.send(Request::Sync).unwrap();
    let moving = client.reply_during(seq, NOW, &[], never.as_fd(), || {
        looks += 1;
        if looks == 4 {
            write_frame(&theirs, &Message::Reply { seq, reply: Reply::Ok }).unwrap();
        }
        looks
    });
    assert!(matches!(moving, Ok(Reply::Ok)), "{moving:?}");
    let seq = client.send(Request::Sync).unwrap();
    let standing = client.reply_during(seq, NOW, &[], never.as_fd(), || 0);
    assert!(matches!(standing, Err(AgentError::TimedOut { .. })), "{standing:?}");
    let mut looks = 0;
    let mut count = || {
        looks += 1;
        looks
    };
    let endless = client.reply_during(seq, NOW, &[], never.as_fd(), &mut count);
    assert!(matches!(endless, Err(AgentError::TimedOut { .. })), "{endless:?}");
    assert_eq!(count(), 32);
    drop(keeper);
    let interrupted = client.reply_during(seq, NOW, &[], never.as_fd(), &mut count);
    assert!(matches!(interrupted, Err(AgentError::Interrupted { .. })), "{interrupted:?}");
    assert_eq!(count(), 35);
}

#[test]
fn watched_descriptor_ends_a_wait_at_once() {
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let (watched, mut other) = UnixStream::pair().unwrap();
    other.write_all(b"!").unwrap();
    let mut client = AgentClient::new(ours).unwrap();
    let result = client.call(Request::Sync, SOON, &[watched.as_fd()]);
    assert!(matches!(result, Err(AgentError::Interrupted { .. })), "{result:?}");
}

/// A client of an agent that reads nothing and sends the same messages until it is left.
fn client_of_talker(messages: Vec<Message>) -> AgentClient {
    let (ours, theirs) = UnixStream::pair().unwrap();
    thread::spawn(move || while messages.iter().all(|message| write_frame(&theirs, message).is_ok()) {});
    AgentClient::new(ours).unwrap()
}

#[test]
fn talk_without_end_puts_off_neither_the_limit_nor_a_watched_descriptor() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    // A frame that never ends keeps the connection readable, and nothing of it is an event.
    thread::spawn(move || {
        let header = u32::try_from(vmrun_proto::MAX_FRAME_BYTES).unwrap().to_le_bytes();
        (&theirs).write_all(&header).unwrap();
        while (&theirs).write_all(b" ").is_ok() {}
    });
    let mut client = AgentClient::new(ours).unwrap();
    let (watched, mut other) = UnixStream::pair().unwrap();
    other.write_all(b"!").unwrap();
    let interrupted = client.call(Request::Sync, SOON, &[watched.as_fd()]);
    assert!(matches!(interrupted, Err(AgentError::Interrupted { .. })), "{interrupted:?}");
    let late = client.call(Request::Sync, NOW, &[]);
    assert!(matches!(late, Err(AgentError::TimedOut { .. })), "{late:?}");
}

#[test]
fn events_are_kept_up_to_a_number_and_a_size() {
    let long = ProcessRef { container: "x".repeat(300 << 10), exec: None };
    let long = Event::Exited { process: long, status: ExitStatus::Code(0) };
    for event in [exited(), long] {
        let mut client = client_of_talker(vec![Message::Event(event)]);
        let result = client.call(Request::Sync, SOON, &[]);
        assert!(matches!(result, Err(AgentError::Flooded { .. })), "{result:?}");
        assert!(client.events.events.len() <= Kept::MOST_EVENTS && client.events.bytes <= Kept::MOST_BYTES);
        while client.events.pop().is_some() {}
        assert_eq!(client.events.bytes, 0);
    }
}

#[test]
fn reply_to_a_call_that_was_given_up_may_come_once() {
    let stale = Message::Reply { seq: 1, reply: Reply::Ok };
    for (stale, good) in [(vec![stale.clone()], true), (vec![stale.clone(), stale], false)] {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut client = AgentClient::new(ours).unwrap();
        assert!(matches!(client.call(Request::Sync, NOW, &[]), Err(AgentError::TimedOut { .. })));
        for message in stale.iter().chain(&[Message::Reply { seq: 2, reply: Reply::Ok }]) {
            write_frame(&theirs, message).unwrap();
        }
        assert_eq!(client.call(Request::Sync, SOON, &[]).is_ok(), good);
    }
}

#[test]
fn agent_that_goes_away_is_noticed() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut client = AgentClient::new(ours).unwrap();
    let agent = thread::spawn(move || read_frame::<Envelope>(&theirs).unwrap());
    let result = client.call(Request::Sync, SOON, &[]);
    agent.join().unwrap();
    assert!(matches!(result, Err(AgentError::Frame { source: FrameError::Closed, .. })), "{result:?}");
}

#[test]
fn first_message_must_be_ready() {
    for (message, good) in [(Event::Ready { version: 1, boot_ns: 7 }, true), (exited(), false)] {
        let (ours, agent) = UnixStream::pair().unwrap();
        write_frame(&agent, &Message::Event(message)).unwrap();
        assert_eq!(AgentClient::greeted(ours, SOON, Duration::ZERO, &[]).is_ok(), good);
    }
}

#[test]
fn stream_handshake_takes_no_byte_of_the_stream() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("vsock");
    let listener = UnixListener::bind(&socket).unwrap();
    let process = ProcessRef { container: "x".to_owned(), exec: None };
    let stream = Stream { process, kind: StreamKind::Stdout };
    let expected = stream.clone();
    let guest = thread::spawn(move || {
        let (mut connection, _) = listener.accept().unwrap();
        let mut line = [0; 13];
        connection.read_exact(&mut line).unwrap();
        assert_eq!(&line, b"CONNECT 1024\n");
        // The answer and the first bytes of the stream in one write.
        connection.write_all(b"OK 1073741824\nraw").unwrap();
        assert_eq!(read_frame::<Hello>(&connection).unwrap(), Hello::Stream(expected));
        drop(connection);
        let (mut second, _) = listener.accept().unwrap();
        second.write_all(b"NO\n").unwrap();
    });
    let fds = open_streams(&socket, std::slice::from_ref(&stream), &[]).unwrap();
    let mut raw = String::new();
    for fd in fds {
        UnixStream::from(fd).read_to_string(&mut raw).unwrap();
    }
    assert_eq!(raw, "raw");
    let refused = open_streams(&socket, &[stream], &[]);
    assert!(matches!(refused, Err(AgentError::Handshake { .. } | AgentError::Io { .. })), "{refused:?}");
    guest.join().unwrap();
}

#[test]
fn answer_to_connect_comes_in_parts_and_what_follows_is_left() {
    let (ours, mut guest) = UnixStream::pair().unwrap();
    let take = |room: usize| {
        let mut bytes = vec![0; room];
        let taken = take_of_line(&ours, &mut bytes).unwrap();
        bytes.truncate(taken);
        String::from_utf8(bytes).unwrap()
    };
    guest.write_all(b"OK 10").unwrap();
    assert_eq!((take(2), take(14)), ("OK".to_owned(), " 10".to_owned()));
    guest.write_all(b"7\nraw\n").unwrap();
    assert_eq!((take(14), take(0), take(14)), ("7\n".to_owned(), String::new(), "raw\n".to_owned()));
    drop(guest);
    assert_eq!(take(14), "");
}

#[test]
fn answer_to_connect_that_is_none_or_has_no_end_is_refused() {
    for (answer, is_good) in
        [("OK 4294967295\n", true), ("OK 4294967296\n", false), ("OK 42949672950\n", false), ("OK 1", false)]
    {
        let (ours, mut guest) = UnixStream::pair().unwrap();
        guest.write_all(answer.as_bytes()).unwrap();
        drop(guest);
        let result = read_answer(&ours, HANDSHAKE.deadline(), &[]);
        assert_eq!(result.is_ok(), is_good, "{answer:?}: {result:?}");
        assert!(is_good || matches!(result, Err(AgentError::Handshake { .. })), "{answer:?}: {result:?}");
    }
}
