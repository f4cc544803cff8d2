//! Which event types tenants have registered, as this instance knows them: at most half a second old.
//!
//! Compiling a schema and running one is somebody else's program on our machine: `json_schema` has bounded what it
//! can cost, and it runs a few at a time on threads of its own. What was compiled is kept for as long as the
//! type's version stays the same.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use axum::http::StatusCode;
use jsonschema::{PatternOptions, Validator};
use postroad_api::{
    error::{ApiError, ApiResult},
    object::RawObject,
};
use postroad_model::{json_schema, names::Tenant};
use postroad_store::{EventTypeRecord, Store, StoreError};
use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};
use tokio::{sync::Semaphore, time::Instant};

/// How old what is known may be.
const FRESH: Duration = Duration::from_millis(500);
/// The most tenants whose types are known at a time.
const MOST_TENANTS: usize = 256;
/// How many schemas are compiled or run at a time.
const AT_ONCE: usize = 2;
/// The most bytes of a compiled regular expression.
const MAX_REGEX_BYTES: usize = 64 << 10;

/// What a tenant says of a type.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct About {
    /// Its category, where the tenant chose one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub category: Option<String>,
    /// What has happened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// What its events must satisfy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<Box<RawValue>>,
}

/// A registered type.
#[derive(Debug)]
pub struct Registered {
    /// Its record.
    pub record: EventTypeRecord,
    /// What the record says.
    pub about: About,
    validator: OnceLock<Result<Validator, String>>,
}

impl Registered {
    /// Reads a record. `None` for one that nobody here wrote.
    pub fn read(record: EventTypeRecord) -> Option<Self> {
        let about = serde_json::from_str(&record.record).ok()?;
        Some(Self { record, about, validator: OnceLock::new() })
    }
}

/// A tenant's types by name.
pub type Types = Arc<HashMap<String, Arc<Registered>>>;

/// What this instance knows of all tenants' types.
pub struct EventTypes {
    tenants: Mutex<HashMap<Tenant, Arc<tokio::sync::Mutex<Known>>>>,
    running: Arc<Semaphore>,
}

#[derive(Default)]
struct Known {
    looked: Option<Instant>,
    version: u64,
    types: Types,
}

impl Default for EventTypes {
    fn default() -> Self {
        Self { tenants: Mutex::default(), running: Arc::new(Semaphore::new(AT_ONCE)) }
    }
}

impl EventTypes {
    /// A tenant's types.
    pub async fn of(&self, store: &Store, tenant: &Tenant) -> Result<Types, StoreError> {
        let known = self.known(tenant);
        let mut known = known.lock().await;
        if known.looked.is_none_or(|looked| looked.elapsed() >= FRESH) {
            let now = Instant::now();
            let version = store.event_types_version(tenant).await?;
            if version != known.version || known.looked.is_none() {
                let read = store.event_types(tenant).await?;
                let types = read.records.into_iter().filter_map(|record| {
                    let before = known.types.get(&record.name);
                    let same = before.filter(|before| before.record == record).cloned();
                    let registered = same.or_else(|| Registered::read(record).map(Arc::new))?;
                    Some((registered.record.name.clone(), registered))
                });
                known.types = Arc::new(types.collect());
                known.version = read.version;
            }
            known.looked = Some(now);
        }
        Ok(Arc::clone(&known.types))
    }

    /// One of a tenant's types.
    pub async fn find(
        &self,
        store: &Store,
        tenant: &Tenant,
        name: &str,
    ) -> Result<Option<Arc<Registered>>, StoreError> {
        Ok(self.of(store, tenant).await?.get(name).cloned())
    }

    /// Looks anew the next time: this instance has changed something.
    pub async fn changed(&self, tenant: &Tenant) {
        self.known(tenant).lock().await.looked = None;
    }

    fn known(&self, tenant: &Tenant) -> Arc<tokio::sync::Mutex<Known>> {
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        if !tenants.contains_key(tenant) && tenants.len() >= MOST_TENANTS {
            // Any one that nobody is looking at: it is read again when it is needed.
            let idle = tenants.iter().find(|(_, known)| Arc::strong_count(known) == 1);
            if let Some(idle) = idle.map(|(tenant, _)| tenant.clone()) {
                tenants.remove(&idle);
            }
        }
        Arc::clone(tenants.entry(tenant.clone()).or_default())
    }

    /// Refuses data that does not satisfy a type's schema, if it has one: 422, with the path in the data.
    pub async fn validate(&self, registered: &Arc<Registered>, data: &RawObject) -> ApiResult<()> {
        if registered.about.schema.is_none() {
            return Ok(());
        }
        let (registered, data) = (Arc::clone(registered), data.0.clone());
        self.apart(move || run(&registered, &data)).await
    }

