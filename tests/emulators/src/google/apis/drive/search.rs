//! The language of `q`: `name contains 'report' and not trashed = true`.

use jiff::Timestamp;
use serde_json::Value;

use super::super::call::Resource;

/// What a file must be like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Query {
    All(Vec<Self>),
    Any(Vec<Self>),
    Not(Box<Self>),
    /// A field, an operator and a value.
    Field(String, String, String),
    In(String, String),
}

/// Why a query is refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unread {
    Malformed,
    /// A term of the language that is missing here.
    Unimplemented(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Text(String),
    Sign(String),
}

impl Query {
    pub(super) fn parse(text: &str) -> Result<Self, Unread> {
        let mut rest = tokens(text)?;
        rest.reverse();
        let query = Self::any(&mut rest)?;
        if rest.is_empty() { Ok(query) } else { Err(Unread::Malformed) }
    }

    /// The tokens are a stack, the next one on top.
    fn any(rest: &mut Vec<Token>) -> Result<Self, Unread> {
        let mut terms = vec![Self::all(rest)?];
        while next_is(rest, "or") {
            terms.push(Self::all(rest)?);
        }
        Ok(if terms.len() == 1 { terms.remove(0) } else { Self::Any(terms) })
    }

    fn all(rest: &mut Vec<Token>) -> Result<Self, Unread> {
        let mut terms = vec![Self::term(rest)?];
        while next_is(rest, "and") {
            terms.push(Self::term(rest)?);
        }
        Ok(if terms.len() == 1 { terms.remove(0) } else { Self::All(terms) })
    }

    fn term(rest: &mut Vec<Token>) -> Result<Self, Unread> {
        if next_is(rest, "not") {
            return Ok(Self::Not(Box::new(Self::term(rest)?)));
        }
        match rest.pop().ok_or(Unread::Malformed)? {
            Token::Sign(sign) if sign == "(" => {
                let inner = Self::any(rest)?;
                match rest.pop() {
                    Some(Token::Sign(sign)) if sign == ")" => Ok(inner),
                    _ => Err(Unread::Malformed),
                }
            }
            Token::Text(value) if next_is(rest, "in") => match rest.pop() {
                Some(Token::Word(field)) if field == "parents" => Ok(Self::In(value, field)),
                Some(Token::Word(field)) => Err(Unread::Unimplemented(field)),
                _ => Err(Unread::Malformed),
            },
            Token::Word(field) => {
                let (Some(Token::Word(operator) | Token::Sign(operator)), Some(value)) =
                    (rest.pop(), rest.pop())
                else {
                    return Err(Unread::Malformed);
                };
                let (Token::Word(value) | Token::Text(value)) = value else {
                    return Err(Unread::Malformed);
                };
                Self::field(field, operator, value)
            }
            _ => Err(Unread::Malformed),
        }
    }

    fn field(field: String, operator: String, value: String) -> Result<Self, Unread> {
        let allowed: &[&str] = match field.as_str() {
            "name" | "mimeType" => &["contains", "=", "!="],
            "createdTime" | "modifiedTime" => &["<=", "<", "=", "!=", ">", ">="],
            "trashed" | "starred" => &["=", "!="],
            _ => return Err(Unread::Unimplemented(field)),
        };
        let is_time = field.ends_with("Time");
        if !allowed.contains(&operator.as_str()) || (is_time && time(&value).is_none()) {
            return Err(Unread::Malformed);
        }
        Ok(Self::Field(field, operator, value))
    }

    /// Whether a file is so; `root` is what that word stands for.
    pub(super) fn finds(&self, file: &Resource, root: &str) -> bool {
        match self {
            Self::All(terms) => terms.iter().all(|term| term.finds(file, root)),
            Self::Any(terms) => terms.iter().any(|term| term.finds(file, root)),
            Self::Not(term) => !term.finds(file, root),
            Self::In(id, field) => {
                let id = if id == "root" { root } else { id };
                file.get(field)
                    .and_then(Value::as_array)
                    .is_some_and(|ids| ids.contains(&id.into()))
            }
            Self::Field(field, operator, value) => {
                let own = match file.get(field) {
                    Some(Value::String(text)) => text.clone(),
                    Some(other) => other.to_string(),
                    None => String::new(),
                };
                match (time(&own).zip(time(value)), operator.as_str()) {
                    (Some((own, value)), "<") => own < value,
                    (Some((own, value)), "<=") => own <= value,
                    (Some((own, value)), ">") => own > value,
                    (Some((own, value)), ">=") => own >= value,
                    (Some((own, value)), "=") => own == value,
                    (Some((own, value)), "!=") => own != value,
                    (None, "contains") if field == "mimeType" => own.starts_with(value.as_str()),
                    (None, "contains") => begins_a_word(&own, value),
                    (None, "=") => own == *value,
                    (None, "!=") => own != *value,
                    _ => false,
                }
            }
        }
    }
}

