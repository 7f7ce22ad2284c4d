//! The letters: what each kind of mail says, once, rendered as text and as HTML.
//!
//! What a stranger may have chosen (a name, an organization's name) is in none of the mails that anybody can cause, and
//! otherwise on one line, shortened, and never in an address or a header of its own.

use std::{str::FromStr, time::SystemTime};

use askama::Template;
use chrono::{DateTime, Utc};
use lettre::{
    Address,
    message::{
        Mailbox, MultiPart,
        header::{HeaderName, HeaderValue},
    },
};
use serde::{Deserialize, de::DeserializeOwned};
use url::Url;

use super::Failure;
use crate::db::Mail;

/// Where the pages are that links lead to: the front end's, which reads the token from the fragment and calls the API.
#[derive(Clone)]
pub struct LinkBase(String);

impl FromStr for LinkBase {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let url: Url = text.parse().map_err(|_| "is no URL".to_owned())?;
        let is_plain = url.query().is_none() && url.fragment().is_none() && url.username().is_empty();
        if !["http", "https"].contains(&url.scheme()) || url.password().is_some() || !is_plain {
            return Err("must be an http(s) URL without a query, a fragment or a user".into());
        }
        Ok(Self(url.as_str().trim_end_matches('/').to_owned()))
    }
}

impl LinkBase {
    /// The token goes into the fragment, which a browser keeps to itself: no server, and no log, sees it.
    fn link(&self, page: &str, token: &str) -> Result<String, Failure> {
        if token.is_empty() || !token.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)) {
            return Err(Failure::permanent("the token is not one that a link can carry"));
        }
        Ok(format!("{}/{page}#token={token}", self.0))
    }
}

/// A mail in all its forms.
pub struct Message {
    /// Where to.
    pub recipient: String,
    /// The subject.
    pub subject: String,
    /// The text part.
    pub text: String,
    /// As it goes over the wire.
    pub lettre: lettre::Message,
}

/// What a letter says.
#[derive(Default)]
struct Letter {
    subject: String,
    /// Paragraphs before the link.
    opening: Vec<String>,
    link: Option<Link>,
    /// Paragraphs after it.
    closing: Vec<String>,
}

struct Link {
    label: &'static str,
    url: String,
}

#[derive(Template)]
#[template(path = "letter.txt")]
struct Text<'a> {
    letter: &'a Letter,
}

#[derive(Template)]
#[template(path = "letter.html")]
struct Html<'a> {
    letter: &'a Letter,
}

#[derive(Deserialize)]
struct Linked {
    token: String,
    expires_at: DateTime<Utc>,
}

#[derive(Deserialize)]
struct Invitation {
    token: String,
    expires_at: DateTime<Utc>,
    organization_name: String,
    role: Option<String>,
}

fn variables<T: DeserializeOwned>(mail: &Mail) -> Result<T, Failure> {
    serde_json::from_str(&mail.variables).map_err(|_| Failure::permanent("its variables are not those of its kind"))
}

/// Written by a user: on one line, and not long.
fn name(text: &str) -> String {
    let line = text.split(|c: char| c.is_control() || c.is_whitespace()).filter(|word| !word.is_empty());
    let line: String = line.collect::<Vec<_>>().join(" ");
    if line.chars().count() > 80 { line.chars().take(79).chain(['…']).collect() } else { line }
}

fn until(time: DateTime<Utc>) -> String {
    format!("The link works once, until {} UTC.", time.format("%-d %B %Y, %H:%M"))
}

