//! What outhook decides, as plain functions and state machines.
//!
//! Nothing here knows an actor, a clock, a socket or a database: time comes in as an argument,
//! effects go out as return values. That is what lets property tests run the rules over random
//! histories in milliseconds.
//!
//! | module | decides |
//! | --- | --- |
//! | [`batch`] | how much is written together |
//! | [`event`] | what a queue delivery is, and which conversation it belongs to |
//! | [`place`] | in which channel and topic, or among which people, a message was written |
//! | [`json`] | how JSON of strangers is read |
//! | [`identity`] | how events and calls are named, also towards the endpoint |
//! | [`lanes`] | which event may run next: order within a conversation, fair shares between bots |
//! | [`partition`] | which daemon works for which bots |
//! | [`completion`] | when an event is finished |
//! | [`outcome`] | what an HTTP answer, or the lack of one, means |
//! | [`answer`] | how the JSON of an answer is read |
//! | [`recent`] | which events were finished just now, and which come late |
//! | [`retry`] | when a call is made again, and when it is given up |
//! | [`gate`] | whether a service may be called now |
//! | [`rate`] | how many calls of a bot may be made in a second |
//! | [`fair_share`] | who gets the next place when many want one |
//! | [`quota`] | how many unfinished events a bot may have |
//! | [`egress`] | which URLs and addresses may be dialled |
//! | [`signing_key`] | the key that a service's requests are signed with |
//! | [`excerpt`] | what of an answer may be kept |
//! | [`message_text`] | how long a reply may be |

pub mod answer;
pub mod batch;
pub mod completion;
pub mod egress;
pub mod event;
pub mod excerpt;
pub mod fair_share;
pub mod gate;
pub mod identity;
pub mod json;
pub mod lanes;
pub mod message_text;
pub mod newcomers;
pub mod outcome;
pub mod partition;
pub mod place;
pub mod quota;
pub mod rate;
pub mod recent;
pub mod retry;
pub mod signing_key;
