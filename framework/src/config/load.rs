//! Putting the sources together, checking every value, and saying all that is wrong at once.

use std::{collections::BTreeMap, path::PathBuf};

use config::{File, FileFormat, Value, ValueKind};

use super::{
    error::{ConfigError, Problem, redact},
    keys::{Allowed, KEYS, Key},
    sections::Config,
    sources::Texts,
};

/// Loads a [`Config`]: give it what there is, then [`load`](Loader::load). Reads neither files nor
/// variables that it was not told of.
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct Loader {
    texts: Vec<(String, String)>,
    problems: Vec<Problem>,
    variables: BTreeMap<String, String>,
    flags: Vec<(&'static Key, String, String)>,
}

impl Loader {
    /// Nothing but defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads a TOML file. One that cannot be read is a problem that [`load`](Self::load) tells.
    pub fn file(self, path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        let origin = path.display().to_string();
        match std::fs::read_to_string(&path) {
            Ok(text) => self.text(origin, text),
            Err(error) => self.problem(origin, "the configuration file", error.to_string()),
        }
    }

    /// Takes TOML text; `origin` says where it is from.
    pub fn text(mut self, origin: impl Into<String>, text: impl Into<String>) -> Self {
        self.texts.push((origin.into(), text.into()));
        self
    }

    /// Takes the process's variables whose names begin with `DURACTOR_`. The file is the one that
    /// `DURACTOR_CONFIG` names, if it is set and no other file was given.
    pub fn environment(self) -> Self {
        let ours = std::env::vars_os().filter_map(|(name, value)| {
            let name = name.into_string().ok()?;
            name.starts_with("DURACTOR_").then(|| (name, value.to_string_lossy().into_owned()))
        });
        let loader = self.variables(ours);
        match loader.variables.get("DURACTOR_CONFIG").cloned() {
            Some(path) if loader.texts.is_empty() && loader.problems.is_empty() => {
                loader.file(path)
            }
            _ => loader,
        }
    }

    /// Takes variables as if they were the process's.
    pub fn variables<N: Into<String>, V: Into<String>>(
        mut self,
        variables: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        self.variables.extend(variables.into_iter().map(|(n, v)| (n.into(), v.into())));
        self
    }

    /// Sets a key, as a flag does: wins over file and variables. `key` is as `"node.number"`.
    pub fn set(mut self, key: &str, value: impl Into<String>) -> Self {
        let Some(known) = Key::find(key) else {
            return self.problem(key, "set by the program", unknown(key));
        };
        let origin = format!("the flag --{}", known.flag());
        self.flags.push((known, value.into(), origin));
        self
    }

    fn problem(mut self, key: impl Into<String>, origin: &str, what: impl Into<String>) -> Self {
        let (key, origin, what) = (key.into(), origin.to_owned(), what.into());
        self.problems.push(Problem { key, value: None, origin, what });
        self
    }

    /// The configuration.
    ///
    /// # Errors
    /// [`ConfigError`] with all that is wrong.
    pub fn load(self) -> Result<Config, ConfigError> {
        let mut problems = self.problems;
        let (variables, strangers) = Texts::from_variables(&self.variables);
        for name in strangers {
            let what = "there is no key for this variable".to_owned();
            let origin = "the environment".to_owned();
            problems.push(Problem { key: name, value: None, origin, what });
        }
        let mut builder = config::Config::builder().add_source(Texts::defaults());
        for (origin, text) in self.texts {
            // Parsed by itself first: one broken file must not hide what else is wrong.
            match parse(&origin, &text) {
                Ok(table) => builder = builder.add_source(table),
                Err(problem) => problems.push(problem),
            }
        }
        let merged = builder.add_source(variables).add_source(Texts(self.flags)).build();
        let merged = merged.map_err(|error| refused(&mut problems, error.to_string()))?;

        let mut found = BTreeMap::new();
        flatten(String::new(), &merged.cache, &mut found);
        let mut origins = BTreeMap::new();
        for (name, value) in &found {
            problems.extend(check(name, value));
            origins.insert(name.clone(), origin(value));
        }
        if !problems.is_empty() {
            return Err(ConfigError { problems });
        }
        let mut config: Config =
            merged.try_deserialize().map_err(|error| refused(&mut problems, error.to_string()))?;
        config.origins = origins;
        config.check()?;
        Ok(config)
    }
}

/// An error that is not about one key.
fn refused(problems: &mut Vec<Problem>, what: String) -> ConfigError {
    let (key, origin) = ("the configuration".to_owned(), "all sources".to_owned());
    problems.push(Problem { key, value: None, origin, what: redact(&what).to_owned() });
    ConfigError { problems: std::mem::take(problems) }
}

/// A file's values, each with the file as its origin.
#[derive(Debug, Clone)]
struct Table(config::Map<String, Value>);

impl config::Source for Table {
    fn clone_into_box(&self) -> Box<dyn config::Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<config::Map<String, Value>, config::ConfigError> {
        Ok(self.0.clone())
    }
}

fn parse(origin: &str, text: &str) -> Result<Table, Problem> {
    let file = File::from_str(text, FileFormat::Toml);
    let table = config::Source::collect(&file).map_err(|error| {
        let what = parse_error(&error.to_string(), text);
        Problem { key: origin.into(), value: None, origin: "the configuration file".into(), what }
    })?;
    let table = table.into_iter().map(|(name, value)| (name, named(value, origin))).collect();
    Ok(Table(table))
}

/// What the parser says. It quotes a line, which must not be one of a key's.
fn parse_error(error: &str, text: &str) -> String {
    if redact(text) == text {
        return error.to_owned();
    }
    let quote = |line: &&str| line.contains('|');
    error.lines().filter(|line| !quote(line)).collect::<Vec<_>>().join(" ")
}

fn named(value: Value, origin: &str) -> Value {
    let kind = match value.kind {
        ValueKind::Table(table) => {
            ValueKind::Table(table.into_iter().map(|(k, v)| (k, named(v, origin))).collect())
        }
        other => other,
    };
    Value::new(Some(&origin.to_owned()), kind)
}

/// All values that are no tables, by their full names.
fn flatten<'a>(name: String, value: &'a Value, into: &mut BTreeMap<String, &'a Value>) {
    match &value.kind {
        ValueKind::Table(table) => {
            for (key, value) in table {
                let full = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
                flatten(full, value, into);
            }
        }
        _ => {
            into.insert(name, value);
        }
    }
}

