//! A bucket in memory: for tests, simulations and examples.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use crate::ports::{Bucket, BucketError, Generation, Hints, Listing, Object};

/// Objects with generations, strictly one winner per generation, no limits. It has no clock, so
/// its listings do not tell when an object was created.
#[derive(Debug, Default)]
pub struct MemoryBucket(Mutex<Contents>);

#[derive(Debug, Default)]
struct Contents {
    objects: BTreeMap<String, Object>,
    hints: BTreeMap<String, Hints>,
    last_generation: i64,
}

const PAGE: usize = 1000;

impl MemoryBucket {
    fn with<T>(&self, f: impl FnOnce(&mut Contents) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Contents {
    fn generation(&self, name: &str) -> Generation {
        self.objects.get(name).map_or(Generation::ABSENT, |o| o.generation)
    }
}

impl Bucket for MemoryBucket {
    fn get<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Object>, BucketError>> {
        async move { Ok(self.with(|c| c.objects.get(name).cloned())) }.boxed()
    }

    fn put_with_hints<'a>(
        &'a self,
        name: &'a str,
        content: Bytes,
        hints: Hints,
        expected: Generation,
    ) -> BoxFuture<'a, Result<Generation, BucketError>> {
        async move {
            self.with(|c| {
                if c.generation(name) != expected {
                    return Err(BucketError::PreconditionFailed);
                }
                c.last_generation += 1;
                let generation = Generation(c.last_generation);
                c.objects.insert(name.to_owned(), Object { content, generation });
                c.hints.remove(name);
                if !hints.is_empty() {
                    c.hints.insert(name.to_owned(), hints);
                }
                Ok(generation)
            })
        }
        .boxed()
    }

    fn delete<'a>(
        &'a self,
        name: &'a str,
        expected: Generation,
    ) -> BoxFuture<'a, Result<bool, BucketError>> {
        async move {
            self.with(|c| match c.generation(name) {
                Generation::ABSENT => Ok(false),
                found if found != expected => Err(BucketError::PreconditionFailed),
                _ => {
                    c.hints.remove(name);
                    Ok(c.objects.remove(name).is_some())
                }
            })
        }
        .boxed()
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        page: Option<String>,
    ) -> BoxFuture<'a, Result<Listing, BucketError>> {
        async move {
            self.with(|c| {
                let from = page.unwrap_or_else(|| prefix.to_owned());
                let mut matching = c
                    .objects
                    .range(from..)
                    .take_while(|(name, _)| name.starts_with(prefix))
                    .map(|(name, object)| (name.clone(), object.generation));
                let objects: Vec<_> = matching.by_ref().take(PAGE).collect();
                let next_page = matching.next().map(|(name, _)| name);
                let hints = objects.iter().filter_map(|(name, _)| {
                    c.hints.get(name).map(|hints| (name.clone(), hints.clone()))
                });
                Ok(Listing { hints: hints.collect(), objects, next_page, ..Listing::default() })
            })
        }
        .boxed()
    }
}
