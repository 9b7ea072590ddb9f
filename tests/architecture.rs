//! Layers point down: `units` ← `crypt`, `chunk`, `codec`, `store` ← `repo` ← `host`; `pg` beside them; then `backup`,
//! `archive`, `restore`, `look`, `retain`, `scrub`, `recommit`, none of which uses another; `prune` above `recommit`, `health` above
//! `archive`, `look` and `retain`; then `cli`. Read from the paths in the source.

use std::path::{Path, PathBuf};

/// What each room may use besides itself.
const MAY_USE: &[(&str, &[&str])] = &[
    ("units", &[]),
    ("crypt", &["units"]),
    ("chunk", &["units"]),
    ("codec", &["units"]),
    ("store", &["units"]),
    ("repo", &["units", "crypt", "chunk", "codec", "store"]),
    ("host", &["units", "crypt", "chunk", "codec", "store", "repo"]),
    ("pg", &["units"]),
    ("backup", &["units", "crypt", "chunk", "codec", "store", "repo", "host", "pg"]),
    ("archive", &["units", "crypt", "chunk", "codec", "store", "repo", "host", "pg"]),
    ("restore", &["units", "crypt", "chunk", "codec", "store", "repo", "host", "pg"]),
    ("look", &["units", "crypt", "chunk", "codec", "store", "repo", "host", "pg"]),
    ("retain", &["units", "crypt", "chunk", "codec", "store", "repo", "host", "pg"]),
    ("scrub", &["units", "crypt", "chunk", "codec", "store", "repo", "host", "pg"]),
    ("recommit", &["units", "crypt", "chunk", "codec", "store", "repo", "host", "pg"]),
    ("prune", &["units", "crypt", "chunk", "codec", "store", "repo", "host", "pg", "recommit"]),
    ("health", &["units", "crypt", "chunk", "codec", "store", "repo", "host", "pg", "archive", "look", "retain"]),
    (
        "cli",
        &[
            "units", "crypt", "chunk", "codec", "store", "repo", "host", "pg", "backup", "archive", "restore", "look", "retain", "scrub",
            "recommit", "prune", "health",
        ],
    ),
    // Compiled for tests and fuzzing alone.
    (
        "fuzzing",
        &[
            "units", "crypt", "chunk", "codec", "store", "repo", "host", "pg", "backup", "archive", "restore", "look", "retain", "scrub",
            "recommit", "prune", "health", "cli",
        ],
    ),
];

fn may_use(room: &str, other: &str) -> bool {
    room == other || MAY_USE.iter().any(|(name, below)| *name == room && below.contains(&other))
}

fn is_room(name: &str) -> bool {
    MAY_USE.iter().any(|(room, _)| *room == name)
}

/// The source as words and signs, without comments, texts and character literals.
fn tokens(source: &str) -> Vec<String> {
    let mut tokens: Vec<String> = Vec::new();
    let chars: Vec<char> = source.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let mut i = 0;
    while i < chars.len() {
        let c = at(i);
        if c == '/' && at(i + 1) == '/' {
            while i < chars.len() && at(i) != '\n' {
                i += 1;
            }
        } else if c == '/' && at(i + 1) == '*' {
            i += 2;
            while i < chars.len() && !(at(i) == '*' && at(i + 1) == '/') {
                i += 1;
            }
            i += 2;
        } else if let Some(end) = raw_text_end(&chars, i) {
            i = end;
        } else if c == '"' {
            i += 1;
            while i < chars.len() && at(i) != '"' {
                i += if at(i) == '\\' { 2 } else { 1 };
            }
            i += 1;
        } else if c == '\'' && (at(i + 1) == '\\' || at(i + 2) == '\'') {
            i += if at(i + 1) == '\\' { 3 } else { 2 };
            while i < chars.len() && at(i) != '\'' {
                i += 1;
            }
            i += 1;
        } else if c.is_alphanumeric() || c == '_' {
            let start = i;
            while at(i).is_alphanumeric() || at(i) == '_' {
                i += 1;
            }
            tokens.push(chars[start..i].iter().collect());
        } else if c == ':' && at(i + 1) == ':' {
            tokens.push("::".into());
            i += 2;
        } else {
            if !c.is_whitespace() {
                tokens.push(c.into());
            }
            i += 1;
        }
    }
    tokens
}

