//! A program that the user provides: for webhooks, and for CDNs that are not built in.

use std::ffi::OsStr;
use std::io::Write as _;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;

use super::http::HttpClient;
use super::options::{ProviderKeys, PurgeKeyError, PurgeSection, provider_keys, required};
use super::{
    BatchLimits, ItemKind, ItemPrice, OWN_RATE, Provider, ProviderError, ProviderFacts, ProviderKind, PurgeBatch,
    PurgeProvider, SendError,
};
use crate::cdn::items::{CdnUrl, PurgeBy};

/// The most lines in a list: the default, and what the user may set at most.
const DEFAULT_ITEMS: usize = 10_000;
const MOST_ITEMS: usize = 1_000_000;

/// How long the program may take.
const PROGRAM_TIMEOUT: Duration = Duration::from_secs(600);

/// The interval between two checks of whether the program has ended.
const PROGRAM_POLL: Duration = Duration::from_millis(20);

/// Exit codes of failures that a retry does not repair: `EX_NOPERM` and `EX_CONFIG` (sysexits.h), and a shell's "cannot
/// be run" and "not found".
const STAYING: [i32; 4] = [77, 78, 126, 127];

/// Beginnings of the names of environment variables that the program does not get, because they are secrets of the
/// database, of this program or of CDNs that have example programs. The tokens of the providers are added.
const NOT_PASSED_ON: [&str; 11] = [
    "DATABASE_URL",
    "PGPASSWORD",
    "PGPASSFILE",
    "OAR_TILES_",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_CONTAINER_",
    "AWS_WEB_IDENTITY_",
    "BUNNY_API_KEY",
    "AKAMAI_CLIENT_SECRET",
];

pub(crate) struct UserProgram {
    options: CommandOptions,
    url: CdnUrl,
}

impl UserProgram {
    pub(crate) fn new(options: CommandOptions, url: CdnUrl) -> UserProgram {
        UserProgram { options, url }
    }

    /// Runs the program and waits for its end.
    fn run(&self, batch: &PurgeBatch) -> Result<(), SendError> {
        let failed = |what: &str, error: &dyn std::fmt::Display| SendError::later(format!("{what}: {error}"));
        let mut list = tempfile::NamedTempFile::new().map_err(|error| failed("no temporary file", &error))?;
        let text: String = batch.names.iter().map(|name| self.line(batch.kind, name) + "\n").collect();
        list.write_all(text.as_bytes()).map_err(|error| failed("no temporary file", &error))?;
        let Some((program, arguments)) = self.options.program.split_first() else {
            return Err(SendError::refused("no program is named".to_owned()));
        };
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os().filter(|(name, _)| !self.passes_on(name)) {
            command.env_remove(name);
        }
        command
            .args(arguments)
            .env("OAR_TILES_PURGE_LIST", list.path())
            .env("OAR_TILES_PURGE_KIND", batch.kind.name())
            .env("OAR_TILES_PURGE_COUNT", batch.names.len().to_string())
            .env("OAR_TILES_PURGE_URL", self.url.whole(self.url.path()))
            .env("OAR_TILES_PURGE_REFERENCE", &batch.reference)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let mut child =
            command.spawn().map_err(|error| SendError::refused(format!("{program} cannot be run: {error}")))?;
        let begun = Instant::now();
        loop {
            match child.try_wait() {
                Ok(Some(status)) => return judge(program, status),
                Ok(None) if begun.elapsed() < PROGRAM_TIMEOUT => std::thread::sleep(PROGRAM_POLL),
                ended => {
                    let killed = child.kill().and_then(|()| child.wait());
                    let error = ended.and(killed).err().map(|error| error.to_string()).unwrap_or_default();
                    let seconds = PROGRAM_TIMEOUT.as_secs();
                    return Err(SendError::later(format!("{program} was killed after {seconds} s {error}")));
                }
            }
        }
    }

    /// True if the program gets an environment variable: it is the program's own secret, or none that is known as a
    /// secret.
    fn passes_on(&self, name: &OsStr) -> bool {
        let CommandOptions { token_variable, others_variables, .. } = &self.options;
        let name = name.as_encoded_bytes();
        let of_providers: Vec<&str> =
            PurgeProvider::ALL.iter().filter_map(|provider| provider.keys().token_variable).collect();
        token_variable.as_ref().is_some_and(|own| own.as_bytes() == name)
            || !NOT_PASSED_ON.iter().chain(&of_providers).any(|secret| name.starts_with(secret.as_bytes()))
                && !others_variables.iter().any(|other| other.as_bytes() == name)
    }

    /// A line of the list: a whole address, with `*` after a prefix, or a tag.
    fn line(&self, kind: ItemKind, name: &str) -> String {
        match kind {
            ItemKind::Tag => name.to_owned(),
            ItemKind::Url => self.url.whole(name),
            ItemKind::Prefix | ItemKind::Everything => format!("{}*", self.url.whole(name)),
        }
    }
}

fn judge(program: &str, status: ExitStatus) -> Result<(), SendError> {
    match status.code() {
        Some(0) => Ok(()),
        Some(code) if STAYING.contains(&code) => {
            Err(SendError::refused(format!("{program} ended with exit code {code}")))
        }
        Some(code) => Err(SendError::later(format!("{program} ended with exit code {code}"))),
        None => Err(SendError::later(format!("{program} was ended by a signal"))),
    }
}

#[derive(Debug, Clone)]
pub struct CommandOptions {
    pub program: Vec<String>,
    /// The most lines of a list.
    pub max_items: usize,
    /// The environment variable with its own secret, which it gets though it is known as a secret.
    pub token_variable: Option<String>,
    /// The environment variables with the secrets of other providers, which it does not get.
    pub others_variables: Vec<String>,
}

