//! `cargo xtask doctor`: the list of what this machine has and lacks.

use anyhow::{Result, bail};
use clap::ValueEnum;
use serde_json::json;

use crate::needs::{NEEDS, Need, User};

/// Shows what each verb needs of this machine, what is missing, and the cure.
///
/// Ends with 1 when something is missing. The other verbs look at their own part of this list
/// before they start, and install what they can.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How to show it.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Output {
    Text,
    Json,
}

/// A need and what was found.
type Finding = (&'static Need, Result<String, String>);

pub(crate) fn run(args: &Args) -> Result<()> {
    let findings: Vec<Finding> = NEEDS.iter().map(|need| (need, need.look())).collect();
    match args.output {
        Output::Text => println!("{}", text(&findings)),
        Output::Json => println!("{:#}", to_json(&findings)),
    }
    let missing = findings.iter().filter(|(_, found)| found.is_err()).count();
    if missing > 0 {
        bail!("{missing} of {} missing", findings.len());
    }
    Ok(())
}

fn text(findings: &[Finding]) -> String {
    let width = findings
        .iter()
        .map(|(need, _)| need.name.len())
        .max()
        .unwrap_or(0);
    let mut lines = Vec::new();
    for (need, found) in findings {
        match found {
            Ok(detail) => lines.push(format!("ok       {:<width$}  {detail}", need.name)),
            Err(what) => {
                lines.push(format!("MISSING  {:<width$}  {what}", need.name));
                lines.push(format!(
                    "         {:<width$}  needed by: {}",
                    "",
                    users(need).join(", ")
                ));
                lines.push(format!("         {:<width$}  cure: {}", "", need.cure()));
            }
        }
    }
    lines.push(String::new());
    for user in User::ALL {
        let lacks: Vec<&str> = findings
            .iter()
            .filter(|(need, found)| found.is_err() && need.users.contains(&user))
            .map(|(need, _)| need.name)
            .collect();
        let verdict = if lacks.is_empty() {
            "ready".to_owned()
        } else {
            format!("lacks {}", lacks.join(", "))
        };
        lines.push(format!("cargo xtask {:<12}  {verdict}", user.name()));
    }
    lines.join("\n")
}

fn to_json(findings: &[Finding]) -> serde_json::Value {
    let needs: Vec<_> = findings
        .iter()
        .map(|(need, found)| {
            json!({
                "name": need.name,
                "ok": found.is_ok(),
                "detail": found.as_ref().unwrap_or_else(|what| what),
                "neededBy": users(need),
                "cure": need.cure(),
            })
        })
        .collect();
    json!({ "ok": findings.iter().all(|(_, found)| found.is_ok()), "needs": needs })
}

fn users(need: &Need) -> Vec<&'static str> {
    need.users.iter().map(|user| user.name()).collect()
}

#[cfg(test)]
mod tests {
    use super::{NEEDS, text, to_json};

    #[test]
    fn a_missing_thing_is_shown_with_its_users_and_its_cure() {
        let findings = [(&NEEDS[0], Err("gone".to_owned()))];
        let shown = text(&findings);
        assert!(shown.contains("MISSING  rust  gone"), "{shown}");
        assert!(
            shown.contains("needed by: build") && shown.contains("cure: rustup"),
            "{shown}"
        );
        assert!(
            shown.contains("cargo xtask demo          lacks rust"),
            "{shown}"
        );
        assert_eq!(to_json(&findings)["ok"], false);
    }

    #[test]
    fn a_verb_that_lacks_nothing_is_ready() {
        let findings = [(&NEEDS[0], Ok("1.95.0".to_owned()))];
        assert!(text(&findings).contains("cargo xtask build         ready"));
        assert_eq!(to_json(&findings)["needs"][0]["detail"], "1.95.0");
    }
}
