//! What filters do with calls: as the kernel would run them, next to another compiler's.

use std::collections::BTreeMap;

use libc::{SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO, SECCOMP_RET_KILL_PROCESS};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, sock_filter,
};

use super::calls::{EVENT_LOOP, EVERYWHERE, LOCKS, OWNER};
use super::filter::of_lists;
use super::{Call, file_server};
use crate::virtio::{block, net};

const X86_64: u32 = 0xC000_003E;
const I386: u32 = 0x4000_0003;
const NO_SUCH_CALL: u32 = SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs();

/// A call as a filter sees it.
#[derive(Clone, Copy, Debug)]
struct Made {
    arch: u32,
    number: u32,
    arguments: [u64; 6],
}

impl Made {
    fn new(number: libc::c_long, arguments: [u64; 6]) -> Self {
        Self { arch: X86_64, number: u32::try_from(number).unwrap(), arguments }
    }

    /// The word at this offset of `struct seccomp_data`.
    fn word(&self, offset: u32) -> u32 {
        match offset {
            0 => self.number,
            4 => self.arch,
            16.. => {
                let argument = self.arguments[usize::try_from((offset - 16) / 8).unwrap()];
                u32::try_from((argument >> (8 * (offset % 8))) & 0xffff_ffff).unwrap()
            }
            _ => panic!("{offset}"),
        }
    }
}

/// What the kernel would do with the call: the instructions that filters are made of, and no others.
fn run(program: &[sock_filter], made: &Made) -> u32 {
    let (mut at, mut word) = (0, 0);
    loop {
        let sock_filter { code, jt, jf, k } = program[at];
        let skip = match code {
            0x20 => {
                word = made.word(k);
                0
            }
            0x54 => {
                word &= k;
                0
            }
            0x05 => k,
            0x06 => return k,
            0x15 => u32::from(if word == k { jt } else { jf }),
            0x25 => u32::from(if word > k { jt } else { jf }),
            0x35 => u32::from(if word >= k { jt } else { jf }),
            0x45 => u32::from(if word & k != 0 { jt } else { jf }),
            _ => panic!("{code:#x}"),
        };
        at += 1 + usize::try_from(skip).unwrap();
    }
}

/// The same by seccompiler, which compares one call after the other.
fn by_another_compiler(lists: &[&[Call]]) -> BpfProgram {
    let equals = |index, value| {
        SeccompCondition::new(index, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value).unwrap()
    };
    let rule = |conditions| SeccompRule::new(conditions).unwrap();
    let mut rules = BTreeMap::<_, Vec<_>>::new();
    for call in lists.iter().copied().flatten() {
        let more = match *call {
            Call::Missing(_) => continue,
            Call::Any(_) => Vec::new(),
            Call::OneOf(_, index, values) => {
                values.iter().map(|value| rule(vec![equals(index, *value)])).collect()
            }
            Call::Without(_, index, bits) => {
                let unset = SeccompCmpOp::MaskedEq(bits);
                vec![rule(vec![SeccompCondition::new(index, SeccompCmpArgLen::Dword, unset, 0).unwrap()])]
            }
            Call::Signals(signals) => {
                let own = u64::from(std::process::id());
                signals.iter().map(|signal| rule(vec![equals(0, own), equals(2, *signal)])).collect()
            }
        };
        let known = rules.entry(call.number()).or_default();
        known.extend(more);
    }
    let (others, these) = (SeccompAction::KillProcess, SeccompAction::Allow);
    SeccompFilter::new(rules, others, these, TargetArch::x86_64).unwrap().try_into().unwrap()
}

/// All values that some call is compared with, and their neighbours.
fn telling(lists: &[&[Call]]) -> Vec<u64> {
    let values = lists.iter().copied().flatten().flat_map(|call| match *call {
        Call::Any(_) | Call::Missing(_) => Vec::new(),
        Call::OneOf(_, _, values) | Call::Signals(values) => values.to_vec(),
        Call::Without(_, _, bits) => vec![bits],
    });
    let values = values.chain([0, std::process::id().into(), u64::MAX, 1 << 32]);
    values.flat_map(|value| [value.wrapping_sub(1), value, value.wrapping_add(1)]).collect()
}

