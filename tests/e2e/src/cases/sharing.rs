//! Files that container and host share.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::fs::{XattrFlags, getxattr, setxattr};
use serde_json::json;

use crate::support::{BOTH, Bundle, Mounted, Run, Runtime, Scratch, wait};

const FILES: &str = include_str!("../programs/files.py");

/// Capabilities to do with files what root does.
const OF_FILES: &[&str] =
    &["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_MKNOD", "CAP_SETFCAP"];

#[test]
fn what_the_container_makes_is_on_the_host_as_it_was_made() {
    let script = "umask 0; cd /data
        echo content >file && chmod 640 file && chown 1000:5 file
        touch setuid && chown 65534:65534 setuid && chmod 4755 setuid
        mkdir directory && chmod 1777 directory && echo in >directory/file
        mkdir setgid && chown 0:7 setgid && chmod 2770 setgid && touch setgid/inherits
        ln -s file symlink && ln -s /none/at/all dangling && ln file hardlink
        mkfifo fifo && mknod device c 1 3
        touch -d '2001-02-03 04:05:06' old
        head -c 1048576 /dev/zero >big; truncate -s 1073741824 sparse
        touch 'grüße \"und\" mehr'; mkdir -p deep/er/still; mv file renamed; rm setgid/none 2>/dev/null; sync";
    for runtime in BOTH {
        let scratch = Scratch::new();
        let data = scratch.directory("data");
        let bundle = Bundle::shell(script).capabilities(OF_FILES).bind(&data, "/data", &[]);
        bundle.run_on(runtime).prints("");
        let shown = |name: &str| {
            let data = data.join(name).symlink_metadata().unwrap();
            format!("{:o} {}:{} {}", data.mode(), data.uid(), data.gid(), data.size())
        };
        for (name, expected) in [
            ("renamed", "100640 1000:5 8"),
            ("hardlink", "100640 1000:5 8"),
            ("setuid", "104755 65534:65534 0"),
            ("directory/file", "100666 0:0 3"),
            ("setgid/inherits", "100666 0:7 0"),
            ("fifo", "10666 0:0 0"),
            ("device", "20666 0:0 0"),
            ("big", "100666 0:0 1048576"),
            ("sparse", "100666 0:0 1073741824"),
            ("grüße \"und\" mehr", "100666 0:0 0"),
        ] {
            assert_eq!(shown(name), expected, "{runtime:?}: {name}");
        }
        assert!(shown("directory").starts_with("41777 0:0"), "{runtime:?}");
        assert!(shown("setgid").starts_with("42770 0:7"), "{runtime:?}");
        let metadata = |name: &str| data.join(name).metadata().unwrap();
        assert_eq!(metadata("renamed").ino(), metadata("hardlink").ino());
        assert_eq!(metadata("renamed").nlink(), 2);
        assert_eq!(metadata("device").rdev(), 0x103);
        assert_eq!(metadata("old").mtime(), 981_173_106);
        assert!(metadata("sparse").blocks() < 2048, "{runtime:?}: a hole takes no room");
        assert_eq!(fs::read_link(data.join("symlink")).unwrap().to_str(), Some("file"));
        assert_eq!(fs::read_link(data.join("dangling")).unwrap().to_str(), Some("/none/at/all"));
        assert_eq!(fs::read_to_string(data.join("hardlink")).unwrap(), "content\n");
        assert!(data.join("deep/er/still").is_dir() && !data.join("file").exists());
    }
}

