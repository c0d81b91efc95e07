//! The one way in which an actor does something with the database: one job at a time, seen by health, and done
//! again after a while if the database is away.

use std::time::{Duration, Instant};

use actix::{Actor, ActorFutureExt, AsyncContext, Context, fut::wrap_future};

use crate::{backoff::Backoff, health::Health, store::StoreError};

/// A line of an actor's jobs, one behind the other.
pub(crate) struct DatabaseJob {
    name: &'static str,
    health: Health,
    backoff: Backoff,
    is_under_way: bool,
}

/// Finds a line in its actor.
type Line<A> = fn(&mut A) -> &mut DatabaseJob;

/// How a job ended.
#[derive(Debug)]
pub(crate) enum Ended<T> {
    /// It is done.
    Done(T),
    /// The database was away. The wait is over: the same may be tried again.
    Again,
    /// Trying again would not help.
    Failed(StoreError),
}

impl DatabaseJob {
    /// A line whose jobs are called `name` by whoever is told of trouble.
    pub(crate) fn new(name: &'static str, health: &Health) -> Self {
        Self::with_backoff(name, health, Backoff::for_servers())
    }

    /// The same with other waits.
    pub(crate) fn with_backoff(name: &'static str, health: &Health, backoff: Backoff) -> Self {
        Self { name, health: health.clone(), backoff, is_under_way: false }
    }

    /// There is nothing left to do on this line that could show whether the database answers.
    pub(crate) fn rest(&self) {
        self.health.withdraw(self.name);
    }

    /// Whether a job is under way, or the wait after one.
    pub(crate) fn is_under_way(&self) -> bool {
        self.is_under_way
    }

    /// Begins a job. `line` finds this line in the actor; `then` is told how the job ended, and may begin the
    /// next one.
    pub(crate) fn begin<A, T>(
        &mut self,
        context: &mut Context<A>,
        line: Line<A>,
        job: impl Future<Output = Result<T, StoreError>> + 'static,
        then: impl FnOnce(&mut A, Ended<T>, &mut Context<A>) + 'static,
    ) where
        A: Actor<Context = Context<A>>,
        T: 'static,
    {
        self.run(context, (line, StoreError::is_transient), job, then);
    }

    /// The same for a job that does several things at once: what the database refuses for its size has failed, and
    /// is to be begun again in smaller pieces.
    pub(crate) fn begin_batch<A, T>(
        &mut self,
        context: &mut Context<A>,
        (line, rows): (Line<A>, usize),
        job: impl Future<Output = Result<T, StoreError>> + 'static,
        then: impl FnOnce(&mut A, Ended<T>, &mut Context<A>) + 'static,
    ) where
        A: Actor<Context = Context<A>>,
        T: 'static,
    {
        let can_be_halved = |error: &StoreError| error.is_transient() && !error.is_too_large();
        let passes = if rows > 1 { can_be_halved } else { StoreError::is_transient };
        self.run(context, (line, passes), job, then);
    }

    /// The same for a job that must be done sooner or later, whatever the database says: `then` is told nothing if
    /// it is to be tried again.
    pub(crate) fn begin_stubbornly<A, T>(
        &mut self,
        context: &mut Context<A>,
        line: Line<A>,
        job: impl Future<Output = Result<T, StoreError>> + 'static,
        then: impl FnOnce(&mut A, Option<T>, &mut Context<A>) + 'static,
    ) where
        A: Actor<Context = Context<A>>,
        T: 'static,
    {
        let then = |actor: &mut A, ended, context: &mut Context<A>| match ended {
            Ended::Done(value) => then(actor, Some(value), context),
            Ended::Again | Ended::Failed(_) => then(actor, None, context),
        };
        self.run(context, (line, |_| true), job, then);
    }

    fn run<A, T>(
        &mut self,
        context: &mut Context<A>,
        (line, passes): (Line<A>, fn(&StoreError) -> bool),
        job: impl Future<Output = Result<T, StoreError>> + 'static,
        then: impl FnOnce(&mut A, Ended<T>, &mut Context<A>) + 'static,
    ) where
        A: Actor<Context = Context<A>>,
        T: 'static,
    {
        self.is_under_way = true;
        let running = self.health.database_job(self.name);
        context.spawn(wrap_future::<_, A>(job).map(
            move |result, actor: &mut A, context: &mut Context<A>| {
                drop(running);
                match result {
                    Ok(value) => {
                        line(actor).succeeded();
                        then(actor, Ended::Done(value), context);
                    }
                    Err(error) if passes(&error) => {
                        let wait = line(actor).failed(&error);
                        context.run_later(wait, move |actor, context| {
                            line(actor).is_under_way = false;
                            then(actor, Ended::Again, context);
                        });
                    }
                    Err(error) => {
                        // A refusal is an answer.
                        line(actor).succeeded();
                        then(actor, Ended::Failed(error), context);
                    }
                }
            },
        ));
    }

    fn succeeded(&mut self) {
        self.is_under_way = false;
        self.health.database_answers(self.name);
    }

    /// A daemon that ends has left: that the others count it out is no trouble.
    fn failed(&mut self, error: &StoreError) -> Duration {
        if !(matches!(error, StoreError::Fenced) && self.health.is_draining()) {
            self.health.database_is_away(self.name, error);
        }
        let wait = self.backoff.after_failure(Instant::now());
        log::debug!("database job {} is done again in {wait:?}: {error}", self.name);
        wait
    }
}

impl Drop for DatabaseJob {
    /// Its successor begins others, which need not fail.
    fn drop(&mut self) {
        self.health.withdraw(self.name);
    }
}
