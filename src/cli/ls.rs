//! `ls`: the files of a snapshot.

use std::ffi::OsString;
use std::io::{self, BufWriter, Write};
use std::ops::ControlFlow;

use serde::Serialize;

use super::context::Context;
use super::contract::Exit;
use super::failure::Failure;
use super::output::{answered, json, one_line};
use super::snapshot_files::{Chosen, PathJson};
use crate::look::{self, Entry, EntryKind, SnapshotName, parse_path, show_path};
use crate::units::ByteSize;

/// Arguments of `ls`.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// An id, the beginning of one, latest, or latest~N
    snapshot: SnapshotName,
    /// A folder or file below the data directory; of tablespaces pg_tblspc/<oid>/...; odd bytes as \xNN
    #[arg(default_value = "")]
    path: OsString,
    /// All that is in the folders below it, too
    #[arg(short = 'R', long)]
    recursive: bool,
}

#[derive(Serialize)]
struct Answer {
    version: u32,
    snapshot: String,
    entries: Vec<EntryJson>,
}

#[derive(Serialize)]
struct EntryJson {
    #[serde(flatten)]
    path: PathJson,
    #[serde(rename = "type")]
    kind: &'static str,
    size: u64,
    mtime: Option<String>,
    relation: Option<String>,
}

pub(super) fn run(context: &Context, args: &Args) -> Result<Exit, Failure> {
    let opened = context.open_to_look()?;
    let view = opened.view().clone();
    let chosen = Chosen::find(context, &opened, &view, &args.snapshot)?;
    let snapshot = chosen.open(&opened)?;
    let tree = chosen.tree(context, &snapshot)?;
    let path = parse_path(&args.path);
    let out = &mut BufWriter::new(io::stdout().lock());
    if context.settings.json {
        let mut entries = Vec::new();
        look::list(&tree, &path, args.recursive, &context.cancel, &mut |entry| {
            entries.push(EntryJson::of(entry));
            ControlFlow::Continue(())
        })?;
        answered(json::write(out, &Answer { version: 1, snapshot: chosen.listed.id().to_owned(), entries }))?;
        return Ok(Exit::DONE);
    }
    let mut written = Ok(());
    look::list(&tree, &path, args.recursive, &context.cancel, &mut |entry| {
        written = write_line(out, &entry);
        if written.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    answered(written.and_then(|()| out.flush()))?;
    Ok(Exit::DONE)
}

impl EntryJson {
    fn of(entry: Entry) -> Self {
        EntryJson {
            path: PathJson::of(&entry.path),
            kind: match entry.kind {
                EntryKind::File => "file",
                EntryKind::Folder => "folder",
            },
            size: entry.size,
            mtime: entry.mtime.map(|t| t.to_string()),
            relation: entry.relation,
        }
    }
}

/// Size, time, path, relation; a folder's path ends in `/`.
fn write_line(out: &mut dyn Write, entry: &Entry) -> io::Result<()> {
    let size = ByteSize(entry.size).to_string();
    let time = entry.mtime.map(|t| t.for_people()).unwrap_or_default();
    let slash = if entry.kind == EntryKind::Folder { "/" } else { "" };
    let relation = entry.relation.as_ref().map(|r| format!("  {}", one_line(r))).unwrap_or_default();
    writeln!(out, "{size:>8}  {time:<23}  {}{slash}{relation}", show_path(&entry.path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Timestamp;

    #[test]
    fn people_and_scripts_see_entries() {
        let file = Entry {
            path: b"base/5/16384\xff".to_vec(),
            kind: EntryKind::File,
            size: 8192,
            mtime: Some(Timestamp(1_764_000_000_000_000)),
            relation: Some("shop.public.or\nders".into()),
        };
        let folder = Entry { path: b"base".to_vec(), kind: EntryKind::Folder, size: 0, mtime: None, relation: None };
        let mut out = Vec::new();
        write_line(&mut out, &file).unwrap();
        write_line(&mut out, &folder).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "  8.2 kB  2025-11-24 16:00:00 UTC  base/5/16384\\xff  shop.public.or ders\n     0 B                           base/\n"
        );
        let expected = serde_json::json!({
            "path": "base/5/16384\\xff", "path_bytes": "626173652f352f3136333834ff", "type": "file", "size": 8192,
            "mtime": "2025-11-24T16:00:00Z", "relation": "shop.public.or\nders",
        });
        assert_eq!(serde_json::to_value(EntryJson::of(file)).unwrap(), expected);
        let expected = serde_json::json!({"path": "base", "type": "folder", "size": 0, "mtime": null, "relation": null});
        assert_eq!(serde_json::to_value(EntryJson::of(folder)).unwrap(), expected);
    }
}
