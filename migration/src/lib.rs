//! Creates and upgrades outhook's tables.
//!
//! Every change is a file of its own, applied once and recorded in `outhook_migration`. All
//! pending ones run in one transaction under a lock of the whole database, so that several daemons may
//! start at once.

// MigrationTrait is declared without the lifetime, and async_trait needs the same form here.
#![allow(elided_lifetimes_in_paths)]

mod m20261101_000001_outhook_tables;
mod m20261101_000002_own_tables;
mod m20261124_000001_daemons;
mod m20261124_000002_replays;
mod m20261124_000003_outbox_turns;
mod m20261125_000001_gates;
mod m20261126_000001_turns;
mod m20261130_000001_retention;

use sea_orm_migration::{
    MigratorTraitSelf,
    prelude::*,
    sea_orm::{
        DatabaseConnection, DbBackend, DbErr, SqliteTransactionMode, Statement, TransactionOptions,
        TransactionTrait,
    },
};

/// Any number will do, as long as it is only outhook's ("outhook" in ASCII).
const MIGRATION_LOCK: i64 = 0x6f75_7468_6f6f_6b00;

const MIGRATION_TABLE: &str = "outhook_migration";

/// The migrations for one kind of database.
#[derive(Debug, Clone, Copy)]
pub struct Migrator {
    /// Also create the tables that Zulip would have (`database.tables = "own"`).
    pub own_tables: bool,
}

impl MigratorTraitSelf for Migrator {
    fn migrations(&self) -> Vec<Box<dyn MigrationTrait>> {
        let mut migrations: Vec<Box<dyn MigrationTrait>> =
            vec![Box::new(m20261101_000001_outhook_tables::Migration)];
        if self.own_tables {
            migrations.push(Box::new(m20261101_000002_own_tables::Migration));
        }
        migrations.push(Box::new(m20261124_000001_daemons::Migration));
        migrations.push(Box::new(m20261124_000002_replays::Migration));
        migrations.push(Box::new(m20261124_000003_outbox_turns::Migration));
        migrations.push(Box::new(m20261125_000001_gates::Migration));
        migrations.push(Box::new(m20261126_000001_turns::Migration));
        migrations.push(Box::new(m20261130_000001_retention::Migration));
        migrations
    }

    fn migration_table_name(&self) -> DynIden {
        MIGRATION_TABLE.into_iden()
    }
}

/// What a database holds, as far as migrations are concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Tables of Zulip's names exist.
    pub has_zulip_tables: bool,
    /// outhook created them.
    pub created_zulip_tables: bool,
    /// Migrations that were not applied yet.
    pub pending: Vec<String>,
    /// Applied migrations that this version does not know: a newer one made them.
    pub unknown: Vec<String>,
    /// Nothing of outhook's has ever been made here.
    pub is_new: bool,
}

impl Migrator {
    /// Applies what is pending and says how much that was.
    ///
    /// # Errors
    /// Whatever the database answers; nothing is changed then.
    pub async fn migrate(&self, db: &DatabaseConnection) -> Result<usize, DbErr> {
        let options = TransactionOptions {
            sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
            ..TransactionOptions::default()
        };
        let transaction = db.begin_with_options(options).await?;
        if transaction.get_database_backend() == DbBackend::Postgres {
            transaction
                .execute_unprepared(&format!("SELECT pg_advisory_xact_lock({MIGRATION_LOCK})"))
                .await?;
        }
        let pending = self.get_pending_migrations(&transaction).await?.len();
        if pending > 0 {
            self.up(&transaction, None).await?;
        }
        transaction.commit().await?;
        Ok(pending)
    }

    /// Looks at a database without changing it.
    ///
    /// # Errors
    /// Whatever the database answers.
    pub async fn status(&self, db: &DatabaseConnection) -> Result<Status, DbErr> {
        let has_zulip_tables = has_zulip_tables(db).await?;
        let applied = Self::applied(db).await?;
        let is_applied = |name: &str| applied.iter().any(|version| version == name);
        let known = names(Migrator { own_tables: true });
        Ok(Status {
            has_zulip_tables,
            created_zulip_tables: is_applied(m20261101_000002_own_tables::Migration.name()),
            pending: names(*self).into_iter().filter(|name| !is_applied(name)).collect(),
            unknown: applied.iter().filter(|version| !known.contains(version)).cloned().collect(),
            is_new: applied.is_empty(),
        })
    }

    /// The names of the applied migrations. Not the library's list, which fails at one that it does not know.
    async fn applied(db: &DatabaseConnection) -> Result<Vec<String>, DbErr> {
        if !has_migration_table(db).await? {
            return Ok(Vec::new());
        }
        let sql = format!("SELECT version FROM {MIGRATION_TABLE} ORDER BY version");
        let rows = db.query_all_raw(Statement::from_string(db.get_database_backend(), sql)).await?;
        rows.iter().map(|row| row.try_get("", "version")).collect()
    }
}

/// The library asks the information schema, which hides tables that the role may not read.
async fn has_migration_table(db: &DatabaseConnection) -> Result<bool, DbErr> {
    if db.get_database_backend() != DbBackend::Postgres {
        return SchemaManager::new(db).has_table(MIGRATION_TABLE).await;
    }
    let sql = format!("SELECT to_regclass('{MIGRATION_TABLE}') IS NOT NULL AS is_there");
    let row = db.query_one_raw(Statement::from_string(DbBackend::Postgres, sql)).await?;
    row.map_or(Ok(false), |row| row.try_get("", "is_there"))
}

fn names(migrator: Migrator) -> Vec<String> {
    migrator.migrations().iter().map(|migration| migration.name().to_owned()).collect()
}

/// Whether any table has a name of Zulip's.
async fn has_zulip_tables(db: &DatabaseConnection) -> Result<bool, DbErr> {
    let sql = match db.get_database_backend() {
        DbBackend::Postgres => {
            "SELECT 1 FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname = ANY (current_schemas(false))
               AND c.relname LIKE 'zerver\\_%' LIMIT 1"
        }
        _ => "SELECT 1 FROM sqlite_master WHERE name LIKE 'zerver\\_%' ESCAPE '\\' LIMIT 1",
    };
    let found = db.query_one_raw(Statement::from_string(db.get_database_backend(), sql)).await?;
    Ok(found.is_some())
}