fn next_is(rest: &mut Vec<Token>, word: &str) -> bool {
    let found = matches!(rest.last(), Some(Token::Word(next)) if next == word);
    if found {
        rest.pop();
    }
    found
}

/// Without an offset it is UTC.
fn time(text: &str) -> Option<Timestamp> {
    text.parse().ok().or_else(|| format!("{text}Z").parse().ok())
}

/// `name contains` looks at the beginnings of words only.
fn begins_a_word(text: &str, wanted: &str) -> bool {
    let (text, wanted) = (text.to_lowercase(), wanted.to_lowercase());
    text.match_indices(&wanted).any(|(at, _)| {
        text[..at].chars().next_back().is_none_or(|before| !before.is_alphanumeric())
    })
}

fn tokens(text: &str) -> Result<Vec<Token>, Unread> {
    let mut tokens = Vec::new();
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            letter if letter.is_whitespace() => {}
            '\'' => {
                let mut value = String::new();
                loop {
                    match letters.next().ok_or(Unread::Malformed)? {
                        '\'' => break,
                        '\\' => value.push(letters.next().ok_or(Unread::Malformed)?),
                        other => value.push(other),
                    }
                }
                tokens.push(Token::Text(value));
            }
            '(' | ')' => tokens.push(Token::Sign(letter.to_string())),
            '=' | '<' | '>' | '!' => {
                let mut sign = letter.to_string();
                sign.extend(letters.next_if_eq(&'='));
                tokens.push(Token::Sign(sign));
            }
            letter if letter.is_alphanumeric() => {
                let mut word = letter.to_string();
                while let Some(next) = letters.next_if(|next| next.is_alphanumeric()) {
                    word.push(next);
                }
                tokens.push(Token::Word(word));
            }
            _ => return Err(Unread::Malformed),
        }
    }
    Ok(tokens)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn finds(query: &str) -> bool {
        let file = json!({
            "name": "Ann's yearly report", "mimeType": "text/plain", "trashed": false,
            "parents": ["r"], "modifiedTime": "2026-06-04T12:00:00.000Z",
        });
        Query::parse(query).expect(query).finds(file.as_object().unwrap(), "r")
    }

    #[test]
    fn files_are_found_as_the_language_says() {
        for query in [
            r"name = 'Ann\'s yearly report'",
            "name contains 'rep'",
            "mimeType contains 'text/' and trashed = false",
            "'root' in parents",
            "'r' in parents and (name = 'x' or not trashed = true)",
            "modifiedTime > '2026-06-04T11:59:59' and modifiedTime<='2026-06-04T12:00:00+00:00'",
            "name = 'x' and name = 'y' or trashed != true",
        ] {
            assert!(finds(query), "{query}");
        }
        for query in
            ["name contains 'port'", "trashed = true", "'x' in parents", "not trashed=false"]
        {
            assert!(!finds(query), "{query}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for query in [
            "",
            "name",
            "name = ",
            "name = 'x",
            "name > 'x'",
            "name = 'x' and",
            "(name = 'x'",
            "modifiedTime > 'x'",
            "name = 'x' name = 'y'",
            "#",
        ] {
            assert_eq!(Query::parse(query), Err(Unread::Malformed), "{query}");
        }
        let unread = |field: &str| Err(Unread::Unimplemented(field.to_owned()));
        assert_eq!(Query::parse("fullText contains 'x'"), unread("fullText"));
        assert_eq!(Query::parse("'a@example.com' in owners"), unread("owners"));
    }
}
