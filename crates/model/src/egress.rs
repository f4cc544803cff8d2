//! Where a request to a subscriber may go, and what headers it may carry.
//!
//! Postroad calls addresses that strangers chose. What is refused here: everything that is not the public
//! Internet, unless the operator's allow list permits it. The check is made twice: on the URL when a
//! subscription is created ([`CallbackUrl::check`]), and on every address at the moment of connecting
//! ([`EgressPolicy::permits`]), because what a name resolves to can change in between. Names are not
//! resolved here, and a name that does not resolve yet is accepted.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use url::{Host, Url};

/// Which addresses may be called.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EgressPolicy {
    allow: Vec<IpNet>,
}

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(a: u16, b: u16, prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, 0, 0, 0, 0, 0, 0), prefix)
}

/// The IANA special-purpose registry, multicast, and what clouds put beside it.
const REFUSED_V4: [Ipv4Net; 20] = [
    v4(0, 0, 0, 0, 8),          // this network
    v4(10, 0, 0, 0, 8),         // private
    v4(100, 64, 0, 0, 10),      // shared (carrier NAT); 100.100.100.200 is Alibaba's metadata
    v4(127, 0, 0, 0, 8),        // loopback
    v4(168, 63, 129, 16, 32),   // Azure's host agent
    v4(169, 254, 0, 0, 16),     // link-local, and most clouds' metadata
    v4(172, 16, 0, 0, 12),      // private
    v4(192, 0, 0, 0, 24),       // protocol assignments
    v4(192, 0, 2, 0, 24),       // documentation
    v4(192, 31, 196, 0, 24),    // AS112
    v4(192, 52, 193, 0, 24),    // AMT
    v4(192, 88, 99, 0, 24),     // 6to4 relays
    v4(192, 168, 0, 0, 16),     // private
    v4(192, 175, 48, 0, 24),    // AS112
    v4(198, 18, 0, 0, 15),      // benchmarking
    v4(198, 51, 100, 0, 24),    // documentation
    v4(203, 0, 113, 0, 24),     // documentation
    v4(224, 0, 0, 0, 4),        // multicast
    v4(240, 0, 0, 0, 4),        // reserved
    v4(255, 255, 255, 255, 32), // broadcast
];

/// The only part of IPv6 that is global unicast. What lies outside needs no list: loopback, mapped and
/// compatible IPv4 (`::/96`, `::ffff:0:0/96`), NAT64, unique-local, link-local, site-local, multicast.
const GLOBAL_V6: Ipv6Net = v6(0x2000, 0, 3);

const REFUSED_V6: [Ipv6Net; 4] = [
    v6(0x2001, 0, 23),      // protocol assignments, Teredo
    v6(0x2001, 0x0db8, 32), // documentation
    v6(0x2002, 0, 16),      // 6to4, which embeds any IPv4
    v6(0x3fff, 0, 20),      // documentation
];

impl EgressPolicy {
    /// Permits public addresses and those in `allow`.
    pub fn new(allow: Vec<IpNet>) -> Self {
        Self { allow }
    }

    /// From CIDRs (`10.0.0.0/8`) and single addresses, as text.
    pub fn parse<S: AsRef<str>>(allow: impl IntoIterator<Item = S>) -> Result<Self, AllowError> {
        let read = |text: S| {
            let text = text.as_ref().trim();
            let net = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
            net.ok_or_else(|| AllowError { text: text.to_owned() })
        };
        allow.into_iter().map(read).collect::<Result<_, _>>().map(Self::new)
    }

    /// Whether this address may be connected to.
    ///
    /// An IPv4 address inside an IPv6 one (`::ffff:127.0.0.1`) is never public; it is permitted where the
    /// allow list holds it in either form.
    pub fn permits(&self, address: IpAddr) -> bool {
        let listed = |address: IpAddr| self.allow.iter().any(|net| net.contains(&address));
        let public = match address {
            IpAddr::V4(v4) => !REFUSED_V4.iter().any(|net| net.contains(&v4)),
            IpAddr::V6(v6) => GLOBAL_V6.contains(&v6) && !REFUSED_V6.iter().any(|net| net.contains(&v6)),
        };
        public || listed(address) || mapped(address).is_some_and(listed)
    }
}

fn mapped(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map(IpAddr::V4),
        IpAddr::V4(_) => None,
    }
}