#[test]
fn what_the_host_made_is_in_the_container_as_it_is() {
    let scratch = Scratch::new();
    let file = scratch.file("file", "content\n");
    chown(&file, Some(1000), Some(5)).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o4751)).unwrap();
    let directory = scratch.directory("directory");
    chown(&directory, Some(65534), Some(7)).unwrap();
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o2750)).unwrap();
    symlink("file", scratch.join("symlink")).unwrap();
    fs::hard_link(&file, scratch.join("hardlink")).unwrap();
    setxattr(&file, "trusted.note", b"secret", XattrFlags::empty()).unwrap();
    let made = Command::new("mknod").arg(scratch.join("fifo")).arg("p").status().unwrap();
    assert!(made.success());
    let touched = Command::new("touch").args(["-d", "@1000000000"]).arg(&file).status().unwrap();
    assert!(touched.success());
    fs::File::create(scratch.join("sparse")).unwrap().set_len(5 << 30).unwrap();
    let script =
        "cd /data; stat -c '%a %u:%g %s %h %Y %F' file; stat -c '%a %u:%g %F' directory; readlink symlink
        stat -c '%F' fifo; stat -c %s sparse; cat hardlink; test file -ef hardlink && echo same";
    let bundle = Bundle::shell(script).capabilities(OF_FILES).bind(scratch.path(), "/data", &[]);
    bundle.on_both(|outcome| {
        outcome.prints(
            "4751 1000:5 8 2 1000000000 regular file\n2750 65534:7 directory\nfile\nfifo\n5368709120\ncontent\nsame\n",
        );
    });
}

#[test]
fn permissions_are_those_of_the_containers_user() {
    let scratch = Scratch::new();
    for (name, owner, mode) in [("own", 1000, 0o600), ("others", 1001, 0o600), ("all", 1001, 0o644)] {
        let file = scratch.file(name, "x");
        chown(&file, Some(owner), Some(owner)).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
    }
    let group = scratch.file("group", "x");
    chown(&group, Some(1001), Some(44)).unwrap();
    fs::set_permissions(&group, fs::Permissions::from_mode(0o060)).unwrap();
    let script = "cd /data; for file in own others all group; do
        cat $file >/dev/null 2>&1 && echo $file read; (echo y >>$file) 2>/dev/null && echo $file written; done; touch new; exit 0";
    let bundle = Bundle::shell(script)
        .set("/process/user", serde_json::json!({ "uid": 1000, "gid": 1000, "additionalGids": [44] }))
        .bind(scratch.path(), "/data", &[]);
    bundle.on_both(|outcome| {
        let expected = "own read\nown written\nall read\ngroup read\ngroup written\n";
        outcome.prints_with_errors(expected, &["Permission denied"]);
    });
}

#[test]
fn files_of_another_user_belong_to_it_on_the_host() {
    let scratch = Scratch::new();
    let data = scratch.directory("data");
    fs::set_permissions(&data, fs::Permissions::from_mode(0o777)).unwrap();
    let bundle = Bundle::shell("umask 027; echo x >/data/file; mkdir /data/directory; ln -s x /data/link")
        .set("/process/user", serde_json::json!({ "uid": 1234, "gid": 4321 }))
        .bind(&data, "/data", &[]);
    for runtime in BOTH {
        bundle.run_on(runtime).prints("");
        for (name, mode) in [("file", 0o100_640), ("directory", 0o40_750), ("link", 0o120_777)] {
            let found = data.join(name).symlink_metadata().unwrap();
            assert_eq!((found.uid(), found.gid(), found.mode()), (1234, 4321, mode), "{runtime:?}: {name}");
        }
        for name in ["file", "link"] {
            fs::remove_file(data.join(name)).unwrap();
        }
        fs::remove_dir(data.join("directory")).unwrap();
    }
}

#[test]
fn extended_attributes_pass_both_ways() {
    let program = r"
import os
print(os.getxattr('/data/given', 'trusted.host'))
os.setxattr('/data/given', 'trusted.guest', b'\x00\x01binary')
os.setxattr('/data/given', 'security.capability', bytes.fromhex('0100000200040000000000000000000000000000'))
print(sorted(os.listxattr('/data/given')))
os.removexattr('/data/given', 'trusted.host')
";
    for runtime in BOTH {
        let scratch = Scratch::new();
        let file = scratch.file("given", "");
        setxattr(&file, "trusted.host", b"value", XattrFlags::empty()).unwrap();
        let bundle = Bundle::python(program).capabilities(&[OF_FILES, &["CAP_SYS_ADMIN"]].concat()).bind(
            scratch.path(),
            "/data",
            &[],
        );
        bundle.run_on(runtime).prints("b'value'\n['security.capability', 'trusted.guest', 'trusted.host']\n");
        let mut buffer = [0; 64];
        let count = getxattr(&file, "trusted.guest", &mut buffer).unwrap();
        assert_eq!(&buffer[..count], b"\x00\x01binary", "{runtime:?}");
        assert!(getxattr(&file, "trusted.host", &mut buffer).is_err(), "{runtime:?}");
        assert_eq!(getxattr(&file, "security.capability", &mut buffer), Ok(20), "{runtime:?}");
    }
}

