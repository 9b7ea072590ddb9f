//! `hold`: snapshots that no policy drops.

use std::io::{self, Write};

use serde::Serialize;

use super::args::values;
use super::clusters;
use super::context::Context;
use super::contract::Exit;
use super::failure::Failure;
use super::maintainer::Maintainer;
use super::output::table::{Align, Table};
use super::output::{answered, json, one_line};
use crate::host::access::Need;
use crate::look::{self, SnapshotName};
use crate::repo::log::{Head, Kind, LogView, Note};
use crate::units::Progress;

/// The commands about holds.
#[derive(clap::Subcommand, Debug)]
pub(super) enum Command {
    /// Hold a snapshot: no policy and no forget drops it
    Add {
        /// An id, the beginning of one, latest, or latest~N
        snapshot: SnapshotName,
        /// Why
        #[arg(long, value_name = "TEXT", value_parser = values::reason)]
        reason: String,
    },
    /// End all holds on a snapshot
    Remove {
        /// An id, the beginning of one, latest, or latest~N
        snapshot: SnapshotName,
    },
    /// List the holds
    List,
}

#[derive(Serialize)]
struct Listing {
    version: u32,
    holds: Vec<HoldJson>,
}

#[derive(Serialize)]
struct HoldJson {
    snapshot: String,
    cluster: String,
    reason: String,
    log: u64,
}

pub(super) fn run(context: &Context, command: &Command) -> Result<Exit, Failure> {
    match command {
        Command::Add { snapshot, reason } => change(context, snapshot, Some(reason)),
        Command::Remove { snapshot } => change(context, snapshot, None),
        Command::List => list(context),
    }
}

fn change(context: &Context, name: &SnapshotName, reason: Option<&String>) -> Result<Exit, Failure> {
    let cluster = context.cluster_if_one()?;
    let here = context.here(cluster.as_ref(), Need::Write)?;
    let opened = context.open(&here, Need::Write)?;
    let (snapshot, held, cluster) = {
        let view = opened.view();
        let listed = clusters::find(context, &view, name)?;
        let id = listed.id().to_owned();
        let held = view.fold.holds.get(&id).cloned();
        (id, held, listed.commit.summary.cluster.clone())
    };
    let out = &mut io::stdout().lock();
    let say = |out: &mut dyn Write, head: Option<Head>, text: String| {
        let value = serde_json::json!({"version": 1, "snapshot": snapshot, "held": reason, "log": head});
        answered(if context.settings.json { json::write(out, &value) } else { writeln!(out, "{text}") })
    };
    if reason.is_none() && held.is_none() {
        say(out, None, format!("{snapshot} is not held"))?;
        return Ok(Exit::DONE);
    }
    let note = match reason {
        Some(reason) => Note::Hold { snapshot: snapshot.clone(), reason: reason.clone() },
        None => Note::Unhold { snapshot: snapshot.clone() },
    };
    let maintainer = Maintainer::of(context, &here, &opened, &[&cluster])?;
    let head = {
        let mut view = opened.view();
        // A hold that somebody else has set since is not the one that is to end.
        let seen = held.as_ref().map(|hold| hold.number);
        let mut still = |view: &LogView| reason.is_some() || view.fold.holds.get(&snapshot).map(|hold| hold.number) == seen;
        opened.log().append_if(&mut view, maintainer.key(), &Kind::Note(note), &mut still)?
    };
    opened.settle(&here.place(&context.reporter));
    let Some(head) = head else {
        let now = opened.view().fold.holds.get(&snapshot).map(|hold| format!("it is held now because: {}", one_line(&hold.reason)));
        return Err(Failure::refused(
            format!("the hold of {snapshot} was changed meanwhile; {}", now.unwrap_or_else(|| "it is held no longer".into())),
            "look at pgcairn hold list, and run it again if that is to end, too",
        ));
    };
    let text = match reason {
        Some(reason) => format!("{snapshot} is held (log/{}): {}", head.number, one_line(reason)),
        None => {
            let was = held.map(|hold| format!("; it was because: {}", one_line(&hold.reason))).unwrap_or_default();
            format!("{snapshot} is no longer held (log/{}){was}", head.number)
        }
    };
    say(out, Some(head), text)?;
    Ok(Exit::DONE)
}

fn list(context: &Context) -> Result<Exit, Failure> {
    let opened = context.open_to_look()?;
    let fold = opened.view().fold.clone();
    let cluster = context.settings.chosen_cluster();
    let all = look::snapshots(&fold, cluster.as_deref());
    let holds: Vec<HoldJson> = all
        .iter()
        .filter_map(|s| {
            let hold = fold.holds.get(s.id())?;
            let cluster = s.commit.summary.cluster.clone();
            Some(HoldJson { snapshot: s.id().to_owned(), cluster, reason: hold.reason.clone(), log: hold.number })
        })
        .collect();
    let out = &mut io::stdout().lock();
    if context.settings.json {
        answered(json::write(out, &Listing { version: 1, holds }))?;
        return Ok(Exit::DONE);
    }
    if holds.is_empty() {
        context.reporter.info("no snapshot is held");
    }
    let mut table = Table::new([("snapshot", Align::Left), ("cluster", Align::Left), ("held because", Align::Left)]);
    holds.into_iter().for_each(|hold| table.row([hold.snapshot, hold.cluster, hold.reason]));
    answered(table.write(out))?;
    Ok(Exit::DONE)
}
