//! What the host's kernel holds, whatever the guest's thinks of it: each program here may do
//! everything in its guest, and does.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::support::{Bundle, Mounted, Run, Scratch, Started, wait};

const ALL: &[&str] = &["CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE", "CAP_MKNOD"];

/// Makes the guest forget that these are read-only, and writes.
fn forget_and_write(places: &[&str]) -> String {
    let write = |place: &&str| {
        format!("mount -o remount,bind,rw none {place} && ( : >{place}/new ) 2>&1 | grep -o 'Read-only.*'; ")
    };
    places.iter().map(write).collect()
}

const REFUSED: &str = "Read-only file system\n";

#[test]
fn read_only_root_stays_so_when_the_guest_forgets_it() {
    let bundle =
        Bundle::shell(&forget_and_write(&["/"])).capabilities(ALL).set("/root/readonly", json!(true));
    bundle.run().prints(REFUSED);
    assert!(!bundle.rootfs().join("new").exists());
}

#[test]
fn mount_points_in_a_read_only_root_are_made_before() {
    let scratch = Scratch::new();
    scratch.file("file", "content\n");
    let bundle = Bundle::shell("cat /made/here/file; echo x >/made/here/new")
        .set("/root/readonly", json!(true))
        .bind(scratch.path(), "/made/here", &[]);
    bundle.on_both(|outcome| {
        outcome.prints("content\n");
        fs::remove_file(scratch.join("new")).unwrap();
    });
}

#[test]
fn read_only_volumes_stay_so_when_the_guest_forgets_it() {
    let scratch = Scratch::new();
    let below = Mounted::new(&["-t", "tmpfs", "tmpfs"], &scratch.join("below"));
    let script = forget_and_write(&["/rro", "/rro/below", "/ro"]) + "touch /ro/below/new";
    let bundle = Bundle::shell(&script).capabilities(ALL).bind(scratch.path(), "/rro", &["rro"]).bind(
        scratch.path(),
        "/ro",
        &["ro"],
    );
    bundle.run().prints(&REFUSED.repeat(3));
    assert!(!scratch.join("new").exists() && below.path().join("new").exists());
}

#[test]
fn source_that_is_read_only_on_the_host_stays_so() {
    let scratch = Scratch::new();
    let source = Mounted::new(&["-t", "tmpfs", "-o", "ro,noexec", "tmpfs"], &scratch.join("source"));
    let script = forget_and_write(&["/v"]);
    Bundle::shell(&script).capabilities(ALL).bind(source.path(), "/v", &["rw"]).run().prints(REFUSED);
}

/// How many names the file server finds in this directory of the shared tree.
fn served(container: &Started, name: &str) -> usize {
    let (monitor, store, id) = (container.monitor(), container.store.display(), &container.id);
    fs::read_dir(format!("/proc/{monitor}/root{store}/{id}/share/{name}")).unwrap().count()
}

/// A directory bound to itself, whose peers get what is mounted in it.
fn shared(directory: &Path) -> Mounted {
    let bound = Mounted::new(&["--bind", directory.to_str().unwrap()], directory);
    let shared = Command::new("mount").arg("--make-shared").arg(directory).status();
    assert!(shared.unwrap().success());
    bound
}

#[test]
fn file_systems_of_the_hosts_kernel_are_not_in_a_volume() {
    let scratch = Scratch::new();
    let mounted = [("proc", "proc"), ("sysfs", "sys"), ("cgroup2", "cgroup"), ("tmpfs", "tmp")]
        .map(|(kind, name)| Mounted::new(&["-t", kind, kind], &scratch.join(name)));
    let script = "ls /v; ls -A /v/proc /v/sys /v/cgroup | grep -v -e '^/v/' -e '^$'; touch /v/tmp/made; echo up; sleep 1000";
    let bundle = Bundle::shell(script).bind(scratch.path(), "/v", &[]);
    let container = Run::of(&bundle).detach();
    container.started.stdout.await_text(0, "cgroup\nproc\nsys\ntmp\nup\n");
    for name in ["proc", "sys", "cgroup"] {
        assert_eq!(served(&container.started, &format!("volumes/0/{name}")), 0, "{name}");
    }
    container.end().ok();
    assert!(mounted[3].path().join("made").exists());
}

#[test]
fn whole_host_as_a_volume_has_no_kernel_in_it() {
    let script = "ls -A /host/proc /host/sys | grep -v -e '^/host/' -e '^$'; test -d /host/etc && echo host; \
        mount -o remount,bind,rw none /host; : >/host/proc/sysrq-trigger";
    let bundle = Bundle::shell(script).capabilities(ALL).bind("/".as_ref(), "/host", &["ro", "rslave"]);
    let outcome = bundle.run();
    assert_eq!(outcome.out(), "host\n", "{outcome:?}");
    assert!(outcome.err().contains("Read-only file system"), "{outcome:?}");
}

