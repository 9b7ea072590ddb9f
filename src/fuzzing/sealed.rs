//! What somebody who holds keys can seal: the readers behind the decryption.

use std::collections::HashMap;
use std::sync::Arc;

use super::{number, take};
use crate::codec;
use crate::crypt::sign::SigningKey;
use crate::crypt::{ChunkRole, ContentSecret, Root, Secret, seal};
use crate::repo::log::probe;
use crate::repo::pack::{NewBlob, PackBuilder, Packs, Place, Reference, pack_name};
use crate::repo::wal::{WalAddress, WalFront, WalMeta, WalPart, content_id};
use crate::repo::{PackRef, RepoError};
use crate::store::memory::MemoryStore;
use crate::store::{Backend, SessionTag};
use crate::units::ids::hex;
use crate::units::{ChunkId, DomainId, Hash32, PackId, RepositoryId, SessionId};

/// The owner.
pub(super) fn root() -> Root {
    Root {
        repository: RepositoryId([0x11; 16]),
        domain: DomainId([0x22; 16]),
        owner: SigningKey::from_seed(&[0x33; 32]),
        content: ContentSecret::new(Secret::new([0x44; 32])).expect("a key"),
        former: Vec::new(),
        id_key: Secret::new([0x55; 32]),
        table_key: Secret::new([0x66; 32]),
    }
}

/// Stores a pack's bytes; it is listed as it is.
pub(super) fn store(backend: &MemoryStore, id: PackId, bytes: &[u8], tail: u32) -> PackRef {
    let hash = Hash32(*blake3::hash(bytes).as_bytes());
    let pack = PackRef { session: SessionId([1; 16]), id, hash, size: bytes.len() as u64, tail };
    let name = pack_name(pack.session, &pack).expect("a name");
    let tag = SessionTag::new("fuzz").expect("a tag");
    let _ = backend.create(&name, &[bytes], &tag).expect("a store in memory");
    pack
}

/// Reads every chunk that a table names: what comes has the id that it was asked for.
fn read_all(root: &Root, packs: &Packs, pack: PackId) {
    let opening = root.opening();
    let Ok(table) = packs.table(pack) else { return };
    let mut wanted = Vec::new();
    for (blob, row) in table.rows().iter().enumerate().take(64) {
        for (position, (id, _)) in row.chunks.iter().enumerate().take(8) {
            let place = Place { pack, blob: blob as u32, position: position as u16 };
            match row.role {
                ChunkRole::Content => wanted.push((id.short(), place)),
                ChunkRole::Structure => {
                    if let Ok(node) = packs.node(id.short(), place) {
                        assert_eq!(root.sealing().chunk_id(ChunkRole::Structure, node.bytes()), node.id());
                    }
                }
            }
        }
    }
    let mut seen = 0;
    let read = packs.contents(&opening, &wanted, &mut |at, chunk| {
        seen += 1;
        assert_eq!(Some(chunk.id().short()), wanted.get(at).map(|w| w.0));
        assert_eq!(root.sealing().chunk_id(ChunkRole::Content, chunk.bytes()), chunk.id());
        Ok::<(), RepoError>(())
    });
    assert!(read.is_err() || seen == wanted.len(), "{seen} of {}", wanted.len());
    for (id, place) in wanted {
        let _ = packs.content(&opening, id, place);
    }
}

