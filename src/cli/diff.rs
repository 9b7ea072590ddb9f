//! `diff`: which files and relations changed between two snapshots.

use std::collections::BTreeMap;
use std::io::{self, BufWriter, Write};

use serde::Serialize;

use super::context::Context;
use super::contract::Exit;
use super::failure::Failure;
use super::output::{answered, json, one_line};
use super::snapshot_files::{Chosen, PathJson};
use crate::look::{self, Changed, Diff, Side, SnapshotName, show_path};
use crate::units::{ByteSize, Progress};

/// Arguments of `diff`.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The first snapshot: an id, the beginning of one, latest, or latest~N
    a: SnapshotName,
    /// The second, as a rule the newer one
    b: SnapshotName,
}

#[derive(Serialize)]
struct Answer<'a> {
    version: u32,
    a: &'a str,
    b: &'a str,
    changed: Vec<ChangedJson<'a>>,
    added: Vec<ChangedJson<'a>>,
    removed: Vec<ChangedJson<'a>>,
}

#[derive(Serialize)]
struct ChangedJson<'a> {
    #[serde(flatten)]
    path: PathJson,
    relation: Option<&'a str>,
    bytes: u64,
    size_before: u64,
    size_after: u64,
}

pub(super) fn run(context: &Context, args: &Args) -> Result<Exit, Failure> {
    let opened = context.open_to_look()?;
    let view = opened.view().clone();
    let (a, b) = (Chosen::find(context, &opened, &view, &args.a)?, Chosen::find(context, &opened, &view, &args.b)?);
    if a.listed.commit.summary.system_identifier != b.listed.commit.summary.system_identifier {
        context.reporter.warn("these are snapshots of two clusters: what has the same path need not be the same relation");
    }
    let (before, after) = (a.open(&opened)?, b.open(&opened)?);
    let (before, after) = (a.tree(context, &before)?, b.tree(context, &after)?);
    let opening = opened.reader()?;
    let side = |tree, packs| Side { tree, packs, opening };
    let diff = look::diff(&side(&before, &a.packs), &side(&after, &b.packs), &context.cancel)?;
    let out = &mut BufWriter::new(io::stdout().lock());
    let (a, b) = (a.listed.id(), b.listed.id());
    answered(if context.settings.json { json::write(out, &answer(&diff, a, b)) } else { write_text(out, &diff, a, b) })?;
    Ok(Exit::DONE)
}

fn answer<'a>(diff: &'a Diff, a: &'a str, b: &'a str) -> Answer<'a> {
    let list = |all: &'a [Changed]| all.iter().map(ChangedJson::of).collect();
    Answer { version: 1, a, b, changed: list(&diff.changed), added: list(&diff.added), removed: list(&diff.removed) }
}

impl<'a> ChangedJson<'a> {
    fn of(changed: &'a Changed) -> Self {
        ChangedJson {
            path: PathJson::of(&changed.path),
            relation: changed.relation.as_deref(),
            bytes: changed.bytes,
            size_before: changed.before,
            size_after: changed.after,
        }
    }
}

/// A line a file, then what they add up to.
fn write_text(out: &mut dyn Write, diff: &Diff, a: &str, b: &str) -> io::Result<()> {
    let lists = [('M', &diff.changed), ('+', &diff.added), ('-', &diff.removed)];
    let mut lines: Vec<(&Changed, char)> = lists.iter().flat_map(|(sign, list)| list.iter().map(|c| (c, *sign))).collect();
    lines.sort_by(|(a, _), (b, _)| a.path.cmp(&b.path));
    for (changed, sign) in &lines {
        let relation = changed.relation.as_ref().map(|r| format!("  {}", one_line(r))).unwrap_or_default();
        writeln!(out, "{sign}  {:>8}  {}{relation}", ByteSize(changed.bytes).to_string(), show_path(&changed.path))?;
    }
    let sum = |list: &[Changed]| ByteSize(list.iter().map(|c| c.bytes).fold(0, u64::saturating_add));
    writeln!(
        out,
        "{a} to {b}: {} changed ({}), {} added ({}), {} removed ({})",
        crate::units::counted(diff.changed.len(), "file", "files"),
        sum(&diff.changed),
        diff.added.len(),
        sum(&diff.added),
        diff.removed.len(),
        sum(&diff.removed)
    )?;
    write_relations(out, &lines)?;
    out.flush()
}

/// The relations with most bytes, all of their files together.
fn write_relations(out: &mut dyn Write, lines: &[(&Changed, char)]) -> io::Result<()> {
    const MOST: usize = 10;
    let mut by_relation: BTreeMap<&str, u64> = BTreeMap::new();
    for (changed, _) in lines {
        if let Some(relation) = &changed.relation {
            let sum = by_relation.entry(relation).or_default();
            *sum = sum.saturating_add(changed.bytes);
        }
    }
    let mut most: Vec<(&str, u64)> = by_relation.into_iter().collect();
    most.sort_by_key(|(name, bytes)| (std::cmp::Reverse(*bytes), *name));
    if most.len() > 1 {
        writeln!(out, "most changed:")?;
    }
    for (relation, bytes) in most.iter().take(MOST).filter(|_| most.len() > 1) {
        writeln!(out, "   {:>8}  {}", ByteSize(*bytes).to_string(), one_line(relation))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(path: &str, relation: Option<&str>, bytes: u64) -> Changed {
        Changed { path: path.into(), relation: relation.map(str::to_owned), bytes, before: 8192, after: 16384 }
    }

    #[test]
    fn people_see_lines_and_scripts_the_fields_of_the_contract() {
        let diff = Diff {
            changed: vec![changed("base/5/1", Some("shop.public.t"), 8192), changed("base/5/2", Some("shop.public.t"), 1000)],
            added: vec![changed("base/5/11", Some("shop.public.u"), 100)],
            removed: vec![changed("pg_xact/0000", None, 5)],
        };
        let mut out = Vec::new();
        write_text(&mut out, &diff, "a1", "b2").unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "M    8.2 kB  base/5/1  shop.public.t\n+     100 B  base/5/11  shop.public.u\nM    1.0 kB  base/5/2  shop.public.t\n\
             -       5 B  pg_xact/0000\n\
             a1 to b2: 2 files changed (9.2 kB), 1 added (100 B), 1 removed (5 B)\nmost changed:\n     9.2 kB  shop.public.t\n      100 B  shop.public.u\n"
        );
        let value = serde_json::to_value(answer(&diff, "a1", "b2")).unwrap();
        let first =
            serde_json::json!({"path": "base/5/1", "relation": "shop.public.t", "bytes": 8192, "size_before": 8192, "size_after": 16384});
        assert_eq!((&value["version"], &value["changed"][0]), (&1.into(), &first));
        assert_eq!((&value["added"][0]["bytes"], &value["removed"][0]["relation"]), (&100.into(), &serde_json::Value::Null));
    }
}
