//! The session by which the other daemons see that this process lives.

use std::time::Instant;

use actix::{ActorFutureExt, AsyncContext, Context, WrapFuture};
use outhook_core::identity::DaemonId;

use super::{LeaseActor, sightings::SESSION_GRACE};
use crate::{
    messages::settled::DueAt,
    store::{News, Session, now},
};

impl LeaseActor {
    /// Opens the session that shows that this process lives, and again whenever it is lost.
    pub(super) fn open_session(&mut self, context: &mut Context<Self>) {
        let (store, daemon) = (self.links.store.clone(), self.tenure.daemon());
        let open = async move { store.open_session(daemon).await };
        self.opening.begin_stubbornly(
            context,
            |actor| &mut actor.opening,
            open,
            move |actor, opened, context| {
                match opened {
                    _ if daemon != actor.tenure.daemon() => {}
                    Some(session) => {
                        actor.has_session = true;
                        // What was put into the inbox before is found by looking now.
                        actor.heard(News::Inbox, context);
                        actor.heard(News::Daemons, context);
                        Self::wait_for_news(session, daemon, actor, context);
                    }
                    None => actor.open_session(context),
                }
            },
        );
    }

    fn heard(&mut self, news: News, context: &mut Context<Self>) {
        match news {
            News::Daemons => self.look(context),
            News::Inbox => self.links.queue.send(DueAt(now())),
        }
    }

    fn wait_for_news(mut session: Session, daemon: DaemonId, actor: &mut Self, context: &mut Context<Self>) {
        let wait = async move { session.news().await.map(|news| (session, news)) };
        context.spawn(wait.into_actor(actor).map(move |news, actor, context| match news {
            // A session of the tenure before; dropping it ends it.
            _ if daemon != actor.tenure.daemon() => {}
            Ok((session, news)) => {
                actor.heard(news, context);
                Self::wait_for_news(session, daemon, actor, context);
            }
            Err(error) => {
                log::debug!("the session of daemon {daemon}: {error}");
                actor.has_session = false;
                actor.sightings.lose_sight();
                actor.tenure.holds_no_longer_than(Instant::now() + SESSION_GRACE / 2);
                actor.open_session(context);
            }
        }));
    }
}
