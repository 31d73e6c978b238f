//! Locks of files that several containers and the host share.

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

use crate::support::{BOTH, Bundle, Output, Run, Runtime, Scratch, Started, vmrun, wait};

/// Locks as it is told, and answers.
const LOCKER: &str = include_str!("../programs/locks.py");
/// Counts in a database.
const COUNTER: &str = include_str!("../programs/counter.py");
/// Counts under locks that are names.
const NAMES: &str = include_str!("../programs/names.py");
/// Adds to a database with a write-ahead log.
const WAL: &str = include_str!("../programs/wal.py");

/// A place where [`LOCKER`] runs. Dropping it ends the program.
struct Place {
    name: &'static str,
    input: Option<ChildStdin>,
    output: Output,
    read: usize,
    program: Program,
}

enum Program {
    OnHost(Child),
    InContainer(Box<(Started, Bundle)>),
}

impl Place {
    fn host(directory: &Path) -> Self {
        let mut command = Command::new("python3");
        command.args(["-c", LOCKER]).current_dir(directory);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let output = Output::collect(child.stdout.take().unwrap());
        Self::new("host", child.stdin.take(), output, Program::OnHost(child))
    }

    fn container(name: &'static str, runtime: Runtime, directory: &Path) -> Self {
        let bundle = Bundle::python(LOCKER)
            .bind(directory, "/data", &[])
            .bind(directory, "/again", &[])
            .set("/process/cwd", "/data".into());
        let mut started = Run::of(&bundle).on(runtime).stdin(Stdio::piped()).start();
        let (input, output) = (started.child.stdin.take(), started.stdout.clone());
        Self::new(name, input, output, Program::InContainer(Box::new((started, bundle))))
    }

    fn new(name: &'static str, input: Option<ChildStdin>, output: Output, program: Program) -> Self {
        let read = output.await_text(0, "up\n");
        Self { name, input, output, read, program }
    }

    fn tell(&mut self, words: &str) {
        writeln!(self.input.as_mut().unwrap(), "{words}").unwrap();
    }

    #[track_caller]
    fn answer(&mut self) -> String {
        let end = self.output.await_text(self.read, "\n");
        let answer = String::from_utf8(self.output.so_far()[self.read..end - 1].to_vec()).unwrap();
        self.read = end;
        answer
    }

    #[track_caller]
    fn says(&mut self, words: &str, expected: &str) {
        self.tell(words);
        let answer = self.answer();
        assert_eq!(answer, expected, "{}: {words}", self.name);
    }

    /// Tells it to lock what another has, and returns when it waits for that.
    #[track_caller]
    fn waits(&mut self, words: &str, file: &Path) {
        let before = waiting(file);
        self.tell(words);
        wait::until_or("somebody to wait for the lock", || {
            if waiting(file) > before { Ok(()) } else { Err(fs::read_to_string("/proc/locks").unwrap()) }
        });
    }

    /// Kills the container.
    #[track_caller]
    fn kill(&self) {
        let Program::InContainer(container) = &self.program else { panic!("only containers are killed") };
        let store = container.0.store.to_str().unwrap();
        vmrun(&["--root", store], &["kill", &container.0.id, "KILL"]).prints("");
    }

    fn end(mut self) -> Option<(Started, Bundle)> {
        drop(self.input.take());
        match self.program {
            Program::OnHost(mut child) => {
                assert!(child.wait().unwrap().success());
                None
            }
            Program::InContainer(container) => Some(*container),
        }
    }
}

/// How many wait on the host for a lock of `file`.
fn waiting(file: &Path) -> usize {
    let inode = format!(":{} ", fs::metadata(file).unwrap().ino());
    let locks = fs::read_to_string("/proc/locks").unwrap();
    locks.lines().filter(|line| line.contains("->") && line.contains(&inode)).count()
}

/// Two sandboxes, a container of crun's and the host, which have opened `f` in a common directory.
fn places(directory: &Path) -> [Place; 4] {
    let mut places = [
        Place::host(directory),
        Place::container("sandbox", Runtime::Vmrun, directory),
        Place::container("another sandbox", Runtime::Vmrun, directory),
        Place::container("container", Runtime::Crun, directory),
    ];
    places.iter_mut().for_each(|place| place.says("open f", "ok 0"));
    places
}

fn end(places: impl IntoIterator<Item = Place>) {
    for (started, _bundle) in places.into_iter().filter_map(Place::end) {
        started.finish().exits(0);
    }
}