#[test]
fn file_system_of_the_hosts_kernel_is_no_volume() {
    let scratch = Scratch::new();
    let proc = Mounted::new(&["-t", "proc", "proc"], &scratch.join("proc"));
    let bundle = |name: &str| Bundle::shell("true").bind(&proc.path().join(name), "/v", &[]);
    for name in ["", "sys", "1"] {
        bundle(name)
            .run()
            .fails_with(1, &["cannot run", "/proc", "is on a proc of the host's kernel", "bind /proc"]);
    }
    let bundle = Bundle::shell("mount -o remount,bind,rw none /v; echo x >/v").capabilities(ALL).bind(
        &proc.path().join("version"),
        "/v",
        &[],
    );
    let outcome = bundle.run();
    assert!(outcome.err().contains("Read-only file system"), "{outcome:?}");
}

#[test]
fn whole_host_as_a_volume_does_not_show_the_sandbox_once_more() {
    let id = crate::support::new_id();
    let share = format!("/host/run/vmrun/{id}/share");
    let script = format!(
        "ls -A {share}; touch {share}/rootfs/pwned {share}/volumes/0/pwned 2>/dev/null && echo written; \
         test -d {share} && echo there"
    );
    let first = Scratch::new();
    let bundle = Bundle::shell(&script).capabilities(ALL).set("/root/readonly", json!(true)).bind(
        first.path(),
        "/first",
        &[],
    );
    let bundle = bundle.bind("/".as_ref(), "/host", &["rbind", "ro"]);
    Run::of(&bundle).id(&id).finish().prints("there\n");
    assert!(!bundle.rootfs().join("pwned").exists() && !first.join("pwned").exists());
}

#[test]
fn file_systems_of_the_hosts_kernel_that_are_mounted_later_go_again() {
    let scratch = Scratch::new();
    let script = "echo up; until test -e /go/go; do sleep 0.05; done; ls /proc-of-host /v/proc /private/below/proc /top";
    let bundle = Bundle::shell(script);
    let at = |name: &str| scratch.directory(name);
    let [slave, private, top, go] = ["slave", "private", "top", "go"].map(at);
    let rootfs = bundle.rootfs();
    fs::create_dir(private.join("below")).unwrap();
    let shared_ones = [shared(&slave), shared(&private.join("below")), shared(&top), shared(&rootfs)];
    let bundle = bundle
        .bind(&slave, "/v", &["rslave"])
        .bind(&private, "/private", &["rbind", "private"])
        .bind(&top, "/top", &["rbind"])
        .bind(&go, "/go", &[]);
    fs::create_dir(rootfs.join("proc-of-host")).unwrap();
    let started = Run::of(&bundle).start();
    started.stdout.await_text(0, "up\n");
    let places = [slave.join("proc"), private.join("below/proc"), rootfs.join("proc-of-host"), top];
    let later = places.map(|place| Mounted::new(&["-t", "proc", "proc"], &place));
    let tmp = Mounted::new(&["-t", "tmpfs", "tmpfs"], &slave.join("tmp"));
    let table = || fs::read_to_string(format!("/proc/{}/mountinfo", started.monitor())).unwrap();
    wait::until("the tmpfs", || table().contains("/share/volumes/0/tmp ").then_some(()));
    for place in ["volumes/0/proc", "volumes/1/below/proc", "rootfs/proc-of-host", "volumes/2"] {
        wait::until(&format!("no proc at {place}"), || (served(&started, place) == 0).then_some(()));
    }
    fs::write(go.join("go"), "").unwrap();
    let all = "up\n/private/below/proc:\n\n/proc-of-host:\n\n/top:\n\n/v/proc:\n";
    started.stdout.await_text(0, all);
    // Else they would count as left behind.
    drop((later, tmp));
    drop(shared_ones);
    started.finish().prints(all);
}

#[test]
fn file_system_of_the_hosts_kernel_that_a_hook_mounts_goes_before_the_program_starts() {
    let bundle = Bundle::shell("ls /mnt; ls /tmpfs");
    let rootfs = bundle.rootfs();
    for name in ["mnt", "tmpfs"] {
        fs::create_dir_all(rootfs.join(name)).unwrap();
    }
    let script = "mount -t proc proc mnt && mount -t tmpfs tmpfs tmpfs && touch tmpfs/by-the-hook";
    let hook = json!([{ "path": "/bin/sh", "args": ["sh", "-c", script] }]);
    bundle.set("/hooks", json!({ "createContainer": hook })).run().prints("by-the-hook\n");
}
