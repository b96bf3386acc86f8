//! Reads rows to be cached: into memory, and from there into a scratch file once they take too much.

use std::io;
use std::sync::Arc;

use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::row_file::RowFileWriter;
use super::{CacheLimits, CachedRows, EncodedRows, RowStore};
use crate::mvt::Features;
use crate::postgis::layer::{Layer, QueryValues, search_boxes};
use crate::postgis::session::{Error, Param, Snapshot};
use crate::postgis::sql::{self, CachedRowsParameters, RowChoice};
use crate::tile::{Coverage, Positions, Zoom};

/// The most bytes of rows in memory, with room for the group that comes last: places among the bytes have 32 bits.
const MAX_BYTES_IN_MEMORY: usize = 3 << 30;

/// Why rows are not cached.
enum RowsRefused {
    /// The tiles of single rows are not plain points, so tiles cannot be put together from them.
    NotPlain,
    /// There are more than make sense.
    TooMany,
    /// They take too much memory.
    TooLarge,
    /// Other rows came than the survey has counted.
    Others,
    /// The scratch file cannot be written.
    NoRoom(io::Error),
}

impl RowsRefused {
    fn text(&self) -> String {
        match self {
            RowsRefused::NotPlain => "ST_AsMVT does not write them as plain points".to_owned(),
            RowsRefused::TooMany => "they are too many".to_owned(),
            RowsRefused::TooLarge => "they take more memory than rows_mb allows".to_owned(),
            RowsRefused::Others => "other rows come with each query".to_owned(),
            RowsRefused::NoRoom(error) => format!(
                "they take more memory than rows_mb allows, and the temporary folder does not take them ({error}). Make room there, set TMPDIR to another one, or raise rows_mb"
            ),
        }
    }
}

/// Rows as they come.
struct Reading {
    /// The rows in memory: all, or none once they go to the file.
    features: Features,
    at: Vec<[f64; 2]>,
    file: Option<RowFileWriter>,
    /// The most bytes that rows may take in memory.
    memory: usize,
    /// True if rows beyond go to a file.
    may_spill: bool,
}

impl Reading {
    /// Before the first row. Rows of which a number is `expected` are all rows of the layer, and may go to a file.
    fn new(layer: &Layer, expected: Option<u64>, memory: usize) -> Reading {
        let properties = layer.properties.iter().map(|property| property.name.clone()).collect();
        let rows = expected.and_then(|rows| usize::try_from(rows).ok()).unwrap_or_default();
        let memory = memory.min(MAX_BYTES_IN_MEMORY);
        let rows = rows.min(memory / Positions::SIZE);
        let features = Features::new(properties, rows, memory);
        Reading { features, at: Vec::with_capacity(rows), file: None, memory, may_spill: expected.is_some() }
    }

    /// Adds a group of rows: their positions, and the layer that `ST_AsMVT` made of them.
    fn add(&mut self, x: Vec<f64>, y: Vec<f64>, mvt: &[u8]) -> Result<(), RowsRefused> {
        let added = self.features.add(mvt);
        if added != Some(x.len()) {
            return Err(RowsRefused::NotPlain);
        }
        self.at.extend(x.into_iter().zip(y).map(|(x, y)| [x, y]));
        if self.file.is_none() && self.bytes() <= self.memory {
            return Ok(());
        }
        if !self.may_spill {
            return Err(RowsRefused::TooLarge);
        }
        self.spill().map_err(RowsRefused::NoRoom)
    }

    fn bytes(&self) -> usize {
        self.features.size() + self.at.len() * Positions::SIZE
    }

    /// Moves the rows in memory to the file.
    fn spill(&mut self) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            // The other half is for the rows of further layers.
            None => self.file.insert(RowFileWriter::new(self.memory / 2)?),
        };
        for (number, at) in (0..).zip(std::mem::take(&mut self.at)) {
            file.add(at, self.features.encoded(number).unwrap_or_default())?;
        }
        self.features = self.features.with_encoded(Vec::new(), std::iter::empty());
        Ok(())
    }

    /// The number of rows that have come.
    fn rows(&self) -> u64 {
        self.file.as_ref().map_or(self.at.len() as u64, RowFileWriter::rows)
    }

    async fn finish(self) -> Result<RowStore, RowsRefused> {
        let Reading { features, at, file, .. } = self;
        let finishing = tokio::task::spawn_blocking(move || match file {
            Some(file) => Ok(RowStore::File(file.finish(&features).map_err(RowsRefused::NoRoom)?)),
            None => Ok(RowStore::Memory(EncodedRows {
                positions: Positions::new(at),
                features: Arc::new(features),
                numbers: None,
            })),
        });
        finishing.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
    }
}

