//! Tiles and maps as pictures, drawn without a browser: polygons below lines below points, one colour for each layer,
//! clusters as circles whose area grows with the number of members. A map also has land, lakes and borders of the base
//! map below. No names, and no styles of one's own.

use std::path::Path;

use tiny_skia::{Color, FillRule, Mask, Paint, PathBuilder, Pixmap, Rect, Stroke, Transform};

use super::{CommandError, Target, TilesetRun, WrittenFileError, blocking_read};
use crate::encode::{Gunzip, MAX_UNPACKED_TILE};
use crate::mvt;
use crate::mvt::{Feature, MvtGeometry, MvtLayer, MvtValue, Position};
use crate::report::write_document;
use crate::serve::{BASEMAP_MAXZOOM, basemap_tile};
use crate::target::{Described, TileReader};
use crate::tile::{LonLatBox, MapCenter, TileCoord, Zoom, unit_x, unit_y};

/// The width and height of a tile's picture in pixels: a tile at twice the density of screens.
const TILE_PICTURE_PIXELS: u32 = 1_024;

/// The width of a map's picture in pixels.
const MAP_WIDTH: u32 = 1_280;

/// The height of a map's picture in pixels.
const MAP_HEIGHT: u32 = 800;

/// The side in pixels of a tile whose zoom is that of the map, as in map clients.
const MAP_TILE_PIXELS: f64 = 512.0;

/// The most zooms by which the base map is enlarged. Beyond, all is land: its coasts would be wrong by kilometres.
const MAX_BASEMAP_ENLARGED: u8 = 6;

/// The radius in pixels of a feature that stands for one row.
const POINT_RADIUS: f32 = 5.0;

/// The radius in pixels of the largest cluster.
const MAX_CLUSTER_RADIUS: f32 = 44.0;

const LINE_PIXELS: f32 = 2.0;

/// The name of the property with the number of rows that a feature stands for, as map clients use it (Supercluster).
const MEMBERS: &str = "point_count";

/// Colours that are easy to distinguish, also for readers who see red and green alike (Okabe and Ito, "Color Universal
/// Design", 2008).
const PALETTE: [Rgb; 6] = [[0, 114, 178], [213, 94, 0], [0, 158, 115], [204, 121, 167], [86, 180, 233], [230, 159, 0]];

const WATER: Rgb = [216, 226, 232];
const LAND: Rgb = [246, 245, 241];
const BORDER: Rgb = [176, 178, 184];

/// Red, green and blue.
type Rgb = [u8; 3];

/// Writes a picture of `target` into a file.
pub(crate) fn write(path: &Path, target: &Path, picture: &[u8]) -> Result<(), CommandError> {
    write_document(path, target, picture, |moment, source| {
        WrittenFileError::NoPicture { path: path.to_owned(), moment, source }.into()
    })
}

