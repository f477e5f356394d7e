//! The known word that somebody who mistyped one most likely meant.

/// The word of `known` that differs from `word` in the fewest letters: at most a third of its own, and at least one. The
/// first of several that are equally near.
fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word: Vec<char> = word.chars().collect();
    let mut best: Option<(usize, &str)> = None;
    for candidate in known {
        let letters: Vec<char> = candidate.chars().collect();
        let limit = (letters.len() / 3).max(1).min(letters.len().saturating_sub(1));
        if letters.len().abs_diff(word.len()) > limit {
            continue;
        }
        let steps = distance(&word, &letters);
        if (1..=limit).contains(&steps) && best.is_none_or(|(least, _)| steps < least) {
            best = Some((steps, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// The question to somebody who mistyped a word, if the one that was meant can be guessed; `dashes` stand in front of it.
pub fn did_you_mean<'a>(dashes: &str, word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    nearest(word, known).map(|meant| format!("Did you mean '{dashes}{meant}'?"))
}

/// In how many steps one word becomes the other: a letter more, less, another one, or two neighbours exchanged.
fn distance(from: &[char], to: &[char]) -> usize {
    // The last three rows of the table whose cell (i, j) is the distance of the first i letters from the first j.
    let mut rows = [Vec::new(), Vec::new(), (0..=to.len()).collect::<Vec<usize>>()];
    for (i, letter) in from.iter().enumerate() {
        rows.rotate_left(1);
        rows[2] = vec![i + 1];
        for (j, other) in to.iter().enumerate() {
            let changed = rows[1][j] + usize::from(letter != other);
            let mut least = changed.min(rows[1][j + 1] + 1).min(rows[2][j] + 1);
            if i > 0 && j > 0 && *letter == to[j - 1] && from[i - 1] == *other {
                least = least.min(rows[0][j - 1] + 1);
            }
            rows[2].push(least);
        }
    }
    rows[2][to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistyped_words_are_found() {
        let known = ["convert", "commit", "compare", "create", "info", "dd", "map"];
        let cases = [
            ("covnert", Some("convert")),
            ("convrt", Some("convert")),
            ("conver", Some("convert")),
            ("conwwrt", Some("convert")),
            ("comit", Some("commit")),
            ("inof", Some("info")),
            ("ifno", Some("info")),
            ("md", Some("dd")),
            ("map", None),
            ("mop", Some("map")),
            ("x", None),
            ("", None),
            ("snapshot", None),
            ("information", None),
        ];
        for (word, expected) in cases {
            assert_eq!(nearest(word, known), expected, "{word}");
        }
    }

    #[test]
    fn steps_are_counted() {
        let letters = |word: &str| word.chars().collect::<Vec<_>>();
        for (a, b, steps) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "abc", 0),
            ("abc", "acb", 1),
            ("ab", "bca", 3),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(distance(&letters(a), &letters(b)), steps, "{a} {b}");
            assert_eq!(distance(&letters(b), &letters(a)), steps, "{b} {a}");
        }
    }
}
