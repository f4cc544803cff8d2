//! Reads each source into a layer, and remembers all that is wrong on the way.

use std::{collections::BTreeMap, marker::PhantomData, path::Path};

use serde_json::{Number, Value};

use super::{
    Configuration, PREFIX,
    keys::{Key, Keys, to_config},
    problem::{ConfigError, Problem},
    sources::{Environment, FILE_VARIABLE, Origin, Setting},
};

/// What one source says: values by key.
#[derive(Debug, Clone, Default)]
pub(super) struct Layer(BTreeMap<String, (Value, Option<Origin>)>);

impl Layer {
    pub(super) fn from_tree(tree: &Value) -> Self {
        let fields = tree.as_object().into_iter().flatten();
        Self(fields.map(|(name, value)| (name.clone(), (value.clone(), None))).collect())
    }

    pub(super) fn origins(&self) -> impl Iterator<Item = (String, Origin)> {
        self.0.iter().filter_map(|(key, (_, origin))| Some((key.clone(), origin.clone()?)))
    }
}

impl config::Source for Layer {
    fn clone_into_box(&self) -> Box<dyn config::Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<config::Map<String, config::Value>, config::ConfigError> {
        let value = |value: &Value, origin: &Option<Origin>| {
            to_config(value, origin.as_ref().map(ToString::to_string).as_ref())
        };
        Ok(self.0.iter().map(|(key, (held, origin))| (key.clone(), value(held, origin))).collect())
    }
}

/// Reads sources against the keys that a configuration has.
pub(super) struct Reader<'a, T> {
    keys: &'a Keys,
    problems: Vec<Problem>,
    config: PhantomData<T>,
}

impl<'a, T: Configuration> Reader<'a, T> {
    pub(super) fn new(keys: &'a Keys) -> Self {
        Self { keys, problems: Vec::new(), config: PhantomData }
    }

    /// All that was wrong, if anything was.
    pub(super) fn finish(self) -> Result<(), ConfigError> {
        if self.problems.is_empty() { Ok(()) } else { Err(ConfigError::Problems(self.problems)) }
    }

    pub(super) fn file(&mut self, path: &Path) -> Result<Layer, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
        let table: toml::Table = toml::from_str(&text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start.min(text.len()));
            let line = 1 + text.bytes().take(start).filter(|b| *b == b'\n').count();
            ConfigError::Toml { path: path.to_owned(), line, reason: error.message().to_owned() }
        })?;
        let mut layer = Layer::default();
        self.table(&table, "", &Origin::File(path.to_owned()), &mut layer);
        Ok(layer)
    }

    fn table(&mut self, table: &toml::Table, section: &str, origin: &Origin, layer: &mut Layer) {
        for (name, value) in table {
            let path = if section.is_empty() { name.clone() } else { format!("{section}.{name}") };
            match (self.keys.by_path(&path), value) {
                (Some(key), _) => self.take(key, to_json(value), &value.to_string(), origin, layer),
                (None, toml::Value::Table(inner)) if self.keys.is_section(&path) => {
                    self.table(inner, &path, origin, layer);
                }
                (None, toml::Value::Table(_)) if section.is_empty() && self.keys.is_foreign(name) => {}
                (None, _) if self.keys.is_section(&path) => {
                    let reason = format!("it is a section, whose keys stand below [{path}]");
                    self.problems.push(Problem::bad_value(&path, "…", false, origin, reason));
                }
                (None, _) => self.unknown(&path, origin),
            }
        }
    }

    pub(super) fn aliases(&mut self, environment: &Environment) -> Layer {
        let schema = self.keys.schema;
        let listed = schema.aliases.iter().filter_map(|(name, key)| {
            let value = environment.get(name).filter(|value| !value.is_empty())?;
            Some(Setting::environment(name, key, value))
        });
        let derived = schema.derived.map(|derive| derive(environment)).unwrap_or_default();
        let mut layer = Layer::default();
        for setting in listed.chain(derived) {
            if let Some(key) = self.keys.by_path(&setting.key) {
                self.text(key, &setting.value, &setting.origin, &mut layer);
            }
        }
        layer
    }

    pub(super) fn environment(&mut self, environment: &Environment) -> Layer {
        let mut layer = Layer::default();
        for (name, value) in environment.iter().filter(|(name, _)| name.starts_with(PREFIX)) {
            let origin = Origin::Environment(name.to_owned());
            match (self.keys.by_variable(name), value) {
                (Some(key), Some(value)) => self.text(key, value, &origin, &mut layer),
                (Some(key), None) => {
                    self.problems.push(Problem::bad_value(&key.path, "…", false, &origin, "it is not UTF-8"));
                }
                (None, _) if name == FILE_VARIABLE || self.keys.is_foreign_variable(name) => {}
                (None, value) if is_service_link(name, value.unwrap_or_default()) => {}
                (None, _) => self.problems.push(Problem::UnknownKey {
                    key: name.to_owned(),
                    nearest: self.keys.nearest_variable(name),
                    origin,
                }),
            }
        }
        layer
    }

    pub(super) fn flags(&mut self, settings: &[Setting]) -> Layer {
        let mut layer = Layer::default();
        for setting in settings {
            match self.keys.by_path(&setting.key) {
                Some(key) => self.text(key, &setting.value, &setting.origin, &mut layer),
                None => self.unknown(&setting.key, &setting.origin),
            }
        }
        layer
    }

    fn unknown(&mut self, path: &str, origin: &Origin) {
        let nearest = self.keys.nearest_path(path);
        self.problems.push(Problem::UnknownKey { key: path.to_owned(), origin: origin.clone(), nearest });
    }

    /// Takes a value given as text: the first reading of it that fits.
    fn text(&mut self, key: &Key, text: &str, origin: &Origin, layer: &mut Layer) {
        match readings(&key.default, text) {
            Ok(readings) => {
                let fit = readings.iter().find(|reading| self.try_alone(key, reading).is_ok());
                let chosen = fit.unwrap_or(&readings[0]).clone();
                self.take(key, Some(chosen), text, origin, layer);
            }
            Err(reason) => self.bad(key, text, origin, reason),
        }
    }

    fn take(&mut self, key: &Key, value: Option<Value>, shown: &str, origin: &Origin, layer: &mut Layer) {
        let tried = match value {
            Some(value) => self.try_alone(key, &value).map(|()| value),
            None => Err("it is no finite number".to_owned()),
        };
        match tried {
            Ok(value) => {
                layer.0.insert(key.path.clone(), (value, Some(origin.clone())));
            }
            Err(reason) => self.bad(key, shown, origin, reason),
        }
    }

    fn bad(&mut self, key: &Key, shown: &str, origin: &Origin, reason: impl Into<String>) {
        let is_secret = self.keys.is_secret(&key.path);
        self.problems.push(Problem::bad_value(&key.path, shown, is_secret, origin, reason));
    }

    /// Whether the configuration takes this value while everything else has its default. So whatever is
    /// refused is refused by name, however deep in the struct the refusal happens.
    fn try_alone(&self, key: &Key, value: &Value) -> Result<(), String> {
        serde_json::from_value::<T>(self.keys.with(&key.path, value))
            .map(drop)
            .map_err(|error| error.to_string())
    }
}

