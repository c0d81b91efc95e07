//! All SQL of the floor. Ids are cast to bigint, whatever type the tables give them.

use std::collections::HashSet;

use anyhow::Result;
use sea_orm::{
    ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DbBackend, DbErr, QueryResult, Statement,
    TransactionTrait, Value,
};

use crate::{Bot, Bots, Done, Event, Key};

const CREATE_TABLES: &str = "
    CREATE TABLE floor_event (
        bot_id bigint, message_id bigint, payload bytea, state smallint NOT NULL,
        PRIMARY KEY (bot_id, message_id));
    CREATE TABLE floor_call (
        bot_id bigint, message_id bigint, service_id bigint, status smallint NOT NULL,
        finished_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (bot_id, message_id, service_id))";

const LOAD_BOTS: &str = "
    SELECT bot.id::bigint AS bot_id, bot.email, bot.full_name,
           service.id::bigint AS service_id, service.base_url, service.token
    FROM zerver_service AS service JOIN zerver_userprofile AS bot ON bot.id = service.user_profile_id";

const STORE: &str = "
    INSERT INTO floor_event (bot_id, message_id, payload, state)
    SELECT bot_id, message_id, payload, 0
    FROM unnest($1::bigint[], $2::bigint[], $3::bytea[]) AS arrived (bot_id, message_id, payload)
    ON CONFLICT DO NOTHING
    RETURNING bot_id, message_id";

const FINISH_EVENTS: &str = "
    UPDATE floor_event AS event SET state = 1, payload = NULL
    FROM unnest($1::bigint[], $2::bigint[]) AS done (bot_id, message_id)
    WHERE event.bot_id = done.bot_id AND event.message_id = done.message_id";

const WRITE_LEDGER: &str = "
    INSERT INTO floor_call (bot_id, message_id, service_id, status)
    SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::smallint[])";

const FLAG: &str = "
    UPDATE zerver_usermessage AS message SET flags = message.flags | 1
    FROM unnest($1::bigint[], $2::bigint[]) AS done (bot_id, message_id)
    WHERE message.user_profile_id = done.bot_id AND message.message_id = done.message_id
        AND message.flags & 1 = 0";

/// Two connections: one for each of the two loops.
pub(crate) async fn connect(url: &str) -> Result<DatabaseConnection> {
    let mut options = ConnectOptions::new(url);
    options.max_connections(2).test_before_acquire(false).sqlx_logging(false);
    Ok(Database::connect(options).await?)
}

pub(crate) async fn create_tables(database: &DatabaseConnection) -> Result<()> {
    database.execute_unprepared(CREATE_TABLES).await?;
    Ok(())
}

pub(crate) async fn load_bots(database: &DatabaseConnection) -> Result<Bots> {
    let rows = database.query_all_raw(statement(LOAD_BOTS, [])).await?;
    rows.iter().map(|row| anyhow::Ok((row.try_get("", "bot_id")?, bot(row)?))).collect()
}

fn bot(row: &QueryResult) -> Result<Bot> {
    Ok(Bot {
        service_id: row.try_get("", "service_id")?,
        url: row.try_get::<String>("", "base_url")?.parse()?,
        token: row.try_get("", "token")?,
        email: row.try_get("", "email")?,
        full_name: row.try_get("", "full_name")?,
    })
}

/// Stores events, and returns those that were not there yet.
pub(crate) async fn store(database: &DatabaseConnection, mut events: Vec<Event>) -> Result<Vec<Event>> {
    let (bots, messages) = key_columns(events.iter().map(|event| event.key));
    let payloads: Vec<Vec<u8>> = events.iter().map(|event| event.payload.clone()).collect();
    let rows = database.query_all_raw(statement(STORE, [bots, messages, payloads.into()])).await?;
    let mut stored = rows.iter().map(key).collect::<Result<HashSet<Key>, DbErr>>()?;
    events.retain(|event| stored.remove(&event.key));
    Ok(events)
}

fn key(row: &QueryResult) -> Result<Key, DbErr> {
    Ok((row.try_get("", "bot_id")?, row.try_get("", "message_id")?))
}

/// Finishes events, writes the ledger and flags the messages, all or nothing.
pub(crate) async fn finish(database: &DatabaseConnection, batch: &[Done]) -> Result<()> {
    let (bots, messages) = key_columns(batch.iter().map(|done| done.key));
    let services: Vec<i64> = batch.iter().map(|done| done.service_id).collect();
    let statuses: Vec<i16> = batch.iter().map(|done| done.status).collect();

    let transaction = database.begin().await?;
    transaction.execute_raw(statement(FINISH_EVENTS, [bots.clone(), messages.clone()])).await?;
    let ledger = [bots.clone(), messages.clone(), services.into(), statuses.into()];
    transaction.execute_raw(statement(WRITE_LEDGER, ledger)).await?;
    transaction.execute_raw(statement(FLAG, [bots, messages])).await?;
    transaction.commit().await?;
    Ok(())
}

fn key_columns(keys: impl Iterator<Item = Key>) -> (Value, Value) {
    let (bots, messages): (Vec<i64>, Vec<i64>) = keys.unzip();
    (bots.into(), messages.into())
}

fn statement<const N: usize>(sql: &str, values: [Value; N]) -> Statement {
    Statement::from_sql_and_values(DbBackend::Postgres, sql, values)
}
