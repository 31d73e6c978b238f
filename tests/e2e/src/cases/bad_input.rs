//! Bundles and options that are wrong: one line that says so, and nothing left.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::{Bundle, Mounted, Run, Scratch, end_of, new_id, vmrun};

/// `vmrun run` of a directory that need not be a bundle.
fn run_directory(directory: &Path) -> crate::support::Outcome {
    let id = new_id();
    let outcome = vmrun(&[], &["run", "--bundle", directory.to_str().unwrap(), &id]);
    assert!(!Path::new("/run/vmrun").join(&id).exists(), "{outcome:?}");
    outcome
}

#[test]
fn bundle_that_is_missing_is_named() {
    let scratch = Scratch::new();
    let missing = scratch.join("none");
    run_directory(&missing).fails_with(
        1,
        &["cannot run", "bundle", missing.to_str().unwrap(), "No such file or directory", "; ", "--bundle"],
    );
    let file = scratch.file("file", "");
    run_directory(&file)
        .fails_with(1, &["cannot run", "bundle", file.to_str().unwrap(), "ot a directory", "; "]);
}

#[test]
fn bundle_without_configuration_is_named() {
    let scratch = Scratch::new();
    let path = scratch.join("config.json");
    run_directory(scratch.path())
        .fails_with(1, &["cannot run", path.to_str().unwrap(), "No such file", "; "]);
}

#[test]
fn malformed_configuration_is_located() {
    for (text, place) in [
        ("", ":1:0: "),
        ("{\n  \"ociVersion\": \"1.0.2\",\n}", ":3:1: "),
        (
            "{\n  \"ociVersion\": \"1.0.2\",\n  \"process\": { \"args\": \"true\" }\n}",
            ":3:29: process.args: ",
        ),
        ("not json", ":1:2: "),
        ("{\"ociVersion\":\"1.0.2\",\"root\":{\"path\":true}}", ":1:41: root.path: "),
    ] {
        let scratch = Scratch::new();
        let path = scratch.file("config.json", text);
        let located = format!("{}{place}", path.display());
        run_directory(scratch.path()).fails_with(1, &["cannot run", &located, "; correct config.json"]);
    }
}

