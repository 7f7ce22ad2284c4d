//! Keys in a file: one a line, or comma-separated. What others could read or change is not taken, and a change is there
//! as a whole or not at all.

use std::{
    fs::File,
    io::{Read, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use chrono::{DateTime, Utc};
use rustix::{
    fs::{FlockOperation, Mode, OFlags, fchmod, fchown, flock},
    process::geteuid,
};
use zeroize::Zeroizing;

use super::KeyError;

/// Hundreds of keys; no ring is larger.
const MAX_LENGTH: u64 = 64 * 1024;

/// A file with keys.
#[derive(Clone)]
pub struct KeyFile(PathBuf);

impl KeyFile {
    /// At that path; it is not looked at yet.
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Its keys, comma-separated, and when it was last changed. An error is the end of a sentence.
    pub fn read(&self) -> Result<(Zeroizing<String>, DateTime<Utc>), String> {
        let (_, text, changed_at) = self.open()?;
        Ok((text, changed_at))
    }

    fn open(&self) -> Result<(File, Zeroizing<String>, DateTime<Utc>), String> {
        // A pipe would be waited for.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = rustix::fs::open(&self.0, flags, Mode::empty()).map_err(|error| format!("{error}."))?;
        let mut file = File::from(file);
        let unreadable = |error: std::io::Error| format!("{error}.");
        // Of what was opened, not of what has that name by now.
        let about = file.metadata().map_err(unreadable)?;
        if !about.is_file() {
            return Err("it is not a file.".into());
        }
        if about.mode() & 0o027 != 0 {
            return Err(format!(
                "its mode is {:04o}, so that others can read or change it. Run: chmod 0600 {}",
                about.mode() & 0o7777,
                self.0.display()
            ));
        }
        let me = geteuid().as_raw();
        if about.uid() != me && about.uid() != 0 && me != 0 {
            return Err(format!("it belongs to another user (uid {}), who can change it.", about.uid()));
        }
        if about.len() > MAX_LENGTH {
            return Err(format!("it is larger than {MAX_LENGTH} bytes."));
        }
        // Of its full size from the beginning, so that no copy is left behind as it grows.
        let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_LENGTH as usize + 1));
        (&mut file).take(MAX_LENGTH + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        let text = std::str::from_utf8(&bytes).map_err(|_| "it is not text.".to_owned())?;
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let text = Zeroizing::new(lines.collect::<Vec<_>>().join(","));
        if text.is_empty() {
            return Err("it is empty.".into());
        }
        let changed_at = about.modified().map_err(unreadable)?.into();
        Ok((file, text, changed_at))
    }

    /// Puts other keys there, if it still has those that were `seen`; both comma-separated.
    pub fn replace(&self, seen: &str, text: &str) -> Result<(), KeyError> {
        let failed = |what: &str, why: &dyn std::fmt::Display| {
            format!("{} could not be {what}: {why}. Nothing was changed.", self.0.display())
        };
        // The file itself, where the name is a link to it.
        let path = self.0.canonicalize().map_err(|error| failed("found", &error))?;
        let (file, ..) = Self(path.clone()).open().map_err(|why| failed("read", &why.trim_end_matches('.')))?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| format!("{} is being changed by somebody else. Nothing was changed.", self.0.display()))?;
        // What the lock is on may have been replaced while it was being taken.
        let (now, current, _) = Self(path.clone()).open().map_err(|why| failed("read", &why.trim_end_matches('.')))?;
        let about = file.metadata().map_err(|error| failed("read", &error))?;
        let same = now.metadata().is_ok_and(|now| (now.dev(), now.ino()) == (about.dev(), about.ino()));
        if !same || *current != *seen {
            return Err(format!("{} was changed by somebody else meanwhile. Nothing was changed.", self.0.display()));
        }
        let directory = path.parent().unwrap_or(Path::new("/"));
        let new = directory.join(format!(".auth-api-keys-{}", uuid::Uuid::new_v4().simple()));
        let lines = Zeroizing::new(text.replace(',', "\n") + "\n");
        let written = write(&new, &lines, &about).and_then(|()| std::fs::rename(&new, &path));
        if let Err(error) = written {
            let _ = std::fs::remove_file(&new);
            return Err(failed("written", &error));
        }
        // The name is on the disk when its directory is. Without it the old keys may come back with a crash: harmless.
        let _ = File::open(directory).and_then(|directory| directory.sync_all());
        Ok(())
    }
}

