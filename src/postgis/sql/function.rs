//! The statement that calls a function for many tiles.

use crate::postgis::layer::CalledFunction;

/// Calls a function once for each tile. The parameters: `$1` numbers that identify the tiles; `$2`, `$3`, `$4` zoom, column and row (XYZ), each one
/// array; `$5` the function's further argument, as text.
///
/// Returns one row for each tile: the tile's number in `$1`, and the function's value or first column; NULL if the function returned nothing.
pub(in crate::postgis) fn call(function: &CalledFunction) -> String {
    let query = function.arguments.get(3).map_or_else(String::new, |kind| format!(", $5::pg_catalog.{kind}"));
    format!(
        "SELECT tile.number, given.mvt
FROM unnest($1, $2, $3, $4) AS tile (number, z, x, y)
LEFT JOIN LATERAL {}(tile.z, tile.x, tile.y{query}) AS given (mvt) ON true",
        function.name
    )
}
