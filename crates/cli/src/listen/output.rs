//! Where arrivals are shown and kept.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    path::Path,
};

use anyhow::Context as _;

use super::arrival::Arrival;

/// How arrivals are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Show {
    /// One line each, for people.
    Lines,
    /// One JSON object each, with the body.
    Json,
    /// Not at all.
    Nothing,
}

/// Where arrivals go.
#[derive(Debug)]
pub struct Output {
    show: Show,
    file: Option<File>,
}

impl Output {
    /// Shows arrivals on standard output, and appends them to a file as NDJSON if one is named.
    pub fn new(show: Show, file: Option<&Path>) -> anyhow::Result<Self> {
        let open = |path: &Path| {
            let opened = OpenOptions::new().create(true).append(true).open(path);
            opened.with_context(|| format!("{} cannot be written", path.display()))
        };
        Ok(Self { show, file: file.map(open).transpose()? })
    }

    /// Changes how arrivals are shown.
    pub fn show(&mut self, show: Show) {
        self.show = show;
    }

    /// Writes one arrival, whole lines at a time.
    pub fn write(&mut self, arrival: &Arrival) -> io::Result<()> {
        let json = (self.file.is_some() || self.show == Show::Json).then(|| arrival.json());
        if let (Some(file), Some(json)) = (&mut self.file, &json) {
            file.write_all(format!("{json}\n").as_bytes())?;
        }
        let mut out = io::stdout().lock();
        match (self.show, &json) {
            (Show::Json, Some(json)) => writeln!(out, "{json}")?,
            (Show::Lines, _) => writeln!(out, "{}", arrival.line())?,
            (Show::Json | Show::Nothing, _) => return Ok(()),
        }
        out.flush()
    }
}
