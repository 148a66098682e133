//! Resource names: `projects/{project}/topics/{topic}` and the like.

use super::error::Error;

/// What the topic field of a subscription says once its topic is gone.
pub(super) const DELETED_TOPIC: &str = "_deleted-topic_";

/// The kinds of resource that have names here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Topic,
    Subscription,
    Snapshot,
}

impl Kind {
    const fn collection(self) -> &'static str {
        match self {
            Self::Topic => "topics",
            Self::Subscription => "subscriptions",
            Self::Snapshot => "snapshots",
        }
    }
}

/// A checked name, split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Name<'a> {
    pub(super) project: &'a str,
    pub(super) id: &'a str,
}

/// Splits and checks the full name of a resource.
pub(super) fn parse(kind: Kind, name: &str) -> Result<Name<'_>, Error> {
    let collection = kind.collection();
    let mut parts = name.split('/');
    let parsed = match (parts.next(), parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some("projects"), Some(project), Some(kind), Some(id), None) if kind == collection => {
            Some(Name { project, id })
        }
        _ => None,
    };
    parsed.filter(|name| valid_project(name.project) && valid_id(name.id)).ok_or_else(|| {
        Error::Invalid(format!(
            "invalid name {name:?}: expected projects/{{project}}/{collection}/{{id}}, the id 3 to \
                 255 letters, digits or any of -_.~+%, starting with a letter and not with \"goog\""
        ))
    })
}

/// Checks `projects/{project}`, as the list requests name it.
pub(super) fn parse_project(name: &str) -> Result<&str, Error> {
    name.strip_prefix("projects/").filter(|project| valid_project(project)).ok_or_else(|| {
        Error::Invalid(format!("invalid project {name:?}: expected projects/{{project}}"))
    })
}

fn valid_project(project: &str) -> bool {
    !project.is_empty() && !project.contains('/')
}

fn valid_id(id: &str) -> bool {
    (3..=255).contains(&id.len())
        && id.starts_with(|first: char| first.is_ascii_alphabetic())
        && !id.starts_with("goog")
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.~+%".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_split() {
        assert_eq!(
            parse(Kind::Topic, "projects/p/topics/jobs"),
            Ok(Name { project: "p", id: "jobs" })
        );
    }

    #[test]
    fn bad_names_are_refused() {
        for name in [
            "",
            "jobs",
            "projects/p/topics",
            "projects//topics/jobs",
            "projects/p/subscriptions/jobs",
            "projects/p/topics/jobs/more",
            "projects/p/topics/ab",
            "projects/p/topics/1jobs",
            "projects/p/topics/google-jobs",
            "projects/p/topics/jo bs",
        ] {
            assert!(
                matches!(parse(Kind::Topic, name), Err(Error::Invalid(_))),
                "{name:?} was accepted"
            );
        }
        let long = format!("projects/p/topics/{}", "j".repeat(256));
        assert!(parse(Kind::Topic, &long).is_err());
    }

    #[test]
    fn projects_are_checked() {
        assert_eq!(parse_project("projects/p"), Ok("p"));
        assert!(parse_project("p").is_err());
        assert!(parse_project("projects/").is_err());
        assert!(parse_project("projects/p/topics").is_err());
    }
}
