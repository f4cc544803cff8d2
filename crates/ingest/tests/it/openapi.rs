//! The description holds: it is whole, it says of every route what it does, and what is answered is what it says.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::{
    kit::{Answer, Api, Town, ask, path_of},
    road::Road,
};

const METHODS: [&str; 7] = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"];

struct Description(Value);

impl Description {
    async fn of(api: &Api) -> Self {
        let answer = api.get("/openapi.json").await;
        assert_eq!(answer.header("content-type"), Some("application/json"));
        Self(answer.expect(200))
    }

    /// Method, path and operation of everything that can be called.
    fn operations(&self) -> Vec<(String, &str, &Value)> {
        let paths = self.0["paths"].as_object().unwrap();
        let of_path = |(path, item): (&'_ String, &'_ Value)| {
            let operations = item.as_object().unwrap().iter();
            operations.map(|(method, _)| (method.to_uppercase(), path.clone())).collect::<Vec<_>>()
        };
        let names: Vec<(String, String)> = paths.iter().flat_map(of_path).collect();
        names
            .into_iter()
            .map(|(method, path)| {
                let (path, item) = paths.get_key_value(&path).unwrap();
                let operation = &item[method.to_lowercase()];
                (method, path.as_str(), operation)
            })
            .collect()
    }

    fn operation(&self, method: &str, path: &str) -> &Value {
        &self.0["paths"][path][method.to_lowercase()]
    }

    /// What is wrong with a value, by a schema of this document.
    fn judge(&self, schema: &Value, value: &Value) -> Vec<String> {
        self.judge_with(schema, value, json!({}))
    }

    /// The same of an answer, which is described to the last member.
    fn judge_answer(&self, schema: &Value, value: &Value) -> Vec<String> {
        self.judge_with(schema, value, json!({ "unevaluatedProperties": false }))
    }

    fn judge_with(&self, schema: &Value, value: &Value, mut root: Value) -> Vec<String> {
        root["components"] = self.0["components"].clone();
        root["allOf"] = json!([schema]);
        let validator =
            jsonschema::draft202012::options().should_validate_formats(true).build(&root).unwrap();
        validator.iter_errors(value).map(|error| format!("{}: {error}", error.instance_path())).collect()
    }

    fn resolved(&self, schema: &Value) -> Value {
        match schema["$ref"].as_str() {
            Some(reference) => self.0.pointer(&reference[1..]).unwrap().clone(),
            None => schema.clone(),
        }
    }

    /// The schema of an answer, if its status is described.
    fn answered(&self, method: &str, path: &str, status: u16) -> Option<&Value> {
        let response = self.operation(method, path)["responses"].get(status.to_string())?;
        Some(&response["content"]["application/json"]["schema"])
    }
}

fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(members) => {
            if let Some(Value::String(reference)) = members.get("$ref") {
                found.push(reference);
            }
            members.values().for_each(|member| references(member, found));
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

#[tokio::test]
async fn the_description_is_whole() {
    let town = Town::new().await;
    let api = town.api().await;
    let description = Description::of(&api).await;
    let document = &description.0;
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1."));
    for name in ["title", "version", "description"] {
        assert!(document["info"][name].as_str().is_some_and(|text| !text.is_empty()), "info.{name}");
    }
    let mut found = Vec::new();
    references(document, &mut found);
    assert!(found.len() > 100, "{}", found.len());
    for reference in found {
        assert!(document.pointer(&reference[1..]).is_some(), "{reference} leads nowhere");
    }
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        let checked = jsonschema::meta::validate(schema);
        assert!(checked.is_ok(), "{name}: {checked:?}");
    }
    let tags: Vec<&Value> = document["tags"].as_array().unwrap().iter().map(|tag| &tag["name"]).collect();
    let mut ids = BTreeSet::new();
    for (method, path, operation) in description.operations() {
        let name = format!("{method} {path}");
        let id = operation["operationId"].as_str().unwrap_or_else(|| panic!("{name} has no operationId"));
        assert!(ids.insert(id.to_owned()), "{name}: {id} is there twice");
        assert!(operation["summary"].as_str().is_some_and(|text| text.ends_with('.')), "{name}: summary");
        assert!(tags.contains(&&operation["tags"][0]), "{name}: tag");
        let has =
            |class: char| operation["responses"].as_object().unwrap().keys().any(|s| s.starts_with(class));
        assert!(has('2') && has('4'), "{name} answers nothing, or refuses nothing");
        let in_path: BTreeSet<&str> =
            path.split('{').skip(1).map(|rest| rest.split('}').next().unwrap()).collect();
        let parameters = operation["parameters"].as_array().map(Vec::as_slice).unwrap_or_default();
        let described = parameters.iter().filter(|parameter| parameter["in"] == "path");
        let described: BTreeSet<&str> =
            described.map(|parameter| parameter["name"].as_str().unwrap()).collect();
        assert_eq!(in_path, described, "{name}");
        for (kind, content) in operation["requestBody"]["content"].as_object().into_iter().flatten() {
            let schema = &content["schema"];
            let item = if schema["type"] == "array" { &schema["items"] } else { schema };
            let example =
                content.get("example").cloned().or(description.resolved(item).get("example").cloned());
            if kind.ends_with("json") {
                let example = example.unwrap_or_else(|| panic!("{name}: {kind} has no example"));
                assert_eq!(description.judge(item, &example), Vec::<String>::new(), "{name}: {kind}");
            }
        }
    }
    assert!(ids.len() >= 55, "{} calls are described", ids.len());
}

/// A path with something in its places.
fn filled(path: &str) -> String {
    path.replace("{id}", "nobody")
        .replace("{message_id}", "nobody")
        .replace("{name}", "n")
        .replace("{type}", "t")
        .replace("{queue_name}", "q")
}

#[tokio::test]
async fn every_route_does_what_is_described_and_nothing_else() {
    let town = Town::new().await;
    let api = town.api().await;
    let description = Description::of(&api).await;
    let mut by_path: std::collections::BTreeMap<&str, BTreeSet<String>> = Default::default();
    for (method, path, _) in description.operations() {
        by_path.entry(path).or_default().insert(method);
    }
    for (path, described) in by_path {
        let mut allowed = described.clone();
        if described.contains("GET") {
            allowed.insert("HEAD".into());
        }
        for method in METHODS {
            let answer = api.send(&ask(method, filled(path))).await;
            if described.contains(method) {
                let is_described =
                    description.operation(method, path)["responses"].get(answer.status.to_string());
                assert!(is_described.is_some(), "{method} {path} answered {}", answer.status);
            } else {
                assert_eq!(answer.status, 405, "{method} {path}");
                let allow = answer.header("allow").unwrap_or_default();
                assert_eq!(allow.split(',').map(str::to_owned).collect::<BTreeSet<_>>(), allowed, "{path}");
            }
        }
    }
}

struct Checked<'a> {
    api: &'a Api,
    description: Description,
}

impl Checked<'_> {
    /// Makes a call, and compares its answer with the description.
    async fn call(
        &self,
        method: &str,
        template: &str,
        path: &str,
        body: Option<Value>,
        status: u16,
    ) -> Value {
        let asked = match body {
            Some(body) => ask(method, path).json(body.to_string()),
            None => ask(method, path),
        };
        let answer: Answer = self.api.send(&asked).await;
        let value = answer.expect(status);
        let name = format!("{method} {path}: {status}");
        let schema = self.description.answered(method, template, status);
        let schema = schema.unwrap_or_else(|| panic!("{name} is not described"));
        let wrong = self.description.judge_answer(schema, &value);
        assert!(wrong.is_empty(), "{name} is not as described: {wrong:#?}\n{value:#}");
        value
    }

    async fn get(&self, template: &str, path: &str) -> Value {
        self.call("GET", template, path, None, 200).await
    }

    async fn post(&self, path: &str, body: Value, status: u16) -> Value {
        self.call("POST", path, path, Some(body), status).await
    }
}

