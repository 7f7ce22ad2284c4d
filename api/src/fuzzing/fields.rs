//! Single values: slugs, addresses, paths, cursors, and what a user agent says of itself.

use poem::{FromRequest, Request, http::HeaderValue, http::header};
use url::Url;

use super::lines;
use crate::{
    device::{self, Caller},
    field::{Email, Name, NewPassword, OneTimeToken, ReturnTo, Rule, ScopeName, Slug, Text, TokenName, Website},
    routes::paging,
};

/// A slug by the letter of its pattern, `^[a-z0-9]+(-[a-z0-9]+)*$`, as an automaton.
fn is_slug(text: &str) -> bool {
    let mut after_letter = false;
    for c in text.chars() {
        match c {
            'a'..='z' | '0'..='9' => after_letter = true,
            '-' if after_letter => after_letter = false,
            _ => return false,
        }
    }
    after_letter && (3..=50).contains(&text.chars().count())
}

fn fits<R: Rule>(value: &str) -> bool {
    let checked = Text::<R>::from(value.to_owned());
    let fits = checked.checked().is_ok();
    assert_eq!(format!("{checked:?}"), "Text(redacted)");
    // As it comes in a body: a text is taken as it is, or refused for its NUL.
    let json = serde_json::to_string(value).expect("JSON");
    match serde_json::from_str::<Text<R>>(&json) {
        Ok(read) => assert_eq!(read.checked().ok(), checked.checked().ok()),
        Err(_) => assert!(value.contains('\0')),
    }
    fits
}

/// One slug a line.
pub fn slugs(input: &[u8]) {
    for value in lines(input).into_iter().flatten() {
        assert_eq!(fits::<Slug>(value), is_slug(value), "{value:?}");
    }
}

/// One value a line, each tried as every field.
pub fn fields(input: &[u8]) {
    let origins = ["https://app.example.org/", "https://app.example.org/deep/down?x=1#y"];
    for value in lines(input).into_iter().flatten() {
        if fits::<ReturnTo>(value) {
            // A browser that is sent there stays on the site.
            for origin in origins.map(|page| Url::parse(page).expect("a URL")) {
                let target = origin.join(value).expect("a path");
                assert_eq!(target.origin(), origin.origin(), "{value:?} leaves the site");
            }
            assert!(HeaderValue::from_str(value).is_ok(), "it goes into a header");
        }
        if fits::<Website>(value) {
            let url = Url::parse(value).unwrap_or_else(|why| panic!("{value:?} is no URL: {why}"));
            assert!(["http", "https"].contains(&url.scheme()) && url.has_host(), "{value:?}");
        }
        if fits::<Email>(value) {
            assert!(value.len() <= 254 && value.matches('@').count() == 1, "{value:?}");
            assert!(!value.chars().any(|c| c.is_whitespace() || c.is_control()), "{value:?}");
            // What nobody can send a mail to is nobody's address.
            value.parse::<lettre::Address>().unwrap_or_else(|why| panic!("no mail can go to {value:?}: {why}"));
        }
        for name in [fits::<Name>(value), fits::<TokenName>(value)] {
            assert!(!name || !value.chars().any(char::is_control) && !value.trim().is_empty(), "{value:?}");
        }
        if fits::<ScopeName>(value) {
            // It goes into a challenge, between quotes.
            assert!(value.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\'), "{value:?}");
        }
        if fits::<OneTimeToken>(value) {
            assert!(value.len() == 47 && HeaderValue::from_str(value).is_ok(), "{value:?}");
        }
        if fits::<NewPassword>(value) {
            assert!((8..=128).contains(&value.chars().count()));
        }
    }
}

/// One cursor a line.
pub fn cursors(input: &[u8]) {
    for text in lines(input).into_iter().flatten() {
        let Ok(page) = paging::page(1, Some(text)) else { continue };
        let key = page.after.expect("a cursor was read");
        let again = paging::next_cursor(&page, &[()], |()| key);
        assert_eq!(again.as_deref(), Some(text), "a cursor has one spelling");
    }
}

/// The input is a user agent.
pub fn devices(input: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(input) else { return };
    let mut request = Request::default();
    request.headers_mut().insert(header::USER_AGENT, value);
    let caller = futures_util::FutureExt::now_or_never(Caller::from_request_without_body(&request));
    let caller = caller.expect("it waits for nothing").expect("every user agent is taken");
    let kept = caller.user_agent.expect("there is one");
    assert!(kept.len() <= 512 && !kept.contains('\0'), "the table refuses more");
    let name = caller.device_name.expect("every device has a name");
    // It is shown in lists and in mail: no markup, no control, no line of its own.
    assert!((1..=100).contains(&name.len()), "{name:?}");
    assert!(name.chars().all(|c| c.is_ascii_alphanumeric() || "._-+()!/ ".contains(c)), "{name:?}");
    // What is not kept is not looked at.
    assert_eq!(device::name(&kept), name);
    assert_eq!(Some(device::hash(&kept)), caller.device_hash);
}
