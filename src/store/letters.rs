//! Dead letters: what could not be called, until an operator replays or drops it.

use std::collections::BTreeMap;

use entity::outhook::dead_letter;
use outhook_core::identity::{BotId, EventId, EventKey};
use sea_orm::{ConnectionTrait, DbBackend, DbErr, EntityTrait, FromQueryResult, Value};
use thiserror::Error;

use super::{
    NewEvent, Store, StoreError,
    history::HISTORY_LOCK,
    pool::Transaction,
    replays::{RETURNING, Replayed},
    sql::{among, as_i64, clean, ids, now, statement},
    wake::announce,
};
use crate::fail_points::Step;

/// A delivery whose calls can't be made.
#[derive(Debug, Clone)]
pub(crate) struct DeadLetter {
    /// The bot, if it could be read.
    pub(crate) bot: Option<BotId>,
    /// The message, if it could be read.
    pub(crate) message: Option<i64>,
    /// Stable name of the reason.
    pub(crate) reason: &'static str,
    /// The reason in words.
    pub(crate) detail: String,
    /// The whole body; for an event of the inbox it is taken from there.
    pub(crate) payload: Vec<u8>,
}

impl DeadLetter {
    /// A dead letter of an event. Its payload is that of the event's row.
    pub(crate) fn of_event(key: EventKey, reason: &'static str, detail: String) -> Self {
        Self { bot: Some(key.bot), message: Some(key.message), reason, detail, payload: Vec::new() }
    }
}

/// A dead letter with its body.
pub(crate) type DeadLetterRow = dead_letter::Model;

/// A dead letter without its body.
#[derive(Debug, FromQueryResult)]
pub(crate) struct LetterSummary {
    pub(crate) id: i64,
    pub(crate) event_id: Option<EventId>,
    pub(crate) bot_id: Option<BotId>,
    pub(crate) message_id: Option<i64>,
    pub(crate) reason: String,
    pub(crate) detail: String,
    /// The length of its body.
    pub(crate) bytes: i64,
    /// The length of the body that it had, if that was dropped.
    pub(crate) dropped_bytes: Option<i64>,
    pub(crate) created_at: i64,
    pub(crate) replayed_by: Option<EventId>,
}

impl From<&DeadLetterRow> for LetterSummary {
    fn from(row: &DeadLetterRow) -> Self {
        Self {
            id: row.id,
            event_id: row.event_id,
            bot_id: row.bot_id,
            message_id: row.message_id,
            reason: row.reason.clone(),
            detail: row.detail.clone(),
            bytes: i64::try_from(row.payload.len()).unwrap_or(i64::MAX),
            dropped_bytes: row.dropped_bytes,
            created_at: row.created_at,
            replayed_by: row.replayed_by,
        }
    }
}

/// Dead letters that await an operator.
#[derive(Debug, Clone, Copy, FromQueryResult)]
pub(crate) struct OpenLetters {
    /// How many there are.
    pub(crate) letters: i64,
    /// The highest of their ids.
    pub(crate) last: i64,
}

/// Why nothing can be done with a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum NotOpen {
    /// There is none.
    #[error("there is no dead letter with the id {0}")]
    Unknown(i64),
    /// It was replayed as this event.
    #[error("dead letter {0} was replayed already, as event {1}")]
    Replayed(i64, EventId),
}

/// Dead letters that were not replayed, of the reason in `$1` or of any.
const OPEN: &str = "FROM outhook_dead_letter WHERE replayed_by IS NULL AND ($1 IS NULL OR reason = $1)";

impl Store {
    /// All dead letters that were not replayed, oldest first. Their bodies may be large, so none is read:
    /// both databases know the length of one without that.
    pub(crate) async fn list_dead_letters(&self) -> Result<Vec<LetterSummary>, StoreError> {
        let sql = "SELECT id, event_id, bot_id, message_id, reason, detail,
                CAST(length(payload) AS bigint) AS bytes, dropped_bytes, created_at, replayed_by
            FROM outhook_dead_letter WHERE replayed_by IS NULL ORDER BY id";
        let listed = LetterSummary::find_by_statement(statement(self.backend(), sql, []));
        Ok(listed.all(self.db()).await?)
    }

    /// One dead letter, replayed or not.
    pub(crate) async fn find_dead_letter(&self, id: i64) -> Result<Option<DeadLetterRow>, StoreError> {
        Ok(dead_letter::Entity::find_by_id(id).one(self.db()).await?)
    }

