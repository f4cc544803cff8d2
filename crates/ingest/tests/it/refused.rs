//! What no call takes: paths, methods, ids and queries that there are not, and bodies that are no JSON.

use serde_json::{Value, json};

use crate::kit::{Ask, Refusals, Refused, Town, ask, field, judge, no_json, path_of, refused};

const MIB: usize = 1 << 20;

/// What can be wrong with any JSON body, given one that is right.
pub(super) fn bodies(ask: &Ask, right: &Value) -> Vec<(String, Ask, Refused)> {
    let text = right.to_string();
    let (name, value) = right.as_object().unwrap().iter().next().unwrap();
    let name: &'static str = name.clone().leak();
    let more = |member: &str| format!("{},{member}}}", &text[..text.len() - 1]);
    let twice = more(&format!("{name:?}:{value}"));
    let nested = |open: &str, close: &str| format!("{}{}", open.repeat(10_000), close.repeat(10_000));
    let array = field("body", "JSON array");
    let type_of = |said: &'static str| field("body", said);
    let mut bodies: Vec<(&str, Vec<u8>, Refused)> = vec![
        ("empty", "".into(), no_json("empty")),
        ("spaces", " \r\n\t".into(), no_json("no JSON")),
        ("words", "not json".into(), no_json("no JSON")),
        ("a form", "channel=a&payload=b".into(), no_json("no JSON")),
        ("xml", "<a/>".into(), no_json("no JSON")),
        ("half", text[..text.len() - 1].into(), no_json("no JSON")),
        ("more behind", format!("{text} x").into(), no_json("goes on")),
        ("two", format!("{text}{text}").into(), no_json("goes on")),
        ("single quotes", text.replace('"', "'").into(), no_json("no JSON")),
        ("a trailing comma", more("").into(), no_json("no JSON")),
        ("a comment", format!("/* */ {text}").into(), no_json("no JSON")),
        ("a byte order mark", format!("\u{feff}{text}").into(), no_json("no JSON")),
        ("a zero byte", format!("{text}\u{0}").into(), no_json("goes on")),
        ("a zero byte inside", more("\"a\u{0}\":1").into(), no_json("no JSON")),
        ("utf-16", text.encode_utf16().flat_map(u16::to_le_bytes).collect(), no_json("no JSON")),
        ("not a number", more(r#""surprise":NaN"#).into(), EITHER),
        ("infinity", more(r#""surprise":-Infinity"#).into(), EITHER),
        ("an array", format!("[{text}]").into(), array),
        ("an empty array", "[]".into(), array),
        (
            "an array of members",
            json!(right.as_object().unwrap().values().collect::<Vec<_>>()).to_string().into(),
            array,
        ),
        ("a number", "7".into(), type_of("invalid type: integer")),
        ("a string", "\"text\"".into(), type_of("invalid type: string")),
        ("true", "true".into(), type_of("invalid type: boolean")),
        ("null", "null".into(), type_of("invalid type: null")),
        ("lists in lists", nested("[", "]").into(), no_json("64 deep")),
        ("lists that never end", "[".repeat(10_000).into(), no_json("64 deep")),
        (
            "objects in objects",
            format!("{}1{}", "{\"a\":".repeat(10_000), "}".repeat(10_000)).into(),
            no_json("64 deep"),
        ),
        ("nested in a field", more(&format!("{name:?}:{}", nested("[", "]"))).into(), no_json("64 deep")),
        (
            "nested in a new field",
            more(&format!("\"surprise\":{}", nested("[", "]"))).into(),
            no_json("64 deep"),
        ),
        ("a field that is not", more(r#""surprise":1"#).into(), field("surprise", "unknown field")),
        ("a null that is not", more(r#""surprise":null"#).into(), field("surprise", "unknown field")),
        ("an empty name", more(r#""":1"#).into(), field("", "unknown field")),
        ("a long name", more(&format!("\"{}\":1", "x".repeat(50_000))).into(), field(LONG, "unknown field")),
        ("a field twice", twice.into(), field(name, "duplicate field")),
        ("a field twice, escaped", more(&escaped(name, value)).into(), field(name, "duplicate field")),
        ("10 MiB", more(&format!("\"surprise\":\"{}\"", "x".repeat(10 * MIB))).into(), large()),
        ("10 MiB of spaces", " ".repeat(10 * MIB).into(), large()),
    ];
    for (case, bytes) in
        [("a lone byte", &b"\xff"[..]), ("half a character", b"\xc3"), ("a surrogate", b"\xed\xa0\x80")]
    {
        let bytes = [&br#""surprise":""#[..], bytes, b"\""].concat();
        let body = [&text.as_bytes()[..text.len() - 1], b",", &bytes, b"}"].concat();
        bodies.push((case, body, EITHER));
    }
    let mut cases: Vec<(String, Ask, Refused)> = bodies
        .into_iter()
        .map(|(case, body, expected)| (case.to_owned(), ask.clone().json(body), expected))
        .collect();
    let in_name = [&text.as_bytes()[..text.len() - 1], b",\"\xff\":1}"].concat();
    cases.push(("a name that is no text".to_owned(), ask.clone().json(in_name), no_json("no JSON")));
    let chunk = format!("{:x}\r\n{}\r\n0\r\n\r\n", 10 * MIB, " ".repeat(10 * MIB));
    let chunked = ask.clone().header("transfer-encoding", "chunked").json(chunk);
    cases.push(("10 MiB in a chunk".to_owned(), chunked, large()));
    let media = refused(415, "unsupported_media_type", "Content-Type", "application/json");
    for content_type in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/jsonp",
        "json",
        "*/*",
        "",
        "text/json",
        "\u{e4}",
    ] {
        let ask = ask.clone().header("content-type", content_type).body(&text);
        cases.push((format!("content-type {content_type:?}"), ask, media));
    }
    let coding = refused(415, "unsupported_media_type", "Content-Encoding", "encoded");
    for name in ["gzip", "br", "identity, gzip"] {
        let ask = ask.clone().header("content-encoding", name).json(crate::channels::gzip(text.as_bytes()));
        cases.push((format!("content-encoding {name}"), ask, coding));
    }
    cases
}

/// Unknown, and no JSON in it: whichever is found first.
const EITHER: Refused = refused(0, "", "", "");

/// What a name of 50,000 letters is shown as.
const LONG: &str = "(long)";

fn large() -> Refused {
    refused(413, "body_too_large", "body", "is larger than")
}

fn escaped(name: &str, value: &Value) -> String {
    let escapes: String = name.chars().map(|c| format!("\\u{:04x}", u32::from(c))).collect();
    format!("\"{escapes}\":{value}")
}

/// The kinds of values that a field may take.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Text,
    Count,
    Number,
    Flag,
    Object,
    List,
}

/// Values of any other type for each field, as JSON that stands where the field's value belongs.
pub(super) fn wrong_types(
    fields: &[(&'static str, Kind, bool)],
) -> Vec<(&'static str, &'static str, Refused)> {
    const OBJECTS: &[&str] = &["{}", r#"{"a":1}"#];
    const LISTS: &[&str] = &["[]", "[1]", r#"["a"]"#, "[[]]"];
    const TEXTS: &[&str] = &[r#""""#, r#""a""#, r#""1""#];
    const FLAGS: &[&str] = &["true", "false"];
    const COUNTS: &[&str] = &["0", "7"];
    const OTHER_NUMBERS: &[&str] = &["1.5", "-0.5", "1e300", "-1e-300", "1e30", "3.0"];
    const HUGE: &[&str] = &["18446744073709551616", "-99999999999999999999", "4294967296000000000000"];
    let mut cases = Vec::new();
    for &(field_name, kind, is_required) in fields {
        let wrong: Vec<&[&'static str]> = match kind {
            Kind::Text => vec![OBJECTS, LISTS, FLAGS, COUNTS, OTHER_NUMBERS, HUGE],
            Kind::Count => vec![OBJECTS, LISTS, FLAGS, TEXTS, OTHER_NUMBERS, HUGE],
            Kind::Number => vec![OBJECTS, LISTS, FLAGS, TEXTS],
            Kind::Flag => vec![OBJECTS, LISTS, COUNTS, TEXTS, OTHER_NUMBERS, HUGE],
            Kind::Object => vec![LISTS, FLAGS, COUNTS, TEXTS, OTHER_NUMBERS, HUGE],
            Kind::List => vec![OBJECTS, FLAGS, COUNTS, TEXTS, OTHER_NUMBERS, HUGE],
        };
        for value in wrong.into_iter().flatten() {
            cases.push((field_name, *value, field(field_name, field_name)));
        }
        if is_required {
            cases.push((field_name, "null", field(field_name, field_name)));
        }
        cases.push((field_name, "1e400", no_json("out of range")));
        cases.push((field_name, "NaN", no_json("no JSON")));
        cases.push((field_name, "01", no_json("no JSON")));
    }
    cases
}

/// `right` with the JSON `value` at a dotted path.
pub(super) fn with(right: &Value, path: &str, value: &str) -> String {
    const HERE: &str = "@here@";
    let mut body = right.clone();
    let mut at = &mut body;
    for name in path.split('.') {
        if at[name].is_null() {
            at[name] = json!({});
        }
        at = &mut at[name];
    }
    *at = json!(HERE);
    body.to_string().replace(&format!("{HERE:?}"), value)
}

/// Runs what [`bodies`] gives.
pub(super) async fn check_bodies(refusals: &Refusals<'_>, call: &str, ask: &Ask, right: &Value) {
    for (case, ask, expected) in bodies(ask, right) {
        let case = format!("{call}: {case}");
        let answer = refusals.send(&ask).await;
        let verdict = if expected.status == EITHER.status {
            judge(&answer, no_json("no JSON")).or_else(|_| judge(&answer, field("surprise", "unknown field")))
        } else if expected.field == LONG {
            long_name(&answer)
        } else {
            judge(&answer, expected)
        };
        refusals.note(&case, &answer, verdict).await;
    }
}

fn long_name(answer: &crate::kit::Answer) -> Result<(), String> {
    let body = answer.refusal()?;
    let field = body["details"]["field"].as_str().unwrap_or_default();
    if answer.status == 422 && field.starts_with("xxx") && answer.body.len() < 2_000 {
        Ok(())
    } else {
        Err(format!("{} bytes that name {field:.20}", answer.body.len()))
    }
}

#[tokio::test]
async fn there_is_nothing_at_other_paths() {
    let town = Town::new().await;
    let api = town.api().await;
    let refusals = Refusals::of(&town, &api).await;
    let nothing = refused(404, "no_such_path", "", "there is nothing at /");
    for path in [
        "/",
        "//",
        "/v1",
        "/v1/",
        "/v2/messages",
        "/V1/messages",
        "/v1/message",
        "/v1/messages/",
        "//v1/messages",
        "/v1//messages",
        "/v1/messages/a/b",
        "/v1/messages/a/deliveries/",
        "/v1/channels/a/b/messages",
        "/v1/subscriptions/",
        "/v1/subscriptions/a/burn",
        "/v1/../v1/messages",
        "/v1/%6dessages",
        "/v1/messages%2Fbulk/x",
        "/%ff",
        "/%00",
        "/health/",
        "/healthz",
        "/metrics/x",
        "/.env",
        "/v1/messages;x=1",
    ] {
        for method in ["GET", "POST", "DELETE"] {
            let ask = ask(method, path).json(r#"{"channel":"a","payload":{}}"#);
            refusals.check(&format!("{method} {path}"), &ask, nothing).await;
        }
    }
    refusals.end();
}

#[tokio::test]
async fn paths_have_their_methods() {
    let town = Town::new().await;
    let api = town.api().await;
    let path = path_of(&api.subscribe(json!({ "channel": "a" })).await);
    api.publish(json!({ "channel": "a", "payload": {}, "metadata": { "message_id": "m" } }))
        .await
        .expect(202);
    let refusals = Refusals::of(&town, &api).await;
    let table = [
        ("/v1/messages", "POST"),
        ("/v1/messages/bulk", "POST"),
        ("/v1/messages/m", "GET,HEAD,DELETE"),
        ("/v1/messages/m/deliveries", "GET,HEAD"),
        ("/v1/channels/a/messages", "POST"),
        ("/v1/channels", "GET,HEAD"),
        ("/v1/channels/a", "GET,HEAD,PUT,DELETE"),
        ("/v1/explain", "POST"),
        ("/v1/subscriptions", "GET,HEAD,POST"),
        (&*path, "GET,HEAD,PATCH,DELETE"),
        (&*format!("{path}/pause"), "POST"),
        (&*format!("{path}/resume"), "POST"),
        (&*format!("{path}/replay"), "POST"),
        ("/v1/messages/m/replay", "POST"),
        ("/v1/replays/job_none", "GET,HEAD,DELETE"),
        ("/health", "GET,HEAD"),
        ("/livez", "GET,HEAD"),
        ("/readyz", "GET,HEAD"),
        ("/metrics", "GET,HEAD"),
    ];
    for (path, allowed) in table {
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "get"] {
            if allowed.split(',').any(|known| known == method) {
                continue;
            }
            let case = format!("{method} {path}");
            let answer = refusals.send(&ask(method, path).json(r#"{"channel":"a","payload":{}}"#)).await;
            let mut verdict = judge(&answer, refused(405, "method_not_allowed", "", method));
            let mut names: Vec<&str> = answer.header("allow").unwrap_or_default().split(',').collect();
            names.sort_unstable();
            let mut allowed: Vec<&str> = allowed.split(',').collect();
            allowed.sort_unstable();
            if verdict.is_ok() && names != allowed {
                verdict = Err(format!("allows {names:?}, not {allowed:?}"));
            }
            refusals.note(&case, &answer, verdict).await;
        }
    }
    refusals.end();
}

#[tokio::test]
async fn ids_that_are_none_are_nobodys() {
    let town = Town::new().await;
    let api = town.api().await;
    api.subscribe(json!({ "channel": "a" })).await;
    api.publish(json!({ "channel": "a", "payload": {}, "metadata": { "message_id": "m" } }))
        .await
        .expect(202);
    let refusals = Refusals::of(&town, &api).await;
    let (long, huge) = ("x".repeat(129), "x".repeat(20_000));
    let gone = refused(404, "not_found", "", "there is no ");
    let unread = refused(400, "invalid_path", "path", "UTF-8");
    let ids = [
        ("m2", gone),
        ("M", gone),
        (&*long, gone),
        (&*huge, gone),
        ("a.b", gone),
        ("a%2Fb", gone),
        ("..%2F..%2Fm", gone),
        ("m%2F", gone),
        ("%20", gone),
        ("m%20", gone),
        ("m+", gone),
        ("%00", gone),
        ("m%00", gone),
        ("m%0A", gone),
        ("%7Bp1%7D", gone),
        ("*", gone),
        ("%C3%A4", gone),
        ("%25", gone),
        ("%zz", gone),
        ("%", gone),
        ("%ff", unread),
        ("m%c3", unread),
        ("%ed%a0%80", unread),
    ];
    for (method, path) in [("GET", "/v1/messages//deliveries"), ("POST", "/v1/subscriptions//pause")] {
        refusals.check(path, &ask(method, path), gone).await;
    }
    for (id, expected) in ids {
        let calls = [
            ("GET", format!("/v1/messages/{id}"), ""),
            ("GET", format!("/v1/messages/{id}/deliveries"), ""),
            ("GET", format!("/v1/subscriptions/{id}"), ""),
            ("PATCH", format!("/v1/subscriptions/{id}"), "{}"),
            ("DELETE", format!("/v1/subscriptions/{id}"), ""),
            ("POST", format!("/v1/subscriptions/{id}/pause"), ""),
            ("POST", format!("/v1/subscriptions/{id}/resume"), ""),
        ];
        for (method, path, body) in calls {
            let case = format!("{method} {path:.80}");
            refusals.check(&case, &ask(method, path).json(body), expected).await;
        }
    }
    refusals.end();
}

#[tokio::test]
async fn what_is_no_http_is_refused_by_the_server() {
    let town = Town::new().await;
    let api = town.api().await;
    let refusals = Refusals::of(&town, &api).await;
    let body = r#"{"channel":"a","payload":{}}"#;
    let post = || ask("POST", "/v1/messages").json(body);
    let cases = [
        ("bytes in the path", ask("GET", b"/v1/messages/\xff"), 400),
        ("bytes in the query", ask("GET", b"/v1/subscriptions?service=\xff"), 400),
        ("a space in the path", ask("GET", "/v1/messages/a b"), 400),
        ("a method that is none", ask("P(ST", "/v1/messages").json(body), 400),
        ("two lengths", post().header("content-length", "28").header("content-length", "29"), 400),
        ("a length that is none", post().header("content-length", "-1"), 400),
        (
            "a length and chunks",
            post().header("content-length", "28").header("transfer-encoding", "chunked"),
            400,
        ),
        (
            "a chunk that is none",
            ask("POST", "/v1/messages").header("transfer-encoding", "chunked").json("zz\r\n"),
            400,
        ),
        ("a head of 40 KiB", post().header("x", "x".repeat(40 << 10)), 431),
    ];
    for (case, ask, status) in cases {
        let answer = refusals.send(&ask).await;
        let verdict = if answer.status == status { Ok(()) } else { Err(format!("not a {status}")) };
        refusals.note(case, &answer, verdict).await;
    }
    refusals.end();
}

#[tokio::test]
async fn only_this_machine_is_answered() {
    let town = Town::new().await;
    let api = town.api().await;
    let refusals = Refusals::of(&town, &api).await;
    let post = || ask("POST", "/v1/messages").json(r#"{"channel":"a","payload":{}}"#);
    for (name, value) in [
        ("host", "evil.example"),
        ("host", "127.0.0.1.evil.example"),
        ("host", ""),
        ("origin", "http://evil.example"),
        ("origin", "null"),
    ] {
        let answer = refusals.send(&post().header(name, value)).await;
        let verdict = match (answer.status, answer.json()["error_code"].as_str()) {
            (403, Some("foreign_host")) => Ok(()),
            _ => Err("not a 403".to_owned()),
        };
        refusals.note(&format!("{name}: {value}"), &answer, verdict).await;
    }
    refusals.end();
    api.send(&post().header("host", "localhost").header("origin", "http://localhost:3000")).await.expect(202);
}
