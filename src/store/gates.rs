//! What keeps services from being called, as it is written down. Services that may be called have no row,
//! unless an operator has resumed them: the daemon that remembers a closed gate has to read of it
//! ([`StoredGate::resumed_at`]).

use std::collections::{BTreeMap, btree_map::Entry};

use entity::outhook::gate::Reason;
use outhook_core::{
    gate::{self, Closed, Gate},
    identity::{Millis, ServiceId},
};
use sea_orm::{ActiveEnum, ConnectionTrait, DbErr, Value};

use super::{
    Store, StoreError,
    pool::Transaction,
    sql::{clean, now, statement},
    wake::announce,
};
use crate::fail_points::Step;

/// What keeps a service from being called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredGate {
    /// Why.
    pub(crate) reason: Reason,
    /// Until when; `None` until an operator resumes it.
    pub(crate) until: Option<Millis>,
    /// When that was decided.
    pub(crate) since: Millis,
    /// Why, in words.
    pub(crate) detail: String,
    /// Failures in a row.
    pub(crate) failures: u32,
    /// How often the breaker closed the gate without an answer in between.
    pub(crate) openings: u32,
}

impl StoredGate {
    /// Whether only an operator opens it.
    pub(crate) fn is_paused(&self) -> bool {
        matches!(self.reason, Reason::Paused | Reason::Gone)
    }

    /// The moment at which an operator resumed it: what closed its gate before that counts no more.
    pub(crate) fn resumed_at(&self) -> Option<Millis> {
        (self.reason == Reason::Resumed).then_some(self.since)
    }

    /// A gate that goes on from here, if it is closed until a moment.
    pub(crate) fn restored(&self) -> Option<Gate> {
        let reason = match self.reason {
            Reason::Breaker => gate::Reason::Breaker,
            Reason::RetryAfter => gate::Reason::RetryAfter,
            Reason::Paused | Reason::Gone | Reason::Resumed => return None,
        };
        Some(Gate::restored(Closed { until: self.until?, reason }, self.failures, self.openings))
    }
}

/// The stable name under which a reason is shown.
pub(crate) const fn reason_name(reason: Reason) -> &'static str {
    match reason {
        Reason::Breaker => "breaker",
        Reason::RetryAfter => "retry_after",
        Reason::Paused => "paused",
        Reason::Gone => "gone",
        Reason::Resumed => "resumed",
    }
}

/// How a call has changed the gate of its service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum GateChange {
    /// Calls may be made as they come.
    Opened,
    /// None may be made for a while.
    Closed {
        /// The gate, closed.
        gate: Gate,
        /// Why, in words.
        detail: String,
    },
    /// None may be made until an operator resumes the service: its endpoint said that it is gone.
    Gone {
        /// That, in words.
        detail: String,
    },
}

/// A change, and when it was decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DatedChange {
    /// The change.
    pub(crate) change: GateChange,
    /// The moment: a later resume outlasts it, whenever it is written down.
    pub(crate) at: Millis,
}

/// What became of the wish to pause a service, or to resume it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pausing {
    /// There is no such service.
    Unknown,
    /// It is as wished now.
    Changed,
    /// It was so before.
    Unchanged,
}

/// Adds a change to others that came before it: the last one counts, but only an operator ends a pause.
pub(super) fn merge(changes: &mut BTreeMap<ServiceId, DatedChange>, service: ServiceId, change: DatedChange) {
    match changes.entry(service) {
        Entry::Vacant(free) => {
            free.insert(change);
        }
        Entry::Occupied(known) if is_gone(known.get()) && !is_gone(&change) => {}
        Entry::Occupied(mut known) => {
            known.insert(change);
        }
    }
}

fn is_gone(change: &DatedChange) -> bool {
    matches!(change.change, GateChange::Gone { .. })
}

/// A condition: the row outlasts a change of the moment in one parameter, the present being in another. Only
/// an operator ends a pause, and a resume takes back what was before it; but one of a moment that is still to
/// come, since the clock was put back, would take back all that happens until then.
fn stays(at: usize, now: usize) -> String {
    let [paused, gone, resumed] =
        [Reason::Paused, Reason::Gone, Reason::Resumed].map(|reason| reason.to_value());
    format!(
        "(outhook_gate.reason IN ({paused}, {gone})
          OR outhook_gate.reason = {resumed} AND outhook_gate.since BETWEEN ${at} AND ${now})"
    )
}