    /// Why nothing can be done with some of these dead letters, in the order of their ids.
    pub(crate) async fn refuse_letters(&self, letters: &[i64]) -> Result<Vec<NotOpen>, StoreError> {
        let among = among(self.backend(), 1);
        let sql = format!("SELECT id, replayed_by FROM outhook_dead_letter WHERE id {among}");
        let query = statement(self.backend(), sql, [ids(self.backend(), letters)]);
        let mut found = Vec::with_capacity(letters.len());
        for row in self.db().query_all_raw(query).await? {
            found.push((row.try_get::<i64>("", "id")?, row.try_get::<Option<EventId>>("", "replayed_by")?));
        }
        let refusal = |letter: &i64| match found.iter().find(|(id, _)| id == letter) {
            Some((_, None)) => None,
            Some((_, Some(event))) => Some(NotOpen::Replayed(*letter, *event)),
            None => Some(NotOpen::Unknown(*letter)),
        };
        Ok(letters.iter().filter_map(refusal).collect())
    }

    /// How many dead letters there are, of a reason or of any, that were not replayed.
    pub(crate) async fn count_open_letters(&self, reason: Option<&str>) -> Result<OpenLetters, StoreError> {
        let sql = format!("SELECT count(*) AS letters, COALESCE(max(id), 0) AS last {OPEN}");
        let counted = OpenLetters::find_by_statement(statement(self.backend(), sql, [reason.into()]));
        Ok(counted.one(self.db()).await?.unwrap_or(OpenLetters { letters: 0, last: 0 }))
    }

    /// The next dead letters, of a reason or of any, that were not replayed, whose ids are higher than
    /// `after` and not higher than `last`.
    pub(crate) async fn open_letters_between(
        &self,
        reason: Option<&str>,
        (after, last): (i64, i64),
        rows_max: usize,
    ) -> Result<Vec<i64>, StoreError> {
        let sql = format!("SELECT id {OPEN} AND id > $2 AND id <= $3 ORDER BY id LIMIT $4");
        let values = [reason.into(), after.into(), last.into(), as_i64(rows_max)];
        let rows = self.db().query_all_raw(statement(self.backend(), sql, values)).await?;
        Ok(rows.iter().map(|row| row.try_get("", "id")).collect::<Result<_, _>>()?)
    }

    /// Puts a dead letter, of which this event was read, into the inbox again, whatever room its bot has.
    /// `None` if it was replayed or dropped before.
    pub(crate) async fn replay_dead_letter(
        &self,
        letter: i64,
        event: NewEvent,
    ) -> Result<Option<Replayed>, StoreError> {
        self.write_behind(HISTORY_LOCK, Step::ReplayLetter, move |transaction| async move {
            let replayed = insert_from_letter(&transaction, letter, event).await?;
            if let Some(replayed) = &replayed {
                close_letter(&transaction, letter, replayed.event_id).await?;
                announce(&transaction).await?;
            }
            Ok(replayed)
        })
        .await
    }

    /// Deletes those of these dead letters that were not replayed, and says how many that were.
    pub(crate) async fn drop_dead_letters(&self, letters: Vec<i64>) -> Result<u64, StoreError> {
        let store = self.clone();
        self.write_behind(HISTORY_LOCK, Step::DropLetters, move |transaction| async move {
            let among = among(store.backend(), 1);
            let sql = format!("DELETE FROM outhook_dead_letter WHERE id {among} AND replayed_by IS NULL");
            let values = [ids(store.backend(), &letters)];
            let dropped = transaction.execute_raw(statement(store.backend(), sql, values)).await?;
            Ok(dropped.rows_affected())
        })
        .await
    }
}

/// Sets deliveries aside that are no events of the inbox, one row each; they are rare. Of one bot, `per_bot`
/// dead letters keep their body.
pub(super) async fn insert_dead_letters(
    transaction: &Transaction,
    letters: Vec<DeadLetter>,
    per_bot: usize,
) -> Result<(), DbErr> {
    let backend = transaction.get_database_backend();
    let bots: Vec<Option<BotId>> = letters.iter().map(|letter| letter.bot).collect();
    let sql = "INSERT INTO outhook_dead_letter (bot_id, message_id, reason, detail, payload, created_at)
        VALUES ($1, $2, $3, $4, $5, $6)";
    for letter in letters {
        let values: [Value; 6] = [
            letter.bot.into(),
            letter.message.into(),
            letter.reason.into(),
            clean(&letter.detail).into(),
            letter.payload.into(),
            now().into(),
        ];
        transaction.execute_raw(statement(backend, sql, values)).await?;
    }
    drop_old_bodies(transaction, bots, per_bot).await
}

