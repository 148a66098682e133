//! What is shown while the demo runs: a bar on a terminal, plain lines elsewhere.

use std::io::IsTerminal as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::super::output;

/// The progress of one run, or of one of two that share a bar.
pub(super) struct Progress {
    bar: ProgressBar,
    /// Which of the runs.
    side: usize,
    /// Goes before what is said, when there are two.
    name: Option<&'static str>,
    /// How many jobs have ended in each.
    ended: Arc<Mutex<[u64; 2]>>,
}

impl Progress {
    pub(super) fn new(jobs: u64) -> Self {
        let bar = ProgressBar::with_draw_target(Some(jobs), ProgressDrawTarget::stderr());
        if let Ok(style) =
            ProgressStyle::with_template("{bar:30} {pos}/{len} jobs  {elapsed}  {msg}")
        {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(250));
        Self { bar, side: 0, name: None, ended: Arc::default() }
    }

    /// Two runs of so many jobs each, with their names.
    pub(super) fn of_two(jobs: u64, names: [&'static str; 2]) -> [Self; 2] {
        let both = Self::new(2 * jobs);
        [0, 1].map(|side| Self {
            bar: both.bar.clone(),
            side,
            name: Some(names[side]),
            ended: Arc::clone(&both.ended),
        })
    }

    /// So many jobs have ended; without a terminal every quarter is a line.
    pub(super) fn at(&self, jobs: u64) {
        let sum = {
            let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
            ended[self.side] = jobs;
            ended.iter().sum::<u64>()
        };
        let (before, total) = (self.bar.position(), self.bar.length().unwrap_or(1));
        self.bar.set_position(sum);
        if !std::io::stderr().is_terminal() && before * 4 / total < sum * 4 / total {
            output::note(format!("{sum}/{total} jobs"));
        }
    }

    pub(super) fn say(&self, text: &str) {
        let text = match self.name {
            Some(name) => format!("{name}: {text}"),
            None => text.to_owned(),
        };
        if std::io::stderr().is_terminal() {
            self.bar.println(format!("· {text}"));
        } else {
            output::note(text);
        }
    }

    /// Whether replicas' warnings are shown. Of two sides neither's are: one would have
    /// thousands.
    pub(super) fn warns(&self) -> bool {
        self.name.is_none()
    }

    /// What stands beside the bar.
    pub(super) fn remark(&self, text: &'static str) {
        self.bar.set_message(text);
    }

    /// Takes the bar away.
    pub(super) fn clear(&self) {
        self.bar.finish_and_clear();
    }
}
