//! Shapes that are repaired before they are drawn (`repair = true`): polygons and lines that are not valid, and those
//! that jump from one side of ±180° to the other.
//!
//! The expression is that of the functions `jumps`, `unwrapped` and `repaired` in docs/world-edge.md, written out in
//! the statement: a role that may only read, and a standby, can have no functions of their own. It stands in a
//! subquery beside the relation, which is evaluated once for each row that the statement finds.
//!
//! A seed surveys all rows before it draws them. The survey returns the repaired shapes, and the statements that draw
//! get them as parameters ([`Repair::Listed`]), so that each row is checked and repaired once in a run.

use crate::postgis::layer::{EdgeUnits, Placement, REPAIRED};

const REPAIRABLE: &str = "'^(MULTI)?(LINESTRING|POLYGON)M?$'";

/// Where a statement takes repaired shapes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repair {
    /// Each row is checked, and repaired if it needs it.
    Here,
    /// The survey has repaired all rows that need it: their [identities](identity), sorted, are an array in the
    /// parameter of this number, and their shapes an array in the next, as EWKB. The shape of a row that is not drawn
    /// may be NULL.
    Listed(usize),
    /// The survey has found no row that needs it.
    Unneeded,
}

/// A column beside [`REPAIRED`], with [`Repair::Here`]: true if the row needed repair.
const NEEDED_REPAIR: &str = "oar_tiles_needed_repair";

/// A relation, an item of a FROM list, with the further column [`REPAIRED`] if the rows of `placement` are repaired.
pub(crate) fn with_repaired(placement: Placement<'_>, repair: Repair, relation: &str) -> String {
    if !placement.repair {
        return relation.to_owned();
    }
    let shapes = match repair {
        Repair::Here => repaired(placement),
        Repair::Listed(first) => listed(placement, first),
        Repair::Unneeded => format!("SELECT {} AS {REPAIRED}", linear(placement)),
    };
    format!(
        "{relation} CROSS JOIN LATERAL (
            {shapes}
            OFFSET 0
        ) AS oar_tiles_repair"
    )
}

/// The repaired shape of a row, from the parameters of [`Repair::Listed`].
fn listed(placement: Placement<'_>, first: usize) -> String {
    let shapes = first + 1;
    format!(
        "SELECT CASE WHEN (${first})[n] = id THEN ST_GeomFromEWKB((${shapes})[n]) ELSE stored END AS {REPAIRED}
            FROM (
                SELECT stored, id, width_bucket(id, ${first}) AS n
                FROM (SELECT stored, {id} AS id FROM (SELECT {stored} AS stored OFFSET 0) AS given OFFSET 0) AS identified
                OFFSET 0
            ) AS found",
        id = identity("stored"),
        stored = linear(placement),
    )
}

/// What tells a stored shape from all others, of any table or query: a hash of it as a uuid, which PostgreSQL finds in
/// a sorted array by binary search. MD5 would be shorter, but is not to be had on servers that follow FIPS 140.
fn identity(stored: &str) -> String {
    format!("encode(substring(sha256(ST_AsEWKB({stored})) FOR 16), 'hex')::uuid")
}

/// Two columns of a relation [with repaired shapes](with_repaired), and their names: the [identity] of a row that
/// needed repair and its repaired shape as EWKB, both NULL for other rows.
pub(crate) fn repaired_columns(placement: Placement<'_>) -> [String; 2] {
    [
        format!(
            ", CASE WHEN {NEEDED_REPAIR} THEN {} END AS repaired_row, CASE WHEN {NEEDED_REPAIR} THEN ST_AsEWKB({REPAIRED}) END AS repaired_shape",
            identity(&linear(placement))
        ),
        ", repaired_row, repaired_shape".to_owned(),
    ]
}