impl Store {
    /// How many services are called no more until an operator resumes them, by each reason.
    pub(crate) async fn count_paused_services(&self) -> Result<Vec<(Reason, i64)>, StoreError> {
        self.read(|store| async move {
            let mut counts = Vec::new();
            for reason in [Reason::Paused, Reason::Gone] {
                let sql = "SELECT count(*) AS services FROM outhook_gate g
                    JOIN zerver_service s ON s.id = g.service_id WHERE g.reason = $1";
                let query = statement(store.backend(), sql, [reason.to_value().into()]);
                let row = store.db().query_one_raw(query).await?;
                counts.push((reason, row.map_or(Ok(0), |row| row.try_get("", "services"))?));
            }
            Ok(counts)
        })
        .await
    }

    /// Pauses a service until it is resumed.
    pub(crate) async fn pause_service(&self, service: ServiceId) -> Result<Pausing, StoreError> {
        self.change_pause(service, true).await
    }

    /// Ends a pause, whoever began it, and opens a closed gate. What waits for the service is due now.
    pub(crate) async fn resume_service(&self, service: ServiceId) -> Result<Pausing, StoreError> {
        self.change_pause(service, false).await
    }

    async fn change_pause(&self, service: ServiceId, pauses: bool) -> Result<Pausing, StoreError> {
        self.write(Step::ChangePause, move |transaction| async move {
            if !exists(&transaction, service).await? {
                return Ok(Pausing::Unknown);
            }
            let changed = if pauses {
                let row =
                    Row { reason: Reason::Paused, since: now(), gate: None, detail: "paused by command" };
                // No resume outlasts it.
                write(&transaction, (service, Millis::MAX), row).await?
            } else {
                resume(&transaction, service).await?
            };
            Ok(if changed > 0 { Pausing::Changed } else { Pausing::Unchanged })
        })
        .await
    }
}

async fn exists(transaction: &Transaction, service: ServiceId) -> Result<bool, DbErr> {
    let sql = "SELECT 1 FROM zerver_service WHERE id = $1";
    let query = statement(transaction.get_database_backend(), sql, [service.into()]);
    Ok(transaction.query_one_raw(query).await?.is_some())
}

/// Returns how many gates were opened: none if nothing keeps the service from being called.
///
/// Locks rows in the order of a settlement, calls before gates before events: each waits for rows of the
/// other.
async fn resume(transaction: &Transaction, service: ServiceId) -> Result<u64, DbErr> {
    let moment = now();
    call_forward(transaction, service, moment).await?;
    let opened = open(transaction, service, moment).await?;
    if opened > 0 {
        // The call that closed the gate may have been written down while the gate's row was waited for.
        call_forward(transaction, service, moment).await?;
    }
    go_on(transaction, service, moment).await?;
    announce(transaction).await?;
    Ok(opened)
}

/// The row stays, so that the daemon reads of it. Its moment is no earlier than what it takes back, whatever
/// this machine's clock says.
async fn open(transaction: &Transaction, service: ServiceId, moment: Millis) -> Result<u64, DbErr> {
    let sql = "UPDATE outhook_gate SET reason = $2, closed_until = NULL, detail = 'resumed by command',
            since = CASE WHEN since < $3 THEN $3 ELSE since END, failures = 0, openings = 0
        WHERE service_id = $1 AND reason <> $2";
    let values = [service.into(), Reason::Resumed.to_value().into(), moment.into()];
    let update = statement(transaction.get_database_backend(), sql, values);
    Ok(transaction.execute_raw(update).await?.rows_affected())
}

/// A condition: the bot is that of the service `$1`. There is an index for the unfinished events of a bot,
/// and none for the calls of a service.
const OF_ITS_BOT: &str = "bot_id = (SELECT s.user_profile_id FROM zerver_service s WHERE s.id = $1)";

/// Makes the calls due that wait for a service.
async fn call_forward(transaction: &Transaction, service: ServiceId, moment: Millis) -> Result<(), DbErr> {
    let sql = format!(
        "UPDATE outhook_call SET due = $2 WHERE service_id = $1 AND state = 0 AND due > $2
            AND event_id IN (SELECT id FROM outhook_event WHERE state = 0 AND {OF_ITS_BOT})"
    );
    let update = statement(transaction.get_database_backend(), sql, [service.into(), moment.into()]);
    transaction.execute_raw(update).await?;
    Ok(())
}

/// Makes the events due whose calls of a service are; and one event of its bot in any case, so that the
/// daemon looks at a bot that it holds back as a whole.
async fn go_on(transaction: &Transaction, service: ServiceId, moment: Millis) -> Result<(), DbErr> {
    let backend = transaction.get_database_backend();
    for sql in [
        format!(
            "UPDATE outhook_event SET due = $2 WHERE state = 0 AND due > $2 AND {OF_ITS_BOT}
                AND EXISTS (SELECT 1 FROM outhook_call c WHERE c.event_id = outhook_event.id
                    AND c.service_id = $1 AND c.state = 0 AND c.due <= $2)"
        ),
        format!(
            "UPDATE outhook_event SET due = $2 WHERE id = (
                SELECT min(id) FROM outhook_event WHERE state = 0 AND due IS NULL AND {OF_ITS_BOT})"
        ),
    ] {
        transaction.execute_raw(statement(backend, sql, [service.into(), moment.into()])).await?;
    }
    Ok(())
}

