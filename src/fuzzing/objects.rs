//! Objects of a repository, as they lie there and opened.

use super::{number, take};
use crate::archive::FileFacts;
use crate::codec;
use crate::crypt::slot::Slot;
use crate::pg::facts::ClusterFacts;
use crate::pg::wal::WalFileName;
use crate::repo::bytes::Malformed;
use crate::repo::format::Format;
use crate::repo::log::probe;
use crate::repo::pack::{PackTable, Place};
use crate::repo::structure::{Meta, Needs, Node, decode_attributes, encode_attributes};
use crate::units::{PackId, ShortId};

pub fn format(data: &[u8]) {
    let mut bytes = data.to_vec();
    bytes.resize(128, 0);
    let hash = blake3::hash(&bytes[..96]);
    bytes[96..].copy_from_slice(hash.as_bytes());
    for bytes in [data, &bytes] {
        if let Ok(format) = Format::decode(bytes) {
            let again = Format::decode(&format.encode()).expect("what was read is written so that it can be read");
            assert_eq!((again.repository, again.domain), (format.repository, format.domain));
        }
    }
}

pub fn slot(data: &[u8]) {
    let mut bytes = data.to_vec();
    bytes.resize(384, 0);
    for bytes in [data, &bytes] {
        if let Ok(slot) = Slot::parse(bytes) {
            let _ = (slot.kind(), slot.kdf(), slot.is_weak(), slot.repository(), slot.wrapped().len());
            assert_eq!(slot.as_bytes(), bytes);
        }
    }
}

/// A frame of any kind with any reference, for any length.
pub fn frame(mut data: &[u8]) {
    let (kind, len, reference) = (number(&mut data, 1) as u8, number(&mut data, 4) as u32, number(&mut data, 2) as usize);
    let reference = (reference > 0).then(|| take(&mut data, reference - 1).to_vec());
    for len in [len, len % 65_536] {
        if let Ok(plain) = codec::decode(kind, data, len, reference.as_deref()) {
            assert_eq!(plain.len(), len as usize);
        }
    }
}

/// Two contents; the patch of one against the other decodes to it.
pub fn patch(mut data: &[u8]) {
    use codec::{Patching, Way};
    let (shift, way, level) = (9 + number(&mut data, 1) % 8, number(&mut data, 1), number(&mut data, 1));
    let (repeat, old_len) = (1 + number(&mut data, 1) as usize % 40, number(&mut data, 2) as usize);
    let (old, mut new) = (take(&mut data, old_len).repeat(repeat), Vec::new());
    // The new content: stretches of the old, and what is left.
    while let Some(len) = data.first().map(|l| usize::from(*l) * 64).filter(|_| data.len() > 4 && new.len() < 1 << 20) {
        let _ = number(&mut data, 1);
        let at = number(&mut data, 2) as usize;
        new.extend_from_slice(old.get(at..(at + len).min(old.len())).unwrap_or_default());
        let own = number(&mut data, 1) as usize;
        new.extend_from_slice(take(&mut data, own));
    }
    let how = Patching {
        page_size: 1 << shift,
        way: if way & 1 == 0 { Way::AgainstOld } else { Way::Alone },
        level: 1 + (level % 5) as i32,
        whole_len: usize::MAX,
    };
    if let Ok(Some(frame)) = codec::encode_patch(&new, &old, how) {
        let plain = codec::decode(frame.kind.into(), &frame.bytes, new.len() as u32, Some(&old)).expect("a patch decodes");
        assert!(plain == new, "a patch decodes to what it was made of");
        for short in [&old[..old.len() / 2], b""] {
            let _ = codec::decode(frame.kind.into(), &frame.bytes, new.len() as u32, Some(short));
        }
    }
}

pub fn pack_table(mut data: &[u8]) {
    let (envelopes, end) = (number(&mut data, 2) as u16, number(&mut data, 4));
    if let Ok(table) = PackTable::decode(data, envelopes, end) {
        let again = table.encode();
        assert!(data.starts_with(&again) && data[again.len()..].iter().all(|b| *b == 0));
        assert!(table.rows.iter().all(|row| u64::from(row.offset) + u64::from(row.len) <= end));
    }
}

/// Needs that stand in a node of their own.
fn outside(id: ShortId, place: Place) -> Result<Needs, Malformed> {
    let mut needs = Needs::default();
    for number in 0..70 {
        needs.add(PackId([number; 16]), u64::from(id.0[0]) + 1 + u64::from(place.blob % 2));
    }
    Ok(needs)
}

pub fn node(data: &[u8]) {
    let Ok(node) = Node::decode(data, &mut outside) else { return };
    let (digest, _) = (node.digest(), format!("{node:?}"));
    let place = |pack| Place { pack, blob: 0, position: 0 };
    // What a writer makes of it again: the same content, whatever it names.
    let again = node.encode(64, &mut |_| Ok::<_, ()>((ShortId([0; 16]), place(PackId([0; 16]))))).expect("it can be written");
    let read = Node::decode(&again, &mut outside);
    // A node of needs names packs that stand in no list, and may be longer than what is read of others.
    if let Ok(read) = read {
        assert_eq!(read.digest(), digest);
    }
}

pub fn attributes(data: &[u8]) {
    if let Ok(files) = decode_attributes(data) {
        assert!(files.iter().all(|f| !f.name.is_empty() && !f.name.contains(&b'/') && !f.name.contains(&0) && f.name != b".."));
        assert_eq!(decode_attributes(&encode_attributes(&files)).as_ref(), Ok(&files));
    }
}

pub fn meta(data: &[u8]) {
    if let Ok(meta) = serde_json::from_slice::<Meta>(data) {
        let again = serde_json::to_vec(&meta).expect("it can be written");
        // Of what the layer above says, numbers with fractions may come back as their neighbours.
        assert_eq!(serde_json::from_slice::<Meta>(&again).ok().map(|again| again.folders).as_ref(), Some(&meta.folders));
        if let Ok(facts) = serde_json::from_value::<ClusterFacts>(meta.extra) {
            let _ = serde_json::to_value(&facts).expect("it can be written");
        }
    }
}

pub fn log_entry(data: &[u8]) {
    probe::entry(data);
}

pub fn log_body(data: &[u8]) {
    probe::said(data);
}

pub fn log_list(data: &[u8]) {
    probe::list(data);
}

/// A name, a length, and facts.
pub fn wal_facts(data: &[u8]) {
    let mut parts = data.splitn(3, |b| *b == b'\n');
    let mut text = || parts.next().and_then(|p| std::str::from_utf8(p).ok()).unwrap_or_default();
    let (name, len, facts) = (text(), text(), text());
    let (Ok(name), Ok(value)) = (name.parse::<WalFileName>(), serde_json::from_str::<serde_json::Value>(facts)) else { return };
    let identifier = value.get("system_identifier").and_then(|v| v.as_str()).and_then(|t| t.parse().ok()).unwrap_or(7);
    let len = len.parse().unwrap_or(16 << 20);
    if let Ok(facts) = FileFacts::read(&value, identifier, &name, len) {
        assert!(FileFacts::read(&facts.to_value(), identifier, &name, len).is_ok());
        if let Some(record) = facts.segment() {
            let _ = (record.name(), record.end(), record.is_of_child());
        }
        if let Some(history) = facts.history() {
            let _ = (history.to_history().print(), history.shows_histories_of().count());
        }
    }
}
