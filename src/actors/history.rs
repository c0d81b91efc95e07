//! HistoryActor: deletes what was done with longer ago than `history.keep`, a few rows at a time, so that
//! it holds up nobody's work.
//!
//! It goes through the old rows from the oldest on, in passes. Rows that are still needed are passed over,
//! and looked at again in the next pass. A pass ends with the gates of services that were removed.

use std::time::{Duration, Instant};

use actix::{Actor, ActorContext, AsyncContext, Context, Handler};
use outhook_core::identity::Millis;

use crate::{
    database_job::{DatabaseJob, Ended},
    fail_points,
    health::Health,
    mailbox::takes_mail,
    messages::drain::Stop,
    store::{HistoryPlace, Pruned, Store, now},
};

/// The most events that one transaction looks at.
const BATCH_ROWS_MAX: usize = 200;
/// The shortest pause between two transactions; it is as long as the last one took, if that was longer.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// Passes follow each other after this share of `history.keep`: rows stay so much longer at most …
const REST_SHARE: u32 = 60;
/// … within these limits.
const REST_MIN: Duration = Duration::from_secs(1);
const REST_MAX: Duration = Duration::from_secs(3600);

/// See the module.
pub(crate) struct HistoryActor {
    store: Store,
    health: Health,
    job: DatabaseJob,
    keep: Duration,
    /// How far the pass has come.
    place: HistoryPlace,
    /// Events that the pass has deleted.
    deleted: usize,
    /// The role lacks the rights, and the operator knows.
    is_forbidden: bool,
}

/// What came of a batch.
enum Batch {
    Pruned(Pruned),
    /// The statements that grant the rights that are missing.
    Forbidden(Vec<String>),
}

impl HistoryActor {
    /// A new generation.
    pub(crate) fn new(store: Store, health: Health, config: &crate::config::history::History) -> Self {
        let job = DatabaseJob::new("history", &health);
        Self {
            store,
            health,
            job,
            keep: config.keep,
            place: HistoryPlace::default(),
            deleted: 0,
            is_forbidden: false,
        }
    }

    fn prune(&mut self, context: &mut Context<Self>) {
        if self.health.is_draining() {
            return;
        }
        let (store, place, began) = (self.store.clone(), self.place, Instant::now());
        let before = now() - Millis::try_from(self.keep.as_millis()).unwrap_or(Millis::MAX);
        let job = async move {
            match store.prune_history(before, place, BATCH_ROWS_MAX).await {
                Err(error) if error.is_missing_right() => {
                    Ok(Batch::Forbidden(store.missing_history_grants().await?))
                }
                pruned => pruned.map(Batch::Pruned),
            }
        };
        self.job.begin(
            context,
            |actor| &mut actor.job,
            job,
            move |actor, ended, context| {
                let wait = actor.pruned(ended, began.elapsed());
                context.run_later(wait, Self::prune);
            },
        );
    }

    /// Notes what came of a batch, and says how long to wait before the next.
    fn pruned(&mut self, ended: Ended<Batch>, took: Duration) -> Duration {
        match ended {
            Ended::Done(Batch::Pruned(Pruned { events, next })) => {
                self.is_forbidden = false;
                metrics::counter!("outhook_history_pruned_total").increment(events as u64);
                self.deleted += events;
                match next {
                    Some(place) => {
                        self.place = place;
                        took.max(PAUSE_MIN)
                    }
                    None => self.end_pass(),
                }
            }
            Ended::Done(Batch::Forbidden(grants)) => {
                if !std::mem::replace(&mut self.is_forbidden, true) {
                    log::warn!(
                        "nothing is deleted after history.keep, as outhook's role may not; a superuser lets it by: {}",
                        grants.join(" ")
                    );
                }
                self.end_pass()
            }
            Ended::Again => Duration::ZERO,
            Ended::Failed(error) => {
                log::error!("what is older than history.keep can't be deleted: {error}");
                self.end_pass()
            }
        }
    }

    fn end_pass(&mut self) -> Duration {
        if self.deleted > 0 {
            log::info!("{} events older than history.keep were deleted", self.deleted);
        }
        (self.place, self.deleted) = (HistoryPlace::default(), 0);
        (self.keep / REST_SHARE).clamp(REST_MIN, REST_MAX)
    }
}

impl Actor for HistoryActor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        fail_points::place("HistoryActor.started");
        self.prune(context);
    }
}

impl Handler<Stop> for HistoryActor {
    type Result = ();

    fn handle(&mut self, _: Stop, context: &mut Context<Self>) {
        context.stop();
    }
}

takes_mail!(HistoryActor: Stop);
