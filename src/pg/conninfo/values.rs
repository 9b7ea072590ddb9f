//! Values by keyword, from all places that may give one.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use std::collections::HashMap;

use zeroize::Zeroizing;

use super::keywords::{self, Treatment};
use super::{ConninfoError, Surroundings, service_file};

/// Those of the string before those of the service, before those of the environment. An empty value in the string
/// stands for the built-in default, as in libpq; an empty variable for nothing.
pub(super) struct Values(HashMap<&'static str, String>);

impl Values {
    pub(super) fn new(given: Vec<(String, Zeroizing<String>)>, surroundings: &Surroundings) -> Result<Values, ConninfoError> {
        let mut string = HashMap::new();
        for (name, value) in given {
            string.insert(keywords::find(&name)?.name, value.to_string());
        }
        let mut values = of_environment(surroundings)?;
        let service = string.get("service").or(values.get("service")).filter(|name| !name.is_empty());
        if let Some(service) = service {
            let named = service_file::named(string.get("servicefile").map(String::as_str), surroundings);
            for (name, value) in service_file::look_up(service, named.as_deref(), surroundings)? {
                values.insert(keywords::find(&name)?.name, value.to_string());
            }
        }
        values.extend(string);
        values.retain(|_, value| !value.is_empty());
        let values = Values(values);
        values.check_supported()?;
        Ok(values)
    }

    pub(super) fn get(&self, keyword: &str) -> Option<&str> {
        self.0.get(keyword).map(String::as_str)
    }

    pub(super) fn owned(&self, keyword: &str) -> Option<String> {
        self.get(keyword).map(str::to_owned)
    }

    /// A number from 0; a negative one means the default, as in libpq.
    pub(super) fn number(&self, keyword: &'static str) -> Result<Option<u32>, ConninfoError> {
        let Some(value) = self.get(keyword) else { return Ok(None) };
        match value.trim().parse::<i32>() {
            Ok(number) => Ok(u32::try_from(number).ok()),
            Err(_) => Err(ConninfoError::BadValue { keyword, value: value.to_owned(), expected: "a whole number" }),
        }
    }

    /// 1 or 0; 1 if nothing is given.
    pub(super) fn flag(&self, keyword: &'static str) -> Result<bool, ConninfoError> {
        match self.get(keyword).map(str::trim) {
            None | Some("1") => Ok(true),
            Some("0") => Ok(false),
            Some(value) => Err(ConninfoError::BadValue { keyword, value: value.to_owned(), expected: "1 or 0" }),
        }
    }

    /// The one that the value names; the first if nothing is given.
    pub(super) fn one_of<T: Copy>(&self, keyword: &'static str, all: &[(&'static str, T)]) -> Result<T, ConninfoError> {
        let value = self.get(keyword);
        let found = match value {
            None => all.first(),
            Some(value) => all.iter().find(|(name, _)| *name == value),
        };
        match found {
            Some((_, meaning)) => Ok(*meaning),
            None => Err(ConninfoError::BadValue { keyword, value: value.unwrap_or_default().to_owned(), expected: expected(keyword) }),
        }
    }

    /// Refuses what asks for something that this program can't do.
    fn check_supported(&self) -> Result<(), ConninfoError> {
        for keyword in keywords::ALL {
            let Some(value) = self.get(keyword.name) else { continue };
            match keyword.treatment {
                Treatment::Used | Treatment::Ignored => {}
                Treatment::Refused(instead) => return Err(ConninfoError::NotSupported { keyword: keyword.name, instead }),
                Treatment::Only(values, _) if values.contains(&value) => {}
                Treatment::Only(_, instead) => {
                    return Err(ConninfoError::ValueNotSupported { keyword: keyword.name, value: value.to_owned(), instead });
                }
            }
        }
        Ok(())
    }
}

fn expected(keyword: &str) -> &'static str {
    match keyword {
        "sslmode" => "disable, allow, prefer, require, verify-ca or verify-full",
        "sslnegotiation" => "postgres or direct",
        "sslcertmode" => "disable, allow or require",
        "channel_binding" => "disable, prefer or require",
        "load_balance_hosts" => "disable or random",
        "target_session_attrs" => "any, read-write, read-only, primary, standby or prefer-standby",
        _ => "another value",
    }
}

fn of_environment(surroundings: &Surroundings) -> Result<HashMap<&'static str, String>, ConninfoError> {
    let mut values = HashMap::new();
    let variable = |name: &'static str| match surroundings.variables.get(name).filter(|value| !value.is_empty()) {
        Some(value) => value.to_str().map(|text| Some(text.to_owned())).ok_or(ConninfoError::NotText(name)),
        None => Ok(None),
    };
    // The file of services may have a path of any bytes; it is looked up where it is needed.
    for keyword in keywords::ALL.iter().filter(|keyword| keyword.name != "servicefile") {
        if let Some(value) = keyword.variable.map(variable).transpose()?.flatten() {
            values.insert(keyword.name, value);
        }
    }
    // Older than sslmode, and still understood by libpq.
    if !values.contains_key("sslmode") && variable("PGREQUIRESSL")?.is_some_and(|value| value.starts_with('1')) {
        values.insert("sslmode", "require".to_owned());
    }
    Ok(values)
}
