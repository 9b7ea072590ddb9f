//! 32 secret bytes.

use std::fmt;

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::units::ids::hex;

/// A key or secret of 32 bytes: zeroized when dropped, never shown, compared in constant time.
#[derive(Clone)]
pub struct Secret32(Zeroizing<[u8; 32]>);

impl Secret32 {
    /// From its bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Secret32(Zeroizing::new(bytes))
    }

    /// Fresh from the operating system.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut bytes = Zeroizing::new([0; 32]);
        getrandom::fill(&mut bytes[..])?;
        Ok(Secret32(bytes))
    }

    /// The bytes.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    pub(super) fn to_hex(&self) -> Zeroizing<String> {
        Zeroizing::new(hex(&self.0[..]))
    }

    pub(super) fn from_hex(text: &str) -> Result<Self, String> {
        let bytes = Zeroizing::new(crate::units::ids::unhex(text).unwrap_or_default());
        let bytes: &[u8; 32] = bytes.as_slice().try_into().map_err(|_| "a secret is not 64 hex digits".to_owned())?;
        Ok(Secret32::new(*bytes))
    }
}

impl PartialEq for Secret32 {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0[..]).into()
    }
}

impl Eq for Secret32 {}

impl fmt::Debug for Secret32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret32(…)")
    }
}
