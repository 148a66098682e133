//! `fleet worker --check`.

use crate::kinds::Kinds;
use shared::keyring::KeyringFile;

use super::super::connect::userinfo_url;
use super::super::doctor::{Names, Start};
use super::super::environment::Place;
use super::super::forward;
use super::parts::Named;
use super::{Args, names_are_free};

/// Checks whether a replica of these settings would work.
pub(super) async fn run(args: &Args, own: &Kinds) -> anyhow::Result<()> {
    let place = Place::from_env()?;
    let mut start = Start::of("fleet worker");
    start.setting(userinfo_url());
    let named = start.setting(Named::by(args));
    let forwards = named
        .as_ref()
        .and_then(|named| start.setting(args.forward.settings(&named.subscription)))
        .flatten();
    if let Some(forwards) = forwards {
        start.setting(names_are_free(&forwards, own));
        // One that cannot be read is found with everything else.
        if let Ok(keyring) = args.store.sealing_args().file() {
            let seals = keyring.as_ref().and_then(KeyringFile::primary);
            start.setting(forward::needs_keyring(&place, seals));
        }
    }
    let names = named.map_or_else(Names::default, Named::into_names);
    start.look(&place, &args.store, &names, None).await
}
