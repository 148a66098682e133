//! `output`: which objects a job may write.
//!
//! The object is written with the worker's own credentials, not the user's, so
//! the operator's list of buckets is the guard. Every publisher may write every
//! name in such a bucket, and so what another user's job has written could be
//! replaced: an existing object is refused unless the job says `"overwrite": true`.
//! Give an allowed bucket to publishers that trust each other, or leave
//! `storage.objects.delete` out of the worker's role on it, without which Cloud
//! Storage refuses every overwrite.

use std::fmt;

/// The object of one job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) bucket: String,
    pub(super) object: String,
    /// An object of this name may be replaced.
    pub(super) overwrite: bool,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "gs://{}/{}", self.bucket, self.object)
    }
}

/// The buckets that jobs may write to; none by default.
#[derive(Debug, Clone, Default)]
pub struct OutputRules {
    allowed: Vec<String>,
    token_bucket: String,
}

impl OutputRules {
    /// These buckets, of which none may be the token store's.
    ///
    /// # Errors
    /// The first entry that cannot be allowed, and why.
    pub fn new<S: AsRef<str>>(
        allowed: impl IntoIterator<Item = S>,
        token_bucket: &str,
    ) -> Result<Self, String> {
        let mut buckets = Vec::new();
        for entry in allowed {
            let name = entry.as_ref().trim();
            if name == token_bucket {
                return Err(format!(
                    "{name:?} is the token bucket (--bucket); jobs must not write where credentials are kept"
                ));
            }
            if name.starts_with("gs://") || name.contains('/') {
                return Err(format!("{name:?} is more than a bucket name; give the name alone"));
            }
            if !is_bucket_name(name) {
                return Err(format!("{name:?} is not a bucket name"));
            }
            buckets.push(name.to_owned());
        }
        Ok(Self { allowed: buckets, token_bucket: token_bucket.to_owned() })
    }

    /// Whether any bucket may be written to.
    pub fn is_empty(&self) -> bool {
        self.allowed.is_empty()
    }

    /// Reads `gs://bucket/object`; the text quotes no value.
    pub(super) fn target(&self, output: &str, overwrite: bool) -> Result<Target, String> {
        let (bucket, object) = output
            .strip_prefix("gs://")
            .and_then(|rest| rest.split_once('/'))
            .ok_or("`output` must have the form gs://bucket/object")?;
        if bucket == self.token_bucket {
            return Err("`output` must not be in the token bucket".to_owned());
        }
        if !self.allowed.iter().any(|allowed| allowed == bucket) {
            return Err(
                "`output`: the bucket was not allowed by the operator (--allow-bucket)".to_owned()
            );
        }
        check_object_name(object).map_err(|why| format!("`output`: the object's name {why}"))?;
        Ok(Target { bucket: bucket.to_owned(), object: object.to_owned(), overwrite })
    }
}

/// Cloud Storage's rules for bucket names, dots for domains included.
fn is_bucket_name(name: &str) -> bool {
    let edge = |byte: Option<&u8>| {
        byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    let bytes = name.as_bytes();
    (3..=222).contains(&bytes.len())
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|byte| edge(Some(byte)) || b"-_.".contains(byte))
}

/// Cloud Storage's rules for object names, and no name that leads whoever copies
/// the bucket to disk out of their folder.
fn check_object_name(name: &str) -> Result<(), &'static str> {
    if !(1..=1024).contains(&name.len()) {
        Err("must have 1 to 1024 bytes")
    } else if name.chars().any(|c| c.is_control() || "\u{2028}\u{2029}\u{fffe}\u{ffff}".contains(c))
    {
        Err("must not contain control characters or line ends")
    } else if name.split('/').any(|segment| segment == "." || segment == "..") {
        Err("must not contain the segments `.` and `..`")
    } else if name.starts_with(".well-known/acme-challenge") {
        Err("must not begin with .well-known/acme-challenge")
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_of_the_operator() {
        for (name, says) in [
            ("tokens", "token bucket (--bucket)"),
            (" tokens ", "token bucket (--bucket)"),
            ("gs://exports", "name alone"),
            ("exports/x", "name alone"),
            ("", "not a bucket name"),
            ("ab", "not a bucket name"),
            ("Exports", "not a bucket name"),
            ("-exports", "not a bucket name"),
            ("ex ports", "not a bucket name"),
            ("*", "not a bucket name"),
        ] {
            let error = OutputRules::new([name], "tokens").unwrap_err();
            assert!(error.contains(says), "{name:?}: {error}");
        }
        let rules = OutputRules::new(["exports", "exports.example.com"], "tokens").unwrap();
        assert!(!rules.is_empty());
        assert!(OutputRules::default().is_empty());
    }

    #[test]
    fn objects() {
        let rules = OutputRules::new(["exports", "exports.example.com"], "tokens").unwrap();
        for output in [
            "gs://exports/a",
            "gs://exports.example.com/a/b c/ü.json",
            "gs://exports//double",
            "gs://exports/folder/",
            "gs://exports/...",
            "gs://exports/a%2fb?c#d",
        ] {
            let target = rules.target(output, false).unwrap_or_else(|e| panic!("{output}: {e}"));
            assert_eq!(target.to_string(), output);
        }
        let long = format!("gs://exports/{}", "a".repeat(1024));
        assert!(rules.target(&long, true).unwrap().overwrite);
        for (output, says) in [
            ("", "form"),
            ("exports/a", "form"),
            ("gs://exports", "form"),
            ("GS://exports/a", "form"),
            ("https://storage.googleapis.com/exports/a", "form"),
            ("gs://exports/", "1 to 1024"),
            (&format!("{long}a"), "1 to 1024"),
            (&format!("gs://exports/{}", "ü".repeat(513)), "1 to 1024"),
            ("gs://exports/a\nb", "control"),
            ("gs://exports/a\rb", "control"),
            ("gs://exports/a\0b", "control"),
            ("gs://exports/a\u{85}b", "control"),
            ("gs://exports/.", "segments"),
            ("gs://exports/..", "segments"),
            ("gs://exports/a/../b", "segments"),
            ("gs://exports/.well-known/acme-challenge/x", "acme"),
            ("gs://others/a", "--allow-bucket"),
            ("gs://Exports/a", "--allow-bucket"),
            ("gs:///a", "--allow-bucket"),
            ("gs://tokens/tokens/ann.json", "token bucket"),
        ] {
            let error = rules.target(output, true).unwrap_err();
            assert!(error.contains(says), "{output:?}: {error}");
        }
    }

    /// By name at run as well, however the rules were made.
    #[test]
    fn the_token_bucket_is_refused_even_if_it_is_on_the_list() {
        let rules = OutputRules { allowed: vec!["tokens".into()], token_bucket: "tokens".into() };
        assert!(rules.target("gs://tokens/a", false).unwrap_err().contains("token bucket"));
    }
}
