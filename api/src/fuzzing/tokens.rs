//! Refresh tokens, personal access tokens, access tokens, and the cookies that they come in.

use std::sync::{Arc, LazyLock};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::get_current_timestamp;
use poem::{
    Request,
    http::{HeaderValue, header},
};
use serde_json::Value;
use uuid::Uuid;

use super::{KEY, OTHER_KEY};
use crate::{
    access_token::{AccessTokens, Claims},
    adopted_token::{AdoptedTokens, Format, MAX_LENGTH, MIN_LENGTH, Shown},
    cookies::{self, csrf_token, csrf_token_fits},
    keys::{CurrentKeys, TokenKeys},
    personal_access_token::{self, PersonalAccessToken},
    refresh_token,
};

/// Signed part and tag of a refresh token, in bytes.
const SIGNED: usize = 4 + 16 + 4 + 16 + 32;
const TAG: usize = 16;

struct Rings {
    one_first: TokenKeys,
    other_first: TokenKeys,
    adopted: AdoptedTokens,
}

static RINGS: LazyLock<Rings> = LazyLock::new(|| Rings {
    one_first: TokenKeys::parse("HMAC_SECRETS", &format!("{KEY},{OTHER_KEY}")).expect("good keys"),
    other_first: TokenKeys::parse("HMAC_SECRETS", &format!("{OTHER_KEY},{KEY}")).expect("good keys"),
    adopted: AdoptedTokens {
        format: Format::new("plain", None).expect("a format"),
        cookie: Some("old_session".to_owned()),
    },
});

/// The input is a token; and it is what a token is made of, which gets a right tag here, because no fuzzer finds one.
pub fn refresh_tokens(input: &[u8]) {
    if let Ok(text) = std::str::from_utf8(input) {
        read(text);
    }
    let Some((signed, rest)) = input.split_at_checked(SIGNED) else { return };
    let keys = &RINGS.one_first;
    // Without a key of ours there is no tag either: any will do.
    let key_id = [signed[0], signed[1], signed[2], signed[3]];
    let tag = keys.find(key_id).unwrap_or(keys.first()).tag(signed);
    let bytes = [signed, &tag[..TAG]].concat();
    let token = format!("{}{}", refresh_token::PREFIX, URL_SAFE_NO_PAD.encode(&bytes));

    let is_ours = keys.find(key_id).is_some() && signed[20] < 0x80;
    assert_eq!(refresh_token::decode(keys, &token).is_some(), is_ours, "a tag of ours, a key of ours, a generation");
    assert_eq!(read(&token), is_ours);
    if let Some(presented) = refresh_token::decode(keys, &token) {
        assert_eq!(presented.session_id.as_bytes(), &signed[4..20]);
        assert_eq!(presented.generation.to_be_bytes(), signed[20..24]);
        assert_eq!(presented.ticket, signed[24..40]);
        // Whatever else is in the input changes it.
        for change in rest.chunks_exact(2) {
            let mut changed = token.clone().into_bytes();
            let position = usize::from(change[0]) % changed.len();
            changed[position] ^= change[1];
            if change[1] != 0
                && let Ok(changed) = String::from_utf8(changed)
            {
                assert!(refresh_token::decode(keys, &changed).is_none(), "byte {position} was changed");
            }
        }
    }
}

/// Reads a token in every way that there is; whether it is one of ours.
fn read(text: &str) -> bool {
    let Rings { one_first, other_first, adopted } = &*RINGS;
    let own = refresh_token::decode(one_first, text);
    if let Some(presented) = &own {
        // A token has one spelling per key: what is written again is what was read.
        let spell = |keys| {
            let (id, generation) = (presented.session_id, presented.generation);
            refresh_token::encode(keys, id, generation, presented.ticket, &presented.secret)
        };
        assert!([one_first, other_first].into_iter().any(|keys| spell(keys) == text), "another spelling was taken");
        assert!(refresh_token::decode(other_first, text).is_some(), "the order of the keys does not matter");
        assert!(presented.successor(one_first, presented.new_nonce(), presented.generation).is_some());
    }
    match Shown::read(one_first, Some(adopted), text) {
        Some(Shown::Own(_)) => assert!(own.is_some()),
        Some(Shown::Adopted(_)) => {
            assert!(own.is_none() && (MIN_LENGTH..=MAX_LENGTH).contains(&text.len()));
            assert!(!text.starts_with("asr_") && !text.starts_with("asp_"), "one of ours was taken for another's");
        }
        None => assert!(own.is_none()),
    }
    assert_eq!(Shown::read(one_first, None, text).is_some(), own.is_some(), "nothing is adopted without the setting");

    if let Some(token) = PersonalAccessToken::decode(text) {
        assert_eq!(token.encode(), text, "another spelling was taken");
        assert!(text.starts_with(personal_access_token::PREFIX) && token.lookup_id().len() == 16);
    }
    own.is_some()
}

static KEYS: LazyLock<Arc<CurrentKeys>> = LazyLock::new(|| Arc::new(CurrentKeys::of_tests(KEY)));

static ACCESS_TOKENS: LazyLock<AccessTokens> =
    LazyLock::new(|| AccessTokens::new(KEYS.clone(), "issuer".into(), "audience".into()));

