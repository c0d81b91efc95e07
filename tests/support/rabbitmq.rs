//! A private RabbitMQ, beside whatever else runs on the machine.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use lapin::{Connection, ConnectionProperties};
use tokio::process::Command;
use tokio::sync::OnceCell;
use tokio::time::timeout;

use super::server_process::{ServerProcess, folder_with};
use super::{Queue, free_port, unique};

/// The password of the broker's only user.
pub const BROKER_PASSWORD: &str = "s3cr3tm4rk-broker";

/// How long a broker that is up may take to answer.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// The server starts its own epmd only when it finds none, and that one would outlive everything; so
/// epmd comes first, in the server's process group.
const START: &str = r#"
epmd -address "$ERL_EPMD_ADDRESS" -port "$ERL_EPMD_PORT" &
until epmd -port "$ERL_EPMD_PORT" -names; do sleep 0.02; done >/dev/null 2>&1
exec "$0"
"#;

/// A RabbitMQ of the tests' own, on free ports.
pub struct Rabbit {
    process: ServerProcess,
    programs: PathBuf,
    ports: Ports,
}

#[derive(Clone, Copy)]
struct Ports {
    amqp: u16,
    epmd: u16,
    distribution: u16,
}

/// A virtual host of the tests' own.
pub struct Vhost {
    /// The address to connect to it.
    pub url: String,
    /// Its name.
    pub name: String,
}

impl Rabbit {
    /// The one of the whole test process, started by the first test that asks; never stop it.
    pub async fn shared() -> &'static Self {
        static SHARED: OnceCell<Rabbit> = OnceCell::const_new();
        SHARED.get_or_init(Self::private).await
    }

    /// One for a single test, which may stop and kill it.
    pub async fn private() -> Self {
        let programs = programs();
        let ports = Ports { amqp: free_port(), epmd: free_port(), distribution: free_port() };
        let process = ServerProcess::new("RabbitMQ", |folder| {
            let mut command = std::process::Command::new("sh");
            command.args(["-c", START]).arg(programs.join("rabbitmq-server"));
            command.envs(environment(folder, ports));
            command
        });
        write_configuration(process.folder(), ports.amqp);
        let rabbit = Self { process, programs, ports };
        rabbit.start_again().await;
        rabbit
    }

    /// Starts it after `stop` or `kill`, on the same port and with the same data.
    pub async fn start_again(&self) {
        let url = self.url();
        // A broker that is still booting may accept a connection and then say nothing.
        let ready = || async { timeout(PROBE_TIMEOUT, connect(&url)).await.is_ok_and(|tried| tried.is_ok()) };
        self.process.start(ready).await;
    }

    /// Stops it in good order.
    pub async fn stop(&self) {
        self.process.end("TERM").await;
    }

    /// Ends it with SIGKILL.
    pub async fn kill(&self) {
        self.process.end("KILL").await;
    }

    /// Stops it from doing anything, and from ending its connections.
    pub fn freeze(&self) {
        self.process.signal("STOP");
    }

    /// Lets it go on after `freeze`.
    pub fn thaw(&self) {
        self.process.signal("CONT");
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.ports.amqp))
    }

    /// The address of its default virtual host, `/`.
    pub fn url(&self) -> String {
        self.url_of("%2f")
    }

    /// A queue of an unused name on the virtual host `/`, not declared yet.
    pub async fn queue(&self) -> Queue {
        Queue::new(&self.url(), &unique("outgoing_webhooks"))
    }

    /// A fresh virtual host with all rights for the user of its URL; takes about a second.
    pub async fn vhost(&self) -> Vhost {
        let name = unique("vhost");
        self.ctl(&["add_vhost", &name]).await;
        self.ctl(&["set_permissions", "-p", &name, "guest", ".*", ".*", ".*"]).await;
        Vhost { url: self.url_of(&name), name }
    }

    /// Runs rabbitmqctl, and returns what it prints.
    pub async fn ctl(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(self.programs.join("rabbitmqctl"));
        let folder = self.process.folder();
        command.args(arguments).envs(environment(folder, self.ports)).current_dir(folder);
        let output = command.output().await.unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "rabbitmqctl {arguments:?}: {told}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn url_of(&self, vhost: &str) -> String {
        format!("amqp://guest:{BROKER_PASSWORD}@127.0.0.1:{}/{vhost}", self.ports.amqp)
    }
}

impl Vhost {
    /// A queue of this name on the virtual host, not declared yet.
    pub fn queue(&self, name: &str) -> Queue {
        Queue::new(&self.url, name)
    }
}

/// Opens a connection, which lives in the runtime of the calling test.
pub async fn connect(url: &str) -> lapin::Result<Connection> {
    Connection::connect(url, ConnectionProperties::default()).await
}

/// Not those in /usr/sbin: Debian's change to the user `rabbitmq`, and let nobody but root do so.
fn programs() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/rabbitmq/lib").into_iter().flatten().flatten();
    let mut folders = vec![PathBuf::from("/usr/lib/rabbitmq/bin")];
    folders.extend(versions.map(|version| version.path().join("sbin")));
    folder_with("rabbitmq-server", folders)
}

fn environment(folder: &Path, ports: Ports) -> Vec<(&'static str, String)> {
    let inside = |name: &str| folder.join(name).to_string_lossy().into_owned();
    vec![
        ("HOME", inside("")), // where the Erlang cookie is kept
        ("ERL_EPMD_ADDRESS", "127.0.0.1".into()),
        ("ERL_EPMD_PORT", ports.epmd.to_string()),
        ("RABBITMQ_NODENAME", format!("outhook-test-{}@localhost", ports.amqp)),
        ("RABBITMQ_DIST_PORT", ports.distribution.to_string()),
        ("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "-kernel inet_dist_use_interface {127,0,0,1}".into()),
        ("RABBITMQ_MNESIA_BASE", inside("mnesia")),
        ("RABBITMQ_LOG_BASE", inside("log")),
        ("RABBITMQ_PID_FILE", inside("rabbitmq.pid")),
        ("RABBITMQ_CONFIG_FILE", inside("rabbitmq.conf")),
        ("RABBITMQ_ADVANCED_CONFIG_FILE", inside("advanced.config")),
        ("RABBITMQ_CONF_ENV_FILE", inside("rabbitmq-env.conf")),
        ("RABBITMQ_ENABLED_PLUGINS_FILE", inside("enabled_plugins")),
    ]
}

/// Files of its own, also empty ones, so that those in /etc/rabbitmq are not read.
fn write_configuration(folder: &Path, port: u16) {
    let settings = format!(
        "listeners.tcp.local = 127.0.0.1:{port}\n\
         default_pass = {BROKER_PASSWORD}\n\
         vm_memory_high_watermark.absolute = 1GB\n\
         disk_free_limit.absolute = 16MB\n"
    );
    fs::write(folder.join("rabbitmq.conf"), settings).unwrap();
    fs::write(folder.join("advanced.config"), "[].\n").unwrap();
    fs::write(folder.join("rabbitmq-env.conf"), "").unwrap();
    fs::write(folder.join("enabled_plugins"), "[].\n").unwrap();
}
