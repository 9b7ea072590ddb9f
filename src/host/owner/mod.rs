//! What the owner of a repository does: whoever opens a key slot has the owner's key, and may change keys.
//!
//! In comes an open repository and what opens its slots; out go slots in the store, KEY entries in the log, and grants:
//! files by which the owner hands keys to a host. Each step leaves something that works when it is killed behind it, and
//! is finished by doing it again.
//!
//! - `open.rs`: [`Owner`]: the root, out of all slots that what was given opens
//! - `slots.rs`: adding and removing key slots
//! - `rotate.rs`: a new key for all content that is written from then on
//! - `hosts.rs`: enrolling and revoking hosts · `accept.rs`: a host takes what it was granted
//! - `exposure.rs`: what a thief of a host could do

mod accept;
mod exposure;
mod hosts;
mod open;
#[cfg(test)]
mod races;
mod rotate;
mod slots;
#[cfg(test)]
mod turns;

pub use accept::{Accepted, accept, read_grant};
pub use exposure::{Exposure, exposure};
pub use hosts::{Enrolment, end_wal, enrol, find_host, grant, revoke};
pub use open::{Owner, OwnersSlot, open_as_owner};
pub use rotate::{Rotated, rotate};
pub use slots::{add_slot, deleted_slots, list_slots, remove_slot, removing, wrapped_lock};
