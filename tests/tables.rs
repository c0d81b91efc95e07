//! Who makes and changes tables: `run` and `migrate`, and nobody else but for a file that is new.

use super::support::*;

/// Commands that need what is there already.
const READERS: [&[&str]; 12] = [
    &["bots", "list"],
    &["services", "list"],
    &["services", "remove", "1"],
    &["services", "pause", "1"],
    &["services", "resume", "1"],
    &["deliveries"],
    &["deliveries", "replay", "--failed"],
    &["deliveries", "replay", "1"],
    &["dead-letters", "list"],
    &["dead-letters", "show", "1"],
    &["dead-letters", "replay", "--all"],
    &["dead-letters", "drop", "1"],
];

/// Commands that add rows.
const WRITERS: [&[&str]; 3] = [
    &["bots", "add", "--email", "b@x.org", "--name", "B"],
    &["services", "add", "--bot", "1", "--name", "s", "--url", "http://x.org"],
    &["send", "--bot", "1", "--content", "x"],
];

fn commands() -> impl Iterator<Item = &'static [&'static str]> {
    READERS.into_iter().chain(WRITERS)
}

/// Runs a command that must end with 69 and one sentence, with these words in it.
async fn refuses(config: &Config, command: &[&str], words: &[&str]) {
    let output = config.cli(command).await;
    assert_eq!(output.status, 69, "{command:?}: {output:#?}");
    assert_eq!(output.stderr.trim().lines().count(), 1, "{command:?}: {}", output.stderr);
    for word in words {
        assert!(output.stderr.contains(word), "{command:?}: {word}: {}", output.stderr);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_reads_makes_no_file() {
    let config = Config::sqlite();
    let file = config.database_file();
    for command in READERS {
        refuses(&config, command, &[&file.to_string_lossy(), "database.url"]).await;
    }
    let checked = config.cli(&["check"]).await.success().stdout;
    assert!(checked.contains("does not exist yet"), "{checked}");
    let refused = Config::sqlite().set("database.auto_migrate", "false").cli(&["check"]).await;
    assert_eq!((refused.status, refused.stdout.contains("outhook migrate")), (69, true), "{refused:#?}");
    let names: Vec<_> =
        std::fs::read_dir(config.folder()).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert_eq!(names, ["config.toml"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_adds_makes_a_new_file_and_says_so() {
    for command in WRITERS {
        let config = Config::sqlite();
        let created = format!("created the database {}", config.database());
        let output = config.cli(command).await;
        assert!(output.stderr.contains(&created), "{output:#?}");
        assert!(!output.stdout.contains("created"), "{output:#?}");
        assert!(!config.cli(command).await.stderr.contains("created"), "{command:?}");
        config.cli(&["bots", "list"]).await.success();
    }
    // An empty file is as new as none.
    let config = Config::sqlite();
    std::fs::write(config.database_file(), "").unwrap();
    refuses(&config, &["bots", "list"], &["none of outhook's tables", "outhook migrate"]).await;
    assert!(config.cli(WRITERS[0]).await.success().stderr.contains("created"));
}

async fn applied(db: &Db) -> i64 {
    db.count("SELECT count(*) FROM outhook_migration").await
}

async fn what_is_pending_is_told(storage: Storage) {
    let config = storage.config().await;
    let db = setup::tables(&config).await;
    let last = "SELECT max(version) AS last FROM outhook_migration";
    let name = db.rows(last).await[0]["last"].as_str().unwrap().to_owned();
    db.exec(&format!("DELETE FROM outhook_migration WHERE version = '{name}'")).await;
    let before = applied(&db).await;
    for command in commands() {
        refuses(&config, command, &["have not been applied", &name, "outhook migrate"]).await;
    }
    let config = config.set("database.auto_migrate", "false").text("log.filter", "error");
    refuses(&config, &["run"], &[&name, "outhook migrate", "database.auto_migrate"]).await;
    let checked = config.cli(&["check"]).await;
    assert_eq!((checked.status, checked.stdout.contains(&name)), (69, true), "{checked:#?}");
    assert_eq!(applied(&db).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pending_is_told_and_not_applied_on_sqlite() {
    what_is_pending_is_told(Storage::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pending_is_told_and_not_applied_on_postgresql() {
    what_is_pending_is_told(Storage::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_command_makes_tables_on_postgresql() {
    let config = Storage::Postgres.config().await;
    for command in commands() {
        refuses(&config, command, &["none of outhook's tables", "outhook migrate"]).await;
    }
    let tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'";
    assert_eq!(Db::of(&config).await.count(tables).await, 0);
}

async fn a_newer_database_is_named(storage: Storage) {
    let config = storage.config().await.text("log.filter", "error");
    let db = setup::tables(&config).await;
    let newer = "INSERT INTO outhook_migration (version, applied_at) VALUES ('m20990101_000001_flying', 1)";
    db.exec(newer).await;
    let words = ["newer version", "m20990101_000001_flying", env!("CARGO_PKG_VERSION")];
    for command in commands().chain([&["run"][..], &["migrate"]]) {
        refuses(&config, command, &words).await;
    }
    let checked = config.cli(&["check"]).await;
    assert_eq!((checked.status, checked.stdout.contains("newer version")), (69, true), "{checked:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_a_newer_version_is_named_on_sqlite() {
    a_newer_database_is_named(Storage::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_a_newer_version_is_named_on_postgresql() {
    a_newer_database_is_named(Storage::Postgres).await;
}

/// One body is larger than all that the command may allocate.
#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_listed_without_their_bodies() {
    const BYTES: u64 = 160 << 20;
    let config = Config::sqlite();
    let insert = format!(
        "INSERT INTO outhook_dead_letter (id, reason, detail, payload, created_at)
         VALUES (7, 'malformed', 'it is no event', zeroblob({BYTES}), 1)"
    );
    setup::tables(&config).await.exec(&insert).await;
    let config = config.shell_first("ulimit -d 100000");
    let letters = config.cli(&["dead-letters", "list", "--json"]).await.success().records();
    assert_eq!(letters[0]["bytes"], BYTES);
    assert!(config.cli(&["dead-letters", "list"]).await.success().stdout.contains(&BYTES.to_string()));
}
