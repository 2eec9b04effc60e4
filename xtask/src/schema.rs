//! The compiler of `spec/tidegate.x`: the subset of RFC 4506 that the strict profile allows.
//!
//! [`parse`] turns the text into a [`Schema`], in which every name is declared before it is used
//! (so nothing recurs) and every length is bounded. [`rust`] writes the codec; [`value`]
//! interprets the schema, as a second opinion on what the codec does.

pub(crate) mod lex;
pub(crate) mod parse;
pub(crate) mod rust;
pub(crate) mod value;

/// A whole schema, in the order of its text.
#[derive(Clone, Debug, Default)]
pub(crate) struct Schema {
    pub(crate) items: Vec<Item>,
}

/// One declaration at the top level.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(crate) name: String,
    pub(crate) docs: Vec<String>,
    pub(crate) kind: ItemKind,
}

#[derive(Clone, Debug)]
pub(crate) enum ItemKind {
    Const(u32),
    /// Names of the constants and their values, without the enum's prefix.
    Enum(Vec<Member>),
    Struct(Vec<Field>),
    Union(Union),
    /// Always of opaque data: other types need no second name.
    Typedef(Length),
}

/// A constant of an enum.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) value: u32,
    pub(crate) docs: Vec<String>,
}

/// A declaration inside a struct, or the value of a union's arm.
#[derive(Clone, Debug)]
pub(crate) struct Field {
    pub(crate) name: String,
    pub(crate) docs: Vec<String>,
    pub(crate) ty: Type,
}

#[derive(Clone, Debug)]
pub(crate) struct Union {
    /// The enum that it switches on.
    pub(crate) switch: String,
    pub(crate) arms: Vec<Arm>,
}

/// The value that follows one constant of a union's enum.
#[derive(Clone, Debug)]
pub(crate) struct Arm {
    /// Index into the enum's members.
    pub(crate) member: usize,
    pub(crate) docs: Vec<String>,
    /// `None` is void.
    pub(crate) value: Option<Field>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    Uint,
    Uhyper,
    Bool,
    Opaque(Length),
    String(u32),
    Named(String),
    List(Box<Self>, u32),
    Optional(Box<Self>),
}

/// How much opaque data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Length {
    Fixed(u32),
    AtMost(u32),
}

impl Schema {
    pub(crate) fn item(&self, name: &str) -> Option<&Item> {
        self.items.iter().find(|item| item.name == name)
    }

    /// Bytes of the smallest encoding of a type.
    pub(crate) fn min_size(&self, ty: &Type) -> usize {
        match ty {
            Type::Uint | Type::Bool | Type::String(_) | Type::List(..) | Type::Optional(_) => 4,
            Type::Uhyper => 8,
            Type::Opaque(length) => min_opaque(*length),
            Type::Named(name) => match &self.item(name).expect("checked by the parser").kind {
                ItemKind::Const(_) => unreachable!("a constant is no type"),
                ItemKind::Enum(_) => 4,
                ItemKind::Typedef(length) => min_opaque(*length),
                ItemKind::Struct(fields) => fields.iter().map(|f| self.min_size(&f.ty)).sum(),
                ItemKind::Union(union) => {
                    let arm = |arm: &Arm| arm.value.as_ref().map_or(0, |f| self.min_size(&f.ty));
                    4 + union.arms.iter().map(arm).min().unwrap_or(0)
                }
            },
        }
    }
}

fn min_opaque(length: Length) -> usize {
    match length {
        Length::Fixed(n) => (n as usize).next_multiple_of(4),
        Length::AtMost(_) => 4,
    }
}

/// `POOL_KIND` for `PoolKind`.
pub(crate) fn screaming(camel: &str) -> String {
    let mut out = String::new();
    for (i, c) in camel.chars().enumerate() {
        if c.is_ascii_uppercase() && i > 0 {
            out.push('_');
        }
        out.push(c.to_ascii_uppercase());
    }
    out
}

/// `NotHere` for `NOT_HERE`.
pub(crate) fn camel(screaming: &str) -> String {
    screaming
        .split('_')
        .map(|word| {
            let (first, rest) = word.split_at(1.min(word.len()));
            format!("{first}{}", rest.to_ascii_lowercase())
        })
        .collect()
}
