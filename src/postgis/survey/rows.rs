//! Reads the rows of a survey.

use tokio_postgres::Row;

use crate::tile::{BoxFootprint, SourceBox, WorldBox};

/// The box of a row, from six columns: its corners, packed in two integers, and the sides of [`source_box`]. `None` for a row that is skipped.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the halves are 32 bits wide")]
pub(in crate::postgis) fn box_footprint(row: &Row) -> Option<BoxFootprint> {
    let (first, second): (i64, i64) = (row.get::<_, Option<i64>>(0)?, row.get::<_, Option<i64>>(1)?);
    let world = WorldBox::new((first >> 32) as u32, first as u32, (second >> 32) as u32, second as u32);
    Some(BoxFootprint { world, source: source_box(row)? })
}

/// The position of a row that is gathered in a cell, from its first two columns: x, y in world units. `None` for a row that is skipped.
pub(in crate::postgis) fn position(row: &Row) -> Option<[f64; 2]> {
    Some([row.get::<_, Option<f64>>(0)?, row.get::<_, Option<f64>>(1)?])
}

/// The box of a row in the reference system of its column, rounded outwards, from the columns 2 to 5. `min_x` is greater than `max_x` for a box
/// that crosses ±180°.
#[expect(clippy::cast_possible_truncation, reason = "the result is rounded outwards")]
pub(in crate::postgis) fn source_box(row: &Row) -> Option<SourceBox<f32>> {
    let side = |column: usize| row.get::<_, Option<f64>>(column);
    let (x0, y0, x1, y1) = (side(2)?, side(3)?, side(4)?, side(5)?);
    let below = |value: f64| if f64::from(value as f32) > value { (value as f32).next_down() } else { value as f32 };
    let above = |value: f64| if f64::from(value as f32) < value { (value as f32).next_up() } else { value as f32 };
    if x0 > x1 {
        // A box that crosses ±180° is searched on each side of ±180° separately, so each side must lie inside the row.
        return Some(SourceBox { min_x: above(x0), min_y: below(y0), max_x: below(x1), max_y: above(y1) });
    }
    Some(SourceBox { min_x: below(x0), min_y: below(y0), max_x: above(x1), max_y: above(y1) })
}
