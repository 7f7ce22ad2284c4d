//! Who is calling, as far as a request tells: address, user agent, and a name for the device that its owner recognises.

use std::{net::IpAddr, sync::LazyLock};

use poem::{FromRequest, Request, RequestBody, http::header};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use ua_parser::{os, user_agent};

use crate::{app::RequestId, client_address::ClientAddress};

/// The longest user agent that is kept, in bytes.
const MAX_USER_AGENT: usize = 512;

/// What is recorded of a caller.
#[derive(Clone, Debug, PartialEq)]
pub struct Caller {
    /// The client's address, as `client_address.rs` knows it.
    pub ip: Option<IpAddr>,
    /// At most 512 bytes.
    pub user_agent: Option<String>,
    /// SHA-256 of what stays the same when the browser is updated: its family, the system's family, the kind of device.
    pub device_hash: Option<[u8; 32]>,
    /// For people: "Chrome 120 on macOS".
    pub device_name: Option<String>,
    /// What the audit log calls correlation id: the request id, with the trace ([`RequestId::correlation`]).
    pub request_id: String,
}

impl<'a> FromRequest<'a> for Caller {
    async fn from_request(request: &'a Request, _body: &mut RequestBody) -> poem::Result<Self> {
        let user_agent =
            request.headers().get(header::USER_AGENT).map(|value| String::from_utf8_lossy(value.as_bytes()));
        let device = user_agent.as_deref().map(Device::parse);
        Ok(Self {
            ip: request.data::<ClientAddress>().and_then(|client| client.0),
            user_agent: user_agent.as_deref().map(|text| cut(text, MAX_USER_AGENT).to_owned()),
            device_hash: device.as_ref().map(Device::hash),
            device_name: device.as_ref().map(Device::name),
            request_id: request.data::<RequestId>().map(RequestId::correlation).unwrap_or_default(),
        })
    }
}

/// What the owner of a device calls it, made from its user agent: "Chrome 120 on macOS".
pub fn name(user_agent: &str) -> String {
    Device::parse(user_agent).name()
}

/// What its sessions are recognised by: see [`Caller::device_hash`].
pub fn hash(user_agent: &str) -> [u8; 32] {
    Device::parse(user_agent).hash()
}

/// Cuts at a character boundary.
fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

/// How browsers and systems are recognised: see `data/README.md`.
#[derive(Deserialize)]
struct Rules {
    user_agent_parsers: Vec<user_agent::Parser<'static>>,
    os_parsers: Vec<os::Parser<'static>>,
}

static PARSERS: LazyLock<(user_agent::Extractor<'static>, os::Extractor<'static>)> = LazyLock::new(|| {
    let rules: Rules = serde_json::from_str(include_str!("../data/user_agents.json")).expect("checked by the tests");
    let browsers = user_agent::Builder::new().push_all(rules.user_agent_parsers).expect("checked by the tests");
    let systems = os::Builder::new().push_all(rules.os_parsers).expect("checked by the tests");
    (browsers.build().expect("checked by the tests"), systems.build().expect("checked by the tests"))
});

/// Makes the parsers (some 50 ms and 11 MB), so that the first request need not; each then takes about 4 µs.
pub fn prepare() {
    LazyLock::force(&PARSERS);
}

/// What a user agent says of itself. All of it can be made up: good for names, not for decisions.
#[derive(Debug, Default, PartialEq)]
struct Device {
    browser: String,
    major_version: Option<u32>,
    system: String,
    is_mobile: bool,
}

impl Device {
    fn parse(user_agent: &str) -> Self {
        let user_agent = cut(user_agent, MAX_USER_AGENT);
        let (browsers, systems) = &*PARSERS;
        let system = systems.extract(user_agent).map(|found| system(&found.os, user_agent).to_owned());
        let (browser, major_version) = match browsers.extract(user_agent) {
            Some(found) => (browser(&found.family).to_owned(), found.major.and_then(major)),
            // No browser: the first product is what the program calls itself (RFC 9110 §10.1.5), as in "MyApp/1.2".
            None => {
                let (name, version) = user_agent.split_once('/').unwrap_or((user_agent, ""));
                (name.trim().to_owned(), major(version))
            }
        };
        if !is_presentable(&browser) {
            return Self::default();
        }
        // The system may be the client's own words, too.
        let system = system.filter(|name| is_presentable(name)).unwrap_or_default();
        Self { browser, major_version, system, is_mobile: user_agent.contains("Mobi") }
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
        let kind = if self.is_mobile { "mobile" } else { "" };
        for part in ["auth_sessions device v1", &self.browser, &self.system, kind] {
            hash.update(part);
            hash.update([0]);
        }
        hash.finalize().into()
    }
}