#[test]
fn lock_that_is_taken_anywhere_is_taken_everywhere_and_handed_on() {
    let scratch = Scratch::new();
    let file = scratch.join("f");
    let mut places = places(scratch.path());
    for (lock, unlock) in [
        ("flock 0 ex", "flock 0 un"),
        ("posix 0 ex 5 10", "posix 0 un 0 0"),
        ("ofd 0 ex 5 10", "ofd 0 un 0 0"),
    ] {
        places[0].says(lock, "ok");
        for holder in 0..places.len() {
            for other in (0..places.len()).filter(|other| *other != holder) {
                places[other].says(&format!("{lock} nb"), "EAGAIN");
            }
            let next = (holder + 1) % places.len();
            places[next].waits(lock, &file);
            places[holder].says(unlock, "ok");
            assert_eq!(places[next].answer(), "ok", "{lock}");
        }
        places[0].says(unlock, "ok");
    }
    // All may read, and ranges are their own.
    places.iter_mut().for_each(|place| place.says("posix 0 sh 0 0 nb", "ok"));
    places[1].says("posix 0 ex 0 1 nb", "EAGAIN");
    places.iter_mut().for_each(|place| place.says("posix 0 un 0 0", "ok"));
    for (index, place) in places.iter_mut().enumerate() {
        place.says(&format!("posix 0 ex {} 10 nb", index * 10), "ok");
    }
    places[1].says("posix 0 ex 20 1 nb", "EAGAIN");
    places[2].says("get 0 0 0", "ok ex 0 10 0");
    end(places);
}

#[test]
fn lock_is_free_when_its_file_is_closed_and_when_its_container_dies() {
    let scratch = Scratch::new();
    let file = scratch.join("f");
    let [mut host, mut one, mut other, mut container] = places(scratch.path());
    // Any close of the file loses the process's locks of it, none those of a description.
    one.says("posix 0 ex 0 0", "ok");
    one.says("open f", "ok 1");
    one.says("close 1", "ok");
    host.says("posix 0 ex 0 0 nb", "ok");
    host.says("posix 0 un 0 0", "ok");
    one.says("ofd 0 ex 0 0", "ok");
    one.says("open f", "ok 2");
    one.says("close 2", "ok");
    host.says("posix 0 ex 0 0 nb", "EAGAIN");
    host.waits("posix 0 ex 0 0", &file);
    one.says("close 0", "ok");
    assert_eq!(host.answer(), "ok");
    host.says("posix 0 un 0 0", "ok");
    // A killed container, with a lock and with a wait.
    other.says("posix 0 ex 0 0", "ok");
    other.says("flock 0 ex", "ok");
    container.waits("posix 0 ex 0 0", &file);
    host.waits("flock 0 ex", &file);
    other.kill();
    assert_eq!((container.answer(), host.answer()), ("ok".to_owned(), "ok".to_owned()));
    one.says("open f", "ok 3");
    one.waits("flock 3 ex", &file);
    one.kill();
    for killed in [one, other].map(Place::end) {
        let (started, _bundle) = killed.unwrap();
        started.finish().exits(137);
    }
    assert_eq!(waiting(&file), 0);
    end([host, container]);
}

#[test]
fn lock_belongs_to_a_process_or_a_description_whatever_becomes_of_descriptors() {
    let scratch = Scratch::new();
    let [mut host, one, other, container] = places(scratch.path());
    let mut both = [one, container];
    for place in &mut both {
        // Any close loses the process's locks.
        place.says("posix 0 ex 0 0", "ok");
        place.says("dup 0", "ok 1");
        place.says("close 1", "ok");
        host.says("posix 0 ex 0 0 nb", "ok");
        host.says("posix 0 un 0 0", "ok");
        // The last one those of the description.
        for (number, lock, mine) in [(2, "ofd 2 ex 3 4", "ofd 0 ex 3 4"), (4, "flock 4 ex", "flock 0 ex")] {
            place.says("open f", &format!("ok {number}"));
            place.says(&format!("dup {number}"), &format!("ok {}", number + 1));
            place.says(lock, "ok");
            place.says(&format!("close {number}"), "ok");
            host.says(&format!("{mine} nb"), "EAGAIN");
            place.says(&format!("close {}", number + 1), "ok");
            host.says(&format!("{mine} nb"), "ok");
            host.says(&mine.replace("ex", "un"), "ok");
        }
        host.says("ofd 0 ex 7 2", "ok");
        place.says("ofdget 0 0 0", "ok ex 7 2 -1");
        place.says("get 0 0 0", "ok ex 7 2 -1");
        host.says("ofd 0 un 0 0", "ok");
        // By another mount of its directory it is the same file.
        place.says("posix 0 ex 0 0", "ok");
        place.says("open /again/f", "ok 6");
        place.says("get 6 0 0", "ok un");
        place.says("posix 6 ex 5 5 nb", "ok");
        host.says("posix 0 sh 5 5 nb", "EAGAIN");
        place.says("close 6", "ok");
        host.says("posix 0 sh 5 5 nb", "ok");
        host.says("posix 0 un 0 0", "ok");
        // A new program of the same process keeps it.
        place.says("posix 0 ex 0 0", "ok");
        place.says("exec 0", "up");
        host.says("posix 0 ex 0 0 nb", "EAGAIN");
        place.says("posix 0 un 0 0", "ok");
    }
    end(both.into_iter().chain([host, other]));
}