fn letter(mail: &Mail, links: &LinkBase) -> Result<Letter, Failure> {
    let linked = |subject: &str, opening: &str, page: &str, label, closing: &str| {
        let Linked { token, expires_at } = variables(mail)?;
        Ok(Letter {
            subject: subject.into(),
            opening: vec![opening.into()],
            link: Some(Link { label, url: links.link(page, &token)? }),
            closing: vec![until(expires_at), closing.into()],
        })
    };
    let notice = |subject: &str, opening: &str, closing: &str| {
        Ok(Letter { subject: subject.into(), opening: vec![opening.into(), closing.into()], ..Letter::default() })
    };
    match mail.kind.as_str() {
        "verify_email" => linked(
            "Confirm your e-mail address",
            "Please confirm that this address is yours:",
            "verify-email",
            "Confirm this address",
            "If you did not sign up, ignore this mail: nothing happens without you.",
        ),
        "reset_password" => linked(
            "Set a new password",
            "Somebody, hopefully you, asked for a new password for the account with this address:",
            "reset-password",
            "Set a new password",
            "If it was not you, ignore this mail: the password stays as it is. Using the link ends all sessions.",
        ),
        "change_email" => linked(
            "Confirm your new e-mail address",
            "Please confirm, where you are logged in, that your account shall have this address from now on:",
            "confirm-email-change",
            "Use this address",
            "If you did not ask for this, ignore this mail: nothing happens without you.",
        ),
        "email_change_requested" => notice(
            "A new e-mail address was asked for",
            "Somebody who is logged in to your account asked to change its e-mail address.",
            "If it was not you: change your password now. Nothing has changed yet.",
        ),
        "email_changed" => notice(
            "The e-mail address of your account was changed",
            "Your account has another e-mail address now. This one does not belong to it any more.",
            "If it was not you, tell whoever runs this service, at once.",
        ),
        "email_in_use" => notice(
            "This address has an account already",
            "Somebody asked to use this e-mail address for another account. Yours has it, and keeps it.",
            "If it was you, log in with this address. If it was not, there is nothing to do.",
        ),
        "password_changed" => notice(
            "Your password was changed",
            "The password of your account was changed, and all other sessions were ended.",
            "If it was not you: set a new password with “forgot password”, and tell whoever runs this service.",
        ),
        "organization_invitation" => {
            let Invitation { token, expires_at, organization_name, role } = variables(mail)?;
            let organization = name(&organization_name);
            let role = match role.as_deref() {
                Some("ORGANIZATION_OWNER") => " as an owner",
                Some("ORGANIZATION_ADMIN") => " as an administrator",
                _ => "",
            };
            Ok(Letter {
                subject: format!("An invitation to {organization}"),
                opening: vec![format!("You are invited to join “{organization}”{role}:")],
                link: Some(Link { label: "Accept the invitation", url: links.link("accept-invitation", &token)? }),
                closing: vec![until(expires_at), "If you do not know them, ignore this mail.".into()],
            })
        }
        // A newer version beside this one may know it.
        kind => Err(Failure::temporary(format!("this version has no letter of the kind {kind}"))),
    }
}

/// A mail as it is sent. Whether it can be sent at all is known here: what cannot is refused for good.
pub fn message(mail: &Mail, from: &Mailbox, links: &LinkBase) -> Result<Message, Failure> {
    let letter = letter(mail, links)?;
    let cannot = |error: &dyn std::fmt::Display| Failure::permanent(format!("it cannot be put together: {error}"));
    let text = Text { letter: &letter }.render().map_err(|error| cannot(&error))?.trim_end().to_owned() + "\n";
    let html = Html { letter: &letter }.render().map_err(|error| cannot(&error))?;
    let address: Address = mail.recipient.parse().map_err(|_| Failure::permanent("the recipient is no address"))?;
    let lettre = lettre::Message::builder()
        .from(from.clone())
        .to(Mailbox::new(None, address))
        .subject(&letter.subject)
        .date(SystemTime::from(mail.created_at))
        .message_id(Some(format!("<{}@{}>", mail.id, from.email.domain())))
        // RFC 3834: no auto-responder answers it.
        .raw_header(HeaderValue::new(HeaderName::new_from_ascii_str("Auto-Submitted"), "auto-generated".into()))
        .multipart(MultiPart::alternative_plain_html(text.clone(), html))
        .map_err(|error| cannot(&error))?;
    Ok(Message { recipient: mail.recipient.clone(), subject: letter.subject, text, lettre })
}

