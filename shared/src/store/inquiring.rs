//! Asks the endpoint whether a refusal is about the client or about one user.

use std::sync::Arc;

use tracing::debug;

use crate::client_question::ask_about_client;
use crate::protocol::{Blame, Inquiry, Refusal};
use crate::user_id::UserId;

use super::Inner;

impl Inner {
    /// Whom a refusal is about. Asks the endpoint at most once per ttl; whoever comes
    /// meanwhile waits for that answer.
    pub(super) async fn judge(&self, user: &UserId, refusal: &Refusal) -> Blame {
        let mut inquiry = self.inquiry.lock().await;
        let mut known = self.weigh(&mut inquiry, user, refusal);
        if known.is_none() {
            self.ask(&mut inquiry, false).await;
            known = self.weigh(&mut inquiry, user, refusal);
        }
        let blame = known.unwrap_or(Blame::Nobody);
        debug!(user = %user.digest(), code = %refusal.code, ?blame, "a refusal was judged");
        blame
    }

    fn weigh(&self, inquiry: &mut Inquiry, user: &UserId, refusal: &Refusal) -> Option<Blame> {
        let (now, ttl) = (self.now(), self.policy.lease_ttl);
        let (worked, ever) = {
            let breaker = self.breaker();
            (breaker.succeeded_within(ttl, now), breaker.ever_succeeded())
        };
        let why = if ever {
            Arc::clone(&refusal.why)
        } else {
            let both = "; or else every grant that was tried is dead and this provider says it \
                        with that code";
            format!("{}{both}", refusal.why).into()
        };
        inquiry.judge(user, &refusal.code, &why, worked, ttl, now)
    }

    async fn ask(&self, inquiry: &mut Inquiry, after_success: bool) {
        self.counters.asked();
        let answer = ask_about_client(&*self.endpoint, self.policy.exchange_limits()).await;
        inquiry.answered(&answer, after_success, self.now());
    }

    /// A refresh succeeded: learns this provider's word for a dead grant, where a refusal
    /// has raised that question.
    pub(super) fn learn(self: &Arc<Self>) {
        let Ok(inquiry) = self.inquiry.try_lock() else {
            return;
        };
        if !inquiry.is_worth_asking_again() || self.stopping.is_cancelled() {
            return;
        }
        drop(inquiry);
        let inner = Arc::clone(self);
        self.tasks.spawn(async move {
            let mut inquiry = inner.inquiry.lock().await;
            if inquiry.is_worth_asking_again() {
                inner.ask(&mut inquiry, true).await;
            }
        });
    }
}
