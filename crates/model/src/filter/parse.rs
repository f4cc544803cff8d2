//! From a pattern's JSON to its branches.

use serde_json::{Map, Value};

use super::{
    FilterError, MAX_BRANCHES, MAX_CONDITIONS, MAX_FILTER_BYTES, MAX_WILDCARDS,
    branch::{Branch, Leaf},
    operator::{Operator, is_operator, is_reserved},
};
use crate::json_scan::MAX_DEPTH;

/// Checks a pattern and expands its `$or`.
pub(super) fn branches(source: &Map<String, Value>) -> Result<Vec<Branch>, FilterError> {
    let whole = |problem: String| FilterError { path: String::new(), problem };
    if !source.values().all(|value| fits(value, MAX_DEPTH - 1)) {
        return Err(whole(format!("is nested more than {MAX_DEPTH} deep")));
    }
    let bytes = serde_json::to_vec(source).map_err(|error| whole(error.to_string()))?.len();
    if bytes > MAX_FILTER_BYTES {
        return Err(whole(format!("is {bytes} bytes long; at most {MAX_FILTER_BYTES} are allowed")));
    }
    let mut parser = Parser::default();
    let branches = parser.object(source)?;
    let conditions: usize = branches.iter().map(Branch::size).sum();
    if conditions > MAX_CONDITIONS {
        return Err(whole(format!(
            "has {conditions} fields and operators, counted in each combination of its $or; at most \
             {MAX_CONDITIONS} are allowed"
        )));
    }
    Ok(branches)
}

/// Whether a value nests at most `levels` deep. Looks no deeper.
fn fits(value: &Value, levels: usize) -> bool {
    match value {
        Value::Array(items) => levels > 0 && items.iter().all(|item| fits(item, levels - 1)),
        Value::Object(fields) => levels > 0 && fields.values().all(|field| fits(field, levels - 1)),
        _ => true,
    }
}

#[derive(Default)]
struct Parser {
    /// The fields around the current one.
    path: Vec<String>,
    /// `wildcard` strings so far.
    wildcards: usize,
    /// Fields and operators so far, `$or` not expanded.
    conditions: usize,
}

impl Parser {
    fn refuse<T>(&self, problem: impl Into<String>) -> Result<T, FilterError> {
        Err(FilterError { path: self.path.join("."), problem: problem.into() })
    }

    fn object(&mut self, fields: &Map<String, Value>) -> Result<Vec<Branch>, FilterError> {
        if fields.is_empty() {
            return self.refuse("is an empty object; name at least one field");
        }
        let mut branches = vec![Branch::default()];
        for (name, value) in fields {
            self.path.push(name.clone());
            let alternatives = self.field(name, value)?;
            self.path.pop();
            branches = self.cross(&branches, &alternatives)?;
        }
        Ok(branches)
    }

    fn field(&mut self, name: &str, value: &Value) -> Result<Vec<Branch>, FilterError> {
        if name == "$or"
            && let Some(alternatives) = or_alternatives(value)
        {
            let mut branches = Vec::new();
            let path = self.path.pop().unwrap_or_default(); // `$or` itself is no field
            for alternative in alternatives {
                branches.append(&mut self.object(alternative)?);
                self.bounded(branches.len())?;
            }
            self.path.push(path);
            return Ok(branches);
        }
        match value {
            Value::Object(fields) => {
                let branches = self.object(fields)?;
                Ok(branches.into_iter().map(|branch| branch.below(name)).collect())
            }
            Value::Array(alternatives) => Ok(vec![Branch::leaf(name, self.leaf(name, alternatives)?)]),
            _ if is_operator(name) => self.refuse(format!(
                "is an operator outside a list; write [{{{name:?}: {value}}}], or {name:?}: [{value}] for a field \
                 of this name"
            )),
            scalar => Ok(vec![Branch::leaf(name, self.leaf(name, std::slice::from_ref(scalar))?)]),
        }
    }

    fn leaf(&mut self, name: &str, alternatives: &[Value]) -> Result<Leaf, FilterError> {
        if alternatives.is_empty() {
            return self.refuse("has an empty list; give at least one alternative");
        }
        let mut leaf = Leaf::default();
        for alternative in alternatives {
            match alternative {
                Value::Array(_) => return self.refuse("has a list within its list of alternatives"),
                Value::Object(operator) => {
                    if let Err(mut problem) = add_operator(&mut leaf, operator) {
                        if name == "$or" {
                            problem += " ($or is a plain field here: it needs two or more objects whose fields \
                                        have no operator's name)";
                        }
                        return self.refuse(problem);
                    }
                }
                scalar => {
                    leaf.values.add(scalar);
                }
            }
        }
        self.wildcards += leaf.operators.iter().map(Operator::wildcards).sum::<usize>();
        if self.wildcards > MAX_WILDCARDS {
            return self.refuse(format!(
                "is one wildcard too many; at most {MAX_WILDCARDS} are allowed in a filter"
            ));
        }
        self.conditions += leaf.size();
        if self.conditions > MAX_CONDITIONS {
            return self.refuse(format!(
                "is one field or operator too many; at most {MAX_CONDITIONS} are allowed in a filter"
            ));
        }
        Ok(leaf)
    }

    /// Every one of `left` together with every one of `right`.
    fn cross(&self, left: &[Branch], right: &[Branch]) -> Result<Vec<Branch>, FilterError> {
        self.bounded(left.len() * right.len())?;
        let mut both = Vec::with_capacity(left.len() * right.len());
        for (left, right) in left.iter().flat_map(|left| right.iter().map(move |right| (left, right))) {
            both.push(left.clone().and(right).map_err(|conflict| {
                let path =
                    self.path.iter().map(String::as_str).chain(conflict.path.iter().map(|name| &**name));
                FilterError { path: path.collect::<Vec<_>>().join("."), problem: conflict.problem.into() }
            })?);
        }
        Ok(both)
    }

    fn bounded(&self, branches: usize) -> Result<(), FilterError> {
        if branches > MAX_BRANCHES {
            return self.refuse(format!(
                "leads to more than {MAX_BRANCHES} combinations of $or; split it into several subscriptions"
            ));
        }
        Ok(())
    }
}

/// The alternatives of a `$or`: two or more objects, none of them using an operator's name as a field.
fn or_alternatives(value: &Value) -> Option<Vec<&Map<String, Value>>> {
    let items = value.as_array().filter(|items| items.len() >= 2)?;
    let objects: Option<Vec<_>> = items.iter().map(Value::as_object).collect();
    objects.filter(|objects| !objects.iter().any(|object| object.keys().any(|name| is_reserved(name))))
}

fn add_operator(leaf: &mut Leaf, operator: &Map<String, Value>) -> Result<(), String> {
    let mut entries = operator.iter();
    let (Some((name, operand)), None) = (entries.next(), entries.next()) else {
        return Err(format!(
            "has an alternative with {} operators; write one in each object",
            operator.len()
        ));
    };
    match (name.as_str(), operand) {
        ("exact", Value::String(_)) => {
            leaf.values.add(operand);
        }
        ("exact", _) => return Err("exact takes a string".into()),
        ("exists", Value::Bool(false)) => leaf.or_absent = true,
        _ => leaf.operators.push(Operator::new(name, operand)?),
    }
    Ok(())
}
