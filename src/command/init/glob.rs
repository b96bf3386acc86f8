//! Patterns of table names: `*` stands for any characters, `?` for one.

/// True if the text matches the pattern.
pub(super) fn has_form(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    // `star` holds the position of the last star in the pattern, and the position in the text up to which the star has matched.
    let (mut at, mut of, mut star) = (0, 0, None);
    while of < text.len() {
        match pattern.get(at) {
            Some('*') => {
                star = Some((at, of));
                at += 1;
            }
            Some(one) if *one == '?' || *one == text[of] => (at, of) = (at + 1, of + 1),
            _ => match star {
                Some((before, taken)) => {
                    star = Some((before, taken + 1));
                    (at, of) = (before + 1, taken + 1);
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|one| *one == '*')
}

/// True if one of the patterns matches the table's name, or its schema and name with a dot between them. Without patterns every table matches.
pub(super) fn is_meant(patterns: &[String], schema: &str, name: &str) -> bool {
    let full = format!("{schema}.{name}");
    patterns.is_empty() || patterns.iter().any(|pattern| has_form(pattern, name) || has_form(pattern, &full))
}

/// True if one of the patterns has no `*` and no `?`, and is the name of a function, with or without its schema.
pub(super) fn is_named(patterns: &[String], schema: &str, name: &str) -> bool {
    let full = format!("{schema}.{name}");
    patterns.iter().any(|pattern| !pattern.contains(['*', '?']) && (*pattern == name || *pattern == full))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_names() {
        for (pattern, text, fits) in [
            ("*", "", true),
            ("roads", "roads", true),
            ("roads", "Roads", false),
            ("ne_*_admin", "ne_10m_admin", true),
            ("ne_*_admin", "ne_10m_admin_0", false),
            ("*_*", "a_b_c", true),
            ("r?ads", "roads", true),
            ("r?ads", "rads", false),
            ("", "", true),
            ("", "a", false),
            ("**a", "bca", true),
            ("ä?", "äö", true),
        ] {
            assert_eq!(has_form(pattern, text), fits, "{pattern} {text}");
        }
        let is = |pattern: &str| is_meant(&[pattern.to_owned()], "public", "a.b");
        assert!(is("a.b") && is("public.*") && is("public.a.b") && !is("public") && is_meant(&[], "x", "y"));
    }
}
