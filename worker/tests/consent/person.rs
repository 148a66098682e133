//! A browser without a screen: cookies, no scripts, no redirects of its own.

use std::collections::BTreeMap;

use reqwest::header::{CONTENT_TYPE, COOKIE, HeaderMap, LOCATION, ORIGIN, SET_COOKIE};
use reqwest::redirect::Policy;
use url::{Url, form_urlencoded};

use super::dev::Dev;

pub(crate) struct Person {
    http: reqwest::Client,
    pub(crate) cookies: BTreeMap<String, String>,
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Answer {
    /// Where it leads.
    pub(crate) fn location(&self) -> String {
        self.headers.get(LOCATION).map(|l| l.to_str().unwrap().to_owned()).unwrap_or_default()
    }
}

impl Person {
    pub(crate) fn new() -> Self {
        let http = reqwest::Client::builder().redirect(Policy::none()).build().unwrap();
        Self { http, cookies: BTreeMap::new() }
    }

    /// Another browser with the same cookies.
    pub(crate) fn copied(&self) -> Self {
        Self { http: self.http.clone(), cookies: self.cookies.clone() }
    }

    /// Signs in, with nothing beyond that.
    pub(crate) async fn sign_in(&mut self, dev: &Dev, account: &str) {
        let back = self.consent(&dev.url("/oauth/start"), account).await;
        let done = self.come_back(&back, account).await;
        assert_eq!((done.status, &*done.location()), (303, "/account"), "{}", done.body);
    }

    /// Comes back from the provider; and once more, if a refresh token is missing.
    pub(crate) async fn come_back(&mut self, back: &str, account: &str) -> Answer {
        let done = self.get(back).await;
        if !done.location().contains("prompt=consent") {
            return done;
        }
        let back = self.decide(&done.location(), account, Some(&[])).await;
        self.get(&back).await
    }

    /// Presses a button of the account page.
    pub(crate) async fn press(&mut self, dev: &Dev, action: &str) {
        let csrf = Self::csrf(&self.get(&dev.url("/account")).await.body);
        let answer = self.post(&dev.url(action), &[("csrf", &csrf)]).await;
        assert_eq!(answer.status, 303, "{action}: {}", answer.body);
    }

    pub(crate) async fn get(&mut self, url: &str) -> Answer {
        self.send(self.http.get(url)).await
    }

    pub(crate) async fn post(&mut self, url: &str, form: &[(&str, &str)]) -> Answer {
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
        let origin = Url::parse(url).unwrap().origin().ascii_serialization();
        let request = self.http.post(url).body(body).header(ORIGIN, origin);
        self.send(request.header(CONTENT_TYPE, "application/x-www-form-urlencoded")).await
    }

    async fn send(&mut self, request: reqwest::RequestBuilder) -> Answer {
        let cookies: Vec<_> = self.cookies.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let response = request.header(COOKIE, cookies.join("; ")).send().await.unwrap();
        for cookie in response.headers().get_all(SET_COOKIE) {
            let cookie = cookie.to_str().unwrap();
            let (name, rest) = cookie.split_once('=').unwrap();
            let value = rest.split(';').next().unwrap();
            if value.is_empty() {
                self.cookies.remove(name);
            } else {
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
        }
        Answer {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            body: response.text().await.unwrap(),
        }
    }

    /// Decides on the provider's page; where that leads.
    pub(crate) async fn decide(
        &mut self,
        page: &str,
        account: &str,
        allow: Option<&[&str]>,
    ) -> String {
        let asked = Url::parse(page).unwrap();
        assert_eq!(self.get(page).await.status, 200);
        let mut form = vec![("request", asked.query().unwrap()), ("account", account)];
        form.push(("decision", if allow.is_some() { "allow" } else { "deny" }));
        form.extend(allow.unwrap_or_default().iter().map(|scope| ("allow", *scope)));
        let mut to = asked.clone();
        to.set_query(None);
        let answer = self.post(to.as_str(), &form).await;
        assert_eq!(answer.status, 302, "{}", answer.body);
        answer.location()
    }

    /// Starts a login and decides; the address that the provider sends back to.
    pub(crate) async fn consent(&mut self, start: &str, account: &str) -> String {
        let started = self.get(start).await;
        assert_eq!(started.status, 303, "{}", started.body);
        self.decide(&started.location(), account, Some(&[])).await
    }

    /// The hidden token of the page's forms.
    pub(crate) fn csrf(page: &str) -> String {
        let (_, rest) = page.split_once("name=\"csrf\" value=\"").expect("a form");
        rest.split('"').next().unwrap().to_owned()
    }
}
