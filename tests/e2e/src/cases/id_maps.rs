//! Volumes that show other owners than their file system stores.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::support::{BOTH, Bundle, Mounted, Run, Scratch, end_of};

/// A file system of the kind that can have mapped owners: the kernel's tmpfs may be too old for it.
#[derive(Debug)]
struct Disk {
    mounted: Mounted,
    _image: PathBuf,
}

impl Disk {
    /// One of 16 MiB, whose root belongs to `owner`, mounted at `name` in `scratch`.
    fn new(scratch: &Scratch, name: &str, owner: u32) -> Self {
        let image = scratch.join(&format!("{}.image", name.replace('/', "-")));
        fs::File::create(&image).unwrap().set_len(16 << 20).unwrap();
        for command in [["modprobe", "loop", ""], ["mkfs.ext4", "-q", image.to_str().unwrap()]] {
            let words = command[1..].iter().filter(|word| !word.is_empty());
            assert!(Command::new(command[0]).args(words).status().unwrap().success(), "{command:?}");
        }
        let words = ["-t", "ext4", "-o", "loop", image.to_str().unwrap()];
        let mounted = Mounted::new(&words, &scratch.join(name));
        chown(mounted.path(), Some(owner), Some(owner)).unwrap();
        Self { mounted, _image: image }
    }

    fn path(&self) -> &Path {
        self.mounted.path()
    }

    /// A file of this user and group.
    fn file(&self, name: &str, owner: u32) {
        fs::write(self.path().join(name), name).unwrap();
        chown(self.path().join(name), Some(owner), Some(owner)).unwrap();
    }

    /// Who owns it on the disk.
    #[track_caller]
    fn owner(&self, name: &str) -> (u32, u32) {
        let file = self.path().join(name).metadata().unwrap();
        (file.uid(), file.gid())
    }
}

fn mapping(stored: u32, seen: u32, count: u32) -> Value {
    json!([{ "containerID": stored, "hostID": seen, "size": count }])
}

/// A bind mount with a mapping of its own for users and groups.
fn mapped(source: &Path, options: &[&str], mapping: &Value) -> Value {
    json!({
        "destination": "/data", "type": "bind", "source": source, "options": options,
        "uidMappings": mapping, "gidMappings": mapping,
    })
}

/// A container in a user namespace whose root is user and group 100000 outside.
fn in_user_namespace(script: &str) -> Bundle {
    let bundle = Bundle::shell(script)
        .push("/linux/namespaces", json!({ "type": "user" }))
        .set("/linux/uidMappings", mapping(0, 100_000, 1000))
        .set("/linux/gidMappings", mapping(0, 100_000, 1000));
    // Root in the namespace is nobody who could make it.
    fs::create_dir(bundle.rootfs().join("data")).unwrap();
    bundle
}

#[test]
fn mapping_of_a_mount_changes_the_owners_that_are_seen_and_stored() {
    let script = "stat -c %u:%g /data /data/theirs /data/others; echo x >/data/made; stat -c %u:%g /data/made; \
        mkdir /data/directory; ln -s x /data/link; touch /data/given && chown 1:1 /data/given; \
        stat -c %u:%g /data/given; chown 77:77 /data/given 2>/dev/null || echo refused; cat /data/others";
    for runtime in BOTH {
        let scratch = Scratch::new();
        let disk = Disk::new(&scratch, "disk", 1000);
        disk.file("theirs", 1001);
        disk.file("others", 5);
        let mount = mapped(disk.path(), &["rbind", "idmap"], &mapping(1000, 0, 10));
        let bundle = Bundle::shell(script).capabilities(&["CAP_CHOWN", "CAP_FOWNER"]).mount(mount);
        bundle.run_on(runtime).prints("0:0\n1:1\n65534:65534\n0:0\n1:1\nrefused\nothers");
        for (name, owner) in [("made", 1000), ("directory", 1000), ("given", 1001), ("others", 5)] {
            assert_eq!(disk.owner(name), (owner, owner), "{name} on {runtime:?}");
        }
        let link = fs::symlink_metadata(disk.path().join("link")).unwrap();
        assert_eq!((link.uid(), link.gid()), (1000, 1000), "{runtime:?}");
    }
}

