//! `oar-tiles preview --html`: the map as a page of the user's own.

use std::path::Path;

use crate::run::attempts::reading;
use crate::run::{CommandError, Job};
use crate::serve::standalone;

/// Writes the page. `public_url` is where the target's tiles and their TileJSON are; without it, the URL that the target was seeded with.
///
/// # Errors
/// If the target cannot be read, nobody knows where its tiles are, or the file cannot be written.
pub async fn write_page(job: &Job, file: &Path, public_url: Option<String>) -> Result<(), CommandError> {
    let target = job.target.clone();
    let seeded = reading(&job.stop, move || Ok(target.reader()?.describe()?.public_url)).await?;
    let Some(url) = public_url.or(seeded).filter(|url| !url.is_empty()) else {
        return Err(CommandError::NoPublicUrl { target: job.target.to_string() });
    };
    if !url.starts_with("https://") && !url.starts_with("http://") {
        return Err(CommandError::NoUrl { url });
    }
    let base = if url.ends_with('/') { url } else { format!("{url}/") };
    std::fs::write(file, standalone(&base)).map_err(|source| CommandError::NoPage { path: file.to_owned(), source })
}
