//! Mounts of the configuration.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use serde_json::json;

use crate::support::{BOTH, Bundle, Mounted, Run, Runtime, Scratch};

#[test]
fn bound_directory_is_shared_both_ways() {
    for make in [Bundle::shell, Bundle::debian] {
        let scratch = Scratch::new();
        scratch.file("given", "from the host\n");
        let bundle =
            make("cat /mnt/given; echo from the container >/mnt/made").bind(scratch.path(), "/mnt", &[]);
        bundle.on_both(|outcome| {
            outcome.prints("from the host\n");
            assert_eq!(scratch.text("made"), "from the container\n");
            fs::remove_file(scratch.join("made")).unwrap();
        });
    }
}

#[test]
fn bound_directory_is_read_only_on_demand() {
    let scratch = Scratch::new();
    scratch.file("given", "content\n");
    let bundle = Bundle::shell("cat /data/given; echo x >/data/made").bind(scratch.path(), "/data", &["ro"]);
    bundle.on_both(|outcome| {
        assert_eq!(outcome.out(), "content\n", "{outcome:?}");
        assert!(outcome.err().contains("Read-only file system"), "{outcome:?}");
        outcome.exits(1);
    });
    assert!(!scratch.join("made").exists());
}

#[test]
fn bound_file_is_shared_both_ways() {
    let scratch = Scratch::new();
    let file = scratch.file("file", "");
    scratch.file("other", "not shown");
    let bundle = Bundle::shell("cat /etc/hosts; echo more >>/etc/hosts; ls /etc | grep -c other").bind(
        &file,
        "/etc/hosts",
        &[],
    );
    for runtime in BOTH {
        fs::write(&file, "first\n").unwrap();
        let outcome = bundle.run_on(runtime);
        assert_eq!(outcome.out(), "first\n0\n", "{outcome:?}");
        assert_eq!(scratch.text("file"), "first\nmore\n");
    }
}

#[test]
fn bound_file_is_read_only_on_demand() {
    let scratch = Scratch::new();
    let file = scratch.file("file", "content\n");
    let bundle = Bundle::shell("cat /etc/file; echo x >/etc/file").bind(&file, "/etc/file", &["ro"]);
    bundle.on_both(|outcome| {
        assert_eq!(outcome.out(), "content\n", "{outcome:?}");
        assert!(outcome.err().contains("Read-only file system"), "{outcome:?}");
        outcome.exits(1);
    });
    assert_eq!(scratch.text("file"), "content\n");
}

