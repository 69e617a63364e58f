//! Where a client is: the peer of its connection, or what a proxy that is trusted says.

use std::net::{IpAddr, SocketAddr};

use actix_http::header::{HeaderMap, X_FORWARDED_FOR};
use ipnet::IpNet;

/// Networks whose `X-Forwarded-For` is believed.
#[derive(Debug, Clone, Default)]
pub struct Proxies(Vec<IpNet>);

impl Proxies {
    /// These.
    #[must_use]
    pub fn new(trusted: Vec<IpNet>) -> Self {
        Self(trusted)
    }

    fn trusts(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|net| net.contains(&address))
    }

    /// The client's address: the last one in the chain of `X-Forwarded-For` and the connection that is not a trusted
    /// proxy. What stands before it was written by somebody who is not trusted, and is ignored; so is a chain with
    /// something in it that is no address. A forwarded address has port 0, unless it was told.
    #[must_use]
    pub fn client(&self, peer: SocketAddr, headers: &HeaderMap) -> SocketAddr {
        let mut client = peer;
        let values: Vec<_> = headers.get_all(X_FORWARDED_FOR).collect();
        let hops = values.iter().rev().flat_map(|value| value.to_str().unwrap_or("?").rsplit(','));
        for hop in hops {
            if !self.trusts(client.ip()) {
                break;
            }
            let hop = hop.trim();
            let address = hop.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
            match address.map(|ip| SocketAddr::new(ip, 0)).or_else(|_| hop.parse()) {
                Ok(address) => client = address,
                Err(_) => break,
            }
        }
        client
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_http::header::HeaderValue;

    fn client(peer: &str, forwarded: &[&'static str]) -> String {
        let proxies = Proxies::new(vec!["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()]);
        let mut headers = HeaderMap::new();
        for value in forwarded {
            headers.append(X_FORWARDED_FOR, HeaderValue::from_static(value));
        }
        proxies.client(peer.parse().unwrap(), &headers).to_string()
    }

    #[test]
    fn only_trusted_proxies_are_believed() {
        assert_eq!(client("192.0.2.1:5", &["203.0.113.9"]), "192.0.2.1:5", "not a proxy");
        assert_eq!(client("10.0.0.1:5", &[]), "10.0.0.1:5");
        assert_eq!(client("10.0.0.1:5", &["203.0.113.9"]), "203.0.113.9:0");
        assert_eq!(
            client("10.0.0.1:5", &["1.1.1.1, 203.0.113.9, 10.0.0.2"]),
            "203.0.113.9:0",
            "1.1.1.1 is forged"
        );
        assert_eq!(
            client("10.0.0.1:5", &["1.1.1.1, 203.0.113.9", "10.0.0.2"]),
            "203.0.113.9:0",
            "several headers"
        );
        assert_eq!(client("10.0.0.1:5", &["203.0.113.9:77"]), "203.0.113.9:77");
        assert_eq!(client("[::1]:5", &["[2001:db8::7]"]), "[2001:db8::7]:0");
        assert_eq!(client("[::1]:5", &["2001:db8::7"]), "[2001:db8::7]:0");
        assert_eq!(
            client("[::ffff:10.0.0.1]:5", &["203.0.113.9"]),
            "203.0.113.9:0",
            "IPv4 on an IPv6 socket"
        );
        assert_eq!(
            client("10.0.0.1:5", &["unknown, 10.0.0.3"]),
            "10.0.0.3:0",
            "as far as it can be followed"
        );
        assert_eq!(client("10.0.0.1:5", &["\"<script>\""]), "10.0.0.1:5");
    }
}
