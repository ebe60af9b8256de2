//! The wire format itself: bytes in, numbered parts out.

use super::ProtobufError;

/// A field's value as the wire has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part<'a> {
    Varint(u64),
    /// Text, bytes, a message, or numbers packed together.
    Bytes(&'a [u8]),
    /// Four or eight bytes: no field of Kubernetes is of such a type.
    Fixed,
}

/// Goes through the fields of one message.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The next field; `None` at the end of the message.
    pub(super) fn next(&mut self) -> Result<Option<(u32, Part<'a>)>, ProtobufError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let tag = self.varint("a tag")?;
        let number = u32::try_from(tag >> 3)
            .ok()
            .filter(|n| (1..1 << 29).contains(n))
            .ok_or(ProtobufError::FieldNumber(tag >> 3))?;
        let part = match tag & 7 {
            0 => Part::Varint(self.varint("a number")?),
            1 => {
                self.take(8, "a fixed number")?;
                Part::Fixed
            }
            2 => {
                let length = self.varint("a length")?;
                let length = usize::try_from(length).map_err(|_| ProtobufError::Short("a field"))?;
                Part::Bytes(self.take(length, "a field")?)
            }
            5 => {
                self.take(4, "a fixed number")?;
                Part::Fixed
            }
            // 3 and 4 are groups, which proto3 has given up and Kubernetes never had.
            other => return Err(ProtobufError::WireType(u8::try_from(other).unwrap_or(u8::MAX))),
        };
        Ok(Some((number, part)))
    }

    /// The next of numbers that are packed together.
    pub(super) fn packed(&mut self) -> Result<Option<u64>, ProtobufError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        self.varint("a number").map(Some)
    }

    fn varint(&mut self, what: &'static str) -> Result<u64, ProtobufError> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.rest.split_first().ok_or(ProtobufError::Short(what))?;
            self.rest = rest;
            let bits = u64::from(byte & 0x7f);
            // The tenth byte has room for one bit.
            if shift == 63 && bits > 1 {
                return Err(ProtobufError::Varint(what));
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(ProtobufError::Varint(what))
    }

    fn take(&mut self, length: usize, what: &'static str) -> Result<&'a [u8], ProtobufError> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(ProtobufError::Short(what))?;
        self.rest = rest;
        Ok(taken)
    }
}
