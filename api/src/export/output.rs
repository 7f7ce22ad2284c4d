//! Where the lines go: standard output, or a file that an interrupted export goes on with.

use std::{
    fs::{File, OpenOptions},
    io::{BufWriter, Read, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use chrono::{DateTime, Utc};
use serde::Deserialize;

use super::Place;

/// The end of a file that is looked at for its last line; no line is as long: a user agent is cut, and so is what people type.
const LONGEST_LINE: u64 = 4 << 20;

/// What a line says of its place.
#[derive(Deserialize)]
struct Line {
    at: DateTime<Utc>,
    id: i64,
}

/// Standard output or a file.
pub struct Output {
    writer: BufWriter<Box<dyn Write>>,
    file: Option<File>,
    last: Option<Place>,
    last_line: String,
}

impl Output {
    /// Opens it. A file must not be there yet, or, to go on with it, be one of ours.
    pub fn open(path: Option<&Path>, resume: bool) -> Result<Self, String> {
        let Some(path) = path else { return Ok(Self::new(Box::new(std::io::stdout()), None, None)) };
        let failed = |error: std::io::Error| format!("{} cannot be written: {error}.", path.display());
        let mut options = OpenOptions::new();
        options.read(true).write(true).mode(0o600);
        if resume {
            options.create(true)
        } else {
            options.create_new(true)
        };
        let mut file = options.open(path).map_err(|error| match error.kind() {
            std::io::ErrorKind::AlreadyExists => {
                format!("{} is there already. Go on with it with --resume, or take another one.", path.display())
            }
            _ => failed(error),
        })?;
        let last =
            if resume { cut_to_last_line(&mut file).map_err(|why| format!("{} {why}", path.display()))? } else { None };
        let writer = file.try_clone().map_err(failed)?;
        Ok(Self::new(Box::new(writer), Some(file), last))
    }

    fn new(writer: Box<dyn Write>, file: Option<File>, last: Option<Place>) -> Self {
        Self { writer: BufWriter::with_capacity(1 << 16, writer), file, last, last_line: String::new() }
    }

    /// The place of the last line.
    pub fn last(&self) -> Option<Place> {
        place(&self.last_line).or(self.last)
    }

    /// Adds a line.
    pub fn write(&mut self, line: &str) -> Result<(), String> {
        self.writer.write_all(line.as_bytes()).and_then(|()| self.writer.write_all(b"\n")).map_err(not_written)?;
        self.last_line.clear();
        self.last_line.push_str(line);
        Ok(())
    }

    /// Lets go what is held back.
    pub fn flush(&mut self) -> Result<(), String> {
        self.writer.flush().map_err(not_written)
    }

    /// The end; a file is on the disk then.
    pub fn finish(&mut self) -> Result<(), String> {
        self.flush()?;
        self.file.as_ref().map_or(Ok(()), File::sync_all).map_err(not_written)
    }
}

fn not_written(error: std::io::Error) -> String {
    format!("the lines cannot be written: {error}.")
}

fn place(line: &str) -> Option<Place> {
    serde_json::from_str(line).ok().map(|Line { at, id }| (at, id))
}

/// Takes a last line that was not finished off a file, and says the place of the one before. The file ends there then, and
/// the next line is written there.
fn cut_to_last_line(file: &mut File) -> Result<Option<Place>, String> {
    let failed = |error: std::io::Error| format!("cannot be read: {error}.");
    let length = file.metadata().map_err(failed)?.len();
    let start = length.saturating_sub(LONGEST_LINE);
    let mut end = Vec::new();
    file.seek(SeekFrom::Start(start)).map_err(failed)?;
    file.read_to_end(&mut end).map_err(failed)?;
    let whole = end.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
    let last = end[..whole].strip_suffix(b"\n").map(|lines| {
        let line = lines.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
        std::str::from_utf8(line).ok().and_then(place)
    });
    let last = match last {
        // Not a single whole line: then it must be the beginning of one.
        None if whole == 0 && (start > 0 || !(end.is_empty() || end.starts_with(b"{"))) => {
            return Err("is no export: it was left as it is.".into());
        }
        None => None,
        Some(None) => return Err("is no export: its last line has no at and id. It was left as it is.".into()),
        Some(last) => last,
    };
    let whole = start + whole as u64;
    file.set_len(whole).and_then(|()| file.seek(SeekFrom::Start(whole))).map_err(failed)?;
    Ok(last)
}
