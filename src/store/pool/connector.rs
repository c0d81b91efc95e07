//! How connections are made.

use std::time::Duration;

use sea_orm::{
    ConnectOptions as OrmOptions, Database, DatabaseConnection, DbBackend, DbErr, SqlxError,
    sqlx::{
        AssertSqlSafe, ConnectOptions, Executor, postgres::PgConnectOptions, sqlite::SqliteConnectOptions,
    },
};

use super::Connection;

/// Makes connections to one database.
#[derive(Clone)]
pub(in crate::store) enum Connector {
    /// A server.
    Postgres(PostgresConnector),
    /// A file.
    Sqlite(SqliteConnectOptions),
}

/// Makes connections to a PostgreSQL server.
#[derive(Clone)]
pub(in crate::store) struct PostgresConnector {
    /// Where, and as whom.
    pub(in crate::store) options: PgConnectOptions,
    /// For as long the other daemons wait for one that is frozen.
    pub(in crate::store) lease: Duration,
    /// For as long somebody waits for the answer to a statement.
    pub(in crate::store) timeout: Duration,
}

/// How long a statement waits for somebody else's lock: not for as long as that one likes.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);

impl Connector {
    pub(super) fn backend(&self) -> DbBackend {
        match self {
            Self::Postgres(_) => DbBackend::Postgres,
            Self::Sqlite(_) => DbBackend::Sqlite,
        }
    }

    pub(super) async fn connect(&self) -> Result<Connection, SqlxError> {
        match self {
            Self::Postgres(postgres) => postgres.connect().await,
            Self::Sqlite(options) => Ok(Connection::Sqlite(Box::new(options.connect().await?))),
        }
    }

    /// One connection of the ORM's own, for migrations: they may take any time.
    pub(in crate::store) async fn orm(&self) -> Result<DatabaseConnection, DbErr> {
        let mut options = match self {
            // The ORM logs the URL that it is given at the level of traces; so it is not given the real one.
            Self::Postgres(postgres) => {
                let real = postgres.options.clone();
                let mut options = OrmOptions::new("postgres://");
                options.map_sqlx_postgres_opts(move |_| real.clone());
                options
            }
            Self::Sqlite(real) => {
                let real = real.clone();
                let mut options = OrmOptions::new("sqlite://");
                options.map_sqlx_sqlite_opts(move |_| real.clone());
                options
            }
        };
        options.max_connections(1).sqlx_logging(false);
        Database::connect(options).await
    }
}

impl PostgresConnector {
    /// The limits are set here and not by start-up parameters, which a pooler may refuse. The server ends what
    /// nobody waits for: a statement, and a transaction whose next one does not come, with the locks it holds.
    async fn connect(&self) -> Result<Connection, SqlxError> {
        let mut connection = self.options.connect().await?;
        let set_up = format!(
            "SET application_name = 'outhook'; SET lock_timeout = {}; SET statement_timeout = {}; \
             SET idle_in_transaction_session_timeout = {}",
            LOCK_TIMEOUT.as_millis(),
            self.timeout.as_millis(),
            self.timeout.min(self.lease).as_millis()
        );
        connection.execute(AssertSqlSafe(set_up)).await?;
        Ok(Connection::Postgres(Box::new(connection)))
    }
}
