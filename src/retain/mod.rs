//! Which snapshots stay, and why.
//!
//! In come the live snapshots of one cluster in the order of the log, a [`Policy`] and a `now`; out goes a [`Plan`]: for
//! each snapshot every rule that keeps it, or why it goes, and how much WAL it keeps. That part is pure: no clock, no
//! store, so that years can be simulated with it. [`carry_out`] then appends what the plan says, entry by entry, each only
//! as long as the log still says what the plan was made on.
//!
//! - `policy.rs`: [`Policy`] and [`Rule`], a reason to keep
//! - `subject.rs`: [`Subject`], what of a snapshot matters here; when it is *good*
//! - `calendar.rs`: hours, days, weeks, months, years · `count.rs`: the `keep-*` rules that count
//! - `window.rs`: `pitr-window`: where the window begins, and who keeps its WAL
//! - `plan.rs`: [`plan`] and [`plan_named`]: all of it together, with what no policy may break
//! - `evidence.rs`: what verify says of a snapshot, and when that is proof
//! - `carry.rs`: from a plan to FORGET entries

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

mod calendar;
mod carry;
mod count;
mod evidence;
mod plan;
mod policy;
mod subject;
#[cfg(test)]
mod tests;
mod window;

pub use calendar::Period;
pub use carry::{Carried, Carry, CarryError, carry_out};
pub use evidence::{Finding, newest, proven_at};
pub use plan::{Decision, NamedRefused, Plan, Wal, plan, plan_named};
pub use policy::{Policy, Rule};
pub use subject::{Flaw, Subject, SubjectWal};
