//! What is wrong with a configuration: everything at once, each with its key.

use std::fmt;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Which key, as `"timing.heartbeat_ms"`; or the file that cannot be read.
    pub key: String,
    /// What was given, as text. `None` where that is not the point, or must not be shown.
    pub value: Option<String>,
    /// Where it was given.
    pub origin: String,
    /// What is wrong, or what is allowed.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key)?;
        if let Some(value) = &self.value {
            write!(f, " = {}", redact(value))?;
        }
        write!(f, " ({}): {}", self.origin, self.what)
    }
}

/// A configuration that is refused. Nothing was started.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the configuration is refused:{}", list(.problems))]
pub struct ConfigError {
    /// All that is wrong.
    pub problems: Vec<Problem>,
}

fn list(problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("\n  {problem}")).collect()
}

/// What may be shown of a value. Whoever puts the contents of a key file where its path belongs must
/// not find them in a log.
pub(super) fn redact(value: &str) -> &str {
    let secret = value.contains("PRIVATE KEY") || value.contains("-----BEGIN");
    if secret { "<not shown: this looks like the contents of a key file>" } else { value }
}
