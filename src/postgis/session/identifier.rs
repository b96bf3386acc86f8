//! Names as SQL.

/// An identifier in double quotes (PostgreSQL documentation, section 4.1.1).
pub(crate) fn quoted(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    #[test]
    fn identifiers_are_quoted() {
        assert_eq!(super::quoted("a \"b\".c; DROP"), "\"a \"\"b\"\".c; DROP\"");
    }
}