/// An entry of the allow list that is neither a CIDR nor an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is neither a CIDR, such as 10.0.0.0/8, nor an address")]
pub struct AllowError {
    text: String,
}

/// Why a URL cannot be called back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// It is too long, as given or once normalised.
    #[error("is {actual} bytes long; at most {} are allowed", CallbackUrl::MAX_BYTES)]
    TooLong {
        /// Its length.
        actual: usize,
    },
    /// It holds a character that parsers disagree about.
    #[error("contains {0:?}, which must be percent-encoded")]
    Character(char),
    /// Its scheme is not `http` or `https`.
    #[error("does not begin with http:// or https://")]
    Scheme,
    /// It is no URL.
    #[error("is no URL: {0}")]
    Syntax(#[from] url::ParseError),
    /// Its host is empty, or no host that DNS could know.
    #[error("has a host that cannot be one: {0}")]
    Host(&'static str),
    /// Its port is 0.
    #[error("has port 0")]
    Port,
    /// Its host is an address, or a name that always means an address, that may not be called.
    #[error("points to {0}, which is not a public address; the setting egress.allow can permit it")]
    Refused(String),
}

/// A URL that deliveries may be sent to: normalised, and as far as can be told without DNS, permitted.
///
/// `Display` and `Debug` hide its credentials; [`CallbackUrl::as_str`] has them.
#[derive(Clone, PartialEq, Eq)]
pub struct CallbackUrl(Url);

impl CallbackUrl {
    /// The longest URL.
    pub const MAX_BYTES: usize = 2_048;

    /// Checks and normalises a URL. The fragment, which is never sent, is dropped.
    pub fn check(text: &str, policy: &EgressPolicy) -> Result<Self, UrlError> {
        check_raw(text)?;
        let mut url = Url::parse(text)?;
        url.set_fragment(None);
        // What this keeps is stored and compared, so `host.` and `host` must be one.
        if let Some(Host::Domain(name)) = url.host()
            && let Some(name) = name.strip_suffix('.')
        {
            if name.ends_with('.') {
                return Err(UrlError::Host("it ends with two dots"));
            }
            let name = name.to_owned();
            url.set_host(Some(&name))?;
        }
        match url.host() {
            None => return Err(UrlError::Host("it is empty")),
            Some(Host::Ipv4(address)) => check_address(address.into(), policy)?,
            Some(Host::Ipv6(address)) => check_address(address.into(), policy)?,
            Some(Host::Domain(name)) => check_name(name, policy)?,
        }
        if url.port() == Some(0) {
            return Err(UrlError::Port);
        }
        if url.as_str().len() > Self::MAX_BYTES {
            return Err(UrlError::TooLong { actual: url.as_str().len() });
        }
        Ok(Self(url))
    }

    /// The whole URL, credentials included: to store and to send to, not to show.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// The URL without credentials: what goes into the request line.
    pub fn target(&self) -> Url {
        let mut url = self.0.clone();
        // Both fail only for URLs that cannot have credentials.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        url
    }

    /// The URL with its credentials, if it has any, written as `***`.
    pub fn masked(&self) -> String {
        let mut url = self.target();
        if self.has_credentials() {
            let _ = url.set_username("***");
        }
        url.into()
    }

    /// The host: a name (lower case, no trailing dot) or an address.
    pub fn host(&self) -> Host<&str> {
        self.0.host().expect("checked on creation")
    }

    /// The port, also where the scheme implies it.
    pub fn port(&self) -> u16 {
        self.0.port_or_known_default().expect("http and https have one")
    }

    /// Whether it is `https`.
    pub fn is_tls(&self) -> bool {
        self.0.scheme() == "https"
    }

    /// The value of `authorization` that the credentials stand for.
    pub fn basic_auth(&self) -> Option<String> {
        self.has_credentials().then(|| {
            let mut pair = percent_decode(self.0.username());
            pair.push(b':');
            pair.extend(percent_decode(self.0.password().unwrap_or("")));
            format!("Basic {}", STANDARD.encode(pair))
        })
    }

    fn has_credentials(&self) -> bool {
        !self.0.username().is_empty() || self.0.password().is_some()
    }
}

impl fmt::Display for CallbackUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.masked())
    }
}

impl fmt::Debug for CallbackUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.masked())
    }
}

