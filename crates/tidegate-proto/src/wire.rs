//! XDR in the strict profile of the specification (section 3), and the generated messages.
//!
//! What decodes is canonical: `decode(x) = Ok(m)` implies `encode(m) = x`. Nothing is allocated
//! beyond the frame: a list is only reserved after `n × smallest element ≤ what is left` was
//! checked. Opaque data share the frame's memory if they are nearly all of it, and are copied
//! otherwise, so that keeping a part of a message does not keep the whole frame.
//!
//! # Not guaranteed
//!
//! That a message makes sense: what decodes is well-formed, and no more. Its channel checks whether
//! it is in turn, paid for by a permit, and true.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

mod schema;

pub use schema::*;

/// Opaque data from this size on become the body of a frame instead of being copied into its head.
const DETACH: usize = 1024;
const ZEROS: [u8; 3] = [0; 3];
/// Opaque data share the frame's memory if at most this number of bytes of it would be wasted: room
/// for the fields around an item.
const SHARED_REST: usize = 64;

/// An encoded message: a head, and optionally a body that many frames share.
///
/// The frame's bytes are the head, the body, and zeros up to a multiple of four.
#[derive(Clone, Default)]
pub struct Frame {
    head: Bytes,
    body: Option<Bytes>,
}

impl Frame {
    /// A frame in two pieces, of which the second may be shared with other frames.
    pub fn from_pieces(head: Bytes, body: Bytes) -> Self {
        Self { head, body: Some(body) }
    }

    /// Bytes on the wire, without the transport's own framing.
    pub fn len(&self) -> usize {
        match &self.body {
            None => self.head.len(),
            Some(body) => (self.head.len() + body.len()).next_multiple_of(4),
        }
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The pieces to send one after the other.
    pub fn parts(&self) -> [Bytes; 3] {
        let body = self.body.clone().unwrap_or_default();
        let pad = self.len() - self.head.len() - body.len();
        [self.head.clone(), body, Bytes::from_static(&ZEROS).slice(..pad)]
    }

    /// All of it in one piece.
    pub fn to_bytes(&self) -> Bytes {
        match &self.body {
            None => self.head.clone(),
            Some(_) => self.parts().concat().into(),
        }
    }

    /// Decodes a message that fills the frame. R3.9
    pub fn decode<T: Decode>(&self) -> Result<T, DecodeError> {
        let mut reader = Reader { frame: self, at: 0, len: self.len() };
        let message = T::decode(&mut reader)?;
        match reader.left() {
            // R3.1
            0 => Ok(message),
            left => Err(DecodeError::Trailing { left }),
        }
    }
}

impl From<Bytes> for Frame {
    fn from(head: Bytes) -> Self {
        Self { head, body: None }
    }
}

impl PartialEq for Frame {
    fn eq(&self, other: &Self) -> bool {
        self.to_bytes() == other.to_bytes()
    }
}

impl Eq for Frame {}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Frame({} bytes)", self.len())
    }
}

impl Serialize for Frame {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_bytes().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Frame {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Bytes::deserialize(deserializer).map(Self::from)
    }
}

/// A type with a wire form.
pub trait Encode {
    /// Appends the value.
    fn encode(&self, out: &mut Writer);

    /// The value as a frame of at most [`MAX_FRAME`] bytes.
    fn to_frame(&self) -> Result<Frame, EncodeError>
    where
        Self: Sized,
    {
        let mut out = Writer::default();
        self.encode(&mut out);
        out.finish()
    }

    /// The value's bytes, without a limit: for hashing and signing, and to be sent in chunks.
    fn to_bytes(&self) -> Result<Bytes, EncodeError>
    where
        Self: Sized,
    {
        let mut out = Writer::default();
        self.encode(&mut out);
        // It may be kept until it has been sent.
        out.head.shrink_to_fit();
        out.whole().map(|frame| frame.to_bytes())
    }
}

/// A type that can be read from the wire.
pub trait Decode: Sized {
    /// Bytes of the smallest value.
    const MIN_SIZE: usize;

    /// Reads one value.
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError>;
}

/// Why bytes are not a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The frame ends inside a value.
    #[error("the frame ends in the middle of a value")]
    Short,
    /// There are bytes after the message.
    #[error("{left} bytes follow the message")]
    Trailing {
        /// The number of them.
        left: usize,
    },
    /// A length exceeds its bound.
    #[error("a length of {length} where at most {bound} is allowed")]
    TooLong {
        /// The length found.
        length: usize,
        /// The schema's bound.
        bound: usize,
    },
    /// Padding is not zero.
    #[error("padding is not zero")]
    Padding,
    /// A value that the schema does not define.
    #[error("{value} is no {of}")]
    UnknownValue {
        /// The type.
        of: &'static str,
        /// The value found.
        value: u32,
    },
    /// A string that is not UTF-8.
    #[error("a string is not UTF-8")]
    NotUtf8,
}

