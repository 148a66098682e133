//! Filters on attributes: `attributes:key`, `attributes.key = "value"`, `!=`,
//! `hasPrefix(attributes.key, "value")`, `NOT`, `AND`, `OR`, parentheses.

use std::collections::HashMap;

use super::error::Error;

/// Bytes of a filter.
const MAX_BYTES: usize = 256;

/// Which messages a subscription takes in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Filter {
    Has(String),
    Is(String, String),
    IsNot(String, String),
    Begins(String, String),
    Not(Box<Self>),
    All(Vec<Self>),
    Any(Vec<Self>),
}

impl Filter {
    /// Reads a filter; `None` for an empty one, which takes everything.
    pub(super) fn parse(text: &str) -> Result<Option<Self>, Error> {
        if text.is_empty() {
            return Ok(None);
        }
        let wrong = || Error::Invalid(format!("the filter {text:?} cannot be read"));
        if text.len() > MAX_BYTES {
            return Err(Error::Invalid(format!("a filter has at most {MAX_BYTES} bytes")));
        }
        let tokens = tokens(text).ok_or_else(wrong)?;
        let mut rest = tokens.as_slice();
        let filter = expression(&mut rest).filter(|_| rest.is_empty()).ok_or_else(wrong)?;
        Ok(Some(filter))
    }