/// The bot of dead letters that have none.
const NO_BOT: BotId = -1;

/// Takes the bodies of all but the newest dead letters of bots that have got one for each time that they are
/// named. Each takes two at most, so that a limit that was lowered is reached step by step.
pub(super) async fn drop_old_bodies(
    transaction: &Transaction,
    bots: Vec<Option<BotId>>,
    per_bot: usize,
) -> Result<(), DbErr> {
    let sql = "UPDATE outhook_dead_letter SET dropped_bytes = length(payload), payload = $4 WHERE id IN (
        SELECT id FROM outhook_dead_letter WHERE COALESCE(bot_id, -1) = $1 AND length(payload) > 0
        ORDER BY id DESC LIMIT $2 OFFSET $3)";
    // In order, so that two transactions wait for each other in one direction only.
    let mut letters: BTreeMap<BotId, usize> = BTreeMap::new();
    for bot in bots {
        *letters.entry(bot.unwrap_or(NO_BOT)).or_default() += 1;
    }
    for (bot, letters) in letters {
        let values = [bot.into(), as_i64(2 * letters), as_i64(per_bot), Vec::<u8>::new().into()];
        transaction.execute_raw(statement(transaction.get_database_backend(), sql, values)).await?;
    }
    Ok(())
}

/// Sets an event aside with its body, unless it is already, for this reason: a commit of unknown outcome is
/// made again.
pub(super) async fn set_event_aside(
    transaction: &Transaction,
    event: EventId,
    letter: DeadLetter,
) -> Result<(), DbErr> {
    let backend = transaction.get_database_backend();
    // The server may still be at the first commit: what ends the event is waited for.
    let lock = if backend == DbBackend::Postgres { "FOR UPDATE OF e" } else { "" };
    let sql = format!(
        "INSERT INTO outhook_dead_letter (event_id, bot_id, message_id, reason, detail, payload, created_at)
         SELECT e.id, $2, $3, $4, $5, e.payload, $6 FROM outhook_event e
         WHERE e.id = $1 AND e.state = 0 AND e.payload IS NOT NULL
           AND NOT EXISTS (SELECT 1 FROM outhook_dead_letter d WHERE d.event_id = $1 AND d.reason = $4)
         {lock}"
    );
    let values: [Value; 6] = [
        event.into(),
        letter.bot.into(),
        letter.message.into(),
        letter.reason.into(),
        clean(&letter.detail).into(),
        now().into(),
    ];
    transaction.execute_raw(statement(backend, sql, values)).await?;
    Ok(())
}

/// Without calls, so that the services are chosen when it begins.
async fn insert_from_letter(
    transaction: &Transaction,
    letter: i64,
    event: NewEvent,
) -> Result<Option<Replayed>, DbErr> {
    let sql = format!(
        "INSERT INTO outhook_event
            (bot_id, message_id, replay, conversation, state, due, taken_at, payload, replay_of)
         SELECT $2, $3,
            COALESCE((SELECT max(m.replay) FROM outhook_event m
                      WHERE m.bot_id = $2 AND m.message_id = $3), 0) + 1,
            $4, 0, $5, $5, $6, d.event_id
         FROM outhook_dead_letter d WHERE d.id = $1 AND d.replayed_by IS NULL
         {RETURNING}"
    );
    let values = [
        letter.into(),
        event.header.bot.into(),
        event.header.message.into(),
        event.header.conversation.into(),
        now().into(),
        event.payload.into(),
    ];
    let insert = statement(transaction.get_database_backend(), sql, values);
    let row = transaction.query_one_raw(insert).await?;
    row.map(|row| Replayed::from_query_result(&row, "")).transpose()
}

/// The event has the body now.
async fn close_letter(transaction: &Transaction, letter: i64, event: EventId) -> Result<(), DbErr> {
    let sql = "UPDATE outhook_dead_letter SET replayed_by = $2, payload = $3 WHERE id = $1";
    let values = [letter.into(), event.into(), Vec::<u8>::new().into()];
    transaction.execute_raw(statement(transaction.get_database_backend(), sql, values)).await?;
    Ok(())
}
