//! Device access rules of a container, as a BPF program on its cgroup.
//!
//! The rules mean what they meant for the devices controller of cgroup v1: one
//! behaviour for all devices and a list of exceptions. As with runc the devices
//! that every container has are allowed after the given rules.

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

/// An instruction as the kernel reads it (little-endian).
pub(crate) type Instruction = [u8; 8];

const MAKE: u8 = 1;
const READ: u8 = 2;
const WRITE: u8 = 4;
const ALL: u8 = MAKE | READ | WRITE;

const BLOCK: u8 = 1;
const CHARACTER: u8 = 2;

/// An exception; `None` stands for every number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Exception {
    kind: u8,
    major: Option<u32>,
    minor: Option<u32>,
    access: u8,
}

impl Exception {
    fn same_devices(&self, other: &Self) -> bool {
        (self.kind, self.major, self.minor) == (other.kind, other.major, other.minor)
    }
}

/// What a container may do with devices.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct DevicePolicy {
    allow: bool,
    exceptions: Vec<Exception>,
}

impl DevicePolicy {
    /// The policy that `rules` describe, one after the other.
    pub(crate) fn new(rules: &[LinuxDeviceCgroup]) -> Self {
        let mut policy = Self { allow: false, exceptions: Vec::new() };
        for rule in rules {
            policy.apply(rule);
        }
        policy.allow_standard_devices();
        policy
    }

    fn apply(&mut self, rule: &LinuxDeviceCgroup) {
        let kinds: &[u8] = match rule.typ().unwrap_or(LinuxDeviceType::A) {
            LinuxDeviceType::A => &[BLOCK, CHARACTER],
            LinuxDeviceType::B => &[BLOCK],
            LinuxDeviceType::C | LinuxDeviceType::U => &[CHARACTER],
            LinuxDeviceType::P => return,
        };
        let (major, minor) = (number(rule.major()), number(rule.minor()));
        if kinds.len() == 2 && major.is_none() && minor.is_none() {
            self.allow = rule.allow();
            self.exceptions.clear();
            return;
        }
        let access = access_bits(rule.access().as_deref());
        for &kind in kinds {
            self.change(rule.allow(), Exception { kind, major, minor, access });
        }
    }

    fn change(&mut self, allow: bool, change: Exception) {
        let known = self.exceptions.iter_mut().find(|exception| exception.same_devices(&change));
        match (allow == self.allow, known) {
            (true, Some(exception)) => exception.access &= !change.access,
            (true, None) => {}
            (false, Some(exception)) => exception.access |= change.access,
            (false, None) => self.exceptions.push(change),
        }
        self.exceptions.retain(|exception| exception.access != 0);
    }

    fn allow_standard_devices(&mut self) {
        let mut allow =
            |kind, major, minor, access| self.change(true, Exception { kind, major, minor, access });
        // Making any node is harmless as long as it cannot be opened.
        allow(CHARACTER, None, None, MAKE);
        allow(BLOCK, None, None, MAKE);
        // null, zero, full, random, urandom
        for minor in [3, 5, 7, 8, 9] {
            allow(CHARACTER, Some(1), Some(minor), ALL);
        }
        // tty, console, ptmx
        for minor in [0, 1, 2] {
            allow(CHARACTER, Some(5), Some(minor), ALL);
        }
        // Pseudo-terminals.
        allow(CHARACTER, Some(136), None, ALL);
    }

    /// The program: 1 in register 0 lets the access pass, 0 refuses it.
    pub(crate) fn program(&self) -> Vec<Instruction> {
        let mut program = vec![
            // r2 = type, r3 = access, r4 = major, r5 = minor
            load_word(2, 0),
            copy(3, 2),
            and(2, 0xffff),
            shift_right(3, 16),
            load_word(4, 4),
            load_word(5, 8),
        ];
        for exception in &self.exceptions {
            program.extend(self.branch(exception));
        }
        program.extend(answer(self.allow));
        program
    }

    /// Answers when the exception holds, else goes on behind itself.
    fn branch(&self, exception: &Exception) -> Vec<Instruction> {
        let mut checks = vec![skip_unless_equal(2, i32::from(exception.kind))];
        checks.extend(exception.major.map(|major| skip_unless_equal(4, major.cast_signed())));
        checks.extend(exception.minor.map(|minor| skip_unless_equal(5, minor.cast_signed())));
        if exception.access != ALL {
            let listed = i32::from(exception.access);
            checks.push(copy(1, 3));
            if self.allow {
                // Refuse when any of the accesses is listed.
                checks.extend([and(1, listed), skip_if_zero(1)]);
            } else {
                // Allow when none is unlisted.
                checks.extend([and(1, !listed & i32::from(ALL)), skip_unless_zero(1)]);
            }
        }
        checks.extend(answer(!self.allow));
        let end = checks.len();
        for (at, instruction) in checks.iter_mut().enumerate() {
            if is_skip(*instruction) {
                let distance = i16::try_from(end - at - 1).unwrap_or(i16::MAX);
                instruction[2..4].copy_from_slice(&distance.to_le_bytes());
            }
        }
        checks
    }
}

/// A negative number is the configuration's way to say "every".
fn number(given: Option<i64>) -> Option<u32> {
    given.and_then(|number| u32::try_from(number).ok())
}

fn access_bits(access: Option<&str>) -> u8 {
    let bit = |letter| match letter {
        'm' => MAKE,
        'r' => READ,
        'w' => WRITE,
        _ => 0,
    };
    access.map_or(ALL, |letters| letters.chars().map(bit).fold(0, |bits, bit| bits | bit))
}

