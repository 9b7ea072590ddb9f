//! `archive status`, `archive acknowledge` and `archive accept-fork`.

use std::io::{self, Write};

use super::args::values;
use super::clusters;
use super::context::{Context, Here};
use super::contract::Exit;
use super::failure::Failure;
use super::fronts::CatalogFronts;
use super::output::table::{Align, Table};
use super::output::{answered, json, one_line};
use super::tail::OpenedTail;
use crate::archive::Archive;
use crate::archive::status::{GapStatus, Known, Status, TimelineStatus};
use crate::host::access::{Need, Opened};
use crate::host::config::{ClusterKeys, ClusterSettings};
use crate::pg::connection::{ConnectOptions, Connection, PgConnError};
use crate::pg::conninfo::{Conninfo, Surroundings};
use crate::repo::log::{ClusterId, ForkState, Head, Kind, Note};
use crate::units::{ByteSize, Explain, Lsn, Progress, SegmentName, TimelineId, Timestamp};

/// The commands about the WAL archive.
#[derive(clap::Subcommand, Debug)]
pub(super) enum Command {
    /// Segments and gaps of each timeline, and what can be restored
    Status(StatusArgs),
    /// Say that a gap, a damaged segment or a fault is known: it stays visible, and no longer alarms
    Acknowledge(AcknowledgeArgs),
    /// Let a promoted copy's timeline in: it takes over from the line that it left
    AcceptFork(AcceptForkArgs),
}

/// Arguments of `archive status`.
#[derive(clap::Args, Debug)]
pub(super) struct StatusArgs {
    /// The server, to say how far the archive is behind it: libpq's words or URL
    #[arg(long, value_name = "CONNINFO")]
    dsn: Option<String>,
}

/// Arguments of `archive acknowledge`.
#[derive(clap::Args, Debug)]
pub(super) struct AcknowledgeArgs {
    /// The timeline
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    timeline: u32,
    /// The first segment that is missing or damaged, or has a fault
    #[arg(long, value_name = "SEGMENT")]
    from: SegmentName,
    /// The last
    #[arg(long, value_name = "SEGMENT")]
    to: SegmentName,
    /// Why they are
    #[arg(long, value_name = "TEXT", value_parser = values::reason)]
    reason: String,
}

/// Arguments of `archive accept-fork`.
#[derive(clap::Args, Debug)]
pub(super) struct AcceptForkArgs {
    /// The timeline that takes over
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    timeline: u32,
    /// Why
    #[arg(long, value_name = "TEXT", value_parser = values::reason)]
    reason: String,
}

impl Command {
    pub(super) fn cluster_keys(&self) -> ClusterKeys {
        match self {
            Command::Status(args) => ClusterKeys { dsn: args.dsn.clone(), ..ClusterKeys::default() },
            Command::Acknowledge(_) | Command::AcceptFork(_) => ClusterKeys::default(),
        }
    }
}

pub(super) fn run(context: &Context, command: &Command) -> Result<Exit, Failure> {
    match command {
        Command::Status(_) => status(context),
        Command::Acknowledge(args) => acknowledge(context, args),
        Command::AcceptFork(args) => accept_fork(context, args),
    }
}

fn status(context: &Context) -> Result<Exit, Failure> {
    let configured = context.cluster_if_one()?;
    let here = context.here(configured.as_ref(), Need::Read)?;
    let opened = context.open(&here, Need::Read)?;
    let cluster = clusters::one_with_wal(context, &opened)?;
    let status = look(context, &opened, &cluster, configured.as_ref())?;
    let out = &mut io::stdout().lock();
    answered(if context.settings.json { json::write(out, &status) } else { write_text(out, &status) })?;
    Ok(if status.alarms() { Exit::LOOK } else { Exit::DONE })
}

pub(super) fn look(
    context: &Context,
    opened: &Opened,
    cluster: &ClusterId,
    configured: Option<&ClusterSettings>,
) -> Result<Status, Failure> {
    let tail = OpenedTail::new(opened, &cluster.name)?;
    let archive = Archive::read(&tail.site(), cluster.system_identifier, &CatalogFronts::of(opened), &context.cancel)?;
    let known = Known::of(&opened.view().fold, &cluster.name, cluster.system_identifier);
    Ok(Status::of(&archive, &known, Timestamp::now(), ask_server(context, cluster, configured)))
}

