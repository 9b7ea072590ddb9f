//! CRC-32C of files that are written out of order: each stretch has its own, and they are combined in the order of the file.

/// The CRC-32C of a stretch of bytes, and its length.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Crc {
    /// The checksum.
    pub value: u32,
    /// Bytes.
    pub len: u64,
}

impl Crc {
    /// Of these bytes.
    pub fn of(bytes: &[u8]) -> Crc {
        Crc { value: crc32c::crc32c(bytes), len: bytes.len() as u64 }
    }

    /// Of this stretch with these bytes behind it: far cheaper than to combine two.
    pub fn and(self, bytes: &[u8]) -> Crc {
        Crc { value: crc32c::crc32c_append(self.value, bytes), len: self.len.saturating_add(bytes.len() as u64) }
    }

    /// Of so many zeros, without having them: by doubling.
    pub fn zeros(len: u64) -> Crc {
        let mut power = Crc::of(&[0]);
        let mut sum = Crc::default();
        let mut left = len;
        while left > 0 {
            if left & 1 == 1 {
                sum = sum.then(power);
            }
            left >>= 1;
            if left > 0 {
                power = power.then(power);
            }
        }
        sum
    }

    /// Of this stretch with another behind it.
    pub fn then(self, next: Crc) -> Crc {
        Crc { value: crc32c::crc32c_combine(self.value, next.value, next.len as usize), len: self.len.saturating_add(next.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn stretches_combine_to_the_whole(stretches in prop::collection::vec(prop_oneof![
            prop::collection::vec(any::<u8>(), 0..300).prop_map(|bytes| (bytes, false)),
            (0usize..100_000).prop_map(|len| (vec![0; len], true)),
        ], 0..8)) {
            let whole: Vec<u8> = stretches.iter().flat_map(|(bytes, _)| bytes.clone()).collect();
            let combined = stretches
                .iter()
                .map(|(bytes, zeros)| if *zeros { Crc::zeros(bytes.len() as u64) } else { Crc::of(bytes) })
                .fold(Crc::default(), Crc::then);
            prop_assert_eq!(combined, Crc::of(&whole));
            prop_assert_eq!(stretches.iter().fold(Crc::default(), |sum, (bytes, _)| sum.and(bytes)), combined);
        }
    }

    #[test]
    fn terabytes_of_zeros_cost_nothing() {
        assert_eq!(Crc::zeros(1 << 45).len, 1 << 45);
        assert_eq!(Crc::zeros(3 << 20), Crc::of(&vec![0; 3 << 20]));
    }
}