/// The stored geometry of a row; curves are converted to lines, because GEOS knows none.
fn linear(placement: Placement<'_>) -> String {
    let stored = placement.stored();
    if !placement.shape.curves {
        return stored;
    }
    format!(
        "CASE WHEN GeometryType({stored}) ~ 'CURVE|CIRCULAR|MULTISURFACE|COLLECTION' THEN ST_CurveToLine({stored}) ELSE {stored} END"
    )
}

/// The geometry `stored` repaired; itself if it needs no repair, if it is neither a line nor a polygon, or if a
/// coordinate is not finite. `g` is the same geometry; of a collection the parts of the highest dimension, which is all
/// that `ST_AsMVTGeom` draws.
fn repaired(placement: Placement<'_>) -> String {
    let (jumping, unwrapped) = placement.repair_units().map_or_else(Default::default, |units| {
        let unwrapped = within(&unwrapped(units), &band("g", "0", units));
        (
            format!("\n                    WHEN {} THEN 'jumps'", jumps("g", units)),
            format!("\n                WHEN 'jumps' THEN {unwrapped}"),
        )
    });
    let valid = within("ST_CollectionExtract(ST_MakeValid(ST_Force2D(g)), ST_Dimension(g) + 1)", "ST_Envelope(g)");
    format!(
        "SELECT flaw IS NOT NULL AS {NEEDED_REPAIR}, CASE flaw{unwrapped}
                WHEN 'invalid' THEN {valid}
                ELSE stored END AS {REPAIRED}
            FROM (
                SELECT stored, g, CASE
                    WHEN (GeometryType(g) ~ {REPAIRABLE} AND ST_Length(g) + ST_Perimeter(g) < 'Infinity') IS NOT TRUE THEN NULL{jumping}
                    WHEN ST_IsValid(g) THEN NULL
                    ELSE 'invalid' END AS flaw
                FROM (
                    SELECT stored, CASE WHEN GeometryType(stored) = 'GEOMETRYCOLLECTION' THEN ST_CollectionExtract(stored, ST_Dimension(stored) + 1) ELSE stored END AS g
                    FROM (SELECT {stored} AS stored OFFSET 0) AS given
                    OFFSET 0
                ) AS raw
                OFFSET 0
            ) AS judged",
        stored = linear(placement),
    )
}

/// What lies inside a box of a shape that was made of `g`. PostGIS takes the box of a polygon from its outer rings, so
/// a hole may lie outside of it; where that is drawn, nobody would look for the row.
fn within(made: &str, bounds: &str) -> String {
    format!(
        "(
                SELECT CASE WHEN ST_XMin(made) >= ST_XMin(bounds) AND ST_XMax(made) <= ST_XMax(bounds) AND ST_YMin(made) >= ST_YMin(bounds) AND ST_YMax(made) <= ST_YMax(bounds)
                    THEN made ELSE ST_CollectionExtract(ST_Intersection(made, bounds), ST_Dimension(g) + 1) END
                FROM (SELECT {made} AS made, {bounds} AS bounds OFFSET 0) AS made)"
    )
}

/// The condition that a geometry has two neighbouring vertices on different sides of ±180° and most of the world
/// between them. An edge from one end of the world to the other, as boxes and the shores of Antarctica have, counts
/// only in a part that is not valid.
pub(crate) fn jumps(g: &str, units: EdgeUnits) -> String {
    let (half, near, whole) = (units.half_world(), units.half_world() / 2.0, units.whole_step());
    format!(
        "CASE WHEN ST_Dimension({g}) > 0 AND ST_XMin({g}) < -{near:?} AND ST_XMax({g}) > {near:?} THEN EXISTS (
            SELECT FROM ST_Dump({g}) AS part, LATERAL (
                SELECT abs(ST_X(geom) - lag(ST_X(geom)) OVER (
                    PARTITION BY path[1:cardinality(path) - 1] ORDER BY path[cardinality(path)])) AS step
                FROM ST_DumpPoints(part.geom) AS dumped (path, geom)
            ) AS steps WHERE ST_Dimension(part.geom) > 0 AND step > {half:?} AND (step < {whole:?} OR NOT ST_IsValid(part.geom))
        ) ELSE false END"
    )
}

