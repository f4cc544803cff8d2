//! `postroad publish`: a message, or a file of them.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufRead, BufReader, Read, Write},
    path::Path,
};

use anyhow::{Context as _, anyhow, bail};
use base64::{Engine, engine::general_purpose::STANDARD};
use clap::Args;
use serde_json::value::{RawValue, to_raw_value};

use crate::{
    api::{Api, ApiArgs, BULK_BYTES, BULK_MESSAGES, Message, Metadata},
    text::safe,
};

const EXAMPLES: &str = "\
Examples:
  postroad publish --channel orders --payload '{\"id\":1}'
  postroad publish --channel orders --routing-key order.created --payload @order.json --id order-1
      with an id, publishing again does no harm: the message is stored once
  echo hello | postroad publish --channel notes --payload -
  postroad publish --ndjson messages.ndjson
      one message a line, as {\"channel\":\"orders\",\"routing_key\":\"order.created\",\"payload\":{\"id\":1}};
      what a line leaves out, the flags fill in";

/// Publish a message, or a file of them.
///
/// A payload is a JSON object or a string. Other JSON and plain text is sent as a string, bytes that are no
/// text as base64. Prints the message's id; the exit code is 0 once everything is stored.
#[derive(Debug, Clone, Args)]
#[command(after_help = EXAMPLES)]
pub struct PublishArgs {
    /// The channel to publish to.
    #[arg(long, value_name = "NAME", required_unless_present = "ndjson")]
    pub channel: Option<String>,

    /// The payload: JSON or text, @FILE, or - for standard input.
    #[arg(long, value_name = "JSON|@FILE|-", required_unless_present = "ndjson", allow_hyphen_values = true)]
    pub payload: Option<String>,

    /// The routing key, which subscriptions may select by.
    #[arg(long, value_name = "KEY")]
    pub routing_key: Option<String>,

    /// The ordering key: messages of one channel and key keep their order.
    #[arg(long, value_name = "KEY")]
    pub ordering_key: Option<String>,

    /// The message's id; the same one again publishes nothing.
    #[arg(long, value_name = "ID")]
    pub id: Option<String>,

    /// low, normal, high or critical.
    #[arg(long, value_name = "PRIORITY")]
    pub priority: Option<String>,

    /// The service that publishes.
    #[arg(long, value_name = "NAME")]
    pub service: Option<String>,

    /// Publish the messages in this file, one JSON object a line; - for standard input.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["payload", "id"])]
    pub ndjson: Option<String>,

    /// Print the API's whole answer.
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    api: ApiArgs,
}

/// Runs `postroad publish`.
pub async fn run(args: PublishArgs) -> anyhow::Result<()> {
    let api = Api::new(&args.api.api)?;
    match &args.ndjson {
        Some(file) => publish_lines(&api, &args, file).await,
        None => publish_one(&api, &args).await,
    }
}

async fn publish_one(api: &Api, args: &PublishArgs) -> anyhow::Result<()> {
    let given = args.payload.as_deref().unwrap_or_default();
    let Payload { json, is_base64 } = Payload::read(given)?;
    let message = Message {
        channel: args.channel.as_deref().unwrap_or_default(),
        payload: &json,
        routing_key: args.routing_key.as_deref(),
        ordering_key: args.ordering_key.as_deref(),
        service_name: args.service.as_deref(),
        metadata: Metadata {
            message_id: args.id.as_deref(),
            priority: args.priority.as_deref(),
            content_encoding: is_base64.then_some("base64"),
        },
    };
    let answer = api.publish(&message).await?;
    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{answer}")?;
    } else {
        writeln!(out, "{}", answer["message_id"].as_str().unwrap_or_default())?;
        if answer["duplicate"] == true {
            eprintln!("it was there before; nothing was published");
        }
    }
    Ok(())
}

/// A payload as it stands in the request.
#[derive(Debug)]
struct Payload {
    json: Box<RawValue>,
    is_base64: bool,
}

