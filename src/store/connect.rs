//! Opening a database: the pool, and whether its tables are what the configuration says.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use migration::Migrator;
use sea_orm::sqlx::{
    ConnectOptions,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};
use thiserror::Error;

use super::{
    Store, StoreError,
    pool::{Connector, Pool},
    postgres,
};
use crate::config::database::{self, DatabaseUrl, Tables};

/// How long an SQLite transaction waits for the write lock.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why a database can't be used as configured.
#[derive(Debug, Error)]
pub(crate) enum OpenError {
    /// The configuration does not fit this database.
    #[error("{0}")]
    Unsuitable(String),
    /// Waiting would not mend it: something at the database has to change, or in its URL.
    #[error("{0}")]
    Unusable(String),
    /// The database does not answer, or not as it should.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Makes a pool without connecting yet (PostgreSQL), or opens the file (SQLite).
///
/// # Errors
/// An SQLite file that can't be opened or created; a URL that can't be used.
pub(crate) async fn open(config: &database::Database) -> Result<Store, OpenError> {
    match &config.url {
        DatabaseUrl::Sqlite(path) => {
            let options = sqlite(SqliteConnectOptions::new().disable_statement_logging(), path);
            // One connection, which is therefore the one that writes.
            let store = Store::new(Pool::new(Connector::Sqlite(options), 1, config.timeout));
            store.watch_file().await?;
            Ok(store)
        }
        DatabaseUrl::Postgres(url) => {
            let connector = Connector::Postgres(postgres::connector(url, config)?);
            let connections = usize::try_from(config.max_connections).unwrap_or(usize::MAX);
            Ok(Store::new(Pool::new(connector, connections, config.timeout)))
        }
    }
}

fn sqlite(options: SqliteConnectOptions, path: &Path) -> SqliteConnectOptions {
    options
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(PATIENCE)
}

impl Store {
    /// Checks that the tables are those that the configuration speaks of, and brings outhook's own
    /// up to date if it may.
    ///
    /// # Errors
    /// [`OpenError::Unsuitable`] in words for the operator; otherwise what the database said.
    pub(crate) async fn prepare_tables(&self, config: &database::Database) -> Result<usize, OpenError> {
        match self.pending_migrations(config).await? {
            0 => Ok(0),
            _ if config.auto_migrate => self.migrate(migrator(config)).await,
            pending => Err(OpenError::Unsuitable(format!(
                "{pending} of outhook's migrations have not been applied to this database: run `outhook migrate`, \
                 or set database.auto_migrate = true"
            ))),
        }
    }

    /// Applies pending migrations whether or not `auto_migrate` is set.
    ///
    /// # Errors
    /// As [`Store::prepare_tables`].
    pub(crate) async fn migrate_tables(&self, config: &database::Database) -> Result<usize, OpenError> {
        self.pending_migrations(config).await?;
        self.migrate(migrator(config)).await
    }

    /// How many migrations are pending, if the tables are those that the configuration speaks of.
    ///
    /// # Errors
    /// As [`Store::prepare_tables`].
    pub(crate) async fn pending_migrations(&self, config: &database::Database) -> Result<usize, OpenError> {
        let status = self.status(migrator(config)).await?;
        let fault = match config.tables {
            Tables::Own if status.has_zulip_tables && !status.created_zulip_tables => {
                "this database has zerver_* tables that outhook did not create: set database.tables = \"zulip\" to \
                 work beside Zulip, or point database.url at another database"
            }
            Tables::Zulip if status.created_zulip_tables => {
                "the zerver_* tables of this database were created by outhook: set database.tables = \"own\""
            }
            Tables::Zulip if !status.has_zulip_tables => {
                "database.tables is \"zulip\", but no table zerver_userprofile is visible: check the database's name \
                 and the role's search_path"
            }
            Tables::Own | Tables::Zulip => return Ok(status.pending.len()),
        };
        Err(OpenError::Unsuitable(fault.into()))
    }

    /// Migrations may take any time, so they have a connection without a deadline.
    async fn migrate(&self, migrator: Migrator) -> Result<usize, OpenError> {
        let migrated = self.on_orm(async move |db| migrator.migrate(db).await).await;
        match migrated {
            Err(error) if error.is_missing_right() => Err(self.explain_missing_create(error).await.into()),
            migrated => Ok(migrated?),
        }
    }

    async fn status(&self, migrator: Migrator) -> Result<migration::Status, StoreError> {
        let look = self.on_orm(async move |db| migrator.status(db).await);
        tokio::time::timeout(self.db().deadline(), look)
            .await
            .unwrap_or_else(|_| Err(super::pool::late(self.db().deadline()).into()))
    }

    async fn on_orm<T>(
        &self,
        work: impl AsyncFnOnce(&sea_orm::DatabaseConnection) -> Result<T, sea_orm::DbErr>,
    ) -> Result<T, StoreError> {
        let db = self.db().connector().orm().await?;
        let done = work(&db).await;
        db.close().await?;
        Ok(done?)
    }
}

fn migrator(config: &database::Database) -> Migrator {
    Migrator { own_tables: config.tables == Tables::Own }
}

/// The lock file beside an SQLite file.
pub(super) fn lock_path(database: &Path) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(".lock");
    name.into()
}
