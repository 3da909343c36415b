//! The steps of a long verb: a header before, the time after, a table at the end.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// What was done so far.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    done: Vec<Step>,
}

#[derive(Debug)]
struct Step {
    name: &'static str,
    took: Duration,
    error: Option<String>,
}

impl Steps {
    /// Runs a step. A failure is shown and kept; the steps after it still run.
    pub(crate) fn run(&mut self, name: &'static str, step: impl FnOnce() -> Result<()>) {
        eprintln!("\n==> {name}");
        let start = Instant::now();
        let error = step().err().map(|error| format!("{error:#}"));
        let took = start.elapsed();
        match &error {
            None => eprintln!("    {name}: ok, {}", seconds(took)),
            Some(error) => eprintln!("    {name}: FAILED, {}: {error}", seconds(took)),
        }
        self.done.push(Step { name, took, error });
    }

    /// Prints the table, and is an error when a step was one.
    pub(crate) fn finish(self) -> Result<()> {
        eprintln!("\n{}", self.table());
        let failed: Vec<&str> = self
            .done
            .iter()
            .filter(|step| step.error.is_some())
            .map(|step| step.name)
            .collect();
        if failed.is_empty() {
            return Ok(());
        }
        bail!("failed: {}", failed.join(", "));
    }

    fn table(&self) -> String {
        let width = self
            .done
            .iter()
            .map(|step| step.name.len())
            .max()
            .unwrap_or(0)
            .max(5);
        let mut rows: Vec<String> = Vec::new();
        for Step { name, took, error } in &self.done {
            let result = error.as_ref().map_or("ok", |_| "FAILED");
            rows.push(format!("{name:<width$}  {:>8}  {result}", seconds(*took)));
        }
        let total = self.done.iter().map(|step| step.took).sum();
        rows.push(format!("{:<width$}  {:>8}", "total", seconds(total)));
        rows.join("\n")
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::Steps;

    #[test]
    fn steps_after_a_failed_one_still_run_and_the_whole_fails() {
        let mut steps = Steps::default();
        let mut ran = false;
        steps.run("first", || bail!("broken"));
        steps.run("second", || {
            ran = true;
            Ok(())
        });
        assert!(ran);
        let table = steps.table();
        assert!(
            table.contains("first") && table.contains("FAILED"),
            "{table}"
        );
        assert!(
            table
                .lines()
                .any(|line| line.starts_with("second") && line.ends_with("ok"))
        );
        assert_eq!(steps.finish().unwrap_err().to_string(), "failed: first");
    }

    #[test]
    fn steps_that_all_held_are_no_error() {
        let mut steps = Steps::default();
        steps.run("only", || Ok(()));
        assert!(steps.finish().is_ok());
    }
}
