//! What commands and pages show of the work that was done.

use entity::outhook::{call, event};
use outhook_core::identity::{BotId, Millis};
use sea_orm::{ActiveEnum, ConnectionTrait, FromQueryResult, Statement, Value};
use serde::Serialize;

use super::{Store, StoreError, sql::statement};

/// Which calls to show.
#[derive(Debug, Clone, Default)]
pub(crate) struct DeliveryFilter {
    /// Only this bot's.
    pub(crate) bot: Option<BotId>,
    /// Only this message's.
    pub(crate) message: Option<i64>,
    /// Only those that failed for good.
    pub(crate) failed: bool,
    /// Only of events taken since.
    pub(crate) since: Option<Millis>,
}

/// A call of the ledger, or an event that has none yet.
#[derive(Debug, Clone, Serialize, FromQueryResult)]
pub(crate) struct CallRow {
    /// The event's row.
    pub(crate) event_id: i64,
    /// Bot.
    pub(crate) bot_id: i64,
    /// Message.
    pub(crate) message_id: i64,
    /// Replay number.
    pub(crate) replay: i32,
    /// The event that this one repeats.
    pub(crate) replay_of: Option<i64>,
    /// The event's state.
    pub(crate) event_state: i16,
    /// When outhook took the event.
    pub(crate) taken_at: i64,
    /// Service, if a call is known.
    pub(crate) service_id: Option<i64>,
    /// Its name.
    pub(crate) service_name: Option<String>,
    /// The call's state.
    pub(crate) call_state: Option<i16>,
    /// Attempts made.
    pub(crate) attempts: Option<i32>,
    /// What went wrong, by name.
    pub(crate) fault: Option<String>,
    /// HTTP status.
    pub(crate) status: Option<i16>,
    /// What went wrong, in words.
    pub(crate) detail: Option<String>,
    /// Duration of the last attempt.
    pub(crate) duration_ms: Option<i32>,
    /// When the next attempt is due.
    pub(crate) due: Option<i64>,
    /// When the last attempt ended.
    pub(crate) ended_at: Option<i64>,
}

/// The service for whose gate a call of the ledger waits, if it is closed: its own, or of an event that has
/// not begun the first that opens, if all of its bot are closed.
const WAITS_FOR: &str = "CASE WHEN e.state = 0 AND c.state = 0 THEN c.service_id
    WHEN e.state = 0 AND c.event_id IS NULL AND NOT EXISTS (
        SELECT 1 FROM zerver_service s WHERE s.user_profile_id = e.bot_id AND NOT EXISTS (
            SELECT 1 FROM outhook_gate o WHERE o.service_id = s.id AND o.reason IN (0, 1)))
    THEN (SELECT o.service_id FROM outhook_gate o JOIN zerver_service s ON s.id = o.service_id
        WHERE s.user_profile_id = e.bot_id ORDER BY o.closed_until LIMIT 1) END";

/// One bot's share of a demonstration.
#[derive(Debug, Clone, FromQueryResult)]
pub(crate) struct BotSummary {
    /// Bot.
    pub(crate) bot_id: i64,
    /// Events taken.
    pub(crate) events: i64,
    /// Events finished.
    pub(crate) finished: i64,
    /// Calls of the ledger.
    pub(crate) calls: i64,
    /// Attempts beyond the first.
    pub(crate) retries: i64,
    /// Calls that failed for good.
    pub(crate) failures: i64,
    /// Replies in the outbox, posted or not.
    pub(crate) replies: i64,
}

impl Store {
    /// The ledger's newest rows that pass the filter, oldest first.
    pub(crate) async fn list_calls(
        &self,
        filter: &DeliveryFilter,
        rows_max: u64,
    ) -> Result<Vec<CallRow>, StoreError> {
        let mut rows = CallRow::find_by_statement(self.calls_query(filter, rows_max)).all(self.db()).await?;
        rows.reverse();
        Ok(rows)
    }

