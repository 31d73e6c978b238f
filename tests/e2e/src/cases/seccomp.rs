//! Seccomp filters.

use serde_json::{Value, json};

use crate::support::{Bundle, Runtime};

fn refusing(names: &[&str], errno: Option<u32>) -> Value {
    json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [{ "names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": errno }],
    })
}

/// The default-deny profile that podman and Docker give their containers, shortened.
fn engines_profile() -> Value {
    serde_json::from_str(include_str!("../programs/seccomp-default.json")).unwrap()
}

#[test]
fn refused_call_gives_eperm_with_and_without_new_privileges() {
    for no_new_privileges in [true, false] {
        let bundle = Bundle::shell("mkdir /tmp/x; grep '^Seccomp:' /proc/self/status")
            .set("/process/noNewPrivileges", json!(no_new_privileges))
            .set("/linux/seccomp", refusing(&["mkdir", "mkdirat"], None));
        bundle.on_both(|outcome| {
            outcome.exits(0);
            assert_eq!(outcome.out(), "Seccomp:\t2\n", "{outcome:?}");
            assert!(outcome.err().contains("Operation not permitted"), "{outcome:?}");
        });
        assert!(!bundle.rootfs().join("tmp/x").exists());
    }
}

#[test]
fn refused_call_gives_the_errno_asked_for() {
    for (errno, text) in [(38, "Function not implemented"), (28, "No space left on device")] {
        let bundle =
            Bundle::shell("mkdir /tmp/x").set("/linux/seccomp", refusing(&["mkdir", "mkdirat"], Some(errno)));
        bundle.on_both(|outcome| {
            outcome.exits(1);
            assert!(outcome.err().contains(text), "{outcome:?}");
        });
    }
}

#[test]
fn refused_call_for_another_user_without_capabilities() {
    let bundle = Bundle::shell("mkdir /tmp/x")
        .set("/process/user", json!({ "uid": 1000, "gid": 1000 }))
        .set("/process/capabilities", json!({}))
        .set("/process/noNewPrivileges", json!(false))
        .set("/linux/seccomp", refusing(&["mkdir", "mkdirat"], None));
    bundle.on_both(|outcome| {
        outcome.exits(1);
        assert!(outcome.err().contains("Operation not permitted"), "{outcome:?}");
    });
}

#[test]
fn calls_with_some_arguments_only_are_refused() {
    let seccomp = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{
            "names": ["socket"],
            "action": "SCMP_ACT_ERRNO",
            "errnoRet": 97,
            "args": [{ "index": 0, "value": 2, "op": "SCMP_CMP_EQ" }],
        }],
    });
    let program = r"
import socket
for family in (socket.AF_INET, socket.AF_UNIX):
    try:
        socket.socket(family)
        print('made')
    except OSError as error:
        print(error.errno)
";
    Bundle::python(program).set("/linux/seccomp", seccomp).on_both(|outcome| {
        outcome.prints("97\nmade\n");
    });
}

#[test]
fn killing_filter_ends_the_program_with_sigsys() {
    let seccomp = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_KILL_PROCESS" }],
    });
    Bundle::shell("mkdir /tmp/x").set("/linux/seccomp", seccomp).on_both(|outcome| {
        outcome.exits(128 + 31);
    });
}

#[test]
fn engines_default_profile_lets_ordinary_programs_run() {
    for no_new_privileges in [true, false] {
        for script in
            ["ls / >/dev/null && sh -c 'echo done | cat'", "mkdir /tmp/a && mv /tmp/a /tmp/b && echo done"]
        {
            let [busybox, debian] = Bundle::shells(script);
            for bundle in [busybox, debian] {
                let bundle = bundle
                    .set("/process/noNewPrivileges", json!(no_new_privileges))
                    .set("/linux/seccomp", engines_profile());
                bundle.run().prints("done\n");
            }
        }
    }
}

#[test]
fn engines_default_profile_refuses_the_rest() {
    let program = r"
import ctypes, os, threading
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *arguments):
    result = libc.syscall(*arguments)
    print(name, ctypes.get_errno() if result < 0 else 'allowed')
call('unshare', 272, 0x10000000)
call('bpf', 321, 0, 0, 0)
call('unknown', 1999)
call('clone3', 435, 0, 0)
call('keyctl', 250, 0, 0)
thread = threading.Thread(target=lambda: print('thread'))
thread.start()
thread.join()
print(os.system('exit 3') >> 8)
";
    let all = ["CAP_SYS_ADMIN", "CAP_BPF", "CAP_KILL"];
    Bundle::python(program).capabilities(&all).set("/linux/seccomp", engines_profile()).on_both(|outcome| {
        outcome.prints("unshare 1\nbpf 1\nunknown 38\nclone3 38\nkeyctl 1\nthread\n3\n");
    });
}

#[test]
fn calls_that_are_newer_than_the_profile_do_not_exist() {
    // A new process in a user namespace of its own is what the profile's condition forbids.
    let program = r"
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
for name, *call in ('mseal', 462, 0, 0, 0), ('keyctl', 250, 0, 0), ('clone', 56, 0x10000000 | 17, 0, 0, 0, 0):
    result = libc.syscall(*call)
    if result == 0:
        os._exit(0)
    print(name, ctypes.get_errno() if result < 0 else 'allowed')
";
    let mut profile = engines_profile();
    profile.as_object_mut().unwrap().remove("defaultErrnoRet");
    profile.as_object_mut().unwrap().remove("defaultErrno");
    for no_new_privileges in [true, false] {
        let bundle = Bundle::python(program)
            .set("/process/noNewPrivileges", json!(no_new_privileges))
            .set("/linux/seccomp", profile.clone());
        for runtime in [Runtime::Runc, Runtime::Vmrun] {
            bundle.run_on(runtime).prints("mseal 38\nkeyctl 1\nclone 1\n");
        }
    }
}

#[test]
fn capabilities_are_the_configured_ones_behind_a_filter() {
    let bundle = Bundle::shell("grep ^Cap /proc/self/status | tr '\\t' ' '")
        .set("/process/noNewPrivileges", json!(false))
        .set("/process/user", json!({ "uid": 1000, "gid": 1000 }))
        .capabilities(&["CAP_KILL"])
        .set("/process/capabilities/inheritable", json!(["CAP_KILL"]))
        .set("/process/capabilities/ambient", json!(["CAP_KILL"]))
        .set("/linux/seccomp", engines_profile());
    bundle.on_both(|outcome| {
        let lines = ["Inh", "Prm", "Eff", "Bnd", "Amb"].map(|set| format!("Cap{set}: 0000000000000020\n"));
        outcome.prints(&lines.concat());
    });
}

#[test]
fn unknown_call_names_are_passed_over() {
    let seccomp = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{ "names": ["no_such_call_ever", "mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO" }],
    });
    Bundle::shell("mkdir /tmp/x").set("/linux/seccomp", seccomp).on_both(|outcome| {
        outcome.exits(1);
    });
}