/// Draws the layers of a tile as a PNG. `None` if the picture cannot be compressed, which happens only without memory.
pub(crate) fn of_tile(layers: &[MvtLayer<'_>]) -> Option<Vec<u8>> {
    let mut canvas = Canvas::new(TILE_PICTURE_PIXELS, TILE_PICTURE_PIXELS, Color::WHITE)?;
    canvas.place(Placement { left: 0.0, top: 0.0, side: TILE_PICTURE_PIXELS as f32 }, false);
    canvas.most_members = most_members(layers);
    for stage in STAGES {
        for (layer, colour) in layers.iter().zip(PALETTE.iter().cycle()) {
            layer.features.iter().for_each(|feature| stage(&mut canvas, layer, feature, *colour));
        }
    }
    canvas.pixels.encode_png().ok()
}

/// A picture of the run's target on the base map: a PNG of 1,280 × 800 pixels. `at` is its middle and its zoom; without
/// it, where the target's map begins, or else where all of the target fits.
pub(crate) async fn of_map(run: &TilesetRun, at: Option<MapCenter>) -> Result<Vec<u8>, CommandError> {
    let target = run.target.clone();
    blocking_read(&run.stop, move || map(&target, at)).await
}

fn map(target: &Target, at: Option<MapCenter>) -> Result<Vec<u8>, CommandError> {
    let mut reader = target.tileset_reader()?;
    let described = reader.describe()?;
    let view = View { at: at.unwrap_or_else(|| beginning(&described)) };
    let no_memory = || std::io::Error::from(std::io::ErrorKind::OutOfMemory);
    let mut canvas = Canvas::new(MAP_WIDTH, MAP_HEIGHT, color(WATER)).ok_or_else(no_memory)?;
    draw_basemap(&mut canvas, view);
    draw_target(&mut canvas, view, target, &mut *reader, &described)?;
    Ok(canvas.pixels.encode_png().map_err(|_no_space| no_memory())?)
}

/// Where the map of a target begins: its own center, or the middle of its bounds at the deepest zoom at which they fit.
fn beginning(described: &Described) -> MapCenter {
    if let Some(center) = described.center {
        return center;
    }
    let LonLatBox { west, south, east, north } = described.bounds.unwrap_or(LonLatBox::WORLD);
    let (width, height) = (unit_x(east) - unit_x(west), unit_y(south) - unit_y(north));
    let deepest = described.zooms.map_or(0, |(_, last)| last);
    let fits = |zoom: &u8| {
        let world = MAP_TILE_PIXELS * f64::from(*zoom).exp2();
        width * world <= f64::from(MAP_WIDTH) && height * world <= f64::from(MAP_HEIGHT)
    };
    let zoom = (0..=deepest).take_while(fits).last().unwrap_or(0);
    MapCenter { longitude: f64::midpoint(west, east), latitude: f64::midpoint(south, north), zoom }
}

/// The base map: land, lakes, borders.
fn draw_basemap(canvas: &mut Canvas, view: View) {
    if view.at.zoom > BASEMAP_MAXZOOM + MAX_BASEMAP_ENLARGED {
        canvas.pixels.fill(color(LAND));
        return;
    }
    let tiles = view.tiles(view.at.zoom.min(BASEMAP_MAXZOOM));
    let unpacked = tiles
        .into_iter()
        .filter_map(|(coord, placement)| Some((Gunzip::new().unpack(&basemap_tile(coord)?).ok()?, placement)));
    let unpacked: Vec<(Vec<u8>, Placement)> = unpacked.collect();
    for (name, colour, opacity) in [("land", LAND, 255), ("lakes", WATER, 255), ("borders", BORDER, 255)] {
        for (bytes, placement) in &unpacked {
            let Ok(layers) = mvt::decode(bytes) else { continue };
            canvas.place(*placement, true);
            for layer in layers.iter().filter(|layer| layer.name == name) {
                for feature in &layer.features {
                    canvas.fill(layer, feature, &paint(colour, opacity));
                    canvas.stroke(layer, feature, &paint(colour, opacity), 1.0);
                }
            }
        }
    }
}

/// The layers of the target, each in the colour of its place among them.
fn draw_target(
    canvas: &mut Canvas,
    view: View,
    target: &Target,
    reader: &mut dyn TileReader,
    described: &Described,
) -> Result<(), CommandError> {
    let Some((_, last)) = described.zooms.filter(|(first, _)| view.at.zoom >= *first) else { return Ok(()) };
    let (mut tiles, mut bytes) = (Vec::<(TileCoord, Placement, Vec<u8>)>::new(), 0);
    for (coord, placement) in view.tiles(view.at.zoom.min(last)) {
        let Some(raw) = target.unpacked_tile(reader, coord)? else { continue };
        bytes += raw.len();
        if bytes > MAX_UNPACKED_TILE {
            let what =
                format!("the tiles around {coord} hold more than a picture can show: choose a deeper zoom (--at)");
            return Err(CommandError::Unfit { target: target.to_string(), what });
        }
        tiles.push((coord, placement, raw));
    }
    // A decoded tile may take many times its bytes, so only one is decoded at a time.
    let decoded = |(coord, _, raw): &'_ (TileCoord, Placement, Vec<u8>), draw: &mut dyn FnMut(&[MvtLayer<'_>])| {
        draw(&mvt::decode(raw).map_err(|source| target.broken_tile(*coord, source))?);
        Ok::<(), CommandError>(())
    };
    for tile in &tiles {
        decoded(tile, &mut |layers| canvas.most_members = canvas.most_members.max(most_members(layers)))?;
    }
    for stage in STAGES {
        for tile in &tiles {
            canvas.place(tile.1, true);
            decoded(tile, &mut |layers| {
                for (known, colour) in described.vector_layers.iter().zip(PALETTE.iter().cycle()) {
                    for layer in layers.iter().filter(|layer| layer.name == known.id) {
                        layer.features.iter().for_each(|feature| stage(canvas, layer, feature, *colour));
                    }
                }
            })?;
        }
    }
    Ok(())
}

