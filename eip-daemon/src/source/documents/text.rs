//! The text of documents: where one ends and the next begins, and in which line a mistake is.

use serde::de::DeserializeOwned;
use serde_yaml_ng::Value;

use crate::{
    model::{ObjectName, Origin, RefusedDocument},
    source::objects::ObjectError,
};

/// What is wrong with a document and, where it can be told, with which field or in which line.
pub(super) struct Problem {
    pub(super) text: String,
    place: Place,
}

pub(super) enum Place {
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
    pub(super) fn whole(text: String) -> Self {
        Self {
            text,
            place: Place::Whole,
        }
    }

    pub(super) fn field(path: &str, text: String) -> Self {
        Self {
            text,
            place: Place::Field(path.to_owned()),
        }
    }
}

/// The text of one document.
pub(super) struct Source<'a> {
    pub(super) text: &'a str,
    first_line: usize,
    is_json: bool,
}

impl<'a> Source<'a> {
    /// A whole file of JSON.
    pub(super) fn json(text: &'a str) -> Self {
        Self {
            text,
            first_line: 1,
            is_json: true,
        }
    }
}

impl Source<'_> {
    pub(super) fn parse(&self) -> Result<Value, Problem> {
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
    pub(super) fn typed<T: DeserializeOwned>(&self, value: Value) -> Result<T, Problem> {
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

    pub(super) fn refusal(
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
pub(super) fn split(text: &str) -> Vec<Source<'_>> {
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
