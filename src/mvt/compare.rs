//! Compares two tiles feature by feature, as map clients see them: the order of layers, features and properties does
//! not count, nor does the kind in which a number is written.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use schemars::JsonSchema;
use serde::Serialize;

use super::{Feature, MvtGeometry, MvtLayer, MvtValue};

/// The most properties that a [`LayerDifference`] names.
const MAX_NAMED_PROPERTIES: usize = 10;

/// How a layer of a tile A differs from the layer of the same name in a tile B. A layer without features counts as one
/// that is not there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct LayerDifference {
    /// The layer's name.
    pub layer: String,
    /// The extents in A and in B, if they are not the same.
    pub extents: Option<LayerExtents>,
    /// Features that only A has.
    pub only_a: u64,
    /// Features that only B has.
    pub only_b: u64,
    /// Features of both with another geometry: those of the same id, else of the same properties.
    pub moved: u64,
    /// The farthest that a position of these lies from its place in A, on one axis, in grid units of the tile. `null`
    /// if none has as many positions in both tiles.
    pub farthest: Option<u32>,
    /// Features of both with other properties: those of the same id, else of the same geometry.
    pub altered: u64,
    /// The first names of the properties in which they differ, in alphabetical order.
    pub properties: Vec<String>,
    /// Features of both that differ in nothing but their id.
    pub other_ids: u64,
}

/// The extents of a layer in two tiles: grid units along one side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
pub struct LayerExtents {
    /// In A.
    pub a: u32,
    /// In B.
    pub b: u32,
}

/// How two tiles differ, by layer in alphabetical order; empty if map clients see no difference.
pub fn differences(a: &[MvtLayer<'_>], b: &[MvtLayer<'_>]) -> Vec<LayerDifference> {
    let mut layers: BTreeMap<&str, [Option<&MvtLayer<'_>>; 2]> = BTreeMap::new();
    for (side, tile) in [a, b].into_iter().enumerate() {
        for layer in tile.iter().filter(|layer| !layer.features.is_empty()) {
            layers.entry(layer.name).or_default()[side] = Some(layer);
        }
    }
    layers.into_iter().filter_map(|(name, sides)| difference(name, sides)).collect()
}

/// A value as clients see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum SeenValue<'a> {
    Text(&'a str),
    Whole(i128),
    /// The bits of a number that is not whole.
    Fraction(u64),
    Bool(bool),
}

impl<'a> From<MvtValue<'a>> for SeenValue<'a> {
    fn from(value: MvtValue<'a>) -> SeenValue<'a> {
        match value {
            MvtValue::Text(text) => SeenValue::Text(text),
            MvtValue::Int(number) | MvtValue::Sint(number) => SeenValue::Whole(number.into()),
            MvtValue::Uint(number) => SeenValue::Whole(number.into()),
            MvtValue::Float(number) => SeenValue::of_number(number.into()),
            MvtValue::Double(number) => SeenValue::of_number(number),
            MvtValue::Bool(value) => SeenValue::Bool(value),
        }
    }
}

impl SeenValue<'_> {
    fn of_number(number: f64) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "the number is whole, and i128 holds it")]
        if number.fract() == 0.0 && number.abs() < 1e38 {
            return SeenValue::Whole(number as i128);
        }
        SeenValue::Fraction(if number.is_nan() { f64::NAN } else { number }.to_bits())
    }
}

/// Gives equal things of two layers equal numbers, so that features are compared without their texts: a tile stores
/// each value once, but all of its features may refer to it.
struct Numbering<T>(HashMap<T, u32>);

impl<T: std::hash::Hash + Eq> Numbering<T> {
    fn of(&mut self, things: impl IntoIterator<Item = T>) -> Vec<u32> {
        let number = |thing| {
            let next = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
            *self.0.entry(thing).or_insert(next)
        };
        things.into_iter().map(number).collect()
    }
}

/// A feature as clients see it.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct SeenFeature<'a> {
    id: Option<u64>,
    /// The numbers of keys and their values, by key.
    tags: Box<[[u32; 2]]>,
    geometry: &'a MvtGeometry,
}

