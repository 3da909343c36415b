//! From what a person typed to the binding that is meant. Pure.

use std::net::IpAddr;

use axum::http::StatusCode;

use super::{api::BindingPhase, error::ApiError, view::phase};
use crate::{
    model::{Facts, ObjectName},
    report::{BindingReport, Report},
};

/// How many near matches a person is shown.
const SUGGESTIONS: usize = 3;

/// The binding of an EIP, `NAME` or `NAMESPACE/NAME`. Among several objects for one EIP the one
/// that holds it is meant.
pub(super) fn find<'a>(report: &'a Report, key: &str) -> Result<&'a BindingReport, ApiError> {
    let found = all(report, key);
    let holder = found
        .iter()
        .find(|item| phase(report, item) != BindingPhase::Refused);
    match (key.parse::<IpAddr>(), found.as_slice()) {
        (_, []) => Err(not_found(report, key)),
        (_, [one]) => Ok(one),
        (Ok(_), [first, ..]) => Ok(holder.unwrap_or(first)),
        (Err(_), several) => Err(ambiguous(key, several)),
    }
}

/// As [`find`], for somebody who wants to remove it: never guesses among several.
pub(super) fn find_only<'a>(report: &'a Report, key: &str) -> Result<&'a BindingReport, ApiError> {
    match all(report, key).as_slice() {
        [] => Err(not_found(report, key)),
        [one] => Ok(one),
        several => Err(ambiguous(key, several)),
    }
}

/// Every binding that a person can mean who asks why something works or not: by its EIP, its name, or the
/// name of its VM. Nothing for an EIP that no binding names.
pub(super) fn meant<'a>(
    report: &'a Report,
    facts: &Facts,
    key: &str,
) -> Result<Vec<&'a BindingReport>, ApiError> {
    if key.parse::<IpAddr>().is_ok() {
        return Ok(find(report, key).into_iter().collect());
    }
    let is_named = |name: &ObjectName| name.name == key || name.to_string() == key;
    let mut found: Vec<_> = report
        .bindings
        .iter()
        .filter(|item| is_named(&item.fact.vm) || is_named(&item.fact.name))
        .collect();
    found.sort_by_key(|item| (item.fact.eip, phase(report, item)));
    if !found.is_empty() {
        return Ok(found);
    }
    match facts.vms.iter().find(|vm| is_named(&vm.name)) {
        Some(vm) => Err(ApiError::new(
            StatusCode::NOT_FOUND,
            format!("no binding gives VM {} an EIP", vm.name),
        )
        .hint(format!("eipctl bind EIP {}", vm.name))),
        None => Err(not_found(report, key)),
    }
}

fn all<'a>(report: &'a Report, key: &str) -> Vec<&'a BindingReport> {
    let eip: Option<IpAddr> = key.parse().ok();
    let is_meant = |item: &&BindingReport| {
        let name = &item.fact.name;
        match eip {
            Some(eip) => item.fact.eip == eip,
            None => name.name == key || name.to_string() == key,
        }
    };
    report.bindings.iter().filter(is_meant).collect()
}

fn ambiguous(key: &str, several: &[&BindingReport]) -> ApiError {
    let names: Vec<_> = several
        .iter()
        .map(|item| item.fact.name.to_string())
        .collect();
    ApiError::new(
        StatusCode::CONFLICT,
        format!("{key} means {} bindings", several.len()),
    )
    .hint(format!("name one of them: {}", names.join(", ")))
}

fn not_found(report: &Report, key: &str) -> ApiError {
    let what = if key.parse::<IpAddr>().is_ok() {
        "with the EIP"
    } else {
        "named"
    };
    let error = ApiError::new(StatusCode::NOT_FOUND, format!("no binding {what} {key}"));
    let near = near(report, key);
    if !near.is_empty() {
        return error.hint(format!("did you mean {}?", near.join(", ")));
    }
    if !report.facts_complete {
        return error
            .cause("the source has not been read completely yet")
            .hint("try again");
    }
    error.hint("`eipctl list` shows every binding of this node")
}

/// EIPs or names like `key`, the nearest first.
fn near(report: &Report, key: &str) -> Vec<String> {
    let is_ip = key.parse::<IpAddr>().is_ok();
    let candidate = |item: &BindingReport| {
        if is_ip {
            item.fact.eip.to_string()
        } else {
            item.fact.name.name.clone()
        }
    };
    let limit = 1 + key.len() / 5;
    let mut near: Vec<(usize, String)> = report
        .bindings
        .iter()
        .map(candidate)
        .map(|text| (distance(key, &text), text))
        .filter(|(distance, text)| *distance <= limit || (!is_ip && text.contains(key)))
        .collect();
    near.sort();
    near.dedup();
    near.into_iter()
        .take(SUGGESTIONS)
        .map(|(_, text)| text)
        .collect()
}

/// Levenshtein distance, a row at a time.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::{distance, find, find_only};
    use crate::ctl::fixture;

    #[test]
    fn distances_count_single_changes() {
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("203.0.113.10", "203.0.113.11"), 1);
        assert_eq!(distance("web", "wbe"), 2);
        assert_eq!(distance("same", "same"), 0);
    }

    #[test]
    fn an_eip_means_the_binding_that_holds_it() {
        let report = fixture::report();
        assert_eq!(find(&report, "203.0.113.10").unwrap().fact.name.name, "web");
        assert_eq!(find(&report, "thief").unwrap().fact.name.name, "thief");
        assert_eq!(find(&report, "default/web").unwrap().fact.name.name, "web");
    }

    #[test]
    fn removing_never_guesses_among_several() {
        let report = fixture::report();
        let error = format!("{:?}", find_only(&report, "203.0.113.10").unwrap_err());
        assert!(error.contains("default/web, default/thief"), "{error}");
    }

    #[test]
    fn near_matches_are_offered() {
        let report = fixture::report();
        let error = format!("{:?}", find(&report, "203.0.113.1").unwrap_err());
        assert!(error.contains("did you mean 203.0.113.10"), "{error}");
        let error = format!("{:?}", find(&report, "wbe").unwrap_err());
        assert!(error.contains("eipctl list"), "{error}");
        let error = format!("{:?}", find(&report, "thie").unwrap_err());
        assert!(error.contains("did you mean thief?"), "{error}");
    }
}
