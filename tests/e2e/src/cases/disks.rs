//! Disks: images and block devices of the host's, mounted in the guest or as devices of the container.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::support::{Bundle, Mounted, Run, Scratch, place, wait};

fn succeeds(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// An ext4 image of so many MiB, with the files of `directory` if there is one.
fn ext4(scratch: &Scratch, mib: u64, directory: Option<&Path>) -> PathBuf {
    let image = scratch.join("disk.img");
    File::create(&image).unwrap().set_len(mib << 20).unwrap();
    let mut make = Command::new("mkfs.ext4");
    make.arg("-qF").args(directory.map(|directory| [Path::new("-d"), directory]).into_iter().flatten());
    succeeds(make.arg(&image));
    image
}

fn mount(typ: &str, source: &Path, options: &[&str]) -> Value {
    json!({ "destination": "/data", "type": typ, "source": source, "options": options })
}

/// What e2fsck says of an image that it would have to repair nothing in.
fn is_whole(image: &Path) {
    succeeds(Command::new("e2fsck").arg("-fn").arg(image));
    let state = succeeds(Command::new("dumpe2fs").arg("-h").arg(image));
    assert!(
        state.lines().any(|line| line.starts_with("Filesystem state:") && line.ends_with(" clean")),
        "{state}"
    );
    assert!(!state.contains("needs_recovery"), "{state}");
}

/// A loop device of the testbed's.
struct Loop(String);

impl Loop {
    fn new(file: &Path) -> Self {
        succeeds(Command::new("modprobe").arg("loop"));
        Self(succeeds(Command::new("losetup").args(["--find", "--show"]).arg(file)).trim_end().to_owned())
    }

    fn number(&self) -> (u64, u64) {
        let number = fs::metadata(&self.0).unwrap().rdev();
        (nix::sys::stat::major(number), nix::sys::stat::minor(number))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        succeeds(Command::new("losetup").arg("--detach").arg(&self.0));
    }
}

#[test]
fn ext4_image_is_written_and_is_whole_afterwards() {
    let scratch = Scratch::new();
    let image = ext4(&scratch, 16, None);
    let script = "grep ' /data ' /proc/mounts | cut -d' ' -f3 &&
        dd if=/dev/zero of=/data/zeros bs=64k count=16 conv=fsync 2>/dev/null && mkdir /data/below &&
        echo written >/data/below/late && stat -c '%s %U' /data/zeros /data/below/late";
    let bundle = Bundle::shell(script).mount(mount("ext4", &image, &["noatime"]));
    bundle.run().prints("ext4\n1048576 root\n8 root\n");
    is_whole(&image);
    let there = Mounted::new(&["-o", "loop,ro", image.to_str().unwrap()], &scratch.join("there"));
    assert_eq!(fs::read_to_string(there.path().join("below/late")).unwrap(), "written\n");
    assert_eq!(fs::metadata(there.path().join("zeros")).unwrap().len(), 1 << 20);
}

#[test]
fn read_only_image_stays_as_it_is() {
    let scratch = Scratch::new();
    let content = scratch.directory("content");
    fs::write(content.join("file"), "content\n").unwrap();
    let image = ext4(&scratch, 8, Some(&content));
    let before = fs::read(&image).unwrap();
    let bundle = Bundle::shell("cat /data/file; echo more >/data/file || echo refused").mount(mount(
        "ext4",
        &image,
        &["ro"],
    ));
    bundle.run().prints_with_errors("content\nrefused\n", &["Read-only file system"]);
    assert!(fs::read(&image).unwrap() == before, "nothing of the image has changed");
}

#[test]
fn packed_images_are_mounted_read_only() {
    let scratch = Scratch::new();
    let content = scratch.directory("content");
    fs::write(content.join("file"), "content\n").unwrap();
    let (squashed, eroded) = (scratch.join("squashed"), scratch.join("eroded"));
    succeeds(Command::new("mksquashfs").arg(&content).arg(&squashed).args(["-quiet", "-no-progress"]));
    succeeds(Command::new("mkfs.erofs").arg(&eroded).arg(&content));
    for (typ, image) in [("squashfs", &squashed), ("erofs", &eroded)] {
        let bundle = Bundle::shell("cat /data/file; echo more >/data/file || echo refused").mount(mount(
            typ,
            image,
            &[],
        ));
        bundle.run().prints_with_errors("content\nrefused\n", &["Read-only file system"]);
    }
}

#[test]
fn image_is_one_writers_or_many_readers() {
    let scratch = Scratch::new();
    let image = ext4(&scratch, 8, None);
    let with = |options: &[&str]| Bundle::shell("echo up; read line").mount(mount("ext4", &image, options));
    let (writes, reads) = (with(&[]), with(&["ro"]));
    let mut writer = Run::of(&writes).stdin(Stdio::piped()).start();
    writer.stdout.await_text(0, "up");
    writes.run().fails_with(1, &["mounts[7].source", "is in use", "two writers would corrupt it"]);
    reads.run().fails_with(1, &["mounts[7].source", "is in use, open for writing"]);
    drop(writer.child.stdin.take());
    writer.finish();
    let mut reader = Run::of(&reads).stdin(Stdio::piped()).start();
    reader.stdout.await_text(0, "up");
    Run::of(&reads).input("").finish().shows("up\n");
    writes.run().fails_with(1, &["is in use"]);
    drop(reader.child.stdin.take());
    reader.finish();
    is_whole(&image);
}

#[test]
fn full_disk_is_an_error_of_the_program() {
    let scratch = Scratch::new();
    let image = ext4(&scratch, 8, None);
    let script = "dd if=/dev/zero of=/data/all bs=64k || echo full; rm /data/all && echo fits >/data/small && cat /data/small";
    let bundle = Bundle::shell(script).mount(mount("ext4", &image, &[]));
    bundle.run().prints_with_errors("full\nfits\n", &["No space left on device"]);
    is_whole(&image);
}

#[test]
fn full_file_system_of_the_host_is_an_error_of_the_program() {
    let scratch = Scratch::new();
    let small = Mounted::new(&["-t", "tmpfs", "-o", "size=4m", "tmpfs"], &scratch.join("small"));
    let image = small.path().join("sparse.img");
    File::create(&image).unwrap().set_len(64 << 20).unwrap();
    succeeds(Command::new("mkfs.ext4").args(["-qF", "-O", "^has_journal", "-E", "nodiscard"]).arg(&image));
    let script =
        "dd if=/dev/urandom of=/data/all bs=64k count=256 conv=fsync 2>/dev/null || echo error; echo lives";
    let bundle = Bundle::shell(script).mount(mount("ext4", &image, &[]));
    let outcome = bundle.run();
    assert_eq!((outcome.out().as_str(), outcome.status.code()), ("error\nlives\n", Some(0)), "{outcome:?}");
    let told = outcome.err();
    let warning = told.lines().find(|line| line.starts_with("vmrun: warning: mounts[7].source: "));
    let warning = warning.unwrap_or_else(|| panic!("{outcome:?}"));
    assert!(warning.contains(image.to_str().unwrap()) && warning.contains("there was no room"), "{warning}");
}

#[test]
fn image_that_is_none_is_refused_in_the_kernels_words() {
    let scratch = Scratch::new();
    let image = scratch.file("noise", vec![0x5a; 1 << 20]);
    for (typ, why) in [("ext4", "EXT4-fs"), ("squashfs", "SQUASHFS"), ("erofs", "erofs")] {
        let bundle = Bundle::shell("echo runs").mount(mount(typ, &image, &["ro"]));
        let told = format!("mounts[7]: cannot mount {typ} at /data with the options ro: ");
        bundle.run().fails_with(1, &[&told, why]);
    }
    let bundle = Bundle::shell("echo runs").mount(mount("ext4", &ext4(&scratch, 8, None), &["nonsense"]));
    bundle.run().fails_with(1, &["mounts[7]: cannot mount ext4 at /data", "Unknown parameter 'nonsense'"]);
    let bundle = Bundle::shell("echo runs").mount(mount("ext4", &scratch.join("none"), &[]));
    bundle.run().fails_with(1, &["mounts[7].source: cannot open ", "none", "No such file or directory"]);
    let bundle = Bundle::shell("echo runs").mount(mount("ext4", scratch.path(), &[]));
    bundle.run().fails_with(1, &["is neither a file nor a block device"]);
}

#[test]
fn image_that_becomes_shorter_is_an_error_of_who_reads_what_is_gone() {
    let scratch = Scratch::new();
    let content = scratch.directory("content");
    fs::write(content.join("large"), vec![7; 8 << 20]).unwrap();
    let image = ext4(&scratch, 32, Some(&content));
    let script = "echo up; read line; cat /data/large >/dev/null || echo gone; echo lives";
    let bundle = Bundle::shell(script).mount(mount("ext4", &image, &["ro"]));
    let mut started = Run::of(&bundle).stdin(Stdio::piped()).start();
    started.stdout.await_text(0, "up");
    File::options().write(true).open(&image).unwrap().set_len(1 << 20).unwrap();
    started.child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let outcome = started.finish();
    outcome.prints_with_errors("up\ngone\nlives\n", &["Input/output error"]);
}

#[test]
fn what_is_removed_is_a_hole_in_the_image() {
    let scratch = Scratch::new();
    let content = scratch.directory("content");
    fs::write(content.join("large"), vec![7; 8 << 20]).unwrap();
    let image = ext4(&scratch, 32, Some(&content));
    let before = fs::metadata(&image).unwrap().blocks();
    let bundle = Bundle::shell("rm /data/large && sync").mount(mount("ext4", &image, &["discard"]));
    bundle.run().prints("");
    let after = fs::metadata(&image).unwrap().blocks();
    assert!(after + (7 << 11) < before, "{before} blocks before and {after} after");
    assert_eq!(fs::metadata(&image).unwrap().len(), 32 << 20);
    is_whole(&image);
}

#[test]
fn one_image_is_mounted_for_writing_and_for_reading_by_whatever_names() {
    let scratch = Scratch::new();
    let image = ext4(&scratch, 8, None);
    let link = scratch.join("link");
    std::os::unix::fs::symlink(&image, &link).unwrap();
    let script =
        "echo written >/data/file; cat /read/file; echo more >/read/file || echo refused; cat /again/file";
    let at = |place: &str, source: &Path, options: &[&str]| json!({ "destination": place, "type": "ext4", "source": source, "options": options });
    for first_reads in [true, false] {
        let (reads, writes) = (at("/read", &image, &["ro"]), at("/data", &link, &[]));
        let (first, second) = if first_reads { (reads, writes) } else { (writes, reads) };
        let bundle = Bundle::shell(script).mount(first).mount(second).mount(at("/again", &image, &["ro"]));
        bundle.run().prints_with_errors("written\nrefused\nwritten\n", &["Read-only file system"]);
        is_whole(&image);
    }
}

#[test]
fn block_device_is_mounted_and_a_device_of_the_container_at_once() {
    let scratch = Scratch::new();
    let image = ext4(&scratch, 16, None);
    let device = Loop::new(&image);
    let script = "echo written >/data/file && cat /data/file; head -c 2048 /dev/below/disk | tail -c 968 | head -c 2 | od -An -tx1";
    let bundle = with_device(script, &device, "r").mount(mount("ext4", Path::new(&device.0), &[]));
    bundle.run().prints("written\n 53 ef\n");
}

#[test]
fn ext4_of_a_block_device_is_mounted_as_elsewhere() {
    let scratch = Scratch::new();
    let image = ext4(&scratch, 16, None);
    let device = Loop::new(&image);
    let script = "grep ' /data ' /proc/mounts | cut -d' ' -f3; rm -f /data/file; echo written >/data/file && cat /data/file";
    let (major, minor) = device.number();
    // For crun, whose process mounts it where the rules hold already.
    let rule = json!({ "allow": true, "type": "b", "major": major, "minor": minor, "access": "rwm" });
    let bundle = Bundle::shell(script)
        .mount(mount("ext4", Path::new(&device.0), &["nosuid"]))
        .push("/linux/resources/devices", rule);
    bundle.on_both(|outcome| {
        outcome.prints("ext4\nwritten\n");
    });
    let mounted = Mounted::new(&[&device.0], &scratch.join("there"));
    bundle.run().fails_with(1, &["mounts[7].source", &device.0, "is in use"]);
    drop(mounted);
}

#[test]
fn image_is_mounted_for_a_user_namespace() {
    let scratch = Scratch::new();
    let image = ext4(&scratch, 8, None);
    let mappings = json!([{ "containerID": 0, "hostID": 0, "size": 65536 }]);
    let bundle = Bundle::shell("echo in >/data/file && cat /data/file")
        .push("/linux/namespaces", json!({ "type": "user" }))
        .set("/linux/uidMappings", mappings.clone())
        .set("/linux/gidMappings", mappings)
        .mount(mount("ext4", &image, &[]));
    bundle.run().prints("in\n");
}

/// A bundle whose container has the device at `/dev/below/disk`, and may do `access` with it.
fn with_device(script: &str, device: &Loop, access: &str) -> Bundle {
    let (major, minor) = device.number();
    Bundle::shell(script)
        .push("/linux/devices", json!({
            "path": "/dev/below/disk", "type": "b", "major": major, "minor": minor, "fileMode": 0o640, "uid": 0, "gid": 6
        }))
        .push("/linux/resources/devices", json!({
            "allow": true, "type": "b", "major": major, "minor": minor, "access": access
        }))
}

#[test]
fn block_device_of_the_host_is_the_containers() {
    let scratch = Scratch::new();
    let image = scratch.file("raw", vec![b'a'; 4 << 20]);
    let device = Loop::new(&image);
    let script = "stat -c '%F %a %u:%g' /dev/below/disk; blockdev --getsize64 /dev/below/disk;
        dd if=/dev/below/disk bs=1 skip=4194300 2>/dev/null; echo;
        echo written | dd of=/dev/below/disk bs=512 seek=3 conv=notrunc,fsync 2>/dev/null && echo done";
    let bundle = with_device(script, &device, "rwm");
    bundle.on_both(|outcome| {
        outcome.prints("block special file 640 0:6\n4194304\naaaa\ndone\n");
        let (mut bytes, file) = ([0; 8], File::open(&device.0).unwrap());
        file.read_exact_at(&mut bytes, 3 * 512).unwrap();
        assert_eq!(&bytes, b"written\n");
        file.sync_all().unwrap();
        File::options().write(true).open(&device.0).unwrap().write_all_at(b"aaaaaaaa", 3 * 512).unwrap();
    });
}

#[test]
fn block_device_that_may_only_be_read_is_read() {
    let scratch = Scratch::new();
    let image = scratch.file("raw", vec![b'a'; 1 << 20]);
    let device = Loop::new(&image);
    let script = "head -c 3 /dev/below/disk; echo; echo x >/dev/below/disk || echo refused";
    with_device(script, &device, "r").on_both(|outcome| {
        outcome.prints_with_errors("aaa\nrefused\n", &["Operation not permitted"]);
    });
    assert!(fs::read(&image).unwrap() == vec![b'a'; 1 << 20]);
}

#[test]
fn monitor_that_is_killed_leaves_an_image_that_is_usable() {
    let scratch = Scratch::new();
    let image = ext4(&scratch, 16, None);
    let script = "echo kept >/data/file && sync && echo up; while :; do echo x >>/data/more; done";
    let bundle = Bundle::shell(script).mount(mount("ext4", &image, &[]));
    let started = Run::of(&bundle).start();
    started.stdout.await_text(0, "up");
    let machine = started.machine();
    kill(Pid::from_raw(started.monitor()), Signal::SIGKILL).unwrap();
    // Who has adopted it may leave it unreaped.
    let status = || fs::read_to_string(format!("/proc/{machine}/status"));
    wait::until("the machine's end", || {
        status().map_or(true, |text| text.contains("State:\tZ")).then_some(())
    });
    started.finish();
    Bundle::shell("cat /data/file").mount(mount("ext4", &image, &[])).run().prints("kept\n");
    is_whole(&image);
}

#[test]
fn disk_is_as_fast_as_an_annotation_says() {
    let scratch = Scratch::new();
    let image = scratch.file("raw", vec![b'a'; 1 << 20]);
    let device = Loop::new(&image);
    let bundle = with_device("cat /dev/below/disk | wc -c", &device, "r");
    let rated = |rate: &str| {
        with_device("true", &device, "r").set("/annotations", json!({ "dev.vmrun.disk.rate": rate }))
    };
    bundle
        .set("/annotations", json!({ "dev.vmrun.disk.rate": "64MiB/s,1000iops" }))
        .run()
        .prints("1048576\n");
    rated("fast").run().fails_with(1, &["dev.vmrun.disk.rate", "is not a valid rate", "500iops"]);
}

/// A bundle whose root file system is on an image, as these annotations say; its own directory is empty.
fn on_image(scratch: &Scratch, script: &str, annotations: &[(&str, &str)]) -> Bundle {
    let annotations: serde_json::Map<_, _> =
        annotations.iter().map(|(key, value)| (format!("dev.vmrun.rootfs.{key}"), json!(value))).collect();
    Bundle::with_root(&scratch.directory("empty"))
        .args(&["sh", "-c", script])
        .set("/annotations", Value::Object(annotations))
}

#[test]
fn root_file_system_is_on_an_image_and_its_changes_are_gone_with_the_machine() {
    let scratch = Scratch::new();
    let image = scratch.join("root.erofs");
    succeeds(Command::new("mkfs.erofs").arg(&image).arg(&place().busybox));
    let path = image.to_str().unwrap();
    let before = fs::read(&image).unwrap();
    let script =
        "ls /new 2>/dev/null; echo new >/new && cat /new && rm /bin/ls && test ! -e /bin/ls && stat -c %a /";
    let bundle = on_image(&scratch, script, &[("image", path), ("type", "erofs")]);
    for _ in 0..2 {
        bundle.run().prints("new\n755\n");
    }
    assert!(fs::read(&image).unwrap() == before);
    assert_eq!(fs::read_dir(scratch.join("empty")).unwrap().count(), 0, "nothing is made in the directory");
}

#[test]
fn changes_of_a_root_file_system_stay_on_a_disk_or_cannot_be_made() {
    let scratch = Scratch::new();
    let image = scratch.join("root.squashfs");
    // The mount points that a container has are made in it.
    let tree = scratch.join("tree");
    succeeds(Command::new("cp").arg("-a").arg(&place().busybox).arg(&tree));
    for name in ["proc", "dev", "sys"] {
        fs::create_dir_all(tree.join(name)).unwrap();
    }
    succeeds(Command::new("mksquashfs").arg(&tree).arg(&image).args(["-quiet", "-no-progress"]));
    let path = image.to_str().unwrap();
    let disk = ext4(&scratch, 8, None);
    let changes = format!("disk:{}", disk.display());
    let script = "echo more >>/log && cat /log";
    let kept = on_image(&scratch, script, &[("image", path), ("type", "squashfs"), ("writable", &changes)]);
    kept.run().prints("more\n");
    kept.run().prints("more\nmore\n");
    is_whole(&disk);
    let script = "echo x >/log || echo refused";
    let closed = on_image(&scratch, script, &[("image", path), ("type", "squashfs"), ("writable", "none")]);
    closed.run().prints_with_errors("refused\n", &["Read-only file system"]);
    let none = scratch.file("noise", vec![0; 1 << 20]);
    let damaged = on_image(&scratch, script, &[("image", none.to_str().unwrap()), ("type", "ext4")]);
    damaged.run().fails_with(1, &["cannot mount ext4 for the root file system", "EXT4-fs"]);
}
