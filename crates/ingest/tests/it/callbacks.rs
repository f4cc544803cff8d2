//! Where a callback may lead, and what it may carry.

use serde_json::{Value, json};

use crate::kit::{Refusals, Town, ask, field, path_of, subscription};

/// URLs that nothing may be sent to, and what is said of them.
const REFUSED: &[(&str, &str)] = &[
    // Addresses that are not public, however they are written.
    ("http://169.254.169.254/latest/meta-data/", "169.254.169.254"),
    ("http://127.0.0.1/", "127.0.0.1"),
    ("http://127.0.0.1:8080/", "127.0.0.1"),
    ("http://127.255.255.254/", "127.255.255.254"),
    ("http://127.1/", "127.0.0.1"),
    ("http://127.0.0.1./", "127.0.0.1"),
    ("http://2130706433/", "127.0.0.1"),
    ("http://0x7f000001/", "127.0.0.1"),
    ("http://0x7f.0.0.1/", "127.0.0.1"),
    ("http://0177.0.0.1/", "127.0.0.1"),
    ("http://017700000001/", "127.0.0.1"),
    ("http://%31%32%37.0.0.1/", "127.0.0.1"),
    ("http://①②⑦.0.0.1/", "127.0.0.1"),
    ("http://2852039166/", "169.254.169.254"),
    ("http://0/", "0.0.0.0"),
    ("http://0.0.0.0/", "0.0.0.0"),
    ("http://10.0.0.1/", "10.0.0.1"),
    ("http://172.16.0.1/", "172.16.0.1"),
    ("http://172.31.255.255/", "172.31.255.255"),
    ("http://192.168.1.1/", "192.168.1.1"),
    ("http://100.64.0.1/", "100.64.0.1"),
    ("http://100.100.100.200/", "100.100.100.200"),
    ("http://168.63.129.16/", "168.63.129.16"),
    ("http://198.18.0.1/", "198.18.0.1"),
    ("http://224.0.0.1/", "224.0.0.1"),
    ("http://255.255.255.255/", "255.255.255.255"),
    ("http://[::1]/", "::1"),
    ("http://[::]/", "::"),
    ("http://[0:0:0:0:0:0:0:1]/", "::1"),
    ("http://[::ffff:127.0.0.1]/", "::ffff:127.0.0.1"),
    ("http://[::ffff:7f00:1]/", "::ffff:127.0.0.1"),
    ("http://[::ffff:a9fe:a9fe]/", "::ffff:169.254.169.254"),
    ("http://[::ffff:8.8.8.8]/", "::ffff:8.8.8.8"),
    ("http://[::127.0.0.1]/", "::7f00:1"),
    ("http://[64:ff9b::7f00:1]/", "64:ff9b::7f00:1"),
    ("http://[2002:7f00:1::]/", "2002:7f00:1::"),
    ("http://[fc00::1]/", "fc00::1"),
    ("http://[fd00:ec2::254]/", "fd00:ec2::254"),
    ("http://[fe80::1]/", "fe80::1"),
    ("http://[ff02::1]/", "ff02::1"),
    ("http://[fe80::1%25eth0]/", "no URL"),
    // Names that always mean such an address.
    ("http://localhost/", "localhost"),
    ("http://LOCALHOST:80/", "localhost"),
    ("http://localhost./", "localhost"),
    ("http://a.localhost/", "a.localhost"),
    ("http://ⓛocalhost/", "localhost"),
    ("http://metadata.google.internal/", "metadata.google.internal"),
    ("http://Billing.INTERNAL./", "billing.internal"),
    ("http://internal/", "internal"),
    ("http://printer.local/", "printer.local"),
    ("http://nas.home.arpa/", "nas.home.arpa"),
    // Hidden behind something else.
    ("http://example.com@127.0.0.1/", "127.0.0.1"),
    ("http://user:password@127.0.0.1/", "127.0.0.1"),
    ("http://127.0.0.1#@example.com/", "127.0.0.1"),
    ("http://127.0.0.1?@example.com/", "127.0.0.1"),
    ("http://127.0.0.1\\@example.com/", "must be percent-encoded"),
    // Other schemes, and what is no URL.
    ("ftp://example.com/", "http:// or https://"),
    ("gopher://127.0.0.1:6379/_FLUSHALL", "http:// or https://"),
    ("file:///etc/passwd", "http:// or https://"),
    ("javascript:alert(1)", "http:// or https://"),
    ("ws://example.com/", "http:// or https://"),
    ("unix:/var/run/docker.sock", "http:// or https://"),
    ("//example.com/", "http:// or https://"),
    ("example.com/hooks", "http:// or https://"),
    ("http:example.com", "http:// or https://"),
    ("", "http:// or https://"),
    ("http://", "no URL"),
    ("http:///hooks", "empty"),
    ("http://:80/", "no URL"),
    ("http://a..b/", "empty"),
    ("http://example.com:0/", "port 0"),
    ("http://example.com:65536/", "no URL"),
    ("http://example.com:-1/", "no URL"),
    ("http://example.com:port/", "no URL"),
    ("http://exa mple.com/", "must be percent-encoded"),
    (" http://example.com/", "must be percent-encoded"),
    ("http://example.com/\r\nx: y", "must be percent-encoded"),
    ("http://example.com/\u{0}", "must be percent-encoded"),
    ("http://h%0d%0aX/", "no URL"),
    ("http://[::1/", "no URL"),
    ("http://256.0.0.1/", "no URL"),
];