impl Payload {
    /// From what `--payload` says.
    fn read(given: &str) -> anyhow::Result<Self> {
        match given.strip_prefix('@') {
            Some(file) => {
                let bytes = std::fs::read(file).with_context(|| format!("{file} cannot be read"))?;
                Self::of(&bytes).with_context(|| format!("the payload in {file}"))
            }
            None if given == "-" => {
                let mut bytes = Vec::new();
                io::stdin().lock().read_to_end(&mut bytes).context("standard input cannot be read")?;
                Self::of(&bytes).context("the payload on standard input")
            }
            None => Self::of(given.as_bytes()).context("--payload"),
        }
    }

    fn of(bytes: &[u8]) -> anyhow::Result<Self> {
        let Ok(text) = std::str::from_utf8(bytes) else {
            return Ok(Self { json: to_raw_value(&STANDARD.encode(bytes))?, is_base64: true });
        };
        let trimmed = text.trim();
        let json = if trimmed.starts_with(['{', '"']) {
            // Whoever begins like this means JSON.
            RawValue::from_string(trimmed.to_owned()).context("it begins like JSON, but is none")?
        } else {
            to_raw_value(trimmed)?
        };
        Ok(Self { json, is_base64: false })
    }
}

/// A line of the file, with what the flags fill in; the rest as it stands there.
type Line = BTreeMap<String, Box<RawValue>>;

/// Publishes a file, many lines at a time, and goes on after a line that is refused.
async fn publish_lines(api: &Api, args: &PublishArgs, file: &str) -> anyhow::Result<()> {
    let reader: Box<dyn BufRead> = if file == "-" {
        Box::new(BufReader::new(io::stdin()))
    } else {
        let opened = File::open(Path::new(file)).with_context(|| format!("{file} cannot be read"))?;
        Box::new(BufReader::new(opened))
    };
    let mut sum = Sum::default();
    let mut batch = Batch::default();
    for (index, line) in reader.lines().enumerate() {
        let number = index + 1;
        let line = line.with_context(|| format!("{file}, line {number}, cannot be read"))?;
        if line.trim().is_empty() {
            continue;
        }
        let message = filled(&line, args)
            .with_context(|| format!("{file}, line {number}; {} before it were published", sum.published))?;
        if !batch.lines.is_empty()
            && (batch.lines.len() == BULK_MESSAGES || batch.bytes + line.len() > BULK_BYTES)
        {
            std::mem::take(&mut batch).publish(api, file, &mut sum).await?;
        }
        batch.bytes += line.len();
        batch.lines.push(message);
        batch.numbers.push(number);
    }
    batch.publish(api, file, &mut sum).await?;
    let Sum { published, duplicates, failed } = sum;
    let again = if duplicates > 0 { format!(", {duplicates} of them before") } else { String::new() };
    writeln!(io::stdout().lock(), "{published} published{again}, {failed} refused")?;
    if failed > 0 { Err(anyhow!("{failed} messages were not published")) } else { Ok(()) }
}

#[derive(Debug, Default)]
struct Sum {
    published: usize,
    duplicates: usize,
    failed: usize,
}

/// Lines on their way.
#[derive(Debug, Default)]
struct Batch {
    lines: Vec<Line>,
    numbers: Vec<usize>,
    bytes: usize,
}

impl Batch {
    async fn publish(self, api: &Api, file: &str, sum: &mut Sum) -> anyhow::Result<()> {
        if self.lines.is_empty() {
            return Ok(());
        }
        let first = self.numbers.first().copied().unwrap_or(0);
        let results = api.publish_bulk(&self.lines).await.with_context(|| {
            format!("{file}, from line {first} on; {} before were published", sum.published)
        })?;
        for (number, result) in self.numbers.iter().zip(results) {
            if result.success {
                sum.published += 1;
                sum.duplicates += usize::from(result.duplicate);
            } else {
                sum.failed += 1;
                let why = result.error.unwrap_or_default();
                eprintln!("{file}, line {number}: {}", safe(&why));
            }
        }
        Ok(())
    }
}

