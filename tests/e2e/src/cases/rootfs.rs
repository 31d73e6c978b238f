//! The root file system and what is hidden in it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use serde_json::json;

use crate::support::{BOTH, Bundle, Mounted, Scratch, place};

/// Every file below a directory with what a container could change about it.
fn inventory(directory: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap().flatten() {
        let path = entry.path();
        let data = path.symlink_metadata().unwrap();
        let shown =
            format!("{:o} {}:{} {} {}", data.mode(), data.uid(), data.gid(), data.size(), data.mtime_nsec());
        found.insert(path.display().to_string(), shown);
        if data.is_dir() {
            found.extend(inventory(&path));
        }
    }
    found
}

#[test]
fn run_leaves_the_root_file_system_as_it_was() {
    let bundle = Bundle::shell("ls /dev /proc /sys /tmp >/dev/null");
    let before = inventory(bundle.path());
    bundle.run().prints("");
    assert_eq!(inventory(bundle.path()), before);
}

#[test]
fn run_without_a_mount_at_dev_leaves_no_device_nodes() {
    let bundle = Bundle::shell("echo works >/dev/null && echo done").set("/mounts", json!([]));
    bundle.run().prints("done\n");
    assert_eq!(fs::read_dir(bundle.rootfs().join("dev")).unwrap().count(), 0);
}

#[test]
fn writes_reach_the_host_and_stay() {
    let bundle = Bundle::shell("cat /etc/note 2>/dev/null; echo seen >/etc/note");
    for (index, runtime) in BOTH.into_iter().enumerate() {
        bundle.run_on(runtime).prints(if index == 0 { "" } else { "seen\n" });
        assert_eq!(fs::read_to_string(bundle.rootfs().join("etc/note")).unwrap(), "seen\n");
    }
}

#[test]
fn read_only_root_refuses_writes_but_tmpfs_takes_them() {
    let bundle = Bundle::shell("echo a >/tmp/file && cat /tmp/file; echo b >/file")
        .set("/root/readonly", json!(true))
        .mount(json!({ "destination": "/tmp", "type": "tmpfs", "source": "tmpfs" }));
    bundle.on_both(|outcome| {
        outcome.exits(1);
        assert_eq!(outcome.out(), "a\n", "{outcome:?}");
        assert!(outcome.err().contains("Read-only file system"), "{outcome:?}");
    });
    assert!(!bundle.rootfs().join("file").exists());
}

#[test]
fn masked_files_are_empty_and_masked_directories_too() {
    let script =
        "wc -c </etc/passwd; ls -A /home; wc -c </proc/timer_list; ls -A /sys/firmware; echo x >/home/new";
    let bundle = Bundle::shell(script)
        .push("/linux/maskedPaths", json!("/etc/passwd"))
        .push("/linux/maskedPaths", json!("/home"))
        .push("/linux/maskedPaths", json!("/does/not/exist"));
    fs::write(bundle.rootfs().join("home/file"), "").unwrap();
    bundle.on_both(|outcome| {
        assert_eq!(outcome.out(), "0\n0\n", "{outcome:?}");
        assert!(outcome.err().contains("Read-only file system"), "{outcome:?}");
        outcome.exits(1);
    });
}

#[test]
fn read_only_paths_refuse_writes() {
    let script =
        "echo x >/proc/sys/kernel/hostname; echo x >>/etc/passwd; touch /home/x; cat /etc/hosts; exit 0";
    let bundle = Bundle::shell(script)
        .capabilities(&["CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE"])
        .push("/linux/readonlyPaths", json!("/etc/passwd"))
        .push("/linux/readonlyPaths", json!("/home"))
        .push("/linux/readonlyPaths", json!("/does/not/exist"));
    bundle.on_both(|outcome| {
        outcome.shows("localhost").exits(0);
        assert_eq!(outcome.err().matches("Read-only file system").count(), 3, "{outcome:?}");
    });
}

#[test]
fn root_may_be_a_symbolic_link() {
    let scratch = Scratch::new();
    let link = scratch.join("link");
    symlink(&place().busybox, &link).unwrap();
    Bundle::with_root(&link).set("/root/readonly", json!(true)).args(&["echo", "here"]).on_both(|outcome| {
        outcome.prints("here\n");
    });
}

#[test]
fn root_may_be_an_overlay() {
    let scratch = Scratch::new();
    let (upper, work) = (scratch.directory("upper"), scratch.directory("work"));
    let bundle = Bundle::with_root(Path::new("rootfs")).args(&[
        "sh",
        "-c",
        "echo changed >>/etc/hostname && rm /etc/issue && mkdir /new && python3 -c 'print(1+1)'",
    ]);
    let lower = place().debian.display();
    let options = format!("lowerdir={lower},upperdir={},workdir={}", upper.display(), work.display());
    for runtime in BOTH {
        {
            let _root = Mounted::new(&["-t", "overlay", "-o", &options, "overlay"], &bundle.rootfs());
            bundle.run_on(runtime).prints("2\n");
        }
        assert!(fs::read_to_string(upper.join("etc/hostname")).unwrap().ends_with("changed\n"));
        assert!(upper.join("etc/issue").symlink_metadata().is_ok(), "a whiteout stands for what was removed");
        assert!(upper.join("new").is_dir());
        for directory in ["upper", "work"] {
            fs::remove_dir_all(scratch.join(directory)).unwrap();
            scratch.directory(directory);
        }
    }
    assert!(place().debian.join("etc/issue").exists());
}

#[test]
fn file_systems_of_the_kernel_are_mounted() {
    let script = "for at in /proc /dev /dev/pts /dev/shm /dev/mqueue /sys /sys/fs/cgroup; do
        awk -v at=$at '$2 == at { print $2, $3 }' /proc/mounts; done";
    let bundle = Bundle::shell(script);
    bundle.on_both(|outcome| {
        outcome.prints(
            "/proc proc\n/dev tmpfs\n/dev/pts devpts\n/dev/shm tmpfs\n/dev/mqueue mqueue\n/sys sysfs\n\
             /sys/fs/cgroup cgroup2\n",
        );
    });
}