/// Why a message cannot be encoded: it exceeds a bound of the schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a length of {length} where at most {bound} is allowed")]
pub struct EncodeError {
    /// The length found.
    pub length: usize,
    /// The bound.
    pub bound: usize,
}

/// Collects an encoded message.
#[derive(Debug, Default)]
pub struct Writer {
    head: Vec<u8>,
    /// The last opaque data, if nothing follows them.
    body: Option<Bytes>,
    error: Option<EncodeError>,
}

impl Writer {
    /// The frame, unless a bound was exceeded.
    pub fn finish(self) -> Result<Frame, EncodeError> {
        let frame = self.whole()?;
        match frame.len() {
            // R3.6
            length if length > MAX_FRAME => Err(EncodeError { length, bound: MAX_FRAME }),
            _ => Ok(frame),
        }
    }

    /// The bytes written, unless a bound other than that of frames was exceeded.
    fn whole(self) -> Result<Frame, EncodeError> {
        match self.error {
            Some(error) => Err(error),
            None => Ok(Frame { head: self.head.into(), body: self.body }),
        }
    }

    /// Appends an unsigned int.
    pub fn u32(&mut self, value: u32) {
        self.attach();
        self.head.extend_from_slice(&value.to_be_bytes());
    }

    /// Appends an unsigned hyper.
    pub fn u64(&mut self, value: u64) {
        self.attach();
        self.head.extend_from_slice(&value.to_be_bytes());
    }

    /// Appends a bool.
    pub fn bool(&mut self, value: bool) {
        self.u32(u32::from(value));
    }

    /// Appends opaque data of a fixed length.
    pub fn fixed(&mut self, bytes: &[u8]) {
        self.attach();
        self.head.extend_from_slice(bytes);
        self.pad();
    }

    /// Appends opaque data of a variable length.
    pub fn opaque(&mut self, bytes: &Bytes, bound: usize) {
        self.length(bytes.len(), bound);
        if bytes.len() >= DETACH {
            self.body = Some(bytes.clone());
        } else {
            self.head.extend_from_slice(bytes);
            self.pad();
        }
    }

    /// Appends a string.
    pub fn string(&mut self, text: &str, bound: usize) {
        self.length(text.len(), bound);
        self.head.extend_from_slice(text.as_bytes());
        self.pad();
    }

    /// Appends an array of a variable length.
    pub fn list<T: Encode>(&mut self, list: &[T], bound: usize) {
        self.length(list.len(), bound);
        for element in list {
            element.encode(self);
        }
    }

    /// Appends a value that may be absent.
    pub fn optional<T: Encode>(&mut self, value: Option<&T>) {
        self.bool(value.is_some());
        if let Some(value) = value {
            value.encode(self);
        }
    }

    fn length(&mut self, length: usize, bound: usize) {
        if length > bound {
            self.error.get_or_insert(EncodeError { length, bound });
        }
        self.u32(u32::try_from(length).unwrap_or(u32::MAX));
    }

    fn pad(&mut self) {
        self.head.resize(self.head.len().next_multiple_of(4), 0);
    }

    /// Something follows the last opaque data, so they are not the frame's body.
    fn attach(&mut self) {
        if let Some(body) = self.body.take() {
            self.head.extend_from_slice(&body);
            self.pad();
        }
    }
}

/// Reads values from a frame.
#[derive(Debug)]
pub struct Reader<'a> {
    frame: &'a Frame,
    at: usize,
    len: usize,
}