impl ProviderKind for CommandOptions {
    const KEYS: ProviderKeys =
        ProviderKeys { own: provider_keys!(program, max_items, token_variable), token_variable: None };

    fn of(given: &PurgeSection) -> Result<CommandOptions, PurgeKeyError> {
        let program = required("program", given.program.clone())?;
        if program.first().is_none_or(String::is_empty) {
            let what = "names no program: write [\"/path/to/program\"]".to_owned();
            return Err(PurgeKeyError { key: "program", what });
        }
        let max_items = given.max_items.unwrap_or(DEFAULT_ITEMS);
        if !(1..=MOST_ITEMS).contains(&max_items) {
            let what = format!("{max_items} must lie between 1 and {MOST_ITEMS}");
            return Err(PurgeKeyError { key: "max_items", what });
        }
        Ok(CommandOptions {
            program,
            max_items,
            token_variable: given.token_variable.clone(),
            others_variables: Vec::new(),
        })
    }

    fn facts(&self) -> ProviderFacts {
        ProviderFacts {
            name: PurgeProvider::Command.name(),
            takes: &[PurgeBy::Path, PurgeBy::Tag, PurgeBy::Url, PurgeBy::All],
            takes_everything: true,
            mixes: true,
            max_items: self.max_items,
            price: ItemPrice::FREE,
        }
    }

    async fn provider(self, url: CdnUrl, _: HttpClient) -> Result<Box<dyn Provider>, ProviderError> {
        Ok(Box::new(UserProgram::new(self, url)))
    }
}

impl Provider for UserProgram {
    fn limits(&self, _: ItemKind) -> BatchLimits {
        BatchLimits {
            max_items: self.options.max_items,
            max_bytes: usize::MAX,
            bytes_around: 0,
            requests: OWN_RATE,
            items: OWN_RATE,
        }
    }

    fn send<'a>(&'a self, batch: &'a PurgeBatch) -> BoxFuture<'a, Result<(), SendError>> {
        Box::pin(async { tokio::task::block_in_place(|| self.run(batch)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(program: Vec<String>) -> CommandOptions {
        CommandOptions { program, max_items: 10, token_variable: None, others_variables: Vec::new() }
    }

    #[test]
    fn the_program_gets_its_own_secret_and_no_other_one() {
        let options = CommandOptions {
            token_variable: Some("AKAMAI_CLIENT_SECRET".to_owned()),
            others_variables: vec!["MY_CDN".to_owned()],
            ..options(vec!["true".to_owned()])
        };
        let program = UserProgram::new(options, "https://h/".parse().unwrap());
        let passes = |name: &str| program.passes_on(OsStr::new(name));
        for name in [
            "PATH",
            "HOME",
            "LANG",
            "MY_CDN_2",
            "AKAMAI_HOST",
            "AKAMAI_CLIENT_SECRET",
            "AWS_PROFILE",
            "AWS_REGION",
            "PGHOST",
        ] {
            assert!(passes(name), "{name}");
        }
        for name in "DATABASE_URL PGPASSWORD OAR_TILES_TOKEN OAR_TILES_REDIS_URL AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN
            FASTLY_API_TOKEN CLOUDFLARE_API_TOKEN BUNNY_API_KEY MY_CDN"
            .split_whitespace()
        {
            assert!(!passes(name), "{name}");
        }
    }

    fn batch(kind: ItemKind, name: &str) -> PurgeBatch {
        PurgeBatch { kind, names: vec![name.to_owned()], reference: "r".to_owned() }
    }

    #[test]
    fn the_program_finds_the_list_and_the_facts() {
        let folder = tempfile::tempdir().unwrap();
        let script = "cat \"$OAR_TILES_PURGE_LIST\" >>\"$0\"; echo $OAR_TILES_PURGE_KIND $OAR_TILES_PURGE_COUNT $OAR_TILES_PURGE_URL $OAR_TILES_PURGE_REFERENCE >>\"$0\"";
        let out = folder.path().join("out");
        let program = ["sh", "-c", script, out.to_str().unwrap()].map(str::to_owned).to_vec();
        let program = UserProgram::new(options(program), "https://h/a/".parse().unwrap());
        program.run(&batch(ItemKind::Url, "/a/1/0/0.pbf")).unwrap();
        program.run(&batch(ItemKind::Prefix, "/a/1/")).unwrap();
        program.run(&batch(ItemKind::Tag, "n-0-0-0")).unwrap();
        assert_eq!(
            std::fs::read_to_string(out).unwrap(),
            "https://h/a/1/0/0.pbf\nurl 1 https://h/a/ r\nhttps://h/a/1/*\nprefix 1 https://h/a/ r\nn-0-0-0\ntag 1 https://h/a/ r\n"
        );
    }

    #[test]
    fn exit_codes_say_whether_to_try_again() {
        let ended = |script: &str| {
            let options = options(["sh", "-c", script].map(str::to_owned).to_vec());
            UserProgram::new(options, "https://h/".parse().unwrap()).run(&batch(ItemKind::Tag, "a"))
        };
        assert_eq!(ended("exit 0"), Ok(()));
        for script in ["exit 1", "exit 75", "kill -9 $$"] {
            assert!(matches!(ended(script), Err(SendError::Later { .. })), "{script}");
        }
        for script in ["exit 77", "exit 78", "/no/such/program"] {
            assert!(matches!(ended(script), Err(SendError::Refused { .. })), "{script}");
        }
    }
}
