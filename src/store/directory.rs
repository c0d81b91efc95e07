//! Bots and their services.

use std::iter;

use entity::{outhook::gate, zulip::BOT_TYPE_OUTGOING_WEBHOOK};
use outhook_core::identity::{BotId, Millis, ServiceId};
use sea_orm::{ActiveEnum, ConnectionTrait, DbErr, FromQueryResult};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{Store, StoreError, StoredGate, sql::statement};
use crate::trial::work::exposed;

/// A bot that may be called, with its services.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Bot {
    /// `zerver_userprofile.id`.
    pub(crate) id: BotId,
    /// Shown address.
    pub(crate) email: String,
    /// Address it signs in with.
    pub(crate) delivery_email: String,
    /// Display name.
    pub(crate) full_name: String,
    /// Password for Zulip's REST API.
    #[serde(with = "exposed")]
    pub(crate) api_key: SecretString,
    /// The direct-message recipient that stands for it.
    pub(crate) recipient_id: Option<i64>,
    /// Its organisation.
    pub(crate) realm_id: i64,
    /// Its organisation's subdomain.
    pub(crate) realm_string_id: String,
    /// What is called, in order of their ids.
    pub(crate) services: Vec<Service>,
}

impl Bot {
    /// What nobody may be shown of it: its API key, and the tokens of its services.
    pub(crate) fn secrets(&self) -> impl Iterator<Item = &str> {
        let tokens = self.services.iter().map(|service| &service.token);
        iter::once(&self.api_key).chain(tokens).map(|secret| secret.expose_secret())
    }
}

/// An endpoint of a bot.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Service {
    /// `zerver_service.id`.
    pub(crate) id: ServiceId,
    /// Name.
    pub(crate) name: String,
    /// URL as the operator wrote it.
    pub(crate) base_url: String,
    /// Shared secret.
    #[serde(with = "exposed")]
    pub(crate) token: SecretString,
    /// Which handler speaks with it.
    pub(crate) interface: i16,
    /// What keeps it from being called, if anything does. No part of an event's own work.
    #[serde(skip)]
    pub(crate) gate: Option<StoredGate>,
}

/// Why a bot may not be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum NotCallable {
    /// There is no account with this id.
    #[error("there is no bot with this id")]
    Unknown,
    /// It was deactivated.
    #[error("the bot is deactivated")]
    Inactive,
    /// Its organization was deactivated.
    #[error("the bot's organization is deactivated")]
    InactiveOrganization,
    /// It is a person, or another kind of bot.
    #[error("the account is not an outgoing webhook bot")]
    NotOutgoingWebhook,
}

impl NotCallable {
    /// The stable name under which dead letters show it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown_bot",
            Self::Inactive | Self::InactiveOrganization => "inactive_bot",
            Self::NotOutgoingWebhook => "not_a_webhook_bot",
        }
    }
}

/// A bot to create in outhook's own tables.
#[derive(Clone)]
pub(crate) struct NewBot {
    /// Address; also what its owner is found by.
    pub(crate) email: String,
    /// Display name.
    pub(crate) name: String,
    /// Address of its owner, who is created if unknown.
    pub(crate) owner_email: Option<String>,
    /// Random keys for the bot and its owner.
    pub(crate) api_keys: [String; 2],
}

/// A service to create in outhook's own tables.
#[derive(Clone)]
pub(crate) struct NewService {
    /// The bot.
    pub(crate) bot: BotId,
    /// Name.
    pub(crate) name: String,
    /// URL.
    pub(crate) url: String,
    /// Which handler speaks with it.
    pub(crate) interface: i16,
    /// Shared secret.
    pub(crate) token: String,
}

/// A bot, for listing.
#[derive(Debug, Clone, Serialize, FromQueryResult)]
pub(crate) struct BotRow {
    /// Id.
    pub(crate) id: i64,
    /// Address.
    pub(crate) email: String,
    /// Name.
    pub(crate) full_name: String,
    /// May be called.
    pub(crate) is_active: bool,
    /// How many services it has.
    pub(crate) services: i64,
}

