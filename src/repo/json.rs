//! Canonical JSON: one value, one sequence of bytes.
//!
//! What is signed and hashed must not be open to interpretation: two readers that parse the same bytes get the same
//! value, and the bytes are exactly those that this encoder gives for it (spec: format-spec.md, "Canonical JSON").
//!
//! - objects: keys in the order of their UTF-8 bytes, each once; no white space anywhere;
//! - numbers: integers from 0 to 2^53 - 1 in decimal, nothing else;
//! - strings: UTF-8; `\"` and `\\`, characters below U+0020 as `\u00xx` in lower case, everything else as it is;
//! - `true`, `false`, `null`; what is absent is left out, not `null`.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::units::{Class, Explain};

/// Numbers stay below this: every JSON reader holds them exactly.
pub const NUMBER_LIMIT: u64 = 1 << 53;

/// How deeply arrays and objects may lie in each other.
pub const DEPTH_LIMIT: usize = 32;

/// Why a value has no canonical JSON, or bytes are none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// More bytes than are allowed here.
    #[error("{found} bytes of JSON, {limit} are allowed")]
    TooLong {
        /// Bytes given.
        found: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// Arrays and objects lie too deep in each other.
    #[error("JSON deeper than {DEPTH_LIMIT} levels")]
    TooDeep,
    /// A negative number, a fraction, or 2^53 and above.
    #[error("{0} is no integer from 0 to 2^53 - 1")]
    Number(String),
    /// No JSON.
    #[error("not JSON: {0}")]
    Syntax(String),
    /// JSON, but not the bytes that the encoder gives for its value.
    #[error("not canonical JSON")]
    NotCanonical,
    /// Canonical JSON of something else than was expected.
    #[error("unexpected JSON: {0}")]
    Shape(String),
}

impl Explain for JsonError {
    fn class(&self) -> Class {
        Class::Corrupt
    }
}

/// The canonical JSON of `value`. Fails where it holds a number that the format has not, or can't be serialised.
pub fn to_canonical(value: &(impl Serialize + ?Sized)) -> Result<Vec<u8>, JsonError> {
    let value = serde_json::to_value(value).map_err(|e| JsonError::Shape(e.to_string()))?;
    let mut out = Vec::with_capacity(256);
    write(&value, 0, &mut out)?;
    Ok(out)
}

/// Reads canonical JSON of at most `limit` bytes into a value; anything that the encoder would write in another way
/// is refused.
pub fn value_from_canonical(bytes: &[u8], limit: usize) -> Result<Value, JsonError> {
    if bytes.len() > limit {
        return Err(JsonError::TooLong { found: bytes.len(), limit });
    }
    check_depth(bytes)?;
    let value: Value = serde_json::from_slice(bytes).map_err(|e| JsonError::Syntax(e.to_string()))?;
    let mut again = Vec::with_capacity(bytes.len());
    write(&value, 0, &mut again)?;
    if again == bytes { Ok(value) } else { Err(JsonError::NotCanonical) }
}

/// Reads canonical JSON of at most `limit` bytes. `T` should refuse unknown fields; its own encoding must give the
/// same bytes again.
pub fn from_canonical<T: Serialize + DeserializeOwned>(bytes: &[u8], limit: usize) -> Result<T, JsonError> {
    let value = value_from_canonical(bytes, limit)?;
    let typed: T = serde_json::from_value(value).map_err(|e| JsonError::Shape(e.to_string()))?;
    if to_canonical(&typed)? == bytes { Ok(typed) } else { Err(JsonError::NotCanonical) }
}

fn write(value: &Value, depth: usize, out: &mut Vec<u8>) -> Result<(), JsonError> {
    if depth > DEPTH_LIMIT {
        return Err(JsonError::TooDeep);
    }
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Number(n) => match n.as_u64() {
            Some(n) if n < NUMBER_LIMIT => out.extend_from_slice(n.to_string().as_bytes()),
            _ => return Err(JsonError::Number(n.to_string())),
        },
        Value::String(text) => write_string(text, out),
        Value::Array(items) => {
            out.push(b'[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                write(item, depth + 1, out)?;
            }
            out.push(b']');
        }
        Value::Object(fields) => {
            // serde_json may keep the order of insertion if another crate asks it to: never rely on its order.
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_by(|a, b| a.0.as_bytes().cmp(b.0.as_bytes()));
            out.push(b'{');
            for (i, (key, item)) in fields.into_iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                write_string(key, out);
                out.push(b':');
                write(item, depth + 1, out)?;
            }
            out.push(b'}');
        }
    }
    Ok(())
}

