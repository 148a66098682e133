//! Every secret that was ever stored.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use emulators::storage::Storage;
use serde_json::Value;

/// Collects the secrets of token records as they are written.
#[derive(Debug, Clone, Default)]
pub(crate) struct Secrets(Arc<Mutex<HashSet<String>>>);

impl Secrets {
    pub(crate) fn of(storage: &Storage) -> Self {
        let secrets = Self::default();
        let seen = Arc::clone(&secrets.0);
        storage.on_write(move |written| {
            let record: Value = serde_json::from_slice(&written.content).unwrap_or_default();
            if written.name.starts_with("tokens/") {
                let text = |field: &str| record[field].as_str().map(str::to_owned);
                let fields = ["access_token", "refresh_token"];
                seen.lock().unwrap().extend(fields.into_iter().filter_map(text));
            }
        });
        secrets
    }

    pub(crate) fn all(&self) -> HashSet<String> {
        self.0.lock().unwrap().clone()
    }
}