/// Where the server writes, if it is configured and answers: an archive can be looked at without it.
fn ask_server(context: &Context, cluster: &ClusterId, configured: Option<&ClusterSettings>) -> Option<(TimelineId, Lsn)> {
    let dsn = configured.filter(|c| c.name == cluster.name)?.dsn.as_deref()?;
    let asked = Conninfo::parse(dsn, &Surroundings::of_process()).map_err(|e| described(&e)).and_then(|conninfo| {
        let connect = ConnectOptions { application_name: "pgcairn archive status".into(), cancel: context.cancel.clone() };
        position(&conninfo, &connect, cluster).map_err(|e| described(&e))
    });
    match asked {
        Ok(position) => position,
        Err(why) => {
            context.reporter.warn(&format!("how far the archive is behind the server is not known: {why}"));
            None
        }
    }
}

fn described(error: &dyn Explain) -> String {
    super::output::error::describe(error).what
}

/// The timeline and position of a primary; none of a standby, or of another cluster's server.
fn position(conninfo: &Conninfo, connect: &ConnectOptions, cluster: &ClusterId) -> Result<Option<(TimelineId, Lsn)>, PgConnError> {
    let mut connection = Connection::open(conninfo, connect)?;
    let facts = connection.facts()?;
    if facts.system_identifier != cluster.system_identifier || facts.in_recovery {
        return Ok(None);
    }
    let sql = "SELECT pg_catalog.pg_walfile_name(l), l::pg_catalog.text FROM pg_catalog.pg_current_wal_lsn() AS l";
    let rows = connection.query("asking where the server writes", sql)?;
    let text = |column| rows.first().and_then(|row| row.try_get::<_, String>(column).ok());
    let timeline = text(0).and_then(|name| name.parse::<SegmentName>().ok()).map(|name| name.timeline);
    Ok(timeline.zip(text(1).and_then(|lsn| lsn.parse().ok())))
}

fn write_text(out: &mut dyn Write, status: &Status) -> io::Result<()> {
    use Align::{Left, Right};
    writeln!(out, "cluster {}", status.cluster)?;
    if status.timelines.is_empty() {
        writeln!(out, "nothing is archived yet")?;
    }
    let mut table = Table::new([
        ("timeline", Right),
        ("from", Left),
        ("first", Left),
        ("last", Left),
        ("segments", Right),
        ("pushed", Left),
        ("", Left),
    ]);
    for t in &status.timelines {
        let parent = t.parent.as_ref().map(|p| format!("{} at {}", p.timeline, p.switch_lsn)).unwrap_or_default();
        let name = |segment: Option<SegmentName>| segment.map(|s| s.to_string()).unwrap_or_default();
        let pushed = t.last_pushed_at.map(|t| t.for_people()).unwrap_or_default();
        let live = if t.live { "live" } else { "" };
        table.row([t.timeline.to_string(), parent, name(t.first), name(t.last), t.segments.to_string(), pushed, live.into()]);
    }
    table.write(out)?;
    for (timeline, gap) in status.timelines.iter().flat_map(|t| t.gaps.iter().map(move |gap| (t, gap))) {
        write_gap(out, timeline, gap)?;
    }
    for (t, fault) in status.timelines.iter().flat_map(|t| t.faults.iter().map(move |fault| (t, fault))) {
        let (what, why) = known(&fault.acknowledged, "FAULT", "known fault");
        writeln!(out, "{what} on timeline {}: {} is valid up to {}, replay ends there{why}", t.timeline, fault.segment, fault.valid_until)?;
    }
    for damaged in &status.damaged {
        let (what, why) = known(&damaged.acknowledged, "DAMAGED", "known damage");
        writeln!(out, "{what}: {} ({}): {}{why}", damaged.file, damaged.object, one_line(&damaged.problem))?;
    }
    for lost in &status.lost {
        writeln!(out, "LOST: {} is missing, and {} shows that it was there", lost.file, lost.shown_by)?;
        writeln!(out, "    bring it back from a server's pg_wal or a copy of the repository, and push it")?;
    }
    write_live(out, status)?;
    write_windows(out, status)?;
    if let Some(lag) = status.lag {
        writeln!(out, "\nthe archive is {} behind the server: {} whole segments", ByteSize(lag.bytes), lag.segments)?;
    }
    out.flush()
}

