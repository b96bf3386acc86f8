//! Footprints: the boxes of features, from which tiles are planned.

use std::collections::BTreeMap;
use std::ops::Range;

use super::Outline;
use crate::tile::{SourceBox, WorldBox, Zoom};

/// The box of a feature that is not a single point, or whose reference system has no closed formula.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BoxFootprint {
    /// In world units.
    pub world: WorldBox,
    /// The box of the same feature in its own reference system, by which the spatial index finds it. It is wrapped like the feature, and
    /// rounded outwards to single precision.
    pub source: SourceBox<f32>,
}

/// Points in world units, eight bytes each, from west to east.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SortedPoints(Vec<u64>);

impl SortedPoints {
    /// Sorts points: x in the upper half, y in the lower half.
    #[must_use]
    pub fn new(mut points: Vec<u64>) -> SortedPoints {
        points.sort_unstable();
        SortedPoints(points)
    }

    /// The indexes of the points from one x up to and including another. Both may lie beyond the world.
    #[must_use]
    pub fn between(&self, west: i64, east: i64) -> Range<usize> {
        let x = |point: &u64| (point >> 32).cast_signed();
        self.0.partition_point(|point| x(point) < west)..self.0.partition_point(|point| x(point) <= east)
    }

    /// Some points by their indexes: x, y.
    #[expect(clippy::cast_possible_truncation, reason = "the halves of the code are 32 bits wide")]
    pub fn units(&self, indexes: Range<usize>) -> impl Iterator<Item = [u32; 2]> + '_ {
        let points = self.0.get(indexes).unwrap_or_default();
        points.iter().map(|point| [(*point >> 32) as u32, *point as u32])
    }
}

/// The boxes of features, and the outlines of some.
#[derive(Debug, Clone, PartialEq)]
pub struct OutlinedBoxes {
    /// The boxes of all features.
    pub boxes: Vec<BoxFootprint>,
    /// The outlines, by the index of the feature.
    pub outlines: BTreeMap<u32, Outline>,
}

/// The footprints of all features of one layer.
#[derive(Debug, Clone, PartialEq)]
pub enum Footprints {
    /// Points in EPSG:4326 or EPSG:3857, from west to east.
    Points(SortedPoints),
    /// Boxes in world units of features that are found by the tile's area, as points are.
    Cells(Vec<WorldBox>),
    /// Features that are found by their boxes in the layer's reference system.
    Boxes(Vec<BoxFootprint>),
    /// The same, with the outlines of those that touch fewer tiles than their boxes.
    Outlined(OutlinedBoxes),
    /// Cells whose members are found by a box in the layer's reference system: the box around all members.
    Gathered(Vec<BoxFootprint>),
}

