//! The search box's language, as far as it goes here: words, and who, about what and where.

use super::Message;
use super::message::Entity;

/// All of these have to hold.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Search {
    terms: Vec<(bool, Term)>,
}

#[derive(Debug, PartialEq, Eq)]
enum Term {
    Word(String),
    /// A header, and what it has in it.
    Header(&'static str, String),
    Label(String),
}

impl Search {
    /// Reads it. An operator that is missing here is the error.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut terms = Vec::new();
        for word in words(text) {
            let (negated, word) = match word.strip_prefix('-') {
                Some(rest) => (true, rest),
                None => (false, word.as_str()),
            };
            let term = match word.split_once(':') {
                None => Term::Word(word.to_lowercase()),
                Some((operator, value)) => {
                    let value = value.to_lowercase();
                    match operator.to_lowercase().as_str() {
                        "from" => Term::Header("from", value),
                        "to" => Term::Header("to", value),
                        "cc" => Term::Header("cc", value),
                        "subject" => Term::Header("subject", value),
                        "in" if value == "anywhere" => continue,
                        "in" | "is" | "label" => Term::Label(value.to_uppercase()),
                        other => return Err(other.to_owned()),
                    }
                }
            };
            terms.push((negated, term));
        }
        Ok(Self { terms })
    }

    /// Whether it asks for what is not shown otherwise.
    pub(super) fn names_hidden(&self) -> bool {
        let hidden = |term: &Term| matches!(term, Term::Label(l) if l == "TRASH" || l == "SPAM");
        self.terms.iter().any(|(_, term)| hidden(term))
    }

    pub(super) fn finds(&self, message: &Message) -> bool {
        if self.terms.is_empty() {
            return true;
        }
        let entity = Entity::read(&message.raw);
        self.terms.iter().all(|(negated, term)| {
            let holds = match term {
                Term::Word(word) => entity.mentions(word),
                Term::Header(name, value) => {
                    entity.header(name).is_some_and(|said| said.to_lowercase().contains(value))
                }
                Term::Label(label) if label == "READ" => !message.labels.contains(&"UNREAD"),
                Term::Label(label) => message.labels.contains(&label.as_str()),
            };
            holds != *negated
        })
    }
}

/// Words, and what stands in quotes as one, with its operator.
fn words(text: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted) = (Vec::new(), String::new(), false);
    for letter in text.chars() {
        match letter {
            '"' => quoted = !quoted,
            ' ' if !quoted => words.push(std::mem::take(&mut word)),
            letter => word.push(letter),
        }
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_are_read_and_unknown_operators_named() {
        let search = Search::parse(r#"from:ann subject:"Two words" -in:trash Hello"#).unwrap();
        assert_eq!(
            search.terms,
            [
                (false, Term::Header("from", "ann".to_owned())),
                (false, Term::Header("subject", "two words".to_owned())),
                (true, Term::Label("TRASH".to_owned())),
                (false, Term::Word("hello".to_owned())),
            ]
        );
        assert!(search.names_hidden());
        assert_eq!(Search::parse("newer_than:2d"), Err("newer_than".to_owned()));
        assert_eq!(Search::parse("  "), Ok(Search::default()));
    }
}