impl CachedRows {
    /// Reads all rows that the coverage shows at some zooms, into a scratch file if they take more memory than the limits allow; `None` if there
    /// are not as many rows as the limits expect.
    pub(in crate::postgis) async fn read_all(
        snapshot: &Snapshot,
        layer: &Layer,
        coverage: &Coverage,
        zooms: &[Zoom],
        limits: CacheLimits,
    ) -> Result<Option<CachedRows>, Error> {
        let CacheLimits { rows, memory } = limits;
        let boxes = search_boxes(layer, coverage, zooms);
        let values = QueryValues::of_coverage(layer, coverage, zooms);
        let near = boxes.iter().flatten().map(|column| -> Param<'_> { (column as _, Type::FLOAT8_ARRAY) });
        let params: Vec<Param<'_>> = near.chain(values.params(layer)).collect();
        let boxes = boxes.as_ref().map_or(0, |columns| columns[0].len());
        CachedRows::read(snapshot, layer, RowChoice::Boxes { boxes, rows }, params, memory).await
    }

    /// Reads some rows; `None` if their number is not as expected, or if rows in areas take more than `memory` bytes.
    pub(in crate::postgis) async fn read(
        snapshot: &Snapshot,
        layer: &Layer,
        which: RowChoice,
        mut params: Vec<Param<'_>>,
        memory: usize,
    ) -> Result<Option<CachedRows>, Error> {
        let (name, extent, max_bytes) = (params.len() + 1, params.len() + 2, params.len() + 3);
        let statement = sql::cached_rows(layer, which, CachedRowsParameters { name, extent, max_bytes });
        let extent = layer.margin.extent.cast_signed();
        let (expected, max_rows, max_bytes) = match which {
            RowChoice::Boxes { rows, .. } => (Some(rows), u64::MAX, i64::MAX),
            RowChoice::Areas { limit } => (None, limit, i64::try_from(memory).unwrap_or(i64::MAX)),
        };
        let own: [Param<'_>; 3] = [(&layer.name, Type::TEXT), (&extent, Type::INT4), (&max_bytes, Type::INT8)];
        params.extend(own);
        let mut reading = Reading::new(layer, expected, memory);
        let mut refused = None;
        let each = |row: &Row| {
            if refused.is_none() {
                refused = reading.add(row.get(0), row.get(1), row.get(2)).err();
            }
            Ok(())
        };
        let context = format!("layer \"{}\", reading its rows", layer.name);
        snapshot.keeper.each(&context, &statement, &params, each).await?;
        let rows = reading.rows();
        let read = match refused {
            Some(refused) => Err(refused),
            None if rows >= max_rows => Err(RowsRefused::TooMany),
            None if expected.is_some_and(|expected| expected != rows) => Err(RowsRefused::Others),
            None => reading.finish().await,
        };
        match read {
            Ok(store) => {
                let cached = CachedRows { rows: store, near: None };
                let (name, bytes) = (&layer.name, cached.bytes());
                let place = if matches!(cached.rows, RowStore::File(_)) { "in a scratch file, with" } else { "in" };
                tracing::debug!("layer \"{name}\": {rows} rows are cached, {place} {bytes} bytes of memory");
                Ok(Some(cached))
            }
            Err(why @ RowsRefused::NoRoom(_)) => {
                tracing::warn!("layer \"{}\": its rows are not cached: {}", layer.name, why.text());
                Ok(None)
            }
            Err(why) => {
                tracing::info!("layer \"{}\": its rows are not cached: {}", layer.name, why.text());
                Ok(None)
            }
        }
    }
}
