//! What could stop the restored server, or surprise who starts it.

use std::path::Path;

use super::RestoreError;
use super::plan::{Recovery, RestoreOptions, RestorePlan};
use crate::pg::facts::{ConfigRole, ConfigurationFacts};
use crate::repo::structure::Snapshot;
use crate::units::{counted, show};

/// Damaged pages and left-out files that are named one by one.
const MOST_NAMED: usize = 5;

pub(super) fn of(plan: &RestorePlan, snapshot: &Snapshot<'_>, options: &RestoreOptions) -> Result<Vec<String>, RestoreError> {
    let mut warnings = Vec::new();
    build(plan, &mut warnings);
    owner(snapshot, &mut warnings);
    damage(plan, &mut warnings);
    configuration(plan, snapshot, &mut warnings)?;
    configuration_files(plan, &mut warnings);
    for space in plan.tablespaces.iter().filter(|t| !t.moved) {
        warnings.push(format!("tablespace {} goes to its original place {}", space.oid, space.place.display()));
    }
    if options.recovery == Recovery::None && !plan.facts.wal_copied && !plan.facts.offline {
        warnings.push("no recovery settings are written: without WAL the server does not start. Never remove backup_label".into());
    }
    Ok(warnings)
}

fn build(plan: &RestorePlan, warnings: &mut Vec<String>) {
    let (facts, control) = (&plan.facts, &plan.control);
    if control.major().is_some_and(|major| major != facts.major) {
        warnings.push(format!("the snapshot says PostgreSQL {}, and its pg_control another major", facts.major));
    }
    let here = std::env::consts::ARCH;
    if facts.architecture != here {
        warnings.push(format!(
            "the cluster ran on {}, and this is {here}: reindex text columns unless their collation is C, and check extensions",
            facts.architecture
        ));
    }
    if (control.blcksz, control.xlog_blcksz) != (8192, 8192) {
        let (pages, wal) = (control.blcksz, control.xlog_blcksz);
        warnings.push(format!("it needs a server built with pages of {pages} bytes and WAL pages of {wal}"));
    }
}

/// The server refuses to run as root, and to use a data directory that isn't its user's.
fn owner(snapshot: &Snapshot<'_>, warnings: &mut Vec<String>) {
    let Some(top) = snapshot.meta().folders.iter().find(|f| f.path.is_empty()) else { return };
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    if top.uid == 0 {
        warnings.push("the data directory belonged to root: give it to the server's user, or the server refuses to start".into());
    } else if let Ok(None) = nix::unistd::User::from_uid(top.uid.into()) {
        warnings.push(format!("the data directory belongs to user {}, who has no name on this host", top.uid));
    }
}

fn damage(plan: &RestorePlan, warnings: &mut Vec<String>) {
    let damaged = &plan.facts.damaged;
    if damaged.is_empty() {
        return;
    }
    let named: Vec<String> = damaged.iter().take(MOST_NAMED).map(|d| format!("{} block {}", d.path, d.block)).collect();
    let more = if damaged.len() > MOST_NAMED { ", …" } else { "" };
    warnings.push(format!(
        "{} damaged when the backup was taken: {}{more}",
        counted(damaged.len(), "page was", "pages were"),
        named.join(", ")
    ));
}

/// What of the configuration is not in the snapshot, and what never is.
fn configuration_files(plan: &RestorePlan, warnings: &mut Vec<String>) {
    let missing = plan.facts.configuration.iter().flat_map(|c| &c.missing);
    warnings.extend(missing.take(MOST_NAMED).map(|m| {
        let (path, why) = (show(m.path.as_bytes()), show(m.why.as_bytes()));
        format!("the configuration file {path} is not in the snapshot ({why}): the server may not start without it")
    }));
    if plan.facts.settings.get("ssl").is_none_or(|ssl| ssl != "on") {
        return;
    }
    for name in ["ssl_cert_file", "ssl_key_file", "ssl_ca_file", "ssl_crl_file"] {
        let file = plan.facts.settings.get(name).map(Path::new).filter(|file| file.is_absolute());
        if let Some(file) = file.filter(|file| !file.exists()) {
            warnings.push(format!(
                "{name} is {}, which is not on this host, and never in a snapshot: put it there, or start the server with ssl = off",
                file.display()
            ));
        }
    }
}

/// Settings that lay outside the data directory are not in the snapshot. With hot_standby a server that recovers compares
/// its own with those of the primary, and stops if they are lower.
fn configuration(plan: &RestorePlan, snapshot: &Snapshot<'_>, warnings: &mut Vec<String>) -> Result<(), RestoreError> {
    let is_there = |c: &ConfigurationFacts| c.files.iter().any(|f| f.top && f.role == ConfigRole::Config);
    if plan.facts.configuration.as_ref().is_some_and(is_there) {
        return Ok(());
    }
    for (_, child) in snapshot.folders()?.iter().filter(|(meta, _)| meta.path.is_empty()) {
        for part in snapshot.parts(child)? {
            if snapshot.files(&part)?.iter().any(|f| f.attributes.name == b"postgresql.conf") {
                return Ok(());
            }
        }
    }
    let c = &plan.control;
    warnings.push(format!(
        "postgresql.conf lay outside the data directory and is not in the snapshot; the server needs one with at least \
         max_connections = {}, max_worker_processes = {}, max_wal_senders = {}, max_prepared_transactions = {}, \
         max_locks_per_transaction = {}, or it stops while it recovers",
        c.max_connections, c.max_worker_processes, c.max_wal_senders, c.max_prepared_transactions, c.max_locks_per_transaction
    ));
    Ok(())
}
