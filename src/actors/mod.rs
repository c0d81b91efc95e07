//! The actors. They carry out what the core decides.

pub(crate) mod event;
pub(crate) mod flag;
pub(crate) mod queue;
pub(crate) mod reply;
pub(crate) mod service_call;