/// A service, for listing.
#[derive(Debug, Clone, Serialize, FromQueryResult)]
pub(crate) struct ServiceRow {
    /// Id.
    pub(crate) id: i64,
    /// Its bot.
    pub(crate) bot_id: i64,
    /// Name.
    pub(crate) name: String,
    /// URL.
    pub(crate) url: String,
    /// Number of its interface.
    pub(crate) interface: i16,
    /// Why it is not called as its events come, as in [`gate::Reason`].
    pub(crate) reason: Option<i16>,
    /// Until when.
    pub(crate) closed_until: Option<Millis>,
    /// Since when.
    pub(crate) since: Option<Millis>,
    /// Why, in words.
    pub(crate) detail: Option<String>,
}

#[derive(FromQueryResult)]
struct Profile {
    id: i64,
    realm_id: i64,
    recipient_id: Option<i64>,
    delivery_email: String,
    email: String,
    full_name: String,
    is_bot: bool,
    bot_type: Option<i16>,
    api_key: String,
    is_active: bool,
    string_id: Option<String>,
    deactivated: Option<bool>,
}

impl Profile {
    fn callable(self) -> Result<Self, NotCallable> {
        match () {
            () if !self.is_bot || self.bot_type != Some(BOT_TYPE_OUTGOING_WEBHOOK) => {
                Err(NotCallable::NotOutgoingWebhook)
            }
            () if !self.is_active => Err(NotCallable::Inactive),
            () if self.deactivated == Some(true) => Err(NotCallable::InactiveOrganization),
            () => Ok(self),
        }
    }
}

#[derive(FromQueryResult)]
struct Endpoint {
    id: i64,
    name: String,
    base_url: String,
    token: String,
    interface: i16,
    reason: Option<i16>,
    closed_until: Option<Millis>,
    since: Option<Millis>,
    detail: Option<String>,
    failures: Option<i32>,
    openings: Option<i32>,
}

impl Endpoint {
    fn gate(&mut self) -> Result<Option<StoredGate>, DbErr> {
        let Some(reason) = self.reason else { return Ok(None) };
        Ok(Some(StoredGate {
            reason: gate::Reason::try_from_value(&reason)?,
            until: self.closed_until,
            since: self.since.unwrap_or_default(),
            detail: self.detail.take().unwrap_or_default(),
            failures: self.failures.unwrap_or(0).unsigned_abs(),
            openings: self.openings.unwrap_or(0).unsigned_abs(),
        }))
    }
}

impl Store {
    /// A bot with its services, or why it may not be called.
    ///
    /// Ids are cast, because Zulip's columns have had different integer types over its versions.
    pub(crate) async fn find_bot(&self, bot: BotId) -> Result<Result<Bot, NotCallable>, StoreError> {
        self.read(move |store| async move {
            let profile = match store.find_callable(bot).await? {
                Ok(profile) => profile,
                Err(reason) => return Ok(Err(reason)),
            };
            let services = store.find_services(bot).await?;
            Ok(Ok(Bot {
                id: profile.id,
                email: profile.email,
                delivery_email: profile.delivery_email,
                full_name: profile.full_name,
                api_key: profile.api_key.into(),
                recipient_id: profile.recipient_id,
                realm_id: profile.realm_id,
                realm_string_id: profile.string_id.unwrap_or_default(),
                services,
            }))
        })
        .await
    }

    /// The organization of a bot, or why the bot may not be called.
    pub(crate) async fn find_realm(&self, bot: BotId) -> Result<Result<i64, NotCallable>, StoreError> {
        self.read(
            move |store| async move { Ok(store.find_callable(bot).await?.map(|profile| profile.realm_id)) },
        )
        .await
    }

