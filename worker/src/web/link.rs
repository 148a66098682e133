//! The link that an application sends: `GET /connect`, and the way back.

use shared::UserId;
use url::Url;

/// The link by which `user` allows `scopes`, and then comes back to `back`.
pub fn connect_link(site: &Url, user: &UserId, scopes: &[String], back: Option<&Url>) -> Url {
    let mut link = site.clone();
    link.set_path("/connect");
    link.set_fragment(None);
    link.set_query(None);
    {
        let mut query = link.query_pairs_mut();
        if !scopes.is_empty() {
            query.append_pair("scopes", &scopes.join(" "));
        }
        query.append_pair("user_hint", user.as_str());
        if let Some(back) = back {
            query.append_pair("return", back.as_str());
        }
    }
    link
}

/// The address to lead back to, if its origin is one of `allowed`.
pub(super) fn allowed_return(address: &str, allowed: &[Url]) -> Option<Url> {
    let address = Url::parse(address).ok()?;
    let known = allowed.iter().any(|allowed| allowed.origin() == address.origin());
    (known && address.username().is_empty() && address.password().is_none()).then_some(address)
}

/// The local path that leads back there, once the person has signed in.
pub(super) fn path_back(address: &Url) -> String {
    let query = url::form_urlencoded::Serializer::new(String::new())
        .append_pair("to", address.as_str())
        .finish();
    format!("/back?{query}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_names_whom_what_and_where() {
        let site = "https://connect.example.com".parse().unwrap();
        let user = UserId::new("a&b").unwrap();
        let back = "https://app.example.com/jobs?id=7".parse().unwrap();
        let link = connect_link(&site, &user, &["x".into(), "y".into()], Some(&back));
        assert_eq!(
            link.as_str(),
            "https://connect.example.com/connect?scopes=x+y&user_hint=a%26b&return=https%3A%2F%2Fapp.example.com%2Fjobs%3Fid%3D7"
        );
        let plain = connect_link(&site, &user, &[], None);
        assert_eq!(plain.as_str(), "https://connect.example.com/connect?user_hint=a%26b");
    }

    #[test]
    fn only_allowed_origins_are_led_back_to() {
        let allowed: Vec<Url> = vec!["https://app.example.com".parse().unwrap()];
        let back = |address: &str| allowed_return(address, &allowed);
        assert!(back("https://app.example.com/a?b=c#d").is_some());
        assert!(back("https://app.example.com:443/").is_some());
        for bad in [
            "http://app.example.com/",
            "https://app.example.com:8443/",
            "https://app.example.com.evil.test/",
            "https://app.example.com@evil.test/",
            "https://x@app.example.com/",
            "//app.example.com/",
            "/account",
            "javascript:alert(1)",
            "data:text/html,x",
            "",
        ] {
            assert!(back(bad).is_none(), "{bad}");
        }
        assert!(allowed_return("data:x", &["data:y".parse().unwrap()]).is_none());
    }
}
