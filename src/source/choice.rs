//! Which source draws what: the decisions, on one screen.

/// What it takes to read all rows of a layer once, and what it saves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheCost {
    /// The layer's rows.
    pub rows: u64,
    /// How many features the run draws of them, counted in each tile.
    pub features: u64,
    /// The workers that would read the rows otherwise, each its part of them.
    pub workers: usize,
    /// The least memory that a cached row takes, in bytes.
    pub min_row_bytes: u64,
    /// The memory that cached rows may take, in bytes.
    pub memory: usize,
}

/// Each row has to be drawn in at least this many tiles: caching reads it once, and writes it in a form that takes about as long as two
/// tiles.
const MIN_TILES_PER_ROW: u64 = 3;

/// True if reading all rows once is cheaper than one query per zoom: each row is drawn in at least `max(3, workers)` tiles (one session
/// reads the rows, while all workers query), and the rows may fit into `memory`.
#[must_use]
pub fn should_cache_rows(cost: &CacheCost) -> bool {
    cost.rows > 0
        && cost.features / cost.rows >= MIN_TILES_PER_ROW.max(cost.workers as u64)
        && cost.rows.saturating_mul(cost.min_row_bytes) < cost.memory as u64
}
