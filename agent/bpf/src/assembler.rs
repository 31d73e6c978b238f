//! Instructions, and jumps to places that are named before they are known.

use std::io;

/// One instruction, as the kernel reads it.
pub type Instruction = [u8; 8];

/// `R0` holds results, `R1` to `R5` arguments, `R6` to `R9` keep what they hold over calls, and `R10` is
/// the end of the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Register {
    R0,
    R1,
    R2,
    R3,
    R4,
    R5,
    R6,
    R7,
    R8,
    R9,
    R10,
}

/// How many bytes of memory are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// One.
    Byte,
    /// Two.
    Half,
    /// Four.
    Word,
}

/// Functions of the kernel (`bpf-helpers(7)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Helper {
    /// `bpf_map_lookup_elem`
    MapLookup = 1,
    /// `bpf_clone_redirect`
    CloneRedirect = 13,
    /// `bpf_skb_load_bytes`
    LoadBytes = 26,
    /// `bpf_sk_lookup_tcp`
    FindTcpSocket = 84,
    /// `bpf_sk_lookup_udp`
    FindUdpSocket = 85,
    /// `bpf_sk_release`
    ReleaseSocket = 86,
    /// `bpf_sk_assign`
    AssignSocket = 124,
}

/// A place in the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label(usize);

const LOAD: u8 = 0x61;
const STORE: u8 = 0x63;
const STORE_VALUE: u8 = 0x62;
const SET: u8 = 0xb7;
const COPY: u8 = 0xbf;
const ADD: u8 = 0x07;
const ADD_REGISTER: u8 = 0x0f;
const AND: u8 = 0x57;
const SHIFT_LEFT: u8 = 0x67;
const JUMP: u8 = 0x05;
const JUMP_IF_ZERO: u8 = 0x15;
/// Of 32 bits, whose values are not extended by their sign.
const JUMP_IF_EQUAL: u8 = 0x16;
const JUMP_UNLESS_EQUAL: u8 = 0x56;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
const LOAD_LONG: u8 = 0x18;
/// What a long load holds is a map's descriptor.
const MAP: u8 = 1;

impl Size {
    fn bits(self) -> u8 {
        match self {
            Self::Word => 0x00,
            Self::Half => 0x08,
            Self::Byte => 0x10,
        }
    }
}

/// A program while it is written.
#[derive(Clone, Debug, Default)]
pub struct Assembler {
    instructions: Vec<Instruction>,
    /// Where each label is, once it is placed.
    labels: Vec<Option<usize>>,
    /// Which jump leads to which label.
    jumps: Vec<(usize, Label)>,
}

impl Assembler {
    /// A place that is yet to come.
    pub fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    /// The place is here.
    pub fn place(&mut self, label: Label) -> &mut Self {
        let here = self.instructions.len();
        if let Some(place) = self.labels.get_mut(label.0) {
            *place = Some(here);
        }
        self
    }

    /// `to = value`
    pub fn set(&mut self, to: Register, value: i32) -> &mut Self {
        self.push(SET, to, 0, 0, value)
    }

    /// `to = from`
    pub fn copy(&mut self, to: Register, from: Register) -> &mut Self {
        self.push(COPY, to, from as u8, 0, 0)
    }

    /// `to += value`
    pub fn add(&mut self, to: Register, value: i32) -> &mut Self {
        self.push(ADD, to, 0, 0, value)
    }

    /// `to += from`
    pub fn add_register(&mut self, to: Register, from: Register) -> &mut Self {
        self.push(ADD_REGISTER, to, from as u8, 0, 0)
    }

    /// `to &= value`
    pub fn and(&mut self, to: Register, value: i32) -> &mut Self {
        self.push(AND, to, 0, 0, value)
    }

    /// `to <<= bits`
    pub fn shift_left(&mut self, to: Register, bits: i32) -> &mut Self {
        self.push(SHIFT_LEFT, to, 0, 0, bits)
    }

    /// `to = *(at + offset)`
    pub fn load(&mut self, size: Size, to: Register, at: Register, offset: i16) -> &mut Self {
        self.push(LOAD | size.bits(), to, at as u8, offset, 0)
    }

    /// `*(at + offset) = from`
    pub fn store(&mut self, size: Size, at: Register, offset: i16, from: Register) -> &mut Self {
        self.push(STORE | size.bits(), at, from as u8, offset, 0)
    }

    /// `*(at + offset) = value`
    pub fn store_value(&mut self, size: Size, at: Register, offset: i16, value: i32) -> &mut Self {
        self.push(STORE_VALUE | size.bits(), at, 0, offset, value)
    }

