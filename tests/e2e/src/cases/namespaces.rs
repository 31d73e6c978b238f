//! Namespaces.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};

use serde_json::{Value, json};

use crate::support::{BOTH, Bundle, Scratch};

fn only(kinds: &[&str]) -> Value {
    kinds.iter().map(|kind| json!({ "type": kind })).collect()
}

#[test]
fn namespaces_asked_for_are_not_those_of_the_guest() {
    // As the agent's, those of the kernel's own first process are well-known.
    let script =
        "for kind in cgroup ipc net pid uts time user; do echo $kind $(readlink /proc/self/ns/$kind); done";
    let initial = [
        ("cgroup", "cgroup:[4026531835]"),
        ("ipc", "ipc:[4026531839]"),
        ("pid", "pid:[4026531836]"),
        ("uts", "uts:[4026531838]"),
        ("time", "time:[4026531834]"),
        ("user", "user:[4026531837]"),
    ];
    let asked = ["mount", "pid", "ipc", "uts", "cgroup", "network"];
    Bundle::shell(script).on_both(|outcome| {
        let out = outcome.ok();
        for (kind, inode) in initial {
            let found = out.lines().find_map(|line| line.strip_prefix(&format!("{kind} "))).unwrap();
            assert_eq!(found != inode, asked.contains(&kind), "{kind}: {outcome:?}");
        }
    });
}

#[test]
fn without_a_pid_namespace_the_program_is_not_the_first_process() {
    let bundle = Bundle::shell("test $$ -gt 1 && exit 9").set("/linux/namespaces", only(&["mount"]));
    let bundle = bundle.remove("/hostname");
    bundle.on_both(|outcome| {
        outcome.exits(9);
    });
}

#[test]
fn without_a_pid_namespace_nothing_of_the_program_stays() {
    let bundle =
        Bundle::shell("sleep 1000 & exit 4").set("/linux/namespaces", only(&["mount"])).remove("/hostname");
    // crun leaves what was not in a namespace of its own.
    bundle.run().exits(4);
}

#[test]
fn program_sees_its_own_processes_alone() {
    let bundle = Bundle::shell("sleep 100 & ps -o pid,comm | tail -n +2");
    bundle.on_both(|outcome| {
        let out = outcome.ok();
        let pids: Vec<_> = out.lines().map(|line| line.split_whitespace().next().unwrap()).collect();
        assert!(pids.len() <= 4 && pids.contains(&"1"), "{outcome:?}");
    });
}

#[test]
fn new_network_namespace_has_loopback_alone() {
    let bundle = Bundle::shell("ls /sys/class/net; ip -o addr show lo | awk '{ print $4 }'; ping -c 1 -q 127.0.0.1 >/dev/null && echo up")
        .capabilities(&["CAP_NET_RAW"]);
    bundle.on_both(|outcome| {
        outcome.prints("lo\n127.0.0.1/8\n::1/128\nup\n");
    });
}

#[test]
fn user_namespace_maps_ids_both_ways() {
    for runtime in BOTH {
        let scratch = Scratch::new();
        let data = scratch.directory("data");
        chown(&data, Some(100_000), Some(100_000)).unwrap();
        let mapping = json!([{ "containerID": 0, "hostID": 100_000, "size": 65536 }]);
        let script = "id -u; cat /proc/self/uid_map | awk '{ print $1, $2, $3 }'; stat -c %u:%g /data; \
            touch /data/file; chown 7:8 /data/file; stat -c %u:%g /data/file";
        let namespaces = only(&["pid", "network", "ipc", "uts", "mount", "cgroup", "user"]);
        let bundle = Bundle::shell(script)
            .capabilities(&["CAP_CHOWN", "CAP_DAC_OVERRIDE"])
            .set("/linux/namespaces", namespaces)
            .set("/linux/uidMappings", mapping.clone())
            .set("/linux/gidMappings", mapping)
            .bind(&data, "/data", &[]);
        // Root in the namespace is nobody who could make it.
        fs::create_dir(bundle.rootfs().join("data")).unwrap();
        bundle.run_on(runtime).prints("0\n0 100000 65536\n0:0\n7:8\n");
        let file = data.join("file").metadata().unwrap();
        assert_eq!((file.uid(), file.gid()), (100_007, 100_008), "{runtime:?}");
    }
}

#[test]
fn time_namespace_has_its_offsets() {
    let namespaces = only(&["pid", "network", "ipc", "uts", "mount", "cgroup", "time"]);
    let bundle = Bundle::shell("awk '{ print $1 > 1000000 }' /proc/uptime; cat /proc/uptime")
        .set("/root/readonly", json!(true))
        .set("/linux/namespaces", namespaces)
        .set("/linux/timeOffsets", json!({
            "boottime": { "secs": 5_000_000, "nanosecs": 0 }, "monotonic": { "secs": 5_000_000, "nanosecs": 0 }
        }));
    let out = bundle.run().out();
    let uptime: f64 =
        out.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or_default();
    assert!(uptime > 5_000_000.0, "{out:?}");
}
