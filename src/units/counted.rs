//! How many of something, in words.

/// `1 gap`, `2 gaps`, `0 gaps`: the number, and the words for one or for any other number.
pub fn counted(count: impl TryInto<u64>, one: &str, other: &str) -> String {
    // Nothing that is counted here has more than a u64.
    let count = count.try_into().unwrap_or(u64::MAX);
    format!("{count} {}", if count == 1 { one } else { other })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_one() {
        for (count, words) in [(0usize, "0 gaps"), (1, "1 gap"), (2, "2 gaps"), (11, "11 gaps")] {
            assert_eq!(counted(count, "gap", "gaps"), words);
        }
    }
}