/// What must be decided on the text itself, because parsing silently repairs it: browsers drop tabs and
/// line ends, read `\` as `/`, and take `http:host` and `http:///host` for `http://host`.
fn check_raw(text: &str) -> Result<(), UrlError> {
    if text.len() > CallbackUrl::MAX_BYTES {
        return Err(UrlError::TooLong { actual: text.len() });
    }
    if let Some(bad) = text.chars().find(|c| c.is_control() || c.is_whitespace() || *c == '\\') {
        return Err(UrlError::Character(bad));
    }
    let (scheme, rest) = text.split_once("://").ok_or(UrlError::Scheme)?;
    if !(scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https")) {
        return Err(UrlError::Scheme);
    }
    if rest.starts_with('/') {
        return Err(UrlError::Host("it is empty"));
    }
    Ok(())
}

fn check_address(address: IpAddr, policy: &EgressPolicy) -> Result<(), UrlError> {
    if policy.permits(address) { Ok(()) } else { Err(UrlError::Refused(address.to_string())) }
}

/// Domains that do not exist on the public Internet: ICANN's `internal`, RFC 6762, RFC 8375.
const PRIVATE_DOMAINS: [&str; 3] = ["internal", "local", "home.arpa"];

/// `name` is what `url` made of a domain: lower case, punycode, free of forbidden characters.
fn check_name(name: &str, policy: &EgressPolicy) -> Result<(), UrlError> {
    if name.len() > 253 {
        return Err(UrlError::Host("its name is longer than 253 bytes"));
    }
    if name.split('.').any(|label| label.is_empty() || label.len() > 63) {
        return Err(UrlError::Host("a part of its name is empty or longer than 63 bytes"));
    }
    // Resolvers answer these themselves, with either loopback address (RFC 6761, section 6.3).
    let loopback: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    let is_local = name == "localhost" || name.ends_with(".localhost");
    if is_local && !loopback.into_iter().any(|address| policy.permits(address)) {
        return Err(UrlError::Refused(name.to_owned()));
    }
    // What they resolve to is judged when connecting; where nothing private is allowed they are hopeless.
    let is_private = PRIVATE_DOMAINS
        .iter()
        .any(|domain| name.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')));
    if is_private && policy.allow.is_empty() {
        return Err(UrlError::Refused(name.to_owned()));
    }
    Ok(())
}

fn percent_decode(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let pair = (bytes[at] == b'%').then(|| text.get(at + 1..at + 3)).flatten();
        let hex = pair.filter(|pair| pair.bytes().all(|b| b.is_ascii_hexdigit()));
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    out
}

/// The most headers that a subscription may add.
pub const MAX_CALLBACK_HEADERS: usize = 20;
/// The most bytes in all their names and values.
pub const MAX_CALLBACK_HEADER_BYTES: usize = 8 * 1_024;

/// Why a subscription's headers are refused. Values are secrets, so none is repeated here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// There are too many.
    #[error("{actual} headers are too many; at most {MAX_CALLBACK_HEADERS} are allowed")]
    TooMany {
        /// How many there are.
        actual: usize,
    },
    /// They are too long together.
    #[error("the headers have {actual} bytes in all; at most {MAX_CALLBACK_HEADER_BYTES} are allowed")]
    TooLong {
        /// Bytes of all names and values.
        actual: usize,
    },
    /// A name is no header name.
    #[error("{name:?} is no header name")]
    Name {
        /// The name.
        name: String,
    },
    /// Two names differ in nothing but case.
    #[error("the header {name} is given twice")]
    Twice {
        /// The name, in lower case.
        name: String,
    },
    /// The header is Postroad's to set, or the connection's.
    #[error("the header {name} is set by Postroad or belongs to the connection and cannot be chosen")]
    Denied {
        /// The name, in lower case.
        name: String,
    },
    /// A value holds something else than visible ASCII and spaces.
    #[error("the value of the header {name} holds a character that is not visible ASCII")]
    Value {
        /// The header's name, in lower case.
        name: String,
    },
}

/// Headers that a subscription may not set, beside [`DENIED_PREFIXES`].
const DENIED_HEADERS: [&str; 14] = [
    "connection",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "postroad-generation",
    "te",
    "traceparent",
    "tracestate",
    "trailer",
    "trailers",
    "transfer-encoding",
    "upgrade",
    "user-agent",
];

