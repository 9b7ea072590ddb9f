//! Passphrases, key files and exports, several at once.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::support::{Host, Outcome, ordinary};
use crate::world::World;
use crate::{file, holds, owner, restores, with};

/// The slots as `key list` shows them: id and kind.
fn slots(world: &World) -> Vec<(String, String)> {
    let list = world.run(["key", "list", "--json"]).ok().json();
    let text = |v: &serde_json::Value| v.as_str().unwrap().to_owned();
    list["slots"].as_array().unwrap().iter().map(|s| (text(&s["slot"]), text(&s["kind"]))).collect()
}

#[test]
fn several_passphrases_and_key_files_open_it() {
    ordinary(|| {
        let mut world = World::empty();
        world.backup();
        let (first, second) = (file(&world, "first", "a first passphrase\n"), file(&world, "second", "another one\n"));
        let key = world.folder.join("second-key");
        let key = key.to_str().unwrap();
        owner(&world, &["key", "add", "--test-kdf", "--passphrase-file", &first]).ok().prints("added key slot").prints("(passphrase)");
        // The new one opens a slot by now: what opens it can be any of them, by a flag of its own, too.
        let by = ["key", "add", "--test-kdf", "--passphrase-file", &second, "--with-passphrase-file", &first];
        world.run(by).ok();
        with(&world, &world.host, &[("PGCAIRN_PASSPHRASE", "another one".as_ref())], &["key", "add", "--key-file", key]).ok();
        assert_eq!(fs::metadata(key).unwrap().permissions().mode() & 0o777, 0o600);
        let kinds: Vec<String> = slots(&world).into_iter().map(|(_, kind)| kind).collect();
        assert_eq!(kinds.iter().filter(|k| *k == "key-file").count(), 2, "{kinds:?}");
        assert_eq!(kinds.iter().filter(|k| *k == "passphrase").count(), 2, "{kinds:?}");
        for (variable, value) in [
            ("PGCAIRN_KEY_FILE", world.key().to_str().unwrap()),
            ("PGCAIRN_KEY_FILE", key),
            ("PGCAIRN_PASSPHRASE", "a first passphrase"),
            ("PGCAIRN_PASSPHRASE_FILE", second.as_str()),
        ] {
            restores(&world, &Host::new(), &[(variable, value.as_ref())], 0);
        }
        with(&world, &Host::new(), &[("PGCAIRN_PASSPHRASE", "a third".as_ref())], &["list"]).code(1).says("does not open this repository");
        world.run(["key", "list"]).ok().prints("passphrase").prints("cheap to guess").prints("this host");
    });
}

#[test]
fn a_slot_is_removed_and_never_the_last() {
    ordinary(|| {
        let mut world = World::empty();
        world.backup();
        let first = slots(&world)[0].0.clone();
        owner(&world, &["key", "remove", &first]).code(1).says("could be the last way into the repository").says("key add");
        let passphrase = file(&world, "p", "a passphrase\n");
        owner(&world, &["key", "add", "--test-kdf", "--passphrase-file", &passphrase]).ok();
        // That another one opens must be shown.
        owner(&world, &["key", "remove", &first]).code(1).says("no other slot than");
        owner(&world, &["key", "remove", "ffff0000"]).code(4).says("there is no key slot ffff0000").says("key list");
        owner(&world, &["key", "remove", "", "--with-passphrase-file", &passphrase]).code(4);
        let removed = ["key", "remove", &first[..6], "--with-passphrase-file", &passphrase];
        owner(&world, &removed).ok().prints("removed key slot").prints("key rotate");
        assert_eq!(slots(&world).len(), 1);
        with(&world, &Host::new(), &[("PGCAIRN_KEY_FILE", world.key().as_os_str())], &["list"]).code(1).says("does not open");
        restores(&world, &Host::new(), &[("PGCAIRN_PASSPHRASE", "a passphrase".as_ref())], 0);
        world.run(["verify"]).ok();
    });
}

/// A repository with a slot for its key file that is half removed, as by a removal that was killed behind its entry of the log,
/// and one for a passphrase.
struct Half {
    world: World,
    passphrase: String,
    /// The slot that is being removed.
    going: String,
    /// What it holds.
    bytes: Vec<u8>,
}

impl Half {
    fn new() -> Half {
        let mut world = World::empty();
        world.backup();
        let going = slots(&world)[0].0.clone();
        let passphrase = file(&world, "p", "a passphrase\n");
        owner(&world, &["key", "add", "--test-kdf", "--passphrase-file", &passphrase]).ok();
        let bytes = fs::read(world.repository().join("key").join(&going)).unwrap();
        let half = Half { world, passphrase, going, bytes };
        half.remove(&half.going).ok();
        half.put_back();
        half
    }

