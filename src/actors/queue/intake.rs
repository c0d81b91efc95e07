//! Storing what was delivered, and acknowledging it once it is committed.

use std::collections::HashMap;

use actix::{ActorFutureExt, AsyncContext, Context, WrapFuture};
use outhook_core::{batch::batch_len, identity::BotId};

use super::{CurrentSession, QueueActor, jobs::Kind};
use crate::{
    actors::{EVENT_LOG, count_letter},
    broker::Delivery,
    database_job::{DatabaseJob, Ended},
    store::{DeadLetter, Intake, NewEvent, StoreError, Stored},
};

/// Deliveries that are being stored, and where they are acknowledged.
pub(super) struct Batch {
    deliveries: Vec<Delivery>,
    session: Option<CurrentSession>,
    /// It may have been committed without our hearing of it.
    again: bool,
}

impl Batch {
    fn number(&self) -> Option<u64> {
        self.session.as_ref().map(|session| session.number)
    }

    /// Failing means that the session has ended: the deliveries come again and are known then.
    async fn acknowledge(&self) {
        if let (Some(current), Some(last)) = (&self.session, self.deliveries.last())
            && let Err(error) = current.session.ack_up_to(last.tag).await
        {
            log::debug!("acknowledging: {error}");
        }
    }
}

impl QueueActor {
    /// Stores what has arrived while the last job was being done, and acknowledges it once it is
    /// committed.
    pub(super) fn store_deliveries(&mut self, context: &mut Context<Self>) {
        let rows = batch_len(self.deliveries.iter().map(|delivery| delivery.body.len()), self.batch_rows);
        let deliveries: Vec<Delivery> = self.deliveries.drain(..rows).collect();
        let again = deliveries.iter().any(|delivery| delivery.redelivered);
        let batch = Batch { deliveries, session: self.session.clone(), again };
        let bodies = batch.deliveries.iter().map(|delivery| delivery.body.as_slice());
        let intake = sort_out(bodies, self.event_bytes_max);
        let uncounted = self.quota.uncounted(intake.events.iter().map(|event| event.header.bot));
        let store = self.store.clone();
        let count = async move {
            if uncounted.is_empty() { Ok(HashMap::new()) } else { store.count_unfinished(uncounted).await }
        };
        self.storing().begin(context, Self::storing, count, |actor, counted, context| match counted {
            Ended::Done(counts) => {
                let intake = actor.within_quota(intake, counts);
                actor.store_batch(intake, batch, context);
            }
            Ended::Again => actor.store_again(batch, context),
            Ended::Failed(error) => actor.refused(batch, &error, context),
        });
    }

    fn store_batch(&mut self, intake: Intake, batch: Batch, context: &mut Context<Self>) {
        let (again, letters_per_bot, rows) = (batch.again, self.letters_per_bot, batch.deliveries.len());
        let store = self.store.clone();
        let job = async move { store.store_deliveries(intake, again, letters_per_bot).await };
        let line = (Self::storing as fn(&mut Self) -> &mut DatabaseJob, rows);
        self.storing().begin_batch(context, line, job, |actor, stored, context| match stored {
            Ended::Done(stored) => actor.stored(stored, batch, context),
            Ended::Again => actor.store_again(batch, context),
            Ended::Failed(error) => actor.refused(batch, &error, context),
        });
    }

    /// Handed out first: a bot need not wait for the broker.
    fn stored(&mut self, stored: Stored, batch: Batch, context: &mut Context<Self>) {
        metrics::histogram!("outhook_intake_rows").record(batch.deliveries.len() as f64);
        metrics::counter!("outhook_events_taken_total").increment(stored.rows as u64);
        self.batch_rows = self.batch_rows.saturating_mul(2).min(self.batch_rows_max);
        let began = self.lines.began(Kind::Store);
        for ticket in stored.held.iter().map(|taken| taken.event.ticket()) {
            if self.lines.is_reading() {
                self.newcomers.add(&ticket);
            }
            self.claiming.iter_mut().for_each(|found| found.newcomers.add(&ticket));
        }
        self.hand_out(stored.held, began);
        let acknowledge = async move { batch.acknowledge().await };
        context.spawn(acknowledge.into_actor(self).map(|(), actor, context| {
            actor.done(Kind::Store, context);
        }));
    }

