//! Whose address a request came from: the connection's, or, where that is a proxy that the operator trusts, the one that
//! the proxy names.

use std::{net::IpAddr, str::FromStr};

use ipnet::IpNet;
use poem::{
    Request,
    http::{HeaderMap, HeaderName, header},
};

/// The client's address, as far as it is known; put into each request by `app.rs`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClientAddress(pub Option<IpAddr>);

/// Where proxies write whom they speak for. Only one is read: the other could be the client's own words, which a proxy
/// that knows nothing of it passes on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ForwardedHeader {
    /// `X-Forwarded-For`, what most proxies write.
    XForwardedFor,
    /// `Forwarded`, RFC 7239.
    Forwarded,
}

impl FromStr for ForwardedHeader {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "x-forwarded-for" => Ok(Self::XForwardedFor),
            "forwarded" => Ok(Self::Forwarded),
            _ => Err("it is x-forwarded-for or forwarded".into()),
        }
    }
}

/// Whose word is taken for an address.
#[derive(Clone, Debug)]
pub struct Proxies {
    trusted: Vec<IpNet>,
    header: ForwardedHeader,
}

impl Proxies {
    /// Networks, or single addresses, comma-separated; none: nobody is believed.
    pub fn parse(trusted: &str, header: ForwardedHeader) -> Result<Self, String> {
        let entries = trusted.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        let network = |entry: &str| {
            let single = || entry.parse::<IpAddr>().map(IpNet::from);
            entry
                .parse::<IpNet>()
                .or_else(|_| single())
                .map_err(|_| format!("{entry} is not a network like 10.0.0.0/8 or 2001:db8::/32, nor an address"))
        };
        Ok(Self { trusted: entries.map(network).collect::<Result<_, _>>()?, header })
    }

    /// The client of a request.
    pub fn client_of(&self, request: &Request) -> ClientAddress {
        let connection = request.remote_addr().as_socket_addr().map(|address| address.ip());
        ClientAddress(connection.map(|connection| self.client(connection, request.headers())))
    }

    /// The proxies add to the right, so that is where to begin: each trusted one vouches for the address on its left,
    /// and the first that is not trusted is the client. What stands left of it anyone can have written. When one of
    /// those that vouch names no address (`unknown`, nonsense), nobody does: then it is the connection's.
    pub fn client(&self, connection: IpAddr, headers: &HeaderMap) -> IpAddr {
        // An IPv4 client of a dual-stack socket is an IPv4 client.
        let connection = connection.to_canonical();
        let mut client = connection;
        if !self.trusts(client) {
            return client;
        }
        for hop in self.hops(headers).iter().rev() {
            let Some(address) = hop else { return connection };
            client = *address;
            if !self.trusts(client) {
                break;
            }
        }
        client
    }

    /// Whether it is a proxy's.
    pub fn trusts(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(&address))
    }

    /// All that the header names, from left to right; several headers are one list (RFC 9110 §5.3).
    fn hops(&self, headers: &HeaderMap) -> Vec<Option<IpAddr>> {
        let name = match self.header {
            ForwardedHeader::XForwardedFor => HeaderName::from_static("x-forwarded-for"),
            ForwardedHeader::Forwarded => header::FORWARDED,
        };
        let mut hops = Vec::new();
        for value in headers.get_all(name) {
            match (value.to_str(), self.header) {
                (Err(_), _) => hops.push(None),
                // The client left a quote open, and what the proxy wrote behind it is in it: nothing here can be told apart.
                (Ok(value), ForwardedHeader::Forwarded) if value.matches('"').count() % 2 == 1 => hops.push(None),
                (Ok(value), ForwardedHeader::XForwardedFor) => hops.extend(value.split(',').map(address)),
                (Ok(value), ForwardedHeader::Forwarded) => {
                    let forwarded_for = |element: &str| {
                        let pairs = split_outside_quotes(element, ';').into_iter();
                        let mut pairs = pairs.filter_map(|pair| pair.trim().split_once('='));
                        pairs.find(|(name, _)| name.eq_ignore_ascii_case("for")).and_then(|(_, value)| address(value))
                    };
                    hops.extend(split_outside_quotes(value, ',').into_iter().map(forwarded_for));
                }
            }
        }
        hops
    }
}

/// RFC 7239 §6 and what is met in practice: `192.0.2.7`, `192.0.2.7:4711`, `2001:db8::7`, `[2001:db8::7]:4711`, quoted
/// or not.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let text = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    let bare = || text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text).parse();
    let with_port = || text.parse().map(|address: std::net::SocketAddr| address.ip());
    bare().or_else(|_| with_port()).ok().map(|address: IpAddr| address.to_canonical())
}

