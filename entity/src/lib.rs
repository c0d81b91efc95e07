//! The tables outhook works with.
//!
//! [`zulip`] holds Zulip's own tables under Zulip's names, with just the columns that outhook uses;
//! [`outhook`] holds the tables that outhook creates in every database.
//!
//! Zulip's id columns have had different integer types over its versions, so reads of `zulip` cast
//! them (see the store); the types given here are those that outhook creates for `tables = "own"`.

pub mod outhook;
pub mod zulip;