    /// Refuses a schema that cannot be used.
    pub async fn try_schema(&self, schema: &RawValue) -> ApiResult<()> {
        let schema = schema.to_owned();
        self.apart(move || compile(&schema).map(drop).map_err(|message| ApiError::field("schema", message)))
            .await
    }

    /// Runs something on a thread of its own, a few at a time.
    async fn apart(&self, what: impl FnOnce() -> ApiResult<()> + Send + 'static) -> ApiResult<()> {
        let ill = |error: &dyn std::fmt::Display| {
            tracing::error!(%error, "a schema could not be run");
            ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the schema could not be run")
        };
        let place = Arc::clone(&self.running).acquire_owned().await.map_err(|error| ill(&error))?;
        let ran = tokio::task::spawn_blocking(move || {
            let _until_done = place;
            what()
        });
        ran.await.map_err(|error| ill(&error))?
    }
}

fn compile(schema: &RawValue) -> Result<Validator, String> {
    let value: Value = serde_json::from_str(schema.get()).map_err(|error| error.to_string())?;
    json_schema::check(schema.get(), &value).map_err(|error| error.to_string())?;
    jsonschema::options()
        .offline()
        .with_pattern_options(
            PatternOptions::regex().size_limit(MAX_REGEX_BYTES).dfa_size_limit(MAX_REGEX_BYTES),
        )
        .build(&value)
        .map_err(|error| format!("schema at {:?}: {error}", error.instance_path().as_str()))
}

fn run(registered: &Registered, data: &RawValue) -> ApiResult<()> {
    let Some(schema) = &registered.about.schema else { return Ok(()) };
    let name = &registered.record.name;
    let validator = match registered.validator.get_or_init(|| compile(schema)) {
        Ok(validator) => validator,
        Err(error) => {
            tracing::error!(event.r#type = name, error, "a stored schema cannot be used");
            let message = format!("the schema of {name} cannot be used any more; register it again: {error}");
            return Err(ApiError::new(StatusCode::CONFLICT, "unusable_schema", message));
        }
    };
    let value: Value = serde_json::from_str(data.get())
        .map_err(|error| ApiError::field("event_data", format!("event_data cannot be read: {error}")))?;
    validator.validate(&value).map_err(|error| {
        let path = error.instance_path().to_string();
        let message = format!("event_data does not satisfy the schema of {name} at {path:?}: {error}");
        ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "schema_violation", message)
            .with("field", "event_data")
            .with("path", path)
            .with("schema_path", error.schema_path().to_string())
            .with("schema_version", registered.record.version)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn registered(schema: &Value) -> Registered {
        let record = json!({ "schema": schema }).to_string();
        let record = EventTypeRecord { name: "a.b".into(), version: 7, made_ms: 0, changed_ms: 0, record };
        Registered::read(record).unwrap()
    }

    fn data(value: &Value) -> Box<RawValue> {
        RawValue::from_string(value.to_string()).unwrap()
    }

    #[test]
    fn a_violation_says_where() {
        let schema = json!({
            "type": "object",
            "properties": { "items": { "type": "array", "items": { "$ref": "#/$defs/item" } } },
            "required": ["items"],
            "$defs": { "item": { "type": "object", "properties": { "count": { "minimum": 1 } } } },
        });
        let registered = registered(&schema);
        run(&registered, &data(&json!({ "items": [{ "count": 1 }] }))).unwrap();
        let error = run(&registered, &data(&json!({ "items": [{}, { "count": 0 }] }))).unwrap_err();
        assert_eq!((error.status.as_u16(), error.code), (422, "schema_violation"));
        assert_eq!(error.details["path"], "/items/1/count");
        assert_eq!(error.details["schema_version"], 7);
        assert!(error.details["schema_path"].as_str().unwrap().ends_with("/minimum"), "{:?}", error.details);
        assert_eq!(run(&registered, &data(&json!({}))).unwrap_err().details["path"], "");
    }

    #[test]
    fn what_is_no_schema_is_refused_with_its_place() {
        for (schema, says) in [
            (json!({ "type": "nonsense" }), "/type"),
            (json!({ "properties": { "a": { "minimum": "x" } } }), "/properties/a/minimum"),
            (json!({ "pattern": "(" }), "pattern"),
            (json!({ "pattern": "(?:a|b|c|d){100000}" }), "pattern"),
            (json!({ "pattern": "(?=a)b" }), "pattern"),
            (json!({ "$ref": "https://example.com/x" }), "leads out"),
            (json!({ "$schema": "https://example.com/meta" }), "example.com"),
        ] {
            let error = compile(&data(&schema)).err().unwrap_or_else(|| panic!("{schema} was taken"));
            assert!(error.contains(says), "{schema}: {error}");
        }
        for draft in
            ["http://json-schema.org/draft-07/schema#", "https://json-schema.org/draft/2020-12/schema"]
        {
            compile(&data(&json!({ "$schema": draft, "type": "object" }))).unwrap();
        }
    }
}