/// Every token of a link taken out.
pub fn without_tokens(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("aso_") {
        let (before, token) = rest.split_at(at);
        clean += before;
        clean += "aso_…";
        let end = token.find(|c: char| !c.is_ascii_alphanumeric() && !"-_".contains(c)).unwrap_or(token.len());
        rest = &token[end..];
    }
    clean + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "aso_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

    fn mail(kind: &str, variables: serde_json::Value) -> Mail {
        Mail {
            id: uuid::Uuid::from_u128(0x0f7a_3c52_6d1e_4b8f_a0c9_1d2e_3f40_5162),
            kind: kind.into(),
            recipient: "ada@example.org".into(),
            variables: variables.to_string(),
            attempt: 1,
            created_at: DateTime::UNIX_EPOCH,
        }
    }

    fn made(mail: &Mail) -> Result<Message, Failure> {
        message(mail, &"Auth <no-reply@example.org>".parse().unwrap(), &"https://app.example.org/a/".parse().unwrap())
    }

    fn linked(kind: &str) -> Mail {
        let variables =
            serde_json::json!({"token": TOKEN, "expires_at": "2026-11-20T16:05:00Z", "organization_name": "Engines"});
        mail(kind, variables)
    }

    #[test]
    fn every_kind_that_has_a_link_has_it_in_the_fragment_and_in_both_parts() {
        for (kind, page) in [
            ("verify_email", "verify-email"),
            ("reset_password", "reset-password"),
            ("change_email", "confirm-email-change"),
            ("organization_invitation", "accept-invitation"),
        ] {
            let mail = linked(kind);
            let link = format!("https://app.example.org/a/{page}#token={TOKEN}");
            let made = made(&mail).ok().unwrap();
            assert!(made.text.contains(&link), "{}", made.text);
            assert!(made.text.contains("until 20 November 2026, 16:05 UTC"), "{}", made.text);
            let letter = letter(&mail, &"https://app.example.org/a".parse().unwrap()).ok().unwrap();
            assert!(Html { letter: &letter }.render().unwrap().contains(&format!("href=\"{link}\"")), "{kind}");
        }
        for kind in ["email_change_requested", "email_changed", "email_in_use", "password_changed"] {
            assert!(!made(&mail(kind, serde_json::json!({}))).ok().unwrap().text.contains("http"), "{kind}");
        }
    }

    #[test]
    fn a_name_is_one_short_line_and_escaped() {
        let mut variables = serde_json::json!({"token": TOKEN, "expires_at": "2026-11-20T16:05:00Z"});
        variables["organization_name"] = "x\r\nBcc: eve@example.org\r\n\r\n<b>&\u{2028}hello</b>".into();
        let mail = mail("organization_invitation", variables);
        let made = made(&mail).ok().unwrap();
        assert_eq!(made.subject, "An invitation to x Bcc: eve@example.org <b>& hello</b>");
        let wire = String::from_utf8(made.lettre.formatted()).unwrap();
        assert!(!wire.lines().any(|line| line.to_ascii_lowercase().starts_with("bcc:")), "{wire}");
        let letter = letter(&mail, &"https://app.example.org".parse().unwrap()).ok().unwrap();
        let html = Html { letter: &letter }.render().unwrap();
        assert!(!html.contains("<b>"), "{html}");
        assert_eq!(name(&"ä ".repeat(100)).chars().count(), 80);
    }

    #[test]
    fn the_message_id_is_the_mails_own_at_every_attempt() {
        let wire = |attempt| {
            let made = made(&Mail { attempt, ..linked("verify_email") }).ok().unwrap();
            String::from_utf8(made.lettre.formatted()).unwrap()
        };
        for attempt in [1, 2] {
            assert!(wire(attempt).contains("Message-ID: <0f7a3c52-6d1e-4b8f-a0c9-1d2e3f405162@example.org>"));
            assert!(wire(attempt).contains("Date: Thu, 01 Jan 1970 00:00:00 +0000"), "{}", wire(attempt));
        }
    }

    #[test]
    fn what_cannot_be_sent_is_refused_for_good_and_an_unknown_kind_waits() {
        for recipient in ["ada", "ada@", "ada@example.org\r\nRCPT TO:<eve@example.org>", "<ada@example.org>"] {
            let failure = made(&Mail { recipient: recipient.into(), ..linked("verify_email") }).err().unwrap();
            assert!(failure.permanent, "{recipient}");
        }
        let odd = mail("verify_email", serde_json::json!({"token": "a b", "expires_at": "2026-11-20T16:05:00Z"}));
        assert!(made(&odd).err().unwrap().permanent);
        assert!(made(&mail("verify_email", serde_json::json!({}))).err().unwrap().permanent);
        assert!(!made(&linked("of_tomorrow")).err().unwrap().permanent);
    }

    #[test]
    fn links_lead_to_a_page_of_ours_only() {
        for bad in [
            "app.example.org",
            "javascript:alert(1)",
            "https://a.example/?x=",
            "https://a.example/#",
            "https://u:p@a.example",
        ] {
            assert!(bad.parse::<LinkBase>().is_err(), "{bad}");
        }
    }

    #[test]
    fn tokens_are_taken_out_of_what_a_server_says() {
        assert_eq!(
            without_tokens(&format!("554 <https://a/#token={TOKEN}> and {TOKEN}.")),
            "554 <https://a/#token=aso_…> and aso_…."
        );
        assert_eq!(without_tokens("550 no such user"), "550 no such user");
    }
}
