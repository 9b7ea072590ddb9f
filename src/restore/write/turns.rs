//! Whose turn is it? Leaves of several long files in turn.
//!
//! A file has one lock for writing: threads that write the same one spin on it. Where there are other long files, each
//! thread mostly has one of its own.

use std::collections::VecDeque;

/// What is to be done for several files.
pub(super) struct Turns<T>(VecDeque<VecDeque<T>>);

impl<T> Default for Turns<T> {
    fn default() -> Self {
        Turns(VecDeque::new())
    }
}

impl<T> Turns<T> {
    /// One file more, with what is to be done for it in order.
    pub fn add(&mut self, of_file: VecDeque<T>) {
        if !of_file.is_empty() {
            self.0.push_back(of_file);
        }
    }

    /// How many files wait.
    pub fn files(&self) -> usize {
        self.0.len()
    }

    /// The first of the file whose turn it is.
    pub fn next(&mut self) -> Option<T> {
        let mut file = self.0.pop_front()?;
        let first = file.pop_front();
        self.add(file);
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_file_has_its_turn_and_keeps_its_order() {
        let mut turns = Turns::default();
        turns.add([1, 2, 3, 4].into());
        turns.add([].into());
        turns.add([10, 20].into());
        assert_eq!((turns.files(), turns.next(), turns.next()), (2, Some(1), Some(10)));
        turns.add([100].into());
        let rest: Vec<i32> = std::iter::from_fn(|| turns.next()).collect();
        assert_eq!((rest, turns.files()), (vec![2, 20, 100, 3, 4], 0));
    }
}
