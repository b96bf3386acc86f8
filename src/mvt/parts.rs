//! Lines and polygons in the grid of a tile, and their commands in a feature.

use super::wire::{put_packed, zigzag};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ShapeKind {
    /// One line or several.
    Lines,
    /// One polygon: its parts are rings, the outer one first.
    Polygon,
    /// Anything else, which the database draws.
    Other,
}

impl ShapeKind {
    /// The type of a feature's geometry (MVT 2.1, section 4.3.4).
    pub(crate) const fn geometry_type(self) -> u64 {
        match self {
            ShapeKind::Lines => 2,
            ShapeKind::Polygon | ShapeKind::Other => 3,
        }
    }
}

/// Lines, or the rings of a polygon without their closing vertices, in grid units.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Parts {
    pub(crate) vertices: Vec<[i32; 2]>,
    /// One beyond the last vertex of each part.
    pub(crate) ends: Vec<usize>,
}

impl Parts {
    pub(crate) fn clear(&mut self) {
        self.vertices.clear();
        self.ends.clear();
    }

    pub(crate) fn end_part(&mut self) {
        self.ends.push(self.vertices.len());
    }

    /// Adds the same parts elsewhere to others: `step` units farther along each axis.
    pub(crate) fn move_into(&self, step: [i32; 2], to: &mut Parts) {
        let before = to.vertices.len();
        to.vertices.extend(self.vertices.iter().map(|at| [at[0] + step[0], at[1] + step[1]]));
        to.ends.extend(self.ends.iter().map(|end| before + end));
    }

    /// Appends the geometry of a feature: its commands (MVT 2.1, section 4.3).
    pub(crate) fn put(&self, kind: ShapeKind, bytes: &mut Vec<u8>) {
        const MOVE_TO_ONE: u64 = 9;
        const CLOSE_PATH: u64 = 15;
        let (mut begin, mut pen) = (0, [0, 0]);
        for end in &self.ends {
            let part = &self.vertices[begin..*end];
            begin = *end;
            for (number, vertex) in part.iter().enumerate() {
                match number {
                    0 => put_packed(bytes, MOVE_TO_ONE),
                    1 => put_packed(bytes, ((part.len() as u64 - 1) << 3) | 2),
                    _ => {}
                }
                put_packed(bytes, zigzag(vertex[0] - pen[0]));
                put_packed(bytes, zigzag(vertex[1] - pen[1]));
                pen = *vertex;
            }
            if kind == ShapeKind::Polygon {
                put_packed(bytes, CLOSE_PATH);
            }
        }
    }
}