    pub(super) fn takes(&self, attributes: &HashMap<String, String>) -> bool {
        match self {
            Self::Has(name) => attributes.contains_key(name),
            Self::Is(name, value) => attributes.get(name) == Some(value),
            Self::IsNot(name, value) => attributes.get(name).is_some_and(|is| is != value),
            Self::Begins(name, prefix) => {
                attributes.get(name).is_some_and(|value| value.starts_with(prefix.as_str()))
            }
            Self::Not(filter) => !filter.takes(attributes),
            Self::All(filters) => filters.iter().all(|filter| filter.takes(attributes)),
            Self::Any(filters) => filters.iter().any(|filter| filter.takes(attributes)),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Text(String),
    Sign(char),
}

fn tokens(text: &str) -> Option<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(next) = chars.next() {
        match next {
            ' ' | '\t' | '\n' => {}
            '"' => {
                let mut quoted = String::new();
                loop {
                    match chars.next()? {
                        '"' => break,
                        '\\' => quoted.push(chars.next()?),
                        other => quoted.push(other),
                    }
                }
                tokens.push(Token::Text(quoted));
            }
            ':' | '.' | '=' | '(' | ')' | ',' | '!' => tokens.push(Token::Sign(next)),
            _ if is_of_word(next) => {
                let mut word = String::from(next);
                while let Some(more) = chars.next_if(|next| is_of_word(*next)) {
                    word.push(more);
                }
                // A hyphen before an operand is another way to write NOT.
                match word.strip_prefix('-') {
                    Some(operand) => {
                        tokens.push(Token::Word("NOT".to_owned()));
                        tokens
                            .extend((!operand.is_empty()).then(|| Token::Word(operand.to_owned())));
                    }
                    None => tokens.push(Token::Word(word)),
                }
            }
            _ => return None,
        }
    }
    Some(tokens)
}

fn is_of_word(next: char) -> bool {
    next.is_alphanumeric() || next == '_' || next == '-'
}

/// Operands joined by one operator: the service, too, wants parentheses around a mixture.
fn expression(rest: &mut &[Token]) -> Option<Filter> {
    let first = operand(rest)?;
    let Some(Token::Word(operator)) = rest.first().cloned() else { return Some(first) };
    let mut operands = vec![first];
    while rest.first() == Some(&Token::Word(operator.clone())) {
        *rest = &rest[1..];
        operands.push(operand(rest)?);
    }
    match operator.as_str() {
        "AND" => Some(Filter::All(operands)),
        "OR" => Some(Filter::Any(operands)),
        _ => None,
    }
}

fn operand(rest: &mut &[Token]) -> Option<Filter> {
    match take(rest)? {
        Token::Word(word) if word == "NOT" => Some(Filter::Not(Box::new(operand(rest)?))),
        Token::Word(word) if word == "attributes" => match take(rest)? {
            Token::Sign(':') => Some(Filter::Has(name(rest)?)),
            Token::Sign('.') => {
                let name = name(rest)?;
                if rest.first() == Some(&Token::Sign('!')) {
                    *rest = &rest[1..];
                    sign(rest, '=')?;
                    return Some(Filter::IsNot(name, text(rest)?));
                }
                sign(rest, '=')?;
                Some(Filter::Is(name, text(rest)?))
            }
            _ => None,
        },
        Token::Word(word) if word == "hasPrefix" => {
            sign(rest, '(')?;
            (take(rest)? == Token::Word("attributes".to_owned())).then_some(())?;
            sign(rest, '.')?;
            let name = name(rest)?;
            sign(rest, ',')?;
            let prefix = text(rest)?;
            sign(rest, ')')?;
            Some(Filter::Begins(name, prefix))
        }
        Token::Sign('(') => {
            let inner = expression(rest)?;
            sign(rest, ')')?;
            Some(inner)
        }
        _ => None,
    }
}

fn take(rest: &mut &[Token]) -> Option<Token> {
    let (first, others) = rest.split_first()?;
    *rest = others;
    Some(first.clone())
}

fn sign(rest: &mut &[Token], wanted: char) -> Option<()> {
    (take(rest)? == Token::Sign(wanted)).then_some(())
}

fn name(rest: &mut &[Token]) -> Option<String> {
    match take(rest)? {
        Token::Word(name) | Token::Text(name) => Some(name),
        Token::Sign(_) => None,
    }
}

fn text(rest: &mut &[Token]) -> Option<String> {
    match take(rest)? {
        Token::Text(text) => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn takes(filter: &str, attributes: &[(&str, &str)]) -> bool {
        let filter = Filter::parse(filter).expect("valid").expect("not empty");
        let attributes =
            attributes.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        filter.takes(&attributes)
    }

    #[test]
    fn attributes_are_looked_at_as_written() {
        let a = [("kind", "api"), ("fleet-job", "7")];
        for (filter, taken) in [
            ("attributes:kind", true),
            ("attributes:other", false),
            (r#"attributes.kind = "api""#, true),
            (r#"attributes.kind="profile""#, false),
            (r#"attributes.kind != "profile""#, true),
            (r#"attributes.kind != "api""#, false),
            (r#"attributes.other != "api""#, false),
            (r#"attributes."fleet-job" = "7""#, true),
            (r#"attributes.fleet-job = "7""#, true),
            (r#"hasPrefix(attributes.kind, "a")"#, true),
            (r#"hasPrefix(attributes.kind, "b")"#, false),
            ("NOT attributes:kind", false),
            ("-attributes:other", true),
            ("attributes:kind AND NOT attributes:other", true),
            ("attributes:kind AND (attributes:other OR attributes:nothing)", false),
            ("attributes:other OR attributes:kind OR attributes:nothing", true),
        ] {
            assert_eq!(takes(filter, &a), taken, "{filter}");
        }
    }

    #[test]
    fn what_is_no_filter_is_refused() {
        assert_eq!(Filter::parse(""), Ok(None));
        for wrong in [
            "kind",
            "attributes",
            "attributes:",
            "attributes.kind = api",
            r#"attributes.kind = "open"#,
            "attributes:a AND",
            "attributes:a AND attributes:b OR attributes:c",
            "(attributes:a",
            "attributes:a attributes:b",
            "data:x",
            "attributes:a; attributes:b",
            &"a".repeat(257),
        ] {
            assert!(matches!(Filter::parse(wrong), Err(Error::Invalid(_))), "{wrong}");
        }
    }
}
