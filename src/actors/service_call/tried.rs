//! What came of an attempt, as the outcome table and the handler read it.

use outhook_core::{
    answer::{Answer, Reply},
    excerpt::{excerpt, sentence},
    outcome::{Attempt, Failure, Fault, Verdict, judge},
};

use crate::handlers::Handler;

/// What came of an attempt.
pub(crate) struct Tried {
    /// What it means.
    pub(crate) verdict: Verdict,
    /// First bytes of an answer that was no success.
    pub(crate) excerpt: Option<Vec<u8>>,
    /// The reply that the answer holds.
    pub(crate) reply: Option<Reply>,
}

impl Tried {
    /// A failure for good that shows nothing of an answer.
    pub(super) fn failed(fault: Fault, detail: String) -> Self {
        let verdict = Verdict::Final(Failure { fault, status: None, detail });
        Self { verdict, excerpt: None, reply: None }
    }
}

/// Reads what an endpoint answered, by the outcome table and the handler. What is told of a failure may quote
/// others: the endpoint, its certificate, a proxy.
pub(crate) fn read_attempt(attempt: Attempt, handler: &dyn Handler, secrets: &[&str]) -> Tried {
    let mut tried = judge_attempt(attempt, handler, secrets);
    if let Verdict::Retry { failure, .. } | Verdict::Final(failure) = &mut tried.verdict {
        failure.detail = sentence(&failure.detail, secrets);
    }
    tried
}

fn judge_attempt(attempt: Attempt, handler: &dyn Handler, secrets: &[&str]) -> Tried {
    let kept = |body: &[u8]| Some(excerpt(body, secrets)).filter(|kept| !kept.is_empty());
    let (status, shown) = match &attempt {
        Attempt::Answered { status: status @ 200..=299, .. } => (Some(*status), None),
        Attempt::Answered { status, body, .. } => (Some(*status), kept(body)),
        Attempt::Failed { .. } | Attempt::Intercepted { .. } => (None, None),
    };
    match judge(attempt) {
        Verdict::Success { body } => match Answer::read(&body) {
            Ok(answer) => {
                let reply = handler.reply(&answer);
                Tried { verdict: Verdict::Success { body }, excerpt: None, reply }
            }
            Err(failure) => {
                let verdict = Verdict::Final(Failure { status, ..failure });
                Tried { verdict, excerpt: kept(&body), reply: None }
            }
        },
        verdict => Tried { verdict, excerpt: shown, reply: None },
    }
}
