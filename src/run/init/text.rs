//! TOML as text. Names come from the database, and none of them must be able to end a string or a comment.

/// A string: in single quotes if that saves escapes.
pub(crate) fn string(text: &str) -> String {
    let is_plain = !text.contains('\'') && !text.chars().any(char::is_control);
    if is_plain && text.contains(['"', '\\']) {
        return format!("'{text}'");
    }
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            other if other.is_control() => quoted.push_str(&format!("\\u{:04X}", u32::from(other))),
            other => quoted.push(other),
        }
    }
    quoted + "\""
}

/// A string in which `${` is no variable.
pub(crate) fn value(text: &str) -> String {
    string(&text.replace("${", "$${"))
}

pub(crate) fn key(name: &str) -> String {
    let is_bare = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    if is_bare { name.to_owned() } else { string(name) }
}

/// A list of strings in which `${` is no variable.
pub(crate) fn list<'a>(texts: impl IntoIterator<Item = &'a String>) -> String {
    format!("[{}]", texts.into_iter().map(|text| value(text)).collect::<Vec<_>>().join(", "))
}

/// A list of strings for a key that does not expand variables.
pub(crate) fn plain_list<'a>(texts: impl IntoIterator<Item = &'a String>) -> String {
    format!("[{}]", texts.into_iter().map(|text| string(text)).collect::<Vec<_>>().join(", "))
}

/// A text as comment lines of at most 120 characters, unless a word is longer.
pub(crate) fn comment(text: &str) -> String {
    const MAX_CHARACTERS: usize = 120;
    let shown: String = text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    let mut lines = vec!["#".to_owned()];
    for word in shown.split(' ') {
        let last = lines.last_mut().filter(|line| line.chars().count() + word.chars().count() < MAX_CHARACTERS);
        match last {
            Some(line) => line.push_str(&format!(" {word}")),
            None => lines.push(format!("#   {word}")),
        }
    }
    lines.join("\n") + "\n"
}

pub(crate) fn commented(lines: &str) -> String {
    lines.lines().map(|line| if line.is_empty() { "#\n".to_owned() } else { format!("# {line}\n") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_inside_of_their_strings() {
        for name in ["plain", "a\"b", "it's", "a\"b'c\\", "line\nbreak", "\u{7f}", "'''", "\"\"\"", "ü ö", ""] {
            let read: toml::Table = toml::from_str(&format!("{} = {}", key(name), string(name))).unwrap();
            assert_eq!(read[name].as_str(), Some(name));
        }
        assert_eq!(string("\"id\"::text"), "'\"id\"::text'");
    }

    #[test]
    fn comments_stay_comments() {
        let text = format!("{}{}", comment("a\n[layer]\r\nb"), commented("[x]\ny = 1\n"));
        assert!(text.lines().all(|line| line.starts_with('#')), "{text}");
        assert!(comment(&"word ".repeat(100)).lines().all(|line| line.len() < 130));
    }
}
