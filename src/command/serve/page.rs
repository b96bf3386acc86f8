//! `oar-tiles preview --html` and `--style`: the map as a page of the user's own, and its style for a map of the user's own.

use std::path::Path;

use crate::report::write_document;
use crate::run::attempts::reading;
use crate::run::{CommandError, Job, WrittenFileError};
use crate::serve::{standalone, style};
use crate::sink::Described;

/// Writes the page. `public_url` is the address of the target's tiles and TileJSON; without it, the URL with which the target was seeded.
///
/// # Errors
/// If the target cannot be read, the address of its tiles is not known, or the file cannot be written.
pub async fn write_page(job: &Job, file: &Path, public_url: Option<String>) -> Result<(), CommandError> {
    let (_, base) = base_of(job, public_url).await?;
    write_document(file, &job.settings.tileset.output, standalone(&base).as_bytes(), |moment, source| {
        WrittenFileError::NoPage { path: file.to_owned(), moment, source }.into()
    })
}

/// Writes the map's style.
///
/// # Errors
/// If the address of the tiles is not known, no layer has the property `label`, or the file cannot be written.
pub async fn write_style(
    job: &Job,
    file: &Path,
    public_url: Option<String>,
    label: Option<&str>,
) -> Result<(), CommandError> {
    let (described, base) = base_of(job, public_url).await?;
    if let Some(label) =
        label.filter(|label| described.vector_layers.iter().all(|layer| !layer.fields.contains_key(*label)))
    {
        let mut names: Vec<&str> =
            described.vector_layers.iter().flat_map(|layer| layer.fields.keys()).map(String::as_str).collect();
        names.dedup();
        let what = format!("property \"{label}\": it has {}", names.join(", "));
        return Err(CommandError::NotThere { target: job.target.to_string(), what });
    }
    let text = serde_json::to_string_pretty(&style(&described, &base, label)).map_err(std::io::Error::from)?;
    write_document(file, &job.settings.tileset.output, (text + "\n").as_bytes(), |moment, source| {
        WrittenFileError::NoStyle { path: file.to_owned(), moment, source }.into()
    })
}

/// The target's description, and the URL of its tiles, with a slash at the end.
async fn base_of(job: &Job, public_url: Option<String>) -> Result<(Described, String), CommandError> {
    let target = job.target.clone();
    let described = reading(&job.stop, move || Ok(target.reader()?.describe()?)).await?;
    let seeded = described.public_url.clone();
    let Some(url) = public_url.or(seeded).filter(|url| !url.is_empty()) else {
        return Err(CommandError::NoPublicUrl { target: job.target.to_string() });
    };
    if !url.starts_with("https://") && !url.starts_with("http://") {
        return Err(CommandError::NoUrl { url });
    }
    let base = if url.ends_with('/') { url } else { format!("{url}/") };
    Ok((described, base))
}
