//! From text to [`Schema`], refusing what the strict profile does not allow.

use super::lex::{Lexed, Token, lex};
use super::{Arm, Field, Item, ItemKind, Length, Member, Schema, Type, Union, screaming};

/// Why a schema was refused.
#[derive(Debug, thiserror::Error)]
#[error("line {line}: {what}")]
pub(crate) struct SchemaError {
    line: usize,
    what: String,
}

impl SchemaError {
    pub(crate) fn new(line: usize, what: impl Into<String>) -> Self {
        Self { line, what: what.into() }
    }
}

/// Parses a schema.
pub(crate) fn parse(text: &str) -> Result<Schema, SchemaError> {
    let mut parser = Parser { tokens: lex(text)?, at: 0, schema: Schema::default() };
    while parser.at < parser.tokens.len() {
        if let Some(item) = parser.item()? {
            parser.schema.items.push(item);
        }
    }
    Ok(parser.schema)
}

struct Parser {
    tokens: Vec<Lexed>,
    at: usize,
    schema: Schema,
}

impl Parser {
    fn item(&mut self) -> Result<Option<Item>, SchemaError> {
        let docs = self.docs();
        if self.at == self.tokens.len() {
            return Ok(None);
        }
        let (name, kind) = match self.word()?.as_str() {
            "const" => self.constant()?,
            "enum" => self.enumeration()?,
            "struct" => self.structure()?,
            "union" => self.union()?,
            "typedef" => self.typedef()?,
            other => return Err(self.error(format!("'{other}' begins no declaration"))),
        };
        self.mark(';')?;
        Ok(Some(Item { name, docs, kind }))
    }

    fn constant(&mut self) -> Result<(String, ItemKind), SchemaError> {
        let name = self.new_name()?;
        self.mark('=')?;
        Ok((name, ItemKind::Const(self.number()?)))
    }

    fn enumeration(&mut self) -> Result<(String, ItemKind), SchemaError> {
        let name = self.new_name()?;
        let prefix = screaming(&name) + "_";
        let mut members: Vec<Member> = Vec::new();
        self.mark('{')?;
        loop {
            let docs = self.docs();
            let constant = self.word()?;
            let Some(short) = constant.strip_prefix(&prefix) else {
                return Err(self.error(format!("{constant} should begin with {prefix}")));
            };
            self.mark('=')?;
            let value = self.number()?;
            if members.iter().any(|m| m.name == short || m.value == value) {
                return Err(self.error(format!("{constant} = {value} is there twice")));
            }
            members.push(Member { name: short.to_owned(), value, docs });
            if !self.take_mark(',') {
                break;
            }
        }
        self.mark('}')?;
        Ok((name, ItemKind::Enum(members)))
    }

    fn structure(&mut self) -> Result<(String, ItemKind), SchemaError> {
        let name = self.new_name()?;
        let mut fields: Vec<Field> = Vec::new();
        self.mark('{')?;
        while !self.take_mark('}') {
            let field = self.field()?;
            if fields.iter().any(|f| f.name == field.name) {
                return Err(self.error(format!("field {} is there twice", field.name)));
            }
            fields.push(field);
        }
        Ok((name, ItemKind::Struct(fields)))
    }

    fn union(&mut self) -> Result<(String, ItemKind), SchemaError> {
        let name = self.new_name()?;
        self.keyword("switch")?;
        self.mark('(')?;
        let switch = self.word()?;
        let Some(ItemKind::Enum(members)) = self.schema.item(&switch).map(|i| i.kind.clone())
        else {
            return Err(self.error(format!("{switch} is not an enum declared above")));
        };
        self.word()?;
        self.mark(')')?;
        self.mark('{')?;
        let prefix = screaming(&switch) + "_";
        let mut arms: Vec<Arm> = Vec::new();
        while !self.take_mark('}') {
            let docs = self.docs();
            let mut cases = Vec::new();
            while self.take_keyword("case") {
                let constant = self.word()?;
                let member = members
                    .iter()
                    .position(|m| constant.strip_prefix(&prefix) == Some(&m.name))
                    .ok_or_else(|| self.error(format!("{constant} is not in {switch}")))?;
                if cases.contains(&member) || arms.iter().any(|arm| arm.member == member) {
                    return Err(self.error(format!("case {constant} is there twice")));
                }
                cases.push(member);
                self.mark(':')?;
            }
            if cases.is_empty() {
                return Err(self.error("an arm needs a case; 'default' is not in the profile"));
            }
            let value = if self.take_keyword("void") {
                self.mark(';')?;
                None
            } else {
                Some(self.field()?)
            };
            arms.extend(cases.into_iter().map(|member| Arm {
                member,
                docs: docs.clone(),
                value: value.clone(),
            }));
        }
        if arms.len() != members.len() {
            return Err(self.error(format!("{name} does not name every constant of {switch}")));
        }
        arms.sort_by_key(|arm| members[arm.member].value);
        Ok((name, ItemKind::Union(Union { switch, arms })))
    }