#[test]
fn of_several_processes_that_wait_one_may_be_killed_and_none_waits_for_itself() {
    let scratch = Scratch::new();
    let file = scratch.join("f");
    let [mut host, one, other, container] = places(scratch.path());
    let mut both = [one, container];
    for place in &mut both {
        for lock in ["posix 0 ex 0 0", "flock 0 ex"] {
            host.says(lock, "ok");
            place.waits(&format!("child {lock}"), &file);
            assert_eq!(place.answer(), "ok");
            place.says("reap kill", "ok -9");
            assert_eq!(waiting(&file), 0);
            host.says(&lock.replace("ex", "un"), "ok");
            place.says(&format!("{lock} nb"), "ok");
            place.says(&lock.replace("ex", "un"), "ok");
        }
        // The third of a circle is refused.
        place.says("posix 0 ex 0 1", "ok");
        for child in ["child posix 0 ex 2 1 ; posix 0 ex 0 1", "child posix 0 ex 1 1 ; posix 0 ex 2 1"] {
            place.waits(child, &file);
            assert_eq!(place.answer(), "ok");
        }
        place.says("posix 0 ex 1 1", "EDEADLOCK");
        place.says("posix 0 un 0 0", "ok");
        place.says("reap", "ok 0");
        place.says("reap", "ok 0");
    }
    end(both.into_iter().chain([host, other]));
}

#[test]
fn signal_interrupts_who_waits_for_a_lock() {
    let scratch = Scratch::new();
    let file = scratch.join("f");
    let [mut host, one, other, container] = places(scratch.path());
    host.says("posix 0 ex 0 0", "ok");
    host.says("flock 0 ex", "ok");
    let mut waiting_ones = [one, other, container];
    for place in &mut waiting_ones {
        for lock in ["posix 0 ex 0 0", "ofd 0 sh 3 4", "flock 0 ex"] {
            place.says("alarm 0.2", "ok");
            place.says(lock, "alarm");
            assert_eq!(waiting(&file), 0, "{}: {lock}", place.name);
        }
    }
    // Other files are served meanwhile.
    let [one, other, container] = &mut waiting_ones;
    one.waits("posix 0 ex 0 0", &file);
    other.says("open g", "ok 1");
    other.says("flock 1 ex", "ok");
    host.says("posix 0 un 0 0", "ok");
    assert_eq!(one.answer(), "ok");
    container.says("posix 0 ex 0 0 nb", "EAGAIN");
    end(waiting_ones.into_iter().chain([host]));
}

#[test]
fn directory_is_locked_like_a_file() {
    let scratch = Scratch::new();
    let mut places = places(scratch.path());
    places.iter_mut().for_each(|place| place.says("open .", "ok 1"));
    places[1].says("flock 1 ex nb", "ok");
    for index in [0, 2, 3] {
        places[index].says("flock 1 sh nb", "EAGAIN");
    }
    places[2].waits("flock 1 ex", scratch.path());
    places[1].says("close 1", "ok");
    assert_eq!(places[2].answer(), "ok");
    end(places);
}

