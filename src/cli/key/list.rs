//! `key list`.

use std::collections::BTreeSet;
use std::io::{self, Write};

use serde::Serialize;

use super::super::context::Context;
use super::super::contract::Exit;
use super::super::failure::Failure;
use super::super::output::table::{Align, Table};
use super::super::output::{answered, json};
use crate::crypt::slot::{Slot, SlotKind};
use crate::host::access::Opened;
use crate::host::owner;
use crate::repo::log::Role;
use crate::units::ids::hex;
use crate::units::{ByteSize, Progress, counted};

#[derive(Serialize)]
struct Answer {
    version: u32,
    repository: String,
    owner_key: String,
    slots: Vec<SlotJson>,
    hosts: Vec<HostJson>,
    content_keys: Vec<ContentKeyJson>,
    thief_of_this_host: String,
}

/// A slot.
#[derive(Serialize)]
pub(super) struct SlotJson {
    slot: String,
    kind: &'static str,
    memory_kib: Option<u32>,
    passes: Option<u32>,
    lanes: Option<u32>,
    cheap: bool,
    /// The entry by which it is being removed: whoever did was interrupted, or is at it. `null`: it stays.
    removing: Option<u64>,
}

#[derive(Serialize)]
struct HostJson {
    key: String,
    name: String,
    roles: BTreeSet<Role>,
    clusters: Option<BTreeSet<String>>,
    /// The entry that enrolled it.
    since: u64,
    /// The entry that ended its rights.
    revoked: Option<u64>,
    /// Are its last accepted segments listed? `null`: it isn't revoked.
    wal_ended: Option<bool>,
    this_host: bool,
}

#[derive(Serialize)]
struct ContentKeyJson {
    key: String,
    /// The entry that named it.
    since: u64,
    current: bool,
    /// Can this host open what is sealed to it?
    held: bool,
}

impl SlotJson {
    pub(super) fn of(slot: &Slot, removing: Option<u64>) -> Self {
        let kdf = slot.kdf();
        SlotJson {
            slot: hex(&slot.id()),
            kind: kind(slot),
            memory_kib: kdf.map(|kdf| kdf.memory_kib),
            passes: kdf.map(|kdf| kdf.passes),
            lanes: kdf.map(|kdf| kdf.lanes),
            cheap: slot.is_weak(),
            removing,
        }
    }
}

/// The word for a slot's kind in JSON.
fn kind(slot: &Slot) -> &'static str {
    match slot.kind() {
        SlotKind::Passphrase => "passphrase",
        SlotKind::KeyFile => "key-file",
        SlotKind::Clear => "clear",
        SlotKind::Command => "command",
    }
}

/// The same for people.
pub(super) fn kind_in_words(slot: &Slot) -> &'static str {
    match slot.kind() {
        SlotKind::KeyFile => "key file",
        SlotKind::Clear => "in clear: opened by anyone",
        _ => kind(slot),
    }
}

pub(super) fn run(context: &Context) -> Result<Exit, Failure> {
    let opened = context.open_to_look()?;
    let (slots, others) = owner::list_slots(&opened)?;
    if others > 0 {
        context.reporter.warn(&format!("in key/ {} that this version knows", counted(others, "object is no slot", "objects are no slots")));
    }
    let json: Vec<SlotJson> = slots.iter().map(|s| SlotJson::of(&s.slot, owner::removing(&opened, &s.slot))).collect();
    for slot in json.iter().filter(|slot| slot.removing.is_some()) {
        let id = &slot.slot;
        context.reporter.warn(&format!("key slot {id} is being removed: if nobody is at it, run `pgcairn key remove {id}` again"));
    }
    if !slots.is_empty() && json.iter().all(|slot| slot.removing.is_some()) {
        context.reporter.warn("no other key slot is there: make one by `pgcairn key add` before anything else");
    }
    if slots.is_empty() {
        context.reporter.warn("there is no key slot: no fresh machine can open this repository; make one by `pgcairn key add`");
    }
    let deleted: Vec<String> = owner::deleted_slots(&opened)?.iter().map(|s| hex(&s.slot.id())).collect();
    if !deleted.is_empty() {
        context.reporter.warn(&format!(
            "deleted, and still there as older versions: {} {}; if it was not you who removed them, make another by `pgcairn key add`",
            if deleted.len() == 1 { "key slot" } else { "key slots" },
            deleted.join(", ")
        ));
    }
    let answer = answer(&opened, json)?;
    for host in answer.hosts.iter().filter(|host| host.wal_ended == Some(false)) {
        context.reporter.warn(&format!("the removal of {} was interrupted: run `pgcairn key remove-host {}` again", host.name, host.key));
    }
    let out = &mut io::stdout().lock();
    if context.settings.json {
        answered(json::write(out, &answer))?;
    } else {
        let costs: Vec<String> = slots.iter().map(|s| cost(&s.slot)).collect();
        let kinds: Vec<&str> = slots.iter().map(|s| kind_in_words(&s.slot)).collect();
        answered(write_text(out, &answer, &kinds, &costs))?;
    }
    Ok(Exit::DONE)
}