#[tokio::test]
async fn answers_are_as_described() {
    let town = Road::town().await;
    let api = town.api().await;
    let checked = Checked { api: &api, description: Description::of(&api).await };
    let mut road = Road::of(&town);

    let subscribed = checked
        .post(
            "/v1/subscriptions",
            json!({
                "service_name": "billing", "channel": "orders", "filter_criteria": { "n": [1] },
                "header_match": { "x-match": "any", "a": 1 }, "dead_letter_queue": "dead",
            }),
            201,
        )
        .await;
    let subscription = path_of(&subscribed);
    let message = json!({
        "channel": "orders", "payload": { "n": 1 }, "routing_key": "r", "ordering_key": "o",
        "metadata": { "message_id": "m", "reply_to": "r", "ttl": 60, "headers": { "a": 1 } },
    });
    checked.post("/v1/messages", message.clone(), 202).await;
    checked.post("/v1/messages", message.clone(), 200).await;
    let later = json!({ "channel": "orders", "payload": "p", "delay_seconds": 60, "metadata": { "message_id": "l" } });
    checked.post("/v1/messages", later, 202).await;
    checked.post("/v1/messages/bulk", json!({ "messages": [message, {}] }), 207).await;
    road.route(&[&subscribed]).await;

    let template = "/v1/subscriptions/{id}";
    checked.get(template, &subscription).await;
    checked.get("/v1/subscriptions", "/v1/subscriptions?limit=1").await;
    checked.call("PATCH", template, &subscription, Some(json!({ "rate_limit": 7 })), 200).await;
    for verb in ["pause", "resume", "rotate-secret"] {
        let (template, path) = (format!("{template}/{verb}"), format!("{subscription}/{verb}"));
        checked.call("POST", &template, &path, None, 200).await;
    }
    let pull = format!("{subscription}/pull");
    let pulled = checked.call("POST", &format!("{template}/pull"), &pull, Some(json!({})), 200).await;
    assert_eq!(pulled["deliveries"][0]["message_id"], "m");
    let shapes = &checked.description;
    let delivery = json!({ "$ref": "#/components/schemas/MessageDelivery" });
    assert_eq!(shapes.judge_answer(&delivery, &pulled["deliveries"][0]), Vec::<String>::new());
    let acknowledge = json!({ "acknowledge": ["m", "nobody"] });
    let path = format!("{subscription}/ack");
    checked.call("POST", &format!("{template}/ack"), &path, Some(acknowledge), 207).await;
    let again = json!({ "success": true });
    checked.call("POST", "/v1/messages/{id}/ack", "/v1/messages/m/ack", Some(again), 200).await;

    checked.get("/v1/messages/{id}", "/v1/messages/m").await;
    checked.get("/v1/messages/{id}/deliveries", "/v1/messages/m/deliveries").await;
    checked.call("DELETE", "/v1/messages/{id}", "/v1/messages/l", None, 200).await;
    checked.get("/v1/messages/{id}", "/v1/messages/l").await;
    let job = checked.call("POST", "/v1/messages/{id}/replay", "/v1/messages/m/replay", None, 202).await;
    checked.get("/v1/replays/{id}", &format!("/v1/replays/{}", job["job_id"].as_str().unwrap())).await;
    checked.post("/v1/explain", json!({ "channel": "orders", "payload": "p" }), 200).await;

    let configured = json!({ "type": "direct", "arguments": { "x-max-length": 5, "note": [1] } });
    checked.call("PUT", "/v1/channels/{name}", "/v1/channels/orders", Some(configured), 201).await;
    checked.get("/v1/channels", "/v1/channels").await;
    checked.get("/v1/channels/{name}", "/v1/channels/orders").await;
    checked.get("/v1/channels/{name}/stats", "/v1/channels/orders/stats").await;
    checked.call("DELETE", "/v1/channels/{name}", "/v1/channels/orders", None, 200).await;
    checked.get("/v1/metrics", "/v1/metrics").await;
    checked.get("/health", "/health").await;

    let typed = json!({ "category": "c", "description": "d", "schema": { "type": "object" } });
    checked.call("PUT", "/v1/event-types/{type}", "/v1/event-types/own.type", Some(typed), 201).await;
    checked.get("/v1/event-types", "/v1/event-types").await;
    checked.post("/v1/events", json!({ "event_type": "own.type" }), 202).await;
    let command = checked
        .post("/v1/commands", json!({ "command_type": "c", "reply_to": "r", "timeout": 60 }), 202)
        .await;
    let command = format!("/v1/commands/{}", command["command_id"].as_str().unwrap());
    checked.get("/v1/commands/{id}", &command).await;
    let answer = format!("{command}/response");
    checked.call("POST", "/v1/commands/{id}/response", &answer, Some(json!({ "payload": [1] })), 201).await;
    checked.get("/v1/commands/{id}", &command).await;
    checked
        .post("/v1/notifications", json!({ "notification_type": "info", "title": "t", "message": "m" }), 202)
        .await;
    checked.post("/v1/notifications/tickets", json!({ "user_id": 7 }), 201).await;
    checked.post("/v1/health-checks", json!({ "service_name": "auth", "status": "healthy" }), 202).await;
    checked.get("/v1/services", "/v1/services").await;

    checked
        .post("/message-queue/publish", json!({ "queue": "orders", "message": "p", "message_id": "q" }), 200)
        .await;
    checked.post("/message-queue/subscribe", json!({ "queue": "orders", "service_name": "s" }), 200).await;
    checked.get("/message-queue/messages/{message_id}", "/message-queue/messages/q").await;
    checked.get("/message-queue/queues/{queue_name}", "/message-queue/queues/orders").await;
    checked.get("/message-queue/metrics", "/message-queue/metrics?queue=orders").await;
    checked.get("/message-queue/health", "/message-queue/health").await;

    checked.post("/v1/messages", json!({ "channel": "a b", "payload": "p" }), 422).await;
    checked.call("GET", "/v1/messages/{id}", "/v1/messages/nobody", None, 404).await;
    checked.call("GET", "/v1/messages/{id}", "/v1/messages/%ff", None, 400).await;
    checked.post("/message-queue/publish", json!({ "queue": "a b", "message": "p" }), 400).await;
    let nobody = "/message-queue/messages/nobody";
    checked.call("GET", "/message-queue/messages/{message_id}", nobody, None, 404).await;
    let no_text = "/message-queue/messages/%ff";
    checked.call("GET", "/message-queue/messages/{message_id}", no_text, None, 400).await;
    checked.call("DELETE", template, &subscription, None, 200).await;
    let foreign = api.send(&ask("GET", "/health").header("host", "evil.example")).await.expect(403);
    let described = checked.description.answered("GET", "/health", 403).unwrap();
    assert_eq!(checked.description.judge_answer(described, &foreign), Vec::<String>::new());
}

#[tokio::test]
async fn the_page_is_whole_and_loads_nothing_from_elsewhere() {
    let town = Town::new().await;
    let api = town.api().await;
    let page = api.get("/docs").await;
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    assert!(page.header("content-security-policy").unwrap().starts_with("default-src 'self';"));
    let text = page.text();
    let parts: Vec<&str> = text.split('"').filter(|text| text.starts_with("/docs/")).collect();
    assert_eq!(parts.len(), 4, "{text}");
    assert!(!text.contains("//"), "{text}");
    for part in parts {
        let answer = api.get(part).await;
        let kind = answer.header("content-type").unwrap();
        let expected = ["text/javascript", "text/css", "image/png"];
        assert!(
            answer.status == 200 && expected.iter().any(|known| kind.starts_with(known)),
            "{part}: {kind}"
        );
    }
    assert_eq!(api.get("/docs/").await.text(), text);
    for unknown in ["/docs/nothing.js", "/docs/swagger-initializer.js", "/docs/..%2fCargo.toml"] {
        assert_eq!(api.get(unknown).await.status, 404, "{unknown}");
    }
    let foreign = ask("GET", "/docs").header("host", "evil.example");
    assert_eq!(api.send(&foreign).await.status, 403);
}
