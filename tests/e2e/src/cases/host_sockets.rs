//! Unix sockets of the host that a bundle mounts.

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, getsockopt, listen, socket,
};

use serde_json::json;

use crate::support::{BOTH, Bundle, Outcome, Run, Runtime, Scratch, wait};

const PROGRAM: &str = include_str!("../programs/sockets.py");

/// Where programs find it.
const PLACE: &str = "/tmp/host.sock";

/// Someone who listens on the host, as long as the test lasts. Gives what it is told as a note.
fn serve(path: &Path) -> Receiver<usize> {
    let listener = socket(AddressFamily::Unix, SockType::Stream, SockFlag::empty(), None).unwrap();
    bind(listener.as_raw_fd(), &UnixAddr::new(path).unwrap()).unwrap();
    // Few may wait.
    listen(&listener, Backlog::new(2).unwrap()).unwrap();
    let (notes, told) = channel();
    let listener = UnixListener::from(listener);
    thread::spawn(move || {
        for connection in listener.incoming() {
            let (connection, notes) = (connection.unwrap(), notes.clone());
            thread::spawn(move || answer(connection, &notes));
        }
    });
    told
}

/// Does what the first bytes say.
fn answer(mut connection: UnixStream, notes: &Sender<usize>) {
    let mut order = [0; 5];
    // Who connects to see if somebody is there says nothing.
    if connection.read_exact(&mut order).is_err() {
        return;
    }
    let rest = |mut connection: &UnixStream| {
        let mut rest = Vec::new();
        connection.read_to_end(&mut rest).unwrap();
        rest
    };
    match &order {
        b"echo " => connection.write_all(&rest(&connection)).unwrap(),
        b"greet" => {
            connection.write_all(b"good day").unwrap();
            connection.write_all(format!("{} bytes more", rest(&connection).len()).as_bytes()).unwrap();
        }
        b"mirro" => {
            let mut bytes = [0; 4096];
            while let Ok(length @ 1..) = connection.read(&mut bytes) {
                connection.write_all(&bytes[..length]).unwrap();
            }
        }
        b"who? " => {
            let peer = getsockopt(&connection, PeerCredentials).unwrap();
            connection.write_all(format!("{} {}", peer.uid(), peer.gid()).as_bytes()).unwrap();
        }
        b"leave" => connection.write_all(b"bye").unwrap(),
        // Nobody may listen any more.
        b"note " => drop(notes.send(rest(&connection).len())),
        other => panic!("{other:?}"),
    }
}

/// What the program finds when it does this.
fn finds(runtime: Runtime, socket: &Path, acts: &[&str]) -> Outcome {
    let words = [&["python3", "-c", PROGRAM], acts].concat();
    let bundle = Bundle::python("").args(&words).capabilities(&["CAP_SETUID", "CAP_SETGID"]);
    bundle.bind(socket, PLACE, &[]).run_on(runtime)
}

#[test]
fn program_talks_to_who_listens_on_the_host_as_under_crun() {
    let scratch = Scratch::new();
    let path = scratch.join("socket");
    let _notes = serve(&path);
    chown(&path, Some(0), Some(7)).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o660)).unwrap();
    let acts = ["look", "converse", "pour", "many", "be_left", "as_another"];
    for runtime in BOTH {
        finds(runtime, &path, &acts).prints(
            "it is srw-rw---- 0 7\n\
             answer: hello\n\
             two at a time: b a\n\
             before the end of the question: good day\n\
             and after it: 0 bytes more\n\
             of a flood: 1 True\n\
             many at once: True\n\
             last words: bye\n\
             to one who has left: it is told\n\
             another user: PermissionError\n",
        );
    }
}

#[test]
fn service_sees_the_user_of_the_process_as_under_crun() {
    let scratch = Scratch::new();
    let path = scratch.join("socket");
    let _notes = serve(&path);
    chown(&path, Some(0), Some(7)).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o660)).unwrap();
    let ask = format!(
        "import socket; it = socket.socket(socket.AF_UNIX); it.connect('{PLACE}'); it.sendall(b'who? '); print(it.recv(99).decode())"
    );
    let users = [
        (json!({"uid": 0, "gid": 0}), "0 0\n"),
        (json!({"uid": 1000, "gid": 100, "additionalGids": [7]}), "1000 100\n"),
    ];
    for (user, seen) in users {
        for runtime in BOTH {
            let bundle = Bundle::python("").args(&["python3", "-c", &ask]).set("/process/user", user.clone());
            bundle.bind(&path, PLACE, &[]).run_on(runtime).prints(seen);
        }
    }
}

#[test]
fn everybody_may_connect_where_the_mode_says_so_also_through_a_read_only_mount() {
    let scratch = Scratch::new();
    let path = scratch.join("socket");
    let _notes = serve(&path);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
    for runtime in BOTH {
        let words = ["python3", "-c", PROGRAM, "converse", "as_another"];
        let bundle = Bundle::python("").args(&words).capabilities(&["CAP_SETUID", "CAP_SETGID"]);
        let outcome = bundle.bind(&path, PLACE, &["ro", "nosuid"]).run_on(runtime);
        outcome.shows("answer: hello\n").shows("another user: connected\n").exits(0);
    }
}

