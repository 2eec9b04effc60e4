//! Words, numbers and punctuation of a schema, with the comments that document what follows.

use super::parse::SchemaError;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    Word(String),
    Number(u32),
    Mark(char),
    /// A comment: its lines, without the decoration.
    Comment(Vec<String>),
}

/// A token and the line it begins on.
#[derive(Clone, Debug)]
pub(crate) struct Lexed {
    pub(crate) token: Token,
    pub(crate) line: usize,
}

/// Splits a schema into tokens.
pub(crate) fn lex(text: &str) -> Result<Vec<Lexed>, SchemaError> {
    let mut out = Vec::new();
    let mut rest = text;
    let mut line = 1;
    while let Some(c) = rest.chars().next() {
        let (token, used) = match c {
            c if c.is_whitespace() => (None, c.len_utf8()),
            '/' if rest.starts_with("/*") => {
                let end = rest
                    .find("*/")
                    .ok_or_else(|| SchemaError::new(line, "comment without an end"))?;
                (Some(comment(&rest[2..end])), end + 2)
            }
            c if c.is_ascii_alphabetic() => {
                let end = rest
                    .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                    .unwrap_or(rest.len());
                (Some(Token::Word(rest[..end].to_owned())), end)
            }
            c if c.is_ascii_digit() => {
                let end = rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
                let number = rest[..end].parse().map_err(|_| {
                    SchemaError::new(line, format!("{} is not a decimal u32", &rest[..end]))
                })?;
                (Some(Token::Number(number)), end)
            }
            '{' | '}' | '(' | ')' | '[' | ']' | '<' | '>' | ';' | ':' | ',' | '=' | '*' => {
                (Some(Token::Mark(c)), 1)
            }
            c => return Err(SchemaError::new(line, format!("unexpected '{c}'"))),
        };
        if let Some(token) = token {
            out.push(Lexed { token, line });
        }
        line += rest[..used].matches('\n').count();
        rest = &rest[used..];
    }
    Ok(out)
}

fn comment(text: &str) -> Token {
    let lines = text
        .lines()
        .map(|line| line.trim().trim_start_matches('*').trim().to_owned())
        .collect::<Vec<_>>();
    let from = lines.iter().position(|l| !l.is_empty()).unwrap_or(0);
    let to = lines.iter().rposition(|l| !l.is_empty()).map_or(0, |l| l + 1);
    Token::Comment(lines[from.min(to)..to].to_vec())
}
