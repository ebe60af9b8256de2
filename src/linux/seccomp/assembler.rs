//! Writes a classic BPF program from its end to its beginning, so that every jump goes to what is there already.
//!
//! **Invariant:** jumps only go forward, conditional ones at most 255 instructions far.

use std::collections::HashMap;

use super::{Instruction, JUMP, RETURN};

/// An instruction that is written already: its position counted from the end of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Label(usize);

/// How far a label may be before something nearer is put in its place. A branch reaches 255, and the two stand-ins of
/// one branch may move each other away by one.
const NEAR: usize = 250;

#[derive(Debug, Default)]
pub(super) struct Assembler {
    /// The last instruction first.
    reversed: Vec<Instruction>,
    /// Where each answer was written last.
    answers: HashMap<u32, Label>,
}

impl Assembler {
    /// An instruction that ends the program with this answer: one for all who are near enough.
    pub(super) fn answer(&mut self, answer: u32) -> Label {
        match self.answers.get(&answer) {
            Some(label) if self.distance(*label) <= NEAR => *label,
            Some(_) | None => {
                let label = self.push(Instruction {
                    code: RETURN,
                    jump_true: 0,
                    jump_false: 0,
                    operand: answer,
                });
                self.answers.insert(answer, label);
                label
            }
        }
    }

    /// Compare, and go on at one of the two.
    pub(super) fn branch(&mut self, code: u16, operand: u32, then: Label, otherwise: Label) -> Label {
        let (then, otherwise) = (self.near(then), self.near(otherwise));
        let jump =
            |label| u8::try_from(self.distance(label)).expect("near labels are fewer than 256 instructions away");
        let (jump_true, jump_false) = (jump(then), jump(otherwise));
        self.push(Instruction {
            code,
            jump_true,
            jump_false,
            operand,
        })
    }

    /// Do this, then go on at `next`.
    pub(super) fn before(&mut self, instruction: Instruction, next: Label) -> Label {
        if self.distance(next) > 0 {
            self.jump(next);
        }
        self.push(instruction)
    }

    pub(super) fn finish(mut self) -> Vec<Instruction> {
        self.reversed.reverse();
        self.reversed
    }

    fn push(&mut self, instruction: Instruction) -> Label {
        self.reversed.push(instruction);
        Label(self.reversed.len() - 1)
    }

    /// How many instructions an instruction written now would jump over to get there.
    fn distance(&self, label: Label) -> usize {
        self.reversed.len() - 1 - label.0
    }

    fn jump(&mut self, label: Label) -> Label {
        // Programs that are too long for this are refused as a whole; a wrapped distance is never installed.
        let operand = u32::try_from(self.distance(label)).unwrap_or(u32::MAX);
        self.push(Instruction {
            code: JUMP,
            jump_true: 0,
            jump_false: 0,
            operand,
        })
    }

    /// This label, or one nearby that leads to the same.
    fn near(&mut self, label: Label) -> Label {
        let Instruction { code, operand, .. } = self.reversed[label.0];
        if self.distance(label) <= NEAR {
            label
        } else if code == RETURN {
            self.answer(operand)
        } else {
            self.jump(label)
        }
    }
}