#[test]
fn option_without_a_mapping_takes_the_containers() {
    let script = "stat -c %u:%g /data /data/theirs; echo x >/data/made; stat -c %u:%g /data/made";
    for (user, option, owner) in [(0, "idmap", 0), (7, "ridmap", 7)] {
        for runtime in BOTH {
            // Debian 12's crun knows the plain one only.
            let option = if runtime == BOTH[0] { "idmap" } else { option };
            let scratch = Scratch::new();
            let disk = Disk::new(&scratch, "disk", owner);
            disk.file("theirs", 999);
            let bundle = in_user_namespace(script)
                .set("/process/user", json!({ "uid": user, "gid": user }))
                .mount(json!({ "destination": "/data", "type": "bind", "source": disk.path(), "options": ["rbind", option] }));
            bundle.run_on(runtime).prints(&format!("{user}:{user}\n999:999\n{user}:{user}\n"));
            assert_eq!(disk.owner("made"), (owner, owner), "{runtime:?}");
        }
    }
}

#[test]
fn mapping_holds_for_what_is_mounted_below_only_when_it_is_recursive() {
    for (option, below) in [("idmap", "3:3"), ("ridmap", "13:13")] {
        let scratch = Scratch::new();
        let disk = Disk::new(&scratch, "disk", 0);
        let deep = Disk::new(&scratch, "disk/below", 0);
        disk.file("top", 3);
        deep.file("file", 3);
        let mount = mapped(disk.path(), &["rbind", option, "ro"], &mapping(0, 10, 100));
        let script = "stat -c %u:%g /data/top /data/below/file; touch /data/x 2>/dev/null || echo read-only";
        Bundle::shell(script).mount(mount).run().prints(&format!("13:13\n{below}\nread-only\n"));
    }
}

#[test]
fn mapping_of_one_file_and_without_the_option_holds() {
    let scratch = Scratch::new();
    let disk = Disk::new(&scratch, "disk", 0);
    disk.file("file", 1000);
    let mut mount = mapped(&disk.path().join("file"), &["bind"], &mapping(1000, 0, 1));
    mount["destination"] = json!("/etc/one");
    let bundle = Bundle::shell("stat -c %u:%g /etc/one; echo more >>/etc/one").mount(mount);
    bundle.run().prints("0:0\n");
    assert_eq!(fs::read_to_string(disk.path().join("file")).unwrap(), "filemore\n");
    assert_eq!(disk.owner("file"), (1000, 1000));
}

#[test]
fn file_system_without_mapped_owners_is_named() {
    let scratch = Scratch::new();
    // No kernel maps owners there.
    let sysfs = Mounted::new(&["-t", "sysfs", "sysfs"], &scratch.join("sysfs"));
    let bundle =
        Bundle::shell("echo ran").mount(mapped(sysfs.path(), &["rbind", "idmap"], &mapping(0, 1, 1)));
    let source = sysfs.path().to_str().unwrap();
    bundle.run().fails_with(1, &["cannot run", "mounts[7]", source, "other owners", "file system", "; "]);
}

#[test]
fn mapping_is_refused_without_root() {
    let scratch = Scratch::new();
    let bundle = Bundle::shell("echo ran").mount(mapped(scratch.path(), &["bind"], &mapping(0, 1, 1)));
    let inner = Run::of(&bundle).store(Path::new("/tmp/none")).command();
    let mut command = Command::new("setpriv");
    command.args(["--reuid=1000", "--regid=1000", "--clear-groups"]);
    command.arg(inner.get_program()).args(inner.get_args());
    end_of(&mut command).fails_with(1, &["cannot run", "mounts[7].uidMappings", "only root", "; "]);
}

/// It may mount no hierarchy there. The root of them all has no limit.
#[test]
fn user_namespace_without_one_for_cgroups_sees_its_own_cgroup_and_no_others() {
    let namespaces = ["pid", "network", "ipc", "uts", "mount", "user"].map(|kind| json!({ "type": kind }));
    let bundle =
        in_user_namespace("ls /sys/fs/cgroup/memory.max").set("/linux/namespaces", json!(namespaces));
    bundle.run().prints("/sys/fs/cgroup/memory.max\n");
}