/// A geometry `g` that jumps, cut at ±180°. Each line and ring of a part that jumps is followed step by step, a ring
/// around a pole is closed there, and what lies beyond ±180° is brought to the other side.
fn unwrapped(units: EdgeUnits) -> String {
    let (half, width, whole, pole) =
        (units.half_world(), 2.0 * units.half_world(), units.whole_step(), units.beyond_pole());
    format!(
        "(
                WITH parts AS (
                    SELECT path AS part, ST_Force2D(geom) AS geom, {jumping} AS jumping, ST_IsValid(geom) AS is_valid FROM ST_Dump(g)
                ), vertices AS (
                    SELECT part, is_valid, CASE WHEN cardinality(path) > 1 THEN path[1] END AS ring, path[cardinality(path)] AS n, ST_X(vertex) AS x, ST_Y(vertex) AS y
                    FROM parts, ST_DumpPoints(geom) AS dumped (path, vertex) WHERE jumping
                ), steps AS (
                    SELECT *, x - lag(x) OVER (PARTITION BY part, ring ORDER BY n) AS step FROM vertices
                ), followed AS (
                    -- A step of more than half the world went the other way round; one of the whole world did not, if the part is valid with it.
                    SELECT part, ring, n, y, x - {width:?} * sum(CASE WHEN is_valid AND abs(step) > {whole:?} THEN 0 WHEN step > {half:?} THEN 1 WHEN step < -{half:?} THEN -1 ELSE 0 END)
                        OVER (PARTITION BY part, ring ORDER BY n) AS x FROM steps
                ), lines AS (
                    SELECT part, ring, ST_MakeLine(ST_MakePoint(x, y) ORDER BY n) AS line FROM followed GROUP BY part, ring
                ), closed AS (
                    -- A ring that does not come back to where it began goes around a pole.
                    SELECT part, ring, CASE
                        WHEN ring IS NULL THEN line
                        WHEN abs(ST_X(ST_StartPoint(line)) - ST_X(ST_EndPoint(line))) < {half:?} THEN ST_MakePolygon(line)
                        ELSE ST_MakePolygon(ST_AddPoint(ST_AddPoint(ST_AddPoint(line,
                            ST_MakePoint(ST_X(ST_EndPoint(line)), sign(ST_YMin(line)) * {pole:?})), ST_MakePoint(ST_X(ST_StartPoint(line)), sign(ST_YMin(line)) * {pole:?})),
                            ST_StartPoint(line))) END AS shape
                    FROM lines
                ), wrapped AS (
                    SELECT part, ring, ST_WrapX(ST_WrapX(CASE WHEN ring IS NULL THEN shape ELSE ST_CollectionExtract(ST_MakeValid(shape), 3) END, {half:?}, -{width:?}), -{half:?}, {width:?}) AS shape FROM closed
                ), shapes AS (
                    SELECT CASE WHEN bool_or(ring > 1)
                        THEN ST_SymDifference(ST_Union(shape) FILTER (WHERE ring = 1), ST_Union(shape) FILTER (WHERE ring > 1))
                        ELSE ST_Union(shape) END AS shape
                    FROM wrapped GROUP BY part
                    UNION ALL
                    SELECT ST_SetSRID(CASE WHEN is_valid THEN geom ELSE ST_CollectionExtract(ST_MakeValid(geom), ST_Dimension(g) + 1) END, 0) FROM parts WHERE NOT jumping
                ), united AS (
                    SELECT ST_SetSRID(ST_Multi(ST_CollectionExtract(ST_Union(shape), ST_Dimension(g) + 1)), ST_SRID(g)) AS shape FROM shapes
                )
                SELECT CASE WHEN NOT ST_IsEmpty(shape) THEN shape ELSE g END FROM united)",
        jumping = jumps("geom", units),
    )
}

