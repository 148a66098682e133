//! A fault as it is written in JSON.

use std::collections::BTreeMap;
use std::time::Duration;

use http::StatusCode;
use serde::Deserialize;
use serde_json::json;
use tonic::Code;

use crate::faults::{Answer, Fault};
use crate::{google, pubsub, storage};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    pub(super) server: Server,
    fault: Kind,
    #[serde(default)]
    on: Vec<String>,
    about: Option<String>,
    under: Option<String>,
    times: Option<u64>,
    #[serde(default)]
    attributes: BTreeMap<String, String>,
    code: Option<String>,
    status: Option<u16>,
    reason: Option<String>,
    retry_after_s: Option<u64>,
    delay_ms: Option<u64>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(super) enum Server {
    Pubsub,
    Storage,
    Token,
    Apis,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Refuse,
    Delay,
    Lose,
    Stall,
    Forget,
    Duplicate,
}

impl Asked {
    /// Refuses fields that the fault or the server has no use for: it would not do what it says.
    pub(super) fn check(&self) -> Result<(), String> {
        let refuses = self.fault == Kind::Refuse;
        let is_pubsub = self.server == Server::Pubsub;
        let takes_reason = refuses && matches!(self.server, Server::Token | Server::Apis);
        for (name, given, taken) in [
            ("code", self.code.is_some(), refuses && is_pubsub),
            ("status", self.status.is_some(), refuses && !is_pubsub),
            ("reason", self.reason.is_some(), takes_reason),
            ("retry_after_s", self.retry_after_s.is_some(), refuses && self.server == Server::Apis),
            ("delay_ms", self.delay_ms.is_some(), self.fault == Kind::Delay),
            ("under", self.under.is_some(), self.server == Server::Storage && self.about.is_none()),
            ("on", !self.on.is_empty(), !matches!(self.fault, Kind::Forget | Kind::Duplicate)),
            ("attributes", !self.attributes.is_empty(), is_pubsub),
        ] {
            if given && !taken {
                return Err(format!("`{name}` means nothing to this fault of this server"));
            }
        }
        Ok(())
    }

    pub(super) fn pubsub(&self) -> Result<pubsub::Fault, String> {
        use pubsub::Operation;
        let fault = match self.fault {
            Kind::Refuse => Fault::refusal(code(self.code.as_deref())?),
            Kind::Forget => Fault::forgotten(),
            Kind::Duplicate => Fault::duplicated(),
            _ => self.of_any_server()?,
        };
        let fault = self.narrowed(fault, |name| {
            Some(match name {
                "publish" => Operation::Publish,
                "get" => Operation::Get,
                "test_permissions" => Operation::TestPermissions,
                "manage" => Operation::Manage,
                "receive" => Operation::Receive,
                "acknowledge" => Operation::Acknowledge,
                "modify_deadline" => Operation::ModifyDeadline,
                "deliver" => Operation::Deliver,
                _ => return None,
            })
        })?;
        if self.attributes.is_empty() {
            return Ok(fault);
        }
        let wanted = self.attributes.clone();
        Ok(fault.matching(move |message| {
            wanted.iter().all(|(name, value)| message.attributes.get(name) == Some(value))
        }))
    }

    pub(super) fn storage(&self) -> Result<Fault<storage::Operation>, String> {
        use storage::Operation;
        let fault = match self.fault {
            Kind::Refuse => Fault::refusal(self.refused_with()?),
            _ => self.of_any_server()?,
        };
        self.narrowed(fault, |name| {
            Some(match name {
                "read" => Operation::Read,
                "write" => Operation::Write,
                "delete" => Operation::Delete,
                "list" => Operation::List,
                "bucket" => Operation::Bucket,
                _ => return None,
            })
        })
    }