fn difference(name: &str, sides: [Option<&MvtLayer<'_>>; 2]) -> Option<LayerDifference> {
    let (mut keys, mut values) = (Numbering(HashMap::new()), Numbering(HashMap::new()));
    let mut names = Vec::new();
    let features = sides.map(|layer| {
        let Some(layer) = layer else { return Vec::new() };
        let key_numbers = keys.of(layer.keys.iter().copied());
        let value_numbers = values.of(layer.values.iter().map(|value| SeenValue::from(*value)));
        names.extend(key_numbers.iter().copied().zip(layer.keys.iter().copied()));
        let mut seen = Vec::with_capacity(layer.features.len());
        for Feature { id, geometry, tags } in &layer.features {
            let pairs = tags.chunks_exact(2);
            let mut tags: Box<[_]> =
                pairs.map(|tag| [key_numbers[tag[0] as usize], value_numbers[tag[1] as usize]]).collect();
            tags.sort_unstable();
            seen.push(SeenFeature { id: *id, tags, geometry });
        }
        seen
    });
    let mut found = LayerDifference { layer: name.to_owned(), ..LayerDifference::default() };
    if let [Some(a), Some(b)] = sides
        && a.extent != b.extent
    {
        found.extents = Some(LayerExtents { a: a.extent, b: b.extent });
    }
    let mut altered_keys = BTreeSet::new();
    let mut note = |a: &SeenFeature<'_>, b: &SeenFeature<'_>| {
        if a.geometry != b.geometry {
            found.moved += 1;
            found.farthest = found.farthest.max(farthest(a.geometry, b.geometry));
        }
        if a.tags != b.tags {
            found.altered += 1;
            for [one, other] in [[a, b], [b, a]] {
                let differing = one.tags.iter().filter(|tag| other.tags.binary_search(tag).is_err());
                altered_keys.extend(differing.map(|tag| tag[0]));
            }
        }
        if a.geometry == b.geometry && a.tags == b.tags {
            found.other_ids += 1;
        }
    };
    let rest = paired(features, SeenFeature::cmp, |_, _| true);
    let of_one_id = |a: &SeenFeature<'_>, b: &SeenFeature<'_>| {
        if a.id.is_some() {
            note(a, b);
        }
        a.id.is_some()
    };
    let rest = paired(rest, |a, b| a.id.cmp(&b.id), of_one_id);
    let mut noted = |a: &SeenFeature<'_>, b: &SeenFeature<'_>| {
        note(a, b);
        true
    };
    // Features that differ in nothing but their ids, before those of equal properties are paired by chance.
    let but_ids =
        |a: &SeenFeature<'_>, b: &SeenFeature<'_>| a.tags.cmp(&b.tags).then_with(|| a.geometry.cmp(b.geometry));
    let rest = paired(rest, but_ids, &mut noted);
    let rest = paired(rest, |a, b| a.tags.cmp(&b.tags), &mut noted);
    let rest = paired(rest, |a, b| a.geometry.cmp(b.geometry), &mut noted);
    [found.only_a, found.only_b] = rest.map(|features| features.len() as u64);
    let altered: BTreeSet<&str> =
        names.into_iter().filter(|(key, _)| altered_keys.contains(key)).map(|(_, name)| name).collect();
    found.properties = altered.into_iter().take(MAX_NAMED_PROPERTIES).map(str::to_owned).collect();
    let is_none = LayerDifference { layer: found.layer.clone(), ..LayerDifference::default() } == found;
    (!is_none).then_some(found)
}

/// Pairs features of A and of B that are equal in `order`, and returns those that found no partner, or of which `takes`
/// did not take the pair.
fn paired<'a>(
    sides: [Vec<SeenFeature<'a>>; 2],
    order: impl Fn(&SeenFeature<'a>, &SeenFeature<'a>) -> Ordering,
    mut takes: impl FnMut(&SeenFeature<'a>, &SeenFeature<'a>) -> bool,
) -> [Vec<SeenFeature<'a>>; 2] {
    let [mut a, mut b] = sides.map(|mut features| {
        features.sort_unstable_by(&order);
        features.into_iter().peekable()
    });
    let mut rest = [Vec::new(), Vec::new()];
    loop {
        let next = match (a.peek(), b.peek()) {
            (Some(one), Some(other)) => order(one, other),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return rest,
        };
        let one = if next.is_le() { a.next() } else { None };
        let other = if next.is_ge() { b.next() } else { None };
        let is_taken = one.as_ref().zip(other.as_ref()).is_some_and(|(one, other)| takes(one, other));
        if !is_taken {
            rest[0].extend(one);
            rest[1].extend(other);
        }
    }
}

/// The largest distance, on one axis, between positions of two geometries with as many positions.
fn farthest(a: &MvtGeometry, b: &MvtGeometry) -> Option<u32> {
    if a.kind() != b.kind() || a.positions().count() != b.positions().count() {
        return None;
    }
    a.positions().zip(b.positions()).flat_map(|(a, b)| [a[0].abs_diff(b[0]), a[1].abs_diff(b[1])]).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(id: Option<u64>, at: [i32; 2], tags: &[u32]) -> Feature {
        Feature { id, geometry: MvtGeometry::Points(vec![at]), tags: tags.to_vec() }
    }

    fn layer<'a>(keys: &[&'a str], values: &[MvtValue<'a>], features: Vec<Feature>) -> MvtLayer<'a> {
        MvtLayer { name: "mills", extent: 4096, features, keys: keys.to_vec(), values: values.to_vec() }
    }

    use MvtValue::{Double, Float, Int, Sint, Text, Uint};

    #[test]
    fn the_order_and_the_kinds_of_numbers_do_not_count() {
        let empty = MvtLayer { name: "empty", extent: 512, features: Vec::new(), keys: Vec::new(), values: Vec::new() };
        let a = layer(
            &["name", "size"],
            &[Text("a"), Uint(3), Text("b"), Double(0.5), Int(-7)],
            vec![point(None, [1, 2], &[0, 0, 1, 1]), point(None, [3, 4], &[0, 2, 1, 3]), point(None, [3, 4], &[1, 4])],
        );
        let b = layer(
            &["size", "unused", "name"],
            &[Float(0.5), Double(3.0), Text("b"), Text("a"), Sint(-7)],
            vec![point(None, [3, 4], &[0, 4]), point(None, [3, 4], &[2, 2, 0, 0]), point(None, [1, 2], &[0, 1, 2, 3])],
        );
        assert_eq!(differences(&[empty, a.clone()], std::slice::from_ref(&b)), []);
        assert_eq!(differences(&[], &[]), []);
        let only = LayerDifference { layer: "mills".to_owned(), only_b: 3, ..LayerDifference::default() };
        assert_eq!(differences(&[], &[b]), [only]);
        // Each feature has one partner, however many are equal.
        let twice = layer(&[], &[], vec![point(None, [1, 1], &[]), point(None, [1, 1], &[])]);
        let once = layer(&[], &[], vec![point(None, [1, 1], &[])]);
        let only = LayerDifference { layer: "mills".to_owned(), only_a: 1, ..LayerDifference::default() };
        assert_eq!(differences(&[twice], &[once]), [only]);
    }

    #[test]
    fn what_differs_is_named() {
        let a = layer(
            &["id", "name", "town"],
            &[Uint(1), Uint(2), Uint(3), Text("x"), Text("y")],
            vec![
                point(None, [10, 10], &[0, 0]),
                point(None, [20, 20], &[0, 1, 1, 3]),
                point(None, [30, 30], &[0, 2, 2, 3]),
                point(Some(5), [40, 40], &[1, 3]),
                point(Some(6), [50, 50], &[]),
            ],
        );
        let b = layer(
            &["id", "name"],
            &[Uint(1), Uint(2), Uint(4), Text("x"), Text("y")],
            vec![
                point(None, [10, 7], &[0, 0]),
                point(None, [20, 20], &[0, 1, 1, 4]),
                point(None, [99, 99], &[0, 2]),
                point(Some(5), [40, 41], &[1, 4]),
                point(Some(7), [50, 50], &[]),
            ],
        );
        let found = differences(std::slice::from_ref(&a), &[MvtLayer { extent: 512, ..b }]);
        let expected = LayerDifference {
            layer: "mills".to_owned(),
            extents: Some(LayerExtents { a: 4096, b: 512 }),
            only_a: 1,
            only_b: 1,
            moved: 2,
            farthest: Some(3),
            altered: 2,
            properties: vec!["name".to_owned()],
            other_ids: 1,
        };
        assert_eq!(found, [expected]);
        let lines = MvtGeometry::Lines(vec![vec![[10, 10], [20, 20]]]);
        let drawn = layer(&[], &[], vec![Feature { id: Some(5), geometry: lines, tags: Vec::new() }]);
        let found = differences(&[a], &[drawn]);
        assert_eq!((found[0].moved, found[0].farthest, found[0].altered, found[0].only_a), (1, None, 1, 4));
    }

    /// A value of many features, as a hostile tile has it, is hashed once and not for each of them.
    #[test]
    fn a_large_value_of_many_features_is_looked_at_once() {
        let text = "x".repeat(1 << 20);
        let keys = ["a", "b"];
        let many = |at: i32| {
            let features = (0..100_000).map(|_| point(None, [at, 0], &[0, 0, 1, 0])).collect();
            layer(&keys, &[Text(&text)], features)
        };
        let found = differences(&[many(0)], &[many(1)]);
        assert_eq!((found[0].moved, found[0].farthest), (100_000, Some(1)));
    }
}