/// What a text can mean for a key with this default, the likeliest first; never empty.
fn readings(default: &Value, text: &str) -> Result<Vec<Value>, &'static str> {
    let words = || text.split(',').map(str::trim).filter(|word| !word.is_empty());
    let one = |value: Option<Value>, reason| value.map(|value| vec![value]).ok_or(reason);
    match default {
        Value::Bool(_) => one(boolean(text), "it is neither true nor false"),
        Value::Number(number) if number.is_f64() => one(float(text), "it is no number"),
        Value::Number(_) => one(whole(text), "it is no whole number"),
        Value::String(_) => Ok(vec![text.into()]),
        Value::Array(_) => {
            let texts: Vec<Value> = words().map(Value::from).collect();
            let numbers: Option<Vec<Value>> =
                words().map(|word| whole(word).or_else(|| float(word))).collect();
            Ok([Some(texts), numbers].into_iter().flatten().map(Value::Array).collect())
        }
        Value::Object(_) => Err("it is a table, which only the file can set"),
        Value::Null if text.is_empty() => Ok(vec![Value::Null]),
        Value::Null => {
            let scalars = [Some(text.into()), whole(text), float(text), boolean(text)];
            let list = Value::Array(words().map(Value::from).collect());
            Ok(scalars.into_iter().flatten().chain([list]).collect())
        }
    }
}

fn boolean(text: &str) -> Option<Value> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Some(true.into()),
        "false" | "no" | "off" | "0" => Some(false.into()),
        _ => None,
    }
}

fn whole(text: &str) -> Option<Value> {
    let text = text.trim();
    text.parse::<u64>().map(Value::from).or_else(|_| text.parse::<i64>().map(Value::from)).ok()
}

fn float(text: &str) -> Option<Value> {
    text.trim().parse().ok().and_then(Number::from_f64).map(Value::Number)
}

/// `None` for a number that JSON does not have (infinite, not a number).
fn to_json(value: &toml::Value) -> Option<Value> {
    Some(match value {
        toml::Value::String(text) => text.as_str().into(),
        toml::Value::Integer(whole) => (*whole).into(),
        toml::Value::Float(float) => Value::Number(Number::from_f64(*float)?),
        toml::Value::Boolean(bool) => (*bool).into(),
        toml::Value::Datetime(time) => time.to_string().into(),
        toml::Value::Array(items) => Value::Array(items.iter().map(to_json).collect::<Option<_>>()?),
        toml::Value::Table(table) => {
            let field = |(name, value): (&String, _)| Some((name.clone(), to_json(value)?));
            Value::Object(table.iter().map(field).collect::<Option<_>>()?)
        }
    })
}

/// Whether Kubernetes put this variable there, as it does for every Service in the namespace: a Service
/// named `postroad` gives every container `POSTROAD_SERVICE_HOST`, `POSTROAD_PORT` and more.
fn is_service_link(name: &str, value: &str) -> bool {
    let ends = |endings: &[&str]| endings.iter().any(|ending| name.ends_with(ending));
    let is_address = ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme));
    ends(&["_SERVICE_HOST", "_SERVICE_PORT"])
        || name.contains("_SERVICE_PORT_")
        || (is_address && (ends(&["_PORT", "_TCP", "_UDP", "_SCTP"])))
        || (name.contains("_PORT_") && ends(&["_PROTO", "_PORT", "_ADDR"]))
}
