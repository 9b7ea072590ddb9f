//! `archive-push`: for `archive_command`.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::context::Context;
use super::contract::Exit;
use super::failure::Failure;
use super::output::answered;
use super::tail::OpenedTail;
use crate::archive::{self, PushContext};
use crate::codec;
use crate::health::archiving::{Answer, PROBE};
use crate::host::HostError;
use crate::host::access::{Elsewhere, Need, Opened};
use crate::host::config::ClusterKeys;
use crate::repo::log::Role;
use crate::units::{ByteSize, Explain, Progress, Timestamp};

/// Arguments of `archive-push`.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The file: %p in archive_command
    path: PathBuf,
    /// Data directory [default: the working folder, in which the server runs archive_command]
    #[arg(long, value_name = "DIR")]
    pgdata: Option<PathBuf>,
    /// Run as root all the same
    #[arg(long)]
    allow_root: bool,
}

impl Args {
    pub(super) fn cluster_keys(&self) -> ClusterKeys {
        ClusterKeys { pgdata: self.pgdata.clone(), ..ClusterKeys::default() }
    }
}

pub(super) fn run(context: &Context, args: &Args) -> Result<Exit, Failure> {
    context.refuse_root("archive-push", args.allow_root)?;
    let cluster = context.settings.cluster_to_write(None)?;
    let here = context.here(Some(&cluster), Need::Write)?;
    let opened = context.open(&here, Need::Write)?;
    if args.path.file_name().is_some_and(|name| name == PROBE) {
        return say_where(&opened, &cluster.name);
    }
    opened.names_what_it_writes()?;
    // No reason to let WAL pile up: another cluster's would be refused for itself.
    if let Some(elsewhere) = opened.used_elsewhere()?.filter(Elsewhere::is_backup) {
        let error = HostError::from(elsewhere);
        context.reporter.warn(&format!("{error}; {}", error.cure().unwrap_or_default()));
    }
    let tail = OpenedTail::new(&opened, &cluster.name)?;
    let pgdata = cluster.pgdata.as_deref().unwrap_or(Path::new("."));
    let push = PushContext { site: tail.site(), signer: opened.key()?, pgdata, level: codec::DENSE, now: Timestamp::now() };
    let pushed = archive::push(&push, &args.path)?;
    opened.settle(&here.place(&context.reporter));
    for warning in &pushed.warnings {
        context.reporter.warn(warning);
    }
    let how = if pushed.already_there { "was there already".into() } else { format!("stored in {}", ByteSize(pushed.stored)) };
    context.reporter.detail(&format!("{}: {how}", pushed.name));
    Ok(Exit::DONE)
}

/// `check` wants to know where archive_command leads. The code is never that of a file that was archived.
fn say_where(opened: &Opened, cluster: &str) -> Result<Exit, Failure> {
    let key = opened.key()?.id();
    let may_write = opened.view().fold.keys.get(&key).is_some_and(|key| key.may(Role::Writer, Some(cluster)));
    let answer = Answer { repository: opened.format.repository.to_string(), cluster: cluster.to_owned(), may_write };
    answered(writeln!(io::stdout(), "{}", answer.line()))?;
    Ok(Exit::PROBED)
}