#[test]
fn who_has_a_lock_sees_what_was_written_under_it() {
    let scratch = Scratch::new();
    let mut places = places(scratch.path());
    fs::write(scratch.join("mapped"), "..").unwrap();
    for place in &mut places {
        place.says("open data", "ok 1");
        place.says("open log append", "ok 2");
        place.says("open mapped", "ok 3");
        place.says("map 3", "ok");
    }
    for round in 10..30 {
        let [writer, reader] = [round % 4, (round + 1) % 4];
        places[writer].says("flock 0 ex", "ok");
        if round > 10 {
            places[writer].says("pread 1", &format!("ok {}", round - 1));
        }
        places[writer].says(&format!("pwrite 1 {round}"), "ok 2");
        places[writer].says("append 2 +-", &format!("ok {}", (round - 9) * 2));
        places[writer].says("flock 0 un", "ok");
        places[reader].says("flock 0 sh", "ok");
        // Each of them finds in its cache what was there before.
        let first = if round % 2 == 0 { ["sendfile 1", "pread 1"] } else { ["pread 1", "sendfile 1"] };
        first.iter().for_each(|words| places[reader].says(words, &format!("ok {round}")));
        places[reader].says("flock 0 un", "ok");
        // What is written to a mapping is there once its file is unlocked, and seen once it is locked.
        places[writer].says("posix 3 ex 0 2", "ok");
        places[writer].says(&format!("mapwrite 3 {round}"), "ok");
        places[writer].says("posix 3 un 0 2", "ok");
        assert_eq!(fs::read_to_string(scratch.join("mapped")).unwrap(), round.to_string());
        places[reader].says("posix 3 sh 0 2", "ok");
        places[reader].says("mapread 3", &format!("ok {round}"));
        places[reader].says("posix 3 un 0 2", "ok");
    }
    end(places);
}

