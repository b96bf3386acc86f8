//! Errors of the database, explained in terms of a layer's settings.

use super::Layer;
use crate::postgis::session::Error;

/// Adds advice to errors whose own text gives none, such as PROJ's error about coordinates far outside a projected system.
pub(in crate::postgis) fn explain(error: Error, layer: &Layer) -> Error {
    match error {
        Error::Query { source, .. } if source.to_string().contains("Cannot find SRID") => Error::Layer {
            layer: layer.name.clone(),
            what: format!(
                "the geometries in {} of {} have SRID {}, which the table spatial_ref_sys does not have",
                layer.geometry, layer.display_name, layer.shape.srid
            ),
            next: "Add it there, or set the right one with ST_SetSRID".to_owned(),
            source: Some(source),
        },
        Error::Query { source, .. } if source.to_string().contains("transform") => Error::Layer {
            layer: layer.name.clone(),
            what: format!("a geometry cannot be brought from SRID {} to Web Mercator", layer.shape.srid),
            next: format!(
                "Look for coordinates far outside of that reference system, and mend them or leave them out with where ({} && ST_MakeEnvelope(…, {}))",
                layer.geometry, layer.shape.srid
            ),
            source: Some(source),
        },
        Error::Query { source, .. } if layer.asks_box() && source.to_string().contains("mixed SRID") => Error::Layer {
            layer: layer.name.clone(),
            what: format!(
                "its query compares !bbox!, which is in EPSG:{} as its geometry {} is, with a geometry in another system",
                layer.shape.srid, layer.geometry
            ),
            next: "Bring it there: ST_Transform(!bbox!, …)".to_owned(),
            source: Some(source),
        },
        other => other,
    }
}
