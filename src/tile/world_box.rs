//! Boxes with named sides: in world units, and in the units of a layer's reference system.

/// The box of a feature in world units, both ends included. `west` is greater than `east` if the feature was wrapped
/// around ±180°: it then lies east of `west` and west of `east`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct WorldBox {
    /// The westernmost x.
    pub west: u32,
    /// The northernmost y.
    pub north: u32,
    /// The easternmost x.
    pub east: u32,
    /// The southernmost y.
    pub south: u32,
}

/// The last world unit along an axis: positions on the eastern or southern edge of the world belong to it.
pub const LAST_UNIT: f64 = 4_294_967_295.0;

impl WorldBox {
    /// A box by its sides.
    pub const fn new(west: u32, north: u32, east: u32, south: u32) -> WorldBox {
        WorldBox { west, north, east, south }
    }

    /// The box of a single position: x, y.
    pub const fn of_unit(x: u32, y: u32) -> WorldBox {
        WorldBox { west: x, north: y, east: x, south: y }
    }

    /// The box of the world unit in which a position (x, y in world units) lies; positions outside of the world move to
    /// its edge.
    pub fn of_position(position: [f64; 2]) -> WorldBox {
        let [x, y] = position.map(WorldBox::unit);
        WorldBox::of_unit(x, y)
    }

    /// The world unit in which a coordinate lies, moved into the world.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 0..=2^32 - 1 before")]
    pub fn unit(coordinate: f64) -> u32 {
        coordinate.floor().clamp(0.0, LAST_UNIT) as u32
    }

    /// Whether the box runs over ±180°.
    pub const fn crosses_antimeridian(&self) -> bool {
        self.west > self.east
    }

    /// Whether the box is a single position.
    pub const fn is_position(&self) -> bool {
        self.west == self.east && self.north == self.south
    }
}

/// A rectangle in world units that may reach beyond the world, as tiles grown by a margin do. `west` is never greater
/// than `east`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorldRect {
    /// The least x.
    pub west: i64,
    /// The least y.
    pub north: i64,
    /// The greatest x.
    pub east: i64,
    /// The greatest y.
    pub south: i64,
}

/// Keeps the sides of a box as they are: a box that crosses ±180° must be split first.
impl From<WorldBox> for WorldRect {
    fn from(sides: WorldBox) -> WorldRect {
        WorldRect {
            west: sides.west.into(),
            north: sides.north.into(),
            east: sides.east.into(),
            south: sides.south.into(),
        }
    }
}

impl WorldRect {
    /// The smallest rectangle that holds both.
    #[must_use]
    pub fn joined(self, other: WorldRect) -> WorldRect {
        WorldRect {
            west: self.west.min(other.west),
            north: self.north.min(other.north),
            east: self.east.max(other.east),
            south: self.south.max(other.south),
        }
    }

    /// The rectangle with each side moved outwards by some world units.
    #[must_use]
    pub const fn grown(self, margin: i64) -> WorldRect {
        WorldRect {
            west: self.west - margin,
            north: self.north - margin,
            east: self.east + margin,
            south: self.south + margin,
        }
    }
}

/// A box in the units of a layer's own spatial reference system. In the box of a feature that was wrapped around ±180°,
/// `min_x` is greater than `max_x`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SourceBox<N = f64> {
    /// The least x.
    pub min_x: N,
    /// The least y.
    pub min_y: N,
    /// The greatest x.
    pub max_x: N,
    /// The greatest y.
    pub max_y: N,
}

impl<N: Copy> SourceBox<N> {
    /// The box of a single position.
    pub const fn of_position(x: N, y: N) -> SourceBox<N> {
        SourceBox { min_x: x, min_y: y, max_x: x, max_y: y }
    }
}

impl SourceBox {
    /// The empty box: joined to any other box, it gives the other box.
    pub const NOTHING: SourceBox =
        SourceBox { min_x: f64::INFINITY, min_y: f64::INFINITY, max_x: f64::NEG_INFINITY, max_y: f64::NEG_INFINITY };

    /// The smallest box that holds both.
    #[must_use]
    pub const fn joined(self, other: SourceBox) -> SourceBox {
        SourceBox {
            min_x: self.min_x.min(other.min_x),
            min_y: self.min_y.min(other.min_y),
            max_x: self.max_x.max(other.max_x),
            max_y: self.max_y.max(other.max_y),
        }
    }

    /// The sides as a statement takes them: west, south, east, north.
    #[must_use]
    pub const fn sides(self) -> [f64; 4] {
        [self.min_x, self.min_y, self.max_x, self.max_y]
    }
}

impl SourceBox<f32> {
    /// The empty box: joined to any other box, it gives the other box.
    pub const NOTHING: SourceBox<f32> =
        SourceBox { min_x: f32::INFINITY, min_y: f32::INFINITY, max_x: f32::NEG_INFINITY, max_y: f32::NEG_INFINITY };

    /// The smallest box that holds both.
    #[must_use]
    pub const fn joined(self, other: SourceBox<f32>) -> SourceBox<f32> {
        SourceBox {
            min_x: self.min_x.min(other.min_x),
            min_y: self.min_y.min(other.min_y),
            max_x: self.max_x.max(other.max_x),
            max_y: self.max_y.max(other.max_y),
        }
    }
}

/// The greatest number of single precision that is not above a value.
#[expect(clippy::cast_possible_truncation, reason = "corrected afterwards")]
pub fn single_below(value: f64) -> f32 {
    if f64::from(value as f32) > value { (value as f32).next_down() } else { value as f32 }
}

/// The least number of single precision that is not below a value.
#[expect(clippy::cast_possible_truncation, reason = "corrected afterwards")]
pub fn single_above(value: f64) -> f32 {
    if f64::from(value as f32) < value { (value as f32).next_up() } else { value as f32 }
}
