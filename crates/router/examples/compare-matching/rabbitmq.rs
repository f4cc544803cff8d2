//! What a RabbitMQ says: `RABBITMQCTL`, by default `rabbitmqctl`, must reach one that may be filled with exchanges.

use std::{
    env,
    fmt::Write,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use postroad_model::{message::Message, subscription::Subscription};
use serde_json::{Map, Value};

use crate::{Answers, cases::Set};

const PROGRAM: &str = include_str!("route.erl");

/// Its answers, set by set. The files for it go into `SCRATCH`, by default the system's folder for such.
pub(crate) fn ask(sets: &[Set]) -> Result<Vec<Answers>> {
    let folder = env::var_os("SCRATCH").map_or_else(env::temp_dir, PathBuf::from);
    let path = |name: &str| folder.join(format!("compare-matching-{}-{name}", std::process::id()));
    let (cases, answers, program) = (path("cases"), path("answers"), path("route"));
    let mut terms = String::new();
    for set in sets {
        term(set, &mut terms);
    }
    fs::write(&cases, terms)?;
    let named = |path: &Path| format!("{:?}", path.display().to_string());
    fs::write(
        &program,
        PROGRAM
            .replace("(CASES)", &format!("({})", named(&cases)))
            .replace("(ANSWERS,", &format!("({},", named(&answers))),
    )?;
    let control = env::var_os("RABBITMQCTL").unwrap_or_else(|| "rabbitmqctl".into());
    let output = Command::new(&control)
        .arg("eval_file")
        .arg(&program)
        .output()
        .with_context(|| format!("cannot start {}", control.display()))?;
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "RabbitMQ did not answer: {said}");
    let text = fs::read_to_string(&answers).with_context(|| format!("RabbitMQ did not answer: {said}"))?;
    for path in [cases, answers, program] {
        fs::remove_file(path)?;
    }
    let mut lines = text.lines();
    sets.iter()
        .map(|set| {
            let row = |_| {
                let line = lines.next().context("an answer is missing")?;
                let mut row = vec![false; set.subscriptions.len()];
                for number in line.split_whitespace() {
                    row[number.parse::<usize>()?] = true;
                }
                Ok(row)
            };
            set.messages.iter().map(row).collect()
        })
        .collect()
}

fn term(set: &Set, out: &mut String) {
    let binding = |subscription: &std::sync::Arc<Subscription>| {
        let selector = &subscription.selector;
        let key = selector.routing_key.as_ref().map_or("", |key| key.as_str());
        let arguments = selector.header_match.as_ref().map(|wanted| table(wanted.source()));
        format!("{{{},{}}}", binary(key), arguments.unwrap_or_else(|| "[]".into()))
    };
    let message = |message: &Message| {
        let key = message.routing_key.as_ref().map_or("", |key| key.as_str());
        format!("{{{},{}}}", binary(key), table(&message.metadata.headers))
    };
    let bindings: Vec<String> = set.subscriptions.iter().map(binding).collect();
    let messages: Vec<String> = set.messages.iter().map(message).collect();
    let (name, exchange_type) = (binary(set.name), set.channel_type.as_str());
    let _ = writeln!(out, "{{{name},{exchange_type},[{}],[{}]}}.", bindings.join(","), messages.join(","));
}

/// An AMQP table, typed as RabbitMQ's own HTTP API types JSON.
fn table(members: &Map<String, Value>) -> String {
    let row = |(name, value): (&String, &Value)| {
        let (kind, value) = typed(value);
        format!("{{{},{kind},{value}}}", binary(name))
    };
    format!("[{}]", members.iter().map(row).collect::<Vec<_>>().join(","))
}

fn typed(value: &Value) -> (&'static str, String) {
    match value {
        Value::Null => ("void", "undefined".into()),
        Value::Bool(flag) => ("bool", flag.to_string()),
        Value::Number(number) => ("long", number.to_string()),
        Value::String(text) => ("longstr", binary(text)),
        Value::Array(items) => {
            let items: Vec<String> =
                items.iter().map(typed).map(|(kind, value)| format!("{{{kind},{value}}}")).collect();
            ("array", format!("[{}]", items.join(",")))
        }
        Value::Object(members) => ("table", table(members)),
    }
}

/// Text as the bytes that it is.
fn binary(text: &str) -> String {
    let bytes: Vec<String> = text.bytes().map(|byte| byte.to_string()).collect();
    format!("<<{}>>", bytes.join(","))
}
