//! Tests with tiles that are built by hand, byte by byte, and corrupted in every way.

use super::*;

#[expect(clippy::cast_possible_truncation, reason = "the lowest bits are wanted")]
fn varint(mut value: u64, into: &mut Vec<u8>) {
    while value >= 0x80 {
        into.push(value as u8 | 0x80);
        value >>= 7;
    }
    into.push(value as u8);
}

fn bytes(number: u64, bytes: &[u8]) -> Vec<u8> {
    let mut field = Vec::new();
    varint(number << 3 | 2, &mut field);
    varint(bytes.len() as u64, &mut field);
    field.extend_from_slice(bytes);
    field
}

fn number(number: u64, value: u64) -> Vec<u8> {
    let mut field = Vec::new();
    varint(number << 3, &mut field);
    varint(value, &mut field);
    field
}

fn packed(field: u64, numbers: &[u64]) -> Vec<u8> {
    let mut inner = Vec::new();
    for number in numbers {
        varint(*number, &mut inner);
    }
    bytes(field, &inner)
}

fn feature_of(id: u64, tags: &[u64], kind: u64, commands: &[u64]) -> Vec<u8> {
    bytes(2, &[number(1, id), packed(2, tags), number(3, kind), packed(4, commands)].concat())
}

fn layer_of(name: &str, parts: &[Vec<u8>]) -> Vec<u8> {
    bytes(3, &[bytes(1, name.as_bytes()), parts.concat(), number(5, 4096), number(15, 2)].concat())
}

/// A layer with a value of each kind and a geometry of each kind.
fn sound() -> Vec<u8> {
    let values = [
        bytes(1, "Fabrik Nähgut".as_bytes()),
        [&[0x15][..], &1.5_f32.to_le_bytes()].concat(),
        [&[0x19][..], &2.25_f64.to_le_bytes()].concat(),
        number(4, (-3_i64).cast_unsigned()),
        number(5, u64::MAX),
        number(6, 7),
        number(7, 1),
    ];
    let mut parts: Vec<Vec<u8>> =
        ["a", "b", "c", "d", "e", "f", "g"].iter().map(|key| bytes(3, key.as_bytes())).collect();
    parts.extend(values.iter().map(|value| bytes(4, value)));
    parts.push(feature_of(9, &[0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6], 1, &[9, 50, 34]));
    parts.push(feature_of(u64::MAX, &[], 2, &[9, 4, 4, 18, 0, 16, 16, 0]));
    parts.push(feature_of(0, &[0, 6], 3, &[9, 6, 12, 18, 10, 12, 24, 44, 15]));
    [layer_of("one", &parts), layer_of("two", &[feature_of(1, &[], 0, &[])])].concat()
}

#[test]
fn every_kind_of_value_and_geometry_is_read() {
    let raw = sound();
    let layers = decode(&raw).unwrap();
    assert_eq!(
        layers.iter().map(|layer| (layer.name, layer.extent)).collect::<Vec<_>>(),
        [("one", 4096), ("two", 4096)]
    );
    let [first, second, third] = &layers[0].features[..] else { panic!("{layers:?}") };
    let properties: Vec<_> = layers[0].properties(first).collect();
    assert_eq!(
        properties,
        [
            ("a", MvtValue::Text("Fabrik Nähgut")),
            ("b", MvtValue::Float(1.5)),
            ("c", MvtValue::Double(2.25)),
            ("d", MvtValue::Int(-3)),
            ("e", MvtValue::Uint(u64::MAX)),
            ("f", MvtValue::Sint(-4)),
            ("g", MvtValue::Bool(true)),
        ]
    );
    assert_eq!((first.id, &first.geometry), (Some(9), &MvtGeometry::Points(vec![[25, 17]])));
    assert_eq!((second.id, second.geometry.kind()), (Some(u64::MAX), "LineString"));
    assert_eq!(layers[0].properties(third).collect::<Vec<_>>(), [("a", MvtValue::Bool(true))]);
    assert_eq!(third.geometry.positions().collect::<Vec<_>>(), [[3, 6], [8, 12], [20, 34]]);
    assert_eq!(layers[1].features[0].geometry, MvtGeometry::Unknown);
    assert_eq!(decode(&[]), Ok(Vec::new()));
}

#[test]
fn what_is_not_sound_is_named_with_its_place() {
    let point = &[9, 50, 34];
    let alone = |parts: &[Vec<u8>]| bytes(3, &parts.concat());
    for (raw, what) in [
        (alone(&[number(5, 4096), number(15, 2)]), "layer 1, it has no name"),
        (alone(&[bytes(1, b"x"), number(15, 2)]), "layer 1, it has no extent"),
        (alone(&[bytes(1, b"x"), number(5, 0), number(15, 2)]), "layer 1, it has no extent"),
        (alone(&[bytes(1, b"x"), number(5, 4096)]), "layer 1, it names no version"),
        (alone(&[bytes(1, b"x"), number(5, 4096), number(15, 1)]), "layer 1, it is of version 1, not 2"),
        (alone(&[bytes(1, &[0xff])]), "layer 1, a text is not UTF-8"),
        ([layer_of("x", &[]), layer_of("x", &[])].concat(), "two layers are named \"x\""),
        (layer_of("x", &[feature_of(1, &[0, 0], 1, point)]), "layer 1, \"x\", feature 1, a tag names key 0, of 0"),
        (
            layer_of("x", &[bytes(3, b"k"), feature_of(1, &[0, 3], 1, point)]),
            "layer 1, \"x\", feature 1, a tag names value 3, of 0",
        ),
        (layer_of("x", &[feature_of(1, &[0], 1, point)]), "layer 1, \"x\", feature 1, a key has no value"),
        (
            layer_of("x", &[bytes(3, b"k"), bytes(4, &number(7, 1)), feature_of(1, &[0, 0, 0, 0], 1, point)]),
            "layer 1, \"x\", feature 1, it has the key \"k\" twice",
        ),
        (layer_of("x", &[bytes(2, &packed(4, point))]), "layer 1, \"x\", feature 1, it has no geometry type"),
        (
            layer_of("x", &[feature_of(1, &[], 1, point), feature_of(2, &[], 2, point)]),
            "layer 1, \"x\", feature 2, no LineTo follows a MoveTo",
        ),
        (layer_of("x", &[bytes(4, &[])]), "layer 1, a property has no value"),
        (
            layer_of("x", &[bytes(4, &[number(4, 1), number(5, 1)].concat())]),
            "layer 1, a property has two values at once",
        ),
        (vec![0x1a, 5, 0], "a field is cut off"),
        (vec![0x1b], "a field has a wire type that does not exist"),
        (vec![0x02, 0], "a field has the number 0"),
    ] {
        let error = decode(&raw).unwrap_err();
        assert_eq!(error.to_string(), format!("its vector tile is broken: {what}"));
    }
}
