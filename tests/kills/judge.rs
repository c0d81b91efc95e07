//! What a run is judged by: every request and every post one by one, against what each life of the daemon
//! has left committed.

use std::collections::{HashMap, HashSet};

use crate::support::{Attempt, Call, Request, form_field};

/// A reply: where it is posted, and what it says. The lines that tell of failures may be alike; then there
/// are several of them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Said {
    pub(super) stream: i64,
    pub(super) content: String,
}

/// What a life of the daemon has left committed.
#[derive(Default)]
pub(super) struct Left {
    pub(super) calls: HashMap<Call, Committed>,
    pub(super) replies: HashMap<Said, Rows>,
}

/// What is committed of a call.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Committed {
    pub(super) attempts: i64,
    pub(super) is_final: bool,
}

/// How many rows the outbox has of a reply.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Rows {
    pub(super) pending: usize,
    pub(super) posted: usize,
}

/// What can be under way at a kill.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    pub(super) calls: usize,
    pub(super) posts: usize,
}

/// Judges a run, life by life.
pub(super) struct Judge {
    limits: Limits,
    /// The stream of each message, which are numbered from 1.
    streams: Vec<i64>,
    left: Left,
    asked: HashSet<Attempt>,
    messages: HashSet<i64>,
    /// The last message of each stream that has begun.
    last: HashMap<i64, i64>,
    /// Requests judged so far.
    pub(super) requests: usize,
    /// Posts judged so far.
    pub(super) posts: usize,
    /// Attempts that were made again.
    pub(super) repeated: usize,
    /// Attempts that were under way at a kill, which may be made again.
    pub(super) repeated_max: usize,
    /// Messages that began after a later one of their conversation.
    pub(super) reordered: usize,
    /// Posts that were not recorded when the daemon ended, each of which is made again.
    pub(super) reposted: usize,
    /// What must not be.
    pub(super) faults: Vec<String>,
}

impl Said {
    /// What a post says.
    pub(super) fn of(post: &Request) -> Self {
        let stream = form_field(post, "to").unwrap().parse().unwrap();
        Self { stream, content: form_field(post, "content").unwrap() }
    }
}

impl Left {
    fn call(&self, call: Call) -> Committed {
        self.calls.get(&call).copied().unwrap_or_default()
    }

    fn posted(&self, said: &Said) -> usize {
        self.replies.get(said).map_or(0, |rows| rows.posted)
    }

    /// Whether this attempt must not be made any more.
    fn settles(&self, attempt: Attempt) -> bool {
        let committed = self.call(attempt.call);
        committed.is_final || attempt.number <= committed.attempts
    }

    /// Whether this attempt came after the one that ended its call.
    fn ends_before(&self, attempt: Attempt) -> bool {
        let committed = self.call(attempt.call);
        committed.is_final && attempt.number > committed.attempts
    }
}

impl Judge {
    /// Judges messages of these streams.
    pub(super) fn new(streams: Vec<i64>, limits: Limits) -> Self {
        Self {
            limits,
            streams,
            left: Left::default(),
            asked: HashSet::new(),
            messages: HashSet::new(),
            last: HashMap::new(),
            requests: 0,
            posts: 0,
            repeated: 0,
            repeated_max: 0,
            reordered: 0,
            reposted: 0,
            faults: vec![],
        }
    }

    /// Judges one life of the daemon by what it asked and what it posted, in order, and by what it left.
    pub(super) fn life(&mut self, asked: &[Attempt], posted: Vec<Said>, left: Left) {
        self.requests += asked.len();
        self.posts += posted.len();
        self.judge_order(asked);
        self.judge_attempts(asked, &left);
        self.judge_ledger(&left);
        self.judge_posts(posted, &left);
        self.left = left;
    }

    /// How many of the calls were never made, or have no final outcome.
    pub(super) fn lost(&self, expected: &[Call]) -> usize {
        let made: HashSet<Call> = self.asked.iter().map(|attempt| attempt.call).collect();
        expected.iter().filter(|call| !made.contains(*call) || !self.left.call(**call).is_final).count()
    }

