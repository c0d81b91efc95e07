//! `manage.py backup` dumps the whole database as Zulip's role.

use super::database::Zulip;
use crate::support::{Config, Postgres};

async fn line_of_check(config: &Config) -> String {
    let told = config.cli(&["check"]).await.success().stdout;
    told.lines().find(|line| line.contains("backup: ")).unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn zulips_role_dumps_outhooks_tables() {
    let zulip = Zulip::start().await;
    let config = zulip.config();
    let before = line_of_check(&config).await;
    assert!(before.starts_with("ok"), "{before}");
    config.cli(&["migrate"]).await.success();

    let dump = Postgres::dump(&zulip.zulips_url).await.unwrap();
    for part in ["COPY zulip.outhook_event ", "COPY zulip.outhook_migration ", "COPY zulip.zerver_service "] {
        assert!(dump.contains(part), "{part}");
    }
    let after = line_of_check(&config).await;
    assert!(after.starts_with("ok"), "{after}");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_names_the_statements_that_a_dump_lacks() {
    let zulip = Zulip::without("ALTER DEFAULT PRIVILEGES").await;
    let config = zulip.config();
    let before = line_of_check(&config).await;
    assert!(
        before.starts_with("warn") && before.matches("ALTER DEFAULT PRIVILEGES").count() == 2,
        "{before}"
    );
    assert!(!before.contains("; GRANT SELECT"), "there are no tables yet: {before}");
    // Whoever makes the tables sees to it.
    config.cli(&["migrate"]).await.success();
    Postgres::dump(&zulip.zulips_url).await.unwrap();

    let revoke = format!("REVOKE SELECT ON zulip.outhook_migration FROM {}", zulip.zulips_role());
    zulip.db.exec(&revoke).await;
    let fault = Postgres::dump(&zulip.zulips_url).await.unwrap_err();
    assert!(fault.contains("permission denied"), "{fault}");
    let after = line_of_check(&config).await;
    assert!(after.starts_with("warn") && after.contains("zulip.outhook_migration"), "{after}");
    let (_, remedy) = after.split_once("sequences: ").unwrap();
    zulip.db.exec(remedy).await;
    Postgres::dump(&zulip.zulips_url).await.unwrap();
    let mended = line_of_check(&config).await;
    assert!(mended.starts_with("ok"), "{mended}");
}
