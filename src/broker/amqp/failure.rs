//! What went wrong at RabbitMQ, and what an operator can do about it.

use std::time::Duration;

use lapin::{Error, ErrorKind, uri::AMQPUri};

use crate::broker::BrokerError;

/// Why the broker has not done what it was asked for.
#[derive(Debug)]
pub(super) enum Failure {
    /// It refuses us, which trying again won't change.
    Denied(BrokerError),
    /// It does not answer, or not now.
    Away(BrokerError),
}

impl From<Failure> for BrokerError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Denied(error) | Failure::Away(error) => error,
        }
    }
}

/// A permission of a user on a queue, as RabbitMQ calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Permission {
    /// To declare a queue that does not exist.
    Configure,
    /// To publish.
    Write,
    /// To consume.
    Read,
}

impl Permission {
    const fn name(self) -> &'static str {
        match self {
            Self::Configure => "configure",
            Self::Write => "write",
            Self::Read => "read",
        }
    }
}

/// Whose connection it is, and for which queue.
#[derive(Debug, Clone)]
pub(super) struct Place {
    user: String,
    vhost: String,
    queue: String,
}

/// Reply codes of AMQP that an operator has to do something about: access refused, resource locked,
/// precondition failed, not allowed.
const DENIALS: [u16; 4] = [ACCESS_REFUSED, 405, 406, NOT_ALLOWED];
const ACCESS_REFUSED: u16 = 403;
const NOT_ALLOWED: u16 = 530;

/// How RabbitMQ ends a refusal for want of a permission; other refusals have the same codes.
const FOR_WANT_OF_PERMISSION: &str = "refused for user";

impl Place {
    pub(super) fn new(uri: &AMQPUri, queue: &str) -> Self {
        let user = uri.authority.userinfo.username.clone();
        Self { user, vhost: uri.vhost.clone(), queue: queue.to_owned() }
    }

    /// The answer to a request that needs this permission, if it comes in time.
    pub(super) async fn answer<T>(
        &self,
        needs: Permission,
        deadline: Duration,
        request: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Failure> {
        match tokio::time::timeout(deadline, request).await {
            Ok(answer) => answer.map_err(|error| self.failure(&error, needs)),
            Err(_) => Err(Failure::Away(BrokerError(format!("no answer within {deadline:?}")))),
        }
    }

    pub(super) fn failure(&self, error: &Error, needs: Permission) -> Failure {
        let ErrorKind::ProtocolError(refusal) = error.kind() else {
            return Failure::Away(BrokerError(error.to_string()));
        };
        let (code, said) = (refusal.get_id(), refusal.get_message().to_string());
        let said = BrokerError(match self.remedy(code, &said, needs) {
            Some(remedy) => format!("{said}: {remedy}"),
            None => said,
        });
        if DENIALS.contains(&code) { Failure::Denied(said) } else { Failure::Away(said) }
    }

    fn remedy(&self, code: u16, said: &str, needs: Permission) -> Option<String> {
        let Self { user, vhost, queue } = self;
        if said.contains(NOT_DURABLE) {
            return Some(
                "the queue is not durable, so a restart of the broker loses what is on it; delete it, and \
                outhook declares a durable one"
                    .into(),
            );
        }
        let lacks = match code {
            _ if !said.contains(FOR_WANT_OF_PERMISSION) => return None,
            ACCESS_REFUSED => format!("it lacks the {} permission", needs.name()),
            NOT_ALLOWED => "it has no permission in this virtual host".to_owned(),
            _ => return None,
        };
        let (vhost, user, queue) = (quoted(vhost), quoted(user), quoted(&format!("^{}$", pattern(queue))));
        Some(format!(
            "{lacks}. `rabbitmqctl set_permissions -p {vhost} {user} {queue} '^amq.default$' {queue}` grants what \
             outhook uses (to configure, write and read) in place of what the user has there"
        ))
    }
}

/// A name as a regular expression: what may have a meaning there becomes any character.
fn pattern(name: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "_-:/@ ".contains(c);
    name.chars().map(|c| if is_plain(c) { c } else { '.' }).collect()
}

/// A word of a shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// How RabbitMQ refuses to take a queue for a durable one.
const NOT_DURABLE: &str = "inequivalent arg 'durable'";

/// Whether a queue is refused because a restart of the broker empties it.
pub(super) fn is_not_durable(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::ProtocolError(refusal) if refusal.get_message().to_string().contains(NOT_DURABLE))
}

/// The reply code of a refusal.
pub(super) fn code(error: &Error) -> Option<u16> {
    match error.kind() {
        ErrorKind::ProtocolError(refusal) => Some(refusal.get_id()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remedy(code: u16, said: &str, needs: Permission) -> Option<String> {
        let uri: AMQPUri = "amqp://o'neill:x@broker/%2f".parse().expect("a URL");
        Place::new(&uri, "bots.out").remedy(code, said, needs)
    }

    #[test]
    fn a_missing_permission_is_named_with_its_command() {
        let said = "ACCESS_REFUSED - access to queue 'bots.out' in vhost '/' refused for user 'o'neill'";
        for (needs, name) in
            [(Permission::Configure, "configure"), (Permission::Write, "write"), (Permission::Read, "read")]
        {
            let told = remedy(403, said, needs).expect("a remedy");
            assert!(told.starts_with(&format!("it lacks the {name} permission")), "{told}");
            let command = r"`rabbitmqctl set_permissions -p '/' 'o'\''neill' '^bots.out$' '^amq.default$' '^bots.out$'`";
            assert!(told.contains(command), "{told}");
        }
        let told =
            remedy(530, "NOT_ALLOWED - access to vhost '/' refused for user 'o'neill'", Permission::Read);
        assert!(told.expect("a remedy").starts_with("it has no permission in this virtual host"));
    }

    #[test]
    fn other_refusals_are_told_in_the_words_of_the_broker() {
        for (code, said) in [
            (403, "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN"),
            (403, "ACCESS_REFUSED - queue 'q' in vhost '/' in exclusive use"),
            (530, "NOT_ALLOWED - vhost v not found"),
            (405, "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'q'"),
        ] {
            assert_eq!(remedy(code, said, Permission::Read), None, "{said}");
        }
    }
}
