//! The format object that a host of a bucket keeps: believed only where reading it would tell nothing.

use std::ffi::OsStr;

use super::stored::{Need, Place, known_format};
use super::testing::Host;
use crate::host::config::{RepositorySettings, RepositoryUrl};
use crate::host::state::Pin;
use crate::repo::format::Format;
use crate::store::memory::MemoryStore;
use crate::store::s3::Watch;
use crate::units::{DomainId, Quiet, RepositoryId};
use std::sync::Arc;

/// A host that has opened a repository in a bucket before, and wrote to it.
struct World {
    host: Host,
    settings: RepositorySettings,
    watch: Watch,
}

fn world(url: &str) -> World {
    let host = Host::new(Arc::new(MemoryStore::default()));
    let settings = RepositorySettings::at(RepositoryUrl::parse(OsStr::new(url), None).unwrap(), None);
    let world = World { host, settings, watch: Watch::default() };
    world.host.opened.remember(&world.place()).unwrap();
    world.host.state.remember_proved(&world.settings.url).unwrap();
    world.host.state.keep_format(&world.settings.url, &world.ours().encode()).unwrap();
    world
}

impl World {
    fn ours(&self) -> Format {
        Format { ..self.host.opened.format }
    }

    fn place(&self) -> Place<'_> {
        Place { repository: &self.settings, watch: &self.watch, state: Some(&self.host.state), cache: None, progress: &Quiet }
    }

    fn pin(&self) -> Pin {
        Pin { repository: self.ours().repository, owner_key: *self.host.opened.owner.as_bytes() }
    }

    fn known(&self, need: Need) -> Option<Format> {
        known_format(&self.place(), Some(&self.pin()), need).unwrap()
    }
}

#[test]
fn only_a_whole_one_of_the_pinned_repository_is_believed() {
    let world = world("s3://bucket/pg");
    let bytes = world.ours().encode();
    assert!(world.known(Need::Read) == Some(world.ours()) && world.known(Need::Write) == Some(world.ours()));
    let of = |format: Format| format.encode().to_vec();
    let mut cases: Vec<(String, Vec<u8>)> = (0..bytes.len()).map(|len| (format!("cut to {len}"), bytes[..len].to_vec())).collect();
    for at in 0..bytes.len() {
        let mut flipped = bytes.to_vec();
        flipped[at] ^= 1 << (at % 8);
        cases.push((format!("a bit of byte {at}"), flipped));
    }
    cases.push(("longer".into(), [&bytes[..], b"x"].concat()));
    cases.push(("garbage".into(), vec![0xa5; 4096]));
    cases.push(("another repository's".into(), of(Format { repository: RepositoryId([7; 16]), ..world.ours() })));
    for (what, kept) in cases {
        world.host.state.keep_format(&world.settings.url, &kept).unwrap();
        for need in [Need::Read, Need::Write] {
            assert!(world.known(need).is_none(), "{what}");
        }
    }
    world.host.state.keep_format(&world.settings.url, &bytes).unwrap();
    assert_eq!(world.known(Need::Read), Some(world.ours()));
    // Nor if something else is pinned by now, or nothing.
    let other = Pin { repository: RepositoryId([7; 16]), ..world.pin() };
    assert!(known_format(&world.place(), Some(&other), Need::Read).unwrap().is_none());
    assert!(known_format(&world.place(), None, Need::Read).unwrap().is_none());
    world.host.state.remember_pin(&world.settings.url, &world.pin()).unwrap();
    world.host.state.forget_pin(&world.settings.url).unwrap();
    assert!(world.known(Need::Read).is_none(), "it goes with the pin");
}

/// Keys are bound to a repository and its domain: one of this name in another domain opens nothing.
#[test]
fn one_of_another_domain_opens_nothing() {
    let world = world("s3://bucket/pg");
    let lie = Format { domain: DomainId([7; 16]), ..world.ours() };
    let opened = super::open::with_host_keys(
        Arc::clone(&world.host.opened.backend),
        "memory".into(),
        lie,
        &world.host.opened.keys,
        Some(world.host.state.repository(world.ours().repository)),
        None,
    );
    assert!(matches!(opened, Err(crate::host::HostError::Another { .. })));
}

#[test]
fn it_is_of_use_only_to_who_remembers_an_entry_and_pays_for_requests() {
    // On a disk it costs nothing to read it.
    assert!(world("/somewhere/on/a/disk").known(Need::Read).is_none());
    // Without an entry that is looked for, nothing would say that this is the repository.
    let fresh = world("s3://bucket/pg");
    let other = Host::new(Arc::new(MemoryStore::default()));
    let place = Place { state: Some(&other.state), ..fresh.place() };
    other.state.remember_proved(&fresh.settings.url).unwrap();
    other.state.keep_format(&fresh.settings.url, &other.opened.format.encode()).unwrap();
    let pin = Pin { repository: other.opened.format.repository, owner_key: *other.opened.owner.as_bytes() };
    assert!(known_format(&place, Some(&pin), Need::Read).unwrap().is_none());
    other.opened.remember(&place).unwrap();
    assert!(known_format(&place, Some(&pin), Need::Read).unwrap().is_some());
    // A host that hasn't proved the store reads it, since by that object it does so.
    let unproved = Host::new(Arc::new(MemoryStore::default()));
    let place = Place { state: Some(&unproved.state), ..fresh.place() };
    unproved.opened.remember(&place).unwrap();
    unproved.state.keep_format(&fresh.settings.url, &unproved.opened.format.encode()).unwrap();
    let pin = Pin { repository: unproved.opened.format.repository, owner_key: *unproved.opened.owner.as_bytes() };
    assert!(known_format(&place, Some(&pin), Need::Read).unwrap().is_some());
    assert!(known_format(&place, Some(&pin), Need::Write).unwrap().is_none());
}
