//! Command integers to points, lines and polygons (MVT 2.1, section 4.3).

use super::wire::{Broken, signed};

/// A position in units of the tile's grid: x grows right, y grows down, from the upper left corner.
pub type Position = [i32; 2];

/// The geometry of a feature. The order is by type, then by positions.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum MvtGeometry {
    /// A geometry of unknown type; its commands are not decoded (section 4.3.4.1).
    Unknown,
    /// One point or several (section 4.3.4.2).
    Points(Vec<Position>),
    /// One line or several, of at least two positions each (section 4.3.4.3).
    Lines(Vec<Vec<Position>>),
    /// One polygon or several (section 4.3.4.4): rings of at least three positions each. The outer ring comes first and
    /// is clockwise on the map; the rings of its holes follow. The first position of a ring is not repeated at its end.
    Polygons(Vec<Vec<Vec<Position>>>),
}

impl MvtGeometry {
    /// Its positions.
    pub fn positions(&self) -> impl Iterator<Item = Position> + '_ {
        let (points, lines, polygons) = match self {
            MvtGeometry::Unknown => (&[][..], &[][..], &[][..]),
            MvtGeometry::Points(points) => (&points[..], &[][..], &[][..]),
            MvtGeometry::Lines(lines) => (&[][..], &lines[..], &[][..]),
            MvtGeometry::Polygons(polygons) => (&[][..], &[][..], &polygons[..]),
        };
        points.iter().chain(lines.iter().flatten()).chain(polygons.iter().flatten().flatten()).copied()
    }

    /// Its type in GeoJSON (RFC 7946, section 1.4).
    pub fn kind(&self) -> &'static str {
        match self {
            MvtGeometry::Unknown => "Unknown",
            MvtGeometry::Points(points) if points.len() == 1 => "Point",
            MvtGeometry::Points(_) => "MultiPoint",
            MvtGeometry::Lines(lines) if lines.len() == 1 => "LineString",
            MvtGeometry::Lines(_) => "MultiLineString",
            MvtGeometry::Polygons(polygons) if polygons.len() == 1 => "Polygon",
            MvtGeometry::Polygons(_) => "MultiPolygon",
        }
    }
}

const MOVE_TO: u32 = 1;
const LINE_TO: u32 = 2;
const CLOSE_PATH: u32 = 7;

/// Reads commands; the cursor begins at the tile's upper left corner (section 4.3.1).
struct Commands<'a> {
    rest: &'a [u32],
    cursor: [i64; 2],
}

impl Commands<'_> {
    fn next(&mut self) -> Option<(u32, usize)> {
        let (command, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some((command & 7, (command >> 3) as usize))
    }

    /// Reads the positions of a command's parameters; there must be `count` pairs of them.
    fn positions(&mut self, count: usize, into: &mut Vec<Position>) -> Result<(), Broken> {
        let (pairs, rest) =
            self.rest.split_at_checked(count.saturating_mul(2)).ok_or("a command has too few parameters")?;
        self.rest = rest;
        into.reserve_exact(count);
        for pair in pairs.chunks_exact(2) {
            for (axis, parameter) in self.cursor.iter_mut().zip(pair) {
                *axis += signed(u64::from(*parameter));
            }
            let [x, y] = self.cursor.map(|axis| i32::try_from(axis).map_err(|_too_far| "a position is out of range"));
            into.push([x?, y?]);
        }
        Ok(())
    }

    /// A `MoveTo` of exactly one position.
    fn begin(&mut self, command: (u32, usize), path: &mut Vec<Position>) -> Result<(), Broken> {
        if command != (MOVE_TO, 1) {
            return Err("a line or ring does not begin with one MoveTo");
        }
        self.positions(1, path)
    }

    /// A `LineTo` with a minimum number of positions.
    fn draw(&mut self, least: usize, path: &mut Vec<Position>) -> Result<(), Broken> {
        match self.next() {
            Some((LINE_TO, count)) if count >= least => self.positions(count, path),
            Some((LINE_TO, _)) => Err("a line or ring has too few positions"),
            _ => Err("no LineTo follows a MoveTo"),
        }
    }
}

/// Decodes the commands of a feature by its type: 0 unknown, 1 points, 2 lines, 3 polygons.
pub(crate) fn decode(kind: u64, commands: &[u32]) -> Result<MvtGeometry, Broken> {
    let mut commands = Commands { rest: commands, cursor: [0, 0] };
    match kind {
        0 => Ok(MvtGeometry::Unknown),
        1 => points(&mut commands),
        2 => lines(&mut commands),
        3 => polygons(&mut commands),
        _ => Err("its geometry type does not exist"),
    }
}

fn points(commands: &mut Commands<'_>) -> Result<MvtGeometry, Broken> {
    let mut points = Vec::new();
    match commands.next() {
        Some((MOVE_TO, count)) if count > 0 => commands.positions(count, &mut points)?,
        _ => return Err("its points do not begin with a MoveTo"),
    }
    if commands.rest.is_empty() { Ok(MvtGeometry::Points(points)) } else { Err("something follows its points") }
}

