//! Families of scopes.

/// Whether a wider scope of `scope`'s family is granted, so that asking the user for this one
/// would bring nothing.
pub(super) fn has_wider(scope: &str, granted: &[String]) -> bool {
    const MAIL: &str = "https://mail.google.com/";
    const GMAIL: &str = "https://www.googleapis.com/auth/gmail.";
    granted.iter().any(|wide| {
        let is_within = |rest: &str| rest.starts_with('.');
        let reads = scope.strip_suffix(".readonly");
        scope.strip_prefix(wide.as_str()).is_some_and(is_within)
            || (wide == MAIL && scope.starts_with(GMAIL))
            || (reads.is_some() && reads == wide.strip_suffix(".modify"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families() {
        let auth = |name: &str| format!("https://www.googleapis.com/auth/{name}");
        for (scope, wide, is_wider) in [
            (auth("drive.readonly"), auth("drive"), true),
            (auth("calendar.events.readonly"), auth("calendar"), true),
            (auth("calendar.events.readonly"), auth("calendar.events"), true),
            (auth("gmail.send"), "https://mail.google.com/".to_owned(), true),
            (auth("gmail.readonly"), auth("gmail.modify"), true),
            (auth("drive"), auth("drive.readonly"), false),
            (auth("drive"), auth("drive"), false),
            (auth("drivelabels"), auth("drive"), false),
            (auth("tasks"), auth("drive"), false),
        ] {
            assert_eq!(has_wider(&scope, std::slice::from_ref(&wide)), is_wider, "{scope} {wide}");
        }
    }
}
