//! What a program starts with: environment, directory, user, limits.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::json;

use crate::support::{Bundle, Runtime};

#[test]
fn environment_is_the_one_given_and_home() {
    let bundle = Bundle::shell("")
        .args(&["env", "-0"])
        .env("PLAIN=value")
        .env("EMPTY=")
        .env("EQUALS=a=b=c")
        .env("SPACES= a  b ")
        .env("LINES=a\nb")
        .env("UNICODE=grüße")
        .env("lower_1=x");
    bundle.on_both(|outcome| {
        let out = outcome.ok();
        let found: BTreeSet<_> = out.split_terminator('\0').collect();
        let expected = [
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "TERM=xterm",
            "HOME=/root",
            "PLAIN=value",
            "EMPTY=",
            "EQUALS=a=b=c",
            "SPACES= a  b ",
            "LINES=a\nb",
            "UNICODE=grüße",
            "lower_1=x",
        ];
        assert_eq!(found, BTreeSet::from(expected), "{outcome:?}");
    });
}

#[test]
fn arguments_arrive_unchanged() {
    let arguments = ["", "two words", "line\nbreak", "grüße", "$HOME", "'\"\\", "-n", "*"];
    let print = ["sh", "-c", r#"for word; do printf '[%s]' "$word"; done"#, "name"];
    let expected: String = arguments.iter().map(|argument| format!("[{argument}]")).collect();
    Bundle::shell("").args(&[&print[..], &arguments].concat()).on_both(|outcome| {
        outcome.prints(&expected);
    });
}

#[test]
fn argument_of_100_kib_arrives() {
    let long = "x".repeat(100_000);
    let bundle = Bundle::shell("")
        .args(&["sh", "-c", "echo ${#1} ${#LONG}", "name", &long])
        .env(&format!("LONG={long}"));
    bundle.on_both(|outcome| {
        outcome.prints("100000 100000\n");
    });
}

#[test]
fn program_is_found_in_the_containers_path() {
    let bundle = Bundle::shell("");
    std::fs::create_dir(bundle.rootfs().join("own")).unwrap();
    std::os::unix::fs::symlink("/bin/busybox", bundle.rootfs().join("own/echo")).unwrap();
    let bundle = bundle.args(&["echo", "found"]).set("/process/env", json!(["PATH=/none:/own"]));
    bundle.on_both(|outcome| {
        outcome.prints("found\n");
    });
}

#[test]
fn script_with_interpreter_runs() {
    let bundle = Bundle::shell("").args(&["/script", "word"]);
    std::fs::write(bundle.rootfs().join("script"), "#!/bin/sh\necho \"$0 $1\"\n").unwrap();
    std::process::Command::new("chmod").arg("755").arg(bundle.rootfs().join("script")).status().unwrap();
    bundle.on_both(|outcome| {
        outcome.prints("/script word\n");
    });
}

#[test]
fn directory_is_the_one_given() {
    for bundle in Bundle::shells("pwd") {
        bundle.set("/process/cwd", json!("/usr/bin")).on_both(|outcome| {
            outcome.prints("/usr/bin\n");
        });
    }
}

#[test]
fn directory_that_is_missing_is_made() {
    let bundle = Bundle::shell("pwd").set("/process/cwd", json!("/made/on/demand"));
    bundle.on_both(|outcome| {
        outcome.prints("/made/on/demand\n");
    });
}

#[test]
fn missing_working_directory_is_made_in_mounts_and_behind_links() {
    for runtime in [Runtime::Runc, Runtime::Vmrun] {
        for (cwd, shown) in [("/tmpfs/made/here", "/tmpfs/made/here"), ("/link/made", "/var/made")] {
            let bundle = Bundle::shell("pwd -P; stat -c %a .")
                .mount(json!({ "destination": "/tmpfs", "type": "tmpfs", "source": "tmpfs" }))
                .set("/process/user", json!({ "uid": 1000, "gid": 1000 }))
                .set("/process/cwd", json!(cwd));
            fs::create_dir_all(bundle.rootfs().join("var")).unwrap();
            symlink("../../../../../../../../../../var", bundle.rootfs().join("link")).unwrap();
            bundle.run_on(runtime).prints(&format!("{shown}\n755\n"));
        }
    }
    assert!(!Path::new("/var/made").exists());
}

#[test]
fn directory_of_the_user_alone_is_entered() {
    let bundle = Bundle::shell("pwd")
        .set("/process/user", json!({ "uid": 1000, "gid": 1000 }))
        .set("/process/cwd", json!("/private"));
    let private = bundle.rootfs().join("private");
    std::fs::create_dir(&private).unwrap();
    std::os::unix::fs::chown(&private, Some(1000), Some(1000)).unwrap();
    std::fs::set_permissions(&private, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    bundle.on_both(|outcome| {
        outcome.prints("/private\n");
    });
}

#[test]
fn user_and_groups_are_those_given() {
    let cases = [
        (json!({ "uid": 0, "gid": 0 }), "0 0 [0] /root\n"),
        (json!({ "uid": 1000, "gid": 1000 }), "1000 1000 [1000] /home\n"),
        (json!({ "uid": 1000, "gid": 5, "additionalGids": [7, 65534] }), "1000 5 [5 7 65534] /home\n"),
    ];
    let script = r#"echo "$(id -u) $(id -g) [$(id -G)] $HOME""#;
    for (user, expected) in cases {
        Bundle::shell(script).set("/process/user", user).on_both(|outcome| {
            outcome.prints(expected);
        });
    }
    // As runc has it; crun gives no home to whom nobody knows.
    let unknown = Bundle::shell(script).set("/process/user", json!({ "uid": 4711, "gid": 4712 }));
    unknown.run().prints("4711 4712 [4712] /\n");
}

#[test]
fn umask_is_the_one_given_or_022() {
    for (umask, expected) in [(None, "0022\n"), (Some(0o027), "0027\n"), (Some(0), "0000\n")] {
        let user = json!({ "uid": 0, "gid": 0, "umask": umask });
        Bundle::shell("umask").set("/process/user", user).on_both(|outcome| {
            outcome.prints(expected);
        });
    }
}

#[test]
fn limits_are_those_given() {
    let table: [(&str, &str, u64, u64); 12] = [
        ("RLIMIT_NOFILE", "Max open files", 100, 200),
        ("RLIMIT_CORE", "Max core file size", 0, 4096),
        ("RLIMIT_FSIZE", "Max file size", 1 << 20, 1 << 30),
        ("RLIMIT_STACK", "Max stack size", 1 << 20, 16 << 20),
        ("RLIMIT_MEMLOCK", "Max locked memory", 65536, 131_072),
        ("RLIMIT_CPU", "Max cpu time", 60, 120),
        ("RLIMIT_AS", "Max address space", 1 << 30, 1 << 31),
        ("RLIMIT_MSGQUEUE", "Max msgqueue size", 1000, 2000),
        ("RLIMIT_NICE", "Max nice priority", 10, 20),
        ("RLIMIT_RTPRIO", "Max realtime priority", 1, 2),
        ("RLIMIT_SIGPENDING", "Max pending signals", 50, 60),
        ("RLIMIT_NPROC", "Max processes", 70, 80),
    ];
    let limits: Vec<_> = table
        .iter()
        .map(|(name, _, soft, hard)| json!({ "type": name, "soft": soft, "hard": hard }))
        .collect();
    let bundle = Bundle::shell("cat /proc/self/limits").set("/process/rlimits", json!(limits));
    bundle.on_both(|outcome| {
        let out = outcome.ok();
        for (_, shown, soft, hard) in table {
            let line = out.lines().find_map(|line| line.strip_prefix(shown)).unwrap();
            let found: Vec<_> = line.split_whitespace().take(2).collect();
            assert_eq!(found, [soft.to_string(), hard.to_string()], "{shown}: {outcome:?}");
        }
    });
}

#[test]
fn hard_limit_of_files_may_be_high() {
    let limits = json!([{ "type": "RLIMIT_NOFILE", "soft": 1024, "hard": 1_048_576 }]);
    let bundle = Bundle::shell("ulimit -Sn; ulimit -Hn").set("/process/rlimits", limits);
    bundle.on_both(|outcome| {
        outcome.prints("1024\n1048576\n");
    });
}

#[test]
fn no_new_privileges_is_as_given() {
    for given in [true, false] {
        let bundle =
            Bundle::shell("grep NoNewPrivs /proc/self/status").set("/process/noNewPrivileges", json!(given));
        bundle.on_both(|outcome| {
            outcome.prints(&format!("NoNewPrivs:\t{}\n", u8::from(given)));
        });
    }
    Bundle::shell("grep NoNewPrivs /proc/self/status").remove("/process/noNewPrivileges").on_both(
        |outcome| {
            outcome.prints("NoNewPrivs:\t0\n");
        },
    );
}

#[test]
fn oom_score_is_the_one_given() {
    for score in [0, 500, -500] {
        let bundle = Bundle::shell("cat /proc/self/oom_score_adj").set("/process/oomScoreAdj", json!(score));
        bundle.on_both(|outcome| {
            outcome.prints(&format!("{score}\n"));
        });
    }
}

#[test]
fn scheduler_and_io_priority_are_those_given() {
    let program = r"
import ctypes, os
libc = ctypes.CDLL(None)
print(os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0), libc.syscall(252, 1, 0))
";
    // SCHED_BATCH is 3; class 2 (best effort) is shifted by 13.
    let bundle = Bundle::python(program)
        .set("/process/scheduler", json!({ "policy": "SCHED_BATCH", "nice": 5 }))
        .set("/process/ioPriority", json!({ "class": "IOPRIO_CLASS_BE", "priority": 6 }));
    bundle.run().prints(&format!("3 5 {}\n", 2 << 13 | 6));
}

#[test]
fn program_is_the_first_process_and_has_no_strange_descriptors() {
    Bundle::shell("echo $$; ls /proc/$$/fd; true").on_both(|outcome| {
        outcome.prints("1\n0\n1\n2\n");
    });
}

#[test]
fn signals_are_neither_blocked_nor_ignored() {
    // crun passes on what its caller ignores.
    let bundle = Bundle::shell("").args(&["grep", "-E", "^(SigBlk|SigIgn)", "/proc/self/status"]);
    bundle.run().prints("SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n");
}

#[test]
fn names_of_host_and_domain_are_those_given() {
    for bundle in Bundle::shells("cat /proc/sys/kernel/hostname /proc/sys/kernel/domainname") {
        let bundle = bundle.set("/hostname", json!("web-1.example")).set("/domainname", json!("example.org"));
        bundle.on_both(|outcome| {
            outcome.prints("web-1.example\nexample.org\n");
        });
    }
}

#[test]
fn kernel_parameters_are_those_given() {
    let bundle = Bundle::shell(
        "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shm_rmid_forced /proc/sys/net/ipv4/ping_group_range",
    )
    .set("/linux/sysctl", json!({
        "net.ipv4.ip_forward": "1",
        "kernel.shm_rmid_forced": "1",
        "net.ipv4.ping_group_range": "0 1000",
    }));
    bundle.on_both(|outcome| {
        outcome.prints("1\n1\n0\t1000\n");
    });
}

#[test]
fn personality_is_the_one_given() {
    let bundle = Bundle::shell("uname -m").set("/linux/personality", json!({ "domain": "LINUX32" }));
    bundle.on_both(|outcome| {
        outcome.prints("i686\n");
    });
}

#[test]
fn processes_that_the_program_leaves_end_with_it() {
    let bundle = Bundle::shell("sleep 1000 & sh -c 'trap \"\" TERM; sleep 1000' & exit 3");
    bundle.on_both(|outcome| {
        outcome.exits(3);
    });
}

#[test]
fn orphans_are_reaped_by_the_program() {
    // The shell waits for what it inherits as the first process.
    let script = "sh -c 'sh -c \"sleep 0.2; echo late\" &'; wait; sleep 0.4; ps -o stat,comm | grep -c Z";
    let bundle = Bundle::shell(script);
    for runtime in [Runtime::Crun, Runtime::Vmrun] {
        bundle.run_on(runtime).shows("late\n");
    }
}