// Opcodes: class, operation and source (linux/bpf_common.h, linux/bpf.h).
const LOAD_WORD: u8 = 0x61;
const COPY: u8 = 0xbc;
const AND: u8 = 0x54;
const SHIFT_RIGHT: u8 = 0x74;
const MOVE: u8 = 0xb7;
const EXIT: u8 = 0x95;
const JUMP_IF_NOT_EQUAL: u8 = 0x56;
const JUMP_IF_EQUAL: u8 = 0x16;

fn instruction(code: u8, to: u8, from: u8, offset: i16, value: i32) -> Instruction {
    let [o0, o1] = offset.to_le_bytes();
    let [v0, v1, v2, v3] = value.to_le_bytes();
    [code, to | from << 4, o0, o1, v0, v1, v2, v3]
}

fn load_word(to: u8, offset: i16) -> Instruction {
    // Register 1 points to the context: type and access, major, minor.
    instruction(LOAD_WORD, to, 1, offset, 0)
}

fn copy(to: u8, from: u8) -> Instruction {
    instruction(COPY, to, from, 0, 0)
}

fn and(register: u8, value: i32) -> Instruction {
    instruction(AND, register, 0, 0, value)
}

fn shift_right(register: u8, bits: i32) -> Instruction {
    instruction(SHIFT_RIGHT, register, 0, 0, bits)
}

// The distance of a skip is filled in when the branch is complete.
fn skip_unless_equal(register: u8, value: i32) -> Instruction {
    instruction(JUMP_IF_NOT_EQUAL, register, 0, 0, value)
}

fn skip_unless_zero(register: u8) -> Instruction {
    skip_unless_equal(register, 0)
}

fn skip_if_zero(register: u8) -> Instruction {
    instruction(JUMP_IF_EQUAL, register, 0, 0, 0)
}

fn is_skip(instruction: Instruction) -> bool {
    matches!(instruction[0], JUMP_IF_NOT_EQUAL | JUMP_IF_EQUAL)
}

fn answer(allow: bool) -> [Instruction; 2] {
    [instruction(MOVE, 0, 0, 0, i32::from(allow)), instruction(EXIT, 0, 0, 0, 0)]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn policy(rules: serde_json::Value) -> DevicePolicy {
        DevicePolicy::new(&serde_json::from_value::<Vec<LinuxDeviceCgroup>>(rules).unwrap())
    }

    /// Runs the program as the kernel would.
    fn decide(policy: &DevicePolicy, kind: u8, access: u8, major: u32, minor: u32) -> bool {
        let program = policy.program();
        let context = [u32::from(access) << 16 | u32::from(kind), major, minor];
        let mut registers = [0u32; 16];
        let mut at = 0;
        loop {
            let [code, pair, o0, o1, v @ ..] = program[at];
            let (to, from) = (usize::from(pair & 15), usize::from(pair >> 4));
            let offset = usize::try_from(i16::from_le_bytes([o0, o1])).unwrap();
            let value = u32::from_le_bytes(v);
            at += 1;
            match code {
                LOAD_WORD => registers[to] = context[offset / 4],
                COPY => registers[to] = registers[from],
                AND => registers[to] &= value,
                SHIFT_RIGHT => registers[to] >>= value,
                MOVE => registers[to] = value,
                JUMP_IF_NOT_EQUAL if registers[to] != value => at += offset,
                JUMP_IF_EQUAL if registers[to] == value => at += offset,
                EXIT => return registers[0] == 1,
                _ => {}
            }
        }
    }

    #[test]
    fn deny_all_leaves_the_standard_devices() {
        let policy = policy(json!([{"allow": false, "access": "rwm"}]));
        assert!(decide(&policy, CHARACTER, READ | WRITE, 1, 3));
        assert!(decide(&policy, CHARACTER, READ | WRITE, 136, 9));
        assert!(decide(&policy, BLOCK, MAKE, 8, 0));
        assert!(!decide(&policy, BLOCK, READ, 8, 0));
        assert!(!decide(&policy, CHARACTER, MAKE | READ, 10, 200));
    }

    #[test]
    fn allowed_device_is_allowed_for_the_accesses_given() {
        let policy = policy(json!([
            {"allow": false},
            {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "r"},
            {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "w"},
            {"allow": true, "type": "b", "major": 8, "access": "r"}
        ]));
        assert!(decide(&policy, CHARACTER, READ | WRITE, 10, 229));
        assert!(!decide(&policy, CHARACTER, READ | WRITE | MAKE, 10, 229));
        assert!(decide(&policy, BLOCK, READ, 8, 17));
        assert!(!decide(&policy, BLOCK, READ | WRITE, 8, 17));
    }

    #[test]
    fn allow_all_then_deny_refuses_what_overlaps() {
        let policy = policy(json!([
            {"allow": true, "type": "a"},
            {"allow": false, "type": "c", "major": 10, "minor": 200, "access": "w"}
        ]));
        assert!(decide(&policy, BLOCK, ALL, 8, 0));
        assert!(decide(&policy, CHARACTER, READ, 10, 200));
        assert!(!decide(&policy, CHARACTER, READ | WRITE, 10, 200));
    }

    #[test]
    fn later_deny_takes_an_earlier_allow_back() {
        let policy = policy(json!([
            {"allow": true, "type": "c", "major": 10, "minor": 1},
            {"allow": false, "type": "c", "major": 10, "minor": 1, "access": "w"}
        ]));
        assert!(decide(&policy, CHARACTER, READ, 10, 1));
        assert!(!decide(&policy, CHARACTER, WRITE, 10, 1));
    }
}
