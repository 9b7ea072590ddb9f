//! One thing that was looked at.

use serde::Serialize;

/// How it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As it should be.
    Ok,
    /// It works, and something should be done about it.
    Warning,
    /// Data are at risk, or a restore is.
    Error,
}

impl State {
    /// As a word of one length, for people.
    pub fn word(self) -> &'static str {
        match self {
            State::Ok => "ok",
            State::Warning => "warning",
            State::Error => "ERROR",
        }
    }
}

/// A line of `check` or `status`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Line {
    /// What was looked at: a stable name for scripts.
    pub name: &'static str,
    /// The cluster, where it is about one of several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// How it is.
    pub state: State,
    /// What was found.
    pub text: String,
    /// What to do about it; `null` where nothing is to be done.
    pub cure: Option<String>,
}

impl Line {
    /// As it should be.
    pub fn ok(name: &'static str, text: impl Into<String>) -> Self {
        Line { name, cluster: None, state: State::Ok, text: text.into(), cure: None }
    }

    /// Something should be done.
    pub fn warning(name: &'static str, text: impl Into<String>, cure: impl Into<String>) -> Self {
        Line { name, cluster: None, state: State::Warning, text: text.into(), cure: Some(cure.into()) }
    }

    /// Something must be done.
    pub fn error(name: &'static str, text: impl Into<String>, cure: impl Into<String>) -> Self {
        Line { name, cluster: None, state: State::Error, text: text.into(), cure: Some(cure.into()) }
    }

    /// The same line, about this cluster.
    pub fn of(self, cluster: &str) -> Self {
        Line { cluster: Some(cluster.to_owned()), ..self }
    }
}

/// The worst of them; nothing at all is ok.
pub fn worst(lines: &[Line]) -> State {
    lines.iter().map(|line| line.state).max().unwrap_or(State::Ok)
}

/// What is wrong first; else in the order in which they stand.
pub fn sort_by_trouble(lines: &mut [Line]) {
    lines.sort_by_key(|line| std::cmp::Reverse(line.state));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_comes_first() {
        let mut lines = vec![Line::ok("a", ""), Line::error("b", "", ""), Line::warning("c", "", ""), Line::error("d", "", "")];
        assert_eq!((worst(&lines), worst(&[])), (State::Error, State::Ok));
        sort_by_trouble(&mut lines);
        assert_eq!(lines.iter().map(|l| l.name).collect::<Vec<_>>(), ["b", "d", "c", "a"]);
        let json = serde_json::to_value(Line::ok("a", "x").of("shop")).unwrap();
        assert_eq!(json, serde_json::json!({"name": "a", "cluster": "shop", "state": "ok", "text": "x", "cure": null}));
    }
}