    fn typedef(&mut self) -> Result<(String, ItemKind), SchemaError> {
        self.keyword("opaque")?;
        let name = self.new_name()?;
        let Type::Opaque(length) = self.suffix(Base::Opaque)? else {
            unreachable!("opaque data has a length");
        };
        Ok((name, ItemKind::Typedef(length)))
    }

    fn field(&mut self) -> Result<Field, SchemaError> {
        let docs = self.docs();
        let base = self.base()?;
        let optional = self.take_mark('*');
        let name = self.word()?;
        let ty = match (optional, base) {
            (true, Base::Type(ty)) => Type::Optional(Box::new(ty)),
            (true, _) => return Err(self.error("only a named type can be optional")),
            (false, base) => self.suffix(base)?,
        };
        self.mark(';')?;
        Ok(Field { name, docs, ty })
    }

    fn base(&mut self) -> Result<Base, SchemaError> {
        let word = self.word()?;
        Ok(match word.as_str() {
            "unsigned" => match self.word()?.as_str() {
                "int" => Base::Type(Type::Uint),
                "hyper" => Base::Type(Type::Uhyper),
                other => return Err(self.error(format!("unsigned {other} is not in the profile"))),
            },
            "bool" => Base::Type(Type::Bool),
            "opaque" => Base::Opaque,
            "string" => Base::String,
            name => match self.schema.item(name) {
                Some(Item { kind: ItemKind::Const(_), .. }) | None => {
                    return Err(self.error(format!("{name} is not a type declared above")));
                }
                Some(_) => Base::Type(Type::Named(word)),
            },
        })
    }

    /// What follows a declared name: `[n]`, `<n>` or nothing.
    fn suffix(&mut self, base: Base) -> Result<Type, SchemaError> {
        let length = if self.take_mark('[') {
            let n = self.number()?;
            self.mark(']')?;
            Some(Length::Fixed(n))
        } else if self.take_mark('<') {
            if self.take_mark('>') {
                return Err(self.error("a length without a bound is not in the profile"));
            }
            let n = self.number()?;
            self.mark('>')?;
            Some(Length::AtMost(n))
        } else {
            None
        };
        Ok(match (base, length) {
            (Base::Opaque, Some(length)) => Type::Opaque(length),
            (Base::String, Some(Length::AtMost(n))) => Type::String(n),
            (Base::Type(ty), Some(Length::AtMost(n))) => Type::List(Box::new(ty), n),
            (Base::Type(ty), None) => ty,
            _ => return Err(self.error("this length does not fit this type")),
        })
    }

    fn new_name(&mut self) -> Result<String, SchemaError> {
        let name = self.word()?;
        match self.schema.item(&name) {
            Some(_) => Err(self.error(format!("{name} is declared twice"))),
            None => Ok(name),
        }
    }

    fn number(&mut self) -> Result<u32, SchemaError> {
        match self.next()? {
            Token::Number(n) => Ok(n),
            Token::Word(name) => match self.schema.item(&name) {
                Some(Item { kind: ItemKind::Const(n), .. }) => Ok(*n),
                _ => Err(self.error(format!("{name} is not a constant declared above"))),
            },
            other => Err(self.error(format!("expected a number, found {other:?}"))),
        }
    }

    fn word(&mut self) -> Result<String, SchemaError> {
        match self.next()? {
            Token::Word(word) => Ok(word),
            other => Err(self.error(format!("expected a word, found {other:?}"))),
        }
    }

