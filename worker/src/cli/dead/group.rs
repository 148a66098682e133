//! Dead letters of one delivery are one job: a worker that died between a letter and the
//! acknowledgement has written another one.

use std::collections::HashMap;

use crate::job::Identity;
use crate::pubsub::Delivery;

use super::letter::Letter;

/// A dead letter and the others of its job.
#[derive(Debug)]
pub(super) struct Group {
    /// The first, with the worst of what is known of them.
    pub(super) letter: Letter,
    /// All of them, in the order of [`Group::letter`] first.
    pub(super) deliveries: Vec<Delivery>,
}

/// Puts the letters together that have one identity and one source message.
pub(super) fn grouped(found: Vec<(Letter, Delivery)>) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    let mut known: HashMap<([u8; 16], String), usize> = HashMap::new();
    for (letter, delivery) in found {
        let next = groups.len();
        let at = key(&letter).map_or(next, |key| *known.entry(key).or_insert(next));
        match groups.get_mut(at) {
            Some(group) => {
                group.letter.known = match (group.letter.known, letter.known) {
                    (Some(one), Some(other)) => Some(one.and(other)),
                    _ => None,
                };
                group.letter.redrives = group.letter.redrives.max(letter.redrives);
                group.deliveries.push(delivery);
            }
            None => groups.push(Group { letter, deliveries: vec![delivery] }),
        }
    }
    groups
}

/// Letters with the same key are of one job.
fn key(letter: &Letter) -> Option<([u8; 16], String)> {
    let user = letter.user.as_deref().filter(|_| letter.malformed.is_none())?;
    let kind = letter.kind.as_deref()?;
    let identity = Identity { user, id: &letter.job, kind, run: letter.run };
    Some((identity.digest(), letter.source.clone()?))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::Effect;
    use crate::job::Received;
    use crate::pubsub::Settle;
    use futures_util::FutureExt as _;
    use futures_util::future;
    use futures_util::future::BoxFuture;

    use super::*;

    #[derive(Debug)]
    struct Nothing;

    impl Settle for Nothing {
        fn ack(self: Box<Self>) -> BoxFuture<'static, bool> {
            future::ready(true).boxed()
        }

        fn nack(self: Box<Self>) {}
    }

    fn letter(id: &str, source: &str, effect: &str) -> (Letter, Delivery) {
        let attributes = [("message_id", source), ("effect", effect), ("reason", "r")];
        let attributes = attributes.map(|(n, v)| (n.to_owned(), v.to_owned())).into();
        let data = format!(r#"{{"id":"{id}","user":"ann","kind":"api"}}"#).into();
        let received = Received { data, attributes, ..Received::default() };
        let letter = Letter::dead(&received, "2026-01-02T03:05:05Z".parse().unwrap());
        (letter, Delivery { received: Arc::new(received), settle: Box::new(Nothing) })
    }

    #[test]
    fn letters_of_one_delivery_are_one_with_the_worst_effect() {
        let groups = grouped(vec![
            letter("a", "1", "none"),
            letter("b", "1", "none"),
            letter("a", "2", "none"),
            letter("a", "1", "unknown"),
            letter("a", "1", "none"),
        ]);
        let told: Vec<_> = groups
            .iter()
            .map(|group| {
                let known = group.letter.known.unwrap();
                (group.letter.job.as_str(), group.deliveries.len(), known.effect)
            })
            .collect();
        let expected = [("a", 3, Effect::Unknown), ("b", 1, Effect::None), ("a", 1, Effect::None)];
        assert_eq!(told, expected);
        assert!(groups[0].letter.is_spent());
    }
}
