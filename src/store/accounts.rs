//! Bots and services of outhook's own tables, as commands add and remove them.

use entity::{
    outhook::gate,
    zulip::{BOT_TYPE_OUTGOING_WEBHOOK, realm, service, user_profile},
};
use outhook_core::identity::{BotId, ServiceId};
use sea_orm::{ActiveModelTrait, ActiveValue::Set, ColumnTrait, DbErr, EntityTrait, QueryFilter, QueryOrder};

use super::{NewBot, NewService, Store, StoreError, pool::Transaction};
use crate::fail_points::Step;

impl Store {
    /// Creates a bot, and its owner if that one is new.
    pub(crate) async fn add_bot(&self, bot: NewBot) -> Result<BotId, StoreError> {
        self.write(Step::AddBot, |transaction| async move {
            let [key, owner_key] = bot.api_keys;
            let owner = match bot.owner_email {
                Some(email) => Some(find_or_add_person(&transaction, email, owner_key).await?),
                None => None,
            };
            let profile = user_profile::ActiveModel {
                is_bot: Set(true),
                bot_type: Set(Some(BOT_TYPE_OUTGOING_WEBHOOK)),
                bot_owner_id: Set(owner),
                ..new_profile(&transaction, bot.email, bot.name, key).await?
            };
            Ok(profile.insert(&transaction).await?.id.into())
        })
        .await
    }

    /// Whether an account has this address.
    pub(crate) async fn knows_email(&self, email: &str) -> Result<bool, StoreError> {
        let found = user_profile::Entity::find()
            .filter(user_profile::Column::DeliveryEmail.eq(email))
            .one(self.db())
            .await?;
        Ok(found.is_some())
    }

    /// Creates a service; `None` if there is no such bot.
    pub(crate) async fn add_service(&self, new: NewService) -> Result<Option<ServiceId>, StoreError> {
        self.write(Step::AddService, move |transaction| async move {
            let bot = i32::try_from(new.bot).unwrap_or(-1);
            let profile = user_profile::Entity::find_by_id(bot).one(&transaction).await?;
            if !profile.is_some_and(|profile| profile.is_bot) {
                return Ok(None);
            }
            let model = service::ActiveModel {
                name: Set(new.name),
                user_profile_id: Set(bot),
                base_url: Set(new.url),
                token: Set(new.token),
                interface: Set(new.interface),
                ..Default::default()
            };
            Ok(Some(model.insert(&transaction).await?.id))
        })
        .await
    }

    /// Removes a service; `false` if there was none.
    pub(crate) async fn remove_service(&self, service: ServiceId) -> Result<bool, StoreError> {
        self.write(Step::RemoveService, move |transaction| async move {
            let result = service::Entity::delete_by_id(service).exec(&transaction).await?;
            gate::Entity::delete_by_id(service).exec(&transaction).await?;
            Ok(result.rows_affected > 0)
        })
        .await
    }
}

async fn find_or_add_person(transaction: &Transaction, email: String, api_key: String) -> Result<i32, DbErr> {
    let known = user_profile::Entity::find()
        .filter(user_profile::Column::DeliveryEmail.eq(&email))
        .one(transaction)
        .await?;
    if let Some(person) = known {
        return Ok(person.id);
    }
    let name = email.split('@').next().unwrap_or_default().to_owned();
    Ok(new_profile(transaction, email, name, api_key).await?.insert(transaction).await?.id)
}

async fn new_profile(
    transaction: &Transaction,
    email: String,
    name: String,
    api_key: String,
) -> Result<user_profile::ActiveModel, DbErr> {
    let realm = realm::Entity::find().order_by_asc(realm::Column::Id).one(transaction).await?;
    Ok(user_profile::ActiveModel {
        realm_id: Set(realm.map_or(1, |realm| realm.id)),
        recipient_id: Set(None),
        delivery_email: Set(email.clone()),
        email: Set(email),
        full_name: Set(name),
        is_bot: Set(false),
        bot_type: Set(None),
        bot_owner_id: Set(None),
        api_key: Set(api_key),
        is_active: Set(true),
        ..Default::default()
    })
}