    fn fault(&mut self, what: String) {
        self.faults.push(what);
    }

    fn judge_order(&mut self, asked: &[Attempt]) {
        for Attempt { call, .. } in asked {
            if !self.messages.insert(call.message) {
                continue;
            }
            let stream = self.streams[usize::try_from(call.message).unwrap() - 1];
            let last = self.last.entry(stream).or_default();
            if call.message < *last {
                self.reordered += 1;
                self.faults.push(format!("message {} began after {last}", call.message));
            }
            *last = call.message.max(*last);
        }
    }

    fn judge_attempts(&mut self, asked: &[Attempt], left: &Left) {
        let mut made = HashSet::new();
        for attempt in asked {
            if self.left.settles(*attempt) {
                self.fault(format!("{attempt:?} was made although its outcome was committed before"));
            } else if !made.insert(*attempt) {
                self.fault(format!("{attempt:?} was made twice in one life"));
            } else if !self.asked.insert(*attempt) {
                self.repeated += 1;
            }
            if left.ends_before(*attempt) {
                self.fault(format!("{attempt:?} was made after the call had ended"));
            }
        }
        let under_way = made.iter().filter(|attempt| !left.settles(**attempt)).count();
        self.repeated_max += under_way;
        if under_way > self.limits.calls {
            self.fault(format!("{under_way} calls were under way at once"));
        }
    }

    fn judge_ledger(&mut self, left: &Left) {
        let is_undone = |(call, was): &(&Call, &Committed)| was.is_final && !left.call(**call).is_final;
        let undone: Vec<Call> = self.left.calls.iter().filter(is_undone).map(|(call, _)| *call).collect();
        for call in undone {
            self.fault(format!("the outcome of {call:?} was committed, and is not any more"));
        }
    }

    /// Each row that was recorded as posted in this life was posted once; what was posted beyond that is
    /// still pending.
    fn judge_posts(&mut self, posted: Vec<Said>, left: &Left) {
        let mut made: HashMap<Said, usize> = HashMap::new();
        for said in posted {
            *made.entry(said).or_default() += 1;
        }
        for said in made.keys().filter(|said| !left.replies.contains_key(*said)) {
            self.fault(format!("{said:?} was posted and not committed"));
        }
        let mut unrecorded = 0;
        for (said, rows) in &left.replies {
            let made = made.get(said).copied().unwrap_or_default();
            let recorded = rows.posted.saturating_sub(self.left.posted(said));
            if made < recorded {
                self.fault(format!(
                    "{said:?} was recorded as posted {recorded} times, and posted {made} times"
                ));
            }
            if made > recorded + rows.pending {
                self.fault(format!("{said:?} was posted {made} times, for {recorded} rows and {rows:?}"));
            }
            unrecorded += made.saturating_sub(recorded);
        }
        self.reposted += unrecorded;
        if unrecorded > self.limits.posts {
            self.fault(format!("{unrecorded} posts were not recorded at a kill"));
        }
    }
}

mod tests {
    use super::*;

    /// A judge of three messages of one conversation, with one service.
    fn judge() -> Judge {
        Judge::new(vec![7, 7, 7], Limits { calls: 2, posts: 1 })
    }

    fn call(message: i64) -> Call {
        Call { bot: 1, message, service: 5 }
    }

    fn attempt(message: i64, number: i64) -> Attempt {
        Attempt { call: call(message), number }
    }

    fn said(content: &str) -> Said {
        Said { stream: 7, content: content.to_owned() }
    }

    fn left_calls<const N: usize>(calls: [(i64, i64, bool); N]) -> Left {
        let calls =
            calls.map(|(message, attempts, is_final)| (call(message), Committed { attempts, is_final }));
        Left { calls: calls.into(), ..Left::default() }
    }

    fn left_reply(pending: usize, posted: usize) -> Left {
        Left { replies: [(said("soup"), Rows { pending, posted })].into(), ..Left::default() }
    }

