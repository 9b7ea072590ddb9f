//! Files of real servers for the tests of this room: `tests/fixtures/pg/<major>/`.

/// A file's bytes; one that is kept compressed is asked for without its `.zst`.
pub(crate) fn file(major: u16, name: &str) -> Vec<u8> {
    let path = format!("{}/tests/fixtures/pg/{major}/{name}", env!("CARGO_MANIFEST_DIR"));
    match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(_) => zstd::decode_all(std::fs::File::open(format!("{path}.zst")).expect("a fixture")).expect("a zstd file"),
    }
}

pub(crate) fn text(major: u16, name: &str) -> String {
    String::from_utf8(file(major, name)).expect("a text")
}
