//! The file of an SQLite database: who may work on it, who may read it, and what is told if it can't be used.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use rlimit::{Resource, prlimit};

use super::support::*;

const TOKEN: &str = "s3cr3tm4rk-admin";

fn at(config: &Config, path: &Path) -> Config {
    config.sibling().text("database.url", &format!("sqlite://{}", path.display())).text("log.filter", "error")
}

/// Runs a command that must end with 69 and one sentence, with these words in it.
async fn refuses(config: &Config, command: &str, words: &[&str]) {
    let arguments: Vec<&str> = command.split(' ').collect();
    let output = config.cli(&arguments).await;
    assert_eq!(output.status, 69, "{command}: {output:#?}");
    assert_eq!(output.stderr.trim().lines().count(), 1, "{command}: {}", output.stderr);
    for word in words {
        assert!(output.stderr.contains(word), "{command}: {word}: {}", output.stderr);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_daemon_is_refused_whatever_name_of_the_file_it_uses() {
    let config = Config::sqlite();
    let first = Outhook::start(&config).await;
    let folder = config.folder();
    let file = fs::canonicalize(config.database_file()).unwrap();
    fs::create_dir(folder.join("sub")).unwrap();
    symlink(&file, folder.join("symbolic.db")).unwrap();
    symlink(folder, folder.join("sub/folder")).unwrap();
    fs::hard_link(&file, folder.join("hard.db")).unwrap();
    let process = format!("process {}", first.pid());
    let words = ["another outhook daemon", &file.to_string_lossy(), &process];
    for name in ["outhook.db", "symbolic.db", "hard.db", "sub/../outhook.db", "sub/folder/symbolic.db"] {
        refuses(&at(&config, &folder.join(name)), "run", &words).await;
    }
    // A relative name means the same file to a process that runs there.
    let relative = config.text("database.url", "sqlite://./outhook.db").text("log.filter", "error");
    refuses(&relative, "run", &words).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_database_is_read_by_its_owner_only() {
    // Files may be as open as they want to be.
    let config = Config::sqlite().shell_first("umask 000");
    let mut outhook = Outhook::start(&config).await;
    let path = config.database_file();
    for suffix in ["", "-wal", "-shm", ".lock"] {
        let file = format!("{}{suffix}", path.display());
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600, "{file}");
    }
    assert!(!outhook.log().iter().any(|line| line.contains("chmod")));
    outhook.terminate().await;
    outhook.wait().await;

    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let outhook = Outhook::start(&config).await;
    let warning = outhook.wait_for_log("chmod go= ").await;
    assert!(warning.contains("WARN") && warning.contains(&*path.to_string_lossy()), "{warning}");
    let checked = config.cli(&["check"]).await.success().stdout;
    assert!(checked.contains("warn   database") && checked.contains("chmod go= "), "{checked}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_that_is_none_for_a_database_is_named_with_the_remedy() {
    let config = Config::sqlite();
    let folder = config.folder();
    fs::create_dir(folder.join("folder")).unwrap();
    fs::write(folder.join("notes.txt"), "no database, but more than a few words of somebody's").unwrap();
    for (name, remedy) in [
        ("missing/outhook.db", "does not exist: create it"),
        ("folder", "is a directory"),
        ("notes.txt/outhook.db", "is a file"),
        ("notes.txt", "is not an SQLite database"),
    ] {
        let path = folder.join(name);
        let config = at(&config, &path);
        for command in ["run", "migrate", "bots add --email b@x.org --name B", "send --bot 1 --content x"] {
            refuses(&config, command, &[&path.to_string_lossy(), remedy]).await;
        }
        refuses(&config, "bots list", &[&path.to_string_lossy()]).await;
        let checked = config.cli(&["check"]).await;
        assert_eq!(checked.status, 69, "{name}: {checked:#?}");
        assert!(checked.stdout.contains("fault  database"), "{name}: {checked:#?}");
    }
    assert!(fs::read_to_string(folder.join("notes.txt")).unwrap().starts_with("no database"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_or_a_folder_that_can_not_be_written_is_named_with_the_remedy() {
    let config = Config::sqlite().bound_by_permissions();
    setup::tables(&config).await;
    let folder = config.folder().join("sub");
    let path = folder.join("outhook.db");
    fs::create_dir(&folder).unwrap();
    fs::copy(config.database_file(), &path).unwrap();
    let config = at(&config, &path);
    let words = [&path.to_string_lossy(), "can't be written: let outhook's user write"];
    let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let writing = ["run", "migrate", "bots add --email b@x.org --name B"];

    set(&path, 0o400);
    for command in writing {
        refuses(&config, command, &words).await;
    }
    assert_eq!(config.cli(&["check"]).await.status, 69);
    set(&path, 0o600);
    set(&folder, 0o500);
    let (folder_words, file) = (["let outhook's user write"], path.to_string_lossy());
    for command in writing {
        refuses(&config, command, &[folder_words[0], &file]).await;
    }
    assert_eq!(config.cli(&["check"]).await.status, 69);
    fs::remove_file(&path).ok();
    set(&folder, 0o700);
    fs::remove_file(&path).ok();
    set(&folder, 0o500);
    for command in writing {
        refuses(&config, command, &words).await;
    }
    assert_eq!(config.cli(&["check"]).await.status, 69);
    set(&folder, 0o700);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_named_with_the_file() {
    // Without this, the signal that tells of the limit would end the process.
    let config = Config::sqlite().shell_first("trap '' XFSZ").admin_token(TOKEN);
    let (bot, _) = setup::one_bot(&config, "http://127.0.0.1:9/hook", "generic").await;
    let path = config.database_file();
    let outhook = Outhook::start(&config).await;
    let (_, hard) = Resource::FSIZE.get().unwrap();
    prlimit(outhook.pid().try_into().unwrap(), Resource::FSIZE, Some((0, hard)), None).unwrap();
    let event = channel_event(bot, 7, 1, "t", "soup?").to_string();
    let headers = [("authorization", &*format!("Bearer {TOKEN}"))];
    let (status, body) = outhook.post("/v1/events", &headers, event.as_bytes()).await;
    assert_eq!(status, 503, "{body}");
    assert!(body.contains(&*path.to_string_lossy()) && body.contains("full"), "{body}");

    let full = config.shell_first("trap '' XFSZ; ulimit -f 0");
    let output = full.cli(&["send", "--bot", "1", "--content", "x"]).await;
    assert_eq!(output.status, 69, "{output:#?}");
    assert!(
        output.stderr.contains(&*path.to_string_lossy()) && output.stderr.contains("full"),
        "{output:#?}"
    );
}