const DENIED_PREFIXES: [&str; 4] = ["webhook-", "content-", "proxy-", "ce-"];

/// Checks the headers that a subscription wants on its deliveries.
pub fn check_callback_headers(headers: &BTreeMap<String, String>) -> Result<(), HeaderError> {
    if headers.len() > MAX_CALLBACK_HEADERS {
        return Err(HeaderError::TooMany { actual: headers.len() });
    }
    let actual = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    if actual > MAX_CALLBACK_HEADER_BYTES {
        return Err(HeaderError::TooLong { actual });
    }
    let mut seen = Vec::with_capacity(headers.len());
    for (name, value) in headers {
        let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        if name.is_empty() || !name.bytes().all(is_token) {
            return Err(HeaderError::Name { name: name.clone() });
        }
        let name = name.to_ascii_lowercase();
        let denied = |prefix: &&str| name.starts_with(*prefix);
        if DENIED_HEADERS.contains(&&*name) || DENIED_PREFIXES.iter().any(denied) {
            return Err(HeaderError::Denied { name });
        }
        if !value.bytes().all(|b| (b' '..=b'~').contains(&b)) {
            return Err(HeaderError::Value { name });
        }
        if seen.contains(&name) {
            return Err(HeaderError::Twice { name });
        }
        seen.push(name);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(allow: &[&str]) -> EgressPolicy {
        EgressPolicy::parse(allow).unwrap()
    }

    fn permits(policy: &EgressPolicy, address: &str) -> bool {
        policy.permits(address.parse().unwrap())
    }

    #[test]
    fn only_the_public_internet_is_permitted() {
        let none = policy(&[]);
        #[rustfmt::skip]
        let public = [
            "1.1.1.1", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255",
            "128.0.0.0", "168.63.129.15", "168.63.129.17", "169.253.255.255", "169.255.0.0", "172.15.255.255",
            "172.32.0.0", "192.0.1.0", "192.0.3.0", "192.167.255.255", "192.169.0.0", "198.17.255.255",
            "198.20.0.0", "203.0.114.0", "223.255.255.255",
            "2000::1", "2001:200::1", "2001:db7::1", "2001:db9::1", "2003::1", "2606:4700:4700::1111", "3ffe::1",
            "3fff:1000::1",
        ];
        for address in public {
            assert!(permits(&none, address), "{address}");
        }
        #[rustfmt::skip]
        let refused = [
            "0.0.0.0", "0.255.255.255", "10.0.0.1", "100.64.0.0", "100.100.100.200", "100.127.255.255",
            "127.0.0.1", "127.255.255.255", "168.63.129.16", "169.254.169.254", "172.16.0.0", "172.31.255.255",
            "192.0.0.8", "192.0.2.1", "192.31.196.1", "192.52.193.1", "192.88.99.1", "192.168.0.1",
            "192.175.48.1", "198.18.0.0", "198.19.255.255", "198.51.100.1", "203.0.113.1", "224.0.0.1",
            "239.255.255.250", "240.0.0.1", "255.255.255.255",
            "::", "::1", "::7f00:1", "::8.8.8.8", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::ffff:0:7f00:1",
            "::ffff:0:808:808", "64:ff9b::7f00:1", "64:ff9b::808:808", "64:ff9b:1::1", "100::1", "1fff::1",
            "2001::1", "2001:1ff::1", "2001:db8::1", "2002::1", "2002:7f00:1::", "3fff::1", "3fff:fff::1",
            "4000::1", "5f00::1", "fc00::1", "fd00:ec2::254", "fe80::1", "febf::1", "fec0::1", "ff02::1",
        ];
        for address in refused {
            assert!(!permits(&none, address), "{address}");
        }
    }

    #[test]
    fn the_allow_list_permits_what_it_names_and_no_more() {
        let local = policy(&["127.0.0.0/8", "fd00::/8", "192.168.7.9"]);
        for address in ["127.0.0.1", "127.9.9.9", "::ffff:127.0.0.1", "fd12::1", "192.168.7.9", "8.8.8.8"] {
            assert!(permits(&local, address), "{address}");
        }
        for address in ["::1", "::7f00:1", "64:ff9b::7f00:1", "::ffff:10.0.0.1", "fc00::1", "192.168.7.10"] {
            assert!(!permits(&local, address), "{address}");
        }
        let mapped = policy(&["::ffff:10.0.0.0/104"]);
        assert!(permits(&mapped, "::ffff:10.1.2.3"));
        assert!(!permits(&mapped, "10.1.2.3"));
        let all_v4 = policy(&["0.0.0.0/0"]);
        assert!(permits(&all_v4, "169.254.169.254") && permits(&all_v4, "::ffff:8.8.8.8"));
        assert!(!permits(&all_v4, "::1"));
    }

    #[test]
    fn a_bad_allow_entry_is_named() {
        let error = EgressPolicy::parse(["10.0.0.0/8", "10.0.0.0/40"]).unwrap_err();
        assert_eq!(
            error.to_string(),
            r#""10.0.0.0/40" is neither a CIDR, such as 10.0.0.0/8, nor an address"#
        );
        assert!(EgressPolicy::parse(["localhost"]).is_err());
    }

    /// What `check` says: the normalised URL, or the kind of refusal.
    fn verdict(text: &str, policy: &EgressPolicy) -> String {
        match CallbackUrl::check(text, policy) {
            Ok(url) => url.as_str().to_owned(),
            Err(UrlError::Refused(address)) => format!("refused {address}"),
            Err(UrlError::Character(_)) => "character".into(),
            Err(UrlError::Scheme) => "scheme".into(),
            Err(UrlError::Syntax(_)) => "syntax".into(),
            Err(UrlError::Host(_)) => "host".into(),
            Err(UrlError::Port) => "port".into(),
            Err(UrlError::TooLong { .. }) => "long".into(),
        }
    }

    #[test]
    fn urls_are_judged_by_what_they_mean() {
        let (none, local) = (policy(&[]), policy(&["127.0.0.0/8"]));
        // Text, verdict with an empty allow list, verdict with 127.0.0.0/8 allowed ("" where it is the same).
        #[rustfmt::skip]
        let table = [
            ("http://127.0.0.1/",                 "refused 127.0.0.1",        "http://127.0.0.1/"),
            ("http://127.0.0.1:8080/hook?a=b#c",  "refused 127.0.0.1",        "http://127.0.0.1:8080/hook?a=b"),
            ("http://127.1/",                     "refused 127.0.0.1",        "http://127.0.0.1/"),
            ("http://127.0.0.1./",                "refused 127.0.0.1",        "http://127.0.0.1/"),
            ("http://127.0.0.1../",               "host",                     ""),
            ("http://2130706433/",                "refused 127.0.0.1",        "http://127.0.0.1/"),
            ("http://0177.0.0.1/",                "refused 127.0.0.1",        "http://127.0.0.1/"),
            ("http://0x7f.1/",                    "refused 127.0.0.1",        "http://127.0.0.1/"),
            ("http://%31%32%37.0.0.1/",           "refused 127.0.0.1",        "http://127.0.0.1/"),
            ("http://①②⑦.0.0.1/",                 "refused 127.0.0.1",        "http://127.0.0.1/"),
            ("http://0/",                         "refused 0.0.0.0",          ""),
            ("http://256.0.0.1/",                 "syntax",                   ""),
            ("http://[::1]/",                     "refused ::1",              ""),
            ("http://[::ffff:127.0.0.1]/",        "refused ::ffff:127.0.0.1", "http://[::ffff:7f00:1]/"),
            ("http://[::127.0.0.1]/",             "refused ::7f00:1",         ""),
            ("http://[64:ff9b::7f00:1]/",         "refused 64:ff9b::7f00:1",  ""),
            ("http://[fe80::1%25eth0]/",          "syntax",                   ""),
            ("http://[127.0.0.1]/",               "syntax",                   ""),
            ("http://[[::1]]/",                   "syntax",                   ""),
            ("http://169.254.169.254/latest/meta-data/", "refused 169.254.169.254", ""),
            ("http://100.100.100.200/",           "refused 100.100.100.200",  ""),
            ("http://localhost/",                 "refused localhost",        "http://localhost/"),
            ("http://localhost./",                "refused localhost",        "http://localhost/"),
            ("http://LOCALHOST/",                 "refused localhost",        "http://localhost/"),
            ("http://a.localhost/",               "refused a.localhost",      "http://a.localhost/"),
            ("http://ⓛocalhost/",                 "refused localhost",        "http://localhost/"),
            ("http://local\u{ad}host/",           "refused localhost",        "http://localhost/"),
            ("http://localhost../",               "host",                     ""),
            ("http://metadata.google.internal/",  "refused metadata.google.internal", "http://metadata.google.internal/"),
            ("http://PRINTER.local./",            "refused printer.local",    "http://printer.local/"),
            ("http://nas.home.arpa/",             "refused nas.home.arpa",    "http://nas.home.arpa/"),
            ("http://internal/",                  "refused internal",         "http://internal/"),
            ("http://not-internal/",              "http://not-internal/",     ""),
            ("http://internal.example.com/",      "http://internal.example.com/", ""),
            ("http://127.0.0.1\\@example.com/",   "character",                ""),
            ("http://example.com\t/",             "character",                ""),
            ("http://exa\nmple.com/",             "character",                ""),
            (" http://example.com/",              "character",                ""),
            ("http://example.com/a b",            "character",                ""),
            ("http://example.com/\u{2028}",       "character",                ""),
            ("http://example.com@127.0.0.1/",     "refused 127.0.0.1",        "http://example.com@127.0.0.1/"),
            ("http://127.0.0.1@example.com/",     "http://127.0.0.1@example.com/", ""),
            ("http://127.0.0.1#@example.com/",    "refused 127.0.0.1",        "http://127.0.0.1/"),
            ("http://h/%0d%0aX:y",                "http://h/%0d%0aX:y",       ""),
            ("http://h%0d%0aX/",                  "syntax",                   ""),
            ("gopher://127.0.0.1:6379/_FLUSHALL", "scheme",                   ""),
            ("file:///etc/passwd",                "scheme",                   ""),
            ("ftp://example.com/",                "scheme",                   ""),
            ("javascript:alert(1)",               "scheme",                   ""),
            ("//example.com/",                    "scheme",                   ""),
            ("example.com",                       "scheme",                   ""),
            ("",                                  "scheme",                   ""),
            ("http:example.com/",                 "scheme",                   ""),
            ("http:/example.com/",                "scheme",                   ""),
            ("http:///example.com/",              "host",                     ""),
            ("http://",                           "syntax",                   ""),
            ("http://./",                         "syntax",                   ""),
            ("http://:80/",                       "syntax",                   ""),
            ("http://a..b/",                      "host",                     ""),
            ("http://example.com:0/",             "port",                     ""),
            ("http://example.com:65536/",         "syntax",                   ""),
            ("HTTP://Example.COM:80/A",           "http://example.com/A",     ""),
            ("https://example.com:443",           "https://example.com/",     ""),
            ("https://example.com./#top",         "https://example.com/",     ""),
            ("http://user:pass@host/",            "http://user:pass@host/",   ""),
            ("http://localhost.example.com/",     "http://localhost.example.com/", ""),
            ("http://service_a:9000/",            "http://service_a:9000/",   ""),
            ("http://bücher.example/",            "http://xn--bcher-kva.example/", ""),
            ("http://name-that-does-not-resolve.invalid/", "http://name-that-does-not-resolve.invalid/", ""),
            ("https://8.8.8.8/",                  "https://8.8.8.8/",         ""),
            ("https://[2606:4700:4700::1111]/",   "https://[2606:4700:4700::1111]/", ""),
        ];
        for (text, with_none, with_local) in table {
            assert_eq!(verdict(text, &none), with_none, "{text:?}");
            let expected = if with_local.is_empty() { with_none } else { with_local };
            assert_eq!(verdict(text, &local), expected, "{text:?} with loopback allowed");
        }
    }

    #[test]
    fn lengths_are_bounded_as_given_and_as_kept() {
        let none = policy(&[]);
        let fill = |n| format!("http://h/{}", "a".repeat(n));
        assert!(CallbackUrl::check(&fill(2_048 - 9), &none).is_ok());
        assert_eq!(verdict(&fill(2_048 - 8), &none), "long");
        assert_eq!(verdict(&format!("http://h/{}", "ü".repeat(1_000)), &none), "long");
        assert_eq!(verdict(&format!("http://{}/", "a".repeat(64)), &none), "host");
        assert_eq!(verdict(&format!("http://{}/", "a.".repeat(130)), &none), "host");
    }

    #[test]
    fn credentials_are_kept_and_never_shown() {
        let url = CallbackUrl::check("https://us%40er:p%C3%A4ss@host/x?y=1", &policy(&[])).unwrap();
        assert_eq!(url.as_str(), "https://us%40er:p%C3%A4ss@host/x?y=1");
        assert_eq!(url.target().as_str(), "https://host/x?y=1");
        assert_eq!(url.basic_auth().unwrap(), format!("Basic {}", STANDARD.encode("us@er:päss")));
        for shown in [url.masked(), url.to_string(), format!("{url:?}")] {
            assert!(shown.contains("https://***@host/x?y=1"), "{shown}");
            assert!(!shown.contains("er") && !shown.contains("ss"), "{shown}");
        }
        let plain = CallbackUrl::check("http://host:81/", &policy(&[])).unwrap();
        assert_eq!((plain.masked(), plain.basic_auth()), ("http://host:81/".to_owned(), None));
        assert_eq!((plain.host(), plain.port(), plain.is_tls()), (Host::Domain("host"), 81, false));
    }

    #[test]
    fn percent_decoding_leaves_what_is_no_escape() {
        for (text, bytes) in [("a%41", "aA"), ("%", "%"), ("%4", "%4"), ("%zz", "%zz"), ("%+1", "%+1")] {
            assert_eq!(percent_decode(text), bytes.as_bytes(), "{text}");
        }
    }

    fn headers(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn ordinary_headers_are_accepted() {
        let good = [
            ("Authorization", "Bearer abc.def"),
            ("X-Api-Key", "k~!"),
            ("cookie", "a=b; c=d"),
            ("x-empty", ""),
            ("Accept", "*/*"),
        ];
        assert_eq!(check_callback_headers(&headers(&good)), Ok(()));
        assert_eq!(check_callback_headers(&BTreeMap::new()), Ok(()));
    }

    #[test]
    fn headers_of_the_connection_and_of_postroad_are_denied() {
        for name in [
            "Host",
            "Content-Length",
            "content-type",
            "Content-Encoding",
            "Transfer-Encoding",
            "Connection",
            "Keep-Alive",
            "TE",
            "Trailer",
            "Upgrade",
            "Expect",
            "Proxy-Authorization",
            "webhook-signature",
            "Webhook-Id",
            "traceparent",
            "tracestate",
            "user-agent",
            "postroad-generation",
            "ce-id",
        ] {
            let denied = HeaderError::Denied { name: name.to_ascii_lowercase() };
            assert_eq!(check_callback_headers(&headers(&[(name, "x")])), Err(denied));
        }
    }

    #[test]
    fn nothing_can_be_smuggled_through_a_header() {
        for value in ["a\r\nHost: b", "a\nb", "a\rb", "a\0b", "a\tb", "a\u{7f}", "grüße", "a\u{1b}[31m"] {
            let error = check_callback_headers(&headers(&[("X-A", value)])).unwrap_err();
            assert_eq!(error, HeaderError::Value { name: "x-a".into() }, "{value:?}");
            assert!(!error.to_string().contains(value));
        }
        for name in ["", "a b", "a:b", "a\r\nb", "ä", "a\0"] {
            let error = check_callback_headers(&headers(&[(name, "x")])).unwrap_err();
            assert_eq!(error, HeaderError::Name { name: name.into() }, "{name:?}");
        }
        let twice = HeaderError::Twice { name: "x-a".into() };
        assert_eq!(check_callback_headers(&headers(&[("X-A", "1"), ("x-a", "2")])), Err(twice));
    }

    #[test]
    fn headers_are_bounded() {
        let many = |n: usize| (0..n).map(|n| (format!("x-{n}"), String::new())).collect::<BTreeMap<_, _>>();
        assert_eq!(check_callback_headers(&many(20)), Ok(()));
        assert_eq!(check_callback_headers(&many(21)), Err(HeaderError::TooMany { actual: 21 }));
        assert_eq!(check_callback_headers(&many(10_000)), Err(HeaderError::TooMany { actual: 10_000 }));
        let long = |n| headers(&[("x-a", &"v".repeat(n))]);
        assert_eq!(check_callback_headers(&long(8_189)), Ok(()));
        assert_eq!(check_callback_headers(&long(8_190)), Err(HeaderError::TooLong { actual: 8_193 }));
    }
}
