//! Consent against `fleet dev`, end to end: the pages over HTTP, in headless
//! Chromium, and `fleet login` in a pseudo-terminal; and the operators' pages.
//!
//! The browser part needs `chromedriver` and `chromium` on the `PATH` (Debian's
//! packages `chromium` and `chromium-driver`) and, for the accessibility check,
//! `npm ci` in `tests/web`. Without them it says so and passes, unless
//! `FLEET_REQUIRE_BROWSER=1`. Screenshots go to `target/screenshots`.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "a test fails by panicking")]

mod admin;
mod admin_browser;
mod browser;
mod dev;
mod login;
mod pages;
mod person;
mod webdriver;