    fn remove(&self, slot: &str) -> Outcome {
        owner(&self.world, &["key", "remove", slot, "--with-passphrase-file", &self.passphrase])
    }

    fn path(&self) -> std::path::PathBuf {
        self.world.repository().join("key").join(&self.going)
    }

    fn put_back(&self) {
        fs::write(self.path(), &self.bytes).unwrap();
    }

    /// Another one, for the key that opens the one that is going.
    fn add_again(&self) -> Outcome {
        owner(&self.world, &["key", "add", "--key-file", self.world.key().to_str().unwrap()])
    }
}

#[test]
fn a_slot_that_is_half_removed_is_shown_and_nobodys_way_in() {
    ordinary(|| {
        let half = Half::new();
        let list = half.world.run(["key", "list"]).ok();
        list.prints("being removed by entry").says(&format!("run `pgcairn key remove {}` again", half.going));
        let list = half.world.run(["key", "list", "--json"]).ok().json();
        let all = list["slots"].as_array().unwrap();
        assert!(all.len() == 2 && all.iter().all(|slot| slot["removing"].is_u64() == (slot["slot"] == *half.going)), "{list}");
        half.world.run(["verify"]).ok().prints(&format!("key slot {} is being removed", half.going));
        let other = slots(&half.world).into_iter().map(|(id, _)| id).find(|id| *id != half.going).unwrap();
        half.remove(&other).code(1).says("opens with what was given but such as are being removed").says("a slot that stays");
        half.remove(&half.going).ok();
        assert_eq!(slots(&half.world), [(other.clone(), "passphrase".into())]);
        // The other one is lost: that is said, and the one that is going stays.
        half.put_back();
        fs::remove_file(half.world.repository().join("key").join(&other)).unwrap();
        half.world.run(["key", "list"]).ok().says("no other key slot is there");
        half.world.run(["verify"]).code(1).prints("no key slot but such as are being removed");
        half.remove(&half.going).code(1).says("could be the last way into the repository");
        half.add_again().ok();
        half.remove(&half.going).ok();
        restores(&half.world, &Host::new(), &[("PGCAIRN_KEY_FILE", half.world.key().as_os_str())], 0);
    });
}

#[test]
fn what_opened_a_slot_that_is_going_opens_another_and_a_rotation_finishes_it() {
    ordinary(|| {
        let mut half = Half::new();
        half.world.backup();
        restores(&half.world, &Host::new(), &[("PGCAIRN_PASSPHRASE", "a passphrase".as_ref())], 1);
        half.add_again().ok();
        assert_eq!(slots(&half.world).len(), 3);
        half.add_again().code(2).says("opens a key slot of this repository already");
        let by = ["key", "rotate", "--json", "--with-passphrase-file", &half.passphrase];
        let rotated = owner(&half.world, &by).ok().json();
        assert_eq!((rotated["slots"].as_array().unwrap().len(), rotated["removed"].as_array().unwrap().len()), (2, 3), "{rotated}");
        assert!(slots(&half.world).len() == 2 && !half.path().exists());
        half.world.run(["verify"]).ok();
    });
}

#[test]
fn wrong_use_is_said_before_anything_is_done() {
    ordinary(|| {
        let world = World::empty();
        let passphrase = file(&world, "p", "a passphrase\n");
        let before = world.objects();
        owner(&world, &["key", "add"]).code(2).says("nothing says what shall open the new slot");
        owner(&world, &["key", "add", "--command", "cat", "--passphrase-file", &passphrase]).code(2).says("opened by one thing");
        owner(&world, &["key", "add", "--wrap-command", "cat"]).code(2);
        // This host's own key is not the owner's.
        world.run(["key", "add", "--passphrase-file", &passphrase]).code(1).says("the owner's to do").says("PGCAIRN_PASSPHRASE");
        owner(&world, &["key", "add", "--key-file", world.key().to_str().unwrap()])
            .code(2)
            .says("opens a key slot of this repository already");
        let wrong = [("PGCAIRN_PASSPHRASE", "wrong".as_ref())];
        with(&world, &world.host, &wrong, &["key", "add", "--passphrase-file", &passphrase]).code(1).says("does not open this repository");
        let never = world.folder.join("never");
        with(&world, &world.host, &wrong, &["key", "add", "--key-file", never.to_str().unwrap()]).code(1);
        assert!(!never.exists(), "a key file that opens nothing");
        owner(&world, &["key", "add", "--passphrase-file", &file(&world, "empty", "\n")]).code(2).says("it is empty");
        owner(&world, &["key", "forget-host"]).code(2).says("say --yes");
        world.run(["key", "rotate"]).code(1).says("the owner's to do");
        world.run(["key", "export", "-"]).code(1).says("the owner's to do");
        assert_eq!(world.objects(), before);
        let error = owner(&world, &["key", "remove", "ffff", "--json"]).code(4).json();
        assert_eq!((error["error"]["class"].as_str(), error["error"]["exit"].as_u64()), (Some("absent"), Some(4)));
    });
}

