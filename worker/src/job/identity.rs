//! What makes two messages the same job.

use std::fmt;

use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use super::Job;

/// A job's identity: its user, ID, kind and run. Job IDs are the publisher's word, so they
/// count for their user only: nobody keeps somebody else's job from running.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity<'a> {
    /// On whose behalf; empty where a message names nobody.
    pub user: &'a str,
    /// The job's ID.
    pub id: &'a str,
    /// Its kind; empty where a message names none.
    pub kind: &'a str,
    /// Its run.
    pub run: u32,
}

impl Job {
    /// What makes another message the same job.
    pub fn identity(&self) -> Identity<'_> {
        Identity { user: self.user.as_str(), id: &self.id, kind: &self.kind, run: self.run }
    }

    /// A digest of the parameters as JSON values, in hex: the order of an object's members,
    /// and white space, make no difference.
    pub fn params_digest(&self) -> String {
        let mut hash = Sha256::new();
        digest_object(&mut hash, &self.params);
        hex(&hash.finalize()[..16])
    }
}

impl Identity<'_> {
    /// Stands for the identity: SHA-256, cut to 16 bytes.
    pub fn digest(&self) -> [u8; 16] {
        let mut hash = Sha256::new();
        for part in [self.user, self.id, self.kind, &self.run.to_string()] {
            digest_text(&mut hash, part);
        }
        let mut digest = [0; 16];
        digest.copy_from_slice(&hash.finalize()[..16]);
        digest
    }

    /// The digest as 32 hex digits.
    pub fn hex(&self) -> String {
        hex(&self.digest())
    }
}

/// With its length before it, so that no two lists of texts are alike.
fn digest_text(hash: &mut Sha256, text: &str) {
    hash.update((text.len() as u64).to_be_bytes());
    hash.update(text);
}

fn digest_object(hash: &mut Sha256, object: &Map<String, Value>) {
    let mut members: Vec<_> = object.iter().collect();
    members.sort_unstable_by_key(|(name, _)| *name);
    hash.update(b"{");
    hash.update((members.len() as u64).to_be_bytes());
    for (name, value) in members {
        digest_text(hash, name);
        digest_value(hash, value);
    }
}

fn digest_value(hash: &mut Sha256, value: &Value) {
    match value {
        Value::Null => hash.update(b"n"),
        Value::Bool(true) => hash.update(b"t"),
        Value::Bool(false) => hash.update(b"f"),
        Value::Number(number) => {
            hash.update(b"#");
            digest_text(hash, &number.to_string());
        }
        Value::String(text) => {
            hash.update(b"\"");
            digest_text(hash, text);
        }
        Value::Array(items) => {
            hash.update(b"[");
            hash.update((items.len() as u64).to_be_bytes());
            for item in items {
                digest_value(hash, item);
            }
        }
        Value::Object(object) => digest_object(hash, object),
    }
}

fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut hex, byte| {
        write!(hex, "{byte:02x}").expect("writing to a String cannot fail");
        hex
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_part_of_an_identity_counts() {
        let of = |user, id, kind, run| Identity { user, id, kind, run }.hex();
        let all = [
            of("ann", "1", "api", 0),
            of("bob", "1", "api", 0),
            of("ann1", "", "api", 0),
            of("ann", "1a", "pi", 0),
            of("ann", "1", "profile", 0),
            of("ann", "1", "api", 1),
            of("ann", "1", "api", 10),
            of("", "ann1", "api", 0),
        ];
        assert_eq!(HashSet::from(all.clone()).len(), all.len());
        // It names objects, so it must never change.
        assert_eq!(all[0], "ac4fd58ebab61345e6b2357059c03c67");
    }

    #[test]
    fn parameters_count_as_json_values() {
        let of = |params: &str| {
            let data = format!(r#"{{"user":"u","kind":"k","params":{params}}}"#);
            Job::decode(data.as_bytes(), "m").unwrap().params_digest()
        };
        let alike = of(r#"{"a":1,"b":{"c":[true,null],"d":"x"}}"#);
        assert_eq!(alike, of(r#" { "b" : {"d":"\u0078","c":[true, null]}, "a":1 } "#));
        assert_eq!(of("{}"), of("null"));
        let others = [
            r#"{"a":2,"b":{"c":[true,null],"d":"x"}}"#,
            r#"{"a":1,"b":{"c":[null,true],"d":"x"}}"#,
            r#"{"a":"1","b":{"c":[true,null],"d":"x"}}"#,
            r#"{"a":1,"b":{"c":[[true],null],"d":"x"}}"#,
            r#"{"a":1,"b":{"c":[true,null,"d"],"d":"x"}}"#,
            r#"{"a":1,"b":{"c":[false,null],"d":"x"}}"#,
            r#"{"a":1}"#,
            "{}",
        ];
        let digests: HashSet<_> = others.iter().map(|params| of(params)).collect();
        assert_eq!(digests.len(), others.len());
        assert!(!digests.contains(&alike));
    }
}
