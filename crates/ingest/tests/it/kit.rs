//! A Redis with instances of the API over it, and a client that sends whatever it is told to.

#![allow(unreachable_pub, reason = "all of it is for the tests beside it")]

use std::{
    collections::BTreeMap,
    fmt::Write,
    net::SocketAddr,
    sync::Mutex,
    time::{Duration, Instant},
};

use postroad_daemon::{
    process::{Context, Program},
    stop::Stop,
};
use postroad_ingest::config::Config;
use postroad_store::Store;
use postroad_testkit::{redis::PrivateRedis, wait::eventually};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// How long anything may take before a test gives up.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// One environment.
pub struct Town {
    pub redis: PrivateRedis,
    pub config: Config,
}

impl Town {
    pub async fn new() -> Self {
        Self::on(PrivateRedis::start().await.unwrap())
    }

    pub fn on(redis: PrivateRedis) -> Self {
        let mut config = Config::default();
        config.base.redis.url = redis.url();
        config.base.common.environment = "test".into();
        (config.base.layout.partitions, config.base.layout.lanes) = (4, 4);
        Self { redis, config }
    }

    /// One more instance, ready.
    pub async fn api(&self) -> Api {
        let api = self.launch().await;
        eventually(PATIENCE, "the API to be ready", async || {
            let answer = api.get("/readyz").await;
            if answer.status == 200 { Ok(()) } else { Err(answer.text()) }
        })
        .await
        .unwrap();
        api
    }

    /// One more instance.
    pub async fn launch(&self) -> Api {
        let program = Program { name: "postroad-ingest", version: "test" };
        let (stop, any) = (Stop::new(), ([127, 0, 0, 1], 0).into());
        let context = Context::listening(program, any, stop.clone(), Duration::from_secs(1)).await.unwrap();
        let address = context.listener.local_addr().unwrap();
        tokio::spawn(Box::pin(postroad_ingest::run(self.config.clone(), context)));
        Api { address, stop }
    }

    /// What lies in Redis.
    pub fn store(&self) -> Store {
        self.config.base.store().unwrap()
    }

    /// Everything in Redis but who is alive and what was counted: per key its type, what it holds and when it goes.
    /// Refusals are counted, too.
    pub async fn dump(&self) -> BTreeMap<String, String> {
        const ALL: &str = "
            local rows = {}
            for _, key in ipairs(redis.call('KEYS', '*')) do
              local counted = string.find(key, '}:figures:', 1, true) or string.find(key, '}:up:', 1, true)
              if key ~= 'test:{ctl}:members' and key ~= 'test:{ctl}:about' and not counted then
                rows[#rows + 1] = key
                rows[#rows + 1] = redis.call('TYPE', key).ok .. ' ' .. redis.sha1hex(redis.call('DUMP', key))
                  .. ' ' .. redis.call('PEXPIRETIME', key)
              end
            end
            return rows";
        let reply = self.redis.command(&["EVAL", ALL, "0"]).await.unwrap();
        let text = |at: usize| reply.items()[at].text().unwrap();
        (0..reply.items().len()).step_by(2).map(|at| (text(at), text(at + 1))).collect()
    }

    /// How many messages are stored.
    pub async fn stored(&self) -> usize {
        const COUNT: &str = "
            local count = 0
            for _, key in ipairs(redis.call('KEYS', '*}:ingress')) do count = count + redis.call('XLEN', key) end
            return count";
        let count = self.redis.command(&["EVAL", COUNT, "0"]).await.unwrap().int().unwrap();
        usize::try_from(count).unwrap()
    }

    /// Lets Redis take no more.
    pub async fn full(&self, is_full: bool) {
        let most = if is_full { "1" } else { "0" };
        self.redis.command(&["CONFIG", "SET", "maxmemory", most]).await.unwrap();
    }
}

/// An instance; stopped when dropped.
pub struct Api {
    address: SocketAddr,
    stop: Stop,
}

impl Drop for Api {
    fn drop(&mut self) {
        self.stop.request();
    }
}

/// What is sent. Nothing of it is checked.
#[derive(Clone)]
pub struct Ask {
    pub method: String,
    pub path: Vec<u8>,
    pub headers: Vec<(String, Vec<u8>)>,
    pub body: Vec<u8>,
}

pub fn ask(method: &str, path: impl AsRef<[u8]>) -> Ask {
    let (method, path) = (method.to_owned(), path.as_ref().to_vec());
    Ask { method, path, headers: Vec::new(), body: Vec::new() }
}

impl Ask {
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers.push((name.to_owned(), value.as_ref().to_vec()));
        self
    }

    pub fn body(mut self, body: impl AsRef<[u8]>) -> Self {
        self.body = body.as_ref().to_vec();
        self
    }

    pub fn json(self, body: impl AsRef<[u8]>) -> Self {
        self.header("content-type", "application/json").body(body)
    }

    fn bytes(&self, address: SocketAddr) -> Vec<u8> {
        let mut bytes = format!("{} ", self.method).into_bytes();
        bytes.extend(&self.path);
        let host = format!(" HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n");
        bytes.extend(if self.has("host") {
            &b" HTTP/1.1\r\nconnection: close\r\n"[..]
        } else {
            host.as_bytes()
        });
        for (name, value) in &self.headers {
            bytes.extend(format!("{name}: ").as_bytes());
            bytes.extend(value);
            bytes.extend(b"\r\n");
        }
        if !self.body.is_empty() && !self.has("content-length") && !self.has("transfer-encoding") {
            bytes.extend(format!("content-length: {}\r\n", self.body.len()).as_bytes());
        }
        bytes.extend(b"\r\n");
        bytes.extend(&self.body);
        bytes
    }

    fn has(&self, name: &str) -> bool {
        self.headers.iter().any(|(known, _)| known.eq_ignore_ascii_case(name))
    }
}

impl Api {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sends it and reads the answer, which may come before all is sent.
    pub async fn send(&self, ask: &Ask) -> Answer {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (mut from, mut to) = stream.into_split();
        let bytes = ask.bytes(self.address);
        let sending = async {
            // Whoever has refused does not read on.
            let _ = to.write_all(&bytes).await;
            to
        };
        let mut answer = Vec::new();
        let reading = async { tokio::time::timeout(PATIENCE, from.read_to_end(&mut answer)).await };
        let (read, _to) = tokio::join!(reading, sending);
        read.unwrap_or_else(|_| {
            panic!("no answer to {} {:?}", ask.method, String::from_utf8_lossy(&ask.path))
        })
        .unwrap_or_default();
        Answer::read(&answer)
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(&ask("GET", path)).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.send(&ask("POST", path).json(body.to_string())).await
    }

