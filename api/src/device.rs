//! Who is calling, as far as a request tells: address, user agent, and a name for the device that its owner recognises.

use std::net::IpAddr;

use poem::{FromRequest, Request, RequestBody, http::header};
use sha2::{Digest, Sha256};
use woothee::{parser::Parser, woothee::VALUE_UNKNOWN};

use crate::app::RequestId;

/// The longest user agent that is kept, in bytes.
const MAX_USER_AGENT: usize = 512;

/// What is recorded of a caller.
#[derive(Clone, Debug, PartialEq)]
pub struct Caller {
    /// The address of the connection. `X-Forwarded-For` is not looked at: anyone can write it.
    pub ip: Option<IpAddr>,
    /// At most 512 bytes.
    pub user_agent: Option<String>,
    /// SHA-256 of what stays the same when the browser is updated: its family, the system's family, the kind of device.
    pub device_hash: Option<[u8; 32]>,
    /// For people: "Chrome 120 on macOS".
    pub device_name: Option<String>,
    /// The request id, which the audit log calls correlation id.
    pub request_id: String,
}

impl<'a> FromRequest<'a> for Caller {
    async fn from_request(request: &'a Request, _body: &mut RequestBody) -> poem::Result<Self> {
        let user_agent =
            request.headers().get(header::USER_AGENT).map(|value| String::from_utf8_lossy(value.as_bytes()));
        let device = user_agent.as_deref().map(Device::parse);
        Ok(Self {
            ip: request.remote_addr().as_socket_addr().map(|address| client_ip(address.ip())),
            user_agent: user_agent.as_deref().map(|text| cut(text, MAX_USER_AGENT).to_owned()),
            device_hash: device.as_ref().map(Device::hash),
            device_name: device.as_ref().map(Device::name),
            request_id: request.data::<RequestId>().map(ToString::to_string).unwrap_or_default(),
        })
    }
}

/// An IPv4 client of a dual-stack socket is an IPv4 client.
fn client_ip(connection: IpAddr) -> IpAddr {
    connection.to_canonical()
}

/// What the owner of a device calls it, made from its user agent: "Chrome 120 on macOS".
pub fn name(user_agent: &str) -> String {
    Device::parse(user_agent).name()
}

/// Cuts at a character boundary.
fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

/// What a user agent says of itself. All of it can be made up: good for names, not for decisions.
#[derive(Debug, Default, PartialEq)]
struct Device {
    browser: String,
    major_version: Option<u32>,
    system: String,
    kind: String,
}

impl Device {
    fn parse(user_agent: &str) -> Self {
        let user_agent = cut(user_agent, MAX_USER_AGENT);
        match Parser::new().parse(user_agent) {
            Some(found) if found.name != VALUE_UNKNOWN && found.name != "HTTP Library" => Self {
                browser: match found.name {
                    "SamsungBrowser" => "Samsung Internet",
                    name => name,
                }
                .to_owned(),
                major_version: major(found.version),
                system: system(found.os).to_owned(),
                kind: found.category.to_owned(),
            },
            // No browser: the first product is what the program calls itself (RFC 9110 §10.1.5), as in "curl/8.5.0".
            _ => {
                let (name, version) = user_agent.split_once('/').unwrap_or((user_agent, ""));
                let sane = |c: char| c.is_ascii_alphanumeric() || "._- ".contains(c);
                let named = (1..=40).contains(&name.len()) && name.chars().all(sane);
                let browser = if named { name.trim().to_owned() } else { String::new() };
                Self { browser, major_version: major(version), ..Self::default() }
            }
        }
    }

    fn name(&self) -> String {
        let browser = match (self.browser.as_str(), self.major_version) {
            ("", _) => "Unknown client".to_owned(),
            (browser, Some(major)) => format!("{browser} {major}"),
            (browser, None) => browser.to_owned(),
        };
        if self.system.is_empty() { browser } else { format!("{browser} on {}", self.system) }
    }