fn split_outside_quotes(text: &str, separator: char) -> Vec<&str> {
    let mut quoted = false;
    let is_separator = |c: char| {
        quoted ^= c == '"';
        c == separator && !quoted
    };
    text.split(is_separator).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(trusted: &str, header: ForwardedHeader, connection: &str, values: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for value in values {
            // Both headers, so that the one that is not asked for is seen to be ignored.
            headers.append("x-forwarded-for", value.parse().unwrap());
            headers.append("forwarded", value.parse().unwrap());
        }
        let proxies = Proxies::parse(trusted, header).unwrap();
        proxies.client(connection.parse().unwrap(), &headers).to_string()
    }

    #[test]
    fn only_a_trusted_proxy_is_believed_and_only_what_it_vouches_for() {
        let trusted = "10.0.0.0/8, 2001:db8:1::/48, 192.0.2.1";
        for (connection, values, expected) in [
            // Not from a proxy: whatever the header says.
            ("203.0.113.5", &["198.51.100.9"][..], "203.0.113.5"),
            ("203.0.113.5", &[], "203.0.113.5"),
            // From one.
            ("10.1.2.3", &["198.51.100.9"], "198.51.100.9"),
            ("192.0.2.1", &["198.51.100.9"], "198.51.100.9"),
            ("::ffff:10.1.2.3", &["198.51.100.9"], "198.51.100.9"),
            ("2001:db8:1::5", &["2001:db8:2::7"], "2001:db8:2::7"),
            // What the client itself wrote stands left of what the proxy wrote.
            ("10.1.2.3", &["1.2.3.4, 198.51.100.9"], "198.51.100.9"),
            ("10.1.2.3", &["1.2.3.4", "198.51.100.9"], "198.51.100.9"),
            // Several proxies.
            ("10.1.2.3", &["1.2.3.4, 198.51.100.9, 10.9.9.9,192.0.2.1"], "198.51.100.9"),
            ("10.1.2.3", &["garbage, 198.51.100.9, 10.9.9.9"], "198.51.100.9"),
            // A client inside.
            ("10.1.2.3", &["10.7.7.7, 10.9.9.9"], "10.7.7.7"),
            ("10.1.2.3", &[], "10.1.2.3"),
            // Ports, brackets, and IPv4 in IPv6.
            ("10.1.2.3", &["198.51.100.9:4711"], "198.51.100.9"),
            ("10.1.2.3", &["[2001:db8:2::7]:4711"], "2001:db8:2::7"),
            ("10.1.2.3", &["::ffff:198.51.100.9"], "198.51.100.9"),
            // Nobody vouches.
            ("10.1.2.3", &["198.51.100.9, unknown"], "10.1.2.3"),
            ("10.1.2.3", &["198.51.100.9, "], "10.1.2.3"),
            ("10.1.2.3", &["198.51.100.256"], "10.1.2.3"),
            ("10.1.2.3", &["198.51.100.9, garbage, 10.9.9.9"], "10.1.2.3"),
        ] {
            assert_eq!(client(trusted, ForwardedHeader::XForwardedFor, connection, values), expected, "{values:?}");
        }
        assert_eq!(client("", ForwardedHeader::XForwardedFor, "10.1.2.3", &["198.51.100.9"]), "10.1.2.3");
        assert_eq!(client("", ForwardedHeader::XForwardedFor, "::ffff:10.1.2.3", &[]), "10.1.2.3");
    }

    #[test]
    fn forwarded_of_rfc_7239_is_read_where_it_is_asked_for() {
        for (value, expected) in [
            ("for=198.51.100.9", "198.51.100.9"),
            ("For=\"198.51.100.9:4711\";proto=https;by=10.0.0.1", "198.51.100.9"),
            ("proto=https;for=\"[2001:db8:2::7]:4711\"", "2001:db8:2::7"),
            ("for=1.2.3.4, for=198.51.100.9;host=\"a,b;for=6.6.6.6\", for=10.9.9.9", "198.51.100.9"),
            ("for=unknown", "10.1.2.3"),
            ("for=_hidden", "10.1.2.3"),
            ("by=10.0.0.1", "10.1.2.3"),
            ("198.51.100.9", "10.1.2.3"),
            // A quote that the client left open, before what the proxy added.
            ("for=6.6.6.6;host=\", for=198.51.100.9", "10.1.2.3"),
            ("for=6.6.6.6;host=\", for=\"[2001:db8:2::7]\"", "10.1.2.3"),
        ] {
            assert_eq!(client("10.0.0.0/8", ForwardedHeader::Forwarded, "10.1.2.3", &[value]), expected, "{value}");
        }
    }

    #[test]
    fn a_setting_that_is_no_network_is_named() {
        for wrong in ["10.0.0.0/33", "proxy.example.org", "10.0.0.0/8, x"] {
            assert!(Proxies::parse(wrong, ForwardedHeader::Forwarded).is_err(), "{wrong}");
        }
    }
}
