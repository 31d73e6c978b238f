//! What the host's kernel holds, whatever the guest's thinks of it: each program here may do
//! everything in its guest, and does.

use std::fs;

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

/// How many names the file server finds in this directory of the first volume.
fn served(container: &Started, name: &str) -> usize {
    let (monitor, store, id) = (container.monitor(), container.store.display(), &container.id);
    fs::read_dir(format!("/proc/{monitor}/root{store}/{id}/share/volumes/0/{name}")).unwrap().count()
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
        assert_eq!(served(&container.started, name), 0, "{name}");
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
fn file_system_of_the_hosts_kernel_that_is_mounted_later_goes_again() {
    let scratch = Scratch::new();
    let source = scratch.directory("source");
    let bound = Mounted::new(&["--bind", source.to_str().unwrap()], &source);
    let shared = std::process::Command::new("mount").arg("--make-shared").arg(bound.path()).status();
    assert!(shared.unwrap().success());
    let script = "echo up; until test -e /v/tmp/there; do sleep 0.05; done; ls /v/proc";
    let bundle = Bundle::shell(script).bind(bound.path(), "/v", &["rslave"]);
    let started = Run::of(&bundle).start();
    started.stdout.await_text(0, "up\n");
    let _later = [("proc", "proc"), ("tmpfs", "tmp")]
        .map(|(kind, name)| Mounted::new(&["-t", kind, kind], &source.join(name)));
    let table = || fs::read_to_string(format!("/proc/{}/mountinfo", started.monitor())).unwrap();
    wait::until("the tmpfs", || table().contains("/share/volumes/0/tmp ").then_some(()));
    wait::until("no proc", || (served(&started, "proc") == 0).then_some(()));
    fs::write(source.join("tmp/there"), "").unwrap();
    started.finish().prints("up\n");
}
