//! What is wanted, beside what was measured.

use std::time::Duration;

/// All goals that something was measured for.
#[derive(Debug, Default)]
pub(crate) struct Goals(Vec<Goal>);

#[derive(Debug)]
struct Goal {
    what: String,
    limit: String,
    measured: String,
    is_met: bool,
}

impl Goals {
    /// A number with a limit.
    pub(crate) fn at_most(&mut self, what: impl Into<String>, measured: f64, limit: f64) {
        self.0.push(Goal {
            what: what.into(),
            limit: format!("at most {limit}"),
            measured: format!("{measured:.2}"),
            is_met: measured <= limit,
        });
    }

    /// A time with a limit.
    pub(crate) fn within(&mut self, what: impl Into<String>, measured: Duration, limit: Duration) {
        self.0.push(Goal {
            what: what.into(),
            limit: format!("at most {limit:?}"),
            measured: format!("{measured:.2?}"),
            is_met: measured <= limit,
        });
    }

    /// A table in Markdown.
    pub(crate) fn print(&self) {
        println!("\n| goal | limit | measured | met |\n|---|---|---|---|");
        for goal in &self.0 {
            let is_met = if goal.is_met { "yes" } else { "**no**" };
            println!(
                "| {} | {} | {} | {is_met} |",
                goal.what, goal.limit, goal.measured
            );
        }
    }
}

/// The value that so many of a hundred do not exceed.
pub(crate) fn percentile(values: &mut [Duration], part: usize) -> Duration {
    values.sort_unstable();
    let at = (values.len() * part / 100).min(values.len().saturating_sub(1));
    values.get(at).copied().unwrap_or_default()
}

/// The middle one, NaN of none.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