    pub(super) fn google(&self) -> Result<Fault<google::Operation>, String> {
        use google::Operation;
        let tokens = self.server == Server::Token;
        let fault = match (self.fault, &self.reason) {
            (Kind::Refuse, reason) if !tokens => {
                let status = self.refused_with()?;
                let usual = match status.as_u16() {
                    403 => "userRateLimitExceeded",
                    429 => "rateLimitExceeded",
                    _ => "backendError",
                };
                let wait = self.retry_after_s.map(Duration::from_secs);
                google::api_error(status, reason.as_deref().unwrap_or(usual), wait)
            }
            (Kind::Refuse, Some(reason)) => {
                let body = json!({"error": reason, "error_description": "A fault was injected."});
                let answer = Answer::new(self.refused_with()?, body.to_string());
                Fault::answer(answer.header("content-type", "application/json; charset=utf-8"))
            }
            (Kind::Refuse, None) => Fault::refusal(self.refused_with()?),
            _ => self.of_any_server()?,
        };
        let named = |name: &str| {
            Some(match (name, tokens) {
                ("token", true) => Operation::Token,
                ("revoke", true) => Operation::Revoke,
                ("userinfo", false) => Operation::Userinfo,
                ("api", false) => Operation::Api,
                _ => return None,
            })
        };
        let fault = self.narrowed(fault, named)?;
        Ok(match (self.on.is_empty(), tokens) {
            (false, _) => fault,
            (true, true) => fault.on(Operation::Token).on(Operation::Revoke),
            (true, false) => fault.on(Operation::Userinfo).on(Operation::Api),
        })
    }

    /// The faults that every server has.
    fn of_any_server<O, R>(&self) -> Result<Fault<O, R>, String> {
        match self.fault {
            Kind::Delay => {
                let delay = self.delay_ms.ok_or("`delay_ms` is missing")?;
                Ok(Fault::latency(Duration::from_millis(delay)))
            }
            Kind::Lose => Ok(Fault::lost_reply()),
            Kind::Stall => Ok(Fault::stall()),
            Kind::Refuse | Kind::Forget | Kind::Duplicate => {
                Err("only `pubsub` has the faults `forget` and `duplicate`".to_owned())
            }
        }
    }

    fn narrowed<O, R>(
        &self,
        mut fault: Fault<O, R>,
        named: impl Fn(&str) -> Option<O>,
    ) -> Result<Fault<O, R>, String> {
        for name in &self.on {
            let operation = named(name);
            fault = fault.on(operation.ok_or(format!("`on`: this server has no `{name}`"))?);
        }
        if let Some(about) = &self.about {
            fault = fault.about(about);
        }
        if let Some(prefix) = &self.under {
            fault = fault.under(prefix);
        }
        Ok(match self.times {
            Some(times) => fault.times(times),
            None => fault,
        })
    }

    fn refused_with(&self) -> Result<StatusCode, String> {
        let status = self.status.ok_or("`status` is missing")?;
        let status = StatusCode::from_u16(status).ok();
        let refusal = status.filter(|status| status.is_client_error() || status.is_server_error());
        refusal.ok_or("`status` is one from 400 to 599".to_owned())
    }
}

/// A gRPC code by its name.
fn code(name: Option<&str>) -> Result<Code, String> {
    let name = name.ok_or("`code` is missing: a gRPC code, as UNAVAILABLE")?;
    // Every code but OK, which is no refusal.
    let mut codes = (1..=16).map(Code::from_i32);
    let found = codes.find(|code| {
        let words = format!("{code:?}");
        words.eq_ignore_ascii_case(&name.replace('_', ""))
    });
    found.ok_or(format!("`code`: {name} is no gRPC code"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_named_as_grpc_names_them() {
        assert_eq!(code(Some("UNAVAILABLE")), Ok(Code::Unavailable));
        assert_eq!(code(Some("RESOURCE_EXHAUSTED")), Ok(Code::ResourceExhausted));
        assert_eq!(code(Some("DATA_LOSS")), Ok(Code::DataLoss));
        assert!(code(Some("OK")).is_err() && code(None).is_err());
    }
}
