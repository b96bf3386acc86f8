//! Clusters that are merged from cells, where these lie close together: what a tile shows depends on cells far outside
//! of it.

use std::path::PathBuf;

use crate::support::Archive;
use crate::support::tracking::Tracking;

/// Two thousand places, about as dense everywhere, so that few members more decide about a cluster; and where the next
/// ones go.
const PLACES: &str = "
    CREATE TABLE place (id int PRIMARY KEY, at geometry(Point, 4326));
    CREATE FUNCTION chance(seed text) RETURNS float8 LANGUAGE sql IMMUTABLE AS
        $$ SELECT ('x' || substr(md5(seed), 1, 8))::bit(32)::bigint / 4294967296.0 $$;
    CREATE FUNCTION somewhere(seed text) RETURNS geometry LANGUAGE sql IMMUTABLE AS
        $$ SELECT ST_SetSRID(ST_MakePoint(30 * chance(seed || 'x'), 30 * chance(seed || 'y')), 4326) $$;
    INSERT INTO place SELECT n, somewhere(n::text) FROM generate_series(1, 2000) AS n;
    CREATE INDEX ON place USING gist (at);";

/// Large cells, few features a statement; with a comment the aggregates are not folded, and the database merges the
/// cells.
fn layers(comment: &str) -> String {
    let layer = |name: &str, cell: &str, size: &str| {
        format!(
            "[[layer]]\nname = \"{name}\"\ntable = \"place\"\nproperties = [\"id\"]\nbuffer = 0\n[layer.cluster]\nmerge = true\ncell = \"{cell}\"\nsize = {size}
             properties = {{ least = \"min(id){comment}\" }}\n"
        )
    };
    let layers =
        [layer("large", "square", "0.5"), layer("small", "square", "0.125"), layer("hexagons", "hexagon", "0.4")];
    format!("[tileset]\nzoom = \"2-8\"\n[run]\nbatch_features = 30\n{}", layers.concat())
}

fn seeded(places: &Tracking, name: &str, comment: &str) -> PathBuf {
    places.configure(&layers(comment));
    let target = places.path(name);
    places.oar_tiles("seed", &["--force"], &target).ok();
    target
}

#[test]
fn the_database_sees_all_that_decides_about_the_clusters_of_a_tile() {
    let places = Tracking::over(PLACES, "");
    let (folded, of_rows) = (seeded(&places, "folded.mbtiles", ""), seeded(&places, "rows.mbtiles", " /* of rows */"));
    let (folded, of_rows) = (Archive::open(&folded).tiles(), Archive::open(&of_rows).tiles());
    assert!(folded.len() > 500, "{}", folded.len());
    assert!(folded == of_rows);
}

#[test]
fn a_moved_place_makes_every_tile_dirty_whose_clusters_change() {
    let places = Tracking::over(PLACES, "");
    places.configure(&layers(""));
    places.install(&[]).ok();
    let target = seeded(&places, "t.mbtiles", "");
    for round in 1..=10 {
        places.db.run(&format!("UPDATE place SET at = somewhere('{round} ' || id) WHERE id = {round}"));
        places.oar_tiles("reseed", &[], &target).ok();
        let fresh = seeded(&places, "fresh.mbtiles", "");
        assert!(Archive::open(&target).tiles() == Archive::open(&fresh).tiles(), "round {round}");
    }
}
