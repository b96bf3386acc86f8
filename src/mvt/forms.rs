//! Small polygons that come out equal at any place, such as buildings at shallow zooms: each form is drawn once.

use hashbrown::HashMap;
use parking_lot::RwLock;

use super::parts::Parts;

/// The most units along a side of the box of a polygon of which only the form counts, and the most vertices of its
/// rings.
pub(crate) const MAX_SIZE_OF_FORM: i32 = 64;

/// The most units along a side of the box of a polygon that is drawn here and whose form is kept. Larger polygons seldom
/// have the same form.
const MAX_SIZE_TO_KEEP: i32 = 16;

/// The most forms that are kept.
const MAX_FORMS: usize = 100_000;

/// Threads that look up different forms seldom wait for each other.
const SHARDS: usize = 16;

/// The closed rings of a polygon in grid units, counted from its first vertex: what decides how it is drawn.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Form {
    /// For each ring its number of vertices and these.
    rings: Vec<i8>,
    is_kept: bool,
}

impl Form {
    /// Takes the form of a polygon, and returns its first vertex. `None` if the polygon is too large, or so near the
    /// western edge of the tile that it may come out otherwise there (see [`rings`](super::rings)).
    pub(crate) fn take(&mut self, rings: [&[[i32; 2]]; 2]) -> Option<[i32; 2]> {
        let [mut low, mut high] = [*rings[0].first()?; 2];
        let count = rings.iter().map(|ring| ring.len()).sum::<usize>();
        if count > MAX_SIZE_OF_FORM.unsigned_abs() as usize {
            return None;
        }
        for at in rings.into_iter().flatten() {
            for axis in 0..2 {
                low[axis] = low[axis].min(at[axis]);
                high[axis] = high[axis].max(at[axis]);
            }
        }
        let size = (high[0] - low[0]).max(high[1] - low[1]);
        if size > MAX_SIZE_OF_FORM || low[0] < MAX_SIZE_OF_FORM {
            return None;
        }
        self.is_kept = size <= MAX_SIZE_TO_KEEP;
        self.rings.clear();
        let first = rings[0][0];
        for ring in rings {
            self.rings.push(i8::try_from(ring.len()).ok()?);
            for at in ring {
                self.rings.push(i8::try_from(at[0] - first[0]).ok()?);
                self.rings.push(i8::try_from(at[1] - first[1]).ok()?);
            }
        }
        Some(first)
    }

    fn shard(&self) -> usize {
        self.rings.iter().fold(0_u8, |sum, step| sum.wrapping_mul(31).wrapping_add(step.cast_unsigned())) as usize
            % SHARDS
    }
}

/// What is drawn of polygons by their forms.
#[derive(Debug, Default)]
pub(crate) struct Forms {
    shards: Box<[RwLock<FormsOfShard>; SHARDS]>,
}

/// The parts, counted from the first vertex of the polygon; `None` for a polygon of which nothing is drawn.
type FormsOfShard = HashMap<Form, Option<Parts>>;

impl Forms {
    /// Puts what is drawn of a polygon with this form and first vertex into `to`, and returns whether that is anything.
    /// `None` if it is not known.
    pub(crate) fn find(&self, form: &Form, first: [i32; 2], to: &mut Parts) -> Option<bool> {
        let known = self.shards[form.shard()].read();
        let parts = known.get(form)?;
        if let Some(parts) = parts {
            to.clear();
            parts.move_into(first, to);
        }
        Some(parts.is_some())
    }

    /// Keeps what is drawn of a polygon with this form and first vertex, unless very many forms are kept.
    pub(crate) fn keep(&self, form: &Form, [x, y]: [i32; 2], drawn: Option<&Parts>) {
        let mut known = self.shards[form.shard()].write();
        if known.len() < MAX_FORMS / SHARDS {
            let counted = |parts: &Parts| {
                let mut counted = Parts::default();
                parts.move_into([-x, -y], &mut counted);
                counted
            };
            known.insert(form.clone(), drawn.map(counted));
        }
    }

    /// Like [`keep`](Self::keep), for a polygon that is drawn here, if its form may come again often.
    pub(crate) fn keep_small(&self, form: &Form, first: [i32; 2], drawn: &Parts) {
        if form.is_kept {
            self.keep(form, first, Some(drawn));
        }
    }

    /// True if no further form like this one is kept.
    pub(crate) fn is_full(&self, form: &Form) -> bool {
        self.shards[form.shard()].read().len() >= MAX_FORMS / SHARDS
    }
}
