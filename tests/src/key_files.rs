//! The service's keys in files, and the commands that change them.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};
use std::{fs, process::Output};

use tokio::process::Command;

use crate::cluster::env_path;
use crate::server::{HMAC_KEY, JWT_SEED, PEPPER, auth_api, key};

/// The settings of the files, and the rings' names on the command line.
const RINGS: [(&str, &str); 3] =
    [("HMAC_SECRETS_FILE", "hmac"), ("PASSWORD_PEPPERS_FILE", "peppers"), ("JWT_SIGNING_KEYS_FILE", "jwt")];

/// A directory with a file for each ring. Gone when dropped.
pub struct KeyFiles {
    directory: PathBuf,
    settings: Vec<(String, String)>,
}

impl KeyFiles {
    /// With the keys that a server of the tests has otherwise. They are read anew on SIGHUP only.
    pub fn create() -> Self {
        let directory = std::env::temp_dir().join(format!("auth-api-keys-{}", uuid::Uuid::new_v4().simple()));
        fs::create_dir(&directory).expect("a directory");
        let mut settings: Vec<(String, String)> =
            ["HMAC_SECRETS", "PASSWORD_PEPPERS", "JWT_SIGNING_KEYS"].map(|name| (name.into(), String::new())).into();
        for (setting, ring) in RINGS {
            settings.push((setting.into(), directory.join(ring).display().to_string()));
        }
        settings.push(("KEY_REFRESH_SECONDS".into(), "0".into()));
        let files = Self { directory, settings };
        for (ring, bytes) in [("hmac", HMAC_KEY), ("peppers", PEPPER), ("jwt", JWT_SEED)] {
            files.write(ring, &key(&bytes));
        }
        files
    }

    /// The settings of a service that has its keys there.
    pub fn settings(&self) -> Vec<(&str, &str)> {
        self.settings.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
    }

    /// The same, with more.
    pub fn settings_and<'s>(&'s self, more: &[(&'s str, &'s str)]) -> Vec<(&'s str, &'s str)> {
        [self.settings(), more.to_vec()].concat()
    }

    /// Of a ring.
    pub fn path(&self, ring: &str) -> PathBuf {
        self.directory.join(ring)
    }

    /// What is in it.
    pub fn read(&self, ring: &str) -> String {
        fs::read_to_string(self.path(ring)).expect("keys")
    }

    /// Puts that there, for nobody else.
    pub fn write(&self, ring: &str, text: &str) {
        let _ = fs::remove_file(self.path(ring));
        fs::write(self.path(ring), text).expect("written");
        self.set_mode(ring, 0o600);
    }

    /// Who may read and change it.
    pub fn set_mode(&self, ring: &str, mode: u32) {
        fs::set_permissions(self.path(ring), fs::Permissions::from_mode(mode)).expect("its mode");
    }

    /// As if it had been changed so long ago.
    pub fn let_time_pass(&self, ring: &str, seconds: u64) {
        let file = fs::File::options().write(true).open(self.path(ring)).expect("keys");
        file.set_modified(SystemTime::now() - Duration::from_secs(seconds)).expect("its time");
    }

    /// `auth-api keys …` with these settings and more.
    pub async fn command(&self, arguments: &[&str], more: &[(&str, &str)]) -> Said {
        let settings: Vec<_> = self.settings_and(more).into_iter().filter(|(_, value)| !value.is_empty()).collect();
        Said::of(auth_api(&[&["keys"], arguments].concat(), &settings).await)
    }

    /// The same as another user, in the group of that number and no other; only root can.
    pub async fn command_as(&self, user: u32, arguments: &[&str]) -> Said {
        // A copy: where the program was built, others may be shut out. By a process of its own: what another test starts
        // while this one writes would hold the file open for writing, and nobody could run it ("Text file busy").
        let program = self.path("auth-api");
        let copied = Command::new("install").arg(env_path("AUTH_TEST_API")).arg(&program).status().await;
        assert!(copied.expect("coreutils").success(), "auth-api was not copied");
        let mut command = Command::new("setpriv");
        command.args([&format!("--reuid={user}"), &format!("--regid={user}"), "--clear-groups"]);
        command.arg(program).arg("keys").args(arguments);
        let settings = self.settings().into_iter().filter(|(_, value)| !value.is_empty());
        Said::of(command.env_clear().envs(settings).output().await.expect("setpriv"))
    }
}

impl Drop for KeyFiles {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// What a command said.
#[derive(Debug)]
pub struct Said {
    /// Whether it did it.
    pub done: bool,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Said {
    /// Of a command that has ended.
    pub fn of(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text").trim().to_owned();
        Self { done: output.status.success(), out: text(output.stdout), err: text(output.stderr) }
    }

    /// Standard output, when it did it; panics otherwise.
    #[track_caller]
    pub fn expect(self) -> String {
        assert!(self.done, "{self:?}");
        self.out
    }

    /// What it said when it refused; panics when it did it.
    #[track_caller]
    pub fn refusal(self) -> String {
        assert!(!self.done && self.out.is_empty(), "{self:?}");
        self.err
    }
}
