//! Opening a database: the pool, and whether its tables are what the configuration says.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use futures_util::FutureExt;
use migration::Migrator;
use sea_orm::{
    ConnectOptions, Database, SqlxError,
    sqlx::{
        Connection, SqliteConnection,
        postgres::PgConnectOptions,
        sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
    },
};
use thiserror::Error;

use super::{Store, StoreError, error::from_sqlx};
use crate::config::database::{self, DatabaseUrl, Tables};

/// How long a statement waits for a connection, and an SQLite transaction for the write lock.
const PATIENCE: Duration = Duration::from_secs(5);

/// A connection that was not used for so long is tried before it is used.
const IDLE: Duration = Duration::from_secs(1);

/// Why a database can't be used as configured.
#[derive(Debug, Error)]
pub(crate) enum OpenError {
    /// The configuration does not fit this database.
    #[error("{0}")]
    Unsuitable(String),
    /// The database does not answer, or not as it should.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Makes a pool without connecting yet (PostgreSQL), or opens the file (SQLite).
///
/// # Errors
/// An SQLite file that can't be opened or created.
pub(crate) async fn open(config: &database::Database) -> Result<Store, StoreError> {
    let mut options = match &config.url {
        DatabaseUrl::Sqlite(path) => {
            let path = path.clone();
            let mut options = ConnectOptions::new("sqlite://");
            // One connection, which is therefore the one that writes.
            options
                .max_connections(1)
                .map_sqlx_sqlite_opts(move |options| sqlite(options, &path))
                .map_sqlx_sqlite_pool_opts(|pool| {
                    pool.after_release(|connection, _| is_clean(connection).boxed())
                })
                .test_before_acquire(false);
            options
        }
        DatabaseUrl::Postgres(url) => {
            let lease = config.lease;
            let mut real: PgConnectOptions = url.expose().parse().map_err(from_sqlx)?;
            if let Some(address) = url.ipv6() {
                real = real.host(&address.to_string());
            }
            // The ORM logs the URL that it is given at the level of traces; so it is not given the real one.
            let mut options = ConnectOptions::new("postgres://");
            options
                .max_connections(config.max_connections)
                .map_sqlx_postgres_opts(move |_| session(real.clone(), lease))
                // After a restart of the server every connection that was idle is dead.
                .test_before_acquire_if_idle_for(IDLE)
                .connect_lazy(true);
            options
        }
    };
    options.sqlx_logging(false).acquire_timeout(PATIENCE);
    Ok(Store::new(Database::connect(options).await?))
}

/// A transaction of a process that is frozen must not lock its daemon's row against those who take over.
fn session(options: PgConnectOptions, lease: Duration) -> PgConnectOptions {
    let idle = lease.as_millis().to_string();
    options.application_name("outhook").options([("idle_in_transaction_session_timeout", idle)])
}

/// Whether a connection can be used again. A `COMMIT` that fails for want of space is undone by SQLite
/// itself; the driver's own `ROLLBACK` fails then, and it would take the next transaction for one inside the
/// last, whose commit writes nothing.
async fn is_clean(connection: &mut SqliteConnection) -> Result<bool, SqlxError> {
    // Behind whatever is still to be undone.
    connection.ping().await?;
    Ok(!connection.is_in_transaction())
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

    async fn migrate(&self, migrator: Migrator) -> Result<usize, OpenError> {
        Ok(self.on_main(move |store| async move { Ok(migrator.migrate(store.db()).await?) }).await?)
    }

    async fn status(&self, migrator: Migrator) -> Result<migration::Status, StoreError> {
        self.on_main(move |store| async move { Ok(migrator.status(store.db()).await?) }).await
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
