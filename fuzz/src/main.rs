//! One program for all targets: `PGCAIRN_FUZZ_TARGET` names the one, and `PGCAIRN_FUZZ_TARGET=list` prints their names.
//! Run by `scripts/fuzz`, which says how it is compiled.

#![no_main]

use std::sync::OnceLock;

use pgcairn::fuzzing::TARGETS;

fn target() -> fn(&[u8]) {
    static TARGET: OnceLock<fn(&[u8])> = OnceLock::new();
    *TARGET.get_or_init(|| {
        let wanted = std::env::var("PGCAIRN_FUZZ_TARGET").unwrap_or_default();
        match TARGETS.iter().find(|(name, _)| *name == wanted) {
            Some((_, target)) => *target,
            None => {
                TARGETS.iter().for_each(|(name, _)| println!("{name}"));
                std::process::exit(if wanted == "list" { 0 } else { 2 });
            }
        }
    })
}

libfuzzer_sys::fuzz_target!(init: { target(); }, |data: &[u8]| target()(data));