#[test]
fn mounts_of_an_engine_work_together() {
    let scratch = Scratch::new();
    let bundle = Bundle::shell("cat /etc/resolv.conf /etc/hosts /etc/hostname /run/.containerenv; ls /run/secrets")
        .mount(json!({ "destination": "/run", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"] }))
        .bind(&scratch.file("resolv.conf", "resolv\n"), "/etc/resolv.conf", &["rprivate"])
        .bind(&scratch.file("hosts", "hosts\n"), "/etc/hosts", &["rprivate"])
        .bind(&scratch.file("hostname", "name\n"), "/etc/hostname", &["rprivate"])
        .bind(&scratch.file(".containerenv", "env\n"), "/run/.containerenv", &["rprivate"])
        .bind(&scratch.directory("secrets/key").join(".."), "/run/secrets", &["rprivate"]);
    bundle.on_both(|outcome| {
        outcome.prints("resolv\nhosts\nname\nenv\nkey\n");
    });
}

#[test]
fn mounts_below_a_bound_directory_come_along_only_with_rbind() {
    let scratch = Scratch::new();
    let below = Mounted::new(&["-t", "tmpfs", "tmpfs"], &scratch.join("below"));
    fs::write(below.path().join("file"), "deep\n").unwrap();
    for (kind, expected) in [("rbind", "file\n"), ("bind", "")] {
        let mount = json!({ "destination": "/data", "type": "bind", "source": scratch.path(), "options": [kind, "rw"] });
        Bundle::shell("ls /data/below").mount(mount).on_both(|outcome| {
            outcome.prints(expected);
        });
    }
}

#[test]
fn bind_options_hold() {
    let scratch = Scratch::new();
    let bundle =
        Bundle::shell("cp /bin/busybox /data/cp; /data/cp true; grep -c ' /data .*noexec' /proc/mounts")
            .bind(scratch.path(), "/data", &["noexec", "nosuid", "nodev"]);
    bundle.on_both(|outcome| {
        outcome.prints_with_errors("1\n", &["Permission denied"]);
    });
}

#[test]
fn links_of_a_bind_are_not_followed_on_demand() {
    let scratch = Scratch::new();
    scratch.file("file", "content\n");
    symlink("file", scratch.join("link")).unwrap();
    let script = "cat /data/file; cat /data/link 2>/dev/null || echo refused";
    let bundle = |options: &[&str]| Bundle::shell(script).bind(scratch.path(), "/data", options);
    bundle(&["rnosymfollow"]).run().prints("content\nrefused\n");
    bundle(&["rsymfollow"]).run().prints("content\ncontent\n");
}

#[test]
fn bind_source_may_be_relative_to_the_bundle_and_a_link() {
    let bundle = Bundle::shell("cat /one/file /two");
    fs::create_dir(bundle.path().join("data")).unwrap();
    fs::write(bundle.path().join("data/file"), "content\n").unwrap();
    let scratch = Scratch::new();
    symlink(bundle.path().join("data/file"), scratch.join("link")).unwrap();
    let bundle = bundle.bind(Path::new("data"), "/one", &[]).bind(&scratch.join("link"), "/two", &[]);
    // crun takes it relative to where it was started.
    bundle.run().prints("content\ncontent\n");
}

#[test]
fn destination_that_is_missing_is_made() {
    let scratch = Scratch::new();
    let (file, directory) = (scratch.file("file", "a\n"), scratch.directory("directory"));
    for runtime in BOTH {
        let bundle = Bundle::shell("cat /made/for/file; ls -d /made/directory")
            .bind(&file, "/made/for/file", &[])
            .bind(&directory, "/made/directory", &[]);
        bundle.run_on(runtime).prints("a\n/made/directory\n");
        assert!(bundle.rootfs().join("made/for/file").is_file());
        assert!(bundle.rootfs().join("made/directory").is_dir());
    }
}

#[test]
fn destinations_that_containers_of_one_root_make_at_once_are_there_for_all() {
    let scratch = Scratch::new();
    let file = scratch.file("file", "a\n");
    for runtime in BOTH {
        let owner = Bundle::shell("true");
        let bundle = || {
            let args = ["sh", "-c", "cat /made/*/file | wc -l"];
            let bundle = Bundle::with_root(&owner.rootfs()).args(&args);
            (0..32).fold(bundle, |bundle, index| bundle.bind(&file, &format!("/made/{index}/file"), &[]))
        };
        let bundles = [bundle(), bundle(), bundle()];
        let started = bundles.each_ref().map(|bundle| Run::of(bundle).on(runtime).start());
        for one in started {
            one.finish().prints("32\n");
        }
    }
}

#[test]
fn destination_behind_a_link_stays_inside_the_root() {
    let scratch = Scratch::new();
    let directory = scratch.directory("data");
    fs::write(directory.join("file"), "inside\n").unwrap();
    for runtime in BOTH {
        let bundle = Bundle::shell("cat /inside/deep/file").bind(&directory, "/link/deep", &[]);
        fs::create_dir(bundle.rootfs().join("inside")).unwrap();
        symlink("../../../../../../../../inside", bundle.rootfs().join("link")).unwrap();
        bundle.run_on(runtime).prints("inside\n");
        assert!(!Path::new("/inside").exists(), "{runtime:?} made a directory outside the root file system");
    }
}

#[test]
fn tmpfs_has_its_size_mode_and_owner() {
    let options = json!(["nosuid", "nodev", "size=1m", "mode=2750", "uid=1000", "gid=5"]);
    let mount = json!({ "destination": "/scratch", "type": "tmpfs", "source": "tmpfs", "options": options });
    let script = "stat -c '%a %u:%g' /scratch; dd if=/dev/zero of=/scratch/big bs=64k count=32; stat -c %s /scratch/big";
    Bundle::shell(script).capabilities(&["CAP_DAC_OVERRIDE"]).mount(mount).on_both(|outcome| {
        outcome.prints_with_errors("2750 1000:5\n1048576\n", &["No space left on device"]);
    });
}

#[test]
fn tmpfs_without_a_mode_has_that_of_the_directory_below() {
    let tmpfs = |place: &str| json!({ "destination": place, "type": "tmpfs", "source": "tmpfs" });
    for runtime in [Runtime::Runc, Runtime::Vmrun] {
        let bundle = Bundle::shell("stat -c %a /own /all").mount(tmpfs("/own")).mount(tmpfs("/all"));
        for (name, mode) in [("own", 0o710), ("all", 0o1777)] {
            let directory = bundle.rootfs().join(name);
            fs::create_dir(&directory).unwrap();
            fs::set_permissions(&directory, fs::Permissions::from_mode(mode)).unwrap();
        }
        bundle.run_on(runtime).prints("710\n1777\n");
    }
    // Versions of runc differ in this one; the kernel's own is what most have.
    Bundle::shell("stat -c %a /made").mount(tmpfs("/made")).run().prints("1777\n");
}

#[test]
fn tmpfs_that_shall_keep_what_it_covers_begins_with_it() {
    let options = json!(["nosuid", "size=1m", "tmpcopyup"]);
    let mount = json!({ "destination": "/etc", "type": "tmpfs", "source": "tmpfs", "options": options });
    let script = "head -c 4 /etc/passwd; echo; touch /etc/new && grep -c ' /etc tmpfs .*nosuid.*size=1024k' /proc/mounts";
    let bundle = Bundle::shell(script).mount(mount);
    bundle.run().prints("root\n1\n");
    assert!(!bundle.rootfs().join("etc/new").exists());
    let elsewhere =
        json!({ "destination": "/x", "type": "proc", "source": "proc", "options": ["tmpcopyup"] });
    Bundle::shell("true").mount(elsewhere).run().fails_with(1, &["mounts[", "tmpcopyup", "tmpfs"]);
}

#[test]
fn thirty_volumes_are_all_there() {
    let scratch = Scratch::new();
    let mut bundle = Bundle::shell("cat /volumes/*/file | tr '\\n' ' '");
    let mut expected = String::new();
    for index in 10..40 {
        let directory = scratch.directory(&index.to_string());
        fs::write(directory.join("file"), format!("{index}\n")).unwrap();
        bundle = bundle.bind(&directory, &format!("/volumes/{index}"), &[]);
        expected.push_str(&format!("{index} "));
    }
    bundle.on_both(|outcome| {
        outcome.prints(&expected);
    });
}

#[test]
fn changes_on_the_host_are_seen_by_a_running_container() {
    let scratch = Scratch::new();
    scratch.file("log", "one\n");
    let script = "cat /data/log; until grep -q two /data/log; do sleep 0.05; done; cat /data/log; ls /data";
    let bundle = Bundle::shell(script).bind(scratch.path(), "/data", &[]);
    let started = Run::of(&bundle).start();
    started.stdout.await_text(0, "one\n");
    scratch.file("new", "");
    scratch.file("log", "one\ntwo\n");
    started.finish().prints("one\none\ntwo\nlog\nnew\n");
}

#[test]
fn disk_that_is_full_is_told_to_the_program() {
    let scratch = Scratch::new();
    let small = Mounted::new(&["-t", "tmpfs", "-o", "size=256k", "tmpfs"], &scratch.join("small"));
    let script = "dd if=/dev/zero of=/data/big bs=64k count=16; rm /data/big; echo fits >/data/file";
    let bundle = Bundle::shell(script).bind(small.path(), "/data", &[]);
    bundle.on_both(|outcome| {
        outcome.prints_with_errors("", &["No space left on device"]);
        assert_eq!(fs::read_to_string(small.path().join("file")).unwrap(), "fits\n");
    });
}

#[test]
fn write_that_has_room_for_a_part_says_how_much() {
    let scratch = Scratch::new();
    let small = Mounted::new(&["-t", "tmpfs", "-o", "size=256k", "tmpfs"], &scratch.join("small"));
    let program = "import os
fd = os.open('/data/file', os.O_WRONLY | os.O_CREAT | os.O_APPEND)
written = os.write(fd, b'x' * (1 << 20))
print(0 < written < 1 << 20, os.fstat(fd).st_size == written)
try:
    os.write(fd, b'y')
except OSError as error:
    print(os.strerror(error.errno))
os.unlink('/data/file')";
    let bundle = Bundle::python(program).bind(small.path(), "/data", &[]);
    bundle.on_both(|outcome| {
        outcome.prints("True True\nNo space left on device\n");
    });
}

#[test]
fn propagation_of_the_root_is_as_given() {
    for (propagation, expected) in [("private", "private\n"), ("rslave", "private\n")] {
        let script = "awk '$5 == \"/\" { print ($7 == \"-\") ? \"private\" : $7 }' /proc/self/mountinfo";
        let bundle = Bundle::shell(script).set("/linux/rootfsPropagation", json!(propagation));
        bundle.run_on(Runtime::Vmrun).prints(expected);
    }
}
