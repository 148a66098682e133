//! The access that a fleet needs, and nothing more.
//!
//! `fleet doctor` asks whether this process may do what its row says. A prefix
//! condition on the bucket's grant would break listing, and overwriting an object
//! needs `storage.objects.delete`.

/// On what a role is granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum On {
    /// The bucket of the token store.
    TokenBucket,
    /// The topic that jobs are published to.
    JobTopic,
    /// The subscription that workers read.
    JobSubscription,
    /// The topic that rejected and undeliverable jobs go to.
    DeadTopic,
    /// The subscription that keeps them.
    DeadSubscription,
    /// The topic that outcomes are published to.
    OutcomesTopic,
    /// The topic that changes of users' consent are published to.
    EventsTopic,
}

/// To whom it is granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To {
    /// The identity that fleet's own processes run as.
    Fleet,
    /// Pub/Sub's service agent, `service-NUMBER@gcp-sa-pubsub.iam.gserviceaccount.com`.
    PubSub,
}

/// One grant.
#[derive(Debug, Clone, Copy)]
pub struct Role {
    /// The smallest predefined role that allows it.
    pub role: &'static str,
    /// On what.
    pub on: On,
    /// To whom.
    pub to: To,
    /// What has to be allowed.
    pub permissions: &'static [&'static str],
    /// What it is needed for.
    pub why: &'static str,
}

const PUBLISH: &[&str] = &["pubsub.topics.publish"];
const CONSUME: &[&str] = &["pubsub.subscriptions.consume"];

/// Every grant that a fleet needs.
pub const ROLES: &[Role] = &[
    Role {
        role: "roles/storage.objectUser",
        on: On::TokenBucket,
        to: To::Fleet,
        permissions: &[
            "storage.objects.get",
            "storage.objects.create",
            "storage.objects.delete",
            "storage.objects.list",
        ],
        why: "token records, leases and parked jobs",
    },
    Role {
        role: "roles/pubsub.subscriber",
        on: On::JobSubscription,
        to: To::Fleet,
        permissions: CONSUME,
        why: "workers receive jobs",
    },
    Role {
        role: "roles/pubsub.publisher",
        on: On::JobTopic,
        to: To::Fleet,
        permissions: PUBLISH,
        why: "parked and dead jobs go on",
    },
    Role {
        role: "roles/pubsub.publisher",
        on: On::DeadTopic,
        to: To::Fleet,
        permissions: PUBLISH,
        why: "workers put rejected jobs there",
    },
    Role {
        role: "roles/pubsub.publisher",
        on: On::OutcomesTopic,
        to: To::Fleet,
        permissions: PUBLISH,
        why: "workers tell outcomes",
    },
    Role {
        role: "roles/pubsub.publisher",
        on: On::EventsTopic,
        to: To::Fleet,
        permissions: PUBLISH,
        why: "workers and pages tell changes of consent",
    },
    Role {
        role: "roles/pubsub.subscriber",
        on: On::DeadSubscription,
        to: To::Fleet,
        permissions: CONSUME,
        why: "`fleet dead` looks at dead letters",
    },
    Role {
        role: "roles/pubsub.publisher",
        on: On::DeadTopic,
        to: To::PubSub,
        permissions: PUBLISH,
        why: "Pub/Sub puts jobs there that were delivered too often",
    },
    Role {
        role: "roles/pubsub.subscriber",
        on: On::JobSubscription,
        to: To::PubSub,
        permissions: CONSUME,
        why: "Pub/Sub takes them away from the workers",
    },
];
