//! Limits.

use serde_json::json;

use crate::support::{Bundle, Runtime, new_id, vmrun};

const MIB: u64 = 1 << 20;

#[test]
fn limits_are_visible_in_the_containers_cgroup() {
    let script = "cd /sys/fs/cgroup; for file in memory.max memory.low memory.swap.max pids.max cpu.max cpu.weight \
        cpuset.cpus; do echo $file $(cat $file); done; cat /proc/self/cgroup";
    let bundle = Bundle::shell(script)
        .set(
            "/linux/resources/memory",
            json!({
                "limit": 96 * MIB, "reservation": 32 * MIB, "swap": 96 * MIB
            }),
        )
        .set("/linux/resources/pids", json!({ "limit": 50 }))
        .set(
            "/linux/resources/cpu",
            json!({ "quota": 50_000, "period": 100_000, "shares": 512, "cpus": "0" }),
        );
    bundle.on_both(|outcome| {
        // Runtimes convert shares to a weight by an older and a newer formula.
        let weight = if outcome.runtime == Runtime::Crun { 20 } else { 59 };
        outcome.prints(&format!(
            "memory.max {}\nmemory.low {}\nmemory.swap.max 0\npids.max 50\ncpu.max 50000 100000\n\
             cpu.weight {weight}\ncpuset.cpus 0\n0::/\n",
            96 * MIB,
            32 * MIB
        ));
    });
}

#[test]
fn monitor_is_started_in_its_cgroup_and_not_moved_there() {
    let bundle = Bundle::shell("true").set("/linux/cgroupsPath", json!(format!("/{}", new_id())));
    let outcome = vmrun(&["--debug"], &["run", "--bundle", bundle.path().to_str().unwrap(), &new_id()]);
    outcome.exits(0);
    assert!(outcome.err().contains("in the cgroup Some"), "{outcome:?}");
    assert!(!outcome.err().contains("has to enter its cgroup"), "{outcome:?}");
}

#[test]
fn unified_settings_are_applied() {
    let bundle = Bundle::shell("cat /sys/fs/cgroup/memory.high /sys/fs/cgroup/pids.max")
        .set("/linux/resources/unified", json!({ "memory.high": "33554432", "pids.max": "77" }));
    bundle.on_both(|outcome| {
        outcome.prints("33554432\n77\n");
    });
}

#[test]
fn process_limit_holds() {
    let script = "for i in 1 2 3 4 5 6 7 8 9; do sleep 100 & done; echo all";
    let bundle = Bundle::shell(script).set("/linux/resources/pids", json!({ "limit": 6 }));
    bundle.on_both(|outcome| {
        assert!(outcome.err().contains("can't fork"), "{outcome:?}");
        assert_eq!(outcome.out(), "", "{outcome:?}");
    });
}

#[test]
fn memory_limit_kills_with_137() {
    // tail keeps all of a line that never ends.
    let bundle = Bundle::shell("").args(&["tail", "/dev/zero"]);
    let bundle = bundle.set("/linux/resources/memory", json!({ "limit": 32 * MIB, "swap": 32 * MIB }));
    bundle.on_both(|outcome| {
        outcome.exits(137);
    });
}

#[test]
fn memory_limit_kills_the_greedy_process_and_the_program_goes_on() {
    let script = "tail /dev/zero; echo $?; grep '^oom_kill ' /sys/fs/cgroup/memory.events";
    let bundle =
        Bundle::shell(script).set("/linux/resources/memory", json!({ "limit": 32 * MIB, "swap": 32 * MIB }));
    bundle.on_both(|outcome| {
        assert_eq!(outcome.out(), "137\noom_kill 1\n", "{outcome:?}");
        outcome.exits(0);
    });
}

#[test]
fn large_sparse_allocation_is_promised_in_a_small_machine() {
    let program = "import mmap; m = mmap.mmap(-1, 4 << 30, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS); \
        m[3 << 30] = 1; print(len(m) >> 30)";
    Bundle::python(program).on_both(|outcome| {
        outcome.prints("4\n");
    });
}

#[test]
fn memory_of_the_machine_that_runs_out_is_told() {
    // No limit but the machine's own.
    let outcome = Bundle::shell("").args(&["tail", "/dev/zero"]).run();
    outcome.exits(137);
}

#[test]
fn cpu_quota_throttles() {
    let script = "timeout 2 sh -c 'while :; do :; done'; awk '$1 == \"nr_throttled\" { print $2 > 0 }' \
        /sys/fs/cgroup/cpu.stat; awk '$1 == \"nr_throttled\" && $2 > 3 { print \"throttled\" }' /sys/fs/cgroup/cpu.stat";
    let bundle = Bundle::shell(script)
        .set("/root/readonly", json!(true))
        .set("/linux/resources/cpu", json!({ "quota": 10_000, "period": 100_000 }));
    bundle.on_both(|outcome| {
        outcome.shows("throttled\n");
    });
}

#[test]
fn cgroup_mount_is_read_only_unless_said_otherwise() {
    let script =
        "mkdir /sys/fs/cgroup/below && echo $$ >/sys/fs/cgroup/below/cgroup.procs && cat /proc/self/cgroup";
    Bundle::shell(script).on_both(|outcome| {
        outcome.exits(1);
        assert!(outcome.err().contains("Read-only file system"), "{outcome:?}");
    });
    let writable = json!({
        "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
        "options": ["nosuid", "noexec", "nodev", "relatime", "rw"],
    });
    for runtime in [Runtime::Crun, Runtime::Vmrun] {
        let bundle = Bundle::shell(script).set("/mounts/6", writable.clone());
        bundle.run_on(runtime).prints("0::/below\n");
    }
}