/// Deletes rows of services that are there no more, at most `rows_max`. Returns how many.
pub(super) async fn delete_of_removed_services(
    transaction: &Transaction,
    rows_max: usize,
) -> Result<usize, DbErr> {
    let sql = format!(
        "DELETE FROM outhook_gate WHERE service_id IN (
            SELECT g.service_id FROM outhook_gate g
            WHERE NOT EXISTS (SELECT 1 FROM zerver_service s WHERE s.id = g.service_id) LIMIT {rows_max})"
    );
    let delete = statement(transaction.get_database_backend(), sql, []);
    let deleted = transaction.execute_raw(delete).await?.rows_affected();
    Ok(usize::try_from(deleted).unwrap_or(rows_max))
}

/// Writes down how calls have changed gates. A pause stays, and so does a resume that came later.
pub(super) async fn change_gates(
    transaction: &Transaction,
    changes: BTreeMap<ServiceId, DatedChange>,
) -> Result<(), DbErr> {
    for (service, DatedChange { change, at }) in changes {
        match change {
            GateChange::Opened => forget(transaction, (service, at)).await?,
            GateChange::Closed { gate, detail } => {
                let Some(closed) = gate.closed() else { continue };
                let reason = match closed.reason {
                    gate::Reason::Breaker => Reason::Breaker,
                    gate::Reason::RetryAfter => Reason::RetryAfter,
                };
                let row = Row { reason, since: at, gate: Some(gate), detail: &detail };
                write(transaction, (service, at), row).await?;
            }
            GateChange::Gone { detail } => {
                let row = Row { reason: Reason::Gone, since: at, gate: None, detail: &detail };
                write(transaction, (service, at), row).await?;
            }
        }
    }
    Ok(())
}

async fn forget(transaction: &Transaction, (service, at): (ServiceId, Millis)) -> Result<(), DbErr> {
    let sql = format!("DELETE FROM outhook_gate WHERE service_id = $1 AND NOT {}", stays(2, 3));
    let values = [service.into(), at.into(), now().into()];
    let delete = statement(transaction.get_database_backend(), sql, values);
    transaction.execute_raw(delete).await?;
    Ok(())
}

struct Row<'a> {
    reason: Reason,
    since: Millis,
    gate: Option<Gate>,
    detail: &'a str,
}

/// Writes down what keeps a service from being called. Returns how many rows were written: none if the
/// service is paused or was resumed after `at`.
async fn write(
    transaction: &Transaction,
    (service, at): (ServiceId, Millis),
    row: Row<'_>,
) -> Result<u64, DbErr> {
    let sql = format!(
        "INSERT INTO outhook_gate (service_id, reason, closed_until, since, detail, failures, openings)
         VALUES ($1, $2, $3, $4, $5, $6, $7)
         ON CONFLICT (service_id) DO UPDATE SET reason = excluded.reason, closed_until = excluded.closed_until,
             since = excluded.since, detail = excluded.detail, failures = excluded.failures,
             openings = excluded.openings
         WHERE NOT {}",
        stays(8, 9)
    );
    let gate = row.gate.unwrap_or_default();
    let values: [Value; 9] = [
        service.into(),
        row.reason.to_value().into(),
        gate.closed().map(|closed| closed.until).into(),
        row.since.into(),
        clean(row.detail).into(),
        as_i32(gate.failures()).into(),
        as_i32(gate.openings()).into(),
        at.into(),
        now().into(),
    ];
    let upsert = statement(transaction.get_database_backend(), sql, values);
    Ok(transaction.execute_raw(upsert).await?.rows_affected())
}

fn as_i32(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_changes_the_last_one_counts_but_none_ends_a_pause() {
        let closed = || GateChange::Closed { gate: Gate::default(), detail: String::new() };
        let gone = || GateChange::Gone { detail: String::new() };
        let mut changes = BTreeMap::new();
        for (at, change) in (0..).zip([closed(), GateChange::Opened]) {
            merge(&mut changes, 1, DatedChange { change, at });
        }
        for (at, change) in (0..).zip([closed(), gone(), closed(), GateChange::Opened]) {
            merge(&mut changes, 2, DatedChange { change, at });
        }
        let [opened, gone] = [GateChange::Opened, gone()].map(|change| DatedChange { change, at: 1 });
        assert_eq!(changes, BTreeMap::from([(1, opened), (2, gone)]));
    }
}
