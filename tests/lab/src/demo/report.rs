//! The paper the demo is told on: numbered steps, and what came of each.

use super::Outcome;

/// Columns for what was done.
const WIDTH: usize = 50;

/// Counts steps and failures while printing them.
#[derive(Debug, Default)]
pub(super) struct Report {
    steps: u32,
    failed: Vec<u32>,
}

impl Report {
    /// A headline.
    #[expect(clippy::unused_self, reason = "reads like the rest of the report")]
    pub(super) fn chapter(&mut self, title: &str) {
        println!("\n{title}");
    }

    /// One claim, tried: prints what was seen, or what was expected and what happened instead.
    pub(super) fn step(
        &mut self,
        what: &str,
        expected: &str,
        trial: impl FnOnce() -> anyhow::Result<String>,
    ) {
        self.steps += 1;
        let number = self.steps;
        match trial() {
            Ok(seen) => println!("{number:4}  ok      {what:WIDTH$}  {seen}"),
            Err(error) => {
                self.failed.push(number);
                println!("{number:4}  FAILED  {what:WIDTH$}");
                println!("{:14}expected: {expected}", "");
                println!("{:14}instead:  {error:#}", "");
            }
        }
    }

    /// Output of a command, as it is.
    pub(super) fn quote(&mut self, command: &str, text: &anyhow::Result<String>) {
        println!("\n      $ {command}");
        match text {
            Ok(text) => {
                for line in text.lines() {
                    println!("      {line}");
                }
            }
            Err(error) => {
                self.steps += 1;
                self.failed.push(self.steps);
                println!("{:4}  FAILED  {error:#}", self.steps);
            }
        }
    }

    pub(super) fn outcome(&self) -> Outcome {
        if self.failed.is_empty() {
            Outcome::Held
        } else {
            Outcome::Failed
        }
    }

    /// One sentence for the end.
    pub(super) fn verdict(&self) -> String {
        let Self { steps, failed } = self;
        if failed.is_empty() {
            return format!("All {steps} steps held.");
        }
        let numbers: Vec<_> = failed.iter().map(u32::to_string).collect();
        format!(
            "{} of {steps} steps FAILED: {}.",
            failed.len(),
            numbers.join(", ")
        )
    }
}
