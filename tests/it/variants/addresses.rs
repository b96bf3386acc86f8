//! The addresses of a tile: the one in TileJSON, which purges name, and others, which caches may keep for some seconds
//! only.

use super::served::{Listed, served};
use crate::support::served::{GZIP, status};

#[test]
fn only_the_address_in_tilejson_is_kept_for_as_long_as_cdns_may_keep_a_tile() {
    let (world, config) = Listed::new(&["bd"], true, "[serve]\ncdn_headers = [\"CDN-Cache-Control\", \"s-maxage\"]\n");
    world.oar_tiles(&config, &["seed", "--progress", "none"]).ok();
    let served = served(&config, &["--cache-control", "max-age=60", "--cdn-cache-control", "max-age=86400"]);
    for (path, is_named) in [
        ("/family/bd/0/0/0.pbf", true),
        ("/family/0/0/0.pbf", true),
        // Needless escapes in the name, the value and the number.
        ("/f%61mily/bd/0/0/0.pbf", false),
        ("/f%61mily/0/0/0.pbf", false),
        ("/family/%62d/0/0/0.pbf", false),
        // The other ending.
        ("/family/bd/0/0/0.mvt", false),
        ("/family/0/0/0.mvt", false),
        // A query that no tileset declares.
        ("/family/bd/0/0/0.pbf?v=7", false),
        ("/family/0/0/0.pbf?v=7", false),
        ("/family/0/0/0.pbf?", false),
    ] {
        let answer = served.get(path, GZIP);
        let (browsers, cdns) =
            if is_named { ("max-age=60, s-maxage=86400", "max-age=86400") } else { ("max-age=5", "max-age=5") };
        assert_eq!(status(&answer), 200, "{path}");
        assert_eq!(
            (answer.header("cache-control"), answer.header("cdn-cache-control")),
            (Some(browsers), Some(cdns)),
            "{path}"
        );
    }
}
