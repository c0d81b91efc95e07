//! The organizations of a Zulip server.

use sea_orm::{ConnectionTrait, DbBackend};

use super::{
    Store, StoreError,
    sql::{as_i64, statement},
};

/// Zulip's organization of its own bots. It has no host.
const SYSTEM_ORGANIZATION: &str = "zulipinternal";

impl Store {
    /// Whether organizations can be seen to be deactivated: outhook's own tables have no such column, and an
    /// earlier version of outhook asked for no right to read it.
    pub(super) async fn reads_deactivated(&self) -> Result<bool, StoreError> {
        let known = *self.inner.reads_deactivated.lock();
        match known {
            Some(reads) => Ok(reads),
            None => self.look_for_deactivated().await,
        }
    }

    /// Looks anew whether they can be seen, and remembers it.
    pub(super) async fn look_for_deactivated(&self) -> Result<bool, StoreError> {
        let reads = self.may_read_deactivated().await?;
        *self.inner.reads_deactivated.lock() = Some(reads);
        Ok(reads)
    }

    async fn may_read_deactivated(&self) -> Result<bool, StoreError> {
        if self.backend() != DbBackend::Postgres {
            return Ok(false);
        }
        let sql = "SELECT has_column_privilege(attrelid, attnum, 'SELECT') AS may_read,
                format('GRANT SELECT (deactivated) ON %I.%I TO %I', n.nspname, c.relname, current_user) AS remedy
            FROM pg_attribute JOIN pg_class c ON c.oid = attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE attrelid = to_regclass('zerver_realm') AND attname = 'deactivated' AND NOT attisdropped";
        let Some(row) = self.db().query_one_raw(statement(self.backend(), sql, [])).await? else {
            return Ok(false);
        };
        let may_read: bool = row.try_get("", "may_read")?;
        if !may_read {
            let remedy: String = row.try_get("", "remedy")?;
            log::warn!(
                "cannot read zerver_realm.deactivated, so bots of deactivated organizations are called: {remedy}"
            );
        }
        Ok(may_read)
    }

    /// The subdomains of active organizations, at most so many; those with bots that outhook calls come first.
    pub(crate) async fn list_organizations(&self, max: usize) -> Result<Vec<String>, StoreError> {
        self.read(move |store| async move {
            let active = if store.reads_deactivated().await? { "NOT r.deactivated" } else { "TRUE" };
            let sql = format!(
                "SELECT r.string_id FROM zerver_realm r WHERE r.string_id <> $1 AND {active}
                ORDER BY EXISTS (SELECT 1 FROM zerver_userprofile u
                    WHERE u.realm_id = r.id AND u.is_bot AND u.bot_type = 3 AND u.is_active) DESC, r.id LIMIT $2"
            );
            let query = statement(store.backend(), sql, [SYSTEM_ORGANIZATION.into(), as_i64(max)]);
            let rows = store.db().query_all_raw(query).await?;
            Ok(rows.iter().map(|row| row.try_get("", "string_id")).collect::<Result<_, _>>()?)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::{super::in_memory::in_memory, *};

    #[actix::test]
    async fn organizations_with_bots_to_call_come_first() {
        let (db, store) = in_memory(true).await;
        let organizations =
            "INSERT INTO zerver_realm (id, string_id) VALUES (2, 'acme'), (3, 'zulipinternal'), (4, 'beta')";
        let bot = "INSERT INTO zerver_userprofile
                (id, realm_id, delivery_email, email, full_name, is_bot, bot_type, api_key, is_active)
            VALUES (9, 4, 'b@x.org', 'b@x.org', 'B', TRUE, 3, 'key', TRUE)";
        for sql in [organizations, bot] {
            db.execute_unprepared(sql).await.expect("rows");
        }
        assert_eq!(store.list_organizations(9).await.expect("a list"), ["beta", "", "acme"]);
        assert_eq!(store.list_organizations(2).await.expect("a list"), ["beta", ""]);
    }
}