#[test]
fn more_may_wait_for_a_lock_than_there_is_room_for() {
    let program = "import fcntl, os, signal, threading
def ring(*_):
    raise InterruptedError
signal.signal(signal.SIGALRM, ring)
threading.stack_size(1 << 16)
got = []
def wait():
    lock = os.open('/data/f', os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    got.append(lock)
    os.close(lock)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
threads = [threading.Thread(target=wait) for _ in range(400)]
for thread in threads:
    thread.start()
signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
input()
signal.setitimer(signal.ITIMER_REAL, 0.2)
try:
    fcntl.flock(os.open('/data/f', os.O_RDWR), fcntl.LOCK_EX)
except InterruptedError:
    print('interrupted', flush=True)
for thread in threads:
    thread.join()
print(len(got))
";
    let scratch = Scratch::new();
    let file = scratch.join("f");
    let lock = fs::File::create(&file).unwrap();
    lock.lock().unwrap();
    let bundle = Bundle::python(program).bind(scratch.path(), "/data", &[]);
    let mut started = Run::of(&bundle).stdin(Stdio::piped()).start();
    wait::until("as many as there is room for to wait", || (waiting(&file) >= 384).then_some(()));
    writeln!(started.child.stdin.as_mut().unwrap()).unwrap();
    started.stdout.await_text(0, "interrupted\n");
    drop(lock);
    started.finish().prints("interrupted\n400\n");
}

#[test]
fn processes_of_one_container_see_whose_lock_it_is_and_do_not_wait_for_each_other_for_ever() {
    let program = "import errno, fcntl, os, struct
def lock(command, kind, start, length):
    return struct.unpack('hhqqi4x', fcntl.fcntl(fd, command, struct.pack('hhqqi4x', kind, 0, start, length, 0)))
fd = os.open('/data/f', os.O_RDWR | os.O_CREAT)
lock(fcntl.F_SETLK, fcntl.F_WRLCK, 0, 1)
to_child, to_parent = os.pipe(), os.pipe()
child = os.fork()
if not child:
    kind, _, start, length, pid = lock(fcntl.F_GETLK, fcntl.F_WRLCK, 0, 0)
    print(kind == fcntl.F_WRLCK, start, length, pid == os.getppid(), flush=True)
    lock(fcntl.F_SETLK, fcntl.F_WRLCK, 1, 1)
    os.write(to_parent[1], b'.')
    try:
        lock(fcntl.F_SETLKW, fcntl.F_WRLCK, 0, 1)
        os.write(to_parent[1], b'got')
    except OSError as error:
        os.write(to_parent[1], errno.errorcode[error.errno].replace('LOCK', 'LK').encode())
    os._exit(0)
os.read(to_parent[0], 1)
try:
    lock(fcntl.F_SETLKW, fcntl.F_WRLCK, 1, 1)
    own = 'got'
except OSError as error:
    own = errno.errorcode[error.errno].replace('LOCK', 'LK')
    lock(fcntl.F_SETLK, fcntl.F_UNLCK, 0, 1)
print(sorted([own, os.read(to_parent[0], 9).decode()]))
os.waitpid(child, 0)
lock(fcntl.F_SETLK, fcntl.F_UNLCK, 0, 0)
OFD_GETLK, OFD_SETLK = 36, 37
other = fd
fd = os.open('/data/f', os.O_RDWR)
lock(OFD_SETLK, fcntl.F_RDLCK, 3, 0)
fd = other
print(lock(fcntl.F_GETLK, fcntl.F_WRLCK, 0, 0)[2:])
print(lock(OFD_GETLK, fcntl.F_RDLCK, 0, 0)[0] == fcntl.F_UNLCK)
";
    for runtime in BOTH {
        let scratch = Scratch::new();
        let bundle = Bundle::python(program).bind(scratch.path(), "/data", &[]);
        bundle.run_on(runtime).prints("True 0 1 True\n['EDEADLK', 'got']\n(3, 0, -1)\nTrue\n");
    }
}

#[test]
fn database_that_many_write_to_at_once_loses_nothing() {
    for mode in ["delete", "truncate", "persist"] {
        let scratch = Scratch::new();
        let host = |words: &[&str]| {
            let output = Command::new("python3")
                .args(["-c", COUNTER, scratch.join("db").to_str().unwrap()])
                .args(words)
                .output();
            let output = output.unwrap();
            assert!(output.status.success(), "{output:?}");
            String::from_utf8(output.stdout).unwrap()
        };
        host(&["make", mode]);
        let bundle =
            |name: &str| {
                Bundle::python("")
                    .args(&["python3", "-c", COUNTER, "/data/db", "count", mode, name, "20"])
                    .bind(scratch.path(), "/data", &[])
            };
        let bundles = ["sandbox", "another", "container"].map(bundle);
        let runtimes = [Runtime::Vmrun, Runtime::Vmrun, Runtime::Crun];
        let started: Vec<_> = bundles
            .iter()
            .zip(runtimes)
            .map(|(bundle, runtime)| Run::of(bundle).on(runtime).start())
            .collect();
        host(&["count", mode, "host", "20"]);
        for started in started {
            started.finish().prints("20\n");
        }
        assert_eq!(host(&["check"]), "80 80 80 ok\n", "{mode}");
    }
}

/// Runs [`WAL`] in a sandbox.
struct Writer {
    bundle: Bundle,
    started: Started,
    read: usize,
}

impl Writer {
    fn new(directory: &Path) -> Self {
        let bundle = Bundle::python("").args(&["python3", "-c", WAL, WAL]).bind(directory, "/data", &[]);
        let started = Run::of(&bundle).stdin(Stdio::piped()).start();
        Self { bundle, started, read: 0 }
    }

    #[track_caller]
    fn says(&mut self, word: &str, expected: &str) {
        writeln!(self.started.child.stdin.as_mut().unwrap(), "{word}").unwrap();
        let end = self.started.stdout.await_text(self.read, "\n");
        let answer = String::from_utf8(self.started.stdout.so_far()[self.read..end - 1].to_vec()).unwrap();
        self.read = end;
        assert_eq!(answer, expected, "{word}");
    }

    fn end(mut self) {
        drop(self.started.child.stdin.take());
        self.started.finish().exits(0);
        drop(self.bundle);
    }
}

#[test]
fn database_that_shares_memory_is_refused_to_a_second_sandbox_and_stays_intact() {
    let scratch = Scratch::new();
    let mut one = Writer::new(scratch.path());
    one.says("add", "1");
    one.says("other", "2");
    let mut other = Writer::new(scratch.path());
    // One who was refused has locked it nevertheless, and does not make way for the next.
    for word in ["add", "other", "add"] {
        other.says(word, "disk I/O error");
    }
    one.says("other", "3");
    one.says("add", "4");
    one.end();
    other.says("add", "5");
    other.says("other", "6");
    other.end();
    let check = "import sqlite3, sys
database = sqlite3.connect(sys.argv[1])
print(*database.execute('select count(*), count(distinct n) from steps').fetchone(), end=' ')
print(database.execute('pragma integrity_check').fetchone()[0])";
    let output = Command::new("python3").args(["-c", check]).arg(scratch.join("db")).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "6 6 ok\n", "{output:?}");
}

#[test]
fn locks_that_are_names_protect_what_lies_beside_them() {
    let scratch = Scratch::new();
    let counters = ["written", "replaced"].map(|name| scratch.join(name));
    counters.iter().for_each(|counter| fs::write(counter, "0").unwrap());
    let bundles = ["one", "other"].map(|name| {
        Bundle::python("").args(&["python3", "-c", NAMES, name, "12"]).bind(scratch.path(), "/data", &[])
    });
    let started = bundles.each_ref().map(|bundle| Run::of(bundle).start());
    for started in started {
        started.finish().prints("done\n");
    }
    assert_eq!(counters.map(|counter| fs::read_to_string(counter).unwrap()), ["24", "24"]);
}
