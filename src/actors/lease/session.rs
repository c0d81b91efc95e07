//! The session by which the other daemons see that this process lives.

use std::time::Instant;

use actix::{ActorFutureExt, AsyncContext, Context, WrapFuture};
use outhook_core::identity::DaemonId;

use super::{LeaseActor, SESSION_GRACE, SESSION_RETRY_DELAY};
use crate::store::Session;

impl LeaseActor {
    /// Opens the session that shows that this process lives, and again whenever it is lost.
    pub(super) fn open_session(&mut self, context: &mut Context<Self>) {
        let (store, daemon) = (self.links.store.clone(), self.tenure.daemon());
        let open = async move { store.open_session(daemon).await };
        context.spawn(open.into_actor(self).map(move |opened, actor, context| match opened {
            _ if daemon != actor.tenure.daemon() => {}
            Ok(session) => {
                actor.session_since = Some(Instant::now());
                actor.look(context);
                Self::wait_for_news(session, daemon, actor, context);
            }
            Err(error) => {
                log::debug!("opening the session of daemon {daemon}: {error}");
                context.run_later(SESSION_RETRY_DELAY, move |actor, context| {
                    if daemon == actor.tenure.daemon() {
                        actor.open_session(context);
                    }
                });
            }
        }));
    }

    fn wait_for_news(mut session: Session, daemon: DaemonId, actor: &mut Self, context: &mut Context<Self>) {
        let wait = async move { session.news().await.map(|()| session) };
        context.spawn(wait.into_actor(actor).map(move |news, actor, context| match news {
            // A session of the tenure before; dropping it ends it.
            _ if daemon != actor.tenure.daemon() => {}
            Ok(session) => {
                actor.look(context);
                Self::wait_for_news(session, daemon, actor, context);
            }
            Err(error) => {
                log::debug!("the session of daemon {daemon}: {error}");
                actor.session_since = None;
                actor.has_lost_session = true;
                actor.tenure.holds_no_longer_than(Instant::now() + SESSION_GRACE / 2);
                actor.open_session(context);
            }
        }));
    }
}
