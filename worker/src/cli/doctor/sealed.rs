//! Whether what is stored is sealed, where a keyring seals.

use crate::parking::is_claim;
use crate::{dedupe, outbox, parking};
use futures_util::future::join_all;
use shared::ports::{Bucket, BucketError};
use shared::sealing::Sealing;

use super::finding::Checks;

/// What lies in these folders is sealed.
const FOLDERS: [&str; 4] = ["tokens/", parking::PREFIX, dedupe::PREFIX, outbox::PREFIX];
/// So many objects of each are read, of the first page of its listing.
const READ: usize = 200;
/// So many at a time.
const AT_ONCE: usize = 16;

/// What was found in a folder.
struct Folder {
    prefix: &'static str,
    looked_at: usize,
    /// There are more objects than that.
    has_more: bool,
    plain: usize,
    example: Option<String>,
}

/// Looks for objects that are not sealed. `sealing` has the keyring that the workers have.
pub(super) async fn check(bucket: &dyn Bucket, sealing: &Sealing, checks: &mut Checks) {
    const CHECK: &str = "sealed";
    if sealing.keyring().and_then(|keyring| keyring.primary()).is_none() {
        return;
    }
    let folders = join_all(FOLDERS.map(|prefix| look(bucket, prefix))).await;
    let folders: Result<Vec<Folder>, _> = folders.into_iter().collect();
    let folders = match folders {
        Ok(folders) => folders,
        Err(why) => return checks.skip(CHECK, format!("it cannot be looked at: {why}")),
    };
    let looked_at: usize = folders.iter().map(|folder| folder.looked_at).sum();
    let plain: Vec<String> = folders.iter().filter_map(Folder::plain).collect();
    if !plain.is_empty() {
        checks.warn(CHECK, plain.join("; "), "fleet users reseal --all");
    } else if folders.iter().any(|folder| folder.has_more) {
        checks.ok(CHECK, format!("{looked_at} objects, of more, that were looked at"));
    } else {
        checks.ok(CHECK, format!("all {looked_at} objects"));
    }
}

impl Folder {
    fn plain(&self) -> Option<String> {
        let Self { prefix, looked_at, has_more, plain, example } = self;
        let of_more = if *has_more { ", of more," } else { "" };
        let example = example.as_ref()?;
        Some(format!(
            "{prefix}: {plain} of {looked_at} objects{of_more} that were looked at are not sealed, \
             such as {example}"
        ))
    }
}

async fn look(bucket: &dyn Bucket, prefix: &'static str) -> Result<Folder, BucketError> {
    let listing = bucket.list(prefix, None).await?;
    let names = listing.objects.iter().map(|(name, _)| name).filter(|name| !is_claim(name));
    let names: Vec<&String> = names.collect();
    // From all over the page, since what was stored together is often alike.
    let step = names.len().div_ceil(READ).max(1);
    let chosen: Vec<&String> = names.iter().step_by(step).copied().collect();
    let has_more = chosen.len() < names.len() || listing.next_page.is_some();
    let looked_at = chosen.len();
    let mut folder = Folder { prefix, looked_at, has_more, plain: 0, example: None };
    for names in chosen.chunks(AT_ONCE) {
        let objects = join_all(names.iter().map(|name| bucket.get(name))).await;
        for (name, object) in names.iter().zip(objects) {
            if object?.is_some_and(|object| Sealing::is_plain(&object.content)) {
                folder.plain += 1;
                folder.example.get_or_insert_with(|| (*name).clone());
            }
        }
    }
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use shared::Keyring;
    use shared::adapters::MemoryBucket;
    use shared::ports::Generation;

    use super::super::finding::Status;
    use super::*;

    async fn checked(
        bucket: &dyn Bucket,
        sealing: &Sealing,
    ) -> Vec<(Status, String, Option<String>)> {
        let mut checks = Checks::of("bucket");
        check(bucket, sealing, &mut checks).await;
        checks.findings.into_iter().map(|f| (f.status, f.found, f.fix)).collect()
    }

    #[tokio::test]
    async fn what_is_not_sealed_is_counted_by_folder() {
        let bucket: Arc<dyn Bucket> = Arc::new(MemoryBucket::default());
        let put = async |name: &str, content: &[u8]| {
            bucket.put(name, content.to_vec().into(), Generation::ABSENT).await.unwrap();
        };
        let keyring = |open_only: bool| {
            let now = jiff::Timestamp::UNIX_EPOCH;
            Some(if open_only { Keyring::open_only(now) } else { Keyring::new(now) })
        };
        let sealing = Sealing::new(keyring(false));
        let sealed = sealing.seal_whole("done/u/a.json", b"{}");
        put("done/u/a.json", &sealed).await;
        put("parked/u/claim", b"{}").await;
        put("leases/u.json", b"{}").await;
        let all = checked(&*bucket, &sealing).await;
        assert_eq!(all, [(Status::Ok, "all 1 objects".to_owned(), None)]);
        for n in 0..500 {
            put(&format!("tokens/u{n:03}.json"), b"{}").await;
        }
        put("endings/_/x.json", b"{}").await;
        let found = checked(&*bucket, &sealing).await;
        let expected = "tokens/: 167 of 167 objects, of more, that were looked at are not sealed, \
            such as tokens/u000.json; endings/: 1 of 1 objects that were looked at are not \
            sealed, such as endings/_/x.json";
        let fix = Some("fleet users reseal --all".to_owned());
        assert_eq!(found, [(Status::Warning, expected.to_owned(), fix)]);
        for nothing_seals in [Sealing::default(), Sealing::new(keyring(true))] {
            assert_eq!(checked(&*bucket, &nothing_seals).await, []);
        }
    }
}
