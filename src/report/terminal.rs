//! Text on standard output and standard error. Text that others wrote, such as names of files, layers and tables or a
//! server's messages, is made harmless for a terminal.
//!
//! Control characters can move the cursor, clear the screen, set the window's title or, in some terminals, type
//! commands. [`print()`] and the log (`record`) escape them in everything that they write; no other function of the
//! program writes to standard output or standard error, except the progress bar, which escapes them, too.

use std::borrow::Cow;
use std::io;
use std::io::{IsTerminal as _, Write as _};

use serde::Serialize;

use crate::json::JsonDocument;

/// True for characters that a terminal obeys, that change the direction of text, or that some programs take for the end
/// of a line: control characters (Unicode category Cc: C0, DEL and C1), bidirectional formatting characters (Unicode
/// Standard Annex 9, section 2), and U+2028 and U+2029.
pub(crate) fn is_steering(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// `text` with each character that steers a terminal escaped, such as `\u{1b}`; line breaks and tabs stay.
pub(crate) fn visible(text: &str) -> Cow<'_, str> {
    let is_escaped = |c: char| is_steering(c) && !matches!(c, '\n' | '\t');
    if !text.contains(is_escaped) {
        return Cow::Borrowed(text);
    }
    let escaped = |c: char| if is_escaped(c) { c.escape_default().to_string() } else { c.to_string() };
    Cow::Owned(text.chars().map(escaped).collect())
}

/// `text` on one line: like [`visible`], and line breaks and tabs are escaped, too. For names within a table or a list,
/// where a line break would look like a line of the program's own.
pub(crate) fn visible_line(text: &str) -> String {
    text.chars().map(|c| if is_steering(c) { c.escape_default().to_string() } else { c.to_string() }).collect()
}

/// JSON with each character that steers a terminal as `\uXXXX`, which means the same (RFC 8259, section 7).
/// `serde_json` escapes only those below U+0020. Line breaks stay: outside of texts they are white space, and inside
/// `serde_json` has escaped them.
pub(crate) fn visible_json(json: &str) -> String {
    let escaped = |c: char| {
        if is_steering(c) && c != '\n' { format!("\\u{:04x}", u32::from(c)) } else { c.to_string() }
    };
    json.chars().map(escaped).collect()
}

fn write_out(text: &str) -> io::Result<()> {
    print_bytes(text.as_bytes())
}

/// Writes bytes to standard output as they are.
pub fn print_bytes(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        // The reader has closed the pipe, as `head` does.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// Writes text for a person to standard output.
pub fn print(text: &str) -> io::Result<()> {
    write_out(&visible(text))
}

/// Writes JSON to standard output.
pub fn print_json(json: &str) -> io::Result<()> {
    write_out(&visible_json(json))
}

/// Writes a value to standard output as indented JSON.
pub fn print_as_json(value: &impl Serialize) -> io::Result<()> {
    print_json(&(serde_json::to_string_pretty(value)? + "\n"))
}

/// Writes a JSON document to standard output: an object, with the version of its form.
pub fn print_document(content: &impl Serialize) -> io::Result<()> {
    print_as_json(&JsonDocument::new(content))
}

/// Writes a result to standard output: as a JSON document if that is wanted, or else as text for a person.
pub fn print_result<T: Serialize>(as_json: bool, result: &T, text: impl Fn(&T) -> String) -> io::Result<()> {
    if as_json { print_document(result) } else { print(&text(result)) }
}

/// Writes a script, such as SQL for psql, to standard output: byte for byte, unless that is a terminal, where nothing
/// would run it.
pub fn print_script(script: &str) -> io::Result<()> {
    if io::stdout().is_terminal() { print(script) } else { write_out(script) }
}

/// Writes text to standard error.
pub(crate) fn write_err(text: &str) {
    // A closed standard error must not fail a run, and there is no other place to report it.
    drop(io::stderr().lock().write_all(text.as_bytes()));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// ESC [ 2 J clears a screen, in its 7-bit and its 8-bit form; BEL; a right-to-left override; a carriage return; a
    /// line separator.
    const HOSTILE: &str = "a\u{1b}[2Jb\u{9b}2Jc\u{7}d\u{202e}e\rf\u{7f}\u{2028}g";

    #[test]
    fn what_steers_a_terminal_is_shown_instead_of_obeyed() {
        let shown = "a\\u{1b}[2Jb\\u{9b}2Jc\\u{7}d\\u{202e}e\\rf\\u{7f}\\u{2028}g";
        assert_eq!(visible(HOSTILE), shown);
        assert_eq!(visible("Zürich\t→ 1\nnext"), "Zürich\t→ 1\nnext", "other text stays");
        assert_eq!(visible_line("a\nb\u{1b}"), "a\\nb\\u{1b}");
    }

    #[test]
    fn escaped_json_means_the_same() {
        let value = serde_json::json!({ "name": HOSTILE, "other": ["Zürich", 1] });
        let escaped = visible_json(&serde_json::to_string_pretty(&value).unwrap());
        assert!(!escaped.contains(|c: char| is_steering(c) && c != '\n'), "{escaped}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&escaped).unwrap(), value);
    }
}
