//! Answers for people. What comes from messages and subscribers cannot drive the terminal.

use std::io::{self, StdoutLock, Write};

use postroad_model::delivery::DeadReason;
use serde::Serialize;
use serde_json::Value;

use crate::{
    dead::{Count, Overview, Page, Shown},
    job::desk::Progress,
};

/// Standard output. Errors, a reader that has gone included, are its caller's.
pub(super) struct Out(StdoutLock<'static>);

impl Out {
    pub(super) fn new() -> Self {
        Self(io::stdout().lock())
    }

    pub(super) fn json(&mut self, value: &impl Serialize) -> anyhow::Result<()> {
        self.lines([serde_json::to_string(value)?])
    }

    pub(super) fn lines(&mut self, lines: impl IntoIterator<Item = String>) -> anyhow::Result<()> {
        for line in lines {
            writeln!(self.0, "{line}")?;
        }
        Ok(self.0.flush()?)
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.0.write_all(bytes)?;
        Ok(self.0.flush()?)
    }
}

/// Text without control characters.
pub(super) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

fn short(text: &str, most: usize) -> String {
    let line = clean(text).replace('\n', " ");
    match line.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// Columns, each as wide as its widest cell.
fn table<const N: usize>(rows: &[[String; N]]) -> Vec<String> {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

pub(super) fn page(page: &Page) -> Vec<String> {
    if page.messages.is_empty() {
        return vec!["no dead letters match".to_owned()];
    }
    let head =
        ["DIED", "ID", "MESSAGE", "CHANNEL", "REASON", "STATUS", "ATTEMPTS", "ERROR"].map(str::to_owned);
    let rows = page.messages.iter().map(|row| {
        [
            row.died_at.to_string(),
            row.id.clone(),
            or_dash(row.message_id.as_ref()),
            or_dash(row.channel.as_ref()),
            or_dash(row.reason.map(DeadReason::as_str)),
            or_dash(row.last_status_code),
            row.attempts.to_string(),
            short(row.last_error.as_deref().or(row.undecodable.as_deref()).unwrap_or("-"), 60),
        ]
    });
    table(&[head].into_iter().chain(rows).collect::<Vec<_>>())
}

pub(super) fn overview(overview: &Overview) -> Vec<String> {
    let sum = format!("{} dead letters in {} subscriptions", overview.total, overview.subscriptions);
    let head =
        ["QUEUE", "SUBSCRIPTION", "SERVICE", "COUNT", "OLDEST", "NEWEST", "REASONS"].map(str::to_owned);
    let rows = overview.queues.iter().map(|row| {
        let reasons = row.reasons.iter().map(|reason| {
            let status = reason.status_code.map(|code| format!(" {code}")).unwrap_or_default();
            let error =
                reason.error.as_deref().map(|error| format!(" ({})", short(error, 40))).unwrap_or_default();
            format!("{}×{}{status}{error}", reason.count, reason.reason.unwrap_or("unknown"))
        });
        let about = if row.exact { "" } else { "~" };
        [
            clean(&row.queue),
            row.subscription_id.to_string(),
            short(row.service_name.as_str(), 30),
            format!("{about}{}", row.count),
            row.oldest.to_string(),
            row.newest.to_string(),
            reasons.collect::<Vec<_>>().join(", "),
        ]
    });
    let rows: Vec<_> = [head].into_iter().chain(rows).collect();
    let table = if overview.queues.is_empty() { Vec::new() } else { table(&rows) };
    table.into_iter().chain([sum]).collect()
}

pub(super) fn count(count: &Count) -> Vec<String> {
    let rows: Vec<_> = count
        .subscriptions
        .iter()
        .map(|row| [row.subscription_id.to_string(), clean(&row.channel_pattern), row.would_move.to_string()])
        .collect();
    let sum = format!("{} dead letters match, {} would be moved", count.matched, count.would_move);
    table(&rows).into_iter().chain([sum]).collect()
}

pub(super) fn progress(progress: &Progress) -> String {
    let skipped = match progress.skipped {
        0 => String::new(),
        skipped => format!(", skipped {skipped} that were gone or whose subscription was cancelled"),
    };
    format!("job {} is {}: moved {} dead letters{skipped}", progress.job_id, progress.state, progress.moved)
}

/// One member a line; what is nested, indented below it.
pub(super) fn whole(shown: &Shown) -> anyhow::Result<Vec<String>> {
    let text = serde_json::to_string(shown)?;
    // Numbers that no machine holds can stand in a payload: then as it is.
    let Ok(Value::Object(members)) = serde_json::from_str(&text) else { return Ok(vec![clean(&text)]) };
    let mut lines = Vec::new();
    for (name, value) in members {
        match value {
            Value::String(text) => lines.push(format!("{name}: {}", clean(&text))),
            Value::Object(_) | Value::Array(_) => {
                let pretty = clean(&serde_json::to_string_pretty(&value)?);
                lines.push(format!("{name}: {pretty}"));
            }
            plain => lines.push(format!("{name}: {plain}")),
        }
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_drives_the_terminal() {
        assert_eq!(clean("a\u{1b}[2J\r\u{9b}b"), "a\u{fffd}[2J\u{fffd}\u{fffd}b");
        assert_eq!(short("one\ntwo\tthree", 6), "one tw…");
    }

    #[test]
    fn columns_line_up() {
        let cell = |text: &str| text.to_owned();
        let lines = table(&[[cell("a"), cell("größe"), cell("x")], [cell("bbb"), cell("c"), cell("")]]);
        assert_eq!(lines, ["a    größe  x", "bbb  c"]);
    }
}
