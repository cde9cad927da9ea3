//! Versions of an application, as `1.4.0` or `2.0.0-rc.1`: which of two is newer.

use std::{cmp::Ordering, fmt, str::FromStr};

/// A version by the rules of semantic versioning: `MAJOR.MINOR.PATCH`, then perhaps `-PRERELEASE` and
/// `+BUILD`. What is built is of no account for the order, and a prerelease comes before its release.
///
/// ```
/// use duractor::config::Version;
///
/// let version = |text: &str| text.parse::<Version>();
/// assert!(version("1.10.0")? > version("1.9.3")?);
/// assert!(version("2.0.0-rc.2")? < version("2.0.0")?);
/// assert!(version("2.0").is_err());
/// # Ok::<(), String>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    numbers: [u64; 3],
    prerelease: Vec<Part>,
}

/// A part of a prerelease, between its dots. Numbers come before texts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Number(u64),
    Text(String),
}

impl FromStr for Version {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = || format!("{text:?} is no version as 1.4.0 or 2.0.0-rc.1");
        let (rest, build) = text.split_once('+').map_or((text, None), |(a, b)| (a, Some(b)));
        let (core, prerelease) = rest.split_once('-').map_or((rest, None), |(a, b)| (a, Some(b)));
        let fits = |part: &str| {
            !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
        };
        let parts = |text: &str| -> Option<Vec<String>> {
            let parts: Vec<_> = text.split('.').map(str::to_owned).collect();
            parts.iter().all(|part| fits(part)).then_some(parts)
        };
        if build.is_some_and(|build| parts(build).is_none()) {
            return Err(refused());
        }
        let numbers: Option<Vec<u64>> = core.split('.').map(number).collect();
        let numbers = numbers.and_then(|n| n.try_into().ok()).ok_or_else(refused)?;
        let prerelease = match prerelease {
            None => Vec::new(),
            Some(text) => parts(text).ok_or_else(refused)?,
        };
        let part = |text: String| number(&text).map_or(Part::Text(text), Part::Number);
        Ok(Self { numbers, prerelease: prerelease.into_iter().map(part).collect() })
    }
}

fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        let released = |version: &Self| version.prerelease.is_empty();
        self.numbers
            .cmp(&other.numbers)
            .then(released(self).cmp(&released(other)))
            .then_with(|| self.prerelease.cmp(&other.prerelease))
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor, patch] = self.numbers;
        write!(f, "{major}.{minor}.{patch}")?;
        for (n, part) in self.prerelease.iter().enumerate() {
            f.write_str(if n == 0 { "-" } else { "." })?;
            match part {
                Part::Number(number) => write!(f, "{number}")?,
                Part::Text(text) => f.write_str(text)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_as_released() {
        let rows = [
            "0.9.0",
            "1.0.0-alpha",
            "1.0.0-alpha.1",
            "1.0.0-alpha.beta",
            "1.0.0-beta.2",
            "1.0.0-beta.11",
            "1.0.0-rc.1",
            "1.0.0",
            "1.0.1",
            "1.2.0",
            "1.10.0",
            "2.0.0",
        ];
        let versions: Vec<Version> = rows.iter().map(|row| row.parse().expect(row)).collect();
        for pair in versions.windows(2) {
            assert!(pair[0] < pair[1], "{} is before {}", pair[0], pair[1]);
        }
        for (row, version) in rows.iter().zip(&versions) {
            assert_eq!(version.to_string(), *row);
        }
        let one = |text: &str| text.parse::<Version>();
        assert_eq!(one("1.0.0+a.1"), one("1.0.0+b"), "what is built is of no account");
        for bad in [
            "",
            "1",
            "1.2",
            "1.2.3.4",
            "a.b.c",
            "1.2.3-",
            "1.2.3-a..b",
            "1.2.3+",
            "+1.2.3",
            "1.2.-3",
        ] {
            assert!(one(bad).is_err(), "{bad}");
        }
    }
}
