//! HistoryActor: removes what was kept for its time (`[history]`), a few rows at a time, so that it holds up
//! nobody's work.
//!
//! It goes through each kind of old rows from the oldest on, in passes. Rows that are still needed are passed
//! over, and looked at again in the next pass.

use std::time::{Duration, Instant};

use actix::{Actor, ActorContext, AsyncContext, Context, Handler};
use outhook_core::identity::Millis;

use crate::{
    config::history::History,
    database_job::{DatabaseJob, Ended},
    fail_points,
    health::Health,
    mailbox::takes_mail,
    messages::drain::Stop,
    store::{Expiring, HistoryPlace, Pruned, Store, now},
};

/// The most rows that one transaction looks at.
const BATCH_ROWS_MAX: usize = 200;
/// The shortest pause between two transactions; it is as long as the last one took, if that was longer.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// Passes follow each other after this share of the shortest time: rows stay so much longer at most …
const REST_SHARE: u32 = 60;
/// … within these limits.
const REST_MIN: Duration = Duration::from_secs(1);
const REST_MAX: Duration = Duration::from_secs(3600);

/// See the module.
pub(crate) struct HistoryActor {
    store: Store,
    health: Health,
    job: DatabaseJob,
    keep: History,
    /// How far the pass has come.
    expiring: Expiring,
    place: HistoryPlace,
    /// Rows of this kind that the pass has removed.
    removed: usize,
    /// The role lacks the rights, and the operator knows.
    is_forbidden: bool,
}

/// What came of a batch.
enum Batch {
    Pruned(Pruned),
    /// The role lacks the rights; what an operator is told.
    Forbidden(Option<String>),
}

impl HistoryActor {
    /// A new generation.
    pub(crate) fn new(store: Store, health: Health, config: &History) -> Self {
        Self {
            job: DatabaseJob::new("history", &health),
            store,
            health,
            keep: config.clone(),
            expiring: Expiring::Events,
            place: HistoryPlace::default(),
            removed: 0,
            is_forbidden: false,
        }
    }

    fn prune(&mut self, context: &mut Context<Self>) {
        if self.health.is_draining() {
            return;
        }
        let (store, expiring, place, began) = (self.store.clone(), self.expiring, self.place, Instant::now());
        let before = now() - Millis::try_from(self.kept_for().as_millis()).unwrap_or(Millis::MAX);
        let job = async move {
            match store.prune(expiring, before, place, BATCH_ROWS_MAX).await {
                Err(error) if error.is_missing_right() => Ok(Batch::Forbidden(store.keeps_history().await?)),
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

    fn kept_for(&self) -> Duration {
        match self.expiring {
            Expiring::Events => self.keep.keep,
            Expiring::Bodies | Expiring::Texts => self.keep.keep_bodies,
            Expiring::Letters => self.keep.keep_dead_letters,
        }
    }

    /// Notes what came of a batch, and says how long to wait before the next.
    fn pruned(&mut self, ended: Ended<Batch>, took: Duration) -> Duration {
        match ended {
            Ended::Done(Batch::Pruned(Pruned { rows, next })) => {
                if self.expiring == Expiring::Events {
                    metrics::counter!("outhook_history_pruned_total").increment(rows as u64);
                }
                self.removed += rows;
                match next {
                    Some(place) => {
                        self.place = place;
                        took.max(PAUSE_MIN)
                    }
                    None => self.end_kind(),
                }
            }
            Ended::Done(Batch::Forbidden(sentence)) => {
                let is_news = !std::mem::replace(&mut self.is_forbidden, true);
                if let Some(sentence) = sentence.filter(|_| is_news) {
                    log::warn!("{sentence}");
                }
                self.end_kind()
            }
            Ended::Again => Duration::ZERO,
            Ended::Failed(error) => {
                log::error!("what is older than [history] keeps it can't be removed: {error}");
                self.end_kind()
            }
        }
    }

    /// Goes on with the next kind of rows, after the last one with the next pass.
    fn end_kind(&mut self) -> Duration {
        if self.removed > 0 {
            self.report();
        }
        (self.place, self.removed) = (HistoryPlace::default(), 0);
        let (next, wait) = match self.expiring {
            Expiring::Events => (Expiring::Bodies, PAUSE_MIN),
            Expiring::Bodies => (Expiring::Texts, PAUSE_MIN),
            Expiring::Texts => (Expiring::Letters, PAUSE_MIN),
            Expiring::Letters => (Expiring::Events, self.rest()),
        };
        self.expiring = next;
        wait
    }

    fn report(&self) {
        let removed = self.removed;
        match self.expiring {
            Expiring::Events => log::info!("{removed} events older than history.keep were deleted"),
            Expiring::Bodies => {
                log::debug!("{removed} events older than history.keep_bodies lost their body");
            }
            Expiring::Texts => {
                log::debug!("{removed} replies older than history.keep_bodies lost their text");
            }
            Expiring::Letters => log::warn!(
                "{removed} dead letters older than history.keep_dead_letters were deleted; nobody had replayed or \
                 dropped them"
            ),
        }
    }

    fn rest(&self) -> Duration {
        let shortest = self.keep.keep.min(self.keep.keep_bodies).min(self.keep.keep_dead_letters);
        (shortest / REST_SHARE).clamp(REST_MIN, REST_MAX)
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