fn lines(commands: &mut Commands<'_>) -> Result<MvtGeometry, Broken> {
    let mut lines = Vec::new();
    while let Some(command) = commands.next() {
        let mut line = Vec::new();
        commands.begin(command, &mut line)?;
        commands.draw(1, &mut line)?;
        lines.push(line);
    }
    if lines.is_empty() { Err("it has no line") } else { Ok(MvtGeometry::Lines(lines)) }
}

fn polygons(commands: &mut Commands<'_>) -> Result<MvtGeometry, Broken> {
    let mut polygons: Vec<Vec<Vec<Position>>> = Vec::new();
    while let Some(command) = commands.next() {
        let mut ring = Vec::new();
        commands.begin(command, &mut ring)?;
        commands.draw(2, &mut ring)?;
        if commands.next() != Some((CLOSE_PATH, 1)) {
            return Err("a ring is not closed");
        }
        // A ring without area belongs to the polygon before it; it is invisible.
        match (twice_the_area(&ring).signum(), polygons.last_mut()) {
            (1, _) | (0, None) => polygons.push(vec![ring]),
            (_, Some(polygon)) => polygon.push(ring),
            (_, None) => return Err("it begins with the ring of a hole"),
        }
    }
    if polygons.is_empty() { Err("it has no ring") } else { Ok(MvtGeometry::Polygons(polygons)) }
}

/// Twice the area by the surveyor's formula. It is positive for a ring that is clockwise on the map, where y grows
/// down.
pub(crate) fn twice_the_area(ring: &[Position]) -> i128 {
    let next = ring.iter().cycle().skip(1);
    ring.iter()
        .zip(next)
        .map(|(a, b)| {
            let [ax, ay, bx, by] = [a[0], a[1], b[0], b[1]].map(i128::from);
            ax * by - bx * ay
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of the specification, sections 4.3.5.1 to 4.3.5.6.
    #[test]
    fn the_examples_of_the_specification_are_read() {
        let square = |x: i32, y: i32, side: i32| vec![[x, y], [x + side, y], [x + side, y + side], [x, y + side]];
        for (kind, commands, expected) in [
            (1, &[9, 50, 34][..], MvtGeometry::Points(vec![[25, 17]])),
            (1, &[17, 10, 14, 3, 9], MvtGeometry::Points(vec![[5, 7], [3, 2]])),
            (2, &[9, 4, 4, 18, 0, 16, 16, 0], MvtGeometry::Lines(vec![vec![[2, 2], [2, 10], [10, 10]]])),
            (
                2,
                &[9, 4, 4, 18, 0, 16, 16, 0, 9, 17, 17, 10, 4, 8],
                MvtGeometry::Lines(vec![vec![[2, 2], [2, 10], [10, 10]], vec![[1, 1], [3, 5]]]),
            ),
            (
                3,
                &[9, 6, 12, 18, 10, 12, 24, 44, 15],
                MvtGeometry::Polygons(vec![vec![vec![[3, 6], [8, 12], [20, 34]]]]),
            ),
            (
                3,
                &[
                    9, 0, 0, 26, 20, 0, 0, 20, 19, 0, 15, 9, 22, 2, 26, 18, 0, 0, 18, 17, 0, 15, 9, 4, 13, 26, 0, 8, 8,
                    0, 0, 7, 15,
                ],
                MvtGeometry::Polygons(vec![
                    vec![square(0, 0, 10)],
                    vec![square(11, 11, 9), vec![[13, 13], [13, 17], [17, 17], [17, 13]]],
                ]),
            ),
        ] {
            assert_eq!(decode(kind, commands), Ok(expected), "{commands:?}");
        }
    }

    #[test]
    fn unsound_commands_are_named() {
        for (kind, commands, what) in [
            (1, &[][..], "its points do not begin with a MoveTo"),
            (1, &[1], "its points do not begin with a MoveTo"),
            (1, &[9, 50], "a command has too few parameters"),
            (1, &[0xffff_fff9, 1, 1], "a command has too few parameters"),
            (1, &[9, 50, 34, 9, 0, 0], "something follows its points"),
            (2, &[9, 4, 4], "no LineTo follows a MoveTo"),
            (2, &[9, 4, 4, 2], "a line or ring has too few positions"),
            (2, &[17, 4, 4, 4, 4], "a line or ring does not begin with one MoveTo"),
            (2, &[], "it has no line"),
            (3, &[9, 6, 12, 18, 10, 12, 24, 44], "a ring is not closed"),
            (3, &[9, 6, 12, 10, 10, 12, 15], "a line or ring has too few positions"),
            (3, &[9, 0, 0, 18, 0, 8, 8, 0, 15], "it begins with the ring of a hole"),
            (4, &[9, 0, 0], "its geometry type does not exist"),
            (1, &[17, 0xffff_fffe, 0, 2, 0], "a position is out of range"),
        ] {
            assert_eq!(decode(kind, commands), Err(what), "{commands:?}");
        }
    }
}