fn origin(value: &Value) -> String {
    value.origin().unwrap_or("the configuration file").to_owned()
}

/// What is wrong with one value.
fn check(name: &str, value: &Value) -> Option<Problem> {
    let origin = origin(value);
    let text = text(value);
    let Some(key) = Key::find(name) else {
        // A section given as a value, as `node = 3`.
        let prefix = format!("{name}.");
        let is_section = KEYS.iter().any(|key| key.name.starts_with(&prefix));
        let what = if is_section { "this is a section, not a value".into() } else { unknown(name) };
        return Some(Problem { key: name.to_owned(), value: None, origin, what });
    };
    if is_kind(key, value) && key.fits(&text) {
        return None;
    }
    let what = format!("allowed are {}", key.range());
    Some(Problem { key: name.to_owned(), value: Some(redact(&text).to_owned()), origin, what })
}

/// Whether a value is of its key's kind: a file must not say `"3"` for 3.
fn is_kind(key: &Key, value: &Value) -> bool {
    match (&key.allowed, &value.kind) {
        (
            Allowed::Number(..),
            ValueKind::I64(_) | ValueKind::U64(_) | ValueKind::I128(_) | ValueKind::U128(_),
        )
        | (Allowed::Switch, ValueKind::Boolean(_)) => true,
        (Allowed::Addresses | Allowed::Names, ValueKind::Array(each)) => {
            each.iter().all(|one| matches!(one.kind, ValueKind::String(_)))
        }
        (Allowed::Number(..) | Allowed::Switch | Allowed::Addresses | Allowed::Names, _) => false,
        (_, kind) => matches!(kind, ValueKind::String(_)),
    }
}

fn text(value: &Value) -> String {
    match &value.kind {
        ValueKind::Array(each) => each.iter().map(text).collect::<Vec<_>>().join(","),
        kind => kind.to_string(),
    }
}

/// "There is no such key", and which one may be meant.
fn unknown(name: &str) -> String {
    let near = KEYS.iter().min_by_key(|key| distance(key.name, name));
    match near.filter(|key| distance(key.name, name) <= 3) {
        Some(key) => format!("there is no such key; is {} meant?", key.name),
        None => "there is no such key".into(),
    }
}

/// How many letters differ.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut corner = i;
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let next = (corner + usize::from(x != y)).min(row[j] + 1).min(row[j + 1] + 1);
            corner = row[j + 1];
            row[j + 1] = next;
        }
    }
    row[b.len()]
}
