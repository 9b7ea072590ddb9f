//! `cat`: the bytes of one file of a snapshot.

use std::ffi::OsString;
use std::io::{self, Write};
use std::ops::ControlFlow;

use super::context::Context;
use super::contract::Exit;
use super::failure::Failure;
use super::output::answered;
use super::snapshot_files::Chosen;
use crate::look::{self, SnapshotName, parse_path};

/// Arguments of `cat`.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// An id, the beginning of one, latest, or latest~N
    snapshot: SnapshotName,
    /// A file below the data directory; of tablespaces pg_tblspc/<oid>/...; odd bytes as \xNN
    path: OsString,
}

pub(super) fn run(context: &Context, args: &Args) -> Result<Exit, Failure> {
    if context.settings.json {
        return Err(Failure::usage("cat writes the file's bytes, and no JSON", "leave --json out; `pgcairn ls --json` describes the file"));
    }
    let opened = context.open_to_look()?;
    let view = opened.view().clone();
    let chosen = Chosen::find(context, &opened, &view, &args.snapshot)?;
    let snapshot = chosen.open(&opened)?;
    let tree = chosen.tree(context, &snapshot)?;
    let out = &mut io::stdout().lock();
    let mut written = Ok(());
    let path = parse_path(&args.path);
    look::cat(&tree, &chosen.packs, opened.reader()?, &path, &context.cancel, &mut |bytes| {
        written = out.write_all(bytes);
        if written.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    answered(written.and_then(|()| out.flush()))?;
    Ok(Exit::DONE)
}