fn cost(slot: &Slot) -> String {
    let cheap = if slot.is_weak() { ", cheap to guess" } else { "" };
    slot.kdf().map_or(String::new(), |kdf| {
        format!("argon2id: {}, {} passes, {} lanes{cheap}", ByteSize(u64::from(kdf.memory_kib) << 10), kdf.passes, kdf.lanes)
    })
}

fn answer(opened: &Opened, slots: Vec<SlotJson>) -> Result<Answer, Failure> {
    let thief = owner::exposure(opened)?.in_words();
    let own = opened.signer.as_ref().map(|key| key.id());
    let view = opened.view();
    let keys = &view.fold.keys;
    let mut hosts: Vec<HostJson> = keys
        .iter()
        .filter(|(_, key)| !key.owner)
        .map(|(id, key)| HostJson {
            key: id.to_string(),
            name: key.name.clone(),
            roles: key.roles.clone(),
            clusters: key.clusters.clone(),
            since: key.since,
            revoked: key.revoked,
            wal_ended: key.revoked.map(|_| key.wal_ends.is_some()),
            this_host: Some(*id) == own,
        })
        .collect();
    hosts.sort_by_key(|host| (host.since, host.key.clone()));
    let newest = keys.sealing_key().map(|key| key.id);
    let content_keys = keys.sealing.iter().map(|key| ContentKeyJson {
        key: key.id.to_string(),
        since: key.number,
        current: Some(key.id) == newest,
        held: opened.opening.as_ref().is_some_and(|opening| opening.opens(&key.id)),
    });
    Ok(Answer {
        version: 1,
        repository: opened.format.repository.to_string(),
        owner_key: opened.owner.id().to_string(),
        slots,
        hosts,
        content_keys: content_keys.collect(),
        thief_of_this_host: thief,
    })
}

fn write_text(out: &mut dyn Write, answer: &Answer, kinds: &[&str], costs: &[String]) -> io::Result<()> {
    use Align::{Left, Right};
    let mut slots = Table::new([("key slot", Left), ("opened by", Left), ("cost of a guess", Left), ("", Left)]);
    for (slot, (kind, cost)) in answer.slots.iter().zip(kinds.iter().zip(costs)) {
        let mark = slot.removing.map_or(String::new(), |number| format!("being removed by entry {number}"));
        slots.row([slot.slot.clone(), (*kind).to_owned(), cost.clone(), mark]);
    }
    slots.write(out)?;
    writeln!(out)?;
    let mut hosts =
        Table::new([("host's key", Left), ("name", Left), ("roles", Left), ("clusters", Left), ("since entry", Right), ("", Left)]);
    for host in &answer.hosts {
        let mut marks = Vec::new();
        if host.this_host {
            marks.push("this host".to_owned());
        }
        match (host.revoked, host.wal_ended) {
            (Some(number), Some(true)) => marks.push(format!("revoked by entry {number}")),
            (Some(number), _) => marks.push(format!("revoked by entry {number}, unfinished: its WAL still counts")),
            _ => {}
        }
        let clusters = host.clusters.as_ref().map_or("all".into(), |c| c.iter().map(String::as_str).collect::<Vec<_>>().join(", "));
        hosts.row([host.key.clone(), host.name.clone(), roles(&host.roles), clusters, host.since.to_string(), marks.join(", ")]);
    }
    hosts.write(out)?;
    writeln!(out)?;
    let mut keys = Table::new([("content key", Left), ("since entry", Right), ("", Left)]);
    for key in &answer.content_keys {
        let mut marks = Vec::new();
        if key.current {
            marks.push("in use");
        }
        if !key.held {
            marks.push("not opened by this host");
        }
        keys.row([key.key.clone(), key.since.to_string(), marks.join(", ")]);
    }
    keys.write(out)?;
    writeln!(out, "\n{}", answer.thief_of_this_host)?;
    out.flush()
}

/// Roles in words.
pub(super) fn roles(roles: &BTreeSet<Role>) -> String {
    let word = |role: &Role| match role {
        Role::Writer => "writer",
        Role::Reader => "reader",
        Role::Maintainer => "maintainer",
    };
    roles.iter().map(word).collect::<Vec<_>>().join(", ")
}