/// The part of the world that a map shows.
#[derive(Debug, Clone, Copy)]
struct View {
    at: MapCenter,
}

impl View {
    /// The tiles of a zoom that the map shows, and where; beyond ±180° the world begins again.
    fn tiles(self, zoom: u8) -> Vec<(TileCoord, Placement)> {
        let Some(tile_zoom) = Zoom::new(zoom) else { return Vec::new() };
        let side = MAP_TILE_PIXELS * (f64::from(self.at.zoom) - f64::from(zoom)).exp2();
        let count = i64::from(tile_zoom.last()) + 1;
        let world = side * count as f64;
        let left = unit_x(self.at.longitude) * world - f64::from(MAP_WIDTH) / 2.0;
        let top = unit_y(self.at.latitude) * world - f64::from(MAP_HEIGHT) / 2.0;
        #[expect(clippy::cast_possible_truncation, reason = "at most 2^22 and what fits a picture")]
        let range =
            |from: f64, length: u32| (from / side).floor() as i64..=((from + f64::from(length)) / side).floor() as i64;
        let mut tiles = Vec::new();
        for y in range(top, MAP_HEIGHT).filter(|y| (0..count).contains(y)) {
            for x in range(left, MAP_WIDTH) {
                let (Ok(column), Ok(row)) = (u32::try_from(x.rem_euclid(count)), u32::try_from(y)) else { continue };
                #[expect(clippy::cast_possible_truncation, reason = "pixels")]
                let at = |number: i64, from: f64| (number as f64 * side - from) as f32;
                #[expect(clippy::cast_possible_truncation, reason = "pixels")]
                let placement = Placement { left: at(x, left), top: at(y, top), side: side as f32 };
                tiles.extend(TileCoord::new(tile_zoom, column, row).map(|coord| (coord, placement)));
            }
        }
        tiles
    }
}

/// Where a tile lies in the picture, in pixels.
#[derive(Debug, Clone, Copy)]
struct Placement {
    left: f32,
    top: f32,
    side: f32,
}

impl Placement {
    fn pixel(&self, [x, y]: Position, extent: u32) -> [f32; 2] {
        let unit = self.side / extent.max(1) as f32;
        [self.left + x as f32 * unit, self.top + y as f32 * unit]
    }

    /// Whether a position lies in the tile itself, and not in its buffer.
    fn holds([x, y]: Position, extent: u32) -> bool {
        let inside = |along: i32| u32::try_from(along).is_ok_and(|along| along < extent);
        inside(x) && inside(y)
    }
}

