//! What is asked for, and how it must end.

use serde_json::{Value, json};

use crate::echo::{REFUSED, REFUSED_USERS};
use crate::play::EXPORTS;

/// How a job's input deserves to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deserves {
    Done,
    Rejected,
    Parked,
    /// No job at all; its outcome is named by the message.
    Malformed,
}

/// A job and what it deserves.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) id: String,
    pub(crate) user: String,
    pub(crate) deserves: Deserves,
    pub(crate) message: Value,
}

/// Of a hundred jobs, most insert a task, which the API counts.
pub(crate) fn asked(number: usize, users: usize) -> Asked {
    let id = format!("job-{number:05}");
    // Every round of a hundred starts with another user, so that each meets each kind.
    let user = format!("user-{}", (number + number / 100) % users);
    let api = |params: Value| json!({"id": id, "user": user, "kind": "api", "params": params});
    let mirror = |code: u16| format!("https://www.googleapis.com/v1/mirror/{code}");
    let (deserves, message) = match number % 100 {
        0 => (Deserves::Rejected, api(json!({"url": "https://evil.example/"}))),
        1 => (Deserves::Rejected, json!({"id": id, "user": user, "kind": "brew"})),
        2 => (Deserves::Rejected, api(json!({"url": "https://www.googleapis.com/v1/status/404"}))),
        3 => {
            let drive = "https://www.googleapis.com/drive/v3/files";
            (Deserves::Parked, api(json!({"url": drive})))
        }
        4 => {
            let stranger = format!("stranger-{}", number % 7);
            let message = json!({"id": id, "user": stranger, "kind": "profile"});
            return Asked { id, user: stranger, deserves: Deserves::Parked, message };
        }
        5 => (Deserves::Malformed, json!({"id": id, "user": user, "kind": 7})),
        6 | 7 => (Deserves::Done, json!({"id": id, "user": user, "kind": "profile"})),
        8 => {
            let user = format!("{REFUSED}{}", number / 100 % REFUSED_USERS);
            let message = json!({"id": id, "user": user, "kind": "profile"});
            return Asked { id, user, deserves: Deserves::Parked, message };
        }
        // An API that quotes its request: in a result, in an object, in an error, in a redirect.
        9 => (Deserves::Done, api(json!({"url": mirror(200)}))),
        10 => {
            let output = format!("gs://{EXPORTS}/{id}");
            (Deserves::Done, api(json!({"url": mirror(200), "output": output})))
        }
        11 => (Deserves::Rejected, api(json!({"url": mirror(404)}))),
        12 => (Deserves::Rejected, api(json!({"url": mirror(302)}))),
        _ => {
            let task = json!({
                "method": "POST",
                "url": "https://tasks.googleapis.com/tasks/v1/lists/@default/tasks",
                "headers": {"x-effect-id": id},
                "body": {"title": id},
            });
            (Deserves::Done, api(task))
        }
    };
    Asked { id, user, deserves, message }
}