fn filled(line: &str, args: &PublishArgs) -> anyhow::Result<Line> {
    let mut message: Line = serde_json::from_str(line).context("it is no JSON object")?;
    let flags = [
        ("channel", &args.channel),
        ("routing_key", &args.routing_key),
        ("ordering_key", &args.ordering_key),
        ("service_name", &args.service),
    ];
    for (name, value) in flags {
        if let (Some(value), false) = (value, message.contains_key(name)) {
            message.insert(name.to_owned(), to_raw_value(value)?);
        }
    }
    if let Some(priority) = &args.priority {
        let mut metadata: Line = match message.get("metadata") {
            Some(metadata) => {
                serde_json::from_str(metadata.get()).context("its metadata is no JSON object")?
            }
            None => Line::new(),
        };
        metadata.entry("priority".to_owned()).or_insert(to_raw_value(priority)?);
        message.insert("metadata".to_owned(), to_raw_value(&metadata)?);
    }
    if !message.contains_key("channel") {
        bail!("it has no \"channel\", and no --channel fills it in");
    }
    if !message.contains_key("payload") {
        bail!("it has no \"payload\"; a line is {{\"channel\":…,\"payload\":…}}");
    }
    Ok(message)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct CommandLine {
        #[command(flatten)]
        args: PublishArgs,
    }

    fn args(line: &[&str]) -> PublishArgs {
        CommandLine::parse_from([&["publish"], line].concat()).args
    }

    #[test]
    fn payloads_keep_their_bytes() {
        for (given, sent) in [
            (&br#" {"b": 1.50, "a":"\u00e9"} "#[..], r#"{"b": 1.50, "a":"\u00e9"}"#),
            (br#""text""#, r#""text""#),
            (b"hello\n", r#""hello""#),
            (b"17", r#""17""#),
            (b"[1]", r#""[1]""#),
            (b"", r#""""#),
        ] {
            let payload = Payload::of(given).unwrap();
            assert_eq!((payload.json.get(), payload.is_base64), (sent, false));
        }
        let bytes = Payload::of(&[0xff, 0]).unwrap();
        assert_eq!((bytes.json.get(), bytes.is_base64), (r#""/wA=""#, true));
        assert!(format!("{:#}", Payload::of(b"{\"a\":").unwrap_err()).contains("begins like JSON"));
        let error = Payload::read("@/nowhere.json").unwrap_err();
        assert!(format!("{error:#}").starts_with("/nowhere.json cannot be read"));
    }

    #[test]
    fn flags_fill_in_what_a_line_leaves_out() {
        let flags = args(&["--ndjson", "f", "--channel", "c", "--routing-key", "r", "--priority", "high"]);
        let text = |line: &str| serde_json::to_string(&filled(line, &flags).unwrap()).unwrap();
        assert_eq!(
            text(r#"{"payload":{"b": 1.50}}"#),
            r#"{"channel":"c","metadata":{"priority":"high"},"payload":{"b": 1.50},"routing_key":"r"}"#
        );
        assert_eq!(
            text(
                r#"{"channel":"own","routing_key":"k","payload":"x","metadata":{"priority":"low","ttl":1}}"#
            ),
            r#"{"channel":"own","metadata":{"priority":"low","ttl":1},"payload":"x","routing_key":"k"}"#
        );
        let bare = args(&["--ndjson", "f"]);
        for (line, why) in [
            ("[1]", "no JSON object"),
            (r#"{"payload":"x"}"#, "--channel"),
            (r#"{"channel":"c"}"#, "\"payload\""),
        ] {
            let error = format!("{:#}", filled(line, &bare).unwrap_err());
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn one_message_or_a_file() {
        for line in [&["publish"][..], &["publish", "--channel", "c"], &["publish", "--payload", "x"]] {
            assert!(CommandLine::try_parse_from(line).is_err(), "{line:?}");
        }
        for payload in ["-", "-5"] {
            assert_eq!(args(&["--channel", "c", "--payload", payload]).payload.as_deref(), Some(payload));
        }
        let both = ["publish", "--ndjson", "f", "--payload", "x"];
        assert!(CommandLine::try_parse_from(both).is_err());
    }
}
