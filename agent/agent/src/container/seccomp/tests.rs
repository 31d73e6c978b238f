//! What filters do with calls.

use serde_json::{Value, json};

use super::instructions::*;
use super::*;

const MSEAL: libc::c_long = 462;

fn profile(value: Value) -> LinuxSeccomp {
    serde_json::from_value(value).unwrap()
}

fn allowing(names: &[&str]) -> Value {
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [{ "names": names, "action": "SCMP_ACT_ALLOW" }],
    })
}

#[test]
fn newest_call_is_that_of_each_architecture() {
    let profile = profile(allowing(&["read", "close_range", "no_such_call", "socketcall"]));
    assert_eq!(newest_call(&profile, ScmpArch::X8664), Some(436));
    assert_eq!(newest_call(&profile, ScmpArch::X86), Some(436));
    assert_eq!(calls_newer_than(&profile).len(), 12);
    assert_eq!(calls_newer_than(&profile)[3], instruction(0x25, 436, [0, 2]));
}

#[test]
fn profile_that_lets_calls_through_knows_none_as_too_new() {
    for action in ["SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE"] {
        let mut value = allowing(&["read"]);
        value["defaultAction"] = json!(action);
        assert!(calls_newer_than(&profile(value)).is_empty(), "{action}");
    }
    let nothing = profile(json!({ "defaultAction": "SCMP_ACT_ERRNO" }));
    assert!(calls_newer_than(&nothing).is_empty());
}

#[test]
fn only_the_architectures_of_the_profile_are_looked_at() {
    let mut value = allowing(&["read", "close_range"]);
    value.as_object_mut().unwrap().remove("architectures");
    assert_eq!(calls_newer_than(&profile(value)), refusal(X86_64, 436));
}

#[test]
fn mask_of_a_condition_is_its_first_value() {
    let arg = json!({ "index": 1, "value": 0x7e02_0000, "valueTwo": 2, "op": "SCMP_CMP_MASKED_EQ" });
    let expected = ScmpArgCompare::new(1, ScmpCompareOp::MaskedEqual(0x7e02_0000), 2);
    assert_eq!(comparison(&serde_json::from_value(arg).unwrap()), expected);
}

#[test]
fn error_that_no_call_can_have_is_refused() {
    let errno = |errno| action(LinuxSeccompAction::ScmpActErrno, errno);
    assert!(matches!(errno(None), Ok(ScmpAction::Errno(libc::EPERM))));
    assert!(matches!(errno(Some(70_000)), Err(FilterError::Errno(70_000))));
}

/// What a call without arguments fails with under the filter, or zero.
fn error_of(profile: &LinuxSeccomp, call: libc::c_long) -> i32 {
    std::thread::scope(|scope| {
        let filtered = scope.spawn(|| {
            nix::sys::prctl::set_no_new_privs().unwrap();
            load(profile).unwrap();
            sys::call_without_arguments(call)
        });
        filtered.join().unwrap()
    })
}

#[test]
fn newer_calls_do_not_exist_and_older_ones_are_forbidden() {
    // What the thread itself needs, close_range being the newest.
    let names = [
        "futex",
        "madvise",
        "munmap",
        "sigaltstack",
        "rt_sigprocmask",
        "exit",
        "close",
        "close_range",
        "write",
        "set_robust_list",
        "rseq",
        "mprotect",
        "mmap",
        "brk",
        "gettid",
    ];
    let profile = profile(allowing(&names));
    assert_eq!(error_of(&profile, MSEAL), libc::ENOSYS);
    assert_eq!(error_of(&profile, libc::SYS_getppid), libc::EPERM);
    assert_eq!(error_of(&profile, libc::SYS_gettid), 0);
}

/// All architectures in one, as libseccomp puts them together.
fn by_libseccomp(profile: &LinuxSeccomp) -> Vec<Instruction> {
    let default = action(profile.default_action(), profile.default_errno_ret()).unwrap();
    let mut filter = ScmpFilterContext::new(default).unwrap();
    for arch in architectures(profile).unwrap() {
        filter.add_arch(arch).unwrap();
    }
    for rule in profile.syscalls().iter().flatten() {
        let action = action(rule.action(), rule.errno_ret()).unwrap();
        if action != default {
            add(&mut filter, action, rule).unwrap();
        }
    }
    exported(&filter).unwrap()
}

/// What the kernel would do with a call.
fn run(filter: &[Instruction], arch: u32, call: u32, arguments: [u64; 6]) -> u32 {
    let word = |offset: u32| match offset {
        CALL => call,
        ARCH => arch,
        _ => {
            let argument = arguments[usize::try_from(offset - 16).unwrap() / 8];
            u32::try_from(argument >> (8 * (offset % 8)) & 0xffff_ffff).unwrap()
        }
    };
    let (mut at, mut accumulator) = (0, 0);
    loop {
        let [c0, c1, if_true, if_false, o0, o1, o2, o3] = filter[at];
        let operand = u32::from_ne_bytes([o0, o1, o2, o3]);
        let branch = |holds| u32::from(if holds { if_true } else { if_false });
        at += 1 + usize::try_from(match u16::from_ne_bytes([c0, c1]) {
            LOAD => {
                accumulator = word(operand);
                0
            }
            // BPF_ALU | BPF_AND
            0x54 => {
                accumulator &= operand;
                0
            }
            JUMP => operand,
            JUMP_IF_EQUAL => branch(accumulator == operand),
            JUMP_IF_GREATER => branch(accumulator > operand),
            JUMP_IF_AT_LEAST => branch(accumulator >= operand),
            RETURN => return operand,
            other => panic!("{other:#x}"),
        })
        .unwrap();
    }
}

#[test]
fn filters_of_one_architecture_each_do_together_what_one_of_all_does() {
    let text = include_str!("../../../../../tests/e2e/src/programs/seccomp-default.json");
    let engines: Value = serde_json::from_str(text).unwrap();
    let names = ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"];
    for listed in [&names[..0], &names[..1], &names[..2], &names[1..], &names[2..], &names[..]] {
        let mut profile = engines.clone();
        profile["architectures"] = json!(listed);
        let profile: LinuxSeccomp = serde_json::from_value(profile).unwrap();
        let (ours, theirs) = (compile(&profile).unwrap(), by_libseccomp(&profile));
        // AArch64's beside them, and calls with some arguments that the profile looks at.
        let archs = [X86_64, X86, 0xC000_00B7];
        let calls = (0..560).flat_map(|call| [call, call | FIRST_OF_X32]).chain([NO_CALL, NO_CALL - 1]);
        for (call, arch) in calls.flat_map(|call| archs.map(|arch| (call, arch))) {
            for value in [0, 1, 7, 8, 40, 0x20000, 0x20008, 0x7e02_0000, 0xffff_ffff, 1 << 32, u64::MAX] {
                let arguments = [value; 6];
                let (ours, theirs) = (run(&ours, arch, call, arguments), run(&theirs, arch, call, arguments));
                assert_eq!(ours, theirs, "{listed:?}: {arch:#x} {call:#x} {value:#x}");
            }
        }
    }
}
