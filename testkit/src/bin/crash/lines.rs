//! What the worker prints, a line each: intentions before they are carried out, where the parent
//! must know of them, and acknowledgements as soon as they are there.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
};

use crate::mark::Mark;

/// One line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Line {
    /// A batch was acknowledged: its entity, the sequence number of its first event, and the mark
    /// of that event.
    Appended { entity: usize, first_seq: u64, first: Mark },
    /// A deletion will be asked for.
    Deleting { entity: usize, to: u64 },
    /// A deletion was acknowledged.
    Deleted { entity: usize, to: u64 },
    /// A command will be sent, with so many events.
    Asking { entity: usize, value: u64, events: u64 },
    /// A command was answered.
    Answered { entity: usize, value: u64, reply: u64 },
}

impl Line {
    /// Prints the line at once. Who sees it whole can rely on it.
    pub(crate) fn print(self) -> io::Result<()> {
        // One write, straight into the pipe: what is printed does not wait in a buffer.
        let mut text = String::with_capacity(64);
        self.write(&mut text);
        io::stdout().lock().write_all(text.as_bytes())
    }

    fn write(self, text: &mut String) {
        // Writing into a string does not fail.
        let _ = match self {
            Line::Appended { entity, first_seq, first: Mark { run, batch, count, .. } } => {
                writeln!(text, "a {entity} {first_seq} {run} {batch} {count}")
            }
            Line::Deleting { entity, to } => writeln!(text, "D {entity} {to}"),
            Line::Deleted { entity, to } => writeln!(text, "d {entity} {to}"),
            Line::Asking { entity, value, events } => {
                writeln!(text, "Q {entity} {value} {events}")
            }
            Line::Answered { entity, value, reply } => {
                writeln!(text, "q {entity} {value} {reply}")
            }
        };
    }

    /// Reads what was printed. The last line may have been cut off by the kill, and is left out.
    pub(crate) fn read(printed: &[u8]) -> Result<Vec<Line>, String> {
        let whole = printed.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let text = std::str::from_utf8(&printed[..whole]).map_err(|error| error.to_string())?;
        text.lines()
            .map(|line| Line::parse(line).ok_or_else(|| format!("the worker printed {line:?}")))
            .collect()
    }

    fn parse(line: &str) -> Option<Line> {
        let (kind, rest) = line.split_once(' ')?;
        let numbers: Vec<u64> = rest.split(' ').map(str::parse).collect::<Result<_, _>>().ok()?;
        let entity = usize::try_from(*numbers.first()?).ok()?;
        Some(match (kind, &numbers[1..]) {
            ("a", &[first_seq, run, batch, count]) => {
                let (run, count) = (run.try_into().ok()?, count.try_into().ok()?);
                Line::Appended { entity, first_seq, first: Mark { run, batch, index: 0, count } }
            }
            ("D", &[to]) => Line::Deleting { entity, to },
            ("d", &[to]) => Line::Deleted { entity, to },
            ("Q", &[value, events]) => Line::Asking { entity, value, events },
            ("q", &[value, reply]) => Line::Answered { entity, value, reply },
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_back_and_half_a_line_does_not() {
        let first = Mark { run: 1, batch: 2, index: 0, count: 3 };
        let lines = [
            Line::Appended { entity: 4, first_seq: 5, first },
            Line::Deleting { entity: 6, to: 7 },
            Line::Deleted { entity: 6, to: 7 },
            Line::Asking { entity: 1, value: 8, events: 2 },
            Line::Answered { entity: 1, value: 8, reply: 9 },
        ];
        let mut text = String::new();
        lines.iter().for_each(|line| line.write(&mut text));
        assert_eq!(Line::read(text.as_bytes()), Ok(lines.to_vec()));
        assert_eq!(Line::read(&text.as_bytes()[..text.len() - 1]), Ok(lines[..4].to_vec()));
        assert!(Line::read(b"x 1\n").is_err());
    }
}
