//! The form of a state file: JSON with its own checksum.
//!
//! `{"check":"<BLAKE3 of the state, first 16 bytes, hex>","state":<the state, one line of JSON>}` and a line end.
//! Buffers hold secrets and are zeroized; texts are borrowed from them, so that no copy is left behind.

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::units::ids::hex;

const BEGIN: &[u8] = b"{\"check\":\"";
const MIDDLE: &[u8] = b"\",\"state\":";
const END: &[u8] = b"}\n";

fn check(state: &[u8]) -> String {
    hex(blake3::hash(state).as_bytes().first_chunk::<16>().map_or(&[], |c| c.as_slice()))
}

/// `value` as a state file; `size` is about how long it gets.
#[allow(clippy::expect_used)]
pub(super) fn encode(value: &impl Serialize, size: usize) -> Zeroizing<Vec<u8>> {
    // Reserved whole, so that growing leaves no copies of secrets behind.
    let mut state = Zeroizing::new(Vec::with_capacity(size + 4096));
    serde_json::to_writer(&mut *state, value).expect("maps with text keys, written to memory");
    let mut file = Zeroizing::new(Vec::with_capacity(state.len() + 128));
    for part in [BEGIN, check(&state).as_bytes(), MIDDLE, &state, END] {
        file.extend_from_slice(part);
    }
    file
}

/// The value in a state file, or what is wrong with it.
pub(super) fn decode<'a, T: Deserialize<'a>>(file: &'a [u8]) -> Result<T, String> {
    let parts = || {
        let (sum, rest) = file.strip_prefix(BEGIN)?.split_at_checked(32)?;
        Some((sum, rest.strip_prefix(MIDDLE)?.strip_suffix(END)?))
    };
    let (sum, state) = parts().ok_or("it is not in the form in which it is written")?;
    if check(state).as_bytes() != sum {
        return Err("its checksum does not match".into());
    }
    serde_json::from_slice(state).map_err(|e| format!("it was written by another version: {e}"))
}

/// Any state in the form of a file (`crate::fuzzing`).
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn around(state: &[u8]) -> Vec<u8> {
    [BEGIN, check(state).as_bytes(), MIDDLE, state, END].concat()
}
