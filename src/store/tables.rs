//! Whether a database has the tables that the configuration speaks of, in the state that this version needs.

use migration::{Migrator, Status};
use sea_orm::{ConnectionTrait, DatabaseConnection, DbBackend, DbErr};

use super::{OpenError, Store, StoreError, pool::late, sql::statement};
use crate::config::database::{self, DatabaseUrl, Tables};

impl Store {
    /// For `run`: applies pending migrations if `auto_migrate` lets it, and returns how many.
    ///
    /// # Errors
    /// In words for the operator; otherwise what the database said.
    pub(crate) async fn prepare_tables(&self, config: &database::Database) -> Result<usize, OpenError> {
        if config.auto_migrate {
            return self.migrate_tables(config).await;
        }
        let pending = self.pending_migrations(config).await?;
        pending.refuse(", or set database.auto_migrate = true").map(|()| 0)
    }

    /// Applies pending migrations whether or not `auto_migrate` is set.
    ///
    /// # Errors
    /// As [`Store::prepare_tables`].
    pub(crate) async fn migrate_tables(&self, config: &database::Database) -> Result<usize, OpenError> {
        match self.pending_migrations(config).await?.names.len() {
            0 => Ok(0),
            _ => {
                // First, so that the tables are readable as soon as they are made.
                self.let_zulip_read().await?;
                self.migrate(migrator(config)).await
            }
        }
    }

    /// For commands, which never change tables that exist.
    ///
    /// # Errors
    /// [`OpenError::Unusable`] if migrations are pending.
    pub(crate) async fn require_tables(&self, config: &database::Database) -> Result<(), OpenError> {
        self.pending_migrations(config).await?.refuse("")
    }

    /// For commands that add rows: makes the tables of an SQLite file that holds nothing yet. Returns whether
    /// it did.
    ///
    /// # Errors
    /// As [`Store::prepare_tables`].
    pub(crate) async fn make_tables_of_new_file(
        &self,
        config: &database::Database,
    ) -> Result<bool, OpenError> {
        let is_file = matches!(config.url, DatabaseUrl::Sqlite(_));
        let is_new = is_file && self.is_empty_file().await?;
        if is_new {
            self.migrate_tables(config).await?;
        }
        Ok(is_new)
    }

    /// Which migrations are pending, if the tables are those that the configuration speaks of.
    ///
    /// # Errors
    /// As [`Store::prepare_tables`].
    pub(crate) async fn pending_migrations(&self, config: &database::Database) -> Result<Pending, OpenError> {
        let status = self.status(migrator(config)).await?;
        if status.is_new {
            self.require_schema().await?;
        }
        if let Some(newer) = status.unknown.first() {
            return Err(OpenError::Unusable(format!(
                "a newer version of outhook has upgraded {} (outhook {} does not know {newer}): install that \
                 version, or restore a backup from before",
                config.url,
                env!("CARGO_PKG_VERSION")
            )));
        }
        match misfit(config.tables, &status) {
            Some(fault) => Err(OpenError::Unsuitable(fault.into())),
            None => {
                Ok(Pending { database: config.url.to_string(), is_new: status.is_new, names: status.pending })
            }
        }
    }

    /// Migrations may take any time, so they have a connection without a deadline.
    async fn migrate(&self, migrator: Migrator) -> Result<usize, OpenError> {
        let migrated = self.on_orm(async move |db| migrator.migrate(db).await).await;
        match migrated {
            Err(error) if error.is_missing_right() => Err(self.explain_missing_create(error).await.into()),
            migrated => Ok(migrated?),
        }
    }

    async fn status(&self, migrator: Migrator) -> Result<Status, StoreError> {
        let deadline = self.db().deadline();
        let look = self.on_orm(async move |db| migrator.status(db).await);
        match tokio::time::timeout(deadline, look).await {
            Ok(Err(error)) if error.is_missing_right() => Err(self.explain_missing_rights(error).await),
            Ok(status) => status,
            Err(_) => Err(late(deadline).into()),
        }
    }

    pub(super) async fn on_orm<T>(
        &self,
        work: impl AsyncFnOnce(&DatabaseConnection) -> Result<T, DbErr>,
    ) -> Result<T, StoreError> {
        // The ORM's pool tries again and again to connect; this tells at once why it can't.
        self.db().query_one_raw(statement(self.backend(), "SELECT 1", [])).await?;
        let db = self.db().connector().orm().await?;
        let done = work(&db).await;
        db.close().await?;
        Ok(done?)
    }

    async fn is_empty_file(&self) -> Result<bool, StoreError> {
        let any = statement(DbBackend::Sqlite, "SELECT 1 FROM sqlite_master LIMIT 1", []);
        Ok(self.db().query_one_raw(any).await?.is_none())
    }
}

/// The migrations that were not applied to a database.
#[derive(Debug)]
pub(crate) struct Pending {
    database: String,
    is_new: bool,
    pub(crate) names: Vec<String>,
}

impl Pending {
    /// An error if there are any; `or_else` is another remedy.
    fn refuse(self, or_else: &str) -> Result<(), OpenError> {
        let Self { database, is_new, names } = self;
        let fault = match names.len() {
            0 => return Ok(()),
            _ if is_new => format!("{database} has none of outhook's tables"),
            pending => format!(
                "{pending} of outhook's migrations have not been applied to {database} ({})",
                names.join(", ")
            ),
        };
        Err(OpenError::Unusable(format!("{fault}: run `outhook migrate`{or_else}")))
    }
}

fn misfit(tables: Tables, status: &Status) -> Option<&'static str> {
    match tables {
        Tables::Own if status.has_zulip_tables && !status.created_zulip_tables => Some(
            "this database has zerver_* tables that outhook did not create: set database.tables = \"zulip\" to \
             work beside Zulip, or point database.url at another database",
        ),
        Tables::Zulip if status.created_zulip_tables => Some(
            "the zerver_* tables of this database were created by outhook: set database.tables = \"own\"",
        ),
        Tables::Zulip if !status.has_zulip_tables => Some(
            "database.tables is \"zulip\", but no table zerver_userprofile is visible: check the database's name \
             and the role's search_path",
        ),
        Tables::Own | Tables::Zulip => None,
    }
}

fn migrator(config: &database::Database) -> Migrator {
    Migrator { own_tables: config.tables == Tables::Own }
}