#[test]
fn writes_through_a_mapping_are_on_the_host_at_the_end() {
    let program = r"
import mmap, os
for name, flush in (('synced', True), ('left', False)):
    fd = os.open('/data/' + name, os.O_RDWR | os.O_CREAT, 0o644)
    os.ftruncate(fd, 1 << 20)
    view = mmap.mmap(fd, 1 << 20)
    for at in range(0, 1 << 20, 4096):
        view[at:at + 8] = b'%08d' % at
    if flush:
        view.flush()
private = mmap.mmap(fd, 4096, flags=mmap.MAP_PRIVATE)
private[0:8] = b'private!'
print(open('/data/left', 'rb').read(8))
";
    for runtime in BOTH {
        let scratch = Scratch::new();
        Bundle::python(program).bind(scratch.path(), "/data", &[]).run_on(runtime).prints("b'00000000'\n");
        for name in ["synced", "left"] {
            let content = fs::read(scratch.join(name)).unwrap();
            assert_eq!(content.len(), 1 << 20);
            for at in (0..1 << 20).step_by(4096) {
                assert_eq!(content[at..at + 8], *format!("{at:08}").as_bytes(), "{runtime:?}: {name}");
            }
        }
    }
}

/// A writer that is not the container's first process and never ends by itself.
const LASTING_WRITER: &str = r"
import ctypes, mmap, os, signal
ready, told = os.pipe()
if os.fork() == 0:
    os.setsid()
    if LEAVES:
        assert ctypes.CDLL(None).mount(b'none', b'/tmp', b'cgroup2', 0, None) == 0
        with open('/tmp/cgroup.procs', 'w') as procs:
            procs.write('0')
    fd = os.open('/data/file', os.O_RDWR | os.O_CREAT, 0o644)
    os.ftruncate(fd, 4 << 20)
    view = mmap.mmap(fd, 4 << 20)
    for at in range(0, 4 << 20, 4096):
        view[at:at + 8] = b'%08d' % at
    os.write(told, b'x')
    signal.pause()
os.read(ready, 1)
";

#[track_caller]
fn has_all_that_was_written(scratch: &Scratch) {
    let content = fs::read(scratch.join("file")).unwrap();
    assert_eq!(content.len(), 4 << 20);
    for at in (0..4 << 20).step_by(4096) {
        assert_eq!(content[at..at + 8], *format!("{at:08}").as_bytes());
    }
}

#[test]
fn mapping_of_a_writer_that_outlives_the_first_process_is_on_the_host_at_the_end() {
    let program = LASTING_WRITER.replace("LEAVES", "False");
    let ends_up_on_the_host = |runtime: Runtime, namespaces: &[&str]| {
        let namespaces: Vec<_> = namespaces.iter().map(|name| json!({ "type": name })).collect();
        let scratch = Scratch::new();
        let bundle = Bundle::python(&program).set("/linux/namespaces", json!(namespaces));
        bundle.bind(scratch.path(), "/data", &[]).run_on(runtime).prints("");
        has_all_that_was_written(&scratch);
    };
    for runtime in BOTH {
        ends_up_on_the_host(runtime, &["mount", "uts", "pid"]);
    }
    // Without a pid namespace the kernel ends nobody. crun lets them live on.
    ends_up_on_the_host(Runtime::Vmrun, &["mount", "uts"]);
}

