//! Devices and who may use them.

use serde_json::json;

use crate::support::Bundle;

const FUSE: (i64, i64) = (10, 229);
const TUN: (i64, i64) = (10, 200);

#[test]
fn usual_devices_are_there() {
    let script = "for name in null zero full random urandom tty ptmx pts/ptmx fd stdin stdout stderr; do
        stat -c '%n %F %a %t:%T' /dev/$name; done; for name in fd stdin ptmx; do readlink /dev/$name; done";
    let bundle = Bundle::shell(script);
    bundle.on_both(|outcome| {
        let out = outcome.ok();
        for line in [
            "/dev/null character special file 666 1:3",
            "/dev/zero character special file 666 1:5",
            "/dev/full character special file 666 1:7",
            "/dev/random character special file 666 1:8",
            "/dev/urandom character special file 666 1:9",
            "/dev/tty character special file 666 5:0",
            "/dev/ptmx symbolic link 777 0:0",
            "/dev/pts/ptmx character special file 666 5:2",
            "/dev/fd symbolic link 777 0:0",
            "/proc/self/fd",
            "/proc/self/fd/0",
            "pts/ptmx",
        ] {
            assert!(out.lines().any(|found| found == line), "no {line:?} in {outcome:?}");
        }
    });
}

#[test]
fn usual_devices_work() {
    let script = "echo x >/dev/null && head -c 3 /dev/zero | wc -c && head -c 3 /dev/urandom | wc -c &&
        head -c 3 /dev/random | wc -c; echo x >/dev/full; echo out >/dev/stdout; echo y | cat /dev/stdin; ls /dev/fd | wc -l";
    let bundle = Bundle::shell(script);
    bundle.on_both(|outcome| {
        outcome.prints_with_errors("3\n3\n3\nout\ny\n4\n", &["No space left on device"]);
    });
}

#[test]
fn devices_of_the_configuration_are_made() {
    let script = "stat -c '%F %a %u:%g %t:%T' /dev/fuse /dev/disk/loop /dev/queue";
    let bundle = Bundle::shell(script)
        .push("/linux/devices", json!({
            "path": "/dev/fuse", "type": "c", "major": FUSE.0, "minor": FUSE.1, "fileMode": 0o640, "uid": 1000, "gid": 5
        }))
        .push("/linux/devices", json!({
            "path": "/dev/disk/loop", "type": "b", "major": 7, "minor": 0, "fileMode": 0o600, "uid": 0, "gid": 0
        }))
        .push("/linux/devices", json!({ "path": "/dev/queue", "type": "p", "fileMode": 0o666 }));
    bundle.on_both(|outcome| {
        outcome.prints(
            "character special file 640 1000:5 a:e5\nblock special file 600 0:0 7:0\nfifo 666 0:0 0:0\n",
        );
    });
}

#[test]
fn device_opens_only_with_a_rule_for_it() {
    let opens = |rules: serde_json::Value| {
        Bundle::shell("exec 5<>/dev/fuse && echo opened")
            .push(
                "/linux/devices",
                json!({
                    "path": "/dev/fuse", "type": "c", "major": FUSE.0, "minor": FUSE.1, "fileMode": 0o666
                }),
            )
            .set("/linux/resources/devices", rules)
    };
    let deny = json!({ "allow": false, "access": "rwm" });
    let allow = |access: &str, minor: i64| json!({ "allow": true, "type": "c", "major": FUSE.0, "minor": minor, "access": access });
    opens(json!([deny, allow("rwm", FUSE.1)])).on_both(|outcome| {
        outcome.prints("opened\n");
    });
    opens(json!([{ "allow": true, "access": "rwm" }])).on_both(|outcome| {
        outcome.prints("opened\n");
    });
    for rules in [json!([deny]), json!([deny, allow("r", FUSE.1)]), json!([deny, allow("rwm", TUN.1)])] {
        opens(rules).on_both(|outcome| {
            assert!(outcome.err().contains("Operation not permitted"), "{outcome:?}");
            assert_ne!(outcome.status.code(), Some(0), "{outcome:?}");
        });
    }
}

#[test]
fn node_made_by_the_container_opens_only_with_a_rule_for_it() {
    let bundle = Bundle::shell("mknod /dev/own c 10 229 && exec 5<>/dev/own").capabilities(&["CAP_MKNOD"]);
    bundle.on_both(|outcome| {
        assert!(outcome.err().contains("Operation not permitted"), "{outcome:?}");
        assert!(!outcome.err().contains("mknod"), "{outcome:?}");
    });
}

#[test]
fn node_in_the_root_file_system_is_the_guests_device() {
    // A node on a volume must not reach the host's device either.
    let bundle = Bundle::shell("mknod /own-null c 1 3 && echo x >/own-null && stat -c '%t:%T' /own-null")
        .capabilities(&["CAP_MKNOD"]);
    bundle.on_both(|outcome| {
        outcome.prints("1:3\n");
        std::fs::remove_file(bundle.rootfs().join("own-null")).unwrap();
    });
}

#[test]
fn tun_device_makes_an_interface() {
    let program = r"
import fcntl, os, struct
fd = os.open('/dev/net/tun', os.O_RDWR)
fcntl.ioctl(fd, 0x400454ca, struct.pack('16sH22s', b'tun7', 0x1001, b''))
print(os.path.isdir('/sys/class/net/tun7'))
";
    let bundle = Bundle::python(program)
        .capabilities(&["CAP_NET_ADMIN"])
        .push(
            "/linux/devices",
            json!({
                "path": "/dev/net/tun", "type": "c", "major": TUN.0, "minor": TUN.1, "fileMode": 0o666
            }),
        )
        .push(
            "/linux/resources/devices",
            json!({
                "allow": true, "type": "c", "major": TUN.0, "minor": TUN.1, "access": "rwm"
            }),
        );
    bundle.on_both(|outcome| {
        outcome.prints("True\n");
    });
}
