//! Cuts lines and rings to the square of a tile and its buffer: lines as GEOS does (`GEOSClipByRect`), rings as
//! liblwgeom does (`lwgeom_clip_to_ordinate_range`), operation for operation, so that the results are equal bit for
//! bit.

#![expect(clippy::float_cmp, reason = "results are equal bit for bit only if the comparisons are")]

/// A square: its least and its greatest coordinate along both axes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClipBox {
    pub(crate) low: f64,
    pub(crate) high: f64,
}

/// The sides of the square on which a vertex lies, as bits; none if it lies inside.
type Sides = u8;

const LEFT: Sides = 1;
const RIGHT: Sides = 2;
const LOWER: Sides = 4;
const UPPER: Sides = 8;

/// Where a vertex lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Inside,
    Outside,
    On(Sides),
}

impl Side {
    fn shares_side(self, other: Side) -> bool {
        matches!((self, other), (Side::On(one), Side::On(two)) if one & two != 0)
    }
}

impl ClipBox {
    /// True if all vertices lie in the square or on its sides.
    pub(crate) fn holds(self, vertices: &[[f64; 2]]) -> bool {
        vertices.iter().flatten().all(|unit| (self.low..=self.high).contains(unit))
    }

    /// True if the box around the vertices does not touch the square.
    pub(crate) fn is_beside(self, vertices: &[[f64; 2]]) -> bool {
        (0..2)
            .any(|axis| vertices.iter().all(|at| at[axis] < self.low) || vertices.iter().all(|at| at[axis] > self.high))
    }

    fn side(self, [x, y]: [f64; 2]) -> Side {
        let is_beyond = |unit: f64| unit < self.low || unit > self.high;
        if is_beyond(x) || is_beyond(y) {
            return Side::Outside;
        }
        let bit = |is_there: bool, side: Sides| if is_there { side } else { 0 };
        let sides = bit(x == self.low, LEFT)
            | bit(x == self.high, RIGHT)
            | bit(y == self.low, LOWER)
            | bit(y == self.high, UPPER);
        if sides == 0 { Side::Inside } else { Side::On(sides) }
    }

    /// A vertex outside, moved along the segment to `to` onto a side of the square: first along x, then along y.
    fn moved_in(self, mut from: [f64; 2], to: [f64; 2], divides_first: bool) -> [f64; 2] {
        for axis in 0..2 {
            let limit = from[axis].clamp(self.low, self.high);
            if from[axis] == limit {
                continue;
            }
            let other = 1 - axis;
            if to[axis] == limit {
                from = to;
            }
            if from[axis] != to[axis] {
                let (rise, run, part) = (to[other] - from[other], to[axis] - from[axis], limit - from[axis]);
                from[other] += if divides_first { rise * (part / run) } else { rise * part / run };
                from[axis] = limit;
            }
        }
        from
    }
}

/// The pieces of a line in the square. A piece along a side of the square alone is none.
pub(crate) fn clip_line(
    line: &[[f64; 2]],
    clip: ClipBox,
    divides_first: bool,
    piece: &mut Vec<[f64; 2]>,
    mut put: impl FnMut(&[[f64; 2]]),
) {
    let mut next = 0;
    // Where the line came in, before the vertex `next`.
    let mut entered: Option<[f64; 2]> = None;
    while next < line.len() {
        if clip.side(line[next]) == Side::Outside {
            next = skip_outside(line, next, clip);
            let Some(to) = line.get(next) else { return };
            let from = clip.moved_in(line[next - 1], *to, divides_first);
            match clip.side(*to) {
                Side::Inside => entered = Some(from),
                Side::Outside => {
                    // Perhaps the segment crosses the square.
                    let end = clip.moved_in(*to, from, divides_first);
                    let [first, last] = [from, end].map(|at| clip.side(at));
                    let are_on_sides = matches!((first, last), (Side::On(_), Side::On(_)));
                    if from != end && are_on_sides && !first.shares_side(last) {
                        put(&[from, end]);
                    }
                }
                on @ Side::On(_) => {
                    if !on.shares_side(clip.side(from)) {
                        entered = Some(from);
                    }
                }
            }
            continue;
        }
        // Inside or on a side, up to the vertex where the line goes out.
        let (mut first, mut at) = (next, clip.side(line[next]));
        let is_whole_so_far = next == 0;
        let mut left = None;
        loop {
            next += 1;
            let Some(vertex) = line.get(next) else { break };
            let before = at;
            at = clip.side(*vertex);
            match at {
                Side::Outside => {
                    let end = clip.moved_in(*vertex, line[next - 1], divides_first);
                    at = clip.side(end);
                    left = Some((end != *vertex && !before.shares_side(at)).then_some(end));
                    break;
                }
                Side::On(_) if before.shares_side(at) => {
                    // Along a side: what came before is a piece of its own.
                    if first + 1 < next || entered.is_some() {
                        collect(piece, entered.take(), &line[first..next], None);
                        put(piece);
                    }
                    first = next;
                }
                Side::Inside | Side::On(_) => {}
            }
        }
        match left {
            Some(end) => {
                if first + 1 < next || entered.is_some() || end.is_some() {
                    collect(piece, entered.take(), &line[first..next], end);
                    put(piece);
                }
            }
            None if is_whole_so_far && first == 0 => put(line),
            None => {
                if first + 1 < next || entered.is_some() {
                    collect(piece, entered.take(), &line[first..next], None);
                    put(piece);
                }
            }
        }
    }
}

