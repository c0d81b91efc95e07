//! The channels and people of a Zulip server, as far as an event names them.

use outhook_core::identity::BotId;
use sea_orm::{ConnectionTrait, FromQueryResult, Value};

use super::{
    Store, StoreError,
    sql::{among, ids, statement},
};

/// A channel that is not archived.
#[derive(Debug, Clone, PartialEq, Eq, FromQueryResult)]
pub(crate) struct Channel {
    /// `zerver_stream.id`.
    pub(crate) id: i64,
    /// Its name.
    pub(crate) name: String,
}

/// An account that is not deactivated.
#[derive(Debug, Clone, PartialEq, Eq, FromQueryResult)]
pub(crate) struct Person {
    /// `zerver_userprofile.id`.
    pub(crate) id: BotId,
    /// Address that others are shown.
    pub(crate) email: String,
    /// Address that it signs in with.
    pub(crate) delivery_email: String,
    /// Display name.
    pub(crate) full_name: String,
    /// The direct-message recipient that stands for it.
    pub(crate) recipient_id: Option<i64>,
    /// Whether it is a bot.
    pub(crate) is_bot: bool,
}

impl Store {
    /// A channel of an organization, by its name as Zulip compares it.
    pub(crate) async fn find_channel_named(
        &self,
        realm: i64,
        name: String,
    ) -> Result<Option<Channel>, StoreError> {
        self.find_channel("upper(name) = upper($2)", realm, name.into()).await
    }

    /// A channel of an organization, by its id.
    pub(crate) async fn find_channel_by_id(
        &self,
        realm: i64,
        id: i64,
    ) -> Result<Option<Channel>, StoreError> {
        self.find_channel("id = $2", realm, id.into()).await
    }

    async fn find_channel(
        &self,
        condition: &'static str,
        realm: i64,
        value: Value,
    ) -> Result<Option<Channel>, StoreError> {
        self.read(move |store| async move {
            let sql = format!(
                "SELECT CAST(id AS BIGINT) AS id, name FROM zerver_stream
                WHERE realm_id = $1 AND NOT deactivated AND {condition}"
            );
            let query = statement(store.backend(), sql, [realm.into(), value]);
            let row = store.db().query_one_raw(query).await?;
            Ok(row.map(|row| Channel::from_query_result(&row, "")).transpose()?)
        })
        .await
    }

    /// The right that [`Store::find_channel_named`] and [`Store::find_channel_by_id`] need.
    pub(crate) async fn grant_for_channels(&self) -> Result<String, StoreError> {
        self.read(move |store| async move {
            let sql =
                "SELECT format('GRANT SELECT (id, name, realm_id, deactivated) ON %I.zerver_stream TO %I',
                current_schema(), current_user) AS remedy";
            let row = store.db().query_one_raw(statement(store.backend(), sql, [])).await?;
            Ok(row.map(|row| row.try_get("", "remedy")).transpose()?.unwrap_or_default())
        })
        .await
    }

    /// Those of these accounts that belong to an organization and are not deactivated.
    pub(crate) async fn find_people(&self, realm: i64, people: Vec<i64>) -> Result<Vec<Person>, StoreError> {
        self.read(move |store| async move {
            let sql = format!(
                "SELECT CAST(id AS BIGINT) AS id, email, delivery_email, full_name,
                    CAST(recipient_id AS BIGINT) AS recipient_id, is_bot
                FROM zerver_userprofile WHERE realm_id = $1 AND is_active AND id {}",
                among(store.backend(), 2)
            );
            let values = [realm.into(), ids(store.backend(), &people)];
            let rows = store.db().query_all_raw(statement(store.backend(), sql, values)).await?;
            Ok(rows.iter().map(|row| Person::from_query_result(row, "")).collect::<Result<_, _>>()?)
        })
        .await
    }
}
