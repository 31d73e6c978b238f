use std::net::{TcpListener, UdpSocket};
use std::thread::{self, JoinHandle};

use vmrun_proto::{Transport, read_frame, write_frame};

use super::*;

const QUESTION: &[u8] = &[0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, b'a', 0, 0, 1, 0, 1];
const FAILURE: &[u8] = &[0xab, 0xcd, 0x81, 2, 0, 1, 0, 0, 0, 0, 0, 0, 1, b'a', 0, 0, 1, 0, 1];

/// The guest's end of a desk that asks 127.0.0.1 at a port.
struct Guest {
    connection: UnixStream,
    stop: UnixStream,
    thread: JoinHandle<Result<(), FrameError>>,
}

impl Guest {
    fn new(port: u16) -> Self {
        let (connection, ours) = UnixStream::pair().unwrap();
        let (stop, stopped) = UnixStream::pair().unwrap();
        let servers = Arc::new(Mutex::new(vec!["127.0.0.1".parse().unwrap()]));
        let desk = Desk::new(ours, stopped, servers, port).unwrap();
        let work = move || {
            vmrun_machine::confine_this_thread(super::super::ASKING).unwrap();
            desk.work()
        };
        Self { connection, stop, thread: thread::spawn(work) }
    }

    fn ask(&self, id: u64, server: &str, transport: Transport, message: &[u8]) {
        let question = Question { id, server: server.parse().unwrap(), transport, message: message.to_vec() };
        write_frame(&self.connection, &question).unwrap();
    }

    fn hears(&self) -> (u64, Option<Vec<u8>>) {
        let Answer { id, message } = read_frame(&self.connection).unwrap();
        (id, message)
    }
}

fn port_of_nobody() -> u16 {
    // One that was free a moment ago, of both kinds.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

#[test]
fn answers_come_back_with_their_questions_numbers_in_any_order() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let guest = Guest::new(server.local_addr().unwrap().port());
    let mut asked = Vec::new();
    for id in [1, 2] {
        guest.ask(id, "127.0.0.1", Transport::Udp, &[u8::try_from(id).unwrap(); 20]);
        let mut bytes = [0; 100];
        let (length, from) = server.recv_from(&mut bytes).unwrap();
        asked.push((bytes[..length].to_vec(), from));
    }
    for (message, from) in asked.iter().rev() {
        server.send_to(message, from).unwrap();
    }
    let mut heard = [guest.hears(), guest.hears()];
    heard.sort();
    assert_eq!(heard, [(1, Some(vec![1; 20])), (2, Some(vec![2; 20]))]);
}

#[test]
fn large_answer_comes_over_a_connection_in_pieces() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let guest = Guest::new(listener.local_addr().unwrap().port());
    guest.ask(5, "127.0.0.1", Transport::Tcp, QUESTION);
    let (mut server, _) = listener.accept().unwrap();
    let mut asked = [0; 2 + QUESTION.len()];
    server.read_exact(&mut asked).unwrap();
    assert_eq!(asked[..2], [0, u8::try_from(QUESTION.len()).unwrap()]);
    assert_eq!(asked[2..], *QUESTION);
    server.write_all(&[0xff]).unwrap();
    server.write_all(&[&[0xff][..], &[7; 65535]].concat()).unwrap();
    assert_eq!(guest.hears(), (5, Some(vec![7; 65535])));
}

#[test]
fn name_server_that_is_not_there_is_answered_for() {
    let guest = Guest::new(port_of_nobody());
    for transport in [Transport::Udp, Transport::Tcp] {
        guest.ask(1, "127.0.0.1", transport, QUESTION);
        assert_eq!(guest.hears(), (1, Some(FAILURE.to_vec())), "{transport:?}");
    }
}

#[test]
fn nobody_is_asked_that_is_not_named() {
    let other = UdpSocket::bind("127.0.0.2:0").unwrap();
    other.set_nonblocking(true).unwrap();
    let guest = Guest::new(other.local_addr().unwrap().port());
    guest.ask(1, "127.0.0.2", Transport::Udp, QUESTION);
    assert_eq!(guest.hears(), (1, None));
    assert!(other.recv(&mut [0; 100]).is_err());
}

#[test]
fn oldest_question_gives_way_to_one_too_many() {
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let guest = Guest::new(silent.local_addr().unwrap().port());
    for id in 0..=MAX_FLIGHTS as u64 {
        guest.ask(id, "127.0.0.1", Transport::Udp, QUESTION);
    }
    assert_eq!(guest.hears(), (0, None));
}

#[test]
fn guest_that_takes_no_answers_is_heard_no_more() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let guest = Guest::new(server.local_addr().unwrap().port());
    guest.connection.set_nonblocking(true).unwrap();
    let question =
        Question { id: 0, server: "127.0.0.2".parse().unwrap(), transport: Transport::Udp, message: vec![] };
    let frame = encode(&question).unwrap();
    let mut heard = 0;
    // Answers come until nothing moves any more: both directions of the connection and the desk are full.
    while let Ok(length) = (&guest.connection).write(&frame).or_else(|_| {
        thread::sleep(std::time::Duration::from_millis(50));
        (&guest.connection).write(&frame)
    }) {
        heard += length;
        assert!(heard < 64 << 20, "it takes questions without end");
    }
    drop(guest.stop);
    guest.thread.join().unwrap().unwrap();
}

#[test]
fn desk_ends_with_the_guest_with_its_owner_and_with_nonsense() {
    let guest = Guest::new(1);
    drop(guest.connection);
    guest.thread.join().unwrap().unwrap();
    let guest = Guest::new(1);
    drop(guest.stop);
    guest.thread.join().unwrap().unwrap();
    let guest = Guest::new(1);
    (&guest.connection).write_all(&u32::MAX.to_le_bytes()).unwrap();
    assert!(matches!(guest.thread.join().unwrap(), Err(FrameError::TooLarge(_))));
}
