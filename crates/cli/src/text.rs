//! Texts for people: tables, sizes, and what must not reach a terminal as it is.

use std::{borrow::Cow, io};

/// What `postroad --help` ends with.
pub const PROGRAM_HELP: &str = "\
Examples:
  postroad demo                                 see it work, in a minute
  postroad dev                                  all of Postroad on this machine
  postroad listen --channel orders              receive what is published there (another terminal)
  postroad publish --channel orders --payload '{\"id\":1}'

Each command's --help has more of them.";

/// A text from elsewhere, fit to be shown: control characters are escaped.
pub fn safe(text: &str) -> Cow<'_, str> {
    if !text.contains(char::is_control) {
        return Cow::Borrowed(text);
    }
    let escaped = text.chars().flat_map(|c| {
        let escape = c.is_control().then(|| c.escape_debug());
        let plain = escape.is_none().then_some(c);
        escape.into_iter().flatten().chain(plain)
    });
    Cow::Owned(escaped.collect())
}

/// A number of bytes, as `812 B` or `7.1 KiB`.
pub fn size(bytes: usize) -> String {
    #[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
    let kib = bytes as f64 / 1_024.0;
    match bytes {
        0..1_024 => format!("{bytes} B"),
        1_024..1_048_576 => format!("{kib:.1} KiB"),
        _ => format!("{:.1} MiB", kib / 1_024.0),
    }
}

/// Lines of a table whose columns begin below each other; two spaces apart, none at the end.
pub fn table(rows: &[Vec<String>]) -> Vec<String> {
    aligned(rows, &[])
}

/// As [`table`]; the columns of these numbers end below each other, as figures should.
pub fn aligned(rows: &[Vec<String>], right: &[usize]) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().enumerate().map(|(column, cell)| match (widths[column], column) {
            (width, column) if right.contains(&column) => format!("{cell:>width$}"),
            (width, _) => format!("{cell:<width$}"),
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

/// Whether an error is only that nobody reads our output any more.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_drives_a_terminal() {
        assert_eq!(safe("größe"), "größe");
        assert_eq!(safe("a\u{1b}[2J\u{9b}\nb"), "a\\u{1b}[2J\\u{9b}\\nb");
    }

    #[test]
    fn sizes_are_short() {
        let sizes = [0, 1_023, 1_024, 7_270, 3_000_000].map(size);
        assert_eq!(sizes, ["0 B", "1023 B", "1.0 KiB", "7.1 KiB", "2.9 MiB"]);
    }

    #[test]
    fn columns_line_up() {
        let rows = [vec!["a".to_owned(), "1".into(), "x".into()], vec!["bcd".into(), "10".into()]];
        assert_eq!(table(&rows), ["a    1   x", "bcd  10"]);
        assert_eq!(aligned(&rows, &[1]), ["a     1  x", "bcd  10"]);
    }
}
