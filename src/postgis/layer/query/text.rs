//! Parses the text of a query: finds its placeholders, and skips text that only looks like a placeholder in literals, comments, names and operators.

use super::{Placeholder, QueryError, QueryPiece};

/// Reads a query from its beginning to its end (PostgreSQL documentation, section 4.1, "Lexical Structure").
pub(in crate::postgis) struct QueryReader<'a> {
    /// The text yet to be read.
    left: &'a str,
    pieces: Vec<QueryPiece>,
    /// The text since the last placeholder.
    plain: String,
    /// Unquoted names and keywords, in lower case.
    words: Vec<String>,
    /// The SQL that replaces `!name!` in a text that has parameters instead of placeholders.
    parameters: Option<&'a SqlOfParameter<'a>>,
}

/// The SQL of a parameter, if there is one of this name.
type SqlOfParameter<'a> = dyn Fn(&str) -> Option<String> + 'a;

impl<'a> QueryReader<'a> {
    /// The pieces of a query, and the words in it.
    pub(in crate::postgis) fn read_all(text: &'a str) -> Result<(Vec<QueryPiece>, Vec<String>), QueryError> {
        let mut reader = QueryReader::of(text);
        reader.read()?;
        reader.pieces.push(QueryPiece::Text(reader.plain));
        Ok((reader.pieces, reader.words))
    }

    /// The text with its parameters replaced.
    pub(super) fn read_filled(text: &'a str, parameters: &'a SqlOfParameter<'a>) -> Result<String, QueryError> {
        let mut reader = QueryReader { parameters: Some(parameters), ..QueryReader::of(text) };
        reader.read()?;
        Ok(reader.plain)
    }

    fn of(left: &'a str) -> QueryReader<'a> {
        QueryReader { left, pieces: Vec::new(), plain: String::new(), words: Vec::new(), parameters: None }
    }

    /// Reads some bytes as plain text.
    fn take(&mut self, bytes: usize) -> &'a str {
        let (taken, left) = self.left.split_at_checked(bytes).unwrap_or((self.left, ""));
        self.left = left;
        self.plain.push_str(taken);
        taken
    }

    fn read(&mut self) -> Result<(), QueryError> {
        while let Some(first) = self.left.chars().next() {
            match first {
                '\'' => self.quoted('\'', self.plain.ends_with(['e', 'E']) && self.is_prefix()),
                '"' => self.quoted('"', false),
                '-' if self.left.starts_with("--") => {
                    let end = self.left.find('\n').unwrap_or(self.left.len());
                    self.take(end);
                }
                '/' if self.left.starts_with("/*") => self.comment(),
                '$' => self.dollar()?,
                ';' => {
                    self.left = &self.left[1..];
                    self.read_rest()?;
                }
                '!' => self.exclamation()?,
                first if is_name_start(first) => {
                    let word = self.take(name_length(self.left)).to_lowercase();
                    self.words.push(word);
                }
                first => {
                    self.take(first.len_utf8());
                }
            }
        }
        Ok(())
    }

    /// Only space and comments may follow the semicolon.
    fn read_rest(&mut self) -> Result<(), QueryError> {
        while let Some(first) = self.left.chars().next() {
            match first {
                first if first.is_whitespace() => drop(self.take(first.len_utf8())),
                '-' if self.left.starts_with("--") => {
                    let end = self.left.find('\n').unwrap_or(self.left.len());
                    self.take(end);
                }
                '/' if self.left.starts_with("/*") => self.comment(),
                _ => return Err(QueryError::Several),
            }
        }
        Ok(())
    }

    /// True if the letter just read is a word of its own, such as the E of E'…'.
    fn is_prefix(&self) -> bool {
        self.words.last().is_some_and(|word| word == "e")
    }

    fn quoted(&mut self, quote: char, has_escapes: bool) {
        let mut characters = self.left.char_indices().skip(1).peekable();
        let mut end = self.left.len();
        while let Some((at, character)) = characters.next() {
            if character == '\\' && has_escapes {
                characters.next();
            } else if character == quote {
                // A doubled quote is a quote inside the text.
                if characters.next_if(|(_, next)| *next == quote).is_none() {
                    end = at + 1;
                    break;
                }
            }
        }
        self.take(end);
    }

