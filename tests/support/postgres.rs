//! A private PostgreSQL, beside whatever else runs on the machine.

use std::ffi::OsString;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use sea_orm::{ConnectOptions, ConnectionTrait as _, Database, DatabaseConnection, DbErr};
use tokio::sync::OnceCell;

use super::server_process::{ServerProcess, folder_with};
use super::{Identity, PATIENCE, free_port, unique};

/// The server lets everybody in, but a URL without a password would not show whether passwords are hidden.
const PASSWORD: &str = "s3cr3tm4rk-database";

/// A PostgreSQL of the tests' own, on a free port, with fsync on.
pub struct Postgres {
    process: ServerProcess,
    port: u16,
}

impl Postgres {
    /// The one of the whole test process, started by the first test that asks; never stop it.
    pub async fn shared() -> &'static Self {
        static SHARED: OnceCell<Postgres> = OnceCell::const_new();
        SHARED.get_or_init(Self::private).await
    }

    /// One for a single test, which may stop and kill it.
    pub async fn private() -> Self {
        let programs = programs();
        let port = free_port();
        let process =
            ServerProcess::new("PostgreSQL", |folder| server(&programs.join("postgres"), folder, port));
        initialise(&programs.join("initdb"), process.folder()).await;
        let postgres = Self { process, port };
        postgres.start_again().await;
        postgres
    }

    /// Starts it after `stop` or `kill`, on the same port and with the same data.
    pub async fn start_again(&self) {
        let ready = || async { self.connect(Duration::from_secs(1)).await.is_ok() };
        self.process.start(ready).await;
    }

    /// Stops it in good order; its connections are cut, not waited for.
    pub async fn stop(&self) {
        self.process.end("INT").await;
    }

    /// Ends all its processes with SIGKILL.
    pub async fn kill(&self) {
        self.process.end("KILL").await;
    }

    /// Creates an empty database, and returns its URL.
    pub async fn database(&self) -> String {
        let name = unique("outhook");
        self.exec(&format!("CREATE DATABASE {name}")).await;
        self.url(&name)
    }

    /// Runs a statement that concerns the server, or a database as a whole.
    pub async fn exec(&self, sql: &str) {
        let connection = self.connect(PATIENCE).await.unwrap();
        connection.execute_unprepared(sql).await.unwrap();
        connection.close().await.unwrap();
    }

    /// Offers TLS with this identity from now on.
    pub async fn serve_tls(&self, identity: &Identity) {
        let folder = self.process.folder();
        for (name, pem) in [("server.crt", identity.pem().to_owned()), ("server.key", identity.key_pem())] {
            let file = data(folder).join(name);
            fs::write(&file, pem).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
            if let Some((user, group)) = other_user() {
                chown(&file, Some(user), Some(group)).unwrap();
            }
        }
        self.exec("ALTER SYSTEM SET ssl = on").await;
        self.exec("SELECT pg_reload_conf()").await;
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    /// The URL of a database, with another role or another way to the server.
    pub fn reached(url: &str, role: &str, address: SocketAddr) -> String {
        let database = url.rsplit('/').next().unwrap();
        format!("postgres://{role}:{PASSWORD}@{address}/{database}")
    }

    /// What `pg_dump` writes of a database for the role of a URL, or what it says instead.
    pub async fn dump(url: &str) -> Result<String, String> {
        let mut command = tokio::process::Command::new(programs().join("pg_dump"));
        let output = command.args(["--dbname", url]).output().await.unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
    }

    fn url(&self, database: &str) -> String {
        format!("postgres://postgres:{PASSWORD}@127.0.0.1:{}/{database}", self.port)
    }

    async fn connect(&self, patience: Duration) -> Result<DatabaseConnection, DbErr> {
        let mut options = ConnectOptions::new(self.url("postgres"));
        options.max_connections(1).connect_timeout(patience).acquire_timeout(patience).sqlx_logging(false);
        Database::connect(options).await
    }
}

fn server(program: &Path, folder: &Path, port: u16) -> Command {
    let mut command = as_server_user(program);
    command.arg("-D").arg(data(folder)).args(["-p", &port.to_string()]);
    command.args(["-c", "listen_addresses=127.0.0.1", "-c", "max_connections=300"]);
    let mut sockets = OsString::from("unix_socket_directories=");
    sockets.push(folder);
    command.arg("-c").arg(sockets);
    command
}

async fn initialise(program: &Path, folder: &Path) {
    if let Some((user, group)) = other_user() {
        chown(folder, Some(user), Some(group)).unwrap();
    }
    let mut command = as_server_user(program);
    command.arg("-D").arg(data(folder)).current_dir(folder);
    command.args(["--auth=trust", "--username=postgres", "--no-locale", "--encoding=UTF8", "--no-sync"]);
    let output = tokio::process::Command::from(command).output().await.unwrap();
    assert!(output.status.success(), "initdb: {}", String::from_utf8_lossy(&output.stderr));
}

fn data(folder: &Path) -> PathBuf {
    folder.join("data")
}

/// PostgreSQL refuses to run as root.
fn as_server_user(program: &Path) -> Command {
    let Some((user, group)) = other_user() else {
        return Command::new(program);
    };
    let mut command = Command::new("setpriv");
    command.args([format!("--reuid={user}"), format!("--regid={group}"), "--clear-groups".into()]);
    command.arg(program);
    command
}

/// The user and group to become if the tests run as root.
fn other_user() -> Option<(u32, u32)> {
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        return None;
    }
    ["postgres", "nobody"].iter().find_map(|user| Some((id("-u", user)?, id("-g", user)?)))
}

fn id(which: &str, user: &str) -> Option<u32> {
    let output = Command::new("id").args([which, user]).output().ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}

fn programs() -> PathBuf {
    let installed = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut versions: Vec<PathBuf> = installed.map(|version| version.path()).collect();
    versions.sort_by_key(|path| path.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok()));
    folder_with("initdb", versions.into_iter().rev().map(|version| version.join("bin")).collect())
}
