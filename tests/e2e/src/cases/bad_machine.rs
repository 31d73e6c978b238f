//! Hosts and guests that do not work: one line that says so, and nothing left.

use std::fs;
use std::process::Command;

use crate::support::{Bundle, Crime, Outcome, Run, Scratch, end_of, place, rogue_kernel};

/// `vmrun run` in a mount namespace of its own, after these commands of a shell.
fn run_after(preparation: &str) -> Outcome {
    let bundle = Bundle::shell("echo ran");
    let inner = Run::of(&bundle).command();
    let scratch = Scratch::new();
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-ec", &format!("scratch=$1; shift; {preparation}; exec \"$@\"")])
        .arg("sh");
    command.arg(scratch.path()).arg(inner.get_program()).args(inner.get_args());
    end_of(&mut command)
}

/// A `/dev` of its own with nothing but what every program needs.
const OWN_DEV: &str =
    "mount -t tmpfs tmpfs /dev; mknod -m 666 /dev/null c 1 3; mknod -m 666 /dev/urandom c 1 9";

#[test]
fn kvm_that_is_missing_is_named() {
    run_after(OWN_DEV).fails_with(1, &["cannot run", "/dev/kvm", "No such file or directory", "; "]);
}

#[test]
fn kvm_that_is_forbidden_is_named() {
    // Even root may not open a device on a file system without devices.
    let outcome = run_after(
        "mount -t tmpfs -o nodev tmpfs $scratch; mknod $scratch/kvm c 10 232; mount --bind $scratch/kvm /dev/kvm",
    );
    outcome.fails_with(1, &["cannot run", "/dev/kvm", "ermission denied", "; "]);
}

#[test]
fn kvm_that_is_something_else_is_named() {
    run_after("mount --bind /dev/null /dev/kvm").fails_with(1, &["cannot run", "/dev/kvm", "; "]);
    run_after("touch $scratch/file; mount --bind $scratch/file /dev/kvm")
        .fails_with(1, &["cannot run", "/dev/kvm", "; "]);
}

#[test]
fn check_tells_the_same_in_a_second() {
    for (preparation, part) in [(OWN_DEV, "/dev/kvm"), ("mount --bind /dev/null /dev/kvm", "/dev/kvm")] {
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-ec", &format!("{preparation}; exec \"$@\""), "sh"]);
        command.arg(&place().vmrun).arg("check");
        let outcome = end_of(&mut command);
        outcome.exits(1);
        let said = outcome.out() + &outcome.err();
        assert!(said.contains(part) && said.contains("; ") && said.lines().count() == 1, "{outcome:?}");
    }
    // One of several is enough: others may have the CPU meanwhile, here and on the host of an
    // emulated one. Waiting shows by the clock, work by the CPU.
    let mut took = Vec::new();
    while !took.last().is_some_and(|(elapsed, used)| *elapsed < 5.0 && *used < 2.0) {
        assert!(took.len() < 5, "seconds by the clock and of CPU: {took:?}");
        took.push(time_of_check());
    }
}

/// Seconds that `vmrun check` takes where all is well: by the clock, and of CPU.
fn time_of_check() -> (f64, f64) {
    let mut command = Command::new("bash");
    command.args(["-c", "TIMEFORMAT='%R %U %S'; time \"$@\"", "bash"]).arg(&place().vmrun);
    let outcome = end_of(command.args(["check", "--json"]));
    outcome.exits(0);
    let figures: Vec<f64> = outcome.err().split_whitespace().map(|figure| figure.parse().unwrap()).collect();
    let [elapsed, user, system] = figures[..] else { panic!("{outcome:?}") };
    (elapsed, user + system)
}

#[test]
fn kernel_file_that_is_none_is_named() {
    let scratch = Scratch::new();
    let real = fs::read(&place().vmrun).unwrap();
    // An ELF file, but of a program; the beginning of one; the magic number alone.
    let other = place().vmrun.clone();
    let cut = scratch.file("cut", &real[..100_000]);
    let magic = scratch.file("magic", b"\x7fELF");
    let empty = scratch.file("empty", b"");
    for path in [other, cut, magic, empty] {
        let bundle = Bundle::shell("echo ran");
        let outcome = Run::of(&bundle).option("--kernel").option(&path).finish();
        outcome.fails_with(1, &["cannot run", "kernel", path.to_str().unwrap(), "; "]);
    }
}

#[test]
fn kernel_that_panics_shows_its_last_words() {
    let scratch = Scratch::new();
    let garbage = scratch.file("garbage", vec![0xa5; 100_000]);
    let bundle = Bundle::shell("echo ran");
    let outcomes = [
        Run::of(&bundle).option("--initramfs").option(&garbage).finish(),
        Run::of(&bundle)
            .options(&["--kernel-param", "rdinit=/nonexistent", "--kernel-param", "init=/nonexistent"])
            .finish(),
    ];
    for outcome in outcomes {
        outcome.fails_with(1, &["cannot run", "boot", "panic", "; "]);
        let err = outcome.err();
        assert!(
            err.lines().any(|line| line.starts_with("  | ") && line.contains("Kernel panic")),
            "{outcome:?}"
        );
    }
}

#[test]
fn device_whose_rules_the_guest_breaks_ends_the_machine_with_its_reason() {
    let scratch = Scratch::new();
    // In the order of the machine's devices.
    for (device, queues, crime, says) in [
        (0, 3, Crime::ShortBuffer, "virtio-vsock: the guest sent a vsock packet without a header"),
        (1, 1, Crime::QueueNowhere, "virtio-rng: the guest sent a queue that is not valid"),
        (1, 1, Crime::TooManyBuffers, "virtio-rng: the guest's virtqueue is broken"),
        (2, 2, Crime::TooManyBuffers, "virtio-fs: the guest's virtqueue is broken"),
        (2, 2, Crime::ShortBuffer, "virtio-fs: the guest sent a file system request without a header"),
    ] {
        let kernel = scratch.file("kernel", rogue_kernel(device, queues, crime));
        let log = scratch.join("log");
        let bundle = Bundle::shell("echo ran");
        let outcome =
            Run::of(&bundle).option("--kernel").option(&kernel).option("--log").option(&log).finish();
        outcome.fails_with(1, &["cannot run", "booting the guest", "device", says, "; "]);
        assert!(outcome.err().contains(&format!("  | vmrun: {says}")), "{outcome:?}");
        assert!(fs::read_to_string(&log).unwrap().contains(says));
        fs::remove_file(&log).unwrap();
    }
}

#[test]
fn memory_that_is_too_small_is_refused_or_enough() {
    let bundle = Bundle::shell("echo ran");
    let mut refused = 0;
    for memory in ["1", "8", "16", "32", "48", "64"] {
        let outcome = Run::of(&bundle).options(&["--memory", memory]).finish();
        if outcome.status.code() == Some(0) {
            outcome.prints("ran\n");
        } else {
            refused += 1;
            outcome.fails_with(1, &["cannot run", "--memory", memory]);
        }
    }
    assert!((1..6).contains(&refused), "{refused} of 6 were refused");
}

#[test]
fn memory_that_the_host_has_not_is_refused_or_not_touched() {
    let bundle = Bundle::shell("echo ran");
    let outcome = Run::of(&bundle).options(&["--memory", "100000000"]).finish();
    outcome.fails_with(1, &["cannot run", "memory", "; "]);
}
