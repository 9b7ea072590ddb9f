//! `key add-host`, `accept`, `remove-host`, `forget-host`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::super::context::{Context, Here};
use super::super::contract::Exit;
use super::super::failure::Failure;
use super::super::fronts::CatalogFronts;
use super::super::output::{answered, json};
use super::super::secret_file;
use super::super::tail::OpenedTail;
use super::list::roles as roles_in_words;
use super::{With, as_owner, here};
use crate::archive::{self, Archive};
use crate::host::HostError;
use crate::host::access::{self, Need, Opened};
use crate::host::owner::{self, Enrolment, Owner};
use crate::host::state::Grant;
use crate::repo::log::{self, Role, WalEnd};
use crate::store::{ObjectName, StoreError};
use crate::units::ids::hex;
use crate::units::{KeyId, Progress};

/// Arguments of `key add-host`.
#[derive(clap::Args, Debug)]
pub(in crate::cli) struct AddArgs {
    /// What the host may do, separated by commas
    #[arg(long, required = true, value_delimiter = ',', value_name = "ROLE", value_parser = ["writer", "reader", "maintainer"])]
    role: Vec<String>,
    /// For which clusters, separated by commas [default: all]
    #[arg(long, value_delimiter = ',', value_name = "NAME", value_parser = cluster_name)]
    clusters: Vec<String>,
    /// What people call the host; one that is enrolled gets more rights, or the newest keys
    #[arg(long, value_name = "NAME", value_parser = host_name)]
    name: String,
    /// The file to write, 0600, for `key accept` on that host: it is secret
    file: PathBuf,
    #[command(flatten)]
    with: With,
}

/// Arguments of `key accept`.
#[derive(clap::Args, Debug)]
pub(in crate::cli) struct AcceptArgs {
    /// The file that `key add-host` wrote
    file: PathBuf,
}

/// Arguments of `key remove-host`.
#[derive(clap::Args, Debug)]
pub(in crate::cli) struct RemoveArgs {
    /// The host's name, or its key's id or the beginning of it
    host: String,
    /// Also if it is this host, or the last one that may do something
    #[arg(long)]
    yes: bool,
    /// Names of clusters that the host archived before their first backup, separated by commas
    #[arg(long, value_delimiter = ',', value_name = "NAME", value_parser = cluster_name)]
    clusters: Vec<String>,
    #[command(flatten)]
    with: With,
}

/// Arguments of `key forget-host`.
#[derive(clap::Args, Debug)]
pub(in crate::cli) struct ForgetArgs {
    /// Yes, this host's keys are to be removed
    #[arg(long)]
    yes: bool,
}

/// Arguments of `key claim-host`.
#[derive(clap::Args, Debug)]
pub(in crate::cli) struct ClaimArgs {
    /// Yes, no other host has this host's key
    #[arg(long)]
    yes: bool,
}

fn cluster_name(text: &str) -> Result<String, String> {
    if log::is_cluster_name(text) {
        Ok(text.to_owned())
    } else {
        Err("a cluster's name of 1 to 64 of a-z, 0-9, _ and - is expected".into())
    }
}

fn host_name(text: &str) -> Result<String, String> {
    let fine = (1..=200).contains(&text.len()) && !text.chars().any(char::is_control);
    if fine { Ok(text.to_owned()) } else { Err("a name of 1 to 200 bytes in one line is expected".into()) }
}

fn clusters_in_words(clusters: Option<&BTreeSet<String>>) -> String {
    clusters.map_or("all clusters".into(), |c| c.iter().map(String::as_str).collect::<Vec<_>>().join(", "))
}

#[derive(Serialize)]
struct HostAnswer<'a> {
    version: u32,
    key: String,
    name: &'a str,
    roles: &'a BTreeSet<Role>,
    clusters: Option<&'a BTreeSet<String>>,
    /// The entry that enrolled it; `null` if it had these rights.
    entry: Option<u64>,
}

