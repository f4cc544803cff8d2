//! The moves' scripts: their text, and calling them.

use std::sync::LazyLock;

use redis::{Arg, Cmd, Pipeline, Value};
use sha1_smol::Sha1;

use crate::{
    error::StoreError,
    keys::{Keys, Tag, lua_names},
    link::{Line, Link, checked, is_noscript},
};

/// One script.
pub(crate) struct Script {
    text: String,
    sha: String,
}

impl Script {
    /// Puts the names, and what scripts of its kind begin with, behind the first line (`#!lua …`).
    fn new(source: &str, prelude: &str) -> Self {
        let (first, rest) = source.split_once('\n').unwrap_or((source, ""));
        let text = format!("{first}\n{}{prelude}{rest}", lua_names());
        let sha = Sha1::from(&text).digest().to_string();
        Self { text, sha }
    }
}

macro_rules! scripts {
    ($($name:ident: $file:literal, $prelude:expr;)*) => {
        $(pub(crate) static $name: LazyLock<Script> =
            LazyLock::new(|| Script::new(include_str!(concat!("lua/", $file, ".lua")), $prelude));)*
    };
}

const LANE: &str = include_str!("lua/lane.lua");
const HAND: &str = concat!(include_str!("lua/lane.lua"), include_str!("lua/hand.lua"));
const CONTROL: &str = include_str!("lua/control.lua");
const PARTITION: &str = include_str!("lua/partition.lua");

scripts! {
    ACCEPT: "accept", PARTITION;
    DELAY: "delay", PARTITION;
    DUE: "due", PARTITION;
    CANCEL: "cancel", PARTITION;
    AGAIN: "again", PARTITION;
    CLAIM: "claim", "";
    RELEASE: "release", "";
    ROUTED: "routed", "";
    TRIM: "trim", "";
    TALLY: "tally", "";
    ENQUEUE: "enqueue", LANE;
    TAKE: "take", HAND;
    PULL: "pull", HAND;
    OUTSTANDING: "outstanding", LANE;
    EXTEND: "extend", LANE;
    SETTLE: "settle", LANE;
    PROMOTE: "promote", LANE;
    SWEEP: "sweep", LANE;
    DISOWN: "disown", LANE;
    APPLY: "apply", LANE;
    LOCATE: "locate", LANE;
    REPLAY: "replay", LANE;
    PURGE: "purge", LANE;
    SUBSCRIBE: "subscribe", CONTROL;
    CHANNEL: "channel", CONTROL;
    HEARTBEAT: "heartbeat", "";
    JOB: "job", "";
    RESPOND: "respond", "";
    NOTIFY: "notify", "";
    HEALTH: "health", "";
    EVENT_TYPE: "event_type", "";
}

/// One call of a script on one tag.
pub(crate) struct Call {
    script: &'static Script,
    command: Cmd,
}

impl Call {
    pub(crate) fn new(script: &'static LazyLock<Script>, keys: &Keys, tag: Tag) -> Self {
        let script = &**script;
        let mut command = redis::cmd("EVALSHA");
        command.arg(&script.sha).arg(1).arg(keys.prefix(tag));
        Self { script, command }
    }

    /// Adds an argument.
    pub(crate) fn arg(&mut self, value: impl redis::ToRedisArgs) -> &mut Self {
        self.command.arg(value);
        self
    }

    /// The same call with the script's text, for a server that does not know it.
    fn with_text(&self) -> Cmd {
        let mut command = redis::cmd("EVAL");
        command.arg(&self.script.text);
        for arg in self.command.args_iter().skip(2) {
            if let Arg::Simple(bytes) = arg {
                command.arg(bytes);
            }
        }
        command
    }
}

/// Calls scripts in one write. Each succeeds or fails for itself; only a broken connection fails all.
/// Those that the server did not know are sent again with their text, in the same order.
pub(crate) async fn fly(link: &Link, calls: &[Call]) -> Result<Vec<Result<Value, StoreError>>, StoreError> {
    let line = link.line().await?;
    fly_on(link, &line, calls).await
}

/// The same on a connection that was asked for before.
pub(crate) async fn fly_on(
    link: &Link,
    line: &Line,
    calls: &[Call],
) -> Result<Vec<Result<Value, StoreError>>, StoreError> {
    if calls.is_empty() {
        return Ok(Vec::new());
    }
    let mut pipeline = Pipeline::with_capacity(calls.len());
    for call in calls {
        pipeline.add_command(call.command.clone());
    }
    let mut answers = link.pipeline_on(line, &pipeline).await?;
    let unknown: Vec<usize> = (0..answers.len()).filter(|at| is_noscript(&answers[*at])).collect();
    if !unknown.is_empty() {
        let mut again = Pipeline::with_capacity(unknown.len());
        for at in &unknown {
            again.add_command(calls[*at].with_text());
        }
        for (at, answer) in unknown.into_iter().zip(link.pipeline_on(line, &again).await?) {
            answers[at] = answer;
        }
    }
    Ok(answers.into_iter().map(checked).collect())
}

/// Calls one script.
pub(crate) async fn call(link: &Link, call: Call) -> Result<Value, StoreError> {
    fly(link, &[call]).await?.pop().unwrap_or(Ok(Value::Nil))
}
