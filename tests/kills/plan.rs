//! What happens in a run, drawn from its seed: bots and their moods, events, and the moments of the kills.

use std::str::FromStr;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Answer, Attempt, Dice, channel_event};

const BOTS: usize = 40;
const SERVICES_MAX: usize = 3;
const CONVERSATIONS_PER_BOT: usize = 5;

/// Everything that is to happen.
pub(super) struct Plan {
    pub(super) size: Size,
    pub(super) bots: Vec<Bot>,
    /// In order of their messages, which are numbered from 1.
    pub(super) events: Vec<Event>,
    pub(super) moments: Vec<Moment>,
}

/// How large a run is, and what decides the rest.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    pub(super) seed: u64,
    pub(super) kills: usize,
    pub(super) events: usize,
}

/// A bot, and the mood of each of its services.
pub(super) struct Bot {
    pub(super) id: i64,
    pub(super) moods: Vec<Mood>,
}

/// A message for a bot, in one of its conversations.
pub(super) struct Event {
    pub(super) bot: i64,
    pub(super) message: i64,
    /// No two conversations have the same.
    pub(super) stream: i64,
    /// How many services it is for.
    pub(super) calls: usize,
}

/// When the daemon is killed: when so many calls have begun, and then a little later.
pub(super) struct Moment {
    pub(super) calls: usize,
    pub(super) then: Duration,
}

impl Plan {
    /// Draws a plan.
    pub(super) fn draw(size: Size) -> Self {
        let mut dice = Dice::of_seed(size.seed);
        let bots: Vec<Bot> = (1..=BOTS).map(|number| Bot::draw(number, &mut dice)).collect();
        let events: Vec<Event> =
            (1..=size.events).map(|message| Event::draw(message, &bots, &mut dice)).collect();
        let calls: usize = events.iter().map(|event| event.calls).sum();
        let moments = (0..size.kills).map(|kill| Moment::draw(kill, size.kills, calls, &mut dice)).collect();
        Self { size, bots, events, moments }
    }
}

impl Size {
    /// As the environment says; by default that of a short run.
    pub(super) fn from_environment() -> Self {
        Self {
            seed: variable("OUTHOOK_KILL_SEED").unwrap_or_else(|| getrandom::u64().unwrap()),
            kills: variable("OUTHOOK_KILLS").unwrap_or(6),
            events: variable("OUTHOOK_KILL_EVENTS").unwrap_or(2_000),
        }
    }
}

fn variable<T: FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

impl Bot {
    fn draw(number: usize, dice: &mut Dice) -> Self {
        let services = 1 + dice.below(SERVICES_MAX);
        let moods = (0..services).map(|_| MOODS[dice.below(MOODS.len())]).collect();
        Self { id: i64::try_from(number).unwrap(), moods }
    }
}

impl Event {
    fn draw(message: usize, bots: &[Bot], dice: &mut Dice) -> Self {
        let bot = &bots[dice.below(bots.len())];
        let conversation = i64::try_from(dice.below(CONVERSATIONS_PER_BOT)).unwrap();
        let message = i64::try_from(message).unwrap();
        Self { bot: bot.id, message, stream: 100 * bot.id + conversation, calls: bot.moods.len() }
    }

    /// As Zulip puts it on the queue.
    pub(super) fn body(&self) -> Value {
        channel_event(self.bot, self.message, self.stream, "Kitchen", "soup?")
    }
}

impl Moment {
    /// Most are spread over the run; about one in four comes soon after a start, whatever is done by then.
    fn draw(kill: usize, kills: usize, calls: usize, dice: &mut Dice) -> Self {
        if dice.below(4) == 0 {
            return Self { calls: 0, then: dice.millis(0..1_000) };
        }
        let share = (calls / kills).max(1);
        Self { calls: kill * share + dice.below(share), then: dice.millis(0..50) }
    }
}

/// How a service answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mood {
    /// At once.
    Quick,
    /// At once, and has nothing to say.
    Silent,
    /// After a while.
    Slow,
    /// Sometimes with a failure, but never four times in a row.
    Flaky,
    /// With a failure that may pass, and does not.
    Down,
    /// With a failure that is final.
    Refusing,
}

/// The moods as they are dealt out.
const MOODS: [Mood; 10] = [
    Mood::Quick,
    Mood::Quick,
    Mood::Quick,
    Mood::Silent,
    Mood::Slow,
    Mood::Slow,
    Mood::Flaky,
    Mood::Flaky,
    Mood::Down,
    Mood::Refusing,
];

impl Mood {
    /// The path of services in this mood.
    pub(super) fn path(self) -> &'static str {
        match self {
            Self::Quick => "/quick",
            Self::Silent => "/silent",
            Self::Slow => "/slow",
            Self::Flaky => "/flaky",
            Self::Down => "/down",
            Self::Refusing => "/refusing",
        }
    }

    /// The mood at a URL or a path.
    pub(super) fn at(url: &str) -> Self {
        MOODS.into_iter().find(|mood| url.ends_with(mood.path())).unwrap()
    }

    /// The answer to an attempt: the same whenever it is made again. What is said is the `webhook-id`.
    pub(super) fn answer(self, attempt: Attempt, seed: u64) -> Answer {
        let mut dice = Dice::of(&(seed, attempt));
        let good = Answer::Json(json!({ "content": attempt.call.webhook_id() }));
        match self {
            Self::Quick => good,
            Self::Silent => Answer::status(204),
            Self::Slow => Answer::Late(dice.millis(20..200), Box::new(good)),
            Self::Flaky if attempt.number < 4 => match dice.below(8) {
                0 => Answer::status(503),
                1 => Answer::Reset,
                2 => Answer::Hang,
                _ => good,
            },
            Self::Flaky => good,
            Self::Down => Answer::status(503),
            Self::Refusing => Answer::status(404),
        }
    }
}