pub(super) fn add(context: &Context, args: &AddArgs) -> Result<Exit, Failure> {
    let role = |word: &String| match word.as_str() {
        "writer" => Role::Writer,
        "reader" => Role::Reader,
        _ => Role::Maintainer,
    };
    let clusters = (!args.clusters.is_empty()).then(|| args.clusters.iter().cloned().collect());
    let wanted = Enrolment { name: args.name.clone(), roles: args.role.iter().map(role).collect(), clusters };
    let (here, opened, owner) = as_owner(context, &args.with)?;
    let grant = grant_in(&args.file, &wanted, &opened, &owner)?;
    let entry = owner::enrol(&opened, &owner, &grant)?;
    opened.settle(&here.place(&context.reporter));
    let out = &mut io::stdout().lock();
    let text = |out: &mut dyn Write| {
        let (roles, clusters) = (roles_in_words(&grant.roles), clusters_in_words(grant.clusters.as_ref()));
        match entry {
            Some(head) => {
                writeln!(out, "enrolled {} as {roles} for {clusters}: key {}, entry {}", grant.name, grant.host_key, head.number)?
            }
            None => writeln!(out, "{} is {roles} for {clusters} already: key {}", grant.name, grant.host_key)?,
        }
        writeln!(
            out,
            "{} holds its keys, and is SECRET: bring it to that host, run there, as the user who takes backups,",
            args.file.display()
        )?;
        writeln!(out, "    pgcairn --repo {} key accept FILE", here.repository.url)?;
        writeln!(out, "and delete it everywhere.")?;
        if grant.roles.contains(&Role::Reader) && grant.clusters.is_some() {
            writeln!(out, "It can read all clusters of this repository: --clusters limits what a host may write and delete.")?;
        }
        out.flush()
    };
    let answer = HostAnswer {
        version: 1,
        key: grant.host_key.to_string(),
        name: &grant.name,
        roles: &grant.roles,
        clusters: grant.clusters.as_ref(),
        entry: entry.map(|head| head.number),
    };
    answered(if context.settings.json { json::write(out, &answer) } else { text(out) })?;
    Ok(Exit::DONE)
}

/// The grant, in its file before the key counts: an entry for a key that is lost does no harm. A file that an interrupted run
/// has left is used.
fn grant_in(file: &Path, wanted: &Enrolment, opened: &Opened, owner: &Owner) -> Result<Grant, Failure> {
    if file.symlink_metadata().is_ok() {
        secret_file::remove_unfinished(file);
        let there = || {
            Failure::refused(
                format!("{} is there already, and is not for this host", file.display()),
                "choose a new name: nothing is overwritten",
            )
        };
        let grant = owner::read_grant(file).map_err(|_| there())?;
        if opened.view().fold.keys.get(&grant.host_key).is_some_and(|key| !key.is_active()) {
            return Err(Failure::refused(
                format!("{} is there already, and the key in it was revoked", file.display()),
                "delete it, and run this again: the host gets a new key",
            ));
        }
        // Made for a new host it must be just what is asked for; for one that is enrolled it has all its rights.
        let same = match (&grant.signing_seed, &wanted.clusters, &grant.clusters) {
            (Some(_), wanted_clusters, granted) => grant.roles == wanted.roles && wanted_clusters == granted,
            (None, Some(wanted_clusters), Some(granted)) => grant.roles.is_superset(&wanted.roles) && granted.is_superset(wanted_clusters),
            (None, _, _) => grant.roles.is_superset(&wanted.roles),
        };
        let newest = grant.content_secrets.first().is_some_and(|secret| secret.expose() == owner.root.content.expose());
        let holds_newest = newest || !grant.roles.contains(&Role::Reader);
        let same = same && grant.name == wanted.name;
        return if same && holds_newest { Ok(grant) } else { Err(there()) };
    }
    let grant = owner::grant(opened, owner, wanted)?;
    if secret_file::write_new(file, &grant.encode(), "the file")? {
        Ok(grant)
    } else {
        Err(Failure::refused(format!("{} is there already", file.display()), "choose a new name: nothing is overwritten"))
    }
}

pub(super) fn accept(context: &Context, args: &AcceptArgs) -> Result<Exit, Failure> {
    let grant = owner::read_grant(&args.file)?;
    let here = here(context, Need::Write)?;
    here.state_to_write()?;
    let accepted = owner::accept(&here.place(&context.reporter), &grant)?;
    let out = &mut io::stdout().lock();
    let text = |out: &mut dyn Write| {
        let how = if accepted.renewed { "took the new keys" } else { "is enrolled" };
        let (roles, clusters) = (roles_in_words(&grant.roles), clusters_in_words(grant.clusters.as_ref()));
        writeln!(out, "this host {how} as {}: {roles} for {clusters}, key {}", grant.name, grant.host_key)?;
        writeln!(out, "Delete {} now, here and where it came from: whoever has it can do all that this host can.", args.file.display())?;
        out.flush()
    };
    let answer = HostAnswer {
        version: 1,
        key: grant.host_key.to_string(),
        name: &grant.name,
        roles: &grant.roles,
        clusters: grant.clusters.as_ref(),
        entry: accepted.opened.view().fold.keys.get(&grant.host_key).map(|key| key.since),
    };
    answered(if context.settings.json { json::write(out, &answer) } else { text(out) })?;
    Ok(Exit::DONE)
}