/// Blobs of any kind, frame, chunks and references, in a pack that is otherwise as it should be.
pub fn pack(mut data: &[u8]) {
    let root = root();
    let sealing = root.sealing();
    let mut builder = PackBuilder::new(&sealing).expect("random numbers");
    let mut before: Vec<(ChunkId, Place, Vec<u8>)> = Vec::new();
    while !data.is_empty() && before.len() < 32 {
        let (what, kind) = (number(&mut data, 1), number(&mut data, 1) as u8);
        let references: Vec<_> = (0..what >> 6)
            .filter_map(|_| {
                let (id, place, _) = before.get(number(&mut data, 1) as usize % before.len().max(1))?;
                Some(Reference { id: *id, place: *place })
            })
            .collect();
        let of = references.first().and_then(|r| before.iter().find(|(id, ..)| *id == r.id)).map(|(_, _, plain)| plain.clone());
        let (len, frame_len) = (number(&mut data, 3) as u32, number(&mut data, 2) as usize);
        let frame = take(&mut data, frame_len).to_vec();
        let plain = codec::decode(kind, &frame, len, of.as_deref()).unwrap_or_default();
        let role = if what & 1 == 0 { ChunkRole::Content } else { ChunkRole::Structure };
        // One chunk or several, with the ids of what is there, or of something else.
        let cut = (number(&mut data, 2) as usize).min(plain.len());
        let (first, second) = plain.split_at(cut);
        let id = |part: &[u8]| if what & 2 == 0 { sealing.chunk_id(role, part) } else { ChunkId([what as u8; 32]) };
        let chunks = match what & 4 {
            0 => vec![(id(&plain), if plain.is_empty() { len } else { plain.len() as u32 })],
            _ => vec![(id(first), first.len() as u32), (id(second), second.len() as u32)],
        };
        let first = chunks[0].0;
        if let Ok(place) = builder.add(NewBlob { role, kind, frame, chunks, references }) {
            before.push((first, place, plain));
        }
    }
    let finished = builder.finish().expect("random numbers");
    let backend = Arc::new(MemoryStore::default());
    let stored = store(&backend, finished.id, &finished.bytes, finished.tail);
    let packs = Packs::new(backend, sealing);
    packs.add([stored]);
    read_all(&root, &packs, finished.id);
}

/// Any table under the right key, any trailer.
pub fn pack_tail(mut data: &[u8]) {
    let root = root();
    let sealing = root.sealing();
    let id = PackId([0xEE; 16]);
    let (envelopes, claimed, odd) = (number(&mut data, 1) % 4, number(&mut data, 1) % 8, number(&mut data, 1));
    let blobs_len = number(&mut data, 2) as usize;
    let blobs = take(&mut data, blobs_len);
    let mut bytes = [b"PGCNPCK\x01".as_slice(), &root.domain.0, &id.0, blobs].concat();
    let front = bytes.len();
    let aad = [b"pgcairn 1 table".as_slice(), &root.domain.0, &id.0].concat();
    let table = sealing.seal_table(&aad, data.to_vec()).expect("random numbers");
    bytes.extend_from_slice(&table.nonce);
    bytes.extend_from_slice(&table.bytes);
    for _ in 0..envelopes {
        bytes.extend_from_slice(&sealing.object_key().expect("random numbers").1.0);
    }
    bytes.extend_from_slice(&table.salt);
    let table_len = table.bytes.len() as u32 + u32::from(odd == 255);
    bytes.extend_from_slice(&table_len.to_le_bytes());
    let envelopes = if odd == 254 { claimed } else { envelopes } as u16;
    bytes.extend_from_slice(&envelopes.to_le_bytes());
    bytes.extend_from_slice(&[0, u8::from(odd == 253)]);
    bytes.extend_from_slice(&id.0);
    bytes.extend_from_slice(b"PGCNEND\x01");
    let tail = (bytes.len() - front) as u32;
    let backend = Arc::new(MemoryStore::default());
    let stored = store(&backend, id, &bytes, if odd == 252 { tail.wrapping_sub(claimed as u32 * 7) } else { tail });
    let packs = Packs::new(backend, sealing);
    packs.add([stored]);
    read_all(&root, &packs, id);
}

fn address() -> WalAddress {
    WalAddress { cluster: root().sealing().cluster_key("main"), system_identifier: 77, name: "000000010000000000000005".into() }
}

/// The front of an object with these metadata, signed.
fn front_of(root: &Root, host: &SigningKey, meta: Vec<u8>, envelope: &[u8]) -> Vec<u8> {
    let address = address();
    let aad = [b"pgcairn 1 wal meta".as_slice(), &root.domain.0, address.name.as_bytes()].concat();
    let sealed = root.sealing().seal_table(&aad, meta).expect("random numbers");
    let mut front = [b"PGCNWAL\x01".as_slice(), &root.repository.0, &host.id().0, &7u64.to_le_bytes(), &[9; 32]].concat();
    front.extend_from_slice(&(sealed.bytes.len() as u32).to_le_bytes());
    front.extend_from_slice(&[0; 12]);
    front.extend_from_slice(envelope);
    front.extend_from_slice(&sealed.salt);
    front.extend_from_slice(&sealed.nonce);
    front.extend_from_slice(&sealed.bytes);
    let place = [address.cluster.as_slice(), &address.system_identifier.to_le_bytes(), address.name.as_bytes()].concat();
    let signature = host.sign(b"wal object", &[&front, &place]);
    front.extend_from_slice(&signature);
    front
}

