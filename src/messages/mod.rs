//! The protocol between the actors: one file per message family.
//!
//! | file | from | to |
//! | --- | --- | --- |
//! | `process_event` | QueueActor | EventActor: events to work on |
//! | `rows` | EventActor ⇄ QueueActor | rows wanted, rows read, a shard taken over |
//! | `completion` | ServiceCallActor, EventActor | FlagActor: a call has ended, an event has; EventActor: a call has |
//! | `settled` | FlagActor | EventActor, QueueActor, ReplyActor: what was committed |
//! | `partitions` | LeaseActor → QueueActor → EventActor → ReplyActor → LeaseActor | partitions to let go of |
//! | `drain` | the daemon | every actor |
//!
//! Messages carry rows, never deliveries: one that is lost is found again in the database.

pub(crate) mod completion;
pub(crate) mod drain;
pub(crate) mod partitions;
pub(crate) mod process_event;
pub(crate) mod rows;
pub(crate) mod settled;