#[test]
fn configuration_that_contradicts_itself_is_refused_by_field() {
    let table: &[(&str, Value, &[&str])] = &[
        ("/process/args", json!([]), &["process.args"]),
        ("/process/args", json!([""]), &["process.args"]),
        ("/process/args", Value::Null, &["process.args"]),
        ("/process", Value::Null, &["process"]),
        ("/process/cwd", json!("relative"), &["process.cwd", "relative"]),
        ("/process/env", json!(["=value"]), &["process.env[0]"]),
        ("/ociVersion", json!("2.0.0"), &["ociVersion", "2.0.0"]),
        (
            "/linux/namespaces",
            json!([{ "type": "uts" }, { "type": "uts" }]),
            &["linux.namespaces[1]", "twice"],
        ),
        ("/linux/namespaces", json!([{ "type": "mount" }]), &["hostname", "uts namespace"]),
        ("/linux/namespaces/0/path", json!("/proc/1/ns/pid"), &["linux.namespaces[0].path", "not supported"]),
        ("/linux/uidMappings", json!([{ "containerID": 0, "hostID": 1, "size": 1 }]), &["linux.uidMappings"]),
        ("/mounts/0/destination", json!(""), &["mounts[0].destination", "empty"]),
        ("/mounts/0", json!({ "destination": "/x", "type": "bind" }), &["mounts[0].source", "missing"]),
        (
            "/mounts/0",
            json!({ "destination": "/x", "type": "bind", "source": "/no/such/source" }),
            &["mounts[0].source", "/no/such/source", "no such file"],
        ),
        ("/process/apparmorProfile", json!("strict"), &["process.apparmorProfile", "not supported"]),
        ("/process/selinuxLabel", json!("a:b:c:d"), &["process.selinuxLabel", "not supported"]),
        ("/process/user/username", json!("root"), &["process.user.username", "not supported", "Windows"]),
        (
            "/linux/resources/memory",
            json!({ "swappiness": 10 }),
            &["linux.resources.memory.swappiness", "not supported", "60"],
        ),
        (
            "/linux/resources/memory",
            json!({ "useHierarchy": false }),
            &["linux.resources.memory.useHierarchy", "not supported"],
        ),
        (
            "/mounts/0",
            json!({ "destination": "/x", "type": "bind", "source": "/usr", "options": ["bind", "size=1m"] }),
            &["mounts[0].options: size=1m", "bind mount"],
        ),
        (
            "/vm",
            json!({ "kernel": { "path": "/boot/vmlinuz" } }),
            &["vm.kernel.path", "does not allow /boot/vmlinuz", "policy.json"],
        ),
        ("/vm", json!({ "kernel": { "path": "vmlinuz" } }), &["vm.kernel.path", "absolute"]),
        ("/annotations", json!({ "dev.vmrun.unknown": "1" }), &["dev.vmrun.unknown"]),
        ("/annotations", json!({ "dev.vmrun.vcpus": "many" }), &["dev.vmrun.vcpus", "many"]),
        (
            "/annotations",
            json!({ "dev.vmrun.network.rx-rate": "fast" }),
            &["dev.vmrun.network.rx-rate", "\"fast\" is not a valid rate", "10MiB/s,5000pps"],
        ),
        (
            "/annotations",
            json!({ "dev.vmrun.network.tx-rate": "0" }),
            &["tx-rate", "nothing would ever pass"],
        ),
        (
            "/annotations",
            json!({ "dev.vmrun.network.rate": "1" }),
            &["dev.vmrun.network.rate", "is not known"],
        ),
        ("/hooks", json!({ "prestart": [{ "path": "relative" }] }), &["hooks.prestart[0].path"]),
        (
            "/linux/namespaces",
            json!([{ "type": "user" }, { "type": "mount" }, { "type": "network" }, { "type": "uts" }]),
            &["linux.uidMappings", "missing"],
        ),
        (
            "/mounts/0",
            json!({ "destination": "/o", "type": "overlay", "options": ["lowerdir=/a:/b"] }),
            &["mounts[0].options: lowerdir=/a:/b", "not supported", "bind"],
        ),
        (
            "/mounts/0",
            json!({ "destination": "/o", "type": "nfs", "source": "s:/x" }),
            &["mounts[0].type: nfs", "bind"],
        ),
        ("/hostname", json!("h".repeat(65)), &["hostname", "64"]),
        ("/hostname", json!("a\0b"), &["hostname", "NUL"]),
        (
            "/linux/devices",
            json!([{ "path": "/x", "type": "c", "major": 1, "minor": 3 }]),
            &["linux.devices[0].path", "/dev"],
        ),
        (
            "/process/rlimits",
            json!([{ "type": "RLIMIT_CORE", "soft": 2, "hard": 1 }]),
            &["process.rlimits[0].soft", "hard limit"],
        ),
    ];
    for (pointer, value, parts) in table {
        let bundle = Bundle::shell("true").set(pointer, value.clone());
        let parts: Vec<_> = ["cannot run", "config.json"].iter().chain(*parts).copied().collect();
        let outcome = bundle.run();
        outcome.fails_with(1, &parts);
    }
}

/// Rust's words for a value.
const RUSTS: &[&str] = &["Some(", "Nix(", "Os {", "Mount {", "Pid(", "WrappedIo", "os error", "ENO", "EINV"];

#[test]
fn what_the_guest_refuses_is_told_by_field_and_in_words() {
    let table: &[(&str, Value, &[&str])] = &[
        (
            "/mounts/-",
            json!({ "destination": "/o", "type": "tmpfs", "source": "t", "options": ["size=banana"] }),
            &["mounts[7]: cannot mount tmpfs at /o with the options size=banana", "Invalid argument"],
        ),
        ("/process/cwd", json!("/etc/passwd"), &["process.cwd \"/etc/passwd\"", "Not a directory"]),
        ("/linux/sysctl", json!({ "net.ipv4.nosuch": "1" }), &["linux.sysctl[\"net.ipv4.nosuch\"]"]),
        (
            "/linux/resources/cpu",
            json!({ "quota": 1, "period": 100_000 }),
            &["linux.resources: ", "cpu.max", "Invalid argument"],
        ),
    ];
    for (pointer, value, parts) in table {
        let bundle = Bundle::shell("true");
        let bundle = match pointer.strip_suffix("/-") {
            Some(list) => bundle.push(list, value.clone()),
            None => bundle.set(pointer, value.clone()),
        };
        let outcome = bundle.run();
        let parts: Vec<_> = ["cannot run"].iter().chain(*parts).chain(&["; "]).copied().collect();
        outcome.fails_with(1, &parts);
        let rusts: Vec<_> = RUSTS.iter().filter(|word| outcome.err().contains(**word)).collect();
        assert!(rusts.is_empty(), "{rusts:?} in {outcome:?}");
    }
}