#[test]
fn an_export_opens_it_without_any_slot() {
    ordinary(|| {
        let mut world = World::empty();
        world.backup();
        let paper = world.folder.join("for-the-safe");
        let paper_text = paper.to_str().unwrap();
        owner(&world, &["key", "export", paper_text]).ok().prints("whoever has it reads everything");
        assert_eq!(fs::metadata(&paper).unwrap().permissions().mode() & 0o777, 0o600);
        owner(&world, &["key", "export", paper_text]).code(1).says("is there already");
        let piped = owner(&world, &["key", "export", "-"]).ok();
        assert!(piped.prints("pgcairn-root-1:").stdout == fs::read_to_string(&paper).unwrap());
        // All slots are gone.
        fs::remove_dir_all(world.repository().join("key")).unwrap();
        let by = [("PGCAIRN_KEY_FILE", paper.as_os_str())];
        restores(&world, &Host::new(), &by, 0);
        with(&world, &Host::new(), &[("PGCAIRN_KEY_FILE", world.key().as_os_str())], &["list"]).code(1).says("there is no key slot");
        // New ones are made with it.
        let passphrase = file(&world, "p", "a passphrase\n");
        with(&world, &Host::new(), &by, &["key", "add", "--test-kdf", "--passphrase-file", &passphrase]).ok();
        restores(&world, &Host::new(), &[("PGCAIRN_PASSPHRASE", "a passphrase".as_ref())], 0);
        with(&world, &world.host, &by, &["verify"]).ok();
        // Typed from paper, in capitals, with a mistake.
        let typed = fs::read_to_string(&paper).unwrap().to_uppercase();
        let typed_file = file(&world, "typed", &typed);
        restores(&world, &Host::new(), &[("PGCAIRN_KEY_FILE", typed_file.as_ref())], 0);
        let at = typed.rfind(|c: char| c.is_ascii_hexdigit()).unwrap();
        let digit = if typed[at..=at] == *"0" { "1" } else { "0" };
        let mistyped = file(&world, "mistyped", &format!("{}{digit}{}", &typed[..at], &typed[at + 1..]));
        with(&world, &Host::new(), &[("PGCAIRN_KEY_FILE", mistyped.as_ref())], &["list"]).code(1).says("a digit was mistyped");
        let other = World::empty();
        with(&other, &Host::new(), &by, &["list"]).code(1).says("is not the one");
        assert!(!holds(&world.repository(), b"pgcairn-root-1"));
    });
}

#[test]
fn without_encryption_there_is_a_slot_in_clear() {
    ordinary(|| {
        let world = World::empty();
        let repository = world.folder.join("open");
        let host = Host::new();
        let run = |arguments: &[&str]| world.run_on(&host, &repository, arguments);
        run(&["init", "--no-encryption"]).ok();
        run(&["key", "list"]).ok().prints("opened by anyone");
        run(&["key", "rotate"]).code(1).says("not encrypted");
        run(&["key", "add-host", "--role", "reader", "--name", "other", world.folder.join("grant").to_str().unwrap()]).ok();
        let other = Host::new();
        world.run_on(&other, &repository, ["key", "accept", world.folder.join("grant").to_str().unwrap()]).ok();
    });
}

#[test]
fn a_host_forgets_its_keys() {
    ordinary(|| {
        let mut world = World::empty();
        world.backup();
        let state = world.host.home().join(".local/state/pgcairn");
        assert!(holds(&state, b"signing_seed"));
        world.run(["key", "forget-host", "--yes"]).ok().prints("remove-host");
        world.run(["key", "forget-host", "--yes"]).ok().prints("this host had no keys of repository");
        assert!(!holds(&state, b"signing_seed") && !holds(&world.host.home().join(".cache/pgcairn"), b"base/5"));
        world.run(["list"]).code(1).says("this host has no key");
        owner(&world, &["list"]).ok();
        // Even where the store is gone.
        owner(&world, &world.backup_arguments().iter().map(String::as_str).collect::<Vec<_>>()).ok();
        fs::rename(world.repository(), world.folder.join("away")).unwrap();
        world.run(["key", "forget-host", "--yes"]).ok();
        assert!(!holds(&state, b"signing_seed"));
    });
}
