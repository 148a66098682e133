//! What this process may do, and what Pub/Sub may.

use crate::pubsub::Grant;
use crate::roles::{On, ROLES, Role, To};

use super::finding::Checks;

/// Who Pub/Sub acts as; the number is the project's.
const AGENT_PREFIX: &str = "serviceAccount:service-";
const AGENT_SUFFIX: &str = "@gcp-sa-pubsub.iam.gserviceaccount.com";

/// The check of what this process may do.
pub(super) const MAY: &str = "this process may";

pub(super) fn role(on: On, to: To) -> Option<&'static Role> {
    ROLES.iter().find(|role| role.on == on && role.to == to)
}

/// What lets a process see what it needs `permission` for.
pub(super) fn to_see(permission: &str) -> String {
    let role = match permission {
        "storage.buckets.get" => "roles/storage.legacyBucketReader",
        "pubsub.topics.get" | "pubsub.subscriptions.get" => "roles/pubsub.viewer",
        "pubsub.topics.attachSubscription" => "roles/pubsub.subscriber",
        // Predefined roles that show policies can do or see far more.
        _ => "a custom role with it, as Terraform makes one for `fleet doctor`",
    };
    format!("run it as somebody who has {permission}, or grant this process {role}")
}

/// Whether `allowed` has everything that this process needs. `grant` is the
/// command that adds an IAM binding to the object.
pub(super) fn this_process(on: On, allowed: &[String], grant: &str, checks: &mut Checks) {
    let Some(role) = role(on, To::Fleet) else { return };
    let missing: Vec<&str> = role
        .permissions
        .iter()
        .copied()
        .filter(|permission| !allowed.iter().any(|held| held == permission))
        .collect();
    if missing.is_empty() {
        checks.ok(MAY, role.permissions.join(", "));
    } else {
        checks.fail(
            MAY,
            format!("not {}; {}", missing.join(", "), role.why),
            format!("{grant} --role={} --member=serviceAccount:THE_WORKERS", role.role),
        );
    }
}

/// Whether Pub/Sub's service agent has its role on a resource.
pub(super) fn pubsub_agent(
    on: On,
    grants: &[Grant],
    grant: &str,
    emulated: bool,
    checks: &mut Checks,
) {
    const CHECK: &str = "Pub/Sub's own grant";
    let Some(role) = role(on, To::PubSub) else { return };
    if emulated && grants.is_empty() {
        return checks.skip(CHECK, "an emulator needs none");
    }
    let agent =
        |member: &String| member.starts_with(AGENT_PREFIX) && member.ends_with(AGENT_SUFFIX);
    let has = |held: &Grant| sufficient(role.role, &held.role) && held.members.iter().any(agent);
    if grants.iter().any(has) {
        checks.ok(CHECK, role.role);
    } else {
        checks.fail(
            CHECK,
            format!(
                "its service agent has no {} here: {} does not work (a grant on the whole project is not seen by this check)",
                role.role, "dead-lettering"
            ),
            format!("{grant} --role={} --member={AGENT_PREFIX}PROJECT_NUMBER{AGENT_SUFFIX}", role.role),
        );
    }
}

/// Whether a held role includes the one that is needed.
fn sufficient(needed: &str, held: &str) -> bool {
    held == needed
        || ["roles/pubsub.editor", "roles/pubsub.admin", "roles/editor", "roles/owner"]
            .contains(&held)
}

/// Who may read although nobody in particular was meant to.
pub(super) fn public_members(grants: &[(String, Vec<String>)]) -> Vec<String> {
    let everybody =
        |member: &&String| ["allUsers", "allAuthenticatedUsers"].contains(&member.as_str());
    grants
        .iter()
        .flat_map(|(role, members)| {
            members.iter().filter(everybody).map(move |m| format!("{m} as {role}"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::Status;

    fn grants(role: &str, member: &str) -> Vec<Grant> {
        vec![Grant { role: role.into(), members: vec![member.into()] }]
    }

    fn judged(grants: &[Grant], emulated: bool) -> Status {
        let mut checks = Checks::of("x");
        pubsub_agent(On::DeadTopic, grants, "gcloud", emulated, &mut checks);
        checks.findings[0].status
    }

    #[test]
    fn only_pubsubs_agent_with_a_role_that_publishes() {
        let agent = "serviceAccount:service-42@gcp-sa-pubsub.iam.gserviceaccount.com";
        assert_eq!(judged(&grants("roles/pubsub.publisher", agent), false), Status::Ok);
        assert_eq!(judged(&grants("roles/pubsub.admin", agent), false), Status::Ok);
        for wrong in [
            grants("roles/pubsub.subscriber", agent),
            grants("roles/pubsub.publisher", "serviceAccount:w@p.iam.gserviceaccount.com"),
            grants(
                "roles/pubsub.publisher",
                "user:service-42@gcp-sa-pubsub.iam.gserviceaccount.com",
            ),
            Vec::new(),
        ] {
            assert_eq!(judged(&wrong, false), Status::Failure, "{wrong:?}");
        }
        assert_eq!(judged(&[], true), Status::Skipped);
    }

    /// Roles that only look at a topic, a subscription or a bucket do not show who may use it.
    #[test]
    fn who_may_not_see_a_policy_is_not_sent_for_a_role_that_does_not_show_it() {
        for kind in ["storage.buckets", "pubsub.topics", "pubsub.subscriptions"] {
            let (settings, policy) =
                (to_see(&format!("{kind}.get")), to_see(&format!("{kind}.getIamPolicy")));
            assert!(settings.contains("roles/"), "{settings}");
            assert!(policy.contains("a custom role"), "{policy}");
        }
    }

    #[test]
    fn every_row_of_the_roles_is_checked_somewhere() {
        for row in ROLES {
            assert_eq!(role(row.on, row.to).unwrap().why, row.why, "one row each");
            assert!(row.role.starts_with("roles/") && !row.permissions.is_empty());
        }
    }
}