#[test]
fn time_that_cannot_be_offset_so_far_ends_the_container_at_once() {
    let namespaces = ["pid", "ipc", "uts", "mount", "network", "time"].map(|kind| json!({ "type": kind }));
    let bundle = Bundle::shell("true")
        .set("/linux/namespaces", json!(namespaces))
        .set("/linux/timeOffsets", json!({ "boottime": { "secs": -99_999_999 } }));
    bundle.run().fails_with(1, &["cannot run", "linux.timeOffsets", "; "]);
}

#[test]
fn root_file_system_that_is_missing_is_named() {
    let scratch = Scratch::new();
    let missing = scratch.join("none");
    let parts =
        ["cannot run", "rootfs", missing.to_str().unwrap(), "No such file or directory", "; ", "root.path"];
    Bundle::with_root(&missing).run().fails_with(1, &parts);
    let file = scratch.file("file", "");
    Bundle::with_root(&file)
        .run()
        .fails_with(1, &["cannot run", file.to_str().unwrap(), "not a directory", "; "]);
    Bundle::shell("").remove("/root").run().fails_with(1, &["cannot run", "config.json", "root"]);
}

#[test]
fn root_file_system_that_is_empty_has_no_program() {
    let scratch = Scratch::new();
    Bundle::with_root(scratch.path())
        .args(&["/bin/true"])
        .run()
        .fails_with(127, &["cannot run", "/bin/true"]);
}

#[test]
fn program_that_is_missing_exits_127_and_is_named() {
    for (args, part) in [(["/no/such/program"], "/no/such/program"), (["nosuch"], "nosuch")] {
        for bundle in Bundle::shells("") {
            bundle.args(&args).run().fails_with(127, &["cannot run", part, "; "]);
        }
    }
}

