//! Results as a table or as JSON lines.

use std::{
    io::{self, Write},
    time::Duration,
};

use serde_json::Value;

/// One result: its fields, in the order in which they are shown.
#[derive(Debug, Clone, Default)]
pub(crate) struct Row {
    fields: Vec<(String, Value)>,
}

impl Row {
    pub(crate) fn new(bench: &str) -> Self {
        Self::default().with("bench", bench)
    }

    pub(crate) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.fields.push((name.to_owned(), value.into()));
        self
    }

    /// A number with few decimals: as many as it takes to show three digits.
    pub(crate) fn number(self, name: &str, value: f64) -> Self {
        let value = match value.abs() {
            v if v >= 100.0 => Value::from(value.round() as i64),
            v if v >= 10.0 => Value::from((value * 10.0).round() / 10.0),
            _ => Value::from((value * 1000.0).round() / 1000.0),
        };
        self.with(name, value)
    }

    /// Quantiles of times in milliseconds, each as `{prefix}{name}_ms`.
    pub(crate) fn quantiles(
        mut self,
        prefix: &str,
        times: &mut [Duration],
        quantiles: &[(&str, f64)],
    ) -> Self {
        times.sort_unstable();
        for (name, quantile) in quantiles {
            let place = (times.len() as f64 * quantile).ceil() as usize;
            let time = times.get(place.saturating_sub(1)).copied().unwrap_or_default();
            self = self.number(&format!("{prefix}{name}_ms"), time.as_secs_f64() * 1e3);
        }
        self
    }

    fn json(&self) -> String {
        let field = |(name, value): &(String, Value)| format!("\"{name}\":{value}");
        format!("{{{}}}", self.fields.iter().map(field).collect::<Vec<_>>().join(","))
    }
}

/// Prints results as they come.
pub(crate) struct Report {
    json: bool,
    /// Column names and widths of the table under way.
    columns: Vec<(String, usize)>,
}

impl Report {
    pub(crate) fn new(json: bool) -> Self {
        Self { json, columns: Vec::new() }
    }

    pub(crate) fn print(&mut self, row: &Row) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if self.json {
            writeln!(out, "{}", row.json())?;
        } else {
            self.table(row, &mut out)?;
        }
        out.flush()
    }

    fn table(&mut self, row: &Row, out: &mut impl Write) -> io::Result<()> {
        let cells: Vec<_> = row.fields.iter().map(|(_, value)| cell(value)).collect();
        let same = self.columns.len() == cells.len()
            && self.columns.iter().zip(&row.fields).all(|((column, _), (name, _))| column == name);
        if !same {
            if !self.columns.is_empty() {
                writeln!(out)?;
            }
            let width = |((name, _), cell): (&(String, Value), &String)| {
                (name.clone(), name.len().max(cell.len()).max(9))
            };
            self.columns = row.fields.iter().zip(&cells).map(width).collect();
            let names = self.columns.iter().map(|(name, _)| name.as_str());
            writeln!(out, "{}", self.line(names))?;
        }
        writeln!(out, "{}", self.line(cells.iter().map(String::as_str)))
    }

    fn line<'a>(&self, cells: impl Iterator<Item = &'a str>) -> String {
        let padded = cells.zip(&self.columns).map(|(cell, (_, width))| format!("{cell:>width$}"));
        padded.collect::<Vec<_>>().join("  ")
    }
}

/// A value for people: thousands apart, texts without quotes.
fn cell(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".into(),
        Value::Number(number) if number.is_i64() || number.is_u64() => grouped(&number.to_string()),
        other => other.to_string(),
    }
}

fn grouped(digits: &str) -> String {
    let (sign, digits) = digits.strip_prefix('-').map_or(("", digits), |rest| ("-", rest));
    let mut out = sign.to_owned();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_and_rounded() {
        assert_eq!(grouped("1234567"), "1 234 567");
        assert_eq!(grouped("-123"), "-123");
        let row = Row::new("x").number("a", 1234.6).number("b", 12.345).number("c", 0.12345);
        assert_eq!(row.json(), r#"{"bench":"x","a":1235,"b":12.3,"c":0.123}"#);
    }
}
