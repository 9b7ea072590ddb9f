//! Keys and their derivation, the one sealing function, envelopes, key slots, signatures: bytes in, bytes out.

pub mod sign;
