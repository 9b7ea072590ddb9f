//! How much of the payload is read: nothing, all, or a share that chance chooses anew each time.

use std::fmt;
use std::str::FromStr;

/// A share in millionths, above 0 and at most all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Percent(u32);

impl Percent {
    /// All of it.
    pub const ALL: Percent = Percent(1_000_000);

    /// Of `count`: at least one, if there is one.
    fn of(self, count: usize) -> usize {
        let share = (count as u128 * u128::from(self.0)).div_ceil(1_000_000);
        usize::try_from(share).unwrap_or(count).min(count)
    }
}

impl FromStr for Percent {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = text.trim().strip_suffix('%').unwrap_or(text).trim().parse::<f64>().ok();
        let millionths = number.map(|n| (n * 10_000.0).ceil()).filter(|n| (1.0..=1_000_000.0).contains(n));
        millionths.map(|n| Percent(n as u32)).ok_or_else(|| "a share such as 5 or 0.5 is expected: more than 0, at most 100 percent".into())
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} %", f64::from(self.0) / 10_000.0)
    }
}

/// Which objects are read whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Share {
    /// None.
    None,
    /// So many of them, chosen by this seed.
    Some(Percent, u64),
}

impl Share {
    /// Chooses among items by their names; those chosen, in the order in which they were.
    pub fn choose<T>(self, items: Vec<T>, name: impl Fn(&T) -> String) -> Vec<T> {
        let Share::Some(percent, seed) = self else { return Vec::new() };
        if percent == Percent::ALL {
            return items;
        }
        let count = percent.of(items.len());
        let lot = |name: &str| {
            let mut hasher = blake3::Hasher::new();
            hasher.update(&seed.to_le_bytes()).update(name.as_bytes());
            *hasher.finalize().as_bytes()
        };
        let mut drawn: Vec<([u8; 32], usize, T)> = items.into_iter().enumerate().map(|(i, item)| (lot(&name(&item)), i, item)).collect();
        drawn.sort_unstable_by_key(|(lot, ..)| *lot);
        drawn.truncate(count);
        drawn.sort_unstable_by_key(|(_, i, _)| *i);
        drawn.into_iter().map(|(.., item)| item).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_read() {
        for (text, percent) in [("100", Percent::ALL), ("5%", Percent(50_000)), ("0.5", Percent(5_000)), (" 10 %", Percent(100_000))] {
            assert_eq!(text.parse(), Ok(percent), "{text}");
        }
        for bad in ["", "0", "-1", "101", "x", "NaN", "inf"] {
            assert!(bad.parse::<Percent>().is_err(), "{bad}");
        }
        assert_eq!(Percent(5_000).to_string(), "0.5 %");
    }

    #[test]
    fn a_share_is_drawn_by_its_seed() {
        let items: Vec<u32> = (0..200).collect();
        let draw = |percent, seed| Share::Some(percent, seed).choose(items.clone(), u32::to_string);
        assert_eq!(draw(Percent::ALL, 1), items);
        let some = draw(Percent(100_000), 1);
        assert_eq!((some.len(), some.is_sorted()), (20, true));
        assert_eq!(some, draw(Percent(100_000), 1));
        assert_ne!(some, draw(Percent(100_000), 2));
        assert_eq!(draw(Percent(1), 7).len(), 1, "never nothing");
        assert!(Share::None.choose(vec![1, 2], u32::to_string).is_empty());
        // Who verifies a tenth often enough has seen all.
        let seen: std::collections::BTreeSet<u32> = (0..100).flat_map(|seed| draw(Percent(100_000), seed)).collect();
        assert!(seen.len() > 190, "{}", seen.len());
    }
}
