use super::*;
use crate::tile::{LayerId, TileCoord, Zoom};

fn id(zoom: u8, x: u32, y: u32, slice: Slice) -> TileId {
    TileId { coord: TileCoord::new(Zoom::new(zoom).unwrap(), x, y).unwrap(), slice }
}

#[test]
fn names_are_written_and_read_back() {
    let layers = ["facilities", "facilities grid", "a/b.pbf", "ü"];
    for (text, tile, name) in [
        ("{z}/{x}/{y}.pbf", id(3, 5, 1, Slice::Whole), "3/5/1.pbf"),
        ("{z}/{x}/{-y}.mvt", id(3, 5, 1, Slice::Whole), "3/5/6.mvt"),
        ("t-{y}-{x}-{z}", id(14, 16_383, 0, Slice::Whole), "t-0-16383-14"),
        (
            "tile/{layer}/{version}/{z}/{x}/{y}.pbf",
            id(0, 0, 0, Slice::Layer(LayerId(0))),
            "tile/facilities/v1.2/0/0/0.pbf",
        ),
        (
            "tile/{layer}/{version}/{z}/{x}/{y}.pbf",
            id(0, 0, 0, Slice::Layer(LayerId(1))),
            "tile/facilities%20grid/v1.2/0/0/0.pbf",
        ),
        ("{z}/{x}/{y}-{layer}", id(0, 0, 0, Slice::Layer(LayerId(2))), "0/0/0-a%2Fb.pbf"),
        ("{layer}.{z}.{x}.{y}", id(1, 0, 1, Slice::Layer(LayerId(3))), "%C3%BC.1.0.1"),
    ] {
        let template = Template::new(text).unwrap().with_layers(layers).with_version("v1.2");
        assert_eq!(template.name(tile), name);
        assert_eq!(template.read(name), Some(tile), "{name}");
    }
}

#[test]
fn what_is_no_tile_of_the_template_is_nobodys() {
    let template = Template::new("tiles/{layer}/{z}/{x}/{y}.pbf").unwrap().with_layers(["a", "ab"]);
    assert_eq!(template.read("tiles/ab/0/0/0.pbf"), Some(id(0, 0, 0, Slice::Layer(LayerId(1)))));
    for name in [
        "tiles/c/0/0/0.pbf",
        "tiles/a/0/0/0.pbf.bak",
        "tiles/a/00/0/0.pbf",
        "tiles/a/0/1/0.pbf",
        "tiles/a/23/0/0.pbf",
        "tiles/a/+0/0/0.pbf",
        "tiles/a/0/0/0.png",
        "a/0/0/0.pbf",
        "tiles/a/0/0/",
        "",
        "tiles/a/0/0/99999999999.pbf",
        "tiles/a/0/0/.pbf",
        "tiles/a/-1/0/0.pbf",
    ] {
        assert_eq!(template.read(name), None, "{name}");
    }
    let versioned = Template::new("{version}/{z}/{x}/{y}").unwrap();
    assert_eq!(versioned.clone().with_version("1").read("2/0/0/0"), None);
    assert_eq!((versioned.prefix(), versioned.with_version("1").prefix()), (String::new(), "1/".to_owned()));
}