#[test]
fn program_that_cannot_be_executed_exits_126_and_is_named() {
    let bundle = Bundle::shell("");
    let root = bundle.rootfs();
    fs::write(root.join("garbage"), "\x7fELF but no more").unwrap();
    fs::write(root.join("script"), "#!/no/interpreter\n").unwrap();
    for name in ["garbage", "script"] {
        fs::set_permissions(root.join(name), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    let bundle = bundle.args(&["/etc/passwd"]);
    bundle.run().fails_with(126, &["cannot run", "/etc/passwd", "ermission denied", "; "]);
    let bundle = bundle.args(&["/etc"]);
    bundle.run().fails_with(126, &["cannot run", "/etc", "; "]);
    let bundle = bundle.args(&["/garbage"]);
    bundle.run().fails_with(126, &["cannot run", "/garbage", "; "]);
    let bundle = bundle.args(&["/script"]);
    bundle.run().fails_with(127, &["cannot run", "/script", "; "]);
}

#[test]
fn id_that_is_no_name_is_refused() {
    let bundle = Bundle::shell("true");
    for id in ["a/b", "..", ".", "", "../up", "a b", "grüße", "a\nb", "/run/x"] {
        let outcome = Run::of(&bundle).id(id).command().output().unwrap();
        let err = String::from_utf8_lossy(&outcome.stderr);
        assert_eq!(outcome.status.code(), Some(1), "{id:?}: {err}");
        assert!(
            err.starts_with("vmrun: error: cannot run") && err.contains("id") && err.contains("; "),
            "{id:?}: {err}"
        );
        assert_eq!(err.lines().count(), 1, "{id:?}: {err}");
    }
    let long = "x".repeat(300);
    let outcome = Run::of(&bundle).id(&long).command().output().unwrap();
    assert_eq!(outcome.status.code(), Some(1));
}

#[test]
fn id_that_is_in_use_is_refused_and_the_first_goes_on() {
    let bundle = Bundle::shell("echo ready; cat; exit 5");
    let (reader, writer) = std::io::pipe().unwrap();
    let first = Run::of(&bundle).stdin(reader).start();
    first.stdout.await_text(0, "ready\n");
    let second = Run::of(&bundle).id(&first.id).command();
    let mut second = second;
    let outcome = end_of(&mut second);
    outcome.fails_with(1, &["cannot run", &first.id, "exists", "; "]);
    drop(writer);
    first.finish().exits(5);
}

#[test]
fn options_that_are_wrong_are_refused() {
    let bundle = Bundle::shell("true");
    let table: &[(&[&str], &[&str])] = &[
        (&["--vcpus", "0"], &["--vcpus", "0"]),
        (&["--vcpus", "1000"], &["--vcpus", "1000"]),
        (&["--memory", "1"], &["--memory", "1 MiB"]),
        (&["--kernel", "/no/kernel"], &["/no/kernel", "No such file", "; "]),
        (&["--initramfs", "/no/initramfs"], &["/no/initramfs", "No such file", "; "]),
        (&["--assets", "/no/assets"], &["/no/assets", "No such file", "; "]),
        (&["--kernel", "/etc/passwd"], &["kernel", "/etc/passwd", "; "]),
        (&["--kernel", "/etc"], &["kernel", "/etc", "; "]),
        (&["--kernel", "/dev/null"], &["kernel", "/dev/null", "; "]),
    ];
    for (options, parts) in table {
        let parts: Vec<_> = ["cannot run"].iter().chain(*parts).copied().collect();
        Run::of(&bundle).options(options).finish().fails_with(1, &parts);
    }
}

#[test]
fn store_that_cannot_be_written_is_named() {
    let bundle = Bundle::shell("true");
    let scratch = Scratch::new();
    let file = scratch.file("file", "");
    Run::of(&bundle).store(&file).finish().fails_with(1, &["cannot run", file.to_str().unwrap(), "; "]);
    let sealed = Mounted::new(&["-t", "tmpfs", "-o", "ro", "tmpfs"], &scratch.join("sealed"));
    let store = sealed.path().join("store");
    let outcome = Run::of(&bundle).store(&store).finish();
    outcome.fails_with(1, &["cannot run", store.to_str().unwrap(), "Read-only file system", "; "]);
}

#[test]
fn disk_that_is_full_is_told_and_nothing_is_left() {
    let scratch = Scratch::new();
    for options in ["size=4k", "nr_inodes=3", "nr_inodes=4", "nr_inodes=5", "size=8k", "size=12k"] {
        let small = Mounted::new(&["-t", "tmpfs", "-o", options, "tmpfs"], &scratch.join("small"));
        let bundle = Bundle::shell("echo ran");
        let outcome = Run::of(&bundle).store(small.path()).finish();
        // Where it is enough, it is.
        if outcome.status.code() != Some(0) {
            outcome.fails_with(
                1,
                &["cannot run", small.path().to_str().unwrap(), "No space left on device", "; "],
            );
        }
        let left: Vec<_> = fs::read_dir(small.path()).unwrap().flatten().map(|entry| entry.path()).collect();
        assert!(left.is_empty(), "{options}: {left:?}");
    }
    let small = Mounted::new(&["-t", "tmpfs", "-o", "nr_inodes=2", "tmpfs"], &scratch.join("none"));
    let bundle = Bundle::shell("echo ran");
    fs::write(small.path().join("last"), "").unwrap();
    let outcome = Run::of(&bundle).store(small.path()).finish();
    outcome.fails_with(1, &["cannot run", small.path().to_str().unwrap(), "No space left on device"]);
}

#[test]
fn debug_shows_the_causes_one_a_line() {
    let scratch = Scratch::new();
    let missing = scratch.join("none");
    let outcome = vmrun(&["--debug"], &["run", "--bundle", missing.to_str().unwrap(), &new_id()]);
    outcome.exits(1);
    assert!(outcome.err().contains("\n  caused by: "), "{outcome:?}");
}