#[test]
fn filters_of_all_classes_do_what_another_compilers_do() {
    let classes: [&[&[Call]]; 8] = [
        &[EVERYWHERE],
        &[EVERYWHERE, EVENT_LOOP],
        &[EVERYWHERE, file_server::CALLS],
        &[EVERYWHERE, LOCKS],
        &[EVERYWHERE, block::CALLS],
        &[EVERYWHERE, OWNER],
        &[EVERYWHERE, net::CALLS, net::TAP],
        &[EVERYWHERE, OWNER, net::CALLS, net::TAP, block::CALLS],
    ];
    for lists in classes {
        let (ours, theirs) = (of_lists(&lists[1..]).unwrap(), by_another_compiler(lists));
        let calls = || lists.iter().copied().flatten();
        let missing: Vec<_> =
            calls().filter(|call| matches!(call, Call::Missing(_))).map(Call::number).collect();
        let compare = |made: Made| {
            let expected = match missing.contains(&made.number.into()) && made.arch == X86_64 {
                true => NO_SUCH_CALL,
                false => run(&theirs, &made),
            };
            assert_eq!(run(&ours, &made), expected, "{made:?}");
        };
        let values = telling(lists);
        for number in 0..600 {
            compare(Made::new(number, [0; 6]));
            compare(Made { arch: I386, ..Made::new(number, [0; 6]) });
            compare(Made::new(number | 1 << 30, [0; 6]));
            for (index, value) in (0..6).flat_map(|index| values.iter().map(move |value| (index, *value))) {
                let mut arguments = [0; 6];
                arguments[index] = value;
                compare(Made::new(number, arguments));
                // As `tgkill` has it.
                arguments[0] = std::process::id().into();
                compare(Made::new(number, arguments));
            }
        }
    }
}

#[test]
fn what_is_left_of_signals_is_for_this_process() {
    let filter = of_lists(&[&[Call::Signals(&[34])]]).unwrap();
    let own = u64::from(std::process::id());
    let verdict = |process, signal| run(&filter, &Made::new(libc::SYS_tgkill, [process, 1, signal, 0, 0, 0]));
    assert_eq!((verdict(own, 6), verdict(own, 34)), (SECCOMP_RET_ALLOW, SECCOMP_RET_ALLOW));
    for (process, signal) in [(own, 9), (own, 35), (own + 1, 6), (1, 34)] {
        assert_eq!(verdict(process, signal), SECCOMP_RET_KILL_PROCESS, "{process} {signal}");
    }
}

#[test]
fn rules_of_one_call_add_up_and_a_value_that_no_argument_has_is_refused() {
    let ioctl = libc::SYS_ioctl;
    let limited = [Call::OneOf(ioctl, 1, &[1]), Call::OneOf(ioctl, 1, &[]), Call::OneOf(ioctl, 1, &[3, 5])];
    let verdict =
        |lists: &[&[Call]], value| run(&of_lists(lists).unwrap(), &Made::new(ioctl, [0, value, 0, 0, 0, 0]));
    let allowed = |lists: &[&[Call]]| -> Vec<_> {
        (0..7).filter(|value| verdict(lists, *value) == SECCOMP_RET_ALLOW).collect()
    };
    assert_eq!(allowed(&[&limited]), [1, 3, 5]);
    assert_eq!(allowed(&[&limited, &[Call::Any(ioctl)]]), [0, 1, 2, 3, 4, 5, 6]);
    assert_eq!(allowed(&[&[Call::Missing(ioctl)], &limited]), [1, 3, 5]);
    assert!(of_lists(&[&[Call::OneOf(ioctl, 1, &[1 << 32])]]).is_err());
}

const VALUES: &[&[u64]] = &[&[], &[0], &[1, 2, 3], &[0xffff_ffff, 7], &[5, 5]];

fn any_call() -> impl Strategy<Value = Call> {
    let number = || 0..470_i64;
    prop_oneof![
        number().prop_map(Call::Any),
        number().prop_map(Call::Missing),
        (number(), 0..6_u8, select(VALUES))
            .prop_map(|(number, index, values)| Call::OneOf(number, index, values)),
        (number(), 0..6_u8, 0..9_u64).prop_map(|(number, index, bits)| Call::Without(number, index, bits)),
    ]
}

/// What one of the calls of a list says of one that is made.
fn lets_through(call: &Call, made: &Made) -> bool {
    let lower = |index: u8| made.arguments[usize::from(index)] & 0xffff_ffff;
    call.number() == i64::from(made.number)
        && match *call {
            Call::Any(_) => true,
            Call::OneOf(_, index, values) => values.contains(&lower(index)),
            Call::Without(_, index, bits) => lower(index) & bits == 0,
            Call::Missing(_) | Call::Signals(_) => false,
        }
}

proptest! {
    #[test]
    fn any_list_lets_through_what_one_of_its_calls_does(
        calls in vec(any_call(), 0..200),
        made in vec((0..480_i64, proptest::array::uniform6(prop_oneof![0..9_u64, Just(0xffff_ffff), any::<u64>()])), 100),
    ) {
        let filter = of_lists(&[&calls]).unwrap();
        for (number, arguments) in made {
            let made = Made::new(number, arguments);
            let is_everybodys = EVERYWHERE.iter().any(|call| call.number() == number);
            let allowed = calls.iter().any(|call| lets_through(call, &made));
            let verdict = run(&filter, &made);
            if !is_everybodys {
                prop_assert_eq!(verdict == SECCOMP_RET_ALLOW, allowed, "{:?}", made);
            }
            let known = calls.iter().filter(|call| call.number() == number);
            if !is_everybodys && known.clone().count() > 0 && known.clone().all(|call| matches!(call, Call::Missing(_))) {
                prop_assert_eq!(verdict, NO_SUCH_CALL);
            }
        }
    }
}