    #[test]
    fn what_was_under_way_at_a_kill_may_be_made_again() {
        let mut judge = judge();
        judge.life(&[attempt(1, 1), attempt(2, 1)], vec![], left_calls([(2, 1, true)]));
        judge.life(&[attempt(1, 1), attempt(1, 2)], vec![], left_calls([(1, 2, true), (2, 1, true)]));
        assert_eq!(judge.faults, [""; 0]);
        assert_eq!((judge.repeated, judge.repeated_max), (1, 1));
        assert_eq!(judge.lost(&[call(1), call(2)]), 0);
    }

    #[test]
    fn what_was_committed_may_not_be_made_again() {
        for (number, is_final, faults) in [(1, true, 1), (2, true, 2), (1, false, 1), (2, false, 0)] {
            let mut judge = judge();
            judge.life(&[attempt(1, 1)], vec![], left_calls([(1, 1, is_final)]));
            judge.life(&[attempt(1, number)], vec![], left_calls([(1, 1, is_final)]));
            assert_eq!(judge.faults.len(), faults, "attempt {number}: {:?}", judge.faults);
        }
    }

    #[test]
    fn nothing_may_be_made_twice_in_one_life_nor_after_its_end() {
        let mut judge = judge();
        judge.life(
            &[attempt(1, 1), attempt(1, 1), attempt(2, 1), attempt(2, 2)],
            vec![],
            left_calls([(2, 1, true)]),
        );
        assert_eq!(judge.faults.len(), 2, "{:?}", judge.faults);
    }

    #[test]
    fn no_more_may_be_under_way_than_the_limit() {
        let mut judge = judge();
        judge.life(&[attempt(1, 1), attempt(2, 1), attempt(3, 1)], vec![], Left::default());
        assert_eq!(judge.faults.len(), 1, "{:?}", judge.faults);
    }

    #[test]
    fn an_outcome_may_not_vanish() {
        let mut judge = judge();
        judge.life(&[attempt(1, 1)], vec![], left_calls([(1, 1, true)]));
        judge.life(&[], vec![], Left::default());
        assert_eq!(judge.faults.len(), 1, "{:?}", judge.faults);
        assert_eq!(judge.lost(&[call(1)]), 1);
    }

    #[test]
    fn a_call_that_was_never_made_is_lost() {
        let mut judge = judge();
        judge.life(&[attempt(1, 1)], vec![], left_calls([(1, 1, true), (2, 1, true)]));
        assert_eq!(judge.lost(&[call(1), call(2), call(3)]), 2);
    }

    #[test]
    fn a_message_that_begins_after_a_later_one_is_out_of_order() {
        let mut judge = judge();
        judge.life(
            &[attempt(2, 1), attempt(1, 1), attempt(2, 2)],
            vec![],
            left_calls([(1, 1, true), (2, 2, true)]),
        );
        assert_eq!((judge.reordered, judge.faults.len()), (1, 1), "{:?}", judge.faults);
    }

    #[test]
    fn a_post_may_be_repeated_if_it_was_not_recorded() {
        let mut judge = judge();
        judge.life(&[], vec![said("soup")], left_reply(1, 0));
        judge.life(&[], vec![said("soup")], left_reply(0, 1));
        assert_eq!((judge.reposted, judge.faults.len()), (1, 0), "{:?}", judge.faults);
        judge.life(&[], vec![said("soup")], left_reply(0, 1));
        // It was recorded, and more than one at a time is beyond the limit.
        judge.life(&[], vec![said("soup"), said("soup")], left_reply(2, 1));
        assert_eq!(judge.faults.len(), 2, "{:?}", judge.faults);
    }

    #[test]
    fn a_reply_is_committed_before_it_is_posted_and_posted_before_it_is_recorded() {
        let mut judge = judge();
        judge.life(&[], vec![said("salad")], left_reply(0, 1));
        assert_eq!(judge.faults.len(), 2, "{:?}", judge.faults);
    }
}