#[derive(Serialize)]
struct RemovedAnswer<'a> {
    version: u32,
    key: String,
    name: &'a str,
    revoked: Option<u64>,
    accepted: Vec<EndJson<'a>>,
}

#[derive(Serialize)]
struct EndJson<'a> {
    cluster: &'a str,
    system_identifier: String,
    last: String,
}

pub(super) fn remove(context: &Context, args: &RemoveArgs) -> Result<Exit, Failure> {
    let (here, opened, owner) = as_owner(context, &args.with)?;
    let (id, key) = owner::find_host(&opened, &args.host)?;
    if key.is_active() && !args.yes {
        refuse_unasked(&opened, id, &key)?;
    }
    owner::revoke(&opened, &owner, id)?;
    let ends = match key.wal_ends {
        Some(ends) => ends,
        None => {
            let ends = last_segments(context, &opened, id, &key, &args.clusters)?;
            owner::end_wal(&opened, &owner, id, ends)?
        }
    };
    opened.settle(&here.place(&context.reporter));
    let revoked = opened.view().fold.keys.get(&id).and_then(|key| key.revoked);
    let out = &mut io::stdout().lock();
    let text = |out: &mut dyn Write| {
        writeln!(out, "removed {} (key {id}): what it appends after entry {} is void", key.name, revoked.unwrap_or_default())?;
        for end in &ends {
            writeln!(out, "its WAL of cluster {} on timeline {} counts up to {}", end.cluster, end.last.timeline, end.last)?;
        }
        writeln!(out, "Its snapshots stay.")?;
        if key.roles.contains(&Role::Reader) {
            writeln!(out, "It could read, and keeps its keys: `pgcairn key rotate` protects what is written from then on.")?;
        }
        out.flush()
    };
    let accepted = ends.iter().map(|end| EndJson {
        cluster: &end.cluster,
        system_identifier: end.system_identifier.to_string(),
        last: end.last.to_string(),
    });
    let answer = RemovedAnswer { version: 1, key: id.to_string(), name: &key.name, revoked, accepted: accepted.collect() };
    answered(if context.settings.json { json::write(out, &answer) } else { text(out) })?;
    Ok(Exit::DONE)
}

/// Removing this host, or the last one with a role that the repository needs, is done if it is said twice.
fn refuse_unasked(opened: &Opened, id: KeyId, key: &log::Key) -> Result<(), Failure> {
    if opened.signer.as_ref().map(|own| own.id()) == Some(id) {
        return Err(Failure::refused(
            format!("{} is this host: it could no longer back up nor archive WAL", key.name),
            "say --yes if that is meant; `pgcairn key forget-host` afterwards removes its keys from here",
        ));
    }
    let view = opened.view();
    let others = |role: &Role| view.fold.keys.iter().any(|(other, k)| *other != id && !k.owner && k.is_active() && k.roles.contains(role));
    let last: BTreeSet<Role> = key.roles.iter().copied().filter(|role| *role != Role::Reader && !others(role)).collect();
    if last.is_empty() {
        return Ok(());
    }
    Err(Failure::refused(
        format!("{} is the last host that is {}", key.name, roles_in_words(&last)),
        "enrol another one first by `pgcairn key add-host`, or say --yes",
    ))
}

/// The last segments that the key pushed, of all archives that it may have pushed to. Read after the revocation.
fn last_segments(context: &Context, opened: &Opened, id: KeyId, key: &log::Key, more: &[String]) -> Result<Vec<WalEnd>, Failure> {
    if !key.roles.contains(&Role::Writer) {
        return Ok(Vec::new());
    }
    let mut names: BTreeSet<String> = key.clusters.iter().flatten().cloned().chain(more.iter().cloned()).collect();
    {
        let fold = &opened.view().fold;
        names.extend(fold.clusters.keys().cloned());
        names.extend(fold.commits.values().map(|commit| commit.summary.cluster.clone()));
    }
    names.extend(context.settings.chosen_cluster());
    names.extend(context.cluster_if_one()?.map(|cluster| cluster.name));
    let by_key: BTreeMap<String, &String> = names.iter().map(|name| (hex(&opened.sealing.cluster_key(name)), name)).collect();
    let fronts = CatalogFronts::of(opened);
    let mut ends = Vec::new();
    for (cluster, system_identifier) in stored_archives(opened)? {
        let Some(name) = by_key.get(&cluster) else {
            return Err(Failure::refused(
                format!(
                    "wal/{cluster} holds WAL of a cluster whose name is not known here: which of it stays can't be said yet; the key's rights have ended"
                ),
                "run it again with --clusters and the name of that cluster",
            ));
        };
        let tail = OpenedTail::new(opened, name)?;
        let archive = Archive::read(&tail.site(), system_identifier, &fronts, &context.cancel)?;
        for damaged in &archive.damaged {
            context.reporter.warn(&format!("{}: {}; it is not counted among what the host had pushed", damaged.object, damaged.why));
        }
        ends.extend(archive::wal_ends(&archive, id));
    }
    Ok(ends)
}

