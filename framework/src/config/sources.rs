//! Where values come from, beside the file: defaults, variables and flags.

use std::collections::BTreeMap;

use config::{ConfigError, Map, Source, Value, ValueKind};

use super::keys::{Allowed, KEYS, Key};

/// Values as text, each with a word on where it was given.
#[derive(Debug, Clone, Default)]
pub(super) struct Texts(pub(super) Vec<(&'static Key, String, String)>);

impl Texts {
    /// The defaults of all keys.
    pub(super) fn defaults() -> Self {
        Self(KEYS.iter().map(|key| (key, key.default.to_owned(), "default".to_owned())).collect())
    }

    /// What variables say; and those that look as if they were meant for a key and are for none.
    pub(super) fn from_variables(variables: &BTreeMap<String, String>) -> (Self, Vec<String>) {
        let find = |name: &str| KEYS.iter().find(|key| key.variable() == name);
        let mut texts = Vec::new();
        let mut unknown = Vec::new();
        for (name, value) in variables {
            match find(name) {
                Some(key) => texts.push((key, value.clone(), format!("the variable {name}"))),
                None if is_meant_for_us(name) => unknown.push(name.clone()),
                None => {}
            }
        }
        (Self(texts), unknown)
    }
}

/// Whether a variable has the name of a section, and is none that container platforms set for a
/// service of that name by themselves.
fn is_meant_for_us(name: &str) -> bool {
    let Some(rest) = name.strip_prefix("DURACTOR_") else { return false };
    let section = rest.split('_').next().unwrap_or_default().to_lowercase();
    let of_a_section = rest.contains('_')
        && KEYS.iter().any(|key| key.name.split('.').next() == Some(section.as_str()));
    of_a_section && !rest.contains("_SERVICE_") && !rest.contains("_PORT")
}

impl Source for Texts {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ConfigError> {
        let value = |(key, text, origin): &(&'static Key, String, String)| {
            (key.name.to_owned(), Value::new(Some(origin), to_kind(key, text, origin)))
        };
        Ok(self.0.iter().map(value).collect())
    }
}

/// A text as the kind of value that its key holds; left a text where it is not fit, for the check
/// to find.
fn to_kind(key: &Key, text: &str, origin: &String) -> ValueKind {
    let as_text = || ValueKind::String(text.to_owned());
    match key.allowed {
        Allowed::Number(..) => text.parse().map_or_else(|_| as_text(), ValueKind::U64),
        Allowed::Switch => text.parse().map_or_else(|_| as_text(), ValueKind::Boolean),
        Allowed::Addresses | Allowed::Names => {
            let each = text.split(',').map(str::trim).filter(|one| !one.is_empty());
            ValueKind::Array(each.map(|one| Value::new(Some(origin), one)).collect())
        }
        _ => as_text(),
    }
}
