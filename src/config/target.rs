//! The checks of the section `[target]`.

use super::error::ConfigError;
use super::file::{Compression, PublishMode, TargetSection};
use super::settings::Check;
use crate::sink::{Publishing, Template, TreeOptions};

impl Check<'_> {
    /// How tiles are stored in a directory or bucket, and how they are published.
    pub(super) fn tree(&self, target: &TargetSection) -> Result<TreeOptions, ConfigError> {
        let text = self.present("target.template", target.template.as_deref())?;
        let template = Template::new(text).map_err(|error| self.wrong("target.template", error.to_string()))?;
        let publish = match self.present("target.publish", target.publish)? {
            PublishMode::InPlace => Publishing::InPlace,
            PublishMode::Versioned => Publishing::Versioned {
                keep: self.present("target.keep_versions", target.keep_versions)?,
                keep_for: self.present("target.keep_for", target.keep_for)?,
            },
        };
        match (publish, template.is_versioned()) {
            (Publishing::InPlace, true) => {
                return Err(self.wrong(
                    "target.template",
                    format!("\"{text}\" has a {{version}}: write publish = \"versioned\" with it"),
                ));
            }
            (Publishing::Versioned { .. }, false) => {
                return Err(self.wrong(
                    "target.publish",
                    format!("versions need a {{version}} in the template \"{text}\": write {{version}}/{{z}}/{{x}}/{{y}}.pbf or the like"),
                ));
            }
            _ => {}
        }
        let packed = self.present("target.compression", target.compression)? == Compression::Gzip;
        let public_url = target.public_url.as_deref().map(|url| self.public_url(url)).transpose()?;
        Ok(TreeOptions { template, publish, force: false, public_url, packed })
    }

    /// Checks the URL under which clients find a target. Returns an empty text for `relative`.
    fn public_url(&self, url: &str) -> Result<String, ConfigError> {
        if url == "relative" {
            return Ok(String::new());
        }
        let wrong = |what: &str| {
            let next = "write https://host/path, under which clients find the output, or relative";
            Err(self.wrong("target.public_url", format!("{what}: {next}")))
        };
        let Some(rest) = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://")) else {
            return wrong("is no whole address");
        };
        let host = rest.split('/').next().unwrap_or_default();
        if host.contains('@') {
            return wrong("holds a user or password, and every visitor would read it");
        }
        let is_odd = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '{' | '}' | '?' | '#' | '"' | '\\');
        if host.is_empty() || rest.contains(is_odd) {
            return wrong("is no address of a folder");
        }
        Ok(url.trim_end_matches('/').to_owned())
    }
}