// Where rows that jump are searched. They may be drawn at all longitudes, and as far as a pole, which their stored
// boxes do not show. But these reach from one half of the world into the other, farther than a quarter from its middle.

/// Two boxes, in the reference system of the column. A row that jumps and may be drawn between two latitudes touches
/// both. `None` if no row can jump, or none is repaired.
///
/// A ring around a pole is closed on the side on which it reaches farthest from the equator in the south, so it is
/// drawn between that pole and the equator, or where it lies itself. Both are found between the latitudes and the
/// equator.
pub(crate) fn jumping_boxes(placement: Placement<'_>, south: &str, north: &str) -> Option<[String; 2]> {
    let units = placement.repair_units().filter(|_| placement.repair)?;
    let (near, srid) = (units.half_world() / 2.0, placement.shape.srid);
    let side = |west: String, east: String| {
        format!("ST_MakeEnvelope({west}, least({south}, 0), {east}, greatest({north}, 0), {srid})")
    };
    Some([side("-1e30".to_owned(), format!("-{near:?}")), side(format!("{near:?}"), "1e30".to_owned())])
}

/// Geometries of the change log, ready to be repaired. `relation` has the geometry in `column`, and its column `far`,
/// if it has one, is NULL unless the geometry stands for a larger one that reaches that much farther.
///
/// Rows that are logged as they are stay as they are, so that they are repaired as when they were drawn. Where the log
/// holds less, what is drawn lies inside of the box of the row: it contains a shape that was made valid. A row that may
/// jump, as far as its box shows, becomes the band of its latitudes, up to a pole on whose side of the equator it lies.
/// So does every such geometry of a declared query, whose rows are not repaired.
pub(crate) fn with_bands(placement: Placement<'_>, relation: &str, column: &str, far: Option<&str>) -> String {
    let g = linear(placement);
    let margin = far.map_or_else(|| "0".to_owned(), |far| format!("coalesce({far}, 0)"));
    let is_box = match far {
        _ if !placement.repair => "true".to_owned(),
        Some(far) => format!("({far} IS NOT NULL OR ST_AsBinary(ST_Envelope({column})) = ST_AsBinary({column}))"),
        None => format!("ST_AsBinary(ST_Envelope({column})) = ST_AsBinary({column})"),
    };
    let band = placement.repair_units().map_or_else(String::new, |units| {
        format!("WHEN {} AND {is_box} THEN {} ", is_wide(&g, &margin, units), band(&g, &margin, units))
    });
    let boxes = far.map_or_else(String::new, |far| format!("WHEN {far} IS NOT NULL THEN ST_Envelope({column}) "));
    let far = far.map_or_else(String::new, |far| format!(", {far}"));
    format!(
        "(SELECT CASE {band}{boxes}WHEN true THEN {column} END AS {column}{far} FROM {relation} OFFSET 0) AS with_bands"
    )
}

/// The condition that a geometry may jump, as far as its box shows; `margin` is how far the box may be too small.
pub(crate) fn is_wide(g: &str, margin: &str, units: EdgeUnits) -> String {
    let near = units.half_world() / 2.0;
    format!("ST_XMin({g}) - {margin} <= -{near:?} AND ST_XMax({g}) + {margin} >= {near:?}")
}

/// The box of all that may be drawn of a geometry that jumps.
pub(crate) fn band(g: &str, margin: &str, units: EdgeUnits) -> String {
    let (half, pole) = (units.half_world(), units.beyond_pole());
    format!(
        "ST_MakeEnvelope(-{half:?}, CASE WHEN ST_YMin({g}) - {margin} < 0 THEN -{pole:?} ELSE ST_YMin({g}) END, {half:?}, CASE WHEN ST_YMax({g}) + {margin} > 0 THEN {pole:?} ELSE ST_YMax({g}) END, ST_SRID({g}))"
    )
}