    fn calls_query(&self, filter: &DeliveryFilter, rows_max: u64) -> Statement {
        let mut values: Vec<Value> = Vec::new();
        let mut conditions = vec!["1 = 1".to_owned()];
        let mut require = |condition: &str, value: Value| {
            values.push(value);
            conditions.push(format!("{condition} ${}", values.len()));
        };
        if let Some(bot) = filter.bot {
            require("e.bot_id =", bot.into());
        }
        if let Some(message) = filter.message {
            require("e.message_id =", message.into());
        }
        if let Some(since) = filter.since {
            require("e.taken_at >=", since.into());
        }
        if filter.failed {
            require("c.state =", call::State::Failed.to_value().into());
        }
        values.push(i64::try_from(rows_max).unwrap_or(i64::MAX).into());
        let sql = format!(
            "SELECT e.id AS event_id, e.bot_id, e.message_id, e.replay, e.replay_of, e.state AS event_state, e.taken_at,
                c.service_id, c.service_name, c.state AS call_state, c.attempts, c.status, c.duration_ms, c.ended_at,
                COALESCE(c.fault, d.reason, CASE g.reason WHEN 0 THEN 'breaker' WHEN 1 THEN 'retry_after' END) AS fault,
                COALESCE(c.detail, d.detail, g.detail) AS detail,
                CASE WHEN c.state > 0 THEN NULL WHEN g.closed_until > COALESCE(c.due, e.due, 0)
                    THEN g.closed_until ELSE COALESCE(c.due, e.due) END AS due
             FROM outhook_event e LEFT JOIN outhook_call c ON c.event_id = e.id
             LEFT JOIN outhook_dead_letter d ON d.event_id = e.id AND e.state = 2
             LEFT JOIN outhook_gate g ON g.reason IN (0, 1) AND g.service_id = {WAITS_FOR}
             WHERE {} ORDER BY e.id DESC, c.service_id DESC LIMIT ${}",
            conditions.join(" AND "),
            values.len()
        );
        Statement::from_sql_and_values(self.backend(), sql, values)
    }

    /// Every bot's share, for the summary of a demonstration.
    pub(crate) async fn summarise_bots(&self) -> Result<Vec<BotSummary>, StoreError> {
        let sql = "SELECT e.bot_id, count(DISTINCT e.id) AS events,
                count(DISTINCT CASE WHEN e.state <> $1 THEN e.id END) AS finished,
                count(c.event_id) AS calls,
                COALESCE(sum(CASE WHEN c.attempts > 1 THEN c.attempts - 1 ELSE 0 END), 0) AS retries,
                count(CASE WHEN c.state = $2 THEN 1 END) AS failures,
                count(r.id) AS replies
            FROM outhook_event e
            LEFT JOIN outhook_call c ON c.event_id = e.id
            LEFT JOIN outhook_reply r ON r.event_id = c.event_id AND r.service_id = c.service_id
            GROUP BY e.bot_id ORDER BY e.bot_id";
        let values: [Value; 2] =
            [event::State::Unfinished.to_value().into(), call::State::Failed.to_value().into()];
        Ok(BotSummary::find_by_statement(statement(self.backend(), sql, values)).all(self.db()).await?)
    }

    /// For every finished event its bot and the time from storing it to committing its last outcome, in
    /// milliseconds.
    pub(crate) async fn event_latencies(&self) -> Result<Vec<(BotId, Millis)>, StoreError> {
        let sql = "SELECT bot_id, finished_at - taken_at AS latency FROM outhook_event WHERE finished_at IS NOT NULL";
        let rows = self.db().query_all_raw(statement(self.backend(), sql, [])).await?;
        let mut latencies = Vec::with_capacity(rows.len());
        for row in rows {
            latencies.push((row.try_get("", "bot_id")?, row.try_get("", "latency")?));
        }
        Ok(latencies)
    }
}
