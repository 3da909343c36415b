//! From the text of a file to objects. A file is split into documents before anything is parsed, so a
//! syntax error in one document does not hurt the others of the file.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde_yaml_ng::Value;

use super::objects::{
    BINDING_API, BINDING_KIND, BINDING_SPEC, EipBinding, Metadata, ObjectError, VM_APIS, VM_KIND,
    VirtualMachineInstance,
};
use crate::model::{BindingFact, ObjectName, Origin, RefusedDocument, VmFact};

#[cfg(test)]
mod tests;

/// An object somebody wrote down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Object {
    /// An `EipBinding`.
    Binding(BindingFact),
    /// A `VirtualMachineInstance`.
    Vm(VmFact),
}

/// What makes two documents the same object.
pub(super) type ObjectKey = (&'static str, ObjectName);

impl Object {
    pub(super) fn key(&self) -> ObjectKey {
        match self {
            Self::Binding(fact) => (BINDING_KIND, fact.name.clone()),
            Self::Vm(fact) => (VM_KIND, fact.name.clone()),
        }
    }

    pub(super) fn origin(&self) -> Option<&Origin> {
        match self {
            Self::Binding(fact) => fact.origin.as_ref(),
            Self::Vm(fact) => fact.origin.as_ref(),
        }
    }
}

/// What a file says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Reading {
    pub(super) objects: Vec<Object>,
    pub(super) refused: Vec<RefusedDocument>,
}

/// A kind this agent reads. A new kind is a new row of [`KINDS`].
struct Kind {
    name: &'static str,
    apis: &'static [&'static str],
    /// Every field of `spec`, where an unknown one is a mistake.
    spec: Option<&'static [&'static str]>,
    read: fn(&Source<'_>, Value, Origin) -> Result<Object, Problem>,
}

const KINDS: [Kind; 2] = [
    Kind {
        name: BINDING_KIND,
        apis: &[BINDING_API],
        spec: Some(&BINDING_SPEC),
        read: |source, value, origin| {
            let binding: EipBinding = source.typed(value)?;
            Ok(Object::Binding(binding.into_fact(Some(origin))?))
        },
    },
    Kind {
        name: VM_KIND,
        apis: &VM_APIS,
        spec: None,
        read: |source, value, origin| {
            let vm: VirtualMachineInstance = source.typed(value)?;
            Ok(Object::Vm(vm.into_fact(Some(origin))?))
        },
    },
];

/// What is wrong with a document and, where it can be told, with which field or in which line.
struct Problem {
    text: String,
    place: Place,
}

enum Place {
    Whole,
    Field(String),
    Line(usize),
}

impl From<ObjectError> for Problem {
    fn from(error: ObjectError) -> Self {
        Self {
            text: error.to_string(),
            place: Place::Field(error.field().to_owned()),
        }
    }
}

impl Problem {
    fn whole(text: String) -> Self {
        Self {
            text,
            place: Place::Whole,
        }
    }

    fn field(path: &str, text: String) -> Self {
        Self {
            text,
            place: Place::Field(path.to_owned()),
        }
    }
}

/// The text of one document.
struct Source<'a> {
    text: &'a str,
    first_line: usize,
    is_json: bool,
}

/// Reads all documents of a file.
pub(super) fn read(file: &Path, text: &str) -> Reading {
    let is_json = file
        .extension()
        .is_some_and(|extension| extension == "json");
    let sources = if is_json {
        vec![Source {
            text,
            first_line: 1,
            is_json,
        }]
    } else {
        split(text)
    };
    let mut reading = Reading::default();
    for (index, source) in sources.iter().enumerate() {
        let origin = Origin {
            file: file.to_owned(),
            document: index + 1,
        };
        match source.parse() {
            Ok(value) => read_value(source, value, &origin, &mut reading),
            Err(problem) => reading.refused.push(source.refusal(problem, origin, None)),
        }
    }
    reading
}