fn collect(piece: &mut Vec<[f64; 2]>, first: Option<[f64; 2]>, middle: &[[f64; 2]], last: Option<[f64; 2]>) {
    piece.clear();
    piece.extend(first);
    piece.extend_from_slice(middle);
    piece.extend(last);
}

/// The vertex behind those that lie beyond the same side as the one at `from`.
fn skip_outside(line: &[[f64; 2]], from: usize, clip: ClipBox) -> usize {
    let [x, y] = line[from];
    let is_beyond = |[at_x, at_y]: [f64; 2]| {
        if x < clip.low {
            at_x < clip.low
        } else if x > clip.high {
            at_x > clip.high
        } else if y < clip.low {
            at_y < clip.low
        } else {
            y > clip.high && at_y > clip.high
        }
    };
    let rest = &line[from + 1..];
    from + 1 + rest.iter().position(|at| !is_beyond(*at)).unwrap_or(rest.len())
}

/// A ring cut to the square, along x and then along y; closed. Fewer than four vertices are none.
pub(crate) fn clip_ring<'r>(
    ring: &[[f64; 2]],
    clip: ClipBox,
    along_x: &'r mut Vec<[f64; 2]>,
    along_y: &'r mut Vec<[f64; 2]>,
) -> &'r [[f64; 2]] {
    cut(ring, 0, clip, along_x);
    if along_x.len() < 4 {
        return &[];
    }
    cut(along_x, 1, clip, along_y);
    along_y
}

/// Cuts a closed ring to a range along one axis (`ptarray_clamp_to_ordinate_range`).
fn cut(ring: &[[f64; 2]], axis: usize, ClipBox { low, high }: ClipBox, to: &mut Vec<[f64; 2]>) {
    to.clear();
    let Some((first, rest)) = ring.split_first() else { return };
    let limit = |at: &[f64; 2]| {
        if at[axis] < low {
            Some(low)
        } else if at[axis] > high {
            Some(high)
        } else {
            None
        }
    };
    let between = |from: &[f64; 2], end: &[f64; 2], limit: f64| {
        let share = (limit - from[axis]) / (end[axis] - from[axis]);
        let mut at = [0.0; 2];
        at[axis] = limit;
        at[1 - axis] = from[1 - axis] + share * (end[1 - axis] - from[1 - axis]);
        at
    };
    let (mut before, mut out) = (first, limit(first));
    if out.is_none() {
        to.push(*first);
    }
    for at in rest {
        let now = limit(at);
        if out != now {
            for limit in [out, now].into_iter().flatten() {
                push_other(to, between(before, at, limit));
            }
        }
        if now.is_none() {
            push_other(to, *at);
        }
        (before, out) = (at, now);
    }
    if to.len() > 2 {
        push_other(to, to[0]);
    }
}

/// Adds a vertex unless it is the last one once more, within the tolerance of liblwgeom.
fn push_other(to: &mut Vec<[f64; 2]>, at: [f64; 2]) {
    const TOLERANCE: f64 = 1e-12;
    let is_same = |last: &[f64; 2]| (0..2).all(|axis| (last[axis] - at[axis]).abs() <= TOLERANCE);
    if !to.last().is_some_and(is_same) {
        to.push(at);
    }
}
