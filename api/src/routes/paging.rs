//! Lists in pages. A cursor says where the next page begins: after the last row of this one, by its time and id, so
//! that nothing is passed over, or told twice, when rows come and go in between. Opaque to clients, but no secret: it
//! reaches no row that the same request without it would not.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::{
    db::Page,
    error::{Code, Problem},
};

/// How many, when a client does not say.
pub const DEFAULT_SIZE: u32 = 50;
/// At most; the database refuses more.
const MAX_SIZE: u32 = 200;

/// The page that a request asks for.
pub fn page(limit: u32, cursor: Option<&str>) -> Result<Page, Problem> {
    if !(1..=MAX_SIZE).contains(&limit) {
        return Err(Problem::with_detail(Code::BadRequest, "limit must be between 1 and 200."));
    }
    let after = match cursor {
        None => None,
        Some(cursor) => Some(
            decode(cursor)
                .ok_or_else(|| Problem::with_detail(Code::BadRequest, "cursor must be a nextCursor of this list."))?,
        ),
    };
    Ok(Page { size: limit as i32, after })
}

/// The cursor of the page after this one; none when this one is not full, and so the last.
pub fn next_cursor<T>(page: &Page, rows: &[T], key: impl Fn(&T) -> (DateTime<Utc>, Uuid)) -> Option<String> {
    rows.last().filter(|_| rows.len() == page.size as usize).map(|row| encode(key(row)))
}

fn encode((time, id): (DateTime<Utc>, Uuid)) -> String {
    URL_SAFE_NO_PAD.encode([&time.timestamp_micros().to_be_bytes()[..], id.as_bytes()].concat())
}

fn decode(cursor: &str) -> Option<(DateTime<Utc>, Uuid)> {
    // 24 bytes; a longer text is not decoded at all.
    let bytes = (cursor.len() == 32).then(|| URL_SAFE_NO_PAD.decode(cursor).ok())??;
    let (time, id) = bytes.split_first_chunk::<8>()?;
    let micros = i64::from_be_bytes(*time);
    // Years that PostgreSQL has, too.
    let time = (0..=253_402_300_799_999_999).contains(&micros).then(|| DateTime::from_timestamp_micros(micros))??;
    Some((time, Uuid::from_slice(id).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_comes_back_to_the_microsecond() {
        let key = (DateTime::from_timestamp_micros(1_763_648_209_123_457).unwrap(), Uuid::from_u128(7));
        assert_eq!(decode(&encode(key)), Some(key));
    }

    #[test]
    fn what_is_no_cursor_is_refused() {
        let negative = encode((DateTime::from_timestamp_micros(-1).unwrap(), Uuid::nil()));
        let far = URL_SAFE_NO_PAD.encode([[0x7f; 8], [0; 8], [0; 8]].concat());
        for cursor in ["", "x", &"=".repeat(32), &"A".repeat(33), &negative, &far] {
            let problem = page(50, Some(cursor)).err().unwrap();
            assert_eq!(problem.code(), Code::BadRequest, "{cursor}");
        }
        assert!(page(0, None).is_err() && page(201, None).is_err());
        assert!(page(200, None).is_ok());
    }

    #[test]
    fn a_page_that_is_not_full_is_the_last() {
        let now = DateTime::from_timestamp_micros(1).unwrap();
        let page = Page { size: 2, after: None };
        assert_eq!(next_cursor(&page, &[1], |_| (now, Uuid::nil())), None);
        assert!(next_cursor(&page, &[1, 2], |_| (now, Uuid::nil())).is_some());
    }
}
