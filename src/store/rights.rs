//! What outhook's role may do, and the statements that grant what is missing.

use sea_orm::{ConnectionTrait, DbBackend, Value};

use super::{
    OpenError, Store, StoreError,
    sql::{statement, texts},
};

/// A right on a table, or on these columns of it.
struct Need {
    table: &'static str,
    privilege: &'static str,
    columns: &'static [&'static str],
}

const fn of_table(table: &'static str, privilege: &'static str) -> Need {
    Need { table, privilege, columns: &[""] }
}

/// What is read of Zulip's tables, or of outhook's own of these names, and the one thing that is written.
const OF_ZULIP: [Need; 5] = [
    Need { table: "zerver_realm", privilege: "SELECT", columns: &["id", "string_id"] },
    Need {
        table: "zerver_userprofile",
        privilege: "SELECT",
        columns: &[
            "id",
            "realm_id",
            "recipient_id",
            "delivery_email",
            "email",
            "full_name",
            "is_bot",
            "bot_type",
            "api_key",
            "is_active",
        ],
    },
    Need {
        table: "zerver_service",
        privilege: "SELECT",
        columns: &["id", "name", "user_profile_id", "base_url", "token", "interface"],
    },
    Need {
        table: "zerver_usermessage",
        privilege: "SELECT",
        columns: &["id", "user_profile_id", "message_id", "flags"],
    },
    Need { table: "zerver_usermessage", privilege: "UPDATE", columns: &["flags"] },
];

/// What is done with outhook's own tables.
const OF_OUTHOOK: [Need; 23] = [
    of_table("outhook_migration", "SELECT"),
    of_table("outhook_event", "SELECT"),
    of_table("outhook_event", "INSERT"),
    of_table("outhook_event", "UPDATE"),
    of_table("outhook_call", "SELECT"),
    of_table("outhook_call", "INSERT"),
    of_table("outhook_call", "UPDATE"),
    of_table("outhook_reply", "SELECT"),
    of_table("outhook_reply", "INSERT"),
    of_table("outhook_reply", "UPDATE"),
    of_table("outhook_dead_letter", "SELECT"),
    of_table("outhook_dead_letter", "INSERT"),
    of_table("outhook_dead_letter", "UPDATE"),
    of_table("outhook_gate", "SELECT"),
    of_table("outhook_gate", "INSERT"),
    of_table("outhook_gate", "UPDATE"),
    of_table("outhook_gate", "DELETE"),
    of_table("outhook_daemon", "SELECT"),
    of_table("outhook_daemon", "INSERT"),
    of_table("outhook_daemon", "UPDATE"),
    of_table("outhook_daemon", "DELETE"),
    of_table("outhook_partition", "SELECT"),
    of_table("outhook_partition", "UPDATE"),
];

/// What only HistoryActor does.
const OF_HISTORY: [Need; 4] = [
    of_table("outhook_event", "DELETE"),
    of_table("outhook_call", "DELETE"),
    of_table("outhook_reply", "DELETE"),
    of_table("outhook_dead_letter", "DELETE"),
];

/// Rights to tables and columns that the role lacks. Those that do not exist are left out: no grant makes them.
const MISSING: &str = "
    SELECT format('GRANT %s%s ON %I.%I TO %I;', n.privilege,
        ' (' || string_agg(quote_ident(NULLIF(n.col, '')), ', ' ORDER BY n.place) || ')',
        s.nspname, c.relname, current_user) AS statement
    FROM unnest($1, $2, $3) WITH ORDINALITY AS n (tab, privilege, col, place)
    JOIN pg_class c ON c.oid = to_regclass(n.tab)
    JOIN pg_namespace s ON s.oid = c.relnamespace
    WHERE CASE n.col WHEN '' THEN NOT has_table_privilege(c.oid, n.privilege)
        ELSE EXISTS (SELECT 1 FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = n.col
                AND a.attnum > 0 AND NOT a.attisdropped
                AND NOT has_column_privilege(c.oid, a.attnum, n.privilege)) END
    GROUP BY s.nspname, c.relname, n.privilege ORDER BY min(n.place)";

/// Sequences of outhook's tables that the role may not use. PostgreSQL orders conditions as it likes, and the
/// right to what is no sequence is an error: hence the `CASE`.
const MISSING_SEQUENCES: &str = "
    SELECT format('GRANT USAGE ON SEQUENCE %I.%I TO %I;', n.nspname, s.relname, current_user) AS statement
    FROM pg_class s JOIN pg_namespace n ON n.oid = s.relnamespace
    JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = s.oid AND d.deptype = 'a'
    JOIN pg_class t ON t.oid = d.refobjid
    WHERE starts_with(t.relname::text, 'outhook_') AND pg_table_is_visible(t.oid)
    AND CASE WHEN s.relkind = 'S' THEN NOT has_sequence_privilege(s.oid, 'USAGE') ELSE FALSE END
    ORDER BY s.relname";