/// A new file that belongs to whom the old one did, before it has anything in it.
fn write(path: &Path, text: &str, like: &std::fs::Metadata) -> std::io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?);
    let about = file.metadata()?;
    if (about.uid(), about.gid()) != (like.uid(), like.gid()) {
        let (user, group) = (rustix::fs::Uid::from_raw(like.uid()), rustix::fs::Gid::from_raw(like.gid()));
        fchown(&file, Some(user), Some(group))?;
    }
    fchmod(&file, Mode::from_raw_mode(like.mode() & 0o7777))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
pub mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    /// A directory of its own, gone with the value.
    pub struct Directory(PathBuf);

    impl Directory {
        pub fn new() -> Self {
            let path = std::env::temp_dir().join(format!("auth-api-keys-{}", uuid::Uuid::new_v4().simple()));
            fs::create_dir(&path).unwrap();
            Self(path)
        }

        pub fn file(&self, name: &str, text: &str, mode: u32) -> KeyFile {
            let path = self.0.join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            KeyFile::new(path)
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn keys_stand_one_a_line_or_behind_commas() {
        let directory = Directory::new();
        for (name, text) in [("a", "one,two"), ("b", "one\ntwo\n"), ("c", "\n one \r\n\n two,three\n")] {
            let read = directory.file(name, text, 0o600).read().unwrap().0;
            assert!(["one,two", "one,two,three"].contains(&read.as_str()), "{text:?}: {}", *read);
        }
    }

    #[test]
    fn what_others_can_read_or_change_is_refused() {
        let directory = Directory::new();
        for mode in [0o400, 0o600, 0o440, 0o640] {
            assert!(directory.file(&format!("{mode:o}"), "key", mode).read().is_ok(), "{mode:o}");
        }
        for mode in [0o644, 0o604, 0o602, 0o620, 0o660, 0o666, 0o601] {
            let why = directory.file(&format!("{mode:o}"), "key", mode).read().unwrap_err();
            assert!(why.contains("chmod 0600"), "{mode:o}: {why}");
        }
        assert!(directory.file("empty", " \n", 0o600).read().unwrap_err().contains("empty"));
        let large = "x".repeat(MAX_LENGTH as usize + 1);
        assert!(directory.file("large", &large, 0o600).read().unwrap_err().contains("larger"));
        assert!(KeyFile::new(directory.0.clone()).read().unwrap_err().contains("not a file"));
        assert!(KeyFile::new(directory.0.join("none")).read().unwrap_err().contains("No such file"));
    }

    #[test]
    fn a_change_keeps_mode_and_link_and_never_undoes_another() {
        let directory = Directory::new();
        let file = directory.file("keys", "one\ntwo", 0o640);
        let link = directory.0.join("link");
        std::os::unix::fs::symlink(file.path(), &link).unwrap();
        let link = KeyFile::new(link);

        link.replace("one,two", "two,one,three").unwrap();
        assert!(fs::symlink_metadata(link.path()).unwrap().is_symlink());
        assert_eq!(fs::read_to_string(file.path()).unwrap(), "two\none\nthree\n");
        assert_eq!(fs::metadata(file.path()).unwrap().mode() & 0o7777, 0o640);

        let why = link.replace("one,two", "four").unwrap_err();
        assert!(why.contains("meanwhile"), "{why}");
        let held = File::open(file.path()).unwrap();
        flock(&held, FlockOperation::LockExclusive).unwrap();
        assert!(link.replace("two,one,three", "four").unwrap_err().contains("somebody else"));
        assert_eq!(fs::read_to_string(file.path()).unwrap(), "two\none\nthree\n");
        assert_eq!(fs::read_dir(&directory.0).unwrap().count(), 2, "nothing is left behind");
    }
}
