//! "Did you mean?"

/// `", did you mean X?"` where a known word is close enough to be meant: one letter off, or one in three
/// of the shorter word.
pub(super) fn did_you_mean<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> String {
    known
        .map(|candidate| {
            (
                distance(&word.to_lowercase(), &candidate.to_lowercase()),
                candidate,
            )
        })
        .filter(|(distance, candidate)| *distance <= (word.len().min(candidate.len()) / 3).max(1))
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

#[cfg(test)]
mod tests {
    use super::did_you_mean;

    const KINDS: [&str; 4] = [
        "EipBinding",
        "VirtualMachineInstance",
        "Node",
        "ServiceCIDR",
    ];

    #[test]
    fn only_a_near_word_is_offered() {
        for (word, meant) in [
            ("EIPBinding", Some("EipBinding")),
            ("EipBindng", Some("EipBinding")),
            ("Nodes", Some("Node")),
            ("VirtualMachineInstanc", Some("VirtualMachineInstance")),
            ("Pod", None),
            ("Service", None),
            ("ConfigMap", None),
            ("", None),
        ] {
            let expected =
                meant.map_or_else(String::new, |meant| format!(" (did you mean {meant:?}?)"));
            assert_eq!(did_you_mean(word, KINDS.into_iter()), expected, "{word}");
        }
    }
}