    fn keyword(&mut self, keyword: &str) -> Result<(), SchemaError> {
        if self.take_keyword(keyword) {
            Ok(())
        } else {
            Err(self.error(format!("expected '{keyword}'")))
        }
    }

    fn take_keyword(&mut self, keyword: &str) -> bool {
        self.take(|token| matches!(token, Token::Word(word) if word == keyword))
    }

    fn mark(&mut self, mark: char) -> Result<(), SchemaError> {
        if self.take_mark(mark) { Ok(()) } else { Err(self.error(format!("expected '{mark}'"))) }
    }

    fn take_mark(&mut self, mark: char) -> bool {
        self.take(|token| *token == Token::Mark(mark))
    }

    /// Steps over the next token if it is the one; comments before it go with it.
    fn take(&mut self, is: impl Fn(&Token) -> bool) -> bool {
        let mut at = self.at;
        while matches!(self.tokens.get(at).map(|l| &l.token), Some(Token::Comment(_))) {
            at += 1;
        }
        let found = self.tokens.get(at).is_some_and(|l| is(&l.token));
        if found {
            self.at = at + 1;
        }
        found
    }

    /// The comment right before the next token: earlier ones speak of something else.
    fn docs(&mut self) -> Vec<String> {
        let mut docs = Vec::new();
        while let Some(Token::Comment(lines)) = self.tokens.get(self.at).map(|l| &l.token) {
            docs = lines.clone();
            self.at += 1;
        }
        docs
    }

    fn next(&mut self) -> Result<Token, SchemaError> {
        self.docs();
        let token = self.tokens.get(self.at).map(|l| l.token.clone());
        self.at += 1;
        token.ok_or_else(|| self.error("the text ends in the middle of a declaration"))
    }

    fn error(&self, what: impl Into<String>) -> SchemaError {
        let last = self.tokens.len().saturating_sub(1);
        let at = self.at.saturating_sub(1).min(last);
        SchemaError::new(self.tokens.get(at).map_or(0, |l| l.line), what)
    }
}

/// A type before its length is known.
enum Base {
    Type(Type),
    Opaque,
    String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        parse(text).expect_err(text).to_string()
    }

    #[test]
    fn reads_every_shape() {
        let text = "
            /* The bound. */ const N = 3;
            typedef opaque Id[32];
            enum Kind { KIND_A = 0, KIND_B_C = 7 };
            struct S { Id id; unsigned hyper h; Id list<N>; string s<9>; S2 *x; };
        ";
        // S2 is not declared: the parser must say so, with the line.
        assert_eq!(refused(text), "line 5: S2 is not a type declared above");
        let schema = parse(&text.replace("S2 *x", "Id *x")).unwrap();
        assert_eq!(schema.items.len(), 4);
        assert_eq!(schema.items[0].docs, ["The bound."]);
        let ItemKind::Struct(fields) = &schema.items[3].kind else { panic!() };
        assert_eq!(fields[2].ty, Type::List(Box::new(Type::Named("Id".into())), 3));
        assert_eq!(schema.min_size(&Type::Named("S".into())), 32 + 8 + 4 + 4 + 4);
    }

    #[test]
    fn refuses_what_the_profile_leaves_out() {
        assert!(refused("struct S { opaque x<>; };").contains("without a bound"));
        assert!(refused("struct S { S x<2>; };").contains("declared above"));
        assert!(refused("struct S { unsigned short x; };").contains("not in the profile"));
        assert!(refused("struct S { float x; };").contains("declared above"));
        assert!(refused("enum E { A = 0 };").contains("begin with E_"));
        assert!(refused("enum E { E_A = 0, E_B = 0 };").contains("twice"));
        assert!(
            refused("enum E { E_A = 0, E_B = 1 };\nunion U switch (E e) { case E_A: void; };")
                .contains("every constant")
        );
        assert!(refused("const A = 1; const A = 2;").contains("twice"));
        assert!(refused("struct S { bool a; bool a; };").contains("twice"));
        assert!(refused("struct S {").contains("line 1"));
        assert!(refused("/* no end").contains("without an end"));
    }
}
