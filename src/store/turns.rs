//! Whose turn it is: bots with due rows take turns, so that one with many holds up nobody.
//!
//! Bots and moments are asked for as the expressions of which the index `…_turn` of a table is made, so that
//! no other index serves. A planner would else choose by statistics that don't know of what has just come.

use outhook_core::{
    identity::{BotId, Millis},
    partition::Partitions,
};
use sea_orm::{ConnectionTrait, DbErr};

use super::{
    rows::LOWEST,
    sql::{among, as_i64, ids, in_partitions, members, statement},
};

/// Which of the bots with due rows in a table come next.
#[derive(Debug, Clone, Copy)]
pub(super) struct Round<'a> {
    pub(super) table: &'static str,
    /// The moment that rows are due by.
    pub(super) due_by: Millis,
    /// The bot behind which the round begins.
    pub(super) after: BotId,
    /// Bots that are passed over.
    pub(super) waiting: &'a [BotId],
    pub(super) bots_max: usize,
    pub(super) partitions: Partitions,
}

/// The next bots with due rows, in turn. The recursion jumps from one bot to the next, however many rows each
/// has.
pub(super) async fn bots_in_turn(
    connection: &impl ConnectionTrait,
    round: Round<'_>,
) -> Result<Vec<BotId>, DbErr> {
    let backend = connection.get_database_backend();
    let table = round.table;
    let (mine, waits) = (in_partitions("bots.bot_id", 3), among(backend, 4));
    let (bot, is_due) = (bot_of("n"), format!("{} > 0", moment_of("n")));
    let first = moment_of("d");
    let its = format!("{first} > 0 AND {} = bots.bot_id", bot_of("d"));
    let bots = |above: &str, up_to: &str| {
        format!(
            "WITH RECURSIVE bots (bot_id) AS (
                SELECT min({bot}) FROM {table} n WHERE {is_due} AND {bot} > {above}
                UNION ALL
                SELECT (SELECT min({bot}) FROM {table} n WHERE {is_due} AND {bot} > bots.bot_id)
                FROM bots WHERE bots.bot_id < {up_to}
             )
             SELECT bots.bot_id FROM bots
             WHERE bots.bot_id <= {up_to} AND {mine} AND NOT (bots.bot_id {waits})
               AND (SELECT min({first}) FROM {table} d WHERE {its}) <= $1"
        )
    };
    let (behind, before) = (bots("$2", &i64::MAX.to_string()), bots(LOWEST, "$2"));
    let sql = format!(
        "SELECT bot_id FROM ({behind}) behind UNION ALL SELECT bot_id FROM ({before}) before LIMIT $5"
    );
    let values = [
        round.due_by.into(),
        round.after.into(),
        members(round.partitions),
        ids(backend, round.waiting),
        as_i64(round.bots_max),
    ];
    let rows = connection.query_all_raw(statement(backend, sql, values)).await?;
    let mut bots: Vec<BotId> = rows.iter().map(|row| row.try_get("", "bot_id")).collect::<Result<_, _>>()?;
    // A database may give the rows in any order.
    bots.sort_unstable_by_key(|bot| (*bot <= round.after, *bot));
    Ok(bots)
}

/// A query for the first due rows of a bot, each with its `moment`. The moments are looked at last, so that a
/// planner that expects few of them does not sort all rows of the bot.
pub(super) fn first_due_rows(table: &str, bot: &str, due_by: &str, rows_max: &str) -> String {
    let (its, moment) = (bot_of("d"), moment_of("d"));
    format!(
        "SELECT first.* FROM (
            SELECT d.id, d.bot_id, d.conversation, {moment} AS moment FROM {table} d
            WHERE {its} = {bot} AND {moment} > 0 ORDER BY {moment}, d.id LIMIT {rows_max}
         ) first WHERE first.moment <= {due_by}"
    )
}

fn bot_of(row: &str) -> String {
    format!("{row}.bot_id + 0")
}

/// 0 if the row is not due at any moment.
fn moment_of(row: &str) -> String {
    format!("COALESCE({row}.due, 0)")
}