/// Cluster keys and system identifiers of which there is WAL.
fn stored_archives(opened: &Opened) -> Result<BTreeSet<(String, u64)>, Failure> {
    let mut archives = BTreeSet::new();
    let folder = ObjectName::new("wal").map_err(StoreError::from)?;
    let mut take = |name: &ObjectName| {
        let mut words = name.as_str().split('/').skip(1);
        if let (Some(cluster), Some(Ok(identifier))) = (words.next(), words.next().map(str::parse)) {
            archives.insert((cluster.to_owned(), identifier));
        }
    };
    opened.backend.list(Some(&folder), &mut |listed| {
        take(&listed.name);
        Ok(())
    })?;
    // What somebody has deleted to have it left out was pushed all the same.
    opened.backend.covered(&folder)?.iter().for_each(|covered| take(&covered.name));
    Ok(archives)
}

pub(super) fn claim(context: &Context, args: &ClaimArgs) -> Result<Exit, Failure> {
    let here = here(context, Need::Write)?;
    let opened = context.open(&here, Need::Write)?;
    let key = opened.key()?.id();
    let found = opened.used_elsewhere()?;
    if let Some(elsewhere) = found.clone().filter(|_| !args.yes) {
        return Err(Failure::usage(
            format!("{}: this would say that no other host has its key {key}", HostError::from(elsewhere)),
            "say --yes if that is so; a host that is a copy of another one is enrolled by itself instead: key forget-host --yes, then key add-host",
        ));
    }
    opened.claim()?;
    let out = &mut io::stdout().lock();
    let text = |out: &mut dyn Write| {
        match &found {
            Some(e) => writeln!(
                out,
                "session {} of {} counts as this host's own; if another host has its key {key}, it is told at its next backup",
                e.session, e.at
            )?,
            None => writeln!(out, "nothing was begun with this host's key {key} but by this host: there is nothing to claim")?,
        }
        out.flush()
    };
    #[derive(Serialize)]
    struct Claimed {
        version: u32,
        key: String,
        session: Option<String>,
    }
    let answer = Claimed { version: 1, key: key.to_string(), session: found.as_ref().map(|e| e.session.to_string()) };
    answered(if context.settings.json { json::write(out, &answer) } else { text(out) })?;
    Ok(Exit::DONE)
}

pub(super) fn forget(context: &Context, args: &ForgetArgs) -> Result<Exit, Failure> {
    let here = here(context, Need::Write)?;
    let state = here.state_to_write()?;
    let url = &here.repository.url;
    // The store may be gone: what is known of it here is enough.
    let known = match state.pin(url)? {
        Some(pin) => pin.repository,
        None => access::repository_at(&here.repository, &here.watch)?,
    };
    let repository = state.repository(known);
    if !args.yes {
        return Err(Failure::usage(
            format!("this would remove this host's keys of repository {known}, in {}", repository.keys_path().display()),
            "say --yes if that is meant: without them, daily work needs the passphrase once more, and a rollback of the store is no longer noticed",
        ));
    }
    // Damaged ones are removed like others.
    let had_keys = repository.keys_path().symlink_metadata().is_ok();
    repository.forget()?;
    state.forget_pin(url)?;
    forget_cache(&here, &known.to_string())?;
    let out = &mut io::stdout().lock();
    let text = |out: &mut dyn Write| {
        if !had_keys {
            writeln!(out, "this host had no keys of repository {known}; what else it knew of it, and its cache, are removed")?;
            return out.flush();
        }
        writeln!(out, "removed this host's keys of repository {known}, and its cache")?;
        writeln!(out, "Its key still has its rights: the owner ends them by `pgcairn key remove-host`.")?;
        out.flush()
    };
    #[derive(Serialize)]
    struct Forgotten {
        version: u32,
        repository: String,
    }
    let answer = Forgotten { version: 1, repository: known.to_string() };
    answered(if context.settings.json { json::write(out, &answer) } else { text(out) })?;
    Ok(Exit::DONE)
}

/// Names and page hashes lie in the cache.
fn forget_cache(here: &Here, repository: &str) -> Result<(), Failure> {
    let Some(folder) = here.cache.as_ref().map(|cache| cache.join(repository)) else { return Ok(()) };
    match std::fs::remove_dir_all(&folder) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Failure::io(format!("removing {}", folder.display()), e)),
        _ => Ok(()),
    }
}
