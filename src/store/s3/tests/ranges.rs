//! Reading ranges: of empty objects, beyond the end, and of objects that are replaced between two parts of one reading.

use super::*;

/// A service with one object, which is another one for some requests, and whose answers break off.
struct Served {
    contents: Vec<Vec<u8>>,
    /// Which of them the nth request meets.
    which: fn(usize) -> usize,
    /// How many bytes of the nth answer come.
    cut: fn(usize) -> Option<usize>,
    /// Does it look at If-Match?
    matches: bool,
    /// Does it say which content it is?
    tags: bool,
}

impl Served {
    fn of(contents: &[&[u8]], which: fn(usize) -> usize) -> Served {
        Served { contents: contents.iter().map(|c| c.to_vec()).collect(), which, cut: |_| None, matches: true, tags: true }
    }

    fn start(self) -> Scene {
        scene_for(Duration::from_secs(5), move |n, head| self.answer(n, head))
    }

    fn answer(&self, n: usize, head: &str) -> (u16, String, Vec<u8>) {
        let number = (self.which)(n);
        let (content, tag) = (&self.contents[number], format!("\"{number}\""));
        let head = head.to_ascii_lowercase();
        let header = |name: &str| head.lines().find_map(|line| line.strip_prefix(&format!("{name}: "))).map(|v| v.trim().to_owned());
        if self.matches && header("if-match").is_some_and(|wanted| wanted != tag) {
            return (412, String::new(), error("PreconditionFailed"));
        }
        let mut headers = if self.tags { format!("ETag: {tag}\r\n") } else { String::new() };
        if let Some(cut) = (self.cut)(n) {
            headers.push_str(&format!("Cut: {cut}\r\n"));
        }
        let Some(range) = header("range") else { return (200, headers, content.clone()) };
        let (from, to) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
        let from: usize = from.parse().unwrap();
        if from >= content.len() {
            return (416, String::new(), error("InvalidRange"));
        }
        let end = to.parse().map_or(content.len(), |to: usize| content.len().min(to + 1));
        headers.push_str(&format!("Content-Range: bytes {from}-{}/{}\r\n", end - 1, content.len()));
        (206, headers, content[from..end].to_vec())
    }
}

fn object() -> ObjectName {
    name("wal/1")
}

const OLD: &[u8] = b"the old content of an object";
const NEW: &[u8] = b"and what was put over it since, with more bytes than that";

#[test]
fn an_empty_object_is_read_as_such() {
    let scene = Served::of(&[b""], |_| 0).start();
    let store = &scene.store;
    assert_eq!(store.read_start(&object(), 100).unwrap(), Start { bytes: Vec::new(), size: 0 });
    assert_eq!(store.read_start(&object(), 0).unwrap(), Start { bytes: Vec::new(), size: 0 });
    assert_eq!(store.read(&object(), 0).unwrap(), b"");
    assert_eq!(store.size(&object()).unwrap(), 0);
    assert_eq!(store.read_range(&object(), 0, 0).unwrap(), b"");
    assert!(matches!(store.read_range(&object(), 0, 1), Err(StoreError::Short { size: 0, .. })));
    assert!(matches!(store.read_range(&object(), 1, 0), Err(StoreError::Short { size: 0, .. })));
}

#[test]
fn what_lies_beyond_the_end_is_told_with_the_end() {
    let scene = Served::of(&[OLD], |_| 0).start();
    let (store, size) = (&scene.store, OLD.len() as u64);
    assert_eq!(store.read_range(&object(), 4, 3).unwrap(), b"old");
    assert_eq!(store.read_range(&object(), size - 1, 1).unwrap(), b"t");
    assert_eq!(store.read_range(&object(), size, 0).unwrap(), b"");
    let far = [(size, 1), (size - 1, 2), (0, OLD.len() + 1), (size + 1, 0), (1 << 40, 1), (u64::MAX, 1), (u64::MAX, 0), (u64::MAX - 1, 8)];
    for (offset, len) in far {
        match store.read_range(&object(), offset, len) {
            Err(StoreError::Short { offset: o, len: l, size: s, .. }) => assert_eq!((o, l, s), (offset, len, size)),
            other => panic!("{offset}, {len}: {other:?}"),
        }
    }
    // The beginning is as much as there is.
    for most in [1, 5, OLD.len(), OLD.len() + 1, 1 << 20] {
        let start = store.read_start(&object(), most).unwrap();
        assert_eq!((start.bytes.as_slice(), start.size), (&OLD[..most.min(OLD.len())], size), "{most}");
    }
    assert!(matches!(store.read(&object(), size - 1), Err(StoreError::TooLarge { .. })));
}

/// Answers that break off after a few bytes are gone on with.
#[test]
fn a_reading_goes_on_where_it_broke_off() {
    for tags in [true, false] {
        // Without a tag nothing would say that it is the same object: it begins anew.
        let cut: fn(usize) -> Option<usize> = if tags { |n| (n < 3).then_some(5) } else { |n| (n < 2).then_some(5) };
        let read = |then: fn(&S3Store) -> Vec<u8>| then(&Served { cut, tags, ..Served::of(&[OLD], |_| 0) }.start().store);
        assert_eq!(read(|store| store.read(&object(), 100).unwrap()), OLD);
        assert_eq!(read(|store| store.read_range(&object(), 4, 20).unwrap()), OLD[4..24]);
        assert_eq!(read(|store| store.read_start(&object(), 22).unwrap().bytes), OLD[..22]);
    }
}

#[test]
fn an_object_that_is_replaced_between_two_parts_is_never_a_mixture() {
    // Longer, shorter, as long, empty: whatever comes in its place after some bytes of the old one.
    let as_long: Vec<u8> = OLD.iter().map(|b| b ^ 0x20).collect();
    for (what, new) in [("longer", NEW), ("shorter", &NEW[..7]), ("as long", &as_long), ("empty", b"")] {
        for matches in [true, false] {
            let read = |then: &dyn Fn(&S3Store) -> Result<Vec<u8>, StoreError>| {
                let served = Served { cut: |n| (n == 0).then_some(9), matches, ..Served::of(&[OLD, new], |n| n.min(1)) };
                then(&served.start().store)
            };
            let case = format!("{what}, If-Match {matches}");
            assert_eq!(read(&|store| store.read(&object(), 100)).unwrap(), new, "{case}");
            let start = read(&|store| store.read_start(&object(), 20).map(|start| start.bytes)).unwrap();
            assert_eq!(start, &new[..new.len().min(20)], "{case}");
            match read(&|store| store.read_range(&object(), 2, 12)) {
                Ok(bytes) => assert_eq!(bytes, &new[2..14], "{case}"),
                Err(StoreError::Short { size, .. }) => assert!(size < 14 && size == new.len() as u64, "{case}"),
                Err(e) => panic!("{case}: {e}"),
            }
        }
    }
}

/// One that is replaced each time is never read to its end: that is no content, and no damage either.
#[test]
fn one_that_never_stays_is_unreachable() {
    let served = Served { cut: |_| Some(9), ..Served::of(&[OLD, NEW], |n| n % 2) };
    let scene = scene(move |n, head| served.answer(n, head));
    let read = scene.store.read(&object(), 100);
    assert!(matches!(read, Err(StoreError::Unreachable { .. })), "{read:?}");
}