#[test]
fn a_template_that_cannot_be_read_back_is_refused() {
    for (text, message) in [
        (
            "{z}/{x}",
            "\"{z}/{x}\" has 0 of {y} and {-y}: each of {z}, {x} and one of {y} and {-y} is needed once, {layer} and {version} at most once",
        ),
        (
            "{z}/{x}/{y}/{-y}",
            "\"{z}/{x}/{y}/{-y}\" has 2 of {y} and {-y}: each of {z}, {x} and one of {y} and {-y} is needed once, {layer} and {version} at most once",
        ),
        (
            "{z}/{x}/{y}{layer}",
            "\"{z}/{x}/{y}{layer}\" has two placeholders side by side: put / or - between them, so that names can be read back",
        ),
        (
            "{z}/{x}/{y}.{ext}",
            "\"{z}/{x}/{y}.{ext}\" has the placeholder {ext}: write {z}, {x}, {y}, {-y}, {layer} or {version}",
        ),
        ("{z}/{x}/{y", "\"{z}/{x}/{y\" has a brace without its partner: write {z}/{x}/{y}.pbf or the like"),
        (
            "/{z}/{x}/{y}",
            "\"/{z}/{x}/{y}\" is no name below the target: write no leading /, no empty part, no \".\", no \"..\" and no backslash",
        ),
        (
            "../{z}/{x}/{y}",
            "\"../{z}/{x}/{y}\" is no name below the target: write no leading /, no empty part, no \".\", no \"..\" and no backslash",
        ),
        (
            ".oar-tiles/{z}/{x}/{y}",
            "\".oar-tiles/{z}/{x}/{y}\" begins with .oar-tiles, where the program keeps its own notes: choose another folder",
        ),
        (
            ".OAR-tiles/{z}/{x}/{y}",
            "\".OAR-tiles/{z}/{x}/{y}\" begins with .oar-tiles, where the program keeps its own notes: choose another folder",
        ),
        (
            "a.tiles.json/{z}/{x}/{y}",
            "\"a.tiles.json/{z}/{x}/{y}\" begins with the name of a file that the program writes itself: choose another folder",
        ),
    ] {
        assert_eq!(Template::new(text).unwrap_err().to_string(), message);
    }
}

#[test]
fn a_folder_is_looked_into_only_if_a_tile_can_lie_below_it() {
    let layers = ["facilities", "fac", "a/b"];
    for (text, may, may_not) in [
        (
            "{z}/{x}/{y}.pbf",
            &["0", "22", "3/4194303"][..],
            &["23", "00", "proc", "3/a", "3/5/1", "3/5/1.pbf", ".oar-tiles", "3a"][..],
        ),
        ("t/{z}-{x}/{y}", &["t", "t/3-5"], &["3", "tt", "t/3", "t/3-", "t/-5", "t/3-5/7"]),
        ("{layer}/{z}/{x}/{y}", &["facilities", "fac", "a%2Fb/3"], &["a", "b/3", "facility"]),
        ("{version}/{z}/{x}/{y}", &["v1", "v1/0"], &["v2", "v1x", "v1/x", "v"]),
        ("x{z}0/{x}/{y}", &["x10", "x10/5"], &["10", "y10"]),
    ] {
        let template = Template::new(text).unwrap().with_layers(layers).with_version("v1");
        for folder in may {
            assert!(template.may_hold(folder), "{text} {folder}");
        }
        for folder in may_not {
            assert!(!template.may_hold(folder), "{text} {folder}");
        }
    }
}

#[test]
fn addresses_have_places_again() {
    let template =
        Template::new("tile/{layer}/{version}/{z}/{x}/{y}.pbf").unwrap().with_layers(["a b"]).with_version("7");
    assert_eq!(template.address(Slice::Layer(LayerId(0))), "tile/a%20b/7/{z}/{x}/{y}.pbf");
}

#[test]
fn what_may_hold_tiles_of_any_layer_or_version_is_told_by_its_name() {
    for (template, may, may_not) in [
        ("{z}/{x}/{y}.pbf", &["0", "14", "99"][..], &["", "a", "1a", "-1", "a1", "é"][..]),
        ("{layer}/{z}/{x}/{y}.pbf", &["a", "a b", "é", "0"], &[""]),
        ("tile-{version}/{z}/{x}/{y}.pbf", &["tile-1", "tile-é"], &["tile-", "tile", "1"]),
        ("{z}-{x}-{y}.pbf", &["1-2-3.pbf", "01-2-3.pbf"], &["1-2.pbf", "1-2-3.pbf.gz", "1--3.pbf"]),
        ("t/{z}/{x}/{y}.pbf", &["t"], &["tt", "0"]),
    ] {
        let template = Template::new(template).unwrap();
        for name in may {
            assert!(template.may_begin_with(name), "{template:?} {name:?}");
        }
        for name in may_not {
            assert!(!template.may_begin_with(name), "{template:?} {name:?}");
        }
    }
}
