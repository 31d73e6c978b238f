//! The machine below the container.

use std::fs;
use std::thread::available_parallelism;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;

use crate::support::{Bundle, Run, Scratch};

const CPUS: &str =
    "echo $(nproc) $(grep -c ^processor /proc/cpuinfo) $(ls -d /sys/devices/system/cpu/cpu[0-9]* | wc -l)";

#[test]
fn machine_has_as_many_cpus_as_asked() {
    for (count, expected) in [("1", "1 1 1\n"), ("2", "2 2 2\n")] {
        for bundle in Bundle::shells(CPUS) {
            Run::of(&bundle).options(&["--vcpus", count]).finish().prints(expected);
        }
    }
}

#[test]
fn cpus_come_from_quota_annotation_and_vm_section() {
    let bundle = Bundle::shell(CPUS);
    bundle.run().prints("1 1 1\n");
    let bundle = bundle.set("/linux/resources/cpu", json!({ "quota": 150_000, "period": 100_000 }));
    // One and a half, rounded up, and fitted to the host.
    let fitted = available_parallelism().unwrap().get().min(2);
    bundle.run().prints(&format!("{fitted} {fitted} {fitted}\n"));
    let bundle = bundle.set("/vm", json!({ "hwConfig": { "vcpus": 1 } }));
    bundle.run().prints("1 1 1\n");
    let bundle = bundle.set("/annotations", json!({ "dev.vmrun.vcpus": "2" }));
    bundle.run().prints("2 2 2\n");
    Run::of(&bundle).options(&["--vcpus", "1"]).finish().prints("1 1 1\n");
}

#[test]
fn both_cpus_run_programs() {
    let program = r"
import os, threading
def on(cpu):
    os.sched_setaffinity(0, {cpu})
    total = sum(range(100000))
    seen.append(int(open('/proc/thread-self/stat').read().rsplit(')')[1].split()[36]))
seen = []
threads = [threading.Thread(target=on, args=(cpu,)) for cpu in (0, 1)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(sorted(seen))
";
    let bundle = Bundle::python(program);
    Run::of(&bundle).options(&["--vcpus", "2"]).finish().prints("[0, 1]\n");
}

/// MemTotal in MiB.
fn memory(run: Run<'_>) -> u64 {
    let out = run.finish().ok();
    out.trim().parse::<u64>().unwrap() / 1024
}

#[test]
fn machine_has_as_much_memory_as_asked() {
    let bundle = Bundle::shell("awk '$1 == \"MemTotal:\" { print $2 }' /proc/meminfo");
    let close = |found: u64, asked: u64| {
        assert!(found <= asked && found + 24 + asked / 32 >= asked, "{found} MiB of {asked}");
    };
    close(memory(Run::of(&bundle)), 256);
    close(memory(Run::of(&bundle).options(&["--memory", "128"])), 128);
    close(memory(Run::of(&bundle).options(&["--memory", "4096"])), 4096);
    let bundle = bundle.set("/vm", json!({ "hwConfig": { "memory": 384 << 20 } }));
    close(memory(Run::of(&bundle)), 384);
    let bundle = bundle.set("/annotations", json!({ "dev.vmrun.memory": "512" }));
    close(memory(Run::of(&bundle)), 512);
}

#[test]
fn container_may_use_all_of_its_memory_limit() {
    let program = "x = bytearray(200 << 20); x[::4096] = b'x' * (len(x) // 4096); print(x.count(b'x'))";
    let limit = 256 << 20;
    let bundle =
        Bundle::python(program).set("/linux/resources/memory", json!({ "limit": limit, "swap": limit }));
    bundle.on_both(|outcome| {
        outcome.prints("51200\n");
    });
}

#[test]
fn kernel_is_the_guests() {
    let hosts = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    for bundle in Bundle::shells("uname -r") {
        let guests = bundle.run().ok();
        assert!(guests.starts_with("6.12."), "{guests}");
        assert_ne!(guests, hosts);
    }
}

#[test]
fn clock_is_the_hosts() {
    let bundle = Bundle::debian("date +%s.%N");
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    let before = now();
    let guests: f64 = bundle.run().ok().trim().parse().unwrap();
    let after = now();
    assert!(before - 1.0 < guests && guests < after + 1.0, "{before} {guests} {after}");
}

#[test]
fn random_bytes_differ_from_sandbox_to_sandbox() {
    let bundle = Bundle::shell("head -c 16 /dev/urandom | od -An -tx1; cat /proc/sys/kernel/random/boot_id");
    let (one, two) = (bundle.run().ok(), bundle.run().ok());
    assert_eq!((one.lines().count(), two.lines().count()), (2, 2), "{one}");
    for (one, two) in one.lines().zip(two.lines()) {
        assert_ne!(one, two);
    }
}

#[test]
fn eight_sandboxes_at_once() {
    let bundles: Vec<_> =
        (0..8).map(|index| Bundle::shell(&format!("echo {index}; cat; exit {index}"))).collect();
    // Each reads to an end that comes when all of them run.
    let mut waiting = Vec::new();
    for bundle in &bundles {
        let (reader, writer) = std::io::pipe().unwrap();
        waiting.push((Run::of(bundle).stdin(reader).start(), writer));
    }
    for (index, (started, _)) in waiting.iter().enumerate() {
        started.stdout.await_text(0, &format!("{index}\n"));
    }
    let (started, writers): (Vec<_>, Vec<_>) = waiting.into_iter().unzip();
    drop(writers);
    for (index, started) in started.into_iter().enumerate() {
        let outcome = started.finish();
        assert_eq!(outcome.out(), format!("{index}\n"), "{outcome:?}");
        outcome.exits(i32::try_from(index).unwrap());
    }
}

#[test]
fn bundle_boots_what_the_hosts_policy_allows() {
    let scratch = Scratch::new();
    let kernel = scratch.file("kernel", "not a kernel");
    let policy = scratch.file("policy.json", "");
    let allow = |text: &serde_json::Value| fs::write(&policy, text.to_string()).unwrap();
    let options = ["--policy", policy.to_str().unwrap()];
    let kernel_section = json!({ "kernel": { "path": kernel } });
    let bundle = Bundle::shell("true").set("/vm", kernel_section);
    allow(&json!({ "kernels": ["/boot"] }));
    let outcome = Run::of(&bundle).options(&options).finish();
    outcome.fails_with(1, &["cannot run", "vm.kernel.path", "does not allow", "; "]);
    allow(&json!({ "kernels": [scratch.path()] }));
    let outcome = Run::of(&bundle).options(&options).finish();
    outcome.fails_with(1, &["cannot run", "kernel", kernel.to_str().unwrap(), "; "]);
    allow(&json!({ "kernel": [] }));
    let outcome = Run::of(&bundle).options(&options).finish();
    outcome.fails_with(1, &["cannot run", "policy.json", "unknown field `kernel`", "; "]);
}