    pub async fn patch(&self, path: &str, body: Value) -> Answer {
        self.send(&ask("PATCH", path).json(body.to_string())).await
    }

    pub async fn put(&self, path: &str, body: Value) -> Answer {
        self.send(&ask("PUT", path).json(body.to_string())).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send(&ask("DELETE", path)).await
    }

    /// Publishes.
    pub async fn publish(&self, body: Value) -> Answer {
        self.post("/v1/messages", body).await
    }

    /// Subscribes: the answer to a request that names nothing but what is given.
    pub async fn subscribe(&self, change: Value) -> Value {
        let mut request = subscription();
        for (name, value) in change.as_object().unwrap() {
            request[name] = value.clone();
        }
        self.post("/v1/subscriptions", request).await.expect(201)
    }
}

/// The least that a subscription is asked for with, but for its channel.
pub fn subscription() -> Value {
    json!({ "service_name": "billing", "callback_url": "https://billing.example.com/hooks" })
}

/// The path of a subscription.
pub fn path_of(subscription: &Value) -> String {
    format!("/v1/subscriptions/{}", subscription["subscription_id"].as_str().unwrap())
}

/// What was answered.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    fn read(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or(bytes.len());
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).unwrap_or(0);
        let headers = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        Self { status, headers, body: bytes.get(end + 4..).unwrap_or_default().to_vec() }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        format!("{} {}", self.status, String::from_utf8_lossy(&self.body))
    }

    /// The body, which must be JSON and say so.
    pub fn json(&self) -> Value {
        assert_eq!(self.header("content-type"), Some("application/json"), "{}", self.text());
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// The body, if the status is this.
    #[track_caller]
    pub fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        self.json()
    }

    /// The body of a refusal, if it is one, and what is wrong with it otherwise.
    pub fn refusal(&self) -> Result<Value, String> {
        if self.header("content-type") != Some("application/json") {
            return Err("it is not JSON".into());
        }
        let body: Value = serde_json::from_slice(&self.body).map_err(|error| error.to_string())?;
        let names: Vec<&String> = body.as_object().ok_or("it is no object")?.keys().collect();
        if names != ["details", "error", "error_code", "request_id", "timestamp"] {
            return Err(format!("it has {names:?}"));
        }
        let text = |name: &str| body[name].as_str().unwrap_or_default();
        let is_code =
            |code: &str| !code.is_empty() && code.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        let checks = [
            (!text("error").is_empty() && text("error").len() < 1_100, "error"),
            (is_code(text("error_code")), "error_code"),
            (text("request_id").starts_with("req_"), "request_id"),
            (is_time(&body["timestamp"]), "timestamp"),
            (body["details"].is_object(), "details"),
        ];
        match checks.iter().find(|(holds, _)| !holds) {
            Some((_, name)) => Err(format!("its {name} is wrong")),
            None => Ok(body),
        }
    }
}

