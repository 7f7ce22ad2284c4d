//! Whose address a request came from, when proxies that are trusted, and people who are not, write about it.

use std::net::IpAddr;

use poem::http::{HeaderMap, HeaderValue, header};

use crate::client_address::{ForwardedHeader, Proxies};

const TRUSTED: &str = "10.0.0.0/8, 2001:db8:1::/48, 192.0.2.1";

/// The input: a byte that says where from and how, then header lines, as a client sends them through a trusted proxy.
pub fn proxies(input: &[u8]) {
    let Some((how, lines)) = input.split_first() else { return };
    let kind = if how & 1 == 0 { ForwardedHeader::XForwardedFor } else { ForwardedHeader::Forwarded };
    let name = if how & 1 == 0 { "x-forwarded-for" } else { "forwarded" };
    let proxies = Proxies::parse(TRUSTED, kind).expect("networks");
    let nobody = Proxies::parse("", kind).expect("networks");
    let values: Vec<HeaderValue> =
        lines.split(|byte| *byte == b'\n').filter_map(|line| HeaderValue::from_bytes(line).ok()).collect();
    let headers = |values: &[HeaderValue]| {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::HeaderName::from_static(name), value.clone());
        }
        headers
    };
    let written = headers(&values);
    let ip = |text: &str| -> IpAddr { text.parse().expect("an address") };
    // Whoever is no proxy of ours is who the connection says, whatever is written.
    for stranger in ["203.0.113.5", "2001:db8:2::5", "192.0.2.2", "::ffff:203.0.113.5"].map(ip) {
        assert_eq!(proxies.client(stranger, &written), stranger.to_canonical());
    }
    let proxy = ip("10.1.2.3");
    assert_eq!(nobody.client(proxy, &written), proxy, "nobody is trusted");

    // What comes out stands in what was written, or is the connection's.
    let client = proxies.client(proxy, &written);
    assert_eq!(client, client.to_canonical(), "IPv4 is IPv4");
    let text: String = values.iter().map(|value| String::from_utf8_lossy(value.as_bytes()) + "\n").collect();
    let is_named = |address: IpAddr| {
        let words = text.split(|c: char| !(c.is_ascii_hexdigit() || ".:".contains(c)));
        let reads = |word: &str| {
            let whole = word.parse::<IpAddr>().ok();
            let with_port = || word.rsplit_once(':').and_then(|(host, _)| host.parse().ok());
            [whole, with_port()].into_iter().flatten().any(|read: IpAddr| read.to_canonical() == address)
        };
        words.into_iter().any(reads)
    };
    assert!(client == proxy || is_named(client), "{client} is nowhere in {text:?}");

    // The proxy appends whom it speaks for, in the same line or in one more. Then that is the client, or, where the client
    // wrote such nonsense that nothing can be read, the connection's address: never what stands further left.
    for said in ["198.51.100.9", "[2001:db8:2::7]:4711"] {
        let element = match (kind, said.starts_with('[')) {
            (ForwardedHeader::XForwardedFor, _) => said.to_owned(),
            (ForwardedHeader::Forwarded, false) => format!("for={said};proto=https"),
            (ForwardedHeader::Forwarded, true) => format!("proto=https;for=\"{said}\""),
        };
        let real = if said.starts_with('[') { ip("2001:db8:2::7") } else { ip(said) };
        let another_line = [&values[..], &[HeaderValue::try_from(&element).expect("a header")]].concat();
        assert_eq!(proxies.client(proxy, &headers(&another_line)), real, "{another_line:?}");
        let Some((last, before)) = values.split_last() else { continue };
        let joined = [last.as_bytes(), b", ", element.as_bytes()].concat();
        let same_line = [before, &[HeaderValue::from_bytes(&joined).expect("a header")]].concat();
        let client = proxies.client(proxy, &headers(&same_line));
        assert!(client == real || client == proxy, "{client} was taken from an untrusted hop: {same_line:?}");
    }
}
