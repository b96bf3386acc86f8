//! The output of `oar-tiles config`: every value with its origin, secrets hidden.

use super::values::ConfigValues;
use crate::sink::without_user;

impl ConfigValues {
    /// TOML with a line for each value, and its origin as a comment.
    #[must_use]
    pub fn show(&self) -> String {
        let mut lines = Vec::new();
        let mut section = "";
        for (key, (value, origin)) in &self.0 {
            let Some((front, field)) = key.split_once('.') else { continue };
            if front != section {
                section = front;
                lines.push(format!("\n[{section}]"));
            }
            let value = match key.as_str() {
                "database.url" | "serve.redis_url" => {
                    toml::Value::String(value.as_str().map(masked).unwrap_or_default())
                }
                "s3.endpoint" => toml::Value::String(value.as_str().map(hidden_user).unwrap_or_default()),
                _ => value.clone(),
            };
            lines.push(format!("{field} = {value}  # {origin}"));
        }
        for list in ["purge", "layer"] {
            let Some((toml::Value::Array(sections), origin)) = self.0.get(list) else { continue };
            for section in sections {
                lines.push(format!("\n[[{list}]]  # {origin}"));
                if let toml::Value::Table(fields) = section {
                    lines.extend(fields.iter().map(|(field, value)| match value {
                        toml::Value::String(url) if list == "purge" => {
                            format!("{field} = {}", toml::Value::String(hidden_user(url)))
                        }
                        value => format!("{field} = {value}"),
                    }));
                }
            }
        }
        lines.join("\n").trim_start().to_owned() + "\n"
    }
}

/// A URL with `(hidden)` instead of user and password.
fn hidden_user(url: &str) -> String {
    let shown = without_user(url);
    match shown.split_once("://") {
        _ if shown == url => shown,
        Some((scheme, rest)) => format!("{scheme}://(hidden)@{rest}"),
        None => format!("(hidden)@{shown}"),
    }
}

/// A database URL or key=value string with `(hidden)` instead of its password.
fn masked(url: &str) -> String {
    let hide = |part: &str| match part.split_once('=') {
        Some((key, _)) if key.to_lowercase().contains("password") => format!("{key}=(hidden)"),
        _ => part.to_owned(),
    };
    let Some((scheme, rest)) = url.split_once("://") else {
        // A quoted value may hold spaces, so nothing after the key of a password is shown.
        return match url.to_lowercase().find("password") {
            Some(at) => format!("{}password=(hidden)", &url[..at]),
            None => url.to_owned(),
        };
    };
    let (authority, query) = match rest.split_once('?') {
        Some((authority, query)) => (authority, Some(query)),
        None => (rest, None),
    };
    // A password may hold an unescaped "@": the last one ends it.
    let authority = match authority.rsplit_once('@') {
        Some((user, host)) if user.contains(':') => {
            format!("{}:(hidden)@{host}", user.split(':').next().unwrap_or_default())
        }
        _ => authority.to_owned(),
    };
    let query = query.map(|query| format!("?{}", query.split('&').map(hide).collect::<Vec<_>>().join("&")));
    format!("{scheme}://{authority}{}", query.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::masked;

    #[test]
    fn passwords_are_hidden_in_every_form() {
        for (url, shown) in [
            ("postgresql://u:hunter2@h:5/d", "postgresql://u:(hidden)@h:5/d"),
            ("postgresql://u:hun@ter2@h/d?sslmode=require", "postgresql://u:(hidden)@h/d?sslmode=require"),
            (
                "postgresql://u@h/d?password=hunter2&sslmode=require",
                "postgresql://u@h/d?password=(hidden)&sslmode=require",
            ),
            ("host=h password=hunter2 dbname=d", "host=h password=(hidden)"),
            ("host=h PASSWORD = 'hun ter2'", "host=h password=(hidden)"),
            ("postgresql://u@h/d", "postgresql://u@h/d"),
        ] {
            assert_eq!(masked(url), shown);
        }
    }
}