    /// Reads a comment, which may contain further comments.
    fn comment(&mut self) {
        let mut depth = 0;
        loop {
            if self.left.starts_with("/*") {
                depth += 1;
                self.take(2);
            } else if self.left.starts_with("*/") {
                depth -= 1;
                self.take(2);
            } else if let Some(next) = self.left.chars().next() {
                self.take(next.len_utf8());
            }
            if depth == 0 || self.left.is_empty() {
                return;
            }
        }
    }

    /// Reads a text in dollar quotes. A statement parameter such as `$1` is an error.
    fn dollar(&mut self) -> Result<(), QueryError> {
        let inner = &self.left[1..];
        let digits = inner.len() - inner.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        if digits > 0 {
            return Err(QueryError::Parameter { found: self.left[..=digits].to_owned() });
        }
        let tag = if inner.starts_with(is_name_start) { tag_length(inner) } else { 0 };
        if !inner[tag..].starts_with('$') {
            self.take(1);
            return Ok(());
        }
        let delimiter = &self.left[..tag + 2];
        let end = self.left[delimiter.len()..].find(delimiter);
        self.take(end.map_or(self.left.len(), |end| end + 2 * delimiter.len()));
        Ok(())
    }

    /// Reads a placeholder or an operator.
    fn exclamation(&mut self) -> Result<(), QueryError> {
        let inner = &self.left[1..];
        let length = if inner.starts_with(is_name_start) { name_length(inner) } else { 0 };
        let (name, behind) = inner.split_at(length);
        if let Some(sql_of) = self.parameters {
            return self.parameter(name, behind, sql_of);
        }
        // "bbox!" lacks the first exclamation mark.
        let before = self.plain.len() - self.plain.trim_end_matches(is_name).len();
        let before = &self.plain[self.plain.len() - before..];
        if !behind.starts_with('=') && !behind.starts_with('~') && length == 0 && known(before).is_some() {
            return Err(QueryError::Unbalanced { found: format!("{before}!") });
        }
        // The operator !! is a prefix.
        if length == 0 || self.plain.ends_with('!') {
            self.take(1);
            return Ok(());
        }
        if !behind.starts_with('!') {
            return Err(QueryError::Unbalanced { found: format!("!{name}") });
        }
        let found = format!("!{name}!");
        match known(name) {
            Some(placeholder) => {
                self.pieces.push(QueryPiece::Text(std::mem::take(&mut self.plain)));
                self.pieces.push(QueryPiece::Value(placeholder));
                self.left = &behind[1..];
                Ok(())
            }
            None if matches!(name.to_lowercase().as_str(), "x" | "y") => Err(QueryError::TileAddress { found }),
            None => Err(QueryError::Unknown { found }),
        }
    }

    /// Reads a parameter or an operator.
    fn parameter(&mut self, name: &str, behind: &'a str, sql_of: &SqlOfParameter<'_>) -> Result<(), QueryError> {
        if name.is_empty() || self.plain.ends_with('!') {
            self.take(1);
            return Ok(());
        }
        if !behind.starts_with('!') {
            return Err(QueryError::UnknownParameter { found: format!("!{name}") });
        }
        let sql = sql_of(name).ok_or_else(|| QueryError::UnknownParameter { found: format!("!{name}!") })?;
        self.plain.push_str(&sql);
        self.left = &behind[1..];
        Ok(())
    }
}

/// True if a placeholder has this name.
pub(in crate::postgis) fn is_placeholder(name: &str) -> bool {
    known(name).is_some()
}

fn known(name: &str) -> Option<Placeholder> {
    match name.to_lowercase().as_str() {
        "bbox" => Some(Placeholder::Box),
        "zoom" | "z" => Some(Placeholder::Zoom),
        "pixel_width" | "pixel_height" => Some(Placeholder::Pixel),
        "scale_denominator" => Some(Placeholder::Scale),
        _ => None,
    }
}

fn is_name_start(character: char) -> bool {
    character.is_alphabetic() || character == '_' || !character.is_ascii() && !character.is_whitespace()
}

fn is_name(character: char) -> bool {
    is_name_start(character) || character.is_ascii_digit() || character == '$'
}

fn name_length(text: &str) -> usize {
    text.find(|character| !is_name(character)).unwrap_or(text.len())
}

/// The length of the tag of a dollar quote: a name without dollar signs.
fn tag_length(text: &str) -> usize {
    text.find(|character| !is_name(character) || character == '$').unwrap_or(text.len())
}
