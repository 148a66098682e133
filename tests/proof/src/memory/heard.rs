//! A topic that remembers what was published, and refuses on demand.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use serde_json::Value;
use worker::pubsub::{Outgoing, PublishError, Topic};

/// See the module's page.
#[derive(Clone)]
pub struct Heard(Arc<Hearing>);

struct Hearing {
    name: &'static str,
    messages: Mutex<Vec<Outgoing>>,
    refuse: Mutex<Arc<Refuse>>,
}

/// Why a topic does not take a message; `None` when it does.
type Refuse = dyn Fn(&Outgoing) -> Option<PublishError> + Send + Sync;

impl Heard {
    /// A topic of this name that takes everything.
    pub fn new(name: &'static str) -> Self {
        let refuse: Arc<Refuse> = Arc::new(|_: &Outgoing| None);
        Self(Arc::new(Hearing { name, messages: Mutex::default(), refuse: Mutex::new(refuse) }))
    }

    fn with<T>(&self, f: impl FnOnce(&mut Vec<Outgoing>) -> T) -> T {
        f(&mut self.0.messages.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// From now on refuses what `refuse` says.
    pub fn refuse(
        &self,
        refuse: impl Fn(&Outgoing) -> Option<PublishError> + Send + Sync + 'static,
    ) {
        *self.0.refuse.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(refuse);
    }

    /// From now on takes nothing.
    pub fn close(&self) {
        let topic = self.0.name.to_owned();
        let why = "NOT_FOUND".to_owned();
        self.refuse(move |_| {
            let (topic, why) = (topic.clone(), why.clone());
            Some(PublishError::Unavailable { topic, why, source: None })
        });
    }

    /// From now on takes everything.
    pub fn open(&self) {
        self.refuse(|_| None);
    }

    /// Takes out everything published so far.
    pub fn take(&self) -> Vec<Outgoing> {
        self.with(std::mem::take)
    }

    /// How many messages were published.
    pub fn len(&self) -> usize {
        self.with(|all| all.len())
    }

    /// Whether nothing was published.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The outcomes published so far.
    pub fn outcomes(&self) -> Vec<Value> {
        self.with(|all| {
            all.iter().map(|m| serde_json::from_slice(&m.data).unwrap_or(Value::Null)).collect()
        })
    }
}

impl Topic for Heard {
    fn name(&self) -> &str {
        self.0.name
    }

    fn publish(&self, message: Outgoing) -> BoxFuture<'static, Result<String, PublishError>> {
        let refuse = Arc::clone(&*self.0.refuse.lock().unwrap_or_else(PoisonError::into_inner));
        if let Some(error) = refuse(&message) {
            return async move { Err(error) }.boxed();
        }
        let id = self.with(|all| {
            all.push(message);
            all.len().to_string()
        });
        async move { Ok(id) }.boxed()
    }
}

impl fmt::Debug for Heard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Heard").field("name", &self.0.name).finish_non_exhaustive()
    }
}