/// A good one, for a day.
static GOOD: LazyLock<String> = LazyLock::new(|| {
    let now = get_current_timestamp() as i64;
    let claims = Claims {
        iss: "issuer".into(),
        aud: "audience".into(),
        sub: Uuid::from_u128(1),
        sid: Uuid::from_u128(2),
        jti: Uuid::from_u128(3),
        iat: now,
        exp: now + 86_400,
        auth_time: now,
        amr: vec!["pwd".into()],
        org: None,
        roles: vec![],
    };
    ACCESS_TOKENS.sign(&claims).expect("signed")
});

/// The input is a token, in which `$` stands for each of a good one's three parts in turn; and it is the header and the claims
/// of a token, one a line, which our own key signs here.
pub fn access_tokens(input: &[u8]) {
    let tokens = &*ACCESS_TOKENS;
    let Ok(text) = std::str::from_utf8(input) else { return };
    let mut parts = GOOD.split('.');
    let token: String = text.split('$').enumerate().fold(String::new(), |token, (index, rest)| {
        let part = if index == 0 { "" } else { parts.next().unwrap_or_default() };
        token + part + rest
    });
    assert_eq!(tokens.verify(&token).is_some(), token == *GOOD, "{token}");

    let Some((header, claims)) = text.split_once('\n') else { return };
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let keys = KEYS.signing_keys();
    let key = keys.first();
    let signature = URL_SAFE_NO_PAD.encode(key.sign(message.as_bytes()));
    let token = format!("{message}.{signature}");
    if let Some(taken) = tokens.verify(&token) {
        let json = |text: &str| serde_json::from_str::<Value>(text).expect("JSON");
        let (header, claims) = (json(header), json(claims));
        assert_eq!((&header["alg"], &header["kid"]), (&"EdDSA".into(), &key.kid.clone().into()));
        let typ = header["typ"].as_str().map(str::to_ascii_lowercase);
        assert!(["at+jwt", "application/at+jwt"].map(Some).contains(&typ.as_deref()), "another kind of JWT was taken");
        assert_eq!((&claims["iss"], &claims["aud"]), (&"issuer".into(), &"audience".into()));
        assert!(taken.exp >= get_current_timestamp() as i64, "an expired token was taken");
    }
}

const REFRESH: &str = "__Secure-auth_refresh";

/// The input is the `Cookie` headers of a request, one a line.
pub fn cookies(input: &[u8]) {
    let Rings { one_first, other_first, adopted } = &*RINGS;
    let values: Vec<HeaderValue> =
        input.split(|byte| *byte == b'\n').filter_map(|line| HeaderValue::from_bytes(line).ok()).collect();
    let request = |values: &[HeaderValue]| {
        let mut request = Request::default();
        for value in values {
            request.headers_mut().append(header::COOKIE, value.clone());
        }
        request
    };
    let given = request(&values);
    for name in [cookies::ACCESS, REFRESH, "old_session"] {
        let found = cookies::read(&given, name);
        if let Some(value) = found {
            assert!(!value.contains(';'), "{value:?}");
            // The same name again, before or behind: a browser does not do that.
            for twice in [[&values[..], &[planted(name)]].concat(), [&[planted(name)][..], &values].concat()] {
                assert_eq!(cookies::read(&request(&twice), name), None, "one of two was chosen");
            }
        }
        // The cookie of another application, whatever is in it, takes nothing away and adds nothing.
        for other in [&b"theme=dark"[..], "name=Zoë".as_bytes(), b"latin=\xe9", b"", b"flag", b"=", b"quoted=\"a b\""]
        {
            let beside: Vec<HeaderValue> = values
                .iter()
                .filter_map(|value| HeaderValue::from_bytes(&[other, b"; ", value.as_bytes()].concat()).ok())
                .collect();
            assert_eq!(cookies::read(&request(&beside), name), found, "another cookie changed what was read");
        }
    }
    let own = cookies::read(&given, REFRESH);
    assert_eq!(cookies::read_refresh(&given, None).is_some(), own.is_some());
    match cookies::read_refresh(&given, Some(adopted)) {
        Some((token, remembered)) if own.is_some() => {
            assert_eq!(own, Some(token).filter(|_| remembered).or(own), "what is remembered is the cookie as it is");
            assert!(remembered || own.and_then(|own| own.strip_suffix(".session")) == Some(token));
        }
        Some((token, remembered)) => {
            assert!(remembered && adopted.may_have(token), "one of ours came in a foreign cookie")
        }
        None => assert!(own.is_none()),
    }

    let session = Uuid::from_u128(2);
    for value in &values {
        let is_one =
            [one_first, other_first].iter().any(|keys| csrf_token(keys, session).as_bytes() == value.as_bytes());
        assert_eq!(csrf_token_fits(one_first, session, value), is_one, "a CSRF token has one spelling per key");
        assert!(!csrf_token_fits(one_first, Uuid::from_u128(3), value) || !is_one, "it is one session's");
    }
}

fn planted(name: &str) -> HeaderValue {
    HeaderValue::try_from(format!("{name}=planted")).expect("a header")
}

/// For the corpus and for `service.rs`: a good token of each kind.
pub fn good_access_token() -> &'static str {
    &GOOD
}

/// See [`good_access_token`].
pub fn good_refresh_token() -> String {
    let secret = refresh_token::TokenSecret::new([5; 32]);
    refresh_token::encode(&RINGS.one_first, Uuid::from_u128(2), 3, [9; 16], &secret)
}

/// See [`good_access_token`]. Of the session of both.
pub fn good_csrf_token() -> String {
    csrf_token(&RINGS.one_first, Uuid::from_u128(2))
}