/// How what is amiss is called, and what is known of it.
fn known(reason: &Option<String>, open: &'static str, closed: &'static str) -> (&'static str, String) {
    reason.as_ref().map_or((open, String::new()), |reason| (closed, format!(": {}", one_line(reason))))
}

fn write_live(out: &mut dyn Write, status: &Status) -> io::Result<()> {
    if status.live().count() < 2 {
        return Ok(());
    }
    let lines: Vec<String> = status.live().map(|timeline| timeline.to_string()).collect();
    writeln!(
        out,
        "LIVE LINES: timelines {} are all being archived: a copy of the cluster was promoted, with its archive_command",
        lines.join(", ")
    )?;
    writeln!(
        out,
        "    turn archiving off in the copy, or let it archive as another --cluster; until then a restore needs --target-timeline"
    )
}

fn write_gap(out: &mut dyn Write, timeline: &TimelineStatus, gap: &GapStatus) -> io::Result<()> {
    let what = if gap.from == gap.to { gap.from.to_string() } else { format!("{} to {}", gap.from, gap.to) };
    match &gap.acknowledged {
        Some(reason) => writeln!(out, "known gap on timeline {}: {what}: {}", timeline.timeline, one_line(reason))?,
        None => writeln!(out, "GAP on timeline {}: {what}", timeline.timeline)?,
    }
    match &gap.next_snapshot {
        Some(snapshot) => writeln!(out, "    behind it restore from snapshot {snapshot}"),
        None => writeln!(out, "    nothing behind it can be restored: take a backup now"),
    }
}

fn write_windows(out: &mut dyn Write, status: &Status) -> io::Result<()> {
    use Align::{Left, Right};
    let mut table = Table::new([("restorable from", Left), ("timeline", Right), ("LSN", Left), ("to", Left), ("time", Left), ("to", Left)]);
    for w in &status.restorable {
        table.row([
            w.snapshot.clone(),
            w.timeline.to_string(),
            w.from_lsn.to_string(),
            w.to_lsn.to_string(),
            w.from_time.for_people(),
            w.to_time.map(|t| t.for_people()).unwrap_or_default(),
        ]);
    }
    if !status.restorable.is_empty() {
        writeln!(out)?;
    }
    table.write(out)?;
    for waiting in &status.waiting {
        match waiting.segment {
            Some(segment) => writeln!(out, "snapshot {} waits for segment {segment}", waiting.snapshot)?,
            None => writeln!(out, "snapshot {} can't be restored: its WAL has a fault", waiting.snapshot)?,
        }
    }
    Ok(())
}

/// A gap that isn't there must not be acknowledged: a segment that comes late, or a typing error, would be silenced.
fn acknowledge(context: &Context, args: &AcknowledgeArgs) -> Result<Exit, Failure> {
    let timeline = TimelineId(args.timeline);
    if args.from.timeline != timeline || args.to.timeline != timeline {
        return Err(Failure::usage(
            format!("{} to {} is not on timeline {timeline}", args.from, args.to),
            "the first eight digits of a segment are its timeline, in hex",
        ));
    }
    if args.from > args.to {
        return Err(Failure::usage("the range ends before it begins", "give --from and --to in order"));
    }
    let configured = context.settings.cluster_to_write(None)?;
    let here = context.here(Some(&configured), Need::Write)?;
    let opened = context.open(&here, Need::Write)?;
    let cluster = clusters::one_with_wal(context, &opened)?;
    let status = look(context, &opened, &cluster, None)?;
    if !status.is_amiss(args.from, args.to) {
        return Err(not_amiss(&status, args, timeline));
    }
    let ClusterId { name: cluster, system_identifier } = cluster;
    let note = Note::Gap { cluster, system_identifier, from: args.from, to: args.to, reason: args.reason.clone() };
    let head = append(context, &here, &opened, note)?;
    let out = &mut io::stdout().lock();
    let said = serde_json::json!({"version": 1, "log": head, "from": args.from, "to": args.to});
    answered(if context.settings.json {
        json::write(out, &said)
    } else {
        writeln!(out, "{} to {} is known now (log/{})", args.from, args.to, head.number)
    })?;
    Ok(Exit::DONE)
}

