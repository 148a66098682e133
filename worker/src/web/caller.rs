//! The address of whoever sent a request.

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;

/// The address that limits are for: the connection's own or, behind so many trusted proxies,
/// the one that the first of these saw. Each proxy appends the address that it saw, so
/// that what stands further left can be anything.
pub(super) fn caller(trusted_proxies: usize, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
    let seen: Vec<&str> = headers
        .get_all("x-forwarded-for")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .collect();
    let place = seen.len().checked_sub(trusted_proxies).filter(|_| trusted_proxies > 0);
    let named = place.and_then(|place| address(seen.get(place)?));
    // IPv4 over an IPv6 socket is the same caller.
    named.unwrap_or(peer).to_canonical()
}

/// Some proxies add the port.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    bare.parse().ok().or_else(with_port)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(proxies: usize, forwarded: &[&'static str]) -> String {
        let mut headers = HeaderMap::new();
        for value in forwarded {
            headers.append("x-forwarded-for", http::HeaderValue::from_static(value));
        }
        caller(proxies, "::ffff:192.0.2.9".parse().unwrap(), &headers).to_string()
    }

    #[test]
    fn counts_from_the_right_as_many_as_are_trusted() {
        let claimed = ["198.51.100.1, 203.0.113.7", "35.191.0.1"];
        assert_eq!(of(0, &claimed), "192.0.2.9", "nobody is trusted");
        assert_eq!(of(1, &claimed), "35.191.0.1");
        assert_eq!(of(2, &claimed), "203.0.113.7", "Google's load balancer");
        assert_eq!(of(4, &claimed), "192.0.2.9", "it did not come through them");
        assert_eq!(of(2, &[]), "192.0.2.9");
        assert_eq!(of(1, &["nonsense"]), "192.0.2.9");
        assert_eq!(of(1, &["::ffff:203.0.113.7"]), "203.0.113.7");
        assert_eq!(of(1, &["203.0.113.7:4711"]), "203.0.113.7");
        assert_eq!(of(1, &["[2001:db8::1]:4711"]), "2001:db8::1");
    }
}
