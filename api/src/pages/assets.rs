//! Style sheet, scripts and pictures of the pages: in the binary, so that a page asks no other host for anything.
//!
//! A page names a file with the hash of its content behind it, so a browser keeps it as long as it likes, and sees a new one
//! at once.

use std::{fmt::Write, sync::LazyLock};

use poem::{
    Request, Response, Result, handler,
    http::{StatusCode, header},
    web::Path,
};
use sha2::{Digest, Sha256};

use crate::error::{Code, Problem};

const SCRIPT: &str = "text/javascript; charset=utf-8";

/// Name, media type, content. Another one is a line here.
const FILES: &[(&str, &str, &[u8])] = &[
    ("pages.css", "text/css; charset=utf-8", include_bytes!("../../assets/pages.css")),
    ("dashboard.css", "text/css; charset=utf-8", include_bytes!("../../assets/dashboard.css")),
    ("pages.js", SCRIPT, include_bytes!("../../assets/pages.js")),
    ("icon.svg", "image/svg+xml", include_bytes!("../../assets/icon.svg")),
    ("htmx.min.js", SCRIPT, include_bytes!("../../assets/vendor/htmx.min.js")),
    ("htmx-ext-sse.min.js", SCRIPT, include_bytes!("../../assets/vendor/htmx-ext-sse.min.js")),
];

/// A file, and the hash of its content.
struct Asset {
    name: &'static str,
    media_type: &'static str,
    content: &'static [u8],
    hash: String,
}

static ASSETS: LazyLock<Vec<Asset>> = LazyLock::new(|| {
    let asset = |&(name, media_type, content): &(&'static str, &'static str, &'static [u8])| {
        let mut hash = String::new();
        for byte in &Sha256::digest(content)[..8] {
            let _ = write!(hash, "{byte:02x}");
        }
        Asset { name, media_type, content, hash }
    };
    FILES.iter().map(asset).collect()
});

fn find(name: &str) -> Option<&'static Asset> {
    ASSETS.iter().find(|asset| asset.name == name)
}

/// Where a page finds a file: for templates.
pub fn url(name: &str) -> String {
    match find(name) {
        Some(asset) => format!("/assets/{name}?v={}", asset.hash),
        None => unreachable!("no asset {name}: list it in FILES"),
    }
}

/// `GET /assets/NAME`
#[handler]
pub fn serve(request: &Request, Path(name): Path<String>) -> Result<Response> {
    let asset = find(&name).ok_or_else(|| Problem::from(Code::NotFound))?;
    let etag = format!("\"{}\"", asset.hash);
    // While nodes are being replaced, an old one may be asked for a new one's file: what it has is shown, and not kept.
    let is_this_one = request.uri().query() == Some(&format!("v={}", asset.hash));
    let keep = if is_this_one { "public, max-age=31536000, immutable" } else { "no-cache" };
    let response = Response::builder().header(header::ETAG, &etag).header(header::CACHE_CONTROL, keep);
    if request.headers().get(header::IF_NONE_MATCH).is_some_and(|known| known == etag.as_str()) {
        return Ok(response.status(StatusCode::NOT_MODIFIED).finish());
    }
    Ok(response.content_type(asset.media_type).body(asset.content))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_named_by_its_content() {
        let url = url("pages.css");
        let hash = url.strip_prefix("/assets/pages.css?v=").unwrap();
        assert!(hash.len() == 16 && hash.bytes().all(|b| b.is_ascii_hexdigit()), "{url}");
    }
}
