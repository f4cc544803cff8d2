//! Connections to Redis: one shared for pipelines, one each for whoever blocks.
//!
//! A pipeline is one write and one wait; its commands fail singly. A connection that broke is thrown away
//! and the next call makes a new one, so that an outage costs every caller a quick refusal rather than a
//! place in a queue. Nothing is repeated here: whether an operation may be repeated is for its caller to
//! know.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use redis::{
    AsyncConnectionConfig, Client, Cmd, Pipeline, ServerError, Value,
    aio::{MultiplexedConnection, PubSubSink, PubSubStream},
};

use crate::error::StoreError;

/// How to reach Redis, and how long to wait for it.
#[derive(Debug, Clone)]
pub struct LinkConfig {
    /// `redis://[user:password@]host[:port][/db]`.
    pub url: String,
    /// How long making a connection may take.
    pub connect_timeout: Duration,
    /// How long an answer may take.
    pub response_timeout: Duration,
}

impl LinkConfig {
    /// The defaults: 2 s to connect, 5 s to answer.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            connect_timeout: Duration::from_secs(2),
            response_timeout: Duration::from_secs(5),
        }
    }
}

/// The shared connection.
pub(crate) struct Link {
    client: Client,
    config: LinkConfig,
    current: Mutex<Current>,
    /// Held while a connection is being made, so that an outage does not make a storm of them.
    making: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Current {
    generation: u64,
    line: Option<Line>,
}

/// One connection, and the server at its other end. It goes on leading there, whatever happens to the name
/// that led to it.
#[derive(Clone)]
pub(crate) struct Line {
    generation: u64,
    connection: MultiplexedConnection,
    run_id: Arc<str>,
}

impl Line {
    /// The `run_id` of the server.
    pub(crate) fn run_id(&self) -> &str {
        &self.run_id
    }
}

impl Link {
    /// Checks the URL. Connects only when first used.
    pub(crate) fn new(config: LinkConfig) -> Result<Self, StoreError> {
        let client = Client::open(config.url.as_str())
            .map_err(|error| StoreError::Unsuitable(format!("redis.url cannot be used: {error}")))?;
        Ok(Self { client, config, current: Mutex::default(), making: tokio::sync::Mutex::default() })
    }

    fn current(&self) -> (u64, Option<Line>) {
        let current = self.current.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        (current.generation, current.line.clone())
    }

    fn give_up(&self, generation: u64) {
        let mut current = self.current.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if current.generation == generation {
            *current = Current { generation: generation + 1, line: None };
        }
    }

    /// The shared connection, made anew where it broke.
    pub(crate) async fn line(&self) -> Result<Line, StoreError> {
        if let (_, Some(line)) = self.current() {
            return Ok(line);
        }
        let _making = self.making.lock().await;
        let (generation, line) = self.current();
        if let Some(line) = line {
            return Ok(line);
        }
        let mut connection = self.open(Some(self.config.response_timeout)).await?;
        let mut ask = redis::cmd("INFO");
        ask.arg("server");
        let info = connection.send_packed_command(&ask).await.map_err(|error| away(&error))?;
        let info = crate::reply::text(checked(info)?)?;
        let run_id =
            info.lines().find_map(|line| line.strip_prefix("run_id:")).unwrap_or("unknown").trim().into();
        let line = Line { generation: generation + 1, connection, run_id };
        let mut current = self.current.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *current = Current { generation: generation + 1, line: Some(line.clone()) };
        Ok(line)
    }