#[test]
fn mapping_of_a_writer_that_has_left_the_cgroup_is_on_the_host_at_the_end() {
    let program = LASTING_WRITER.replace("LEAVES", "True");
    let scratch = Scratch::new();
    // Without a cgroup namespace it sees the guest's, whose root takes everybody.
    let bundle = Bundle::python(&program)
        .set("/linux/namespaces", json!([{ "type": "mount" }, { "type": "uts" }]))
        .capabilities(&["CAP_SYS_ADMIN"])
        .bind(scratch.path(), "/data", &[]);
    bundle.run().prints("");
    has_all_that_was_written(&scratch);
}

#[test]
fn mapped_data_for_which_there_is_no_room_is_told() {
    let program = r"
import mmap, os
fd = os.open('/data/file', os.O_RDWR | os.O_CREAT, 0o644)
os.ftruncate(fd, 4 << 20)
view = mmap.mmap(fd, 4 << 20)
view[:] = b'x' * (4 << 20)
print('written', flush=True)
os._exit(0)
";
    let scratch = Scratch::new();
    let small = Mounted::new(&["-t", "tmpfs", "-o", "size=1m", "tmpfs"], &scratch.join("small"));
    let outcome = Bundle::python(program).bind(small.path(), "/data", &[]).run();
    let path = small.path().to_str().unwrap();
    outcome.prints_with_errors("written\n", &["vmrun: warning: ", path, "No space left on device"]);
    assert_eq!(outcome.err().lines().count(), 1, "{outcome:?}");
}

#[test]
fn mapped_data_is_on_the_host_soon() {
    let program = r"
import mmap, os, signal
for name in ('expire', 'writeback'):
    print(open(f'/proc/sys/vm/dirty_{name}_centisecs').read().strip())
fd = os.open('/data/file', os.O_RDWR | os.O_CREAT, 0o644)
os.ftruncate(fd, 4096)
view = mmap.mmap(fd, 4096)
view[:6] = b'mapped'
print('up', flush=True)
signal.pause()
";
    let scratch = Scratch::new();
    let bundle = Bundle::python(program).bind(scratch.path(), "/data", &[]);
    let started = Run::of(&bundle).start();
    started.stdout.await_text(0, "100\n100\nup\n");
    wait::until("what is mapped", || scratch.text("file").starts_with("mapped").then_some(()));
    kill(Pid::from_raw(started.monitor()), Signal::SIGKILL).unwrap();
    started.finish().exits(137);
    assert!(scratch.text("file").starts_with("mapped"));
}

#[test]
fn synced_data_is_on_the_host_while_the_program_runs() {
    let scratch = Scratch::new();
    let program = r"
import os, time
fd = os.open('/data/file', os.O_WRONLY | os.O_CREAT, 0o644)
os.write(fd, b'x' * 100000)
os.fsync(fd)
print('synced', flush=True)
while not os.path.exists('/data/go'):
    time.sleep(0.02)
";
    let bundle = Bundle::python(program).bind(scratch.path(), "/data", &[]);
    let started = Run::of(&bundle).start();
    started.stdout.await_text(0, "synced\n");
    assert_eq!(scratch.join("file").metadata().unwrap().len(), 100_000);
    scratch.file("go", "");
    started.finish().prints("synced\n");
}

#[test]
fn change_on_the_host_is_seen_by_the_next_open() {
    let scratch = Scratch::new();
    let file = scratch.file("file", "old");
    // Long enough after the last change the guest may keep what it has read.
    let program = r"
import os, time
def content():
    with open('/data/file') as file:
        return file.read()
while time.time() - os.stat('/data/file').st_ctime < 3:
    time.sleep(0.05)
print(content(), content(), flush=True)
while not os.path.exists('/data/go'):
    time.sleep(0.02)
print(content())
";
    let bundle = Bundle::python(program).bind(scratch.path(), "/data", &[]);
    let started = Run::of(&bundle).start();
    started.stdout.await_text(0, "old old\n");
    fs::write(file, "new").unwrap();
    scratch.file("go", "");
    started.finish().prints("old old\nnew\n");
}

