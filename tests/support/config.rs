//! A configuration file of a test's own, and the commands run with it.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use super::{Authority, PATIENCE, free_port, secrets};

/// A `config.toml` in a temporary folder; what is set last wins.
pub struct Config {
    folder: TempDir,
    admin: SocketAddr,
    database: String,
    tables: BTreeMap<String, BTreeMap<String, String>>,
    environment: Vec<(String, String)>,
    shell_first: Option<&'static str>,
}

impl Config {
    /// With an SQLite file in the temporary folder.
    pub fn sqlite() -> Self {
        let folder = temporary_folder();
        let url = format!("sqlite://{}", folder.path().join("outhook.db").display());
        Self::new(folder, url)
    }

    /// With this PostgreSQL database.
    pub fn postgres(url: &str) -> Self {
        Self::new(temporary_folder(), url.to_owned())
    }

    fn new(folder: TempDir, database: String) -> Self {
        let admin = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let (tables, environment) = (BTreeMap::new(), vec![]);
        let config = Self { folder, admin, database, tables, environment, shell_first: None };
        let database = config.database.clone();
        config
            .text("database.url", &database)
            .text("admin.listen", &admin.to_string())
            .set("egress.allow", r#"["127.0.0.0/8", "::1/128"]"#)
            .text("retry.initial_delay", "50ms")
            .text("retry.max_delay", "200ms")
            .text("log.filter", "info,outhook=debug,outhook_core=debug")
    }

    /// The same configuration for another daemon, beside this one on the same database.
    pub fn sibling(&self) -> Self {
        let admin = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let sibling = Self {
            folder: temporary_folder(),
            admin,
            database: self.database.clone(),
            tables: self.tables.clone(),
            environment: vec![],
            shell_first: self.shell_first,
        };
        sibling.text("admin.listen", &admin.to_string())
    }

    /// Lets fail points of the product act, as the crate `fail` writes them.
    pub fn fail_points(self, actions: &str) -> Self {
        self.environment("FAILPOINTS", actions)
    }

    /// Takes events from this queue instead of the embedded one.
    pub fn queue(self, url: &str, name: &str) -> Self {
        self.text("queue.url", url).text("queue.name", name)
    }

    /// Sets a key, written `section.key`, to a value as TOML writes it.
    pub fn set(mut self, key: &str, literal: &str) -> Self {
        let (table, key) = key.split_once('.').expect("section.key");
        self.tables.entry(table.to_owned()).or_default().insert(key.to_owned(), literal.to_owned());
        fs::write(self.path(), self.to_toml()).unwrap();
        self
    }

    /// Sets a key to a text.
    pub fn text(self, key: &str, value: &str) -> Self {
        // A JSON string is a TOML string.
        self.set(key, &serde_json::Value::from(value).to_string())
    }

    /// Sets the token of the admin server, without which nothing that changes state is served.
    pub fn admin_token(self, token: &str) -> Self {
        let file = self.folder().join("admin-token");
        fs::write(&file, token).unwrap();
        self.text("admin.token_file", &file.to_string_lossy())
    }

    /// Trusts the certificates that this authority has signed.
    pub fn trusting(self, authority: &Authority) -> Self {
        let file = authority.write(self.folder());
        self.text("egress.ca_file", &file.to_string_lossy())
    }

    /// Sets an environment variable for the daemon and every command.
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Has a shell run this in every process before it becomes the daemon or the command.
    pub fn shell_first(mut self, line: &'static str) -> Self {
        self.shell_first = Some(line);
        self
    }

    /// Has the permission bits of files bind every process, also if root runs the tests.
    pub fn bound_by_permissions(self) -> Self {
        self.shell_first(
            r#"[ "$(id -u)" != 0 ] || exec setpriv --bounding-set=-dac_override,-dac_read_search \
                --inh-caps=-dac_override,-dac_read_search "$0" "$@""#,
        )
    }

    /// The file of the database, if that is SQLite.
    pub fn database_file(&self) -> PathBuf {
        PathBuf::from(self.database.strip_prefix("sqlite://").expect("SQLite"))
    }

    /// The temporary folder, in which everything runs.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The file.
    pub fn path(&self) -> PathBuf {
        self.folder().join("config.toml")
    }

    /// Where the admin server is to listen.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// The URL of the database.
    pub fn database(&self) -> &str {
        &self.database
    }

    /// Runs a command of outhook to its end.
    pub async fn cli(&self, arguments: &[&str]) -> CliOutput {
        self.cli_with_input(arguments, b"").await
    }

    /// Runs a command of outhook to its end, with this as its standard input.
    pub async fn cli_with_input(&self, arguments: &[&str], input: &[u8]) -> CliOutput {
        let mut child = self.command().args(arguments).stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let feed = async move {
            // A command that does not read its input ends before all of it is written.
            stdin.write_all(input).await.ok();
        };
        let run = async { tokio::join!(feed, child.wait_with_output()).1 };
        let output = tokio::time::timeout(PATIENCE, run).await;
        CliOutput::from(output.unwrap_or_else(|_| panic!("outhook {arguments:?} did not end")).unwrap())
    }

    /// The product with this file and these variables, its output piped, killed when dropped.
    pub fn command(&self) -> Command {
        let mut command = self.program();
        command
            .arg("--config")
            .arg(self.path())
            .env_remove("RUST_LOG")
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(self.folder())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    fn program(&self) -> Command {
        let program = env!("CARGO_BIN_EXE_outhook");
        let Some(line) = self.shell_first else {
            return Command::new(program);
        };
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(format!(r#"{line}; exec "$0" "$@""#)).arg(program);
        shell
    }

    fn to_toml(&self) -> String {
        let mut toml = String::new();
        for (table, keys) in &self.tables {
            toml += &format!("[{table}]\n");
            for (key, literal) in keys {
                toml += &format!("{key} = {literal}\n");
            }
        }
        toml
    }
}

fn temporary_folder() -> TempDir {
    tempfile::Builder::new().prefix("outhook-test-").tempdir().unwrap()
}

/// What a command left.
#[derive(Debug)]
pub struct CliOutput {
    /// Its exit code, or -1 if a signal ended it.
    pub status: i32,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl CliOutput {
    /// Itself, unless the command failed.
    pub fn success(self) -> Self {
        assert_eq!(self.status, 0, "{self:#?}");
        self
    }

    /// The objects it printed with `--json`, one a line.
    pub fn records(&self) -> Vec<serde_json::Value> {
        self.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// Nothing that a command shows may hold a secret.
impl From<Output> for CliOutput {
    fn from(output: Output) -> Self {
        let [stdout, stderr] = [output.stdout, output.stderr].map(|shown| {
            let shown = String::from_utf8_lossy(&shown).into_owned();
            secrets::assert_none("a command", &shown);
            shown
        });
        Self { status: output.status.code().unwrap_or(-1), stdout, stderr }
    }
}
