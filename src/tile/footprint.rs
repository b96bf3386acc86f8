//! Where features lie, as far as planning needs to know.

/// The box of a feature in the units of its own spatial reference system: least x, least y, greatest x, greatest y.
/// Rounded outwards to single precision.
pub type SourceBox = [f32; 4];

/// The box of a feature that is no single point, or whose reference system has no closed formula.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BoxFootprint {
    /// West, north, east, south in world units.
    pub world: [u32; 4],
    /// The same feature's box in its own reference system, by which the spatial index finds it.
    pub source: SourceBox,
}

/// Where all the features of one layer lie.
#[derive(Debug, Clone, PartialEq)]
pub enum Footprints {
    /// Points in EPSG:4326 or EPSG:3857: x in the upper half, y in the lower half, in world units. Eight bytes each.
    Points(Vec<u64>),
    /// Anything else.
    Boxes(Vec<BoxFootprint>),
}

impl Footprints {
    /// How many features there are.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Footprints::Points(points) => points.len(),
            Footprints::Boxes(boxes) => boxes.len(),
        }
    }

    /// Whether there is no feature.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The box of a feature in world units: west, north, east, south.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "the halves of the code are 32 bits wide")]
    pub fn world(&self, index: usize) -> [u32; 4] {
        match self {
            Footprints::Points(points) => {
                let (x, y) = ((points[index] >> 32) as u32, points[index] as u32);
                [x, y, x, y]
            }
            Footprints::Boxes(boxes) => boxes[index].world,
        }
    }

    /// The box of a feature in its own reference system, where the layer has no closed formula for it.
    #[must_use]
    pub fn source(&self, index: usize) -> Option<SourceBox> {
        match self {
            Footprints::Points(_) => None,
            Footprints::Boxes(boxes) => Some(boxes[index].source),
        }
    }
}
