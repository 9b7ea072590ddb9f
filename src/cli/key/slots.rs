//! `key add`, `remove`, `export`, `rotate`.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;

use serde::Serialize;

use super::super::context::Context;
use super::super::contract::Exit;
use super::super::failure::Failure;
use super::super::output::{answered, json};
use super::super::secret_file;
use super::list::{SlotJson, kind_in_words};
use super::{With, as_owner};
use crate::crypt::root_text::root_text;
use crate::crypt::slot::{Kdf, Lock, Unlock};
use crate::host::access::{Opened, StoredSlot, unlock_with};
use crate::host::config::{SecretKeys, SecretSource};
use crate::host::owner;
use crate::units::Progress;
use crate::units::ids::hex;

/// Arguments of `key add`. The new passphrase or key file is named by the flags of all commands.
#[derive(clap::Args, Debug)]
pub(in crate::cli) struct AddArgs {
    /// The new slot's key is wrapped, and unwrapped by this command of the shell: the wrapped key on its standard input, the
    /// key on its output
    #[arg(long, value_name = "COMMAND")]
    command: Option<String>,
    /// What wraps it, now and once [default: the same command, with PGCAIRN_KEY_OPERATION=wrap]
    #[arg(long, value_name = "COMMAND", requires = "command")]
    wrap_command: Option<String>,
    /// For tests: a passphrase that is cheap to guess (64 MiB, 1 pass)
    #[arg(long)]
    test_kdf: bool,
    #[command(flatten)]
    with: With,
    #[arg(skip)]
    pub(super) new: SecretKeys,
}

/// Arguments of `key remove`.
#[derive(clap::Args, Debug)]
pub(in crate::cli) struct RemoveArgs {
    /// The slot's id, or its beginning
    slot: String,
    #[command(flatten)]
    with: With,
}

/// Arguments of `key export`.
#[derive(clap::Args, Debug)]
pub(in crate::cli) struct ExportArgs {
    /// The file to write, 0600; `-` for standard output
    file: PathBuf,
    /// Standard output may be a terminal
    #[arg(long)]
    show: bool,
    #[command(flatten)]
    with: With,
}

#[derive(Serialize)]
struct Added {
    version: u32,
    #[serde(flatten)]
    slot: SlotJson,
}

pub(super) fn add(context: &Context, args: &AddArgs) -> Result<Exit, Failure> {
    let new = args.new.source(|| "the command line".into())?;
    let kdf = if args.test_kdf { Kdf::TEST } else { Kdf::STRONG };
    let stored = match (&new, &args.command) {
        (Some(_), Some(_)) => {
            return Err(Failure::usage("a slot is opened by one thing", "give --command, or a passphrase or key file, not both"));
        }
        (None, None) => {
            return Err(Failure::usage(
                "nothing says what shall open the new slot",
                "give --passphrase-file, --passphrase-command, --key-file (written if it is not there) or --command; what opens the repository now comes from environment or configuration, or by --with-passphrase-file, --with-key-file, --with-key-command",
            ));
        }
        (Some(source), None) => add_by(context, args, source, kdf)?,
        (None, Some(unwrap)) => {
            let (_, opened, owner) = as_owner(context, &args.with)?;
            let (key, wrapped) = owner::wrapped_lock(args.wrap_command.as_ref().unwrap_or(unwrap), unwrap)?;
            (owner::add_slot(&opened, &owner, &Lock::Wrapped { key: &key, wrapped: &wrapped })?, opened)
        }
    };
    let (StoredSlot { slot, .. }, _) = &stored;
    let out = &mut io::stdout().lock();
    let text = |out: &mut dyn Write| {
        writeln!(out, "added key slot {} ({})", hex(&slot.id()), kind_in_words(slot))?;
        if args.command.is_some() {
            writeln!(
                out,
                "The command is not in the repository: keep it as key-command in the configuration, and in the notes for a restore."
            )?;
        }
        out.flush()
    };
    answered(if context.settings.json { json::write(out, &Added { version: 1, slot: SlotJson::of(slot, None) }) } else { text(out) })?;
    Ok(Exit::DONE)
}

/// By a passphrase or key file.
fn add_by(context: &Context, args: &AddArgs, new: &SecretSource, kdf: Kdf) -> Result<(StoredSlot, Opened), Failure> {
    let (_, opened, owner) = as_owner(context, &args.with)?;
    // Only now, so that no key file is left behind that opens nothing.
    if let SecretSource::KeyFile(path) = new {
        secret_file::write_key_file(path, context)?;
    }
    let unlock = unlock_with(new)?;
    let lock = match &unlock {
        Unlock::Passphrase(passphrase) => Lock::Passphrase(passphrase, kdf),
        Unlock::KeyFile(secret) => Lock::KeyFile(secret),
        _ => {
            return Err(Failure::usage(format!("{new} is the export of a repository's keys"), "give --key-file a new name: it is written"));
        }
    };
    // What opens one that is being removed may open another again.
    let staying = owner.slots.iter().filter(|slot| owner::removing(&opened, &slot.stored.slot).is_none());
    if staying.into_iter().any(|slot| matches!(slot.stored.slot.open(&unlock), Ok(Some(_)))) {
        return Err(Failure::usage(
            format!("{new} opens a key slot of this repository already"),
            "what opens it now comes from environment or configuration, or by --with-passphrase-file, --with-key-file; the flags of `key add` name what is new",
        ));
    }
    Ok((owner::add_slot(&opened, &owner, &lock)?, opened))
}