/// One object, or each item of a list.
fn read_value(source: &Source<'_>, value: Value, origin: &Origin, reading: &mut Reading) {
    let is_list = text_of(&value, "kind").is_some_and(|kind| kind.ends_with("List"));
    let items = match value.get("items") {
        Some(Value::Sequence(items)) if is_list => items.clone(),
        _ => vec![value],
    };
    for (index, item) in items.into_iter().enumerate() {
        let name = name_of(&item);
        match read_object(source, item, origin) {
            Ok(object) => reading.objects.push(object),
            Err(mut problem) => {
                if is_list {
                    // The same field names stand in every item: no line can be told.
                    let text = format!("items[{index}]: {}", problem.text);
                    problem = Problem::whole(text);
                }
                reading
                    .refused
                    .push(source.refusal(problem, origin.clone(), name));
            }
        }
    }
}

fn read_object(source: &Source<'_>, value: Value, origin: &Origin) -> Result<Object, Problem> {
    let kind = kind_of(&value)?;
    if let Some(known) = kind.spec {
        only_known_fields(&value, known)?;
    }
    (kind.read)(source, without_nulls(value), origin.clone())
}

fn kind_of(value: &Value) -> Result<&'static Kind, Problem> {
    let Some(name) = text_of(value, "kind") else {
        return Err(Problem::whole(format!(
            "kind is missing: one of {}",
            known_kinds()
        )));
    };
    let Some(kind) = KINDS.iter().find(|kind| kind.name == name) else {
        let hint = did_you_mean(name, KINDS.iter().map(|kind| kind.name));
        let text = format!(
            "kind {name:?} is not known here{hint}: known are {}",
            known_kinds()
        );
        return Err(Problem::field("kind", text));
    };
    let api = text_of(value, "apiVersion").unwrap_or_default();
    if kind.apis.contains(&api) {
        return Ok(kind);
    }
    let expected = kind.apis.join(" or ");
    Err(Problem::field(
        "apiVersion",
        format!("apiVersion of {name} is {expected}, not {api:?}"),
    ))
}

fn known_kinds() -> String {
    let names = KINDS
        .iter()
        .map(|kind| format!("{} ({})", kind.name, kind.apis.join(", ")));
    names.collect::<Vec<_>>().join(", ")
}

/// In a file an unknown field of `spec` is a typing error that would otherwise be found much later.
fn only_known_fields(value: &Value, known: &[&'static str]) -> Result<(), Problem> {
    let Some(Value::Mapping(spec)) = value.get("spec") else {
        return Ok(());
    };
    for key in spec.keys() {
        let name = key.as_str().unwrap_or_default();
        if !known.contains(&name) {
            let hint = did_you_mean(name, known.iter().copied());
            let text = format!(
                "spec.{name}: no such field{hint}; known are {}",
                known.join(", ")
            );
            return Err(Problem::field(&format!("spec.{name}"), text));
        }
    }
    Ok(())
}

fn text_of<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    value.get(key).and_then(Value::as_str)
}

/// The name of an object that may be wrong in every other respect.
fn name_of(value: &Value) -> Option<ObjectName> {
    let metadata: Metadata = serde_yaml_ng::from_value(value.get("metadata")?.clone()).ok()?;
    metadata.object_name().ok()
}

/// Written-out nulls mean "not given", except that `pod: null` names the pod network.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Mapping(entries) => Value::Mapping(
            entries
                .into_iter()
                .filter(|(key, value)| !value.is_null() || key.as_str() == Some("pod"))
                .map(|(key, value)| (key, without_nulls(value)))
                .collect(),
        ),
        Value::Sequence(items) => Value::Sequence(items.into_iter().map(without_nulls).collect()),
        other => other,
    }
}