#[test]
fn what_a_program_says_last_reaches_the_host() {
    let scratch = Scratch::new();
    let path = scratch.join("socket");
    let notes = serve(&path);
    for runtime in BOTH {
        finds(runtime, &path, &["say_and_go"]).prints("");
        assert_eq!(wait::until("the last words", || notes.try_recv().ok()), 100_000, "{runtime:?}");
    }
}

#[test]
fn one_who_does_not_read_keeps_nobody_from_ending() {
    let scratch = Scratch::new();
    let path = scratch.join("socket");
    // Nothing is ever taken from the queue.
    let _listener = UnixListener::bind(&path).unwrap();
    let program = "import socket
connection = socket.socket(socket.AF_UNIX)
connection.connect('/tmp/host.sock')
connection.setblocking(False)
try:
    while True: connection.send(bytes(65536))
except BlockingIOError:
    print('full')";
    Bundle::python(program).bind(&path, PLACE, &[]).run().prints("full\n");
}

#[test]
fn socket_is_the_one_that_was_mounted_whatever_has_its_name_later() {
    for (runtime, expected) in
        [(Runtime::Crun, "ConnectionRefusedError\n"), (Runtime::Vmrun, "connected, and at its end\n")]
    {
        let scratch = Scratch::new();
        let path = scratch.join("socket");
        let first = UnixListener::bind(&path).unwrap();
        let program = "import socket, sys
print('begun', flush=True)
sys.stdin.readline()
connection = socket.socket(socket.AF_UNIX)
try:
    connection.connect('/tmp/host.sock')
    print('connected, and', 'at its end' if not connection.recv(1) else 'served')
except OSError as error:
    print(type(error).__name__)";
        let bundle = Bundle::python(program).bind(&path, PLACE, &[]);
        let (stdin, mut told) = std::io::pipe().unwrap();
        let started = Run::of(&bundle).on(runtime).stdin(stdin).start();
        started.stdout.await_text(0, "begun\n");
        // Its owner starts again, as a service does.
        drop(first);
        fs::remove_file(&path).unwrap();
        let second = UnixListener::bind(&path).unwrap();
        second.set_nonblocking(true).unwrap();
        told.write_all(b"\n").unwrap();
        started.finish().prints(&format!("begun\n{expected}"));
        assert!(second.accept().is_err(), "{runtime:?}: the new one was reached");
    }
}

#[test]
fn sockets_that_are_not_mounted_by_themselves_and_those_of_datagrams_are_not_reached() {
    let scratch = Scratch::new();
    let directory = scratch.directory("directory");
    let _inside = UnixListener::bind(directory.join("inside")).unwrap();
    let datagrams = scratch.join("datagrams");
    let _datagrams = UnixDatagram::bind(&datagrams).unwrap();
    let program = "import socket
for path, kind in (('/tmp/directory/inside', socket.SOCK_STREAM), ('/tmp/datagrams', socket.SOCK_DGRAM)):
    try:
        socket.socket(socket.AF_UNIX, kind).connect(path)
        print('connected')
    except OSError as error:
        print(type(error).__name__)";
    let bundle = Bundle::python(program).bind(&directory, "/tmp/directory", &[]);
    let bundle = bundle.bind(&datagrams, "/tmp/datagrams", &[]);
    bundle.run_on(Runtime::Crun).prints("connected\nconnected\n");
    bundle.run().prints("ConnectionRefusedError\nConnectionRefusedError\n");
}

#[test]
fn process_of_exec_reaches_the_containers_socket() {
    let scratch = Scratch::new();
    let path = scratch.join("socket");
    let _notes = serve(&path);
    let bundle = Bundle::python("import time; time.sleep(1000)").bind(&path, PLACE, &[]);
    let container = Run::of(&bundle).detach();
    let words = ["python3", "-c", PROGRAM, "converse", "pour"];
    let outcome = crate::support::end_of(&mut container.exec(&[], &words));
    outcome.shows("answer: hello\n").shows("of a flood: 1 True\n").exits(0);
    container.end();
}

#[test]
fn connection_that_both_have_ended_is_gone_on_the_host() {
    let scratch = Scratch::new();
    let path = scratch.join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let program = "import socket, sys
for line in sys.stdin:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect('/tmp/host.sock')
    connection.close()";
    let bundle = Bundle::python(program).bind(&path, PLACE, &[]);
    let (stdin, mut told) = std::io::pipe().unwrap();
    let started = Run::of(&bundle).stdin(stdin).start();
    for _ in 0..3 {
        told.write_all(b"\n").unwrap();
        let (mut connection, _) = listener.accept().unwrap();
        assert_eq!(connection.read(&mut [0; 1]).unwrap(), 0);
        // One who closes is gone for both directions: nobody would read an answer.
        wait::until("the connection to be closed", || {
            (&connection).write_all(b"answer").is_err().then_some(())
        });
        let _ = connection.shutdown(Shutdown::Both);
    }
    drop(told);
    started.finish().prints("");
}
