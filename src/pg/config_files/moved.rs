//! A configuration file in another place: its paths lead to the copies of what they led to, never to the originals.

use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use super::lines::without_settings;
use super::references::{Include, references};
use super::{Language, tokens};
use crate::pg::recovery::quote_setting;

/// A path as the server completes it: relative ones from the folder of the file that names them, `.` and `..` by their
/// letters (`AbsoluteConfigLocation`, `canonicalize_path`).
pub fn resolve_from(file: &Path, path: &[u8]) -> PathBuf {
    let folder = file.parent().unwrap_or(Path::new("/"));
    clean(&folder.join(OsStr::from_bytes(path)))
}

fn clean(path: &Path) -> PathBuf {
    let mut out = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => out.push(name),
            Component::ParentDir => drop(out.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    out
}

/// Where files lie now. Original paths are mirrored below a folder: `/etc/a.conf` at `ROOT/etc/a.conf`, and so are those of
/// files that aren't there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Moved {
    /// That folder, by a path that begins with `/`: only how it relates to a file's new place matters.
    pub root: PathBuf,
    /// Settings whose lines are commented out.
    pub without: Vec<&'static str>,
}

impl Moved {
    /// Where the copy of an original lies.
    pub fn place(&self, original: &Path) -> PathBuf {
        let relative: PathBuf = clean(original).components().skip(1).collect();
        self.root.join(relative)
    }

    /// The content of a file that lay at `original` and will at `place`: relative paths stay if they still lead to the right
    /// copy; all others become relative ones, so that copies can be moved together.
    pub fn rewrite(&self, language: Language, original: &Path, place: &Path, content: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(content.len());
        let mut from = 0;
        for reference in references(language, content) {
            let wanted = self.place(&resolve_from(original, &reference.path));
            if !reference.path.starts_with(b"/") && resolve_from(place, &reference.path) == wanted {
                continue;
            }
            let path = relative(place.parent().unwrap_or(Path::new("/")), &wanted).into_os_string().into_vec();
            let word = match (language, reference.how) {
                (Language::Settings, _) => quote_setting(&path).ok(),
                (_, Include::Names) => Some([b"@", tokens::quote(&path).as_slice()].concat()),
                _ => Some(tokens::quote(&path)),
            };
            // A zero byte: the server would not take such a path either.
            let Some(word) = word else { continue };
            out.extend_from_slice(content.get(from..reference.at.start).unwrap_or_default());
            out.extend_from_slice(&word);
            from = reference.at.end;
        }
        out.extend_from_slice(content.get(from..).unwrap_or_default());
        if language == Language::Settings { without_settings(&out, &self.without) } else { out }
    }
}

/// The way from a folder to a file; both clean.
fn relative(folder: &Path, to: &Path) -> PathBuf {
    let common = folder.components().zip(to.components()).take_while(|(a, b)| a == b).count();
    let up = folder.components().skip(common).map(|_| Component::ParentDir);
    let way: PathBuf = up.chain(to.components().skip(common)).collect();
    if way.as_os_str().is_empty() { PathBuf::from(".") } else { way }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn moved() -> Moved {
        Moved { root: "/r/data.config".into(), without: vec!["hba_file", "data_directory"] }
    }

    #[test]
    fn copies_lead_to_copies() {
        let original = Path::new("/etc/postgresql/15/main/postgresql.conf");
        let conf = b"data_directory = '/var/lib/postgresql/15/main'\ninclude_dir = 'conf.d'\ninclude '../common.conf'\n\
                     include '/opt/x.conf' # y\ninclude_if_exists '../../../../../../up.conf'\nport = 5432\n";
        let expected = "# of the original: data_directory = '/var/lib/postgresql/15/main'\ninclude_dir = 'conf.d'\n\
                        include '../common.conf'\ninclude '../../../../opt/x.conf' # y\n\
                        include_if_exists '../../../../up.conf'\nport = 5432\n";
        let moved = moved();
        let place = moved.place(original);
        assert_eq!(place, Path::new("/r/data.config/etc/postgresql/15/main/postgresql.conf"));
        let rewritten = moved.rewrite(Language::Settings, original, &place, conf);
        assert_eq!(String::from_utf8(rewritten).unwrap(), expected);
        // A file that goes somewhere else than its mirrored place.
        let rules = b"include \"more.conf\"\nlocal @users,\"@no\" @/etc/a\\\"b\"\"c\" peer\n";
        let rewritten = moved.rewrite(Language::Columns, Path::new("/etc/pg_hba.conf"), Path::new("/r/pg_hba.conf"), rules);
        let expected =
            "include \"data.config/etc/more.conf\"\nlocal @\"data.config/etc/users\",\"@no\" @\"data.config/etc/a\\b\"\"c\" peer\n";
        assert_eq!(String::from_utf8(rewritten).unwrap(), expected);
    }

    fn path() -> impl Strategy<Value = String> {
        prop::collection::vec(prop_oneof![Just("..".to_owned()), "[a-c]{1,2}"], 1..6).prop_map(|names| names.join("/"))
    }

    proptest! {
        #[test]
        fn every_rewritten_path_stays_below_the_root(file in path(), to in path(), absolute: bool, names: bool) {
            let (moved, original) = (moved(), clean(Path::new(&format!("/{file}"))));
            let to = if absolute { format!("/{to}") } else { to };
            let (language, content) = if names { (Language::Columns, format!("local @{to} all peer\n")) } else { (Language::Settings, format!("include '{to}'\n")) };
            let place = moved.place(&original);
            prop_assume!(original != Path::new("/"));
            let rewritten = moved.rewrite(language, &original, &place, content.as_bytes());
            let again = references(language, &rewritten);
            prop_assert_eq!(again.len(), 1);
            prop_assert_eq!(resolve_from(&place, &again[0].path), moved.place(&resolve_from(&original, to.as_bytes())));
            prop_assert!(!again[0].path.starts_with(b"/"));
            prop_assert!(resolve_from(&place, &again[0].path).starts_with(&moved.root));
        }

        #[test]
        fn any_bytes_are_rewritten_without_panic(bytes: Vec<u8>) {
            for language in [Language::Settings, Language::Columns, Language::Names] {
                moved().rewrite(language, Path::new("/a/b"), Path::new("/r/c"), &bytes);
            }
        }
    }
}
