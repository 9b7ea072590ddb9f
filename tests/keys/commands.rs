//! Slots whose key a command unwraps: a stand-in for a KMS, and `age` where it is installed.

use std::process::{Command, Stdio};

use crate::support::{Host, ordinary};
use crate::world::World;
use crate::{file, holds, owner, restores, with};

/// A script that wraps and unwraps with a password of its own, as a KMS does with a key of its own.
const KMS: &str = r#"#!/bin/sh
# What openssl makes of standard input, by the key in $0.secret.
case $PGCAIRN_KEY_OPERATION in
wrap) exec openssl enc -aes-256-cbc -pbkdf2 -pass "file:$0.secret" ;;
unwrap) exec openssl enc -d -aes-256-cbc -pbkdf2 -pass "file:$0.secret" ;;
*) exit 9 ;;
esac
"#;

fn has(program: &str) -> bool {
    Command::new(program).arg("version").stdout(Stdio::null()).stderr(Stdio::null()).stdin(Stdio::null()).status().is_ok()
}

/// The script; the command that runs it.
fn kms(world: &World, name: &str, secret: &str) -> String {
    let script = file(world, name, KMS);
    file(world, &format!("{name}.secret"), secret);
    format!("sh {script}")
}

#[test]
fn a_command_opens_its_slot() {
    ordinary(|| {
        if !has("openssl") {
            return crate::support::skip("no openssl");
        }
        let mut world = World::empty();
        world.backup();
        let command = kms(&world, "kms", "the service's own key");
        owner(&world, &["key", "add", "--command", &command]).ok().prints("(command)").prints("key-command");
        assert!(!holds(&world.repository(), b"kms"), "the command is not in the store");
        let by = [("PGCAIRN_KEY_COMMAND", command.as_ref())];
        restores(&world, &Host::new(), &by, 0);
        // By the configuration file, with a host that gets a key of its own.
        let host = Host::new();
        let config = format!("[repository.r]\nurl = {:?}\nkey-command = {command:?}\n", world.repository());
        let config = file(&world, "config.toml", &config);
        host.pgcairn(["--config", &config, "list"]).ok();
        host.pgcairn(["--config", &config, "verify"]).ok();
        // It is a way in like any other.
        let slots = world.run(["key", "list", "--json"]).ok().json();
        let first =
            slots["slots"].as_array().unwrap().iter().find(|s| s["kind"] == "key-file").unwrap()["slot"].as_str().unwrap().to_owned();
        owner(&world, &["key", "remove", &first]).code(1).says("could be the last way");
        with(&world, &world.host, &by, &["key", "remove", &first]).ok();
        restores(&world, &Host::new(), &by, 0);
        // After a rotation the same command opens it still, and was asked to wrap nothing more.
        let by_unwrapping = "test $PGCAIRN_KEY_OPERATION = unwrap && ".to_owned() + &command;
        with(&world, &world.host, &[("PGCAIRN_KEY_COMMAND", by_unwrapping.as_ref())], &["key", "rotate"]).ok();
        world.backup();
        restores(&world, &Host::new(), &by, 0);
        restores(&world, &Host::new(), &by, 1);
    });
}

#[test]
fn what_a_command_does_wrong_is_said() {
    ordinary(|| {
        if !has("openssl") {
            return crate::support::skip("no openssl");
        }
        let world = World::empty();
        let before = world.objects();
        let add = |unwrap: &str, wrap: &str| owner(&world, &["key", "add", "--command", unwrap, "--wrap-command", wrap]);
        add("cat", "cat").code(1).says("printed the key itself");
        add("cat", "true").code(2).says("it printed nothing");
        add("cat", "exit 3").code(1).says("exit status: 3");
        add("cat", "tr 0-9a-f g-v").code(1).says("it did not print the line");
        add("exit 5", "tr 0-9a-f g-v").code(1).says("exit status: 5");
        add("echo pgcairn-key-1:$(printf %064d 0)", "tr 0-9a-f g-v").code(1).says("not the one that was wrapped");
        add("cat", "head -c 20000 /dev/zero").code(1).says("longer than");
        assert_eq!(world.objects(), before);
        let (command, other) = (kms(&world, "kms", "one"), kms(&world, "other", "two"));
        owner(&world, &["key", "add", "--command", &command]).ok();
        let fresh = |command: &str| with(&world, &Host::new(), &[("PGCAIRN_KEY_COMMAND", command.as_ref())], &["list"]);
        fresh(&command).ok();
        fresh(&other).code(1).says("key-command gave no key");
        fresh("echo nonsense").code(1).says("did not print the line");
        fresh("echo pgcairn-key-1:$(printf %064d 0)").code(1).says("does not open this repository");
        fresh("does-not-exist").code(1).says("exit status: 127");
        let both = [("PGCAIRN_KEY_COMMAND", command.as_ref()), ("PGCAIRN_PASSPHRASE", "x".as_ref())];
        with(&world, &Host::new(), &both, &["list"]).code(2).says("several keys at once");
    });
}

#[test]
fn age_wraps_for_its_recipients() {
    ordinary(|| {
        if !has("age") || !has("age-keygen") {
            return crate::support::skip("no age");
        }
        let mut world = World::empty();
        world.backup();
        let identity = world.folder.join("identity.txt");
        let identity = identity.to_str().unwrap();
        assert!(Command::new("age-keygen").args(["-o", identity]).stderr(Stdio::null()).status().unwrap().success());
        let recipient = Command::new("age-keygen").args(["-y", identity]).output().unwrap().stdout;
        let wrap = format!("age -r {}", String::from_utf8(recipient).unwrap().trim());
        let unwrap = format!("age -d -i {identity}");
        owner(&world, &["key", "add", "--command", &unwrap, "--wrap-command", &wrap]).ok();
        restores(&world, &Host::new(), &[("PGCAIRN_KEY_COMMAND", unwrap.as_ref())], 0);
    });
}