fn append(context: &Context, here: &Here, opened: &Opened, note: Note) -> Result<Head, Failure> {
    let head = {
        let mut view = opened.view();
        opened.log().append(&mut view, opened.key()?, &Kind::Note(note))?
    };
    opened.settle(&here.place(&context.reporter));
    Ok(head)
}

fn not_amiss(status: &Status, args: &AcknowledgeArgs, timeline: TimelineId) -> Failure {
    let here = status.timelines.iter().filter(|t| t.timeline == timeline);
    let mut there: Vec<String> = Vec::new();
    for t in here {
        there.extend(t.gaps.iter().map(|gap| format!("{} to {}", gap.from, gap.to)));
        there.extend(t.faults.iter().map(|fault| fault.segment.to_string()));
    }
    let digits = format!("{:08X}", timeline.0);
    there.extend(status.damaged.iter().map(|d| d.file.clone()).filter(|file| file.len() == 24 && file.starts_with(&digits)));
    let cure = match there.is_empty() {
        true => "there is no gap, fault or damaged segment on this timeline".into(),
        false => format!("these are: {}", there.join(", ")),
    };
    Failure::refused(format!("{} to {} is not a gap, nor a damaged segment or one with a fault, nor part of one", args.from, args.to), cure)
}

/// A fork is accepted by number, before or after its first file came: the next push of its server passes.
fn accept_fork(context: &Context, args: &AcceptForkArgs) -> Result<Exit, Failure> {
    let timeline = TimelineId(args.timeline);
    if timeline == TimelineId(1) {
        return Err(Failure::usage("timeline 1 is the cluster's first, and no fork", "give the number of the timeline that takes over"));
    }
    let configured = context.settings.cluster_to_write(None)?;
    let here = context.here(Some(&configured), Need::Write)?;
    let opened = context.open(&here, Need::Write)?;
    let cluster = clusters::one_with_wal(context, &opened)?;
    opened.refresh()?;
    let noted = opened.view().fold.forks.get(&cluster).into_iter().flatten().cloned().collect::<Vec<_>>();
    let out = &mut io::stdout().lock();
    if let Some(fork) = noted.iter().find(|fork| fork.timeline == timeline && fork.state == ForkState::Accepted) {
        let said = serde_json::json!({"version": 1, "timeline": timeline, "already": true, "log": {"number": fork.number}});
        answered(if context.settings.json {
            json::write(out, &said)
        } else {
            writeln!(out, "timeline {timeline} was accepted before (log/{}): {}", fork.number, one_line(&fork.reason))
        })?;
        return Ok(Exit::DONE);
    }
    let status = look(context, &opened, &cluster, None)?;
    let known = status.timelines.iter().map(|t| t.timeline).chain(noted.iter().map(|fork| fork.timeline)).max();
    if let Some(newest) = known.filter(|newest| timeline.0 > newest.0.saturating_add(1)) {
        context.reporter.warn(&format!(
            "no timeline above {newest} is known of this cluster, and a copy of it takes the next number: is {timeline} right?"
        ));
    }
    let ClusterId { name, system_identifier } = cluster;
    let reason = args.reason.clone();
    let note = Note::Fork { cluster: name.clone(), system_identifier, timeline, state: ForkState::Accepted, begins: None, reason };
    let head = append(context, &here, &opened, note)?;
    let said = serde_json::json!({"version": 1, "timeline": timeline, "already": false, "log": head});
    answered(if context.settings.json {
        json::write(out, &said)
    } else {
        writeln!(out, "timeline {timeline} is cluster {name}'s now (log/{}): its server's next push passes", head.number)
            .and_then(|()| writeln!(out, "no other server must archive as {name} any more; take a backup of the one that took over"))
    })?;
    Ok(Exit::DONE)
}