    async fn find_callable(&self, bot: BotId) -> Result<Result<Profile, NotCallable>, StoreError> {
        Ok(self.find_profile(bot).await?.ok_or(NotCallable::Unknown).and_then(Profile::callable))
    }

    /// The right to read whether an organization is deactivated may vanish, and only this needs it.
    async fn find_profile(&self, bot: BotId) -> Result<Option<Profile>, StoreError> {
        let reads_deactivated = self.reads_deactivated().await?;
        match self.read_profile(bot, reads_deactivated).await {
            Err(error) if reads_deactivated && error.is_missing_right() => {
                let reads_deactivated = self.look_for_deactivated().await?;
                self.read_profile(bot, reads_deactivated).await
            }
            found => found,
        }
    }

    async fn read_profile(&self, bot: BotId, reads_deactivated: bool) -> Result<Option<Profile>, StoreError> {
        let deactivated = if reads_deactivated { "r.deactivated" } else { "NULL" };
        let sql = format!(
            "SELECT CAST(u.id AS BIGINT) AS id, CAST(u.realm_id AS BIGINT) AS realm_id,
                CAST(u.recipient_id AS BIGINT) AS recipient_id, u.delivery_email, u.email, u.full_name,
                u.is_bot, u.bot_type, u.api_key, u.is_active, r.string_id,
                CAST({deactivated} AS BOOLEAN) AS deactivated
            FROM zerver_userprofile u LEFT JOIN zerver_realm r ON r.id = u.realm_id WHERE u.id = $1"
        );
        let row = self.db().query_one_raw(statement(self.backend(), sql, [bot.into()])).await?;
        Ok(row.map(|row| Profile::from_query_result(&row, "")).transpose()?)
    }

    async fn find_services(&self, bot: BotId) -> Result<Vec<Service>, StoreError> {
        let sql = "SELECT CAST(s.id AS BIGINT) AS id, s.name, s.base_url, s.token, s.interface,
                g.reason, g.closed_until, g.since, g.detail, g.failures, g.openings
            FROM zerver_service s LEFT JOIN outhook_gate g ON g.service_id = s.id
            WHERE s.user_profile_id = $1 ORDER BY s.id";
        let rows = self.db().query_all_raw(statement(self.backend(), sql, [bot.into()])).await?;
        let mut services = Vec::with_capacity(rows.len());
        for row in rows {
            let mut row = Endpoint::from_query_result(&row, "")?;
            services.push(Service {
                gate: row.gate()?,
                id: row.id,
                name: row.name,
                base_url: row.base_url,
                token: row.token.into(),
                interface: row.interface,
            });
        }
        Ok(services)
    }

    /// All bots of the outgoing-webhook type.
    pub(crate) async fn list_bots(&self) -> Result<Vec<BotRow>, StoreError> {
        let sql = "SELECT CAST(u.id AS BIGINT) AS id, u.email, u.full_name, u.is_active,
                (SELECT count(*) FROM zerver_service s WHERE s.user_profile_id = u.id) AS services
            FROM zerver_userprofile u WHERE u.is_bot AND u.bot_type = $1 ORDER BY u.id";
        let query = statement(self.backend(), sql, [BOT_TYPE_OUTGOING_WEBHOOK.into()]);
        Ok(BotRow::find_by_statement(query).all(self.db()).await?)
    }

    /// All services of such bots.
    pub(crate) async fn list_services(&self) -> Result<Vec<ServiceRow>, StoreError> {
        let sql = "SELECT CAST(s.id AS BIGINT) AS id, CAST(s.user_profile_id AS BIGINT) AS bot_id, s.name,
                s.base_url AS url, s.interface, g.reason, g.closed_until, g.since, g.detail
            FROM zerver_service s LEFT JOIN outhook_gate g ON g.service_id = s.id AND g.reason <> $1
            ORDER BY s.id";
        let query = statement(self.backend(), sql, [gate::Reason::Resumed.to_value().into()]);
        Ok(ServiceRow::find_by_statement(query).all(self.db()).await?)
    }
}
