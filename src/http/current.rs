//! The client of a thread, which follows a reload.

use std::{cell::RefCell, rc::Rc, sync::Arc};

use super::{Dialler, Resolver, WebhookClient};
use crate::settings::{Live, Settings};

/// Makes the client anew when the settings have changed: no connection outlives the rules under which it was
/// made, but for calls in flight, which end as they began.
pub(crate) struct CurrentClient {
    live: Live,
    user_agent: String,
    kept_max: usize,
    made: RefCell<Made>,
}

struct Made {
    of: Arc<Settings>,
    client: Rc<WebhookClient>,
}

impl CurrentClient {
    /// See [`WebhookClient::new`].
    pub(crate) fn new(live: Live, user_agent: &str, kept_max: usize) -> Self {
        let made = RefCell::new(Made::of(live.get(), user_agent, kept_max));
        Self { live, user_agent: user_agent.to_owned(), kept_max, made }
    }

    /// The client of the settings as they are now.
    pub(crate) fn get(&self) -> Rc<WebhookClient> {
        let (settings, mut made) = (self.live.get(), self.made.borrow_mut());
        if !Arc::ptr_eq(&made.of, &settings) {
            *made = Made::of(settings, &self.user_agent, self.kept_max);
        }
        Rc::clone(&made.client)
    }
}

impl Made {
    fn of(settings: Arc<Settings>, user_agent: &str, kept_max: usize) -> Self {
        let Settings { http, egress, resolver, route, .. } = &*settings;
        let resolver = Resolver::new(resolver, http.connect_timeout);
        let dialler = Dialler::new(Arc::clone(egress), resolver, route.interfaces.clone());
        let client = WebhookClient::new(http, route.clone(), dialler, user_agent, kept_max);
        Self { client: Rc::new(client), of: settings }
    }
}
