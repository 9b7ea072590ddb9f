//! `status`: all clusters of a repository at a glance, what is wrong first.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Duration;

use serde::Serialize;

use super::archive::look;
use super::args::values;
use super::context::Context;
use super::contract::Exit;
use super::failure::Failure;
use super::output::{answered, health, json};
use crate::health::overview::{ArchiveGlance, Glance};
use crate::health::{Line, State, sort_by_trouble, worst};
use crate::host::access::{Need, Opened};
use crate::host::config::ClusterKeys;
use crate::host::owner::exposure;
use crate::repo::log::ClusterId;
use crate::units::{Explain, Timestamp, counted};

/// Arguments of `status`.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The server, to say how far the archive is behind it: libpq's words or URL
    #[arg(long, value_name = "CONNINFO")]
    dsn: Option<String>,
    /// A cluster's last good snapshot is older only if something is wrong
    #[arg(long, value_name = "DURATION", value_parser = values::duration, default_value = "26h")]
    max_age: Duration,
    /// One line for Nagios and its like, with their exit codes: 0 ok, 1 warning, 2 critical, 3 unknown
    #[arg(long, conflicts_with = "json")]
    pub nagios: bool,
}

impl Args {
    pub(super) fn cluster_keys(&self) -> ClusterKeys {
        ClusterKeys { dsn: self.dsn.clone(), ..ClusterKeys::default() }
    }
}

#[derive(Serialize)]
struct Overview<'a> {
    version: u32,
    ok: bool,
    repository: String,
    lines: &'a [Line],
    clusters: &'a [Glance],
}

pub(super) fn run(context: &Context, args: &Args) -> Result<Exit, Failure> {
    match gather(context, args) {
        Ok((repository, lines, clusters)) => {
            let state = worst(&lines);
            let out = &mut io::stdout().lock();
            if args.nagios {
                answered(write_nagios(out, &lines, &clusters))?;
                return Ok(Exit::nagios(state as u8));
            }
            let answer = Overview { version: 1, ok: state == State::Ok, repository, lines: &lines, clusters: &clusters };
            answered(if context.settings.json { json::write(out, &answer) } else { health::write(out, &lines) })?;
            Ok(if state == State::Ok { Exit::DONE } else { Exit::LOOK })
        }
        Err(failure) if args.nagios => {
            let said = failure.describe();
            answered(writeln!(io::stdout(), "PGCAIRN UNKNOWN - {}", health::plain(&said.what)))?;
            Ok(Exit::nagios(3))
        }
        Err(failure) => Err(failure),
    }
}

fn gather(context: &Context, args: &Args) -> Result<(String, Vec<Line>, Vec<Glance>), Failure> {
    let configured = context.cluster_if_one()?;
    let here = context.here(configured.as_ref(), Need::Read)?;
    let opened = context.open(&here, Need::Read)?;
    opened.read_whole_where_damaged()?;
    let fold = opened.view().fold.clone();
    let now = Timestamp::now();
    let chosen = context.settings.chosen_cluster();
    let mut clusters: BTreeMap<String, Option<ClusterId>> =
        Glance::clusters(&fold).into_iter().map(|id| (id.name.clone(), Some(id))).collect();
    for name in fold.commits.values().map(|c| &c.summary.cluster) {
        clusters.entry(name.clone()).or_insert(None);
    }
    for name in context.settings.clusters_of(&here.repository) {
        // One that was never backed up must not look well for it.
        clusters.entry(name.to_owned()).or_insert(None);
    }
    if let Some(name) = chosen.as_ref().or(configured.as_ref().map(|c| &c.name)).filter(|_| clusters.is_empty() || chosen.is_some()) {
        // One that has nothing yet is not left out.
        clusters.entry(name.clone()).or_insert(None);
        clusters.retain(|other, _| chosen.is_none() || other == name);
    }
    let mut lines: Vec<Line> = of_repository(&opened);
    let mut glances = Vec::new();
    for (name, id) in clusters {
        let mut glance = Glance::of(&fold, &name, now);
        if let Some(id) = id {
            match look(context, &opened, &id, configured.as_ref()) {
                Ok(status) => glance.archive = Some(ArchiveGlance::of(&status, now)),
                Err(failure) => {
                    let said = failure.describe();
                    lines.push(Line::error("archive", said.what, said.cure.unwrap_or_else(|| "pgcairn verify".into())).of(&name));
                }
            }
        }
        lines.extend(glance.lines(now, args.max_age));
        glances.push(glance);
    }
    sort_by_trouble(&mut lines);
    Ok((opened.format.repository.to_string(), lines, glances))
}

/// What isn't about one cluster.
fn of_repository(opened: &Opened) -> Vec<Line> {
    let view = opened.view();
    let mut lines = Vec::new();
    match view.doubt() {
        Some(doubt) => lines.push(Line::error("log", doubt.to_string(), doubt.cure().unwrap_or_else(|| "pgcairn verify says more".into()))),
        None if !view.fold.alarms.is_empty() => lines.push(Line::warning(
            "log",
            counted(view.fold.alarms.len(), "entry of the log is void", "entries of the log are void"),
            "pgcairn list -v names them: somebody without the right writes to the repository",
        )),
        None => lines.push(Line::ok(
            "log",
            format!(
                "the log has {}, the newest of {}",
                counted(view.newest.number + 1, "entry", "entries"),
                view.fold.newest_time.for_people()
            ),
        )),
    }
    drop(view);
    lines.extend(exposure(opened).ok().map(|exposure| Line::ok("exposure", exposure.in_words())));
    lines
}

/// One line, with performance data.
fn write_nagios(out: &mut dyn Write, lines: &[Line], clusters: &[Glance]) -> io::Result<()> {
    let state = worst(lines);
    let word = match state {
        State::Ok => "OK",
        State::Warning => "WARNING",
        State::Error => "CRITICAL",
    };
    let said: Vec<String> = match state {
        State::Ok => clusters.iter().map(|c| format!("{}: {}", c.cluster, counted(c.snapshots, "snapshot", "snapshots"))).collect(),
        _ => lines
            .iter()
            .filter(|line| line.state == state)
            .map(|line| health::plain(&line.cluster.iter().map(|c| format!("{c}: ")).chain([line.text.clone()]).collect::<String>()))
            .collect(),
    };
    let mut data = Vec::new();
    for c in clusters {
        data.extend(c.last_good.as_ref().map(|s| format!("'{}_backup_age'={}s", c.cluster, s.age_seconds)));
        data.push(format!("'{}_snapshots'={}", c.cluster, c.snapshots));
        if let Some(archive) = &c.archive {
            data.extend(archive.lag_bytes.map(|bytes| format!("'{}_wal_lag'={bytes}B", c.cluster)));
            data.push(format!("'{}_gaps'={}", c.cluster, archive.gaps));
        }
    }
    writeln!(out, "PGCAIRN {word} - {}|{}", said.join("; "), data.join(" "))
}
