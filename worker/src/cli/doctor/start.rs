//! `--check` of what serves: whether it would work, without starting it.

use std::time::Duration;

use anyhow::bail;
use url::Url;

use super::super::connect::StoreArgs;
use super::super::environment::Place;
use super::super::output::{self, Usage};
use super::finding::{Checks, Report, Status};
use super::{Depth, Names, Subject};

/// Bound on everything.
const TIME_LIMIT: Duration = Duration::from_secs(30);

/// Looks at what a process needs in order to work. Settings come first.
pub(crate) struct Start {
    /// `fleet worker`.
    command: &'static str,
    settings: Checks,
}

impl Start {
    pub(crate) fn of(command: &'static str) -> Self {
        Self { command, settings: Checks::of("settings") }
    }

    /// The value of a setting. One that cannot work is a finding, and the look goes on.
    pub(crate) fn setting<T>(&mut self, read: Result<T, Usage>) -> Option<T> {
        match read {
            Ok(value) => Some(value),
            Err(Usage(why)) => {
                let fix = format!("correct the flag or its variable: `{} --help`", self.command);
                self.settings.fail("usable", why, fix);
                None
            }
        }
    }

    /// Looks at what is named, tells each cause of trouble once, and what to do.
    ///
    /// # Errors
    /// When it would not work.
    pub(crate) async fn look(
        mut self,
        place: &Place,
        store: &StoreArgs,
        names: &Names,
        public_url: Option<&Url>,
    ) -> anyhow::Result<()> {
        if store.client_path().is_none() {
            self.setting(store.read_client());
        }
        self.setting(store.policy());
        let subject = Subject {
            place,
            names,
            bucket: Some(&store.bucket),
            client: store.client_path(),
            sealing: store.sealing_args(),
            public_url,
            depth: Depth::Start,
        };
        let found = subject.look(TIME_LIMIT).await?.findings;
        let mut report = Report { findings: self.settings.findings };
        report.findings.extend(found);
        report.show_trouble()?;
        let failures = report.count(Status::Failure);
        if failures > 0 {
            bail!("{} would not work: {failures} check(s) failed", self.command);
        }
        output::note(format!("{} would work", self.command));
        Ok(())
    }
}