    async fn open(&self, response_timeout: Option<Duration>) -> Result<MultiplexedConnection, StoreError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.config.connect_timeout))
            .set_response_timeout(response_timeout);
        self.client.get_multiplexed_async_connection_with_config(&config).await.map_err(|error| away(&error))
    }

    /// Sends commands in one write and reads as many answers.
    pub(crate) async fn pipeline(&self, pipeline: &Pipeline) -> Result<Vec<Value>, StoreError> {
        if pipeline.is_empty() {
            return Ok(Vec::new());
        }
        let line = self.line().await?;
        self.pipeline_on(&line, pipeline).await
    }

    /// The same on a connection that was asked for before.
    pub(crate) async fn pipeline_on(
        &self,
        line: &Line,
        pipeline: &Pipeline,
    ) -> Result<Vec<Value>, StoreError> {
        let answers = match line.connection.clone().send_packed_commands(pipeline, 0, pipeline.len()).await {
            Ok(answers) => answers,
            Err(error) => {
                self.give_up(line.generation);
                return Err(away(&error));
            }
        };
        // A server that was demoted goes on talking; the address may lead elsewhere by now.
        if answers
            .iter()
            .any(|answer| matches!(answer, Value::ServerError(error) if error.code() == "READONLY"))
        {
            self.give_up(line.generation);
        }
        Ok(answers)
    }

    /// Sends one command.
    pub(crate) async fn command(&self, command: &Cmd) -> Result<Value, StoreError> {
        let mut pipeline = Pipeline::with_capacity(1);
        pipeline.add_command(command.clone());
        let answer = self.pipeline(&pipeline).await?.pop().unwrap_or(Value::Nil);
        checked(answer)
    }

    /// A connection of one's own, for commands that block. It has no response timeout: `block` bounds the
    /// wait, plus a margin after which the connection is given up.
    pub(crate) async fn blocking(&self) -> Result<Blocking, StoreError> {
        Ok(Blocking { connection: self.open(None).await? })
    }

    /// A connection of one's own for Pub/Sub: where to ask, and where to listen.
    pub(crate) async fn pubsub(&self) -> Result<(PubSubSink, PubSubStream), StoreError> {
        let limit = self.config.connect_timeout;
        match tokio::time::timeout(limit, self.client.get_async_pubsub()).await {
            Ok(Ok(connection)) => Ok(connection.split()),
            Ok(Err(error)) => Err(away(&error)),
            Err(_) => Err(StoreError::Unavailable(format!("no connection within {} ms", limit.as_millis()))),
        }
    }

    /// How long making a connection may take.
    pub(crate) fn connect_timeout(&self) -> Duration {
        self.config.connect_timeout
    }

    /// How long an answer may take.
    pub(crate) fn response_timeout(&self) -> Duration {
        self.config.response_timeout
    }
}

/// A connection for commands that block.
pub(crate) struct Blocking {
    connection: MultiplexedConnection,
}

impl Blocking {
    /// Sends one command that may block for `block`. After an error the connection must be dropped.
    pub(crate) async fn command(&mut self, command: &Cmd, block: Duration) -> Result<Value, StoreError> {
        let limit = block + Duration::from_secs(5);
        match tokio::time::timeout(limit, self.connection.send_packed_command(command)).await {
            Ok(Ok(answer)) => checked(answer),
            Ok(Err(error)) => Err(away(&error)),
            Err(_) => Err(StoreError::Unavailable(format!("no answer within {} s", limit.as_secs()))),
        }
    }
}

fn away(error: &redis::RedisError) -> StoreError {
    StoreError::Unavailable(error.to_string())
}

/// An answer, or the error that it is.
pub(crate) fn checked(answer: Value) -> Result<Value, StoreError> {
    match answer {
        Value::ServerError(error) => Err(classified(&error)),
        other => Ok(other),
    }
}

/// Sorts what a server says into "away", "full" and "no".
pub(crate) fn classified(error: &ServerError) -> StoreError {
    let text = match error.details() {
        Some(details) => format!("{} {details}", error.code()),
        None => error.code().to_owned(),
    };
    match error.code() {
        "OOM" => StoreError::Full(text),
        "LOADING" | "CLUSTERDOWN" | "MASTERDOWN" | "TRYAGAIN" | "NOREPLICAS" | "READONLY" | "BUSY"
        | "MISCONF" | "MOVED" | "ASK" | "UNBLOCKED" => StoreError::Unavailable(text),
        _ => StoreError::Refused(text),
    }
}

/// Whether the server does not know a script.
pub(crate) fn is_noscript(answer: &Value) -> bool {
    matches!(answer, Value::ServerError(error) if error.code() == "NOSCRIPT")
}
