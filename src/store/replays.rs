//! Replays: events that an operator has worked on again, each as a new event with the next replay number.

use entity::outhook::event;
use outhook_core::identity::{BotId, EventId, Millis};
use sea_orm::{ConnectionTrait, DbErr, FromQueryResult};
use serde::Serialize;
use thiserror::Error;

use super::{
    Store, StoreError,
    history::HISTORY_LOCK,
    pool::Transaction,
    sql::{among, as_i64, ids, now, statement},
    wake::announce,
};
use crate::fail_points::Step;

/// Which calls of an event are made again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CallsAgain {
    /// Those that failed for good.
    Failed,
    /// Those that succeeded, too.
    All,
}

/// Which of the events are replayed that were named or found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReplayedBefore {
    /// All of them.
    Again,
    /// Those that were never replayed.
    Skipped,
}

/// Which failed events to look for.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct FailedFilter {
    /// Only this bot's.
    pub(crate) bot: Option<BotId>,
    /// Only events taken since.
    pub(crate) since: Option<Millis>,
}

/// The failed events that were not replayed yet.
#[derive(Debug, Clone, Copy, FromQueryResult)]
pub(crate) struct FailedEvents {
    /// All of them.
    pub(crate) failed: i64,
    /// Those whose body is there.
    pub(crate) replayable: i64,
    /// The highest of their ids.
    pub(crate) last: EventId,
}

/// An event that repeats another.
#[derive(Debug, Clone, Serialize, FromQueryResult)]
pub(crate) struct Replayed {
    /// Its row.
    pub(crate) event_id: EventId,
    /// The event that it repeats, if that had a row.
    pub(crate) replay_of: Option<EventId>,
    /// Bot.
    pub(crate) bot_id: BotId,
    /// Message.
    pub(crate) message_id: i64,
    /// Replay number.
    pub(crate) replay: i32,
}

/// Why an event can't be replayed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum NotReplayable {
    /// There is none.
    #[error("there is no event with the id {0}")]
    Unknown(EventId),
    /// Its calls are still being made.
    #[error("event {0} is not finished yet")]
    Unfinished(EventId),
    /// An operator replays its dead letter instead.
    #[error("event {0} is dead-lettered: `outhook dead-letters replay {1}` replays it")]
    DeadLettered(EventId, i64),
    /// Its dead letter is not there any more.
    #[error("event {0} was dead-lettered, and its dead letter was replayed or dropped")]
    NoDeadLetter(EventId),
    /// There is nothing to repair, so its body was not kept.
    #[error("none of the calls of event {0} failed: `--all-services` makes those again that succeeded")]
    NothingFailed(EventId),
    /// It had no service to call.
    #[error("event {0} made no calls")]
    NothingCalled(EventId),
    /// There was nothing to repair.
    #[error("the body of event {0}, of which no call failed, was removed after history.keep_bodies")]
    BodyExpired(EventId),
    /// It was finished before bodies of failed events were kept.
    #[error("the body of event {0} was removed when it was finished, by an older version of outhook")]
    NoBody(EventId),
}

#[derive(FromQueryResult)]
struct Candidate {
    id: EventId,
    state: event::State,
    has_body: bool,
    has_failed: bool,
    has_ended: bool,
    letter: Option<i64>,
}

impl Candidate {
    fn refusal(&self, calls: CallsAgain) -> Option<NotReplayable> {
        match (self.state, self.letter) {
            (event::State::Unfinished, _) => Some(NotReplayable::Unfinished(self.id)),
            (event::State::Dead, Some(letter)) => Some(NotReplayable::DeadLettered(self.id, letter)),
            (event::State::Dead, None) => Some(NotReplayable::NoDeadLetter(self.id)),
            (event::State::Finished, _) => self.refusal_of_finished(calls),
        }
    }

    fn refusal_of_finished(&self, calls: CallsAgain) -> Option<NotReplayable> {
        match calls {
            CallsAgain::Failed if !self.has_failed => Some(NotReplayable::NothingFailed(self.id)),
            CallsAgain::All if !self.has_ended => Some(NotReplayable::NothingCalled(self.id)),
            _ if self.has_body => None,
            _ if self.has_failed => Some(NotReplayable::NoBody(self.id)),
            _ => Some(NotReplayable::BodyExpired(self.id)),
        }
    }
}

/// Failed calls of finished events that nobody has replayed; `$1` and `$2` are a [`FailedFilter`]. It
/// begins with the calls, because there is an index of those that failed.
const FAILED: &str = "FROM outhook_call c JOIN outhook_event e ON e.id = c.event_id
    WHERE c.state = 2 AND e.state = 1
      AND ($1 IS NULL OR e.bot_id = $1) AND ($2 IS NULL OR e.taken_at >= $2)
      AND NOT EXISTS (SELECT 1 FROM outhook_event r WHERE r.replay_of = e.id)";

/// What a [`Replayed`] is read from.
pub(super) const RETURNING: &str = "RETURNING id AS event_id, replay_of, bot_id, message_id, replay";