fn write_string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for byte in text.bytes() {
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            0..0x20 => out.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
            _ => out.push(byte),
        }
    }
    out.push(b'"');
}

/// Refuses deep nesting before a recursive parser sees it.
fn check_depth(bytes: &[u8]) -> Result<(), JsonError> {
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth += 1;
                if depth > DEPTH_LIMIT {
                    return Err(JsonError::TooDeep);
                }
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde::Deserialize;
    use serde_json::json;

    #[test]
    fn encodes_in_one_way_only() {
        for (value, text) in [
            (json!({"b": 1, "a": [true, null, {}], "": ""}), r#"{"":"","a":[true,null,{}],"b":1}"#),
            (json!("a\"\\/\n\u{1f}\u{7f}é\u{2028}"), "\"a\\\"\\\\/\\u000a\\u001f\u{7f}é\u{2028}\""),
            (json!({"Z": 0, "a": 9007199254740991u64, "é": 2}), r#"{"Z":0,"a":9007199254740991,"é":2}"#),
        ] {
            assert_eq!(String::from_utf8(to_canonical(&value).unwrap()).unwrap(), text);
            assert_eq!(value_from_canonical(text.as_bytes(), 1000), Ok(value));
        }
    }

    #[test]
    fn refuses_all_other_spellings() {
        let long = format!("{}{}", "[".repeat(33), "]".repeat(33));
        for bad in [
            "",
            " 1",
            "1 ",
            "{\"a\":1,\"a\":1}",
            "{\"a\":1,\"a\":2}",
            "{\"b\":1,\"a\":1}",
            "{\"a\": 1}",
            "[1,]",
            "[1,2",
            "-1",
            "-0",
            "1.0",
            "1e3",
            "01",
            "9007199254740992",
            "18446744073709551616",
            "\"\\/\"",
            "\"\\n\"",
            "\"\\u000A\"",
            "\"\\u0041\"",
            "\"\\ud800\"",
            "\"\n\"",
            "nul",
            "1 2",
            "\u{feff}1",
            long.as_str(),
        ] {
            assert!(value_from_canonical(bad.as_bytes(), 1000).is_err(), "{bad:?}");
        }
        assert!(value_from_canonical(b"\"\xff\"", 1000).is_err());
        assert_eq!(value_from_canonical(b"[1,2]", 4), Err(JsonError::TooLong { found: 5, limit: 4 }));
        assert_eq!(value_from_canonical(&vec![b'['; 1 << 20], 1 << 20), Err(JsonError::TooDeep));
        for no_number in [json!(-1), json!(0.5), json!(NUMBER_LIMIT), json!([u64::MAX])] {
            assert!(matches!(to_canonical(&no_number), Err(JsonError::Number(_))), "{no_number}");
        }
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Small {
        n: u32,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
    }

    #[test]
    fn typed_values_must_give_the_same_bytes_again() {
        assert_eq!(from_canonical::<Small>(br#"{"n":7}"#, 100), Ok(Small { n: 7, name: None }));
        assert!(matches!(from_canonical::<Small>(br#"{"m":1,"n":7}"#, 100), Err(JsonError::Shape(_))));
        assert_eq!(from_canonical::<Small>(br#"{"n":7,"name":null}"#, 100), Err(JsonError::NotCanonical));
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (0..NUMBER_LIMIT).prop_map(Value::from),
            ".*".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 6, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                proptest::collection::btree_map(".*", inner, 0..6).prop_map(|m| Value::Object(m.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn values_survive(value in values()) {
            let bytes = to_canonical(&value).unwrap();
            prop_assert_eq!(value_from_canonical(&bytes, bytes.len()), Ok(value));
        }

        #[test]
        fn any_bytes_are_refused_or_canonical(bytes in proptest::collection::vec(prop_oneof![Just(b'['), Just(b'{'), Just(b'"'), Just(b','), Just(b':'), any::<u8>()], 0..40)) {
            if let Ok(value) = value_from_canonical(&bytes, 100) {
                prop_assert_eq!(to_canonical(&value).unwrap(), bytes);
            }
        }
    }
}