impl Reader<'_> {
    /// Bytes not yet read.
    pub fn left(&self) -> usize {
        self.len - self.at
    }

    /// Reads an unsigned int.
    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_be_bytes)
    }

    /// Reads an unsigned hyper.
    pub fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_be_bytes)
    }

    /// Reads a bool.
    pub fn bool(&mut self) -> Result<bool, DecodeError> {
        match self.u32()? {
            0 => Ok(false),
            1 => Ok(true),
            // R3.4
            value => Err(DecodeError::UnknownValue { of: "bool", value }),
        }
    }

    /// Reads opaque data of a fixed length.
    pub fn fixed<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let bytes = self.array()?;
        self.pad(N)?;
        Ok(bytes)
    }

    /// Reads opaque data of a variable length. They keep at most 64 bytes of the frame beside their
    /// own, however large it is.
    pub fn opaque(&mut self, bound: usize) -> Result<Bytes, DecodeError> {
        let length = self.length(bound, 1)?;
        let bytes = if length + SHARED_REST >= self.len {
            self.slice(length)
        } else {
            Bytes::copy_from_slice(&self.slice(length))
        };
        self.at += length;
        self.pad(length)?;
        Ok(bytes)
    }

    /// Reads a string.
    pub fn string(&mut self, bound: usize) -> Result<String, DecodeError> {
        let bytes = self.opaque(bound)?;
        // R3.5
        String::from_utf8(bytes.into()).map_err(|_| DecodeError::NotUtf8)
    }

    /// Reads an array of a variable length.
    pub fn list<T: Decode>(&mut self, bound: usize) -> Result<Vec<T>, DecodeError> {
        let length = self.length(bound, T::MIN_SIZE)?;
        let mut list = Vec::with_capacity(length);
        for _ in 0..length {
            list.push(T::decode(self)?);
        }
        Ok(list)
    }

    /// Reads a value that may be absent.
    pub fn optional<T: Decode>(&mut self) -> Result<Option<T>, DecodeError> {
        if self.bool()? { T::decode(self).map(Some) } else { Ok(None) }
    }

    /// A length within its bound and the rest of the frame.
    fn length(&mut self, bound: usize, smallest: usize) -> Result<usize, DecodeError> {
        let length = self.u32()? as usize;
        // R3.2
        if length > bound {
            return Err(DecodeError::TooLong { length, bound });
        }
        match length.checked_mul(smallest) {
            Some(bytes) if bytes <= self.left() => Ok(length),
            _ => Err(DecodeError::Short),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        if self.left() < N {
            return Err(DecodeError::Short);
        }
        let mut array = [0; N];
        match self.frame.head.get(self.at..self.at + N) {
            Some(bytes) => array.copy_from_slice(bytes),
            None => array.copy_from_slice(&self.slice(N)),
        }
        self.at += N;
        Ok(array)
    }

    /// The next `n` bytes, which must exist; copied only if they cross from head to body.
    fn slice(&self, n: usize) -> Bytes {
        let (from, to) = (self.at, self.at + n);
        let head = self.frame.head.len();
        if to <= head {
            return self.frame.head.slice(from..to);
        }
        match &self.frame.body {
            Some(body) if from >= head && to <= head + body.len() => {
                body.slice(from - head..to - head)
            }
            _ => self.frame.to_bytes().slice(from..to),
        }
    }

    fn pad(&mut self, length: usize) -> Result<(), DecodeError> {
        let pad = length.next_multiple_of(4) - length;
        if self.left() < pad {
            return Err(DecodeError::Short);
        }
        // R3.3
        if self.slice(pad).iter().any(|byte| *byte != 0) {
            return Err(DecodeError::Padding);
        }
        self.at += pad;
        Ok(())
    }
}

impl Encode for u32 {
    fn encode(&self, out: &mut Writer) {
        out.u32(*self);
    }
}

impl Decode for u32 {
    const MIN_SIZE: usize = 4;

    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        input.u32()
    }
}

/// Fixed opaque data in serde: hex for people, bytes for files.
mod hex_array {
    use super::*;

    pub(super) fn serialize<S: Serializer, const N: usize>(
        array: &[u8; N],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.serialize_str(&hex::encode(array))
        } else {
            serializer.serialize_bytes(array)
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>, const N: usize>(
        deserializer: D,
    ) -> Result<[u8; N], D::Error> {
        let bytes = hex_bytes::deserialize(deserializer)?;
        let length = bytes.len();
        <[u8; N]>::try_from(&bytes[..])
            .map_err(|_| serde::de::Error::invalid_length(length, &"another number of bytes"))
    }
}

/// Opaque data in serde: hex for people, bytes for files.
mod hex_bytes {
    use super::*;

    pub(super) fn serialize<S: Serializer>(
        bytes: &Bytes,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.serialize_str(&hex::encode(bytes))
        } else {
            serializer.serialize_bytes(bytes)
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Bytes, D::Error> {
        if deserializer.is_human_readable() {
            let text = String::deserialize(deserializer)?;
            hex::decode(text).map(Bytes::from).map_err(serde::de::Error::custom)
        } else {
            Bytes::deserialize(deserializer)
        }
    }
}

#[cfg(test)]
mod tests;