    /// `to` is the map behind the descriptor.
    pub fn load_map(&mut self, to: Register, map: i32) -> &mut Self {
        self.push(LOAD_LONG, to, MAP, 0, map).push(0, Register::R0, 0, 0, 0)
    }

    /// Calls with `R1` and so on; the result is in `R0`.
    pub fn call(&mut self, helper: Helper) -> &mut Self {
        self.push(CALL, Register::R0, 0, 0, helper as i32)
    }

    /// Goes on at the label.
    pub fn jump(&mut self, to: Label) -> &mut Self {
        self.jump_by(JUMP, Register::R0, 0, to)
    }

    /// Goes on at the label if the register holds zero, or no pointer.
    pub fn jump_if_zero(&mut self, register: Register, to: Label) -> &mut Self {
        self.jump_by(JUMP_IF_ZERO, register, 0, to)
    }

    /// Goes on at the label if the lower half of the register is this.
    pub fn jump_if_equal(&mut self, register: Register, value: i32, to: Label) -> &mut Self {
        self.jump_by(JUMP_IF_EQUAL, register, value, to)
    }

    /// Goes on at the label if the lower half of the register is anything else.
    pub fn jump_unless_equal(&mut self, register: Register, value: i32, to: Label) -> &mut Self {
        self.jump_by(JUMP_UNLESS_EQUAL, register, value, to)
    }

    /// Ends the program with this result.
    pub fn end(&mut self, result: i32) -> &mut Self {
        self.set(Register::R0, result).push(EXIT, Register::R0, 0, 0, 0)
    }

    /// The program, with its jumps.
    ///
    /// # Errors
    /// A jump leads nowhere, or too far.
    pub fn finish(mut self) -> io::Result<Vec<Instruction>> {
        let nowhere = || io::Error::new(io::ErrorKind::InvalidInput, "a jump leads nowhere");
        for (at, label) in std::mem::take(&mut self.jumps) {
            let target = self.labels.get(label.0).copied().flatten().ok_or_else(nowhere)?;
            // The verifier refuses loops that it cannot see the end of: jumps lead forward.
            let distance = target.checked_sub(at + 1).ok_or_else(nowhere)?;
            let distance = i16::try_from(distance).map_err(io::Error::other)?;
            let instruction = self.instructions.get_mut(at).ok_or_else(nowhere)?;
            [instruction[2], instruction[3]] = distance.to_ne_bytes();
        }
        Ok(self.instructions)
    }

    fn jump_by(&mut self, code: u8, register: Register, value: i32, to: Label) -> &mut Self {
        self.jumps.push((self.instructions.len(), to));
        self.push(code, register, 0, 0, value)
    }

    /// On x86 the target register is in the lower half of the byte.
    fn push(&mut self, code: u8, to: Register, from: u8, offset: i16, value: i32) -> &mut Self {
        let [o0, o1] = offset.to_ne_bytes();
        let [v0, v1, v2, v3] = value.to_ne_bytes();
        self.instructions.push([code, (from << 4) | to as u8, o0, o1, v0, v1, v2, v3]);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::Register::{R0, R1, R10};
    use super::*;

    #[test]
    fn jump_leads_over_what_is_between() {
        let mut program = Assembler::default();
        let over = program.label();
        program.jump_unless_equal(R1, -2, over).end(7).place(over).end(1);
        let bytes = program.finish().unwrap();
        assert_eq!(bytes[0], [0x56, 0x01, 2, 0, 0xfe, 0xff, 0xff, 0xff]);
        assert_eq!(bytes[2], [0x95, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes.len(), 5);
    }

    #[test]
    fn label_that_is_never_placed_and_one_behind_are_errors() {
        let mut program = Assembler::default();
        let nowhere = program.label();
        program.jump(nowhere);
        assert!(program.finish().is_err());
        let mut program = Assembler::default();
        let behind = program.label();
        program.place(behind).set(R0, 0).jump(behind);
        assert!(program.finish().is_err());
    }

    #[test]
    fn memory_is_addressed_by_its_size() {
        let mut program = Assembler::default();
        program.load(Size::Half, R0, R1, 4).store_value(Size::Word, R10, -4, 9).load_map(R1, 5);
        let bytes = program.finish().unwrap();
        assert_eq!(bytes[0], [0x69, 0x10, 4, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[1], [0x62, 0x0a, 0xfc, 0xff, 9, 0, 0, 0]);
        assert_eq!(bytes[2..], [[0x18, 0x11, 0, 0, 5, 0, 0, 0], [0; 8]]);
    }
}