impl Footprints {
    /// The number of features.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Footprints::Points(points) => points.0.len(),
            Footprints::Cells(cells) => cells.len(),
            Footprints::Boxes(boxes)
            | Footprints::Outlined(OutlinedBoxes { boxes, .. })
            | Footprints::Gathered(boxes) => boxes.len(),
        }
    }

    /// The same footprints in less memory: boxes that are all single positions become points. Only for features that are found by area.
    #[must_use]
    pub fn compact(self) -> Footprints {
        match self {
            Footprints::Boxes(boxes) if boxes.iter().all(|one| one.world.is_position()) => {
                let point = |one: &BoxFootprint| u64::from(one.world.west) << 32 | u64::from(one.world.north);
                Footprints::Points(SortedPoints::new(boxes.iter().map(point).collect()))
            }
            other => other,
        }
    }

    /// Whether there is no feature.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The box of a feature in world units.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "the halves of the code are 32 bits wide")]
    pub fn world(&self, index: usize) -> WorldBox {
        match self {
            Footprints::Points(points) => WorldBox::of_unit((points.0[index] >> 32) as u32, points.0[index] as u32),
            Footprints::Cells(cells) => cells[index],
            Footprints::Boxes(boxes)
            | Footprints::Outlined(OutlinedBoxes { boxes, .. })
            | Footprints::Gathered(boxes) => boxes[index].world,
        }
    }

    /// The outlines that are known, by the index of the feature.
    pub fn outlines(&self) -> impl Iterator<Item = (u32, &Outline)> {
        let known = match self {
            Footprints::Outlined(outlined) => Some(&outlined.outlines),
            _ => None,
        };
        known.into_iter().flatten().map(|(index, outline)| (*index, outline))
    }

    /// True if features are found by their boxes in their own reference system, because the layer has no closed formula for the area.
    #[must_use]
    pub const fn has_sources(&self) -> bool {
        matches!(self, Footprints::Boxes(_) | Footprints::Outlined(_) | Footprints::Gathered(_))
    }

    /// The boxes that a search must touch to find a feature, in the feature's own reference system. Usually that is the feature's box. For a cell,
    /// it is both ends of the box around its members, and the search must touch both. For a feature that crosses ±180°, it is the feature's end in
    /// one half of the world: the western half if `in_west`. Either end finds the feature, but a search in one half should not reach into the other.
    pub fn sources(&self, index: usize, in_west: bool) -> impl Iterator<Item = SourceBox<f32>> {
        let (first, second) = match self {
            Footprints::Points(_) | Footprints::Cells(_) => (None, None),
            Footprints::Boxes(boxes) | Footprints::Outlined(OutlinedBoxes { boxes, .. }) => {
                let source = boxes[index].source;
                let half = match (source.min_x > source.max_x, in_west) {
                    (false, _) => source,
                    (true, true) => SourceBox { min_x: source.max_x, ..source },
                    (true, false) => SourceBox { max_x: source.min_x, ..source },
                };
                (Some(half), None)
            }
            Footprints::Gathered(cells) => {
                let SourceBox { min_x, min_y, max_x, max_y } = cells[index].source;
                (Some(SourceBox::of_position(min_x, min_y)), Some(SourceBox::of_position(max_x, max_y)))
            }
        };
        first.into_iter().chain(second)
    }
}

/// The footprints of a layer, zoom by zoom.
#[derive(Debug, Clone, PartialEq)]
pub enum LayerFootprints {
    /// The same at every zoom.
    Same(Footprints),
    /// Different at each zoom; nothing at a zoom that is not in the map.
    ByZoom(BTreeMap<Zoom, Footprints>),
}

/// No feature.
static NOTHING: Footprints = Footprints::Points(SortedPoints(Vec::new()));

impl LayerFootprints {
    /// The footprints at a zoom.
    #[must_use]
    pub fn at(&self, zoom: Zoom) -> &Footprints {
        match self {
            LayerFootprints::Same(footprints) => footprints,
            LayerFootprints::ByZoom(zooms) => zooms.get(&zoom).unwrap_or(&NOTHING),
        }
    }

    /// The footprints of every zoom.
    pub fn all(&self) -> impl Iterator<Item = &Footprints> {
        let (same, others) = match self {
            LayerFootprints::Same(footprints) => (Some(footprints), None),
            LayerFootprints::ByZoom(zooms) => (None, Some(zooms.values())),
        };
        same.into_iter().chain(others.into_iter().flatten())
    }

    /// Whether there is no feature at any zoom.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.all().all(Footprints::is_empty)
    }
}

/// The position of a change: where a row was before the change, or is after it.
#[derive(Debug, Clone, PartialEq)]
pub enum Spot {
    /// A box in world units.
    Box(WorldBox),
    /// A line or polygon.
    Shape {
        /// Its box in world units.
        world: WorldBox,
        /// Its outline, for the tiles that it touches.
        outline: Outline,
    },
    /// A position in world units, as exact as the database knows it: x, y.
    Point([f64; 2]),
}

impl Spot {
    /// The box in world units.
    #[must_use]
    pub fn world(&self) -> WorldBox {
        match self {
            Spot::Box(world) | Spot::Shape { world, .. } => *world,
            Spot::Point(at) => WorldBox::of_position(*at),
        }
    }
}
