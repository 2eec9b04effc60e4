//! Values of a schema without generated code: drawn at random, and read back from bytes.
//!
//! This is the second implementation of the codec that the vectors are checked with. It follows
//! the schema at run time, so it also tells what a changed schema would do to the vectors.

use rand_core::Rng;
use serde_json::{Map, Value, json};

use super::{Field, ItemKind, Length, Schema, Type, camel};

/// How large random values are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fill {
    /// Nothing where there may be nothing, zero where there must be a number.
    Least,
    /// Short lists and short strings, any number.
    Some,
    /// Lists, strings and opaque data as long as they may be, within reason.
    Most,
}

/// Longest opaque data of a `Fill::Most`: the vectors are files that people look at.
const MOST: u32 = 512;
/// The same inside a list.
const MOST_IN_LIST: u32 = 24;

/// Draws values.
pub(crate) struct Sampler<'a, R> {
    pub(crate) schema: &'a Schema,
    pub(crate) rng: &'a mut R,
    pub(crate) fill: Fill,
    /// Inside how many lists the value is.
    pub(crate) depth: u32,
}

impl<R: Rng> Sampler<'_, R> {
    /// One value: its wire form goes to `out`, its JSON is returned.
    ///
    /// `arm` picks the arm where the type itself is a union.
    pub(crate) fn sample(&mut self, ty: &Type, arm: Option<usize>, out: &mut Vec<u8>) -> Value {
        match ty {
            Type::Uint => {
                let value = self.number() as u32;
                out.extend(value.to_be_bytes());
                json!(value)
            }
            Type::Uhyper => {
                let value = self.number();
                out.extend(value.to_be_bytes());
                json!(value)
            }
            Type::Bool => {
                let value = self.fill != Fill::Least && self.rng.next_u32() & 1 == 1;
                out.extend(u32::from(value).to_be_bytes());
                json!(value)
            }
            Type::Opaque(length) => self.opaque(*length, out),
            Type::String(bound) => {
                let length = self.length(*bound);
                let text = (0..length)
                    .map(|_| char::from(b'a' + (self.rng.next_u32() % 26) as u8))
                    .collect::<String>();
                out.extend(length.to_be_bytes());
                out.extend(text.as_bytes());
                pad(out);
                json!(text)
            }
            Type::List(inner, bound) => {
                let length = self.length((*bound).min(MOST / 8));
                out.extend(length.to_be_bytes());
                self.depth += 1;
                let list = (0..length).map(|_| self.sample(inner, None, out)).collect();
                self.depth -= 1;
                list
            }
            Type::Optional(inner) => {
                let there = match self.fill {
                    Fill::Least => false,
                    Fill::Some => self.rng.next_u32() & 1 == 1,
                    Fill::Most => true,
                };
                out.extend(u32::from(there).to_be_bytes());
                if there { self.sample(inner, None, out) } else { Value::Null }
            }
            Type::Named(name) => self.named(name, arm, out),
        }
    }

    fn named(&mut self, name: &str, arm: Option<usize>, out: &mut Vec<u8>) -> Value {
        match &self.schema.item(name).expect("checked by the parser").kind {
            ItemKind::Const(_) => unreachable!("a constant is no type"),
            ItemKind::Typedef(length) => self.opaque(*length, out),
            ItemKind::Enum(members) => {
                let member = &members[self.pick(members.len())];
                out.extend(member.value.to_be_bytes());
                json!(camel(&member.name))
            }
            ItemKind::Struct(fields) => fields
                .iter()
                .map(|field| (field.name.clone(), self.sample(&field.ty, None, out)))
                .collect::<Map<_, _>>()
                .into(),
            ItemKind::Union(union) => {
                let arm = &union.arms[arm.unwrap_or_else(|| self.pick(union.arms.len()))];
                let (tag, variant) = tag(self.schema, &union.switch, arm.member);
                out.extend(tag.to_be_bytes());
                match &arm.value {
                    None => json!(variant),
                    Some(field) => json!({ variant: self.sample(&field.ty, None, out) }),
                }
            }
        }
    }

    fn opaque(&mut self, length: Length, out: &mut Vec<u8>) -> Value {
        let length = match length {
            Length::Fixed(n) => n,
            Length::AtMost(bound) => {
                let most = if self.depth > 0 { MOST_IN_LIST } else { MOST };
                let length = self.length(bound.min(most));
                out.extend(length.to_be_bytes());
                length
            }
        };
        let mut bytes = vec![0; length as usize];
        if self.fill != Fill::Least {
            self.rng.fill_bytes(&mut bytes);
        }
        out.extend(&bytes);
        pad(out);
        json!(hex::encode(bytes))
    }

    fn length(&mut self, bound: u32) -> u32 {
        match self.fill {
            Fill::Least => 0,
            Fill::Some => self.rng.next_u32() % (bound.min(5) + 1),
            Fill::Most => bound,
        }
    }

    fn number(&mut self) -> u64 {
        match self.fill {
            Fill::Least => 0,
            // Numbers of every magnitude, not only large ones.
            Fill::Some => self.rng.next_u64() >> (self.rng.next_u32() % 64),
            Fill::Most => u64::MAX,
        }
    }

    fn pick(&mut self, of: usize) -> usize {
        match self.fill {
            Fill::Least => 0,
            _ => self.rng.next_u32() as usize % of,
        }
    }
}

fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(4), 0);
}

fn tag(schema: &Schema, switch: &str, member: usize) -> (u32, String) {
    let Some(ItemKind::Enum(members)) = schema.item(switch).map(|item| &item.kind) else {
        unreachable!("checked by the parser");
    };
    (members[member].value, camel(&members[member].name))
}

/// The JSON of a value that fills `bytes`, or `None` if they are not one.
pub(crate) fn read(schema: &Schema, ty: &Type, bytes: &[u8]) -> Option<Value> {
    let mut input = Input { schema, left: bytes };
    let value = input.value(ty)?;
    input.left.is_empty().then_some(value)
}

struct Input<'a> {
    schema: &'a Schema,
    left: &'a [u8],
}

impl Input<'_> {
    fn value(&mut self, ty: &Type) -> Option<Value> {
        Some(match ty {
            Type::Uint => json!(self.u32()?),
            Type::Uhyper => json!(u64::from(self.u32()?) << 32 | u64::from(self.u32()?)),
            Type::Bool => json!(self.flag()?),
            Type::Opaque(length) => self.opaque(*length)?,
            Type::String(bound) => {
                let length = self.length(*bound)?;
                json!(String::from_utf8(self.bytes(length)?.to_vec()).ok()?)
            }
            Type::List(inner, bound) => {
                let length = self.length(*bound)?;
                (0..length).map(|_| self.value(inner)).collect::<Option<_>>()?
            }
            Type::Optional(inner) => {
                if self.flag()? {
                    self.value(inner)?
                } else {
                    Value::Null
                }
            }
            Type::Named(name) => self.named(name)?,
        })
    }

    fn named(&mut self, name: &str) -> Option<Value> {
        let schema = self.schema;
        Some(match &schema.item(name)?.kind {
            ItemKind::Const(_) => return None,
            ItemKind::Typedef(length) => self.opaque(*length)?,
            ItemKind::Enum(members) => {
                let value = self.u32()?;
                json!(camel(&members.iter().find(|m| m.value == value)?.name))
            }
            ItemKind::Struct(fields) => {
                let read = |field: &Field| Some((field.name.clone(), self.value(&field.ty)?));
                fields.iter().map(read).collect::<Option<Map<_, _>>>()?.into()
            }
            ItemKind::Union(union) => {
                let value = self.u32()?;
                let arm = union
                    .arms
                    .iter()
                    .find(|arm| tag(schema, &union.switch, arm.member).0 == value)?;
                let (_, variant) = tag(schema, &union.switch, arm.member);
                match &arm.value {
                    None => json!(variant),
                    Some(field) => json!({ variant: self.value(&field.ty)? }),
                }
            }
        })
    }

    fn opaque(&mut self, length: Length) -> Option<Value> {
        let length = match length {
            Length::Fixed(n) => n,
            Length::AtMost(bound) => self.length(bound)?,
        };
        Some(json!(hex::encode(self.bytes(length)?)))
    }

    fn length(&mut self, bound: u32) -> Option<u32> {
        self.u32().filter(|length| *length <= bound)
    }

    fn flag(&mut self) -> Option<bool> {
        match self.u32()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    fn u32(&mut self) -> Option<u32> {
        let (number, left) = self.left.split_first_chunk()?;
        self.left = left;
        Some(u32::from_be_bytes(*number))
    }

    /// `length` bytes and their padding, which must be zero.
    fn bytes(&mut self, length: u32) -> Option<&[u8]> {
        let length = length as usize;
        let (bytes, left) = self.left.split_at_checked(length.next_multiple_of(4))?;
        self.left = left;
        bytes[length..].iter().all(|byte| *byte == 0).then_some(&bytes[..length])
    }
}
