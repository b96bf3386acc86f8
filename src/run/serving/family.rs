//! The variants of a tileset for a server, which finds them by their family's manifest, without the database.

use std::sync::Arc;

use super::{ServedFamily, refuse_versions, source};
use crate::error::with_causes;
use crate::report::{Style, report};
use crate::run::{CommandError, Family, FamilyReader, FamilyRecord, TilesetRun};
use crate::serve::{
    FamilyParts, ListedVariant, TilesetHeaders, TilesetParameters, TilesetParts, VariantListing, VariantSource,
};
use crate::stop::Stop;
use crate::target::ReadError;

/// Reads the manifest of a family, and opens its variants.
struct FamilyManifestSource {
    family: Family,
    reader: FamilyReader,
    stop: Stop,
    /// Opens targets in buckets.
    runtime: tokio::runtime::Handle,
}

/// A family in the form that the server uses, and the further headers of its tiles. Must be called on a runtime.
pub(crate) async fn family_parts(
    served: &ServedFamily,
    stop: &Stop,
) -> Result<(FamilyParts, TilesetHeaders), CommandError> {
    let family = &served.family;
    if served.writer.is_some() {
        refuse_versions(&family.tileset_run(&report(Style::Warnings), stop)?.target)?;
    }
    // Without a manifest the family has to be seeded, and the exit code shows that.
    family.recorded(&report(Style::Warnings), stop).await?;
    let headers =
        TilesetHeaders { tileset: family.name().into(), headers: family.settings().server.tile_headers.clone() };
    let reader = family.reader(&report(Style::Warnings), stop)?;
    let source = FamilyManifestSource {
        family: family.clone(),
        reader,
        stop: stop.clone(),
        runtime: tokio::runtime::Handle::current(),
    };
    let parts = FamilyParts {
        name: family.name().to_owned(),
        values: family.names_in_output(),
        source: Arc::new(source),
        writer: served.writer.clone(),
    };
    Ok((parts, headers))
}

impl VariantSource for FamilyManifestSource {
    fn read(&self, known: Option<&str>) -> Result<Option<VariantListing>, ReadError> {
        let Some(read) = self.reader.read(known).map_err(|error| said(&error))? else { return Ok(None) };
        let names = self.family.names_in_output();
        let record = Arc::new(read.record);
        let places: Vec<usize> =
            names.iter().filter_map(|name| record.parameters.iter().position(|kind| kind.name == *name)).collect();
        let standing: Vec<usize> = (0..record.variants.len()).filter(|at| !record.variants[*at].vanished).collect();
        let listed = |at: &usize| {
            let variant = &record.variants[*at];
            ListedVariant {
                values: places.iter().filter_map(|place| variant.values.get(*place).cloned()).collect(),
                segments: variant.segments.iter().map(|segment| segment.as_str().to_owned()).collect(),
            }
        };
        let variants = standing.iter().map(listed).collect();
        let (family, stop, runtime) = (self.family.clone(), self.stop.clone(), self.runtime.clone());
        let (snapshot, of_opener) = (record.snapshot.clone(), Arc::clone(&record));
        let open = move |number: usize| {
            let _on = runtime.enter();
            let at = standing.get(number).copied().unwrap_or(usize::MAX);
            opened(&family, &of_opener, at, &stop).map_err(|error| said(&error))
        };
        Ok(Some(VariantListing { tag: read.tag, snapshot, variants, open: Arc::new(open) }))
    }
}

fn opened(family: &Family, record: &FamilyRecord, at: usize, stop: &Stop) -> Result<TilesetParts, CommandError> {
    let row = record.variants.get(at).map_or(&[][..], |variant| &variant.values);
    let settings = family.variant(&record.parameters, row)?;
    let run = TilesetRun::new(settings, false, &report(Style::Warnings), stop)?;
    Ok(TilesetParts {
        name: run.settings.tileset.name.clone(),
        source: source(&run.target)?,
        headers: run.settings.server.tile_headers.clone(),
        parameters: TilesetParameters::default(),
        live: None,
        writer: None,
    })
}

fn said(error: &CommandError) -> ReadError {
    ReadError::Remote { what: with_causes(error), source: None }
}
