//! Log lines, to standard error. The one thing about a process that is global.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    io::{self, IsTerminal, Write},
    panic::PanicHookInfo,
};

use crate::common::{LogFilter, LogFormat};

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("logging is already set up in this process")]
pub struct AlreadyInitialised;

/// Sets up logging for the whole process, panics included. Only once: a second call changes nothing and is
/// an error.
///
/// Control characters are escaped, so that no one can forge a line or drive a terminal through what gets
/// logged.
pub fn init(filter: &LogFilter, format: LogFormat) -> Result<(), AlreadyInitialised> {
    let colours = format == LogFormat::Text
        && io::stderr().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter.filter())
        .with_ansi(colours)
        .with_writer(move || Escaping { inner: io::stderr(), colours });
    match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    }
    .map_err(|_| AlreadyInitialised)?;
    std::panic::set_hook(Box::new(log_panic));
    Ok(())
}

/// A panic is a log line like any other, also where it only ends one task.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let location = panic.location().map(ToString::to_string).unwrap_or_default();
    let payload = panic.payload();
    let text = payload.downcast_ref::<String>().map(String::as_str);
    let message = text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("(no message)");
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("?");
    let trace = Backtrace::capture();
    if trace.status() == BacktraceStatus::Captured {
        tracing::error!(panic.location = location, panic.thread = thread, panic.trace = %trace, "panic: {message}");
    } else {
        tracing::error!(panic.location = location, panic.thread = thread, "panic: {message}");
    }
}

/// Escapes control characters; expects one line a write, as the formatter does it.
struct Escaping<W> {
    inner: W,
    /// Whether escape sequences may pass. The formatter itself escapes those in values.
    colours: bool,
}

impl<W: Write> Write for Escaping<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match escape(line, self.colours) {
            Some(escaped) => self.inner.write_all(&escaped)?,
            None => self.inner.write_all(line)?,
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// The line without control characters but its last line end; `None` where it is so already. The escapes
/// are those of JSON, so a JSON line stays one.
fn escape(line: &[u8], colours: bool) -> Option<Vec<u8>> {
    let (text, end) = match line {
        [text @ .., b'\n'] => (text, "\n"),
        text => (text, ""),
    };
    let text = String::from_utf8_lossy(text);
    let is_bad = |c: char| c.is_control() && !(colours && c == '\u{1b}');
    if !text.contains(is_bad) {
        return None;
    }
    let mut out = Vec::with_capacity(line.len() + 16);
    for c in text.chars() {
        match c {
            '\n' => out.extend(b"\\n"),
            '\r' => out.extend(b"\\r"),
            '\t' => out.extend(b"\\t"),
            c if is_bad(c) => write!(out, "\\u{:04x}", u32::from(c)).expect("a Vec can be written to"),
            c => write!(out, "{c}").expect("a Vec can be written to"),
        }
    }
    out.extend(end.as_bytes());
    Some(out)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    #[test]
    fn only_the_last_line_end_survives() {
        let escaped =
            |line: &str| escape(line.as_bytes(), false).map(|line| String::from_utf8(line).unwrap());
        assert_eq!(escaped("plain, größe\n"), None);
        assert_eq!(escaped("a\nb\r\tc\n").unwrap(), "a\\nb\\r\\tc\n");
        assert_eq!(escaped("\u{1b}[31m\u{9b}\u{7f}\0").unwrap(), "\\u001b[31m\\u009b\\u007f\\u0000");
        assert_eq!(escape(b"\x1b[2mx\x1b[0m\n", true), None);
        assert!(escape(b"\x1b[2m\x07\n", true).is_some());
    }

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Kept {
        type Writer = Escaping<Self>;
        fn make_writer(&'a self) -> Self::Writer {
            Escaping { inner: self.clone(), colours: false }
        }
    }

    #[test]
    fn no_value_can_forge_a_line_in_either_format() {
        let (text, json) = (Kept::default(), Kept::default());
        let hostile = "x\n2024-01-01 ERROR forged\u{1b}[2J\u{9b}";
        let plain = tracing_subscriber::fmt().with_ansi(false).with_writer(text.clone()).finish();
        tracing::subscriber::with_default(plain, || tracing::info!(name = %hostile, "{hostile}"));
        let machine = tracing_subscriber::fmt().json().with_writer(json.clone()).finish();
        tracing::subscriber::with_default(machine, || tracing::info!(name = %hostile, "{hostile}"));
        for kept in [&text, &json] {
            let written = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
            let line = written.strip_suffix('\n').unwrap();
            assert!(line.contains("forged") && !line.contains(char::is_control), "{line:?}");
        }
        let line: serde_json::Value = serde_json::from_slice(&json.0.lock().unwrap()).unwrap();
        assert_eq!(line["fields"]["name"], hostile);
    }

    #[test]
    fn a_second_call_is_an_error_and_no_panic() {
        let filter = LogFilter::try_from("error".to_owned()).unwrap();
        let first = init(&filter, LogFormat::Text);
        assert!(first.is_ok() || first.is_err());
        assert!(init(&filter, LogFormat::Json).is_err());
    }
}
