//! What makes two messages the same job.

use std::fmt;

use sha2::{Digest as _, Sha256};

use super::Job;
use super::canonical::canonical;

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
    /// white space, escapes and the spelling of a number make no difference.
    pub fn params_digest(&self) -> String {
        hex(&Sha256::digest(canonical(self.params.text()))[..16])
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
        assert_eq!(of(r#"{"a":1}"#), of(r#"{"a":1.0}"#));
        let others = [
            r#"{"a":2,"b":{"c":[true,null],"d":"x"}}"#,
            r#"{"a":1,"b":{"c":[null,true],"d":"x"}}"#,
            r#"{"a":"1","b":{"c":[true,null],"d":"x"}}"#,
            r#"{"a":1,"b":{"c":[[true],null],"d":"x"}}"#,
            r#"{"a":1,"b":{"c":[true,null,"d"],"d":"x"}}"#,
            r#"{"a":1,"b":{"c":[false,null],"d":"x"}}"#,
            r#"{"a":1}"#,
            r#"{"a":123456789012345678901234567890}"#,
            r#"{"a":123456789012345678901234567891}"#,
            "{}",
        ];
        let digests: HashSet<_> = others.iter().map(|params| of(params)).collect();
        assert_eq!(digests.len(), others.len());
        assert!(!digests.contains(&alike));
    }
}