#[derive(Serialize)]
struct Removed<'a> {
    version: u32,
    removed: &'a str,
}

pub(super) fn remove(context: &Context, args: &RemoveArgs) -> Result<Exit, Failure> {
    let (here, opened, owner) = as_owner(context, &args.with)?;
    let removed = owner::remove_slot(&opened, &owner, &args.slot)?;
    opened.settle(&here.place(&context.reporter));
    let id = hex(&removed.slot.id());
    let out = &mut io::stdout().lock();
    let text = |out: &mut dyn Write| {
        writeln!(out, "removed key slot {id} ({})", kind_in_words(&removed.slot))?;
        writeln!(out, "Whoever kept a copy of it and has what opens it can still read all that is written until `pgcairn key rotate`.")?;
        out.flush()
    };
    answered(if context.settings.json { json::write(out, &Removed { version: 1, removed: &id }) } else { text(out) })?;
    Ok(Exit::DONE)
}

#[derive(Serialize)]
struct Exported<'a> {
    version: u32,
    file: &'a str,
}

pub(super) fn export(context: &Context, args: &ExportArgs) -> Result<Exit, Failure> {
    let to_stdout = args.file.as_os_str() == "-";
    if to_stdout && io::stdout().is_terminal() && !args.show {
        return Err(Failure::usage("the keys would be shown on a terminal", "name a file, or say --show if that is meant"));
    }
    let (_, _, owner) = as_owner(context, &args.with)?;
    let text = root_text(&owner.root);
    let out = &mut io::stdout().lock();
    if to_stdout {
        answered(out.write_all(text.as_bytes()).and_then(|()| out.flush()))?;
        return Ok(Exit::DONE);
    }
    if !secret_file::write_new(&args.file, text.as_bytes(), "the file")? {
        return Err(Failure::refused(format!("{} is there already", args.file.display()), "choose a new name: nothing is overwritten"));
    }
    let file = args.file.display().to_string();
    let say = |out: &mut dyn Write| {
        writeln!(out, "wrote all keys of the repository to {file}: whoever has it reads everything and may change the keys")?;
        writeln!(
            out,
            "It is used as --key-file, needs no key slot, and can be printed and typed. After `pgcairn key rotate` write a new one."
        )?;
        out.flush()
    };
    answered(if context.settings.json { json::write(out, &Exported { version: 1, file: &file }) } else { say(out) })?;
    Ok(Exit::DONE)
}

#[derive(Serialize)]
struct Rotated {
    version: u32,
    content_key: String,
    /// The entry that names it; `null` if an earlier, interrupted rotation had written it.
    entry: Option<u64>,
    slots: Vec<SlotJson>,
    removed: Vec<String>,
    /// Made by somebody while this ran, without the new key.
    behind: Vec<String>,
}

pub(super) fn rotate(context: &Context, with: &With) -> Result<Exit, Failure> {
    let (here, opened, owner) = as_owner(context, with)?;
    let rotated = owner::rotate(&opened, &owner)?;
    opened.settle(&here.place(&context.reporter));
    let out = &mut io::stdout().lock();
    let answer = Rotated {
        version: 1,
        content_key: rotated.key.to_string(),
        entry: rotated.entry.map(|head| head.number),
        slots: rotated.slots.iter().map(|s| SlotJson::of(&s.slot, None)).collect(),
        removed: rotated.removed.iter().map(|s| hex(&s.slot.id())).collect(),
        behind: rotated.behind.iter().map(|s| hex(&s.slot.id())).collect(),
    };
    for slot in &answer.behind {
        context.reporter.warn(&format!(
            "key slot {slot} was added while this ran, and opens nothing that is written from now on: remove it (`pgcairn key remove {slot}`), and add it again"
        ));
    }
    let readers = readers_elsewhere(&opened);
    let text = |out: &mut dyn Write| {
        match rotated.entry {
            Some(head) => writeln!(out, "content is sealed to key {} from entry {} on", answer.content_key, head.number)?,
            None => writeln!(out, "finished an earlier rotation to key {}; run it again for another one", answer.content_key)?,
        }
        for slot in &rotated.slots {
            writeln!(out, "key slot {} ({})", hex(&slot.slot.id()), kind_in_words(&slot.slot))?;
        }
        writeln!(
            out,
            "What was written before stays readable for whoever could read it. Exports of before open only that: write a new one."
        )?;
        if !readers.is_empty() {
            writeln!(out, "These hosts read, and need the new key before their next backup: {}.", readers.join(", "))?;
            writeln!(out, "They take it by themselves where a passphrase or key file is configured; else run `pgcairn key add-host` with")?;
            writeln!(out, "their name here, and `pgcairn key accept` there. Their WAL goes on being archived meanwhile.")?;
        }
        out.flush()
    };
    answered(if context.settings.json { json::write(out, &answer) } else { text(out) })?;
    Ok(if answer.behind.is_empty() { Exit::DONE } else { Exit::LOOK })
}

/// Names of other hosts that read.
fn readers_elsewhere(opened: &Opened) -> Vec<String> {
    let own = opened.signer.as_ref().map(|key| key.id());
    let view = opened.view();
    let reads = |key: &crate::repo::log::Key| key.is_active() && key.roles.contains(&crate::repo::log::Role::Reader);
    view.fold.keys.iter().filter(|(id, key)| Some(**id) != own && !key.owner && reads(key)).map(|(_, key)| key.name.clone()).collect()
}
