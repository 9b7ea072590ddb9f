//! What other files a configuration file names.

use std::ops::Range;

use super::Language;
use super::lines::{lines, setting};
use super::tokens::tokens;

/// How a file is named.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Include {
    /// It must be there.
    File,
    /// It may be there.
    IfExists,
    /// All files of the folder that end in `.conf`.
    Folder,
    /// A list of names, `@file`.
    Names,
}

/// A path in a configuration file that leads to another one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reference {
    /// How.
    pub how: Include,
    /// As it is written, unquoted: relative ones count from the folder of the file that names them.
    pub path: Vec<u8>,
    /// Where it stands in the file, quotes included.
    pub at: Range<usize>,
}

fn keyword(word: &[u8]) -> Option<Include> {
    match word {
        b"include" => Some(Include::File),
        b"include_if_exists" => Some(Include::IfExists),
        b"include_dir" => Some(Include::Folder),
        _ => None,
    }
}

/// All references of a file, in order. In pg_hba.conf and pg_ident.conf `include` means something from 16 on: no line of an
/// older one begins so.
pub fn references(language: Language, file: &[u8]) -> Vec<Reference> {
    let mut all = Vec::new();
    for (start, line) in lines(file) {
        match language {
            Language::Settings => {
                let Some(setting) = setting(line) else { continue };
                let Some(how) = keyword(setting.name.as_bytes()) else { continue };
                all.push(Reference { how, path: setting.value, at: start + setting.at.start..start + setting.at.end });
            }
            Language::Columns | Language::Names => columns(language, start, line, &mut all),
        }
    }
    all.retain(|reference| !reference.path.is_empty() && !reference.path.contains(&0));
    all
}

fn columns(language: Language, start: usize, line: &[u8], all: &mut Vec<Reference>) {
    let tokens = tokens(line);
    if let (Language::Columns, [first, second]) = (language, tokens.as_slice())
        && let Some(how) = keyword(&first.text).filter(|_| !first.quoted && second.begins_column)
    {
        all.push(Reference { how, path: second.text.clone(), at: start + second.at.start..start + second.at.end });
        return;
    }
    for token in tokens.iter().filter(|t| !t.quoted) {
        if let Some(path) = token.text.strip_prefix(b"@") {
            all.push(Reference { how: Include::Names, path: path.to_vec(), at: start + token.at.start..start + token.at.end });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn found(language: Language, file: &str) -> Vec<(Include, String, String)> {
        let all = references(language, file.as_bytes());
        all.into_iter().map(|r| (r.how, String::from_utf8(r.path).unwrap(), file[r.at].to_owned())).collect()
    }

    #[test]
    fn includes_are_found() {
        let conf = "port = 1\ninclude 'a b.conf'\n#include 'no'\nINCLUDE_DIR = conf.d\ninclude_if_exists = '/etc/x' # y\ninclude ''\n";
        let expected = [
            (Include::File, "a b.conf".to_owned(), "'a b.conf'".to_owned()),
            (Include::Folder, "conf.d".into(), "conf.d".into()),
            (Include::IfExists, "/etc/x".into(), "'/etc/x'".into()),
        ];
        assert_eq!(found(Language::Settings, conf), expected);
    }

    #[test]
    fn lists_of_names_and_includes_of_rules_are_found() {
        let rules = "include \"more rules.conf\"\nlocal @dbs,x @\"my users\" peer\nhost \"@no\" all 1.2.3.4/32 md5\ninclude a b\n\
                     \"include\" c\ninclude_dir d # e\ninclude @f\n";
        let expected = [
            (Include::File, "more rules.conf".to_owned(), "\"more rules.conf\"".to_owned()),
            (Include::Names, "dbs".into(), "@dbs".into()),
            (Include::Names, "my users".into(), "@\"my users\"".into()),
            (Include::Folder, "d".into(), "d".into()),
            (Include::File, "@f".into(), "@f".into()),
        ];
        assert_eq!(found(Language::Columns, rules), expected);
        assert_eq!(found(Language::Names, "include x\na @b\n"), [(Include::Names, "b".to_owned(), "@b".to_owned())]);
    }

    proptest! {
        #[test]
        fn references_stand_where_they_say(bytes: Vec<u8>) {
            for language in [Language::Settings, Language::Columns, Language::Names] {
                let mut end = 0;
                for reference in references(language, &bytes) {
                    prop_assert!(end <= reference.at.start && reference.at.end <= bytes.len());
                    end = reference.at.end;
                }
            }
        }
    }
}
