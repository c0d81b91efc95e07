//! Whether Zulip's own backup can read outhook's tables: `manage.py backup` runs `pg_dump` as Zulip's role, which
//! fails at the first table or sequence that this role may not read.

use sea_orm::{ConnectionTrait, DbBackend, FromQueryResult};

use super::{Store, StoreError, sql::statement};

/// Of outhook's tables and sequences, made or still to be made, what the owner of Zulip's may not read.
#[derive(Debug, Clone, PartialEq, Eq, FromQueryResult)]
pub(crate) struct UnreadableByZulip {
    /// The owner of Zulip's tables.
    pub(crate) reader: String,
    writer: String,
    schema: String,
    relations: Option<String>,
    reads_new_tables: bool,
    reads_new_sequences: bool,
}

impl UnreadableByZulip {
    /// The statements that mend it.
    pub(crate) fn remedy(&self) -> String {
        let Self { reader, writer, schema, .. } = self;
        let new = |kind: &str| {
            format!(
                "ALTER DEFAULT PRIVILEGES FOR ROLE {writer} IN SCHEMA {schema} GRANT SELECT ON {kind} TO {reader};"
            )
        };
        let statements = [
            (!self.reads_new_tables).then(|| new("TABLES")),
            (!self.reads_new_sequences).then(|| new("SEQUENCES")),
            self.relations.as_ref().map(|relations| format!("GRANT SELECT ON {relations} TO {reader};")),
        ];
        statements.into_iter().flatten().collect::<Vec<_>>().join(" ")
    }
}

/// Names are quoted where SQL asks for it. A role reads what is made later by a default privilege, by its own
/// or PUBLIC's, or because it has the rights of the role that makes it.
const READABLE: &str = "
    WITH zulip AS (
        SELECT z.relowner AS reader, n.oid AS schema, n.nspname FROM pg_class z, pg_namespace n
        WHERE z.oid = to_regclass('zerver_userprofile') AND n.nspname = current_schema()
    ), reads_all AS (
        SELECT EXISTS (SELECT FROM pg_roles r, zulip WHERE r.rolname IN (current_user, 'pg_read_all_data')
            AND pg_has_role(zulip.reader, r.oid, 'USAGE')) AS is_so
    ), new AS (
        SELECT d.defaclobjtype AS kind FROM pg_default_acl d, aclexplode(d.defaclacl) a, zulip
        WHERE d.defaclrole = (SELECT oid FROM pg_roles WHERE rolname = current_user)
            AND d.defaclnamespace IN (0, zulip.schema) AND a.privilege_type = 'SELECT'
            AND (a.grantee = 0 OR pg_has_role(zulip.reader, a.grantee, 'USAGE'))
    )
    SELECT quote_ident(pg_get_userbyid(reader)) AS reader, quote_ident(current_user) AS writer,
        quote_ident(nspname) AS schema,
        (SELECT string_agg(format('%I.%I', nspname, c.relname), ', ' ORDER BY c.relname) FROM pg_class c
            WHERE c.relnamespace = zulip.schema AND c.relkind IN ('r', 'p', 'S')
                AND starts_with(c.relname::text, 'outhook_')
                AND NOT has_table_privilege(zulip.reader, c.oid, 'SELECT')) AS relations,
        is_so OR EXISTS (SELECT FROM new WHERE kind = 'r') AS reads_new_tables,
        is_so OR EXISTS (SELECT FROM new WHERE kind = 'S') AS reads_new_sequences
    FROM zulip, reads_all";

impl Store {
    /// Lets Zulip's role read outhook's tables and sequences, those that are there and those to come.
    pub(super) async fn let_zulip_read(&self) -> Result<(), StoreError> {
        let Some(unreadable) = self.unreadable_by_zulip().await? else { return Ok(()) };
        self.on_orm(async |db| db.execute_unprepared(&unreadable.remedy()).await).await?;
        log::info!("role {} may read outhook's tables now, for Zulip's own backup", unreadable.reader);
        Ok(())
    }

    /// What Zulip's role may not read; `None` if it may read all, or there is no Zulip.
    pub(crate) async fn unreadable_by_zulip(&self) -> Result<Option<UnreadableByZulip>, StoreError> {
        if self.backend() != DbBackend::Postgres {
            return Ok(None);
        }
        self.read(move |store| async move {
            let Some(row) = store.db().query_one_raw(statement(store.backend(), READABLE, [])).await? else {
                return Ok(None);
            };
            let found = UnreadableByZulip::from_query_result(&row, "")?;
            Ok(Some(found).filter(|found| !found.remedy().is_empty()))
        })
        .await
    }
}