    /// Stable across updates, and equal for many people: a change is a hint, equality proves nothing.
    fn hash(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        for part in ["auth_sessions device v1", &self.browser, &self.system, &self.kind] {
            hash.update(part);
            hash.update([0]);
        }
        hash.finalize().into()
    }
}

fn major(version: &str) -> Option<u32> {
    version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// Systems under the names that people use, without versions (browsers freeze them nowadays).
fn system(name: &str) -> &str {
    match name {
        VALUE_UNKNOWN => "",
        "Mac OSX" => "macOS",
        name if name.starts_with("Windows Phone") => "Windows Phone",
        name if name.starts_with("Windows") => "Windows",
        name => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_named_as_their_owners_would() {
        for (user_agent, name) in [
            (
                "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36",
                "Chrome 120 on macOS",
            ),
            (
                "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36 Edg/121.0.2277.83",
                "Edge 121 on Windows",
            ),
            ("Mozilla/5.0 (X11; Linux x86_64; rv:122.0) Gecko/20100101 Firefox/122.0", "Firefox 122 on Linux"),
            (
                "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.2 Safari/605.1.15",
                "Safari 17 on macOS",
            ),
            (
                "Mozilla/5.0 (iPhone; CPU iPhone OS 17_2 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.2 Mobile/15E148 Safari/604.1",
                "Safari 17 on iPhone",
            ),
            (
                "Mozilla/5.0 (Linux; Android 13; Pixel 7) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Mobile Safari/537.36",
                "Chrome 120 on Android",
            ),
            (
                "Mozilla/5.0 (Linux; Android 13; SM-S901B) AppleWebKit/537.36 (KHTML, like Gecko) SamsungBrowser/23.0 Chrome/115.0.0.0 Mobile Safari/537.36",
                "Samsung Internet 23 on Android",
            ),
            (
                "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/119.0.0.0 Safari/537.36 OPR/105.0.0.0",
                "Opera 105 on Windows",
            ),
            ("curl/8.5.0", "curl 8"),
            ("MyApp", "MyApp"),
            ("", "Unknown client"),
            ("<script>/1", "Unknown client"),
        ] {
            assert_eq!(Device::parse(user_agent).name(), name, "{user_agent}");
        }
    }

    #[test]
    fn an_update_keeps_the_device_another_browser_does_not() {
        let chrome = |version| {
            let text = format!(
                "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{version} Safari/537.36"
            );
            Device::parse(&text).hash()
        };
        assert_eq!(chrome("120.0.0.0"), chrome("121.0.0.0"));
        let firefox = Device::parse("Mozilla/5.0 (X11; Linux x86_64; rv:122.0) Gecko/20100101 Firefox/122.0");
        assert_ne!(chrome("120.0.0.0"), firefox.hash());
    }

    #[test]
    fn a_user_agent_is_cut_between_characters() {
        let long = format!("{}ä", "x".repeat(511));
        assert_eq!(cut(&long, 512), "x".repeat(511));
        assert_eq!(cut("short", 512), "short");
    }

    #[test]
    fn a_mapped_address_is_ipv4() {
        let ip = |text: &str| client_ip(text.parse().unwrap()).to_string();
        assert_eq!(ip("::ffff:10.1.2.3"), "10.1.2.3");
        assert_eq!(ip("2001:db8::1"), "2001:db8::1");
    }

    #[tokio::test]
    async fn no_header_tells_the_address() {
        let request = Request::builder()
            .header("x-forwarded-for", "203.0.113.9")
            .header("forwarded", "for=203.0.113.9")
            .header("user-agent", "x".repeat(600))
            .extension(RequestId::new("request-1"))
            .finish();
        let caller = Caller::from_request(&request, &mut RequestBody::default()).await.unwrap();
        assert_eq!(caller.ip, None, "there is no connection here");
        assert_eq!(caller.user_agent.unwrap().len(), MAX_USER_AGENT);
        assert_eq!(caller.request_id, "request-1");
    }
}