#[test]
fn change_on_the_host_is_seen_at_once_where_nothing_is_kept() {
    let scratch = Scratch::new();
    let (data, single) = (scratch.directory("data"), scratch.file("single", "old"));
    fs::write(data.join("file"), "old").unwrap();
    // Whatever is kept is kept anew with each look.
    let program = r"
import os
def look():
    return [(os.stat(name).st_size, os.read(fd, 9)) for name, fd in files if os.lseek(fd, 0, 0) == 0]
files = [(name, os.open(name, os.O_RDONLY)) for name in ('/data/file', '/tmp/single')]
print(look(), flush=True)
while not os.path.exists('/data/go'):
    look()
print(look(), os.path.exists('/data/gone'))
";
    fs::write(data.join("gone"), "").unwrap();
    let bundle = Bundle::python(program)
        .bind(&data, "/data", &[])
        .bind(&single, "/tmp/single", &[])
        .set("/annotations", json!({ "dev.vmrun.volume.cache": "none" }));
    let started = Run::of(&bundle).start();
    let old = "[(3, b'old'), (3, b'old')]\n";
    started.stdout.await_text(0, old);
    fs::write(data.join("file"), "newer").unwrap();
    fs::write(&single, "newest").unwrap();
    fs::remove_file(data.join("gone")).unwrap();
    fs::write(data.join("go"), "").unwrap();
    started.finish().prints(&format!("{old}[(5, b'newer'), (6, b'newest')] False\n"));
}

#[test]
fn data_is_on_the_host_when_the_program_is_killed() {
    let scratch = Scratch::new();
    let bundle = Bundle::shell("echo data >/data/file; kill -9 $$")
        .set("/linux/namespaces", json!([{ "type": "mount" }, { "type": "uts" }]))
        .bind(scratch.path(), "/data", &[]);
    bundle.run().exits(137);
    assert_eq!(scratch.text("file"), "data\n");
}

#[test]
fn file_systems_calls_behave_as_on_a_disk() {
    for runtime in BOTH {
        let scratch = Scratch::new();
        let bundle = Bundle::python(FILES).capabilities(OF_FILES).bind(scratch.path(), "/data", &[]);
        let outcome = bundle.run_on(runtime);
        let failed: Vec<_> =
            outcome.out().lines().filter(|line| !line.ends_with(": ok")).map(str::to_owned).collect();
        assert!(failed.is_empty(), "{failed:#?} {outcome:?}");
        outcome.exits(0).shows("finished: ok\n");
    }
}

#[test]
fn two_sandboxes_share_a_volume() {
    let scratch = Scratch::new();
    let ping = "echo ping >/data/new && mv /data/new /data/ping; until [ -e /data/pong ]; do sleep 0.05; done; cat /data/pong";
    let pong = "until [ -e /data/ping ]; do sleep 0.05; done; cat /data/ping; echo pong >/data/new2 && mv /data/new2 /data/pong";
    let (one, two) = (
        Bundle::shell(ping).bind(scratch.path(), "/data", &[]),
        Bundle::shell(pong).bind(scratch.path(), "/data", &[]),
    );
    let (one, two) = (Run::of(&one).start(), Run::of(&two).start());
    one.finish().prints("pong\n");
    two.finish().prints("ping\n");
}

#[test]
fn big_file_is_read_and_written_unchanged() {
    let scratch = Scratch::new();
    let script = "cd /data && dd if=/dev/urandom of=one bs=1M count=64 2>/dev/null && cp one two && sha256sum one two | cut -c 1-64";
    let bundle = Bundle::shell(script).bind(scratch.path(), "/data", &[]);
    let out = bundle.run().ok();
    let (first, second) = out.trim().split_once('\n').unwrap();
    assert_eq!(first, second);
    let host = Command::new("sha256sum").arg(scratch.join("two")).output().unwrap();
    assert!(String::from_utf8(host.stdout).unwrap().starts_with(first));
}
