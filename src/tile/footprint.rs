//! Where features lie, as far as planning needs to know.

use std::collections::BTreeMap;

use super::Zoom;
use super::grid::unit_of;

/// The box of a feature in the units of its own spatial reference system: least x, least y, greatest x, greatest y.
/// Rounded outwards to single precision.
pub type SourceBox = [f32; 4];

/// The box of a feature that is no single point, or whose reference system has no closed formula.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BoxFootprint {
    /// West, north, east, south in world units. West is greater than east for a feature that was wrapped around ±180°: it lies
    /// east of the one and west of the other.
    pub world: [u32; 4],
    /// The same feature's box in its own reference system, by which the spatial index finds it; wrapped as the feature is.
    pub source: SourceBox,
}

/// Where all the features of one layer lie.
#[derive(Debug, Clone, PartialEq)]
pub enum Footprints {
    /// Points in EPSG:4326 or EPSG:3857: x in the upper half, y in the lower half, in world units. Eight bytes each.
    Points(Vec<u64>),
    /// Boxes in world units (west, north, east, south), found by their area as points are.
    Cells(Vec<[u32; 4]>),
    /// Anything else.
    Boxes(Vec<BoxFootprint>),
    /// Cells whose members have no closed formula: the boxes are those around all members.
    Gathered(Vec<BoxFootprint>),
}

impl Footprints {
    /// How many features there are.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Footprints::Points(points) => points.len(),
            Footprints::Cells(cells) => cells.len(),
            Footprints::Boxes(boxes) | Footprints::Gathered(boxes) => boxes.len(),
        }
    }

    /// The same with as little memory as it takes: boxes that are all single positions, found by their area, as points.
    #[must_use]
    pub fn compact(self) -> Footprints {
        match self {
            Footprints::Boxes(boxes) if boxes.iter().all(|one| one.world[..2] == one.world[2..]) => {
                let point = |one: &BoxFootprint| u64::from(one.world[0]) << 32 | u64::from(one.world[1]);
                Footprints::Points(boxes.iter().map(point).collect())
            }
            other => other,
        }
    }

    /// Whether there is no feature.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The box of a feature in world units: west, north, east, south; west is greater than east where it runs over ±180°.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "the halves of the code are 32 bits wide")]
    pub fn world(&self, index: usize) -> [u32; 4] {
        match self {
            Footprints::Points(points) => {
                let (x, y) = ((points[index] >> 32) as u32, points[index] as u32);
                [x, y, x, y]
            }
            Footprints::Cells(cells) => cells[index],
            Footprints::Boxes(boxes) | Footprints::Gathered(boxes) => boxes[index].world,
        }
    }

    /// Whether features are found by their boxes in their own reference system: the layer has no closed formula for it.
    #[must_use]
    pub const fn has_sources(&self) -> bool {
        matches!(self, Footprints::Boxes(_) | Footprints::Gathered(_))
    }

    /// What a search has to touch to find a feature, in its own reference system: its box, or both ends of the box around the
    /// members of a cell, each of which is needed. Of a feature that runs over ±180°, its end in the western or the eastern half of the
    /// world: either finds it, but a search in one half should not reach into the other.
    pub fn sources(&self, index: usize, in_west: bool) -> impl Iterator<Item = SourceBox> {
        let (first, second) = match self {
            Footprints::Points(_) | Footprints::Cells(_) => (None, None),
            Footprints::Boxes(boxes) => {
                let [x0, y0, x1, y1] = boxes[index].source;
                let [x0, x1] = match (x0 > x1, in_west) {
                    (false, _) => [x0, x1],
                    (true, true) => [x1, x1],
                    (true, false) => [x0, x0],
                };
                (Some([x0, y0, x1, y1]), None)
            }
            Footprints::Gathered(cells) => {
                let [x0, y0, x1, y1] = cells[index].source;
                (Some([x0, y0, x0, y0]), Some([x1, y1, x1, y1]))
            }
        };
        first.into_iter().chain(second)
    }
}

/// Where the features of a layer lie, zoom by zoom.
#[derive(Debug, Clone, PartialEq)]
pub enum Places {
    /// The same at every zoom.
    Same(Footprints),
    /// Others at each zoom; at a zoom that is not named there is nothing.
    ByZoom(BTreeMap<Zoom, Footprints>),
}

/// No feature.
static NOTHING: Footprints = Footprints::Points(Vec::new());

impl Places {
    /// What lies there at a zoom.
    #[must_use]
    pub fn at(&self, zoom: Zoom) -> &Footprints {
        match self {
            Places::Same(footprints) => footprints,
            Places::ByZoom(zooms) => zooms.get(&zoom).unwrap_or(&NOTHING),
        }
    }

    /// Everything that lies there, at any zoom.
    pub fn all(&self) -> impl Iterator<Item = &Footprints> {
        let (same, others) = match self {
            Places::Same(footprints) => (Some(footprints), None),
            Places::ByZoom(zooms) => (None, Some(zooms.values())),
        };
        same.into_iter().chain(others.into_iter().flatten())
    }

    /// Whether there is no feature at any zoom.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.all().all(Footprints::is_empty)
    }
}

/// Where a change is seen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Spot {
    /// A box in world units: west, north, east, south; west is greater than east where it runs over ±180°.
    Box([u32; 4]),
    /// A position in world units, as exact as the database knows it: x, y.
    Point([f64; 2]),
}

impl Spot {
    /// The box in world units.
    #[must_use]
    pub fn world(self) -> [u32; 4] {
        match self {
            Spot::Box(world) => world,
            Spot::Point(at) => unit_of(at),
        }
    }
}