/// The number of rows that the largest cluster stands for.
fn most_members(layers: &[MvtLayer<'_>]) -> f32 {
    let each = layers.iter().flat_map(|layer| layer.features.iter().map(|feature| members(layer, feature)));
    each.fold(1.0, f32::max)
}

/// The number of rows that a feature stands for; 1 for a single row.
#[expect(clippy::cast_possible_truncation, reason = "the size of a circle")]
fn members(layer: &MvtLayer<'_>, feature: &Feature) -> f32 {
    let value = layer.properties(feature).find(|(name, _)| *name == MEMBERS).map(|(_, value)| value);
    let count = match value {
        Some(MvtValue::Int(count) | MvtValue::Sint(count)) => count as f32,
        Some(MvtValue::Uint(count)) => count as f32,
        Some(MvtValue::Float(count)) => count,
        Some(MvtValue::Double(count)) => count as f32,
        Some(MvtValue::Text(_) | MvtValue::Bool(_)) | None => 1.0,
    };
    if count.is_finite() { count.max(1.0) } else { 1.0 }
}

/// Draws one kind of geometry of a feature.
type Stage = fn(&mut Canvas, &MvtLayer<'_>, &Feature, Rgb);

/// What is drawn first lies below.
const STAGES: [Stage; 3] = [Canvas::polygons, Canvas::lines, Canvas::points];

struct Canvas {
    pixels: Pixmap,
    most_members: f32,
    placement: Placement,
    /// The part of the picture in which the tile draws lines and polygons: not its buffer, which is another tile's.
    clip: Option<Mask>,
}

impl Canvas {
    fn new(width: u32, height: u32, background: Color) -> Option<Canvas> {
        let mut pixels = Pixmap::new(width, height)?;
        pixels.fill(background);
        let placement = Placement { left: 0.0, top: 0.0, side: 0.0 };
        Some(Canvas { pixels, most_members: 1.0, placement, clip: None })
    }

    /// What follows belongs to the tile that lies there.
    fn place(&mut self, placement: Placement, is_among_others: bool) {
        let Placement { left, top, side } = placement;
        self.placement = placement;
        self.clip = Rect::from_xywh(left, top, side, side).filter(|_| is_among_others).and_then(|rect| {
            let mut mask = Mask::new(self.pixels.width(), self.pixels.height())?;
            mask.fill_path(&PathBuilder::from_rect(rect), FillRule::Winding, false, Transform::identity());
            Some(mask)
        });
    }

    /// The outline of a feature's lines and polygons; `None` if it has none.
    fn path(&self, layer: &MvtLayer<'_>, feature: &Feature) -> Option<tiny_skia::Path> {
        let mut path = PathBuilder::new();
        let mut trace = |positions: &[Position], is_ring: bool| {
            for (number, position) in positions.iter().enumerate() {
                let [x, y] = self.placement.pixel(*position, layer.extent);
                if number == 0 {
                    path.move_to(x, y);
                } else {
                    path.line_to(x, y);
                }
            }
            if is_ring && !positions.is_empty() {
                path.close();
            }
        };
        match &feature.geometry {
            MvtGeometry::Polygons(polygons) => polygons.iter().flatten().for_each(|ring| trace(ring, true)),
            MvtGeometry::Lines(lines) => lines.iter().for_each(|line| trace(line, false)),
            MvtGeometry::Points(_) | MvtGeometry::Unknown => return None,
        }
        path.finish()
    }

    /// Fills a feature's polygons.
    fn fill(&mut self, layer: &MvtLayer<'_>, feature: &Feature, paint: &Paint<'_>) {
        if let (MvtGeometry::Polygons(_), Some(path)) = (&feature.geometry, self.path(layer, feature)) {
            self.pixels.fill_path(&path, paint, FillRule::EvenOdd, Transform::identity(), self.clip.as_ref());
        }
    }

    /// Draws a feature's lines, and the outlines of its polygons.
    fn stroke(&mut self, layer: &MvtLayer<'_>, feature: &Feature, paint: &Paint<'_>, width: f32) {
        if let Some(path) = self.path(layer, feature) {
            let stroke = Stroke { width, ..Stroke::default() };
            self.pixels.stroke_path(&path, paint, &stroke, Transform::identity(), self.clip.as_ref());
        }
    }

    fn polygons(&mut self, layer: &MvtLayer<'_>, feature: &Feature, colour: Rgb) {
        if matches!(feature.geometry, MvtGeometry::Polygons(_)) {
            self.fill(layer, feature, &paint(colour, 70));
            self.stroke(layer, feature, &paint(colour, 255), 1.0);
        }
    }

    fn lines(&mut self, layer: &MvtLayer<'_>, feature: &Feature, colour: Rgb) {
        if matches!(feature.geometry, MvtGeometry::Lines(_)) {
            self.stroke(layer, feature, &paint(colour, 255), LINE_PIXELS);
        }
    }

    /// Points are drawn by the tile that they lie in, over the edges of others.
    fn points(&mut self, layer: &MvtLayer<'_>, feature: &Feature, colour: Rgb) {
        let MvtGeometry::Points(points) = &feature.geometry else { return };
        let members = members(layer, feature);
        // The area grows with the number of members: a cluster with four times as many is twice as wide.
        let share = (members / self.most_members).sqrt();
        let radius = if members > 1.0 { (MAX_CLUSTER_RADIUS * share).max(POINT_RADIUS * 1.6) } else { POINT_RADIUS };
        for position in points {
            if self.clip.is_some() && !Placement::holds(*position, layer.extent) {
                continue;
            }
            let [x, y] = self.placement.pixel(*position, layer.extent);
            let Some(circle) = PathBuilder::from_circle(x, y, radius) else { continue };
            self.pixels.fill_path(&circle, &paint(colour, 190), FillRule::Winding, Transform::identity(), None);
            let (white, outline) = (paint([255, 255, 255], 255), Stroke::default());
            self.pixels.stroke_path(&circle, &white, &outline, Transform::identity(), None);
        }
    }
}

fn color([red, green, blue]: Rgb) -> Color {
    Color::from_rgba8(red, green, blue, 255)
}

fn paint([red, green, blue]: Rgb, opacity: u8) -> Paint<'static> {
    let mut paint = Paint { anti_alias: true, ..Paint::default() };
    paint.set_color_rgba8(red, green, blue, opacity);
    paint
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(longitude: f64, latitude: f64, zoom: u8) -> View {
        View { at: MapCenter { longitude, latitude, zoom } }
    }

    #[test]
    fn a_map_shows_each_tile_where_it_lies_and_the_world_again_beyond_its_edge() {
        let shown = at(0.0, 0.0, 1).tiles(1);
        let found: Vec<String> =
            shown.iter().map(|(coord, place)| format!("{coord} at {},{}", place.left, place.top)).collect();
        // The middle of the world is the middle of the picture; east of the world's edge its west begins again.
        let expected = ["1/1/0 at -384,-112", "1/0/0 at 128,-112", "1/1/0 at 640,-112", "1/0/0 at 1152,-112"];
        assert_eq!(found[..4], expected);
        assert_eq!(found.len(), 8);
        let enlarged = at(13.4, 52.5, 10).tiles(4);
        assert_eq!(enlarged.len(), 1);
        assert!((enlarged[0].1.side - 512.0 * 64.0).abs() < 1.0);
    }

    #[test]
    fn a_map_begins_where_all_of_the_target_fits() {
        let bounds = Some(LonLatBox { west: 5.9, south: 45.8, east: 10.5, north: 47.8 });
        let described = Described { bounds, zooms: Some((0, 14)), ..Described::default() };
        let center = beginning(&described);
        assert_eq!((center.zoom, center.longitude), (7, 8.2));
        assert_eq!(beginning(&Described::default()).zoom, 0);
        let own = MapCenter { longitude: 1.0, latitude: 2.0, zoom: 3 };
        assert_eq!(beginning(&Described { center: Some(own), ..described }), own);
    }
}