    /// Puts a batch back where it was, unless its session has ended: then it comes again by itself. In front,
    /// because an acknowledgement of a later delivery would be one of these too; as redelivered ones, because
    /// they may have been stored without our hearing of it. Says whether they are there again.
    fn put_back(&mut self, batch: Batch) -> bool {
        let is_current = batch.number() == self.session.as_ref().map(|session| session.number);
        if is_current {
            for delivery in batch.deliveries.into_iter().rev() {
                self.deliveries.push_front(Delivery { redelivered: true, ..delivery });
            }
        }
        is_current
    }

    fn store_again(&mut self, batch: Batch, context: &mut Context<Self>) {
        self.put_back(batch);
        self.go_on_after(Kind::Store, context);
    }

    fn refused(&mut self, batch: Batch, error: &StoreError, context: &mut Context<Self>) {
        let rows = batch.deliveries.len();
        if self.put_back(batch) {
            self.isolate(rows, error, context);
        } else {
            self.go_on_after(Kind::Store, context);
        }
    }

    fn within_quota(&mut self, intake: Intake, counts: impl IntoIterator<Item = (BotId, usize)>) -> Intake {
        for (bot, unfinished) in counts {
            self.quota.counted(bot, unfinished);
        }
        let intake = intake.within(&mut self.quota);
        for event in &intake.overflow {
            log::warn!(
                target: EVENT_LOG,
                "bot {} message {}: dead-lettered: the bot has queue.stored_per_bot unfinished events already",
                event.header.bot, event.header.message
            );
            count_letter("overflow");
        }
        intake
    }

    /// The database refuses a batch: smaller ones are stored until the guilty delivery stands alone, which
    /// is then set aside.
    fn isolate(&mut self, rows: usize, error: &StoreError, context: &mut Context<Self>) {
        log::error!("the database refuses a batch of {rows} deliveries: {error}");
        if rows > 1 {
            self.batch_rows = rows / 2;
            return self.go_on_after(Kind::Store, context);
        }
        let Some(delivery) = self.deliveries.pop_front() else {
            return self.go_on_after(Kind::Store, context);
        };
        let detail = format!("it can't be stored as an event: {error}");
        let letter =
            DeadLetter { bot: None, message: None, reason: "poison", detail, payload: delivery.body.clone() };
        count_letter(letter.reason);
        let batch = Batch { deliveries: vec![delivery], session: self.session.clone(), again: false };
        let intake = Intake { dead: vec![letter], ..Intake::default() };
        let (store, letters_per_bot) = (self.store.clone(), self.letters_per_bot);
        let job = async move { store.store_deliveries(intake, false, letters_per_bot).await };
        // If not even that is stored, it waits for better times.
        self.storing().begin_stubbornly(context, Self::storing, job, |actor, stored, context| match stored {
            Some(stored) => actor.stored(stored, batch, context),
            None => actor.store_again(batch, context),
        });
    }
}

/// Tells events from what can't be one.
fn sort_out<'a>(bodies: impl Iterator<Item = &'a [u8]>, event_bytes_max: usize) -> Intake {
    let mut intake = Intake::default();
    for body in bodies {
        match read_delivery(body, event_bytes_max) {
            Ok(event) => intake.events.push(event),
            Err(letter) => {
                log::warn!(target: EVENT_LOG, "a delivery is dead-lettered: {}", letter.detail);
                count_letter(letter.reason);
                intake.dead.push(letter);
            }
        }
    }
    intake
}

/// Reads a delivery, or says why it is no event.
pub(crate) fn read_delivery(body: &[u8], event_bytes_max: usize) -> Result<NewEvent, DeadLetter> {
    let dead =
        |reason, detail| DeadLetter { bot: None, message: None, reason, detail, payload: body.to_vec() };
    if body.len() > event_bytes_max {
        let detail = format!("{} bytes are more than queue.max_event_bytes ({event_bytes_max})", body.len());
        return Err(dead("too_large", detail));
    }
    NewEvent::read(body).map_err(|malformed| dead("malformed", malformed.to_string()))
}