/// URLs that something may be sent to, as they are shown.
const TAKEN: &[(&str, &str)] = &[
    ("https://billing.example.com/hooks?a=b#top", "https://billing.example.com/hooks?a=b"),
    ("HTTP://Example.COM:80", "http://example.com/"),
    ("http://8.8.8.8:8080/", "http://8.8.8.8:8080/"),
    ("https://[2606:4700:4700::1111]/", "https://[2606:4700:4700::1111]/"),
    ("http://bücher.example/", "http://xn--bcher-kva.example/"),
    ("https://does-not-resolve.invalid/", "https://does-not-resolve.invalid/"),
    ("http://service_a:9000/", "http://service_a:9000/"),
    ("http://internal.example.com/", "http://internal.example.com/"),
    ("http://h/%0d%0aX:y", "http://h/%0d%0aX:y"),
    ("https://user:password@example.com/", "https://***@example.com/"),
    ("https://127.0.0.1@example.com/", "https://***@example.com/"),
];

fn request(url: &str) -> Value {
    let mut request = subscription();
    (request["channel"], request["callback_url"]) = (json!("a"), json!(url));
    request
}

#[tokio::test]
async fn callbacks_lead_to_the_public_internet() {
    let town = Town::new().await;
    let api = town.api().await;
    let path = path_of(&api.subscribe(json!({ "channel": "a" })).await);
    let refusals = Refusals::of(&town, &api).await;
    let long = format!("http://example.com/{}", "x".repeat(2_048));
    let label = format!("http://{}.example.com/", "x".repeat(64));
    let name = format!("http://{}example.com/", "x.".repeat(130));
    let long = [(&*long, "2067 bytes"), (&*label, "longer than 63"), (&*name, "longer than 253")];
    for (url, says) in REFUSED.iter().chain(&long) {
        let create = ask("POST", "/v1/subscriptions").json(request(url).to_string());
        refusals.check(&format!("create {url:.60?}"), &create, field("callback_url", says)).await;
        let patch = ask("PATCH", &path).json(json!({ "callback_url": url }).to_string());
        refusals.check(&format!("patch {url:.60?}"), &patch, field("callback_url", says)).await;
    }
    refusals.end();
    for (url, shown) in TAKEN {
        let created = api.post("/v1/subscriptions", request(url)).await.expect(201);
        assert_eq!(created["callback_url"], *shown);
        let patched = api.patch(&path, json!({ "callback_url": url })).await.expect(200);
        assert_eq!(patched["callback_url"], *shown);
    }
}

#[tokio::test]
async fn what_is_allowed_is_taken() {
    let mut town = Town::new().await;
    town.config.egress.allow = vec!["127.0.0.0/8".into()];
    let api = town.api().await;
    for url in
        ["http://127.0.0.1:9/", "http://localhost:9/", "http://2130706433/", "http://billing.internal/"]
    {
        api.post("/v1/subscriptions", request(url)).await.expect(201);
    }
    let refusals = Refusals::of(&town, &api).await;
    for url in ["http://10.0.0.1/", "http://[::1]/", "http://169.254.169.254/"] {
        let create = ask("POST", "/v1/subscriptions").json(request(url).to_string());
        refusals.check(url, &create, field("callback_url", "egress.allow")).await;
    }
    refusals.end();
}

#[tokio::test]
async fn headers_are_the_subscribers_own() {
    let town = Town::new().await;
    let api = town.api().await;
    let path = path_of(&api.subscribe(json!({ "channel": "a" })).await);
    let refusals = Refusals::of(&town, &api).await;
    let many: Value =
        (0..21).map(|n| (format!("x-{n}"), json!(""))).collect::<serde_json::Map<_, _>>().into();
    let mut table = vec![
        (many, "21 headers are too many".to_owned()),
        (json!({ "x": "v".repeat(8 << 10) }), "8193 bytes".to_owned()),
        (json!({ "x".repeat(9_000): "" }), "9000 bytes".to_owned()),
        (json!({ "X-a": "1", "x-A": "2" }), "given twice".to_owned()),
    ];
    for name in ["", " ", "a b", "a:b", "a\r\nb", "ä", "a\u{0}", "(a)"] {
        table.push((json!({ name: "" }), "is no header name".to_owned()));
    }
    for value in ["a\r\nb: c", "a\n", "\u{0}", "\u{7f}", "grün", "\t"] {
        table.push((json!({ "x-a": value }), "not visible ASCII".to_owned()));
    }
    for name in [
        "host",
        "Host",
        "content-length",
        "Content-Type",
        "transfer-encoding",
        "connection",
        "keep-alive",
        "te",
        "trailer",
        "upgrade",
        "expect",
        "user-agent",
        "traceparent",
        "tracestate",
        "webhook-id",
        "Webhook-Signature",
        "webhook-timestamp",
        "postroad-generation",
        "proxy-authorization",
        "ce-id",
    ] {
        table.push((json!({ name: "x" }), format!("the header {} is set by", name.to_lowercase())));
    }
    for (headers, says) in &table {
        let says: &'static str = says.clone().leak();
        let mut wanted = request("https://example.com/");
        wanted["headers"] = headers.clone();
        let create = ask("POST", "/v1/subscriptions").json(wanted.to_string());
        refusals.check(&format!("create {headers:.60}"), &create, field("headers", says)).await;
        let patch = ask("PATCH", &path).json(json!({ "headers": headers }).to_string());
        refusals.check(&format!("patch {headers:.60}"), &patch, field("headers", says)).await;
    }
    refusals.end();
}
