//! What came out: a table for people, or JSON.

use std::{fmt, time::Duration};

use serde_json::{Map, Value, json};

/// A number with its unit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Number {
    /// Time.
    Time(Duration),
    /// Bytes.
    Bytes(u64),
    /// How many.
    Count(f64),
    /// Part of one CPU.
    Cpu(f64),
}

impl Number {
    fn json(self) -> Value {
        match self {
            Self::Time(time) => json!({"milliseconds": time.as_secs_f64() * 1000.0}),
            Self::Bytes(bytes) => json!({"bytes": bytes}),
            Self::Count(count) => json!({"count": count}),
            Self::Cpu(part) => json!({"cpus": part}),
        }
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match *self {
            Self::Time(time) if time.as_secs() >= 10 => format!("{:.1} s", time.as_secs_f64()),
            Self::Time(time) => format!("{:.1} ms", time.as_secs_f64() * 1000.0),
            Self::Bytes(bytes) if bytes < 1 << 20 => format!("{} KiB", bytes >> 10),
            Self::Bytes(bytes) => {
                format!("{}.{} MiB", bytes >> 20, ((bytes & 0xF_FFFF) * 10) >> 20)
            }
            Self::Count(count) => format!("{count:.2}"),
            Self::Cpu(part) => format!("{:.1} % of a CPU", part * 100.0),
        };
        f.pad(&text)
    }
}

#[derive(Debug)]
enum Line {
    Title(String),
    Row {
        name: String,
        numbers: Vec<(&'static str, Number)>,
    },
}

/// All of it, in the order in which it was measured.
#[derive(Debug, Default)]
pub(crate) struct Results(Vec<Line>);

impl Results {
    pub(crate) fn title(&mut self, text: &str) {
        self.0.push(Line::Title(text.to_owned()));
    }

    pub(crate) fn row(&mut self, name: &str, numbers: &[(&'static str, Number)]) {
        self.0.push(Line::Row {
            name: name.to_owned(),
            numbers: numbers.to_vec(),
        });
    }

    /// Percentiles of times.
    pub(crate) fn times(&mut self, name: &str, times: &[Duration]) {
        let mut times = times.to_vec();
        times.sort();
        let at = |part: f64| {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                clippy::cast_precision_loss,
                reason = "an index into a short list"
            )]
            let index = ((times.len() as f64 * part).ceil() as usize).clamp(1, times.len().max(1));
            Number::Time(times.get(index - 1).copied().unwrap_or_default())
        };
        self.row(
            name,
            &[("p50", at(0.5)), ("p99", at(0.99)), ("max", at(1.0))],
        );
    }

    /// As an object with one for each title.
    pub(crate) fn json(&self) -> Value {
        let mut all = Map::new();
        let mut title = String::new();
        for line in &self.0 {
            match line {
                Line::Title(text) => title.clone_from(text),
                Line::Row { name, numbers } => {
                    let numbers: Map<String, Value> = numbers
                        .iter()
                        .map(|(label, number)| ((*label).to_owned(), number.json()))
                        .collect();
                    let of_title = all.entry(title.clone()).or_insert_with(|| json!({}));
                    of_title[name] = Value::Object(numbers);
                }
            }
        }
        Value::Object(all)
    }
}

impl fmt::Display for Results {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.0 {
            match line {
                Line::Title(text) => writeln!(f, "\n{text}")?,
                Line::Row { name, numbers } => {
                    write!(f, "  {name:<52}")?;
                    for (label, number) in numbers {
                        write!(f, " {label:>12} {number:<16}")?;
                    }
                    writeln!(f)?;
                }
            }
        }
        Ok(())
    }
}
