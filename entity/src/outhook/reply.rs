//! `outhook_reply`: the outbox. Committed together with the outcome of its call, posted afterwards.

use sea_orm::entity::prelude::*;

/// A message to post as the bot.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "outhook_reply")]
pub struct Model {
    /// Row id: the order of posting within a conversation.
    #[sea_orm(primary_key)]
    pub id: i64,
    /// The event that it answers.
    pub event_id: i64,
    /// The service that gave the answer.
    pub service_id: i64,
    /// The bot.
    pub bot_id: i64,
    /// Digest of the conversation.
    pub conversation: i64,
    /// Where to post: JSON, see the ReplyActor.
    pub destination: String,
    /// Markdown, as UTF-8 bytes; emptied some time after the reply is posted.
    pub content: Vec<u8>,
    /// `widget_content`, as UTF-8 bytes; removed with the content.
    pub widget: Option<Vec<u8>>,
    /// Where it stands.
    pub state: State,
    /// When to post it. NULL while a daemon holds it, and while it waits behind an earlier reply.
    pub due: Option<i64>,
    /// Attempts to post it.
    pub attempts: i32,
    /// When it was committed.
    pub created_at: i64,
    /// When it was posted or given up.
    pub settled_at: Option<i64>,
    /// Why it could not be posted.
    pub detail: Option<String>,
}

/// Where a reply stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumIter, DeriveActiveEnum)]
#[sea_orm(rs_type = "i16", db_type = "SmallInteger")]
pub enum State {
    /// To be posted.
    Pending = 0,
    /// Posted.
    Posted = 1,
    /// Could not be posted.
    GivenUp = 2,
}

/// No relation is followed through the ORM.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
