//! The list of pages in a patch's header: ascending numbers, as a bitmap or as gaps, whichever is shorter.
//!
//! | form | bytes |
//! |---|---|
//! | bitmap | a bit for each page of the plain form, the lowest of the first byte first, the last byte filled with zeros |
//! | gaps | LEB128 number of entries; then for each the pages skipped since the entry before (since the start), LEB128 |
//!
//! LEB128: seven bits a byte, the lowest first, the top bit says that more follow; unsigned, below 2^32, the shortest form
//! only.

/// How the list is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ListForm {
    Bitmap,
    Gaps,
}

/// Writes ascending page numbers below `pages` in the shorter form.
pub(super) fn write_list(numbers: &[u32], pages: u32, out: &mut Vec<u8>) -> ListForm {
    let bitmap_len = pages.div_ceil(8) as usize;
    let mut gaps = Vec::with_capacity(numbers.len() + 2);
    write_varint(numbers.len() as u32, &mut gaps);
    let mut next = 0;
    for number in numbers {
        write_varint(number.saturating_sub(next), &mut gaps);
        next = number.saturating_add(1);
    }
    if gaps.len() < bitmap_len {
        out.extend_from_slice(&gaps);
        return ListForm::Gaps;
    }
    let start = out.len();
    out.resize(start + bitmap_len, 0);
    for number in numbers {
        if let Some(byte) = out.get_mut(start + (number / 8) as usize) {
            *byte |= 1 << (number % 8);
        }
    }
    ListForm::Bitmap
}

/// Reads the list from the start of `bytes`; what follows it. `None`: it isn't one of pages below `pages`.
pub(super) fn read_list(form: ListForm, pages: u32, bytes: &[u8]) -> Option<(Vec<u32>, &[u8])> {
    match form {
        ListForm::Bitmap => {
            let (bitmap, rest) = bytes.split_at_checked(pages.div_ceil(8) as usize)?;
            let numbers: Vec<u32> = (0u32..)
                .zip(bitmap)
                .flat_map(|(at, byte)| (0..8).filter(move |bit| byte >> bit & 1 == 1).map(move |bit| at * 8 + bit))
                .collect();
            numbers.last().is_none_or(|last| *last < pages).then_some((numbers, rest))
        }
        ListForm::Gaps => {
            let (count, mut rest) = read_varint(bytes)?;
            if count > pages {
                return None;
            }
            let mut numbers = Vec::with_capacity(count as usize);
            let mut next = 0u32;
            for _ in 0..count {
                let (gap, tail) = read_varint(rest)?;
                let number = next.checked_add(gap).filter(|number| *number < pages)?;
                numbers.push(number);
                next = number + 1;
                rest = tail;
            }
            Some((numbers, rest))
        }
    }
}

fn write_varint(mut value: u32, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn read_varint(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let mut value = 0u64;
    let mut rest = bytes;
    for shift in [0, 7, 14, 21, 28] {
        let (byte, tail) = rest.split_first()?;
        rest = tail;
        value |= u64::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            let shortest = shift == 0 || *byte != 0;
            return u32::try_from(value).ok().filter(|_| shortest).map(|value| (value, rest));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_shorter_form_is_taken() {
        for (numbers, pages, form, bytes) in [
            (&[][..], 0, ListForm::Bitmap, &[][..]),
            (&[], 8, ListForm::Bitmap, &[0]),
            (&[], 32, ListForm::Gaps, &[0]),
            (&[0], 32, ListForm::Gaps, &[1, 0]),
            (&[3, 5], 32, ListForm::Gaps, &[2, 3, 1]),
            (&[0, 1, 9], 32, ListForm::Bitmap, &[3, 2, 0, 0]),
            (&[300], 4096, ListForm::Gaps, &[1, 0xAC, 2]),
        ] {
            let mut out = Vec::new();
            assert_eq!(write_list(numbers, pages, &mut out), form, "{numbers:?}");
            assert_eq!(out, bytes, "{numbers:?}");
        }
    }

    #[test]
    fn lists_that_are_none_are_refused() {
        for (form, pages, bytes) in [
            (ListForm::Bitmap, 9, &[0][..]),
            (ListForm::Bitmap, 9, &[0, 2]),
            (ListForm::Gaps, 4, &[]),
            (ListForm::Gaps, 4, &[1]),
            (ListForm::Gaps, 4, &[5, 0, 0, 0, 0, 0]),
            (ListForm::Gaps, 4, &[1, 4]),
            (ListForm::Gaps, 4, &[2, 3, 0]),
            (ListForm::Gaps, 4, &[1, 0x80, 0]),
            (ListForm::Gaps, 4, &[2, 1, 0xFF, 0xFF, 0xFF, 0xFF, 0x0F]),
            (ListForm::Gaps, 4, &[0xFF, 0xFF, 0xFF, 0xFF, 0x1F]),
            (ListForm::Gaps, 4, &[0x80, 0x80, 0x80, 0x80, 0x80, 0]),
        ] {
            assert_eq!(read_list(form, pages, bytes), None, "{form:?} {bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn lists_round_trip(pages in 0u32..5000, raw in prop::collection::btree_set(0u32..5000, 0..200), tail: Vec<u8>) {
            let numbers: Vec<u32> = raw.into_iter().filter(|n| *n < pages).collect();
            let mut out = Vec::new();
            let form = write_list(&numbers, pages, &mut out);
            out.extend_from_slice(&tail);
            prop_assert_eq!(read_list(form, pages, &out), Some((numbers, &tail[..])));
        }

        #[test]
        fn any_bytes_give_ascending_pages_or_nothing(pages in 0u32..500, gaps: bool, bytes: Vec<u8>) {
            let form = if gaps { ListForm::Gaps } else { ListForm::Bitmap };
            if let Some((numbers, _)) = read_list(form, pages, &bytes) {
                prop_assert!(numbers.is_sorted_by(|a, b| a < b));
                prop_assert!(numbers.iter().all(|n| *n < pages));
            }
        }
    }
}
