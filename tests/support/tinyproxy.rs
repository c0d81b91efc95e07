//! A private tinyproxy.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use tokio::net::TcpStream;

use super::free_port;
use super::server_process::{ServerProcess, folder_with};

/// A tinyproxy of a test's own, on a free port.
pub struct Tinyproxy {
    process: ServerProcess,
    port: u16,
}

impl Tinyproxy {
    /// Starts it with these lines of configuration beside those that it needs.
    pub async fn start(lines: &str) -> Self {
        let program = folder_with("tinyproxy", vec![PathBuf::from("/usr/bin"), PathBuf::from("/usr/sbin")]);
        let port = free_port();
        let process = ServerProcess::new("tinyproxy", |folder| {
            let mut command = Command::new(program.join("tinyproxy"));
            command.arg("-d").arg("-c").arg(folder.join("tinyproxy.conf"));
            command
        });
        let settings = format!(
            "Port {port}\nListen 127.0.0.1\nAllow 127.0.0.1\nTimeout 60\nMaxClients 100\nLogLevel Connect\n\
             LogFile \"{0}/log\"\nPidFile \"{0}/tinyproxy.pid\"\n{lines}\n",
            process.folder().display()
        );
        fs::write(process.folder().join("tinyproxy.conf"), settings).unwrap();
        process.start(|| async { TcpStream::connect(("127.0.0.1", port)).await.is_ok() }).await;
        Self { process, port }
    }

    /// What `egress.proxy` is to be, with or without `user:password@`.
    pub fn url(&self, user_info: &str) -> String {
        format!("http://{user_info}127.0.0.1:{}", self.port)
    }

    /// Its log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.process.folder().join("log")).unwrap_or_default()
    }
}