fn open_object(root: &Root, host: &SigningKey, bytes: &[u8]) -> Option<Vec<u8>> {
    let object = address().object(0).expect("a name");
    let front = WalFront::decode(&root.sealing(), root.repository, &address().name, &object, bytes).ok()?;
    assert!(front.verify(host.public(), &address()));
    let parts = bytes.get(front.parts_at() as usize..front.object_len() as usize)?;
    let plain = front.open(&root.opening(), &object, parts).ok()?;
    assert_eq!((plain.len() as u64, content_id(&root.sealing(), &plain)), (front.meta.len, front.meta.content));
    Some(plain)
}

/// Parts of any kind and frame, sealed as they should be.
pub fn wal_object(mut data: &[u8]) {
    let (root, host) = (root(), SigningKey::from_seed(&[0x77; 32]));
    let sealing = root.sealing();
    let count = number(&mut data, 1) as usize % 6;
    let frames: Vec<(u8, u32, &[u8])> = (0..count)
        .map(|_| {
            let (kind, len) = (number(&mut data, 1) as u8, number(&mut data, 3) as u32);
            let stored = number(&mut data, 2) as usize;
            (kind, len, take(&mut data, stored))
        })
        .collect();
    let plain: Option<Vec<Vec<u8>>> = frames.iter().map(|(kind, len, frame)| codec::decode(*kind, frame, *len, None).ok()).collect();
    let content = content_id(&sealing, &plain.clone().unwrap_or_default().concat());
    let (key, envelope) = sealing.object_key().expect("random numbers");
    let (mut parts, mut bodies) = (Vec::new(), Vec::new());
    for (index, (kind, len, frame)) in frames.iter().enumerate() {
        let mut aad = [b"pgcairn 1 wal part".as_slice(), &root.domain.0, &content.0].concat();
        aad.extend_from_slice(&(index as u32).to_le_bytes());
        aad.extend_from_slice(&(count as u32).to_le_bytes());
        aad.push(*kind);
        aad.extend_from_slice(&len.to_le_bytes());
        let mut body = frame.to_vec();
        let nonce = seal::seal_in_place(&key, &aad, &mut body).expect("random numbers");
        parts.push(WalPart { plain: *len, stored: body.len() as u32, kind: *kind, nonce: hex(&nonce) });
        bodies.extend_from_slice(&body);
    }
    let sum = parts.iter().map(|p| u64::from(p.plain)).sum();
    let facts = serde_json::Value::Null;
    let meta = WalMeta { content, len: sum, parts, parts_hash: Hash32(*blake3::hash(&bodies).as_bytes()), facts };
    let fits = meta.parts.iter().all(|p| p.plain <= 4 << 20 && p.stored <= (4 << 20) + 1024);
    let front = front_of(&root, &host, serde_json::to_vec(&meta).expect("JSON"), &envelope.0);
    let opened = open_object(&root, &host, &[front, bodies].concat());
    assert_eq!(opened.is_some(), plain.is_some() && fits);
}

/// Any metadata, and what lies behind them.
pub fn wal_meta(data: &[u8]) {
    let (root, host) = (root(), SigningKey::from_seed(&[0x77; 32]));
    let (_, envelope) = root.sealing().object_key().expect("random numbers");
    let mut parts = data.splitn(2, |b| *b == 0);
    let (meta, bodies) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let front = front_of(&root, &host, meta.to_vec(), &envelope.0);
    let _ = open_object(&root, &host, &[front, bodies.to_vec()].concat());
    // And what nobody sealed.
    let object = address().object(0).expect("a name");
    let bytes = [b"PGCNWAL\x01".as_slice(), &root.repository.0, data].concat();
    let _ = WalFront::decode(&root.sealing(), root.repository, &address().name, &object, &bytes);
}

/// A line an entry: who signs, and what it says. Session ids and key ids are filled in, so that entries can be about each
/// other.
pub fn log(data: &[u8]) {
    let root = root();
    let hosts: HashMap<u8, SigningKey> = [(b'o', [0x33; 32]), (b'a', [0x77; 32]), (b'b', [0x78; 32])]
        .into_iter()
        .map(|(letter, seed)| (letter, SigningKey::from_seed(&seed)))
        .collect();
    probe::log(&root.owner, root.repository, &hosts, data);
}