/// The right to create tables, if the role lacks it.
const MISSING_CREATE: &str = "
    SELECT format('GRANT USAGE, CREATE ON SCHEMA %I TO %I;', current_schema(), current_user) AS statement
    WHERE NOT has_schema_privilege(current_schema(), 'CREATE')";

/// The right to use the schemas of the search path, if the role may use none of them: it sees no table then.
const MISSING_USAGE: &str = "
    SELECT format('GRANT USAGE ON SCHEMA %I TO %I;', n.nspname, current_user) AS statement
    FROM pg_namespace n
    WHERE current_schema() IS NULL AND quote_ident(n.nspname) = ANY (string_to_array(
        replace(current_setting('search_path'), '\"$user\"', quote_ident(current_user)), ', '))";

impl Store {
    /// Checks that the role sees the tables that there are.
    ///
    /// # Errors
    /// [`OpenError::Unusable`] with the statements that grant what is missing.
    pub(crate) async fn require_schema(&self) -> Result<(), OpenError> {
        require(&self.grants(MISSING_USAGE, []).await?)
    }

    /// Checks that the role may do what outhook does all the time.
    ///
    /// # Errors
    /// [`OpenError::Unusable`] with the statements that grant what is missing.
    pub(crate) async fn require_rights(&self) -> Result<(), OpenError> {
        require(&self.all_missing_grants().await?)
    }

    /// What it means that the role may not delete what is kept no longer, if it may not.
    pub(crate) async fn keeps_history(&self) -> Result<Option<String>, StoreError> {
        let grants = self.missing_grants(OF_HISTORY.iter()).await?;
        Ok((!grants.is_empty()).then(|| {
            let grants = grants.join(" ");
            format!("outhook's role may not delete what [history] keeps no longer, so it stays; a superuser lets it by: {grants}")
        }))
    }

    /// What the role lacks, in place of an error that only says that it lacks something.
    pub(super) async fn explain_missing_rights(&self, error: StoreError) -> StoreError {
        let grants = self.all_missing_grants().await.unwrap_or_default();
        if grants.is_empty() { error } else { StoreError::MissingRights(lacks(&grants)) }
    }

    /// The same for a migration.
    pub(super) async fn explain_missing_create(&self, error: StoreError) -> StoreError {
        match self.missing_create().await {
            Ok(Some(grant)) => StoreError::MissingRights(lacks(&[grant])),
            Ok(None) | Err(_) => error,
        }
    }

    async fn all_missing_grants(&self) -> Result<Vec<String>, StoreError> {
        let mut grants = self.missing_grants(OF_OUTHOOK.iter().chain(&OF_ZULIP)).await?;
        grants.extend(self.grants(MISSING_SEQUENCES, []).await?);
        Ok(grants)
    }

    async fn missing_grants(
        &self,
        needs: impl Iterator<Item = &'static Need> + Clone,
    ) -> Result<Vec<String>, StoreError> {
        let each = || {
            needs.clone().flat_map(|need| need.columns.iter().map(move |column| (need, (*column).to_owned())))
        };
        let values = [
            texts(each().map(|(need, _)| need.table.to_owned())),
            texts(each().map(|(need, _)| need.privilege.to_owned())),
            texts(each().map(|(_, column)| column)),
        ];
        self.grants(MISSING, values).await
    }

    async fn missing_create(&self) -> Result<Option<String>, StoreError> {
        Ok(self.grants(MISSING_CREATE, []).await?.pop())
    }

    /// The statements that a query for missing rights names: none on SQLite, which has no rights.
    async fn grants<const N: usize>(&self, sql: &str, values: [Value; N]) -> Result<Vec<String>, StoreError> {
        if !self.has_peers() {
            return Ok(Vec::new());
        }
        let rows = self.db().query_all_raw(statement(DbBackend::Postgres, sql, values)).await?;
        Ok(rows.iter().map(|row| row.try_get("", "statement")).collect::<Result<_, _>>()?)
    }
}

fn require(missing: &[String]) -> Result<(), OpenError> {
    if missing.is_empty() { Ok(()) } else { Err(OpenError::Unusable(lacks(missing))) }
}

fn lacks(grants: &[String]) -> String {
    format!("outhook's role in PostgreSQL lacks rights; a superuser grants them by: {}", grants.join(" "))
}