impl Source<'_> {
    fn parse(&self) -> Result<Value, Problem> {
        if self.is_json {
            return serde_json::from_str(self.text).map_err(|error| Problem {
                place: Place::Line(error.line()),
                text: format!("not valid JSON: {error}"),
            });
        }
        let invalid = |error: serde_yaml_ng::Error| {
            let line = error.location().map_or(1, |location| location.line());
            let text = error.to_string();
            // The library counts from the start of the document: the line is told in front.
            let text = text.split(" at line ").next().unwrap_or(&text);
            Problem {
                text: format!("not valid YAML: {text}"),
                place: Place::Line(line),
            }
        };
        let mut value: Value = serde_yaml_ng::from_str(self.text).map_err(invalid)?;
        value.apply_merge().map_err(invalid)?;
        Ok(value)
    }

    /// A value of the wrong shape is parsed once more from the text, because only then the error
    /// tells the field.
    fn typed<T: DeserializeOwned>(&self, value: Value) -> Result<T, Problem> {
        serde_yaml_ng::from_value(value).map_err(|error| {
            let located = serde_yaml_ng::from_str::<T>(self.text)
                .err()
                .unwrap_or(error);
            let text = located.to_string();
            let text = text.split(" at line ").next().unwrap_or(&text).to_owned();
            let place = located
                .location()
                .map_or(Place::Whole, |location| Place::Line(location.line()));
            Problem { text, place }
        })
    }

    fn refusal(
        &self,
        problem: Problem,
        origin: Origin,
        name: Option<ObjectName>,
    ) -> RefusedDocument {
        let line = match problem.place {
            Place::Whole => self.first_content_line(),
            Place::Field(path) => self
                .line_of(&path)
                .unwrap_or_else(|| self.first_content_line()),
            Place::Line(line) => self.first_line + line.max(1) - 1,
        };
        RefusedDocument {
            origin,
            name,
            problem: format!("line {line}: {}", problem.text),
        }
    }

    fn first_content_line(&self) -> usize {
        let skipped = self.text.lines().position(has_content).unwrap_or(0);
        self.first_line + skipped
    }

    /// Looks for the keys of a path one after the other: good enough to point a person at the line.
    fn line_of(&self, path: &str) -> Option<usize> {
        let mut lines = self.text.lines().enumerate();
        let mut found = None;
        for key in path
            .split('.')
            .map(|part| part.split('[').next().unwrap_or(part))
        {
            match lines.by_ref().find(|(_, line)| is_key(line, key)) {
                Some((index, _)) => found = Some(self.first_line + index),
                None => break,
            }
        }
        found
    }
}

fn is_key(line: &str, key: &str) -> bool {
    let line = line
        .trim_start()
        .trim_start_matches("- ")
        .trim_start_matches(['"', '\'']);
    line.strip_prefix(key).is_some_and(|rest| {
        rest.trim_start_matches(['"', '\''])
            .trim_start()
            .starts_with(':')
    })
}

fn has_content(line: &str) -> bool {
    let line = line.trim();
    !line.is_empty() && !line.starts_with('#')
}

/// Splits at the document markers of YAML: `---` and `...` at the start of a line, which can be
/// nothing else there. Documents of comments only do not count.
fn split(text: &str) -> Vec<Source<'_>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut sources = Vec::new();
    let mut start = 0;
    let mut first_line = 1;
    let mut offset = 0;
    for (index, line) in text.split_inclusive('\n').enumerate() {
        if is_marker(line) {
            push_document(&mut sources, &text[start..offset], first_line);
            start = offset + 3;
            first_line = index + 1;
        }
        offset += line.len();
    }
    push_document(&mut sources, &text[start..], first_line);
    sources
}

fn is_marker(line: &str) -> bool {
    ["---", "..."].iter().any(|marker| {
        line.strip_prefix(marker)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
    })
}

fn push_document<'a>(sources: &mut Vec<Source<'a>>, text: &'a str, first_line: usize) {
    let is_directive = |line: &str| line.starts_with('%');
    if text
        .lines()
        .any(|line| has_content(line) && !is_directive(line))
    {
        sources.push(Source {
            text,
            first_line,
            is_json: false,
        });
    }
}

/// `", did you mean X?"` where a known word is close enough to be meant.
fn did_you_mean<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> String {
    known
        .map(|candidate| {
            (
                distance(&word.to_lowercase(), &candidate.to_lowercase()),
                candidate,
            )
        })
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 4)
        .min()
        .map_or_else(String::new, |(_, candidate)| {
            format!(" (did you mean {candidate:?}?)")
        })
}

/// Levenshtein distance, one row at a time.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (to, cell) in b.iter().zip(row.iter_mut().skip(1)) {
            let above = *cell;
            left = (diagonal + usize::from(from != *to))
                .min(above + 1)
                .min(left + 1);
            diagonal = above;
            *cell = left;
        }
        row[0] = i + 1;
    }
    row.last().copied().unwrap_or_default()
}
