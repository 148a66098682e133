//! A worker that shares credentials without a guard.

use std::time::Duration;

use tests::stage::BUCKET;
use tokio::io::AsyncReadExt as _;
use tokio_util::sync::CancellationToken;
use unguarded::Config;
use url::Url;

use crate::ground::Place;

/// Works until stdin ends.
pub(super) async fn run(place: Place, at_once: usize) -> anyhow::Result<()> {
    let config = Config {
        pubsub: place.pubsub,
        storage: place.storage,
        api_root: Url::parse(&place.userinfo)?.join("/")?,
        bucket: BUCKET.to_owned(),
        subscription: place.subscription,
        concurrency: at_once,
        ack_extension: Duration::from_secs(60),
        early: Duration::from_secs(60),
        name: "bench".to_owned(),
    };
    let stop = CancellationToken::new();
    let ending = async {
        let told = tokio::io::stdin().read(&mut [0]).await;
        stop.cancel();
        told
    };
    let (ran, told) = tokio::join!(unguarded::run(&config, stop.clone()), ending);
    told?;
    Ok(ran?)
}