/// Where a raw text (`r"…"`, `br#"…"#`) that starts at `i` ends.
fn raw_text_end(chars: &[char], i: usize) -> Option<usize> {
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    if i > 0 && (at(i - 1).is_alphanumeric() || at(i - 1) == '_') {
        return None;
    }
    let mut j = i + usize::from(at(i) == 'b');
    if at(j) != 'r' {
        return None;
    }
    j += 1;
    let hashes = (j..).take_while(|k| at(*k) == '#').count();
    j += hashes;
    if at(j) != '"' {
        return None;
    }
    j += 1;
    while j < chars.len() {
        if at(j) == '"' && (1..=hashes).all(|k| at(j + k) == '#') {
            return Some(j + 1 + hashes);
        }
        j += 1;
    }
    Some(j)
}

/// The rooms that a source names, `depth` modules below the crate's root: by `crate::x`, by `crate::{x, y::z}`, and by
/// enough `super::` to reach the root.
fn rooms_used(source: &str, depth: usize) -> Vec<String> {
    let tokens = tokens(source);
    let is = |i: usize, what: &str| tokens.get(i).is_some_and(|t| t == what);
    let mut used = Vec::new();
    let mut i = 0;
    while i < tokens.len() {
        let mut next = i;
        let mut supers = 0;
        while is(next, "super") && is(next + 1, "::") {
            supers += 1;
            next += 2;
        }
        if supers == 0 && is(i, "crate") && is(i + 1, "::") {
            next = i + 2;
        }
        if next == i || (supers > 0 && supers < depth) {
            i = next.max(i + 1);
            continue;
        }
        let mut level = 0;
        while let Some(token) = tokens.get(next) {
            let first = level == 0 || is(next - 1, "{") || is(next - 1, ",");
            match token.as_str() {
                "{" => level += 1,
                "}" => level -= 1,
                name if first && level <= 1 && is_room(name) => used.push(name.to_owned()),
                _ => {}
            }
            if level == 0 {
                break;
            }
            next += 1;
        }
        i = next + 1;
    }
    used
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn layers_point_down() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut offenders = Vec::new();
    let mut seen = 0;
    for file in &files {
        let inside: Vec<String> = file.strip_prefix(&root).unwrap().iter().map(|p| p.to_string_lossy().into_owned()).collect();
        let room = inside[0].trim_end_matches(".rs");
        if inside.len() == 1 && matches!(room, "lib" | "main") {
            continue;
        }
        assert!(is_room(room), "src/{room} has no place in the order of layers");
        let depth = if inside.last().is_some_and(|name| name == "mod.rs") { inside.len() - 1 } else { inside.len() };
        for used in rooms_used(&std::fs::read_to_string(file).unwrap(), depth) {
            seen += 1;
            if !may_use(room, &used) {
                offenders.push(format!("src/{}: `{room}` uses `{used}`", inside.join("/")));
            }
        }
    }
    offenders.dedup();
    assert!(offenders.is_empty(), "these reach up or sideways:\n{}", offenders.join("\n"));
    assert!(seen > 10, "the paths in the source were not understood: {seen} in {} files", files.len());
}

#[test]
fn the_order_has_no_circle() {
    for (at, (room, below)) in MAY_USE.iter().enumerate() {
        for other in *below {
            assert!(MAY_USE[..at].iter().any(|(earlier, _)| earlier == other), "{room} may use {other}, which stands above it");
        }
    }
}

#[test]
fn paths_are_recognised() {
    for (source, depth, expected) in [
        ("use crate::repo::Log;", 2, vec!["repo"]),
        ("use crate::{repo::{Log, host}, units, cli::x};", 2, vec!["repo", "units", "cli"]),
        ("use crate::{\n    store,\n    pg::{self, page},\n};", 2, vec!["store", "pg"]),
        ("fn f(x: crate::look::X) -> crate::host::Y {}", 2, vec!["look", "host"]),
        ("use super::super::cli;", 2, vec!["cli"]),
        ("use super::cli;", 2, vec![]),
        ("use super::cli;", 1, vec!["cli"]),
        ("use super::{super::x, log}; use super::super::{cli::a, host};", 2, vec!["cli", "host"]),
        (
            "// crate::cli\n/* crate::look */ /// [`crate::host`]\nlet a = \"crate::repo \\\" crate::pg\"; use crate::units;",
            2,
            vec!["units"],
        ),
        ("let a = r#\"crate::cli \"x\" \"#; let b = '\"'; let c = b'\\''; use crate::pg::x;", 2, vec!["pg"]),
        ("fn f<'a>(x: &'a str) { crate::chunk::cut(x) }", 2, vec!["chunk"]),
        ("use crate::error;", 2, vec![]),
    ] {
        assert_eq!(rooms_used(source, depth), expected, "{source}");
    }
    assert!(may_use("host", "repo") && may_use("repo", "repo") && !may_use("repo", "host") && !may_use("restore", "backup"));
}
