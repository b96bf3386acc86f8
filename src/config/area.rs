//! The area of a tileset: a box, or the polygons of a GeoJSON file.

use std::path::Path;

use super::error::ConfigError;
use super::settings::Check;
use super::values::Origin;
use crate::tile::{AreaPart, LonLatBox, Zoom, ZoomList, parts_of_area};

/// The parts of an area. An area with very many positions becomes boxes, exact down to `deepest` or to the zoom at
/// which there would be too many. Fails if the text is neither a box nor a file with polygons; the message says why,
/// and what to write.
pub(crate) fn area_parts(text: &str, deepest: Zoom) -> Result<Vec<AreaPart>, String> {
    let path = Path::new(text);
    if !path.exists() {
        let one: LonLatBox = text.parse().map_err(|error| format!("there is no such file, and as a box: {error}"))?;
        return Ok(vec![one.into()]);
    }
    let read = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    let json: serde_json::Value = serde_json::from_str(&read).map_err(|error| error.to_string())?;
    let parts = parts_of_area(&json, deepest);
    if parts.is_empty() {
        return Err("it holds no geometry with an extent: write a GeoJSON with polygons (RFC 7946)".to_owned());
    }
    Ok(parts)
}

impl Check<'_> {
    /// The part of the world that the tileset covers: its area, if it has one, else its boxes.
    pub(crate) fn boxes(
        &self,
        bbox: Vec<LonLatBox>,
        area: Option<&String>,
        zooms: &ZoomList,
    ) -> Result<Vec<AreaPart>, ConfigError> {
        let boxes = |boxes: Vec<LonLatBox>| boxes.into_iter().map(AreaPart::from).collect();
        let Some(area) = area else { return Ok(boxes(bbox)) };
        let strength = |key: &str| match self.origin(key) {
            Some(Origin::Flag(_)) => 3,
            Some(Origin::Environment(_)) => 2,
            Some(Origin::File(_) | Origin::Draft) => 1,
            Some(Origin::Default) | None => 0,
        };
        let (of_boxes, of_area) = (strength("tileset.bbox"), strength("tileset.area"));
        if !bbox.is_empty() && of_boxes == of_area {
            return Err(self.wrong("tileset.area", "is given beside bbox: one of them is enough".to_owned()));
        }
        if of_boxes > of_area {
            return Ok(boxes(bbox));
        }
        area_parts(area, zooms.max()).map_err(|what| self.wrong("tileset.area", format!("{area:?}: {what}")))
    }
}