/// Whether it is RFC 3339 in UTC.
pub fn is_time(value: &Value) -> bool {
    let text = value.as_str().unwrap_or_default();
    text.ends_with('Z') && postroad_model::time::Time::parse(text).is_ok()
}

/// Takes members out of an object: what cannot be known before.
#[track_caller]
pub fn take<const N: usize>(object: &mut Value, names: [&str; N]) -> [Value; N] {
    let members = object.as_object_mut().unwrap();
    names.map(|name| members.remove(name).unwrap_or_else(|| panic!("there is no {name} in {members:?}")))
}

/// What a refusal must be.
#[derive(Clone, Copy)]
pub struct Refused {
    pub status: u16,
    pub code: &'static str,
    /// What `details.field` says; nothing where no field is at fault.
    pub field: &'static str,
    /// What the sentence for people has in it.
    pub says: &'static str,
}

pub const fn refused(status: u16, code: &'static str, field: &'static str, says: &'static str) -> Refused {
    Refused { status, code, field, says }
}

/// 422 for a field.
pub const fn field(field: &'static str, says: &'static str) -> Refused {
    refused(422, "invalid_field", field, says)
}

/// 400 for what is no JSON.
pub const fn no_json(says: &'static str) -> Refused {
    refused(400, "invalid_json", "body", says)
}

/// Refusals one after the other, each of which leaves Redis as it was. All that are wrong are told at the end.
pub struct Refusals<'a> {
    town: &'a Town,
    api: &'a Api,
    state: Mutex<State>,
}

struct State {
    count: usize,
    problems: String,
    dump: BTreeMap<String, String>,
}

impl<'a> Refusals<'a> {
    pub async fn of(town: &'a Town, api: &'a Api) -> Self {
        let state = State { count: 0, problems: String::new(), dump: town.dump().await };
        Self { town, api, state: Mutex::new(state) }
    }

    pub async fn send(&self, ask: &Ask) -> Answer {
        self.api.send(ask).await
    }

    pub async fn check(&self, case: &str, ask: &Ask, expected: Refused) {
        let answer = self.api.send(ask).await;
        self.note(case, &answer, judge(&answer, expected)).await;
    }

    /// The same for an answer whose verdict is the caller's. What Redis holds is compared here.
    pub async fn note(&self, case: &str, answer: &Answer, verdict: Result<(), String>) {
        let dump = self.town.dump().await;
        let mut state = self.state.lock().unwrap();
        state.count += 1;
        if let Err(problem) = verdict {
            let text: String = answer.text().chars().take(400).collect();
            writeln!(state.problems, "{case}: {problem}: {text}").unwrap();
        }
        if dump != state.dump {
            let changed: Vec<&String> = dump
                .keys()
                .chain(state.dump.keys())
                .filter(|key| dump.get(*key) != state.dump.get(*key))
                .collect();
            let line = format!("{case}: it was answered {} and stored in {changed:?}", answer.status);
            writeln!(state.problems, "{line}").unwrap();
            state.dump = dump;
        }
    }

    pub fn end(self) {
        let State { count, problems, .. } = self.state.into_inner().unwrap();
        assert!(problems.is_empty(), "of {count} cases:\n{problems}");
        println!("{count} refusals");
    }
}

/// What is wrong with a refusal.
pub fn judge(answer: &Answer, expected: Refused) -> Result<(), String> {
    let Refused { status, code, field, says } = expected;
    if answer.status != status {
        return Err(format!("not a {status}"));
    }
    let body = answer.refusal()?;
    let named = body["details"]["field"].as_str().unwrap_or_default();
    if body["error_code"] != code {
        Err(format!("not {code}"))
    } else if named != field {
        Err(format!("names {named:?}, not {field:?}"))
    } else if !body["error"].as_str().unwrap().contains(says) {
        Err(format!("does not say {says:?}"))
    } else {
        Ok(())
    }
}

/// How long something took.
pub async fn timed<T>(what: impl Future<Output = T>) -> (T, Duration) {
    let start = Instant::now();
    let result = what.await;
    (result, start.elapsed())
}
