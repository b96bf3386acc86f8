//! A tile as a picture: polygons below lines below points, one colour for each layer, clusters as circles whose area grows with the number of
//! members.

use tiny_skia::{Color, FillRule, Paint, PathBuilder, Pixmap, Stroke, Transform};

use crate::mvt::{Feature, MvtGeometry, MvtLayer, MvtValue, Position};

/// The width and height of the picture in pixels: a tile at twice the density of screens.
const PICTURE_PIXELS: u32 = 1_024;

/// The radius in pixels of a feature that stands for one row.
const POINT_RADIUS: f32 = 5.0;

/// The radius in pixels of the largest cluster.
const MAX_CLUSTER_RADIUS: f32 = 44.0;

/// The width of lines in pixels.
const LINE_PIXELS: f32 = 2.0;

/// The name of the property with the number of rows that a feature stands for, as map clients use it (Supercluster).
const MEMBERS: &str = "point_count";

/// Colours that are easy to distinguish, also for readers who see red and green alike (Okabe and Ito, "Color Universal Design", 2008).
const PALETTE: [[u8; 3]; 6] =
    [[0, 114, 178], [213, 94, 0], [0, 158, 115], [204, 121, 167], [86, 180, 233], [230, 159, 0]];

/// Draws layers as a PNG. `None` if the picture cannot be compressed, which happens only without memory.
pub(super) fn picture(layers: &[MvtLayer<'_>]) -> Option<Vec<u8>> {
    let mut pixels = Pixmap::new(PICTURE_PIXELS, PICTURE_PIXELS)?;
    pixels.fill(Color::WHITE);
    let mut canvas = Canvas { pixels, most_members: most_members(layers) };
    let drawn = |stage: fn(&mut Canvas, &MvtLayer<'_>, &Feature, [u8; 3]), canvas: &mut Canvas| {
        for (layer, colour) in layers.iter().zip(PALETTE.iter().cycle()) {
            layer.features.iter().for_each(|feature| stage(canvas, layer, feature, *colour));
        }
    };
    drawn(Canvas::polygons, &mut canvas);
    drawn(Canvas::lines, &mut canvas);
    drawn(Canvas::points, &mut canvas);
    canvas.pixels.encode_png().ok()
}

/// The number of rows that the largest cluster stands for.
fn most_members(layers: &[MvtLayer<'_>]) -> f32 {
    let each = layers.iter().flat_map(|layer| layer.features.iter().map(|feature| members(layer, feature)));
    each.fold(1.0, f32::max)
}

/// The number of rows that a feature stands for; 1 for a single row.
#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "the size of a circle")]
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

struct Canvas {
    pixels: Pixmap,
    most_members: f32,
}

impl Canvas {
    fn polygons(&mut self, layer: &MvtLayer<'_>, feature: &Feature, colour: [u8; 3]) {
        let MvtGeometry::Polygons(polygons) = &feature.geometry else { return };
        let mut path = PathBuilder::new();
        polygons.iter().flatten().for_each(|ring| trace(&mut path, ring, layer.extent, true));
        let Some(path) = path.finish() else { return };
        self.pixels.fill_path(&path, &paint(colour, 70), FillRule::EvenOdd, Transform::identity(), None);
        self.pixels.stroke_path(&path, &paint(colour, 255), &Stroke::default(), Transform::identity(), None);
    }

    fn lines(&mut self, layer: &MvtLayer<'_>, feature: &Feature, colour: [u8; 3]) {
        let MvtGeometry::Lines(lines) = &feature.geometry else { return };
        let mut path = PathBuilder::new();
        for line in lines {
            trace(&mut path, line, layer.extent, false);
        }
        let Some(path) = path.finish() else { return };
        let stroke = Stroke { width: LINE_PIXELS, ..Stroke::default() };
        self.pixels.stroke_path(&path, &paint(colour, 255), &stroke, Transform::identity(), None);
    }

    fn points(&mut self, layer: &MvtLayer<'_>, feature: &Feature, colour: [u8; 3]) {
        let MvtGeometry::Points(points) = &feature.geometry else { return };
        let members = members(layer, feature);
        // The area grows with the number of members: a cluster with four times as many is twice as wide.
        let share = (members / self.most_members).sqrt();
        let radius = if members > 1.0 { (MAX_CLUSTER_RADIUS * share).max(POINT_RADIUS * 1.6) } else { POINT_RADIUS };
        for position in points {
            let [x, y] = pixel(*position, layer.extent);
            let Some(circle) = PathBuilder::from_circle(x, y, radius) else { continue };
            self.pixels.fill_path(&circle, &paint(colour, 190), FillRule::Winding, Transform::identity(), None);
            self.pixels.stroke_path(
                &circle,
                &paint([255, 255, 255], 255),
                &Stroke::default(),
                Transform::identity(),
                None,
            );
        }
    }
}

/// Appends positions to a path.
fn trace(path: &mut PathBuilder, positions: &[Position], extent: u32, is_ring: bool) {
    for (number, position) in positions.iter().enumerate() {
        let [x, y] = pixel(*position, extent);
        if number == 0 {
            path.move_to(x, y);
        } else {
            path.line_to(x, y);
        }
    }
    if is_ring && !positions.is_empty() {
        path.close();
    }
}

/// The position in the picture, in pixels.
#[expect(clippy::cast_precision_loss, reason = "an extent has far fewer units than a float tells apart")]
fn pixel(position: Position, extent: u32) -> [f32; 2] {
    position.map(|units| units as f32 * PICTURE_PIXELS as f32 / extent.max(1) as f32)
}

fn paint(colour: [u8; 3], opacity: u8) -> Paint<'static> {
    let mut paint = Paint { anti_alias: true, ..Paint::default() };
    let [red, green, blue] = colour;
    paint.set_color_rgba8(red, green, blue, opacity);
    paint
}
