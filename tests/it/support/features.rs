//! The features of a tile as tests compare them.

use std::collections::BTreeMap;

use oar_tiles::mvt;
use oar_tiles::mvt::{MvtValue, Position};

/// The value of a property.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Shown {
    Text(String),
    Whole(i64),
    Number(f64),
    Bool(bool),
}

impl From<MvtValue<'_>> for Shown {
    fn from(value: MvtValue<'_>) -> Shown {
        match value {
            MvtValue::Text(text) => Shown::Text(text.to_owned()),
            MvtValue::Float(number) => Shown::Number(number.into()),
            MvtValue::Double(number) => Shown::Number(number),
            MvtValue::Int(number) | MvtValue::Sint(number) => Shown::Whole(number),
            MvtValue::Uint(number) => Shown::Whole(number.try_into().unwrap()),
            MvtValue::Bool(yes) => Shown::Bool(yes),
        }
    }
}

impl Shown {
    /// Whether two values are the same, numbers to the ninth decimal.
    pub(crate) fn is_like(&self, other: &Shown) -> bool {
        match (self, other) {
            (Shown::Number(one), Shown::Number(other)) => (one - other).abs() <= 1e-9,
            (one, other) => one == other,
        }
    }
}

/// A feature: where it lies on the tile's grid, and its properties.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Feature {
    pub at: Vec<Position>,
    pub properties: BTreeMap<String, Shown>,
}

impl Feature {
    /// A whole number among its properties.
    #[track_caller]
    pub(crate) fn whole(&self, name: &str) -> i64 {
        match self.properties[name] {
            Shown::Whole(number) => number,
            ref other => panic!("{name}: {other:?}"),
        }
    }

    /// A number among its properties.
    #[track_caller]
    pub(crate) fn number(&self, name: &str) -> f64 {
        match self.properties[name] {
            Shown::Number(number) => number,
            ref other => panic!("{name}: {other:?}"),
        }
    }

    fn text(&self, name: &str) -> Option<&str> {
        match self.properties.get(name) {
            Some(Shown::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// Whether two features are the same: positions exactly, numbers to the ninth decimal.
    pub(crate) fn is_like(&self, other: &Feature) -> bool {
        let pairs = self.properties.iter().zip(&other.properties);
        self.at == other.at
            && self.properties.len() == other.properties.len()
            && pairs.into_iter().all(|((name, one), (also, other))| name == also && one.is_like(other))
    }
}

/// The features of a tile's only layer, sorted by their positions and ids.
#[track_caller]
pub(crate) fn features(raw: &[u8], name: &str) -> Vec<Feature> {
    let layers = mvt::decode(raw).unwrap();
    let [layer] = &layers[..] else { panic!("{} layers", layers.len()) };
    assert_eq!((layer.name, layer.extent), (name, 4096));
    let feature = |feature: &mvt::Feature| Feature {
        at: feature.geometry.positions().collect(),
        properties: layer.properties(feature).map(|(key, value)| (key.to_owned(), value.into())).collect(),
    };
    let mut found: Vec<Feature> = layer.features.iter().map(feature).collect();
    found.sort_by(|one, other| (&one.at, one.text("id")).cmp(&(&other.at, other.text("id"))));
    found
}
