//! What the protocol asks for, as requests to the bucket and to the endpoint.

use crate::ports::{Act, BucketError, Now};
use crate::protocol::{Action, Event, PutFault, ReadFault, SeenLease, Stored};
use crate::record::{MAX_RECORD_BYTES, RecordHints};
use crate::user_id::UserId;

use super::Inner;

/// Drives what nobody joins (a login, a deletion, a re-seal) to its end.
pub(super) async fn run<E>(
    inner: &Inner,
    user: &UserId,
    act: Act,
    mut step: impl FnMut(Event, Now) -> Action<E>,
) -> E {
    let mut event = Event::Start;
    loop {
        event = match step(event, inner.clock.now()) {
            Action::Finish(end) => return end,
            // Under a lease, which lapses while a bucket that throttles is asked again.
            action @ Action::PutToken(..) if act == Act::Resealed => {
                commit(inner, user, act, action).await
            }
            action => carry_out(inner, user, act, action).await,
        };
    }
}

/// Does what the protocol asks for.
pub(super) async fn carry_out<E>(
    inner: &Inner,
    user: &UserId,
    act: Act,
    action: Action<E>,
) -> Event {
    match action {
        Action::ReadToken => Event::TokenRead(read_token(inner, user).await),
        Action::ReadLease => {
            let read = inner.bucket.get(&user.lease_object()).await;
            let seen = read.map(|o| o.map(|o| SeenLease::decode(&o.content, o.generation)));
            Event::LeaseRead(seen.map_err(read_fault))
        }
        Action::PutLease(lease, expected) => {
            let name = user.lease_object();
            let put = inner.bucket.put(&name, lease.encode(), expected);
            Event::LeasePut(put.await.map_err(put_fault))
        }
        Action::Judge(refusal) => Event::Judged(inner.judge(user, &refusal).await),
        Action::Refresh(refresh_token, limits) => {
            Event::Refreshed(inner.endpoint.refresh(&refresh_token, limits).await)
        }
        Action::PutToken(record, expected) => {
            let content = inner.codec.encode(&record);
            if content.len() > MAX_RECORD_BYTES {
                let why = format!(
                    "the record of this user would have {} bytes, and no more than \
                     {MAX_RECORD_BYTES} are read; fewer scopes make it smaller",
                    content.len()
                );
                return Event::TokenPut(Err(PutFault::TooLarge(why.into())));
            }
            let (name, hints) = (user.token_object(), RecordHints::of(&record).to_stored());
            let put = inner.bucket.put_with_hints(&name, content, hints, expected).await;
            let put = put.map_err(put_fault);
            inner.note_write(act, &record, &put);
            Event::TokenPut(put)
        }
        Action::DeleteToken(expected) => {
            let deleted = inner.bucket.delete(&user.token_object(), expected).await;
            if deleted.is_ok() {
                inner.entries.forget(user);
            }
            inner.note_deletion(user, &deleted);
            Event::Deleted(deleted.map(drop).map_err(put_fault))
        }
        Action::DeleteLease(expected) => {
            let deleted = inner.bucket.delete(&user.lease_object(), expected).await;
            Event::Deleted(deleted.map(drop).map_err(put_fault))
        }
        Action::Sleep(pause) => {
            inner.clock.sleep(pause).await;
            Event::Slept
        }
        Action::Finish(_) => unreachable!("the end is nothing to carry out"),
    }
}

/// One try to write a record under a lease. A write that is slow is given up soon, and the
/// record read: it may have been applied.
pub(super) async fn commit<E>(inner: &Inner, user: &UserId, act: Act, action: Action<E>) -> Event {
    let limit = inner.policy.commit_limit();
    let written = match &action {
        Action::PutToken(record, _) => Some(record.clone()),
        _ => None,
    };
    tokio::select! {
        biased;
        event = carry_out(inner, user, act, action) => event,
        () = inner.clock.sleep(limit) => {
            let why = format!("{} was not written within {limit:?}", user.token_object());
            let put = Err(PutFault::Unknown(why.into()));
            if let Some(record) = written {
                inner.note_write(act, &record, &put);
            }
            Event::TokenPut(put)
        }
    }
}

async fn read_token(inner: &Inner, user: &UserId) -> Result<Option<Box<Stored>>, ReadFault> {
    let Some(object) = inner.bucket.get(&user.token_object()).await.map_err(read_fault)? else {
        return Ok(None);
    };
    let generation = object.generation;
    match inner.codec.decode(user, &object.content) {
        Ok(record) => Ok(Some(Box::new(Stored { record, generation }))),
        Err(why) => Err(ReadFault::Corrupt(why, generation)),
    }
}

fn read_fault(error: BucketError) -> ReadFault {
    match error {
        BucketError::Refused(why) => ReadFault::Refused(why),
        other => ReadFault::Unavailable(other.to_string().into()),
    }
}

fn put_fault(error: BucketError) -> PutFault {
    match error {
        BucketError::PreconditionFailed => PutFault::Conflict,
        BucketError::Refused(why) => PutFault::Refused(why),
        other => PutFault::Unknown(other.to_string().into()),
    }
}