fn major(version: &str) -> Option<u32> {
    version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// Browsers under the names that their users know, the same on a phone as on a desk.
fn browser(family: &str) -> &str {
    match family {
        "Mobile Safari" => "Safari",
        "Chrome Mobile" | "Chrome Mobile iOS" => "Chrome",
        "Firefox Mobile" | "Firefox iOS" => "Firefox",
        "Edge Mobile" => "Edge",
        "Opera Mobile" => "Opera",
        "Chrome Mobile WebView" | "Mobile Safari UI/WKWebView" => "App",
        "IE" | "IE Mobile" => "Internet Explorer",
        "HeadlessChrome" => "Headless Chrome",
        family => family,
    }
}

/// Systems under the names that people use, without versions (browsers freeze them nowadays).
fn system<'a>(family: &'a str, user_agent: &str) -> &'a str {
    match family {
        "Mac OS X" => "macOS",
        "iOS" if user_agent.contains("iPhone") => "iPhone",
        "iOS" if user_agent.contains("iPad") => "iPad",
        "Other" => "",
        family => family,
    }
}

/// It is shown to people, in lists and in mail, and some of it is the client's own words.
fn is_presentable(name: &str) -> bool {
    let sane = |c: char| c.is_ascii_alphanumeric() || "._-+()!/ ".contains(c);
    (1..=40).contains(&name.len()) && name.chars().all(sane)
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
            (
                "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Mobile Safari/537.36",
                "Chrome 142 on Android",
            ),
            (
                "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36 Edg/142.0.0.0",
                "Edge 142 on Windows",
            ),
            (
                "Mozilla/5.0 (iPhone; CPU iPhone OS 18_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/26.0 Mobile/15E148 Safari/604.1",
                "Safari 26 on iPhone",
            ),
            (
                "Mozilla/5.0 (iPad; CPU OS 17_2 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.2 Mobile/15E148 Safari/604.1",
                "Safari 17 on iPad",
            ),
            (
                "Mozilla/5.0 (iPhone; CPU iPhone OS 17_2 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) CriOS/120.0.6099.119 Mobile/15E148 Safari/604.1",
                "Chrome 120 on iPhone",
            ),
            (
                "Mozilla/5.0 (iPhone; CPU iPhone OS 17_2 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) FxiOS/121.0 Mobile/15E148 Safari/605.1.15",
                "Firefox 121 on iPhone",
            ),
            (
                "Mozilla/5.0 (Linux; Android 14; Pixel 8) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Mobile Safari/537.36 EdgA/120.0.0.0",
                "Edge 120 on Android",
            ),
            ("Mozilla/5.0 (Android 14; Mobile; rv:121.0) Gecko/121.0 Firefox/121.0", "Firefox 121 on Android"),
            (
                "Mozilla/5.0 (X11; CrOS x86_64 14541.0.0) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36",
                "Chrome 120 on Chrome OS",
            ),
            ("Mozilla/5.0 (X11; Ubuntu; Linux x86_64; rv:122.0) Gecko/20100101 Firefox/122.0", "Firefox 122 on Ubuntu"),
            ("Mozilla/5.0 (Windows NT 6.1; WOW64; Trident/7.0; rv:11.0) like Gecko", "Internet Explorer 11 on Windows"),
            ("MyApp/1.2 CFNetwork/1490.0.4 Darwin/23.2.0", "MyApp 1 on iOS"),
            ("okhttp/4.12.0", "okhttp 4"),
            ("curl/8.5.0", "curl 8"),
            ("MyApp", "MyApp"),
            ("", "Unknown client"),
            ("<script>/1", "Unknown client"),
            ("<b>Bank</b>/1 CFNetwork/1490.0.4 Darwin/23.2.0", "Unknown client"),
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
        // So is the same browser elsewhere.
        let elsewhere = |system: &str| {
            let text =
                format!("Mozilla/5.0 ({system}) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36");
            Device::parse(&text).hash()
        };
        assert_ne!(chrome("120.0.0.0"), elsewhere("Windows NT 10.0; Win64; x64"));
        assert_ne!(chrome("120.0.0.0"), elsewhere("Macintosh; Intel Mac OS X 10_15_7"));
    }

    #[test]
    fn a_user_agent_is_cut_between_characters() {
        let long = format!("{}ä", "x".repeat(511));
        assert_eq!(cut(&long, 512), "x".repeat(511));
        assert_eq!(cut("short", 512), "short");
    }

    #[tokio::test]
    async fn no_header_tells_the_address_by_itself() {
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
