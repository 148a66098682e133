//! What one process remembers, within bounds.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Mutex, PoisonError};

use crate::job::Job;
use crate::json::Json;

use super::{Recalled, Told};

/// How many ends a process remembers: about 20 MB without results.
const ENDS: usize = 100_000;
/// How much text of results and reasons it remembers, in bytes.
const TEXT: usize = 16 * 1024 * 1024;

type Key = [u8; 16];

/// Ends of jobs, the oldest forgotten first; of results and reasons, earlier.
#[derive(Default)]
pub struct Remembered(Mutex<Ends>);

#[derive(Default)]
struct Ends {
    known: HashMap<Key, End>,
    /// From the oldest on.
    order: VecDeque<Key>,
    /// Those that have a text, from the oldest on; also some that have none any more.
    with_text: VecDeque<(Key, u64)>,
    /// The sum of all texts' lengths.
    text: usize,
    /// Numbers the texts.
    written: u64,
}

struct End {
    params: String,
    /// Without what may be dropped.
    told: Told,
    text: Option<Text>,
    /// It had a text, whether or not that was dropped.
    had_text: bool,
}

/// What may be dropped.
struct Text {
    result: Json,
    reason: Option<String>,
    number: u64,
}

/// An end that is remembered.
pub(super) struct Found {
    pub(super) recalled: Recalled,
    /// Nothing of it was dropped.
    pub(super) is_whole: bool,
}

impl Remembered {
    fn with<T>(&self, f: impl FnOnce(&mut Ends) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn get(&self, job: &Job) -> Option<Found> {
        let params = job.params_digest();
        self.with(|ends| {
            let end = ends.known.get(&job.identity().digest())?;
            if end.params != params {
                return Some(Found { recalled: Recalled::OtherParameters, is_whole: true });
            }
            let (told, is_whole) = end.told();
            Some(Found { recalled: Recalled::Same(told), is_whole })
        })
    }

    /// Remembers an end in place of any other.
    pub(super) fn insert(&self, job: &Job, told: &Told) {
        self.with(|ends| ends.insert(job.identity().digest(), job.params_digest(), told));
    }

    /// Remembers an end unless there is one; the one that there is, if it is of a job with
    /// the same parameters.
    pub(super) fn insert_if_new(&self, job: &Job, told: &Told) -> Option<Told> {
        let (key, params) = (job.identity().digest(), job.params_digest());
        self.with(|ends| {
            if let Some(end) = ends.known.get(&key) {
                return (end.params == params).then(|| end.told().0);
            }
            ends.insert(key, params, told);
            None
        })
    }
}

impl Ends {
    fn insert(&mut self, key: Key, params: String, told: &Told) {
        let text = self.text_of(key, told);
        let told = Told { result: Json::null(), reason: None, ..told.clone() };
        let had_text = text.is_some();
        match self.known.insert(key, End { params, told, text, had_text }) {
            Some(before) => self.text -= before.text_len(),
            None => self.order.push_back(key),
        }
        if self.order.len() > ENDS
            && let Some(oldest) = self.order.pop_front()
            && let Some(end) = self.known.remove(&oldest)
        {
            self.text -= end.text_len();
        }
        while self.text > TEXT
            && let Some((key, number)) = self.with_text.pop_front()
        {
            let text = self.known.get_mut(&key).map(|end| &mut end.text);
            if let Some(text) = text
                && text.as_ref().is_some_and(|text| text.number == number)
                && let Some(text) = text.take()
            {
                self.text -= text.len();
            }
        }
        if self.with_text.len() > 2 * ENDS {
            let known = &self.known;
            self.with_text.retain(|(key, number)| {
                let text = known.get(key).and_then(|end| end.text.as_ref());
                text.is_some_and(|text| text.number == *number)
            });
        }
    }

    /// Takes note of what may be dropped of an end.
    fn text_of(&mut self, key: Key, told: &Told) -> Option<Text> {
        if told.result.is_null() && told.reason.is_none() {
            return None;
        }
        self.written += 1;
        let (result, reason) = (told.result.clone(), told.reason.clone());
        let text = Text { result, reason, number: self.written };
        self.text += text.len();
        self.with_text.push_back((key, text.number));
        Some(text)
    }
}

impl End {
    /// What is remembered, and whether that is all of it.
    fn told(&self) -> (Told, bool) {
        let Some(text) = &self.text else { return (self.told.clone(), !self.had_text) };
        let result = text.result.clone();
        (Told { result, reason: text.reason.clone(), ..self.told.clone() }, true)
    }

    fn text_len(&self) -> usize {
        self.text.as_ref().map_or(0, Text::len)
    }
}

impl Text {
    fn len(&self) -> usize {
        self.result.text().len() + self.reason.as_ref().map_or(0, String::len)
    }
}

impl fmt::Debug for Remembered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = self.with(|ends| ends.known.len());
        f.debug_struct("Remembered").field("jobs", &known).finish()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::effect::Effect;
    use crate::outcome::Status;

    use super::*;

    fn told(result: Value) -> Told {
        Told {
            status: Status::Done,
            effect: Effect::Done,
            repeatable: false,
            http_status: Some(200),
            result: result.into(),
            reason: None,
        }
    }

    fn job(id: usize) -> Job {
        let data = format!(r#"{{"id":"{id}","user":"ann","kind":"k"}}"#);
        Job::decode(data.as_bytes(), "m").unwrap()
    }

    #[test]
    fn the_oldest_ends_are_forgotten() {
        let remembered = Remembered::default();
        for n in 0..ENDS + 10 {
            remembered.insert(&job(n), &told(Value::Null));
            remembered.insert(&job(n), &told(json!(n)));
        }
        assert!(remembered.get(&job(9)).is_none());
        assert!(remembered.get(&job(10)).is_some());
        remembered.with(|ends| {
            assert_eq!((ends.known.len(), ends.order.len()), (ENDS, ENDS));
            assert!(ends.with_text.len() <= 2 * ENDS);
            let sum: usize = ends.known.values().map(End::text_len).sum();
            assert_eq!(ends.text, sum);
        });
    }

    #[test]
    fn the_oldest_results_are_dropped_and_the_ends_stay() {
        let remembered = Remembered::default();
        let large = json!("x".repeat(1024 * 1024));
        for n in 0..20 {
            remembered.insert(&job(n), &told(large.clone()));
        }
        remembered.with(|ends| assert!(ends.text <= TEXT, "{}", ends.text));
        let dropped = remembered.get(&job(0)).unwrap();
        assert!(!dropped.is_whole);
        assert_eq!(dropped.recalled, Recalled::Same(told(Value::Null)));
        assert_eq!(remembered.get(&job(19)).unwrap().recalled, Recalled::Same(told(large)));
        remembered.insert(&job(20), &told(Value::Null));
        assert!(remembered.get(&job(20)).unwrap().is_whole, "there was nothing to drop");
    }
}
