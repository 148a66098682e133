//! Which account signs in.

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use serde_json::{Map, Value};
use shared::UserId;
use shared::consent::{AppUsers, subject};

use super::super::output;

/// Stores every account as this user, and names the account before anything is stored.
pub(super) struct Announced(pub(super) UserId);

impl AppUsers for Announced {
    fn user<'a>(
        &'a self,
        profile: &'a Map<String, Value>,
    ) -> BoxFuture<'a, Result<UserId, String>> {
        output::note(format!("You chose the account {}.", named(profile)));
        async { Ok(self.0.clone()) }.boxed()
    }
}

/// What the provider says, without what would move the cursor.
fn named(profile: &Map<String, Value>) -> String {
    let text = |field: &str| profile.get(field).and_then(Value::as_str).unwrap_or_default();
    let account = subject(profile).unwrap_or_default();
    let named = match (text("name"), text("email")) {
        ("", "") => account,
        ("", email) => format!("{email} ({account})"),
        (name, "") => format!("{name} ({account})"),
        (name, email) => format!("{name} <{email}> ({account})"),
    };
    named.chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_account_is_named_by_what_there_is() {
        for (profile, name) in [
            (json!({"sub": "1", "name": "Ann", "email": "a@x.test"}), "Ann <a@x.test> (1)"),
            (json!({"sub": "1", "email": "a@x.test"}), "a@x.test (1)"),
            (json!({"id": 7, "name": "A\u{1b}[2Jnn"}), "A[2Jnn (7)"),
            (json!({"sub": "1"}), "1"),
        ] {
            assert_eq!(named(profile.as_object().unwrap()), name);
        }
    }
}
