//! The statement that calls a function for many tiles.

use crate::postgis::layer::CalledFunction;

/// Calls a function once for each tile. The parameters: `$1` numbers that tell tiles apart, `$2`, `$3`, `$4` zoom, column and row (XYZ), each one
/// array; `$5` what the function takes beside them, as text.
///
/// Gives one row for each tile: `$1`, and what the function gave, which is its value or its first column; NULL if it gave nothing.
pub(in crate::postgis) fn call(function: &CalledFunction) -> String {
    let query = function.arguments.get(3).map_or_else(String::new, |kind| format!(", $5::pg_catalog.{kind}"));
    format!(
        "SELECT tile.number, given.mvt
FROM unnest($1, $2, $3, $4) AS tile (number, z, x, y)
LEFT JOIN LATERAL {}(tile.z, tile.x, tile.y{query}) AS given (mvt) ON true",
        function.name
    )
}
