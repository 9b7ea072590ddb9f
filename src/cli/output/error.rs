//! An error for people, for scripts, and as an exit code.

use std::io::{self, Write};

use serde::Serialize;

use super::{json, one_line};
use crate::units::{Class, Explain};

/// The exit code of a class of failure. `archive-get` and `archive-push` follow PostgreSQL's contract instead.
pub fn exit_code(class: Class) -> u8 {
    match class {
        Class::Usage => 2,
        Class::Absent => 4,
        Class::Refused | Class::Unreachable | Class::Denied | Class::Corrupt | Class::Conflict | Class::Failed => 1,
    }
}

/// An error, taken apart.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Described {
    /// Its class.
    pub class: Class,
    /// What failed.
    pub what: String,
    /// The causes, from the nearest to the root.
    pub why: Vec<String>,
    /// What to do.
    pub cure: Option<String>,
    /// The exit code.
    pub exit: u8,
}

/// Takes an error apart.
pub fn describe(error: &dyn Explain) -> Described {
    let what = error.to_string();
    let mut why: Vec<String> = Vec::new();
    let mut cause = error.source();
    while let Some(source) = cause {
        let text = source.to_string();
        // Some errors of others say their cause themselves: nobody wants to read it twice.
        let said = |line: &String| line.ends_with(&text);
        if !text.is_empty() && !said(&what) && !why.iter().any(said) {
            why.push(text);
        }
        cause = source.source();
    }
    let class = error.class();
    Described { class, what, why, cure: error.cure(), exit: exit_code(class) }
}

impl Described {
    /// Up to three lines: what failed, why, what to do.
    pub fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "pgcairn: {}", one_line(&self.what))?;
        if !self.why.is_empty() {
            writeln!(out, "    why: {}", one_line(&self.why.join(": ")))?;
        }
        if let Some(cure) = &self.cure {
            writeln!(out, "    do:  {}", one_line(cure))?;
        }
        out.flush()
    }

    /// The JSON object of `--json`.
    pub fn write_json(&self, out: &mut dyn Write) -> io::Result<()> {
        #[derive(Serialize)]
        struct Answer<'a> {
            version: u32,
            error: &'a Described,
        }
        json::write(out, &Answer { version: 1, error: self })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot open {name}")]
    struct Outer {
        name: &'static str,
        cure: Option<String>,
        class: Class,
        #[source]
        source: Middle,
    }

    #[derive(Debug, thiserror::Error)]
    #[error("the folder is locked: {0}")]
    struct Middle(#[source] io::Error);

    impl Explain for Outer {
        fn class(&self) -> Class {
            self.class
        }

        fn cure(&self) -> Option<String> {
            self.cure.clone()
        }
    }

    fn outer(class: Class, cure: Option<&str>) -> Outer {
        let root = io::Error::other("root cause");
        Outer { name: "a\nb", cure: cure.map(Into::into), class, source: Middle(root) }
    }

    #[test]
    fn an_error_is_three_lines() {
        let mut out = Vec::new();
        describe(&outer(Class::Denied, Some("do it"))).write_text(&mut out).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "pgcairn: cannot open a b\n    why: the folder is locked: root cause\n    do:  do it\n"
        );
    }

    #[test]
    fn an_error_is_json() {
        let mut out = Vec::new();
        describe(&outer(Class::Absent, None)).write_json(&mut out).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            concat!(
                r#"{"version":1,"error":{"class":"absent","what":"cannot open a\nb","#,
                r#""why":["the folder is locked: root cause"],"cure":null,"exit":4}}"#,
                "\n"
            )
        );
    }

    #[test]
    fn classes_have_their_exit_codes() {
        for (class, code) in [
            (Class::Usage, 2),
            (Class::Absent, 4),
            (Class::Refused, 1),
            (Class::Unreachable, 1),
            (Class::Denied, 1),
            (Class::Corrupt, 1),
            (Class::Conflict, 1),
            (Class::Failed, 1),
        ] {
            assert_eq!(describe(&outer(class, None)).exit, code);
        }
    }
}