impl Store {
    /// Why some of these events can't be replayed, in the order of their ids.
    pub(crate) async fn refuse_replays(
        &self,
        events: &[EventId],
        calls: CallsAgain,
    ) -> Result<Vec<NotReplayable>, StoreError> {
        let among = among(self.backend(), 1);
        let sql = format!(
            "SELECT e.id, e.state, e.payload IS NOT NULL AS has_body,
                EXISTS (SELECT 1 FROM outhook_call c WHERE c.event_id = e.id AND c.state = 2) AS has_failed,
                EXISTS (SELECT 1 FROM outhook_call c WHERE c.event_id = e.id AND c.state IN (1, 2)) AS has_ended,
                (SELECT max(d.id) FROM outhook_dead_letter d
                 WHERE d.event_id = e.id AND d.replayed_by IS NULL) AS letter
             FROM outhook_event e WHERE e.id {among}"
        );
        let query = statement(self.backend(), sql, [ids(self.backend(), events)]);
        let found = Candidate::find_by_statement(query).all(self.db()).await?;
        let refusal = |event: &EventId| match found.iter().find(|candidate| candidate.id == *event) {
            Some(candidate) => candidate.refusal(calls),
            None => Some(NotReplayable::Unknown(*event)),
        };
        Ok(events.iter().filter_map(refusal).collect())
    }

    /// How many failed events there are that pass the filter and were not replayed yet.
    pub(crate) async fn count_failed_events(&self, filter: FailedFilter) -> Result<FailedEvents, StoreError> {
        let sql = format!(
            "SELECT count(DISTINCT e.id) AS failed,
                count(DISTINCT CASE WHEN e.payload IS NOT NULL THEN e.id END) AS replayable,
                COALESCE(max(e.id), 0) AS last {FAILED}"
        );
        let values = [filter.bot.into(), filter.since.into()];
        let counted = FailedEvents::find_by_statement(statement(self.backend(), sql, values));
        let none = FailedEvents { failed: 0, replayable: 0, last: 0 };
        Ok(counted.one(self.db()).await?.unwrap_or(none))
    }

    /// The next failed events, oldest first, whose ids are higher than `after` and not higher than `last`.
    pub(crate) async fn failed_events_between(
        &self,
        filter: FailedFilter,
        (after, last): (EventId, EventId),
        rows_max: usize,
    ) -> Result<Vec<EventId>, StoreError> {
        let sql = format!(
            "SELECT e.id {FAILED} AND e.payload IS NOT NULL AND c.event_id > $3 AND c.event_id <= $4
             ORDER BY c.event_id LIMIT $5"
        );
        let values = [filter.bot.into(), filter.since.into(), after.into(), last.into(), as_i64(rows_max)];
        let rows = self.db().query_all_raw(statement(self.backend(), sql, values)).await?;
        let mut events = rows.iter().map(|row| row.try_get("", "id")).collect::<Result<Vec<EventId>, _>>()?;
        // An event has a row for each of its calls that failed.
        events.dedup();
        Ok(events)
    }

    /// Puts finished events into the inbox again, in this order and in one transaction. Returns what
    /// repeats them; those that can't be replayed any more are left out.
    pub(crate) async fn replay_events(
        &self,
        events: Vec<EventId>,
        calls: CallsAgain,
        before: ReplayedBefore,
    ) -> Result<Vec<Replayed>, StoreError> {
        self.write_behind(HISTORY_LOCK, Step::Replay, move |transaction| async move {
            let mut replayed = Vec::with_capacity(events.len());
            for event in events {
                replayed.extend(replay_event(&transaction, event, calls, before).await?);
            }
            announce(&transaction).await?;
            Ok(replayed)
        })
        .await
    }
}

/// The row of the repetition, and the calls that it makes: they fix its services.
async fn replay_event(
    transaction: &Transaction,
    event: EventId,
    calls: CallsAgain,
    before: ReplayedBefore,
) -> Result<Option<Replayed>, DbErr> {
    let backend = transaction.get_database_backend();
    let states = match calls {
        CallsAgain::Failed => "= 2",
        CallsAgain::All => "IN (1, 2)",
    };
    let only = match before {
        ReplayedBefore::Again => "",
        ReplayedBefore::Skipped => "AND NOT EXISTS (SELECT 1 FROM outhook_event r WHERE r.replay_of = e.id)",
    };
    let sql = format!(
        "INSERT INTO outhook_event
            (bot_id, message_id, replay, conversation, state, due, taken_at, payload, replay_of)
         SELECT e.bot_id, e.message_id,
            (SELECT max(m.replay) FROM outhook_event m
             WHERE m.bot_id = e.bot_id AND m.message_id = e.message_id) + 1,
            e.conversation, 0, $2, $2, e.payload, e.id
         FROM outhook_event e WHERE e.id = $1 AND e.state = 1 AND e.payload IS NOT NULL {only}
           AND EXISTS (SELECT 1 FROM outhook_call c WHERE c.event_id = e.id AND c.state {states})
         {RETURNING}"
    );
    let values = [event.into(), now().into()];
    let Some(row) = transaction.query_one_raw(statement(backend, sql, values)).await? else {
        return Ok(None);
    };
    let replayed = Replayed::from_query_result(&row, "")?;
    let sql = format!(
        "INSERT INTO outhook_call (event_id, service_id, service_name, state, attempts, duration_ms)
         SELECT $2, c.service_id, c.service_name, 0, 0, 0 FROM outhook_call c
         WHERE c.event_id = $1 AND c.state {states}"
    );
    let values = [event.into(), replayed.event_id.into()];
    transaction.execute_raw(statement(backend, sql, values)).await?;
    Ok(Some(replayed))
}
