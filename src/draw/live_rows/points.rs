//! The live rows of a layer of points: positions and encoded features, from which its tiles are drawn and patched.

use std::sync::Arc;

use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::keys::{KeyArrays, KeyColumns};
use super::{
    DifferingSquares, Joining, LiveKind, LiveLayer, LiveRows, LiveStep, NOT_KEPT, Squares, bring, bytes, is_suited,
};
use crate::draw::areas::Areas;
use crate::draw::cached_rows::{
    CacheLimits, CachedRows, FacetIndex, KeptFeatures, RowReaders, RowsRoom, Spill, may_be_in_file,
};
use crate::draw::checks::verify_cached_rows;
use crate::draw::{PreparedLayer, Worker};
use crate::error::with_causes;
use crate::mvt::FeatureKey;
use crate::postgis::layer::Layer;
use crate::postgis::session::{Error, Param};
use crate::postgis::sql::{ExpectedRows, HAS_INDEX_ON, RowChoice, facet_values};
use crate::postgis::{count_rows, shows_rows_as_written};
use crate::tile::{Batch, Coverage, TileRect, WorldRect, Zoom};

/// `reseed --watch` keeps the rows of a layer of points from this number of changed positions on, counted over its
/// looks. With fewer, reading the rows near each change costs less than reading all rows.
pub(crate) const MIN_CHANGED_POSITIONS: usize = 1_000;

/// The memory that a row is expected to take, in bytes: itself, and each of its properties, its rank, and each column
/// of a key behind it. If all rows might take more than allowed, and even without their features, they are not read.
const BYTES_PER_ROW: [u64; 2] = [80, 40];

/// The most that a row is expected to take, in bytes.
const MAX_BYTES_PER_ROW: u64 = 400;

/// Rows are read into all memory but this part of it. A row takes more than eight times what finds it in space.
const ROOM_FOR_PLACES: usize = 8;

/// The most rows that one step reads.
const MAX_ROWS_PER_STEP: u64 = 1_000_000;

/// The live rows of a layer of points on a snapshot.
#[derive(Clone)]
pub(crate) struct LivePoints {
    pub(crate) rows: Arc<CachedRows>,
    /// The key by which a statement names them.
    pub(crate) key: FeatureKey,
    /// Those that have each value of the layer's facets; `None` if this is not known.
    pub(crate) facets: Option<Arc<FacetIndex>>,
    /// Why it is not known, if the layer has facets.
    pub(crate) why_no_facets: Option<String>,
}

impl LivePoints {
    fn of(kept: &KeptFeatures, key: FeatureKey) -> LivePoints {
        LivePoints { rows: Arc::new(kept.rows()), key, facets: kept.facets(), why_no_facets: None }
    }

    /// Tiles of a zoom around some of the rows, to compare them with what the database draws.
    pub(crate) fn sample(&self, zoom: Zoom, count: usize) -> Vec<TileRect> {
        let rows = self.rows.count();
        (0..count).filter_map(|number| self.rows.tile_around(rows * number / count, zoom)).collect()
    }

    /// True if the rows, which are those of the layer with this index, draw some tiles of `batches` as the database
    /// does.
    pub(crate) async fn draw_alike(
        &self,
        worker: &Worker,
        layers: &[Arc<Layer>],
        index: usize,
        batches: &[Batch],
    ) -> Result<bool, Error> {
        let mut layers: Vec<PreparedLayer> = layers.iter().map(PreparedLayer::new).collect();
        layers[index] = layers[index].clone().with_live_points(self);
        let verified = verify_cached_rows(worker, layers, batches).await?;
        Ok(verified[index].has_cached_rows())
    }
}

/// How the features of a layer are identified, if its rows can be live.
pub(crate) fn key(layer: &Layer) -> Option<FeatureKey> {
    layer.kept_key().filter(|_| layer.traits().has_cacheable_rows && is_suited(layer))
}

/// True if the rows of a layer can be live, and its tiles drawn from them.
pub(crate) fn may_have_live_points(layer: &Layer) -> bool {
    key(layer).is_some()
}

impl LiveRows {
    /// The kept rows of a layer of points, brought to the step's snapshot. `None` if they are not kept.
    pub(crate) async fn points(
        &self,
        step: LiveStep<'_>,
        layer: &Layer,
        changed: Option<&[[f64; 2]]>,
    ) -> Result<Option<LivePoints>, Error> {
        let mut layers = self.0.lock().await;
        bring(&mut layers, step, layer, changed).await?;
        let definition = layer.definition();
        let kept = layers.iter().find(|kept| kept.definition == definition);
        Ok(kept.and_then(|kept| match &kept.rows {
            LiveKind::Points(rows) => {
                let why_no_facets = kept.why_no_facets.clone();
                Some(LivePoints { why_no_facets, ..LivePoints::of(rows, key(layer)?) })
            }
            _ => None,
        }))
    }

    /// Notes that positions of a layer have changed whose rows are not kept. Once many have, reading all of its rows
    /// pays: they are [wanted](LiveRows::wanted).
    pub(crate) async fn note_changed(&self, step: LiveStep<'_>, layer: &Layer, changed: usize) {
        if key(layer).is_none() || step.memory == 0 {
            return;
        }
        let mut layers = self.0.lock().await;
        let definition = layer.definition();
        match layers.iter_mut().find(|kept| kept.definition == definition) {
            Some(LiveLayer { rows: LiveKind::Awaited(positions), .. }) => *positions += changed,
            Some(_) => {}
            None => layers.push(LiveLayer::new(definition, step, LiveKind::Awaited(changed))),
        }
    }

    /// Reads the rows of a layer of points. `None` if they cannot be kept.
    pub(crate) async fn read_points(&self, step: LiveStep<'_>, layer: &Layer) -> Result<Option<LivePoints>, Error> {
        let Some(key) = key(layer) else { return Ok(None) };
        let mut layers = self.0.lock().await;
        let definition = layer.definition();
        layers.retain(|kept| kept.definition != definition);
        step.snapshot.keeper.set_savepoint().await?;
        let counted = count_rows(step.snapshot, layer, &Coverage::new(&[]), layer.zooms()).await;
        let counted = step.snapshot.keeper.or_without(counted, &layer.name, NOT_KEPT).await?;
        let count = counted.map(Option::unwrap_or_default);
        let Some(count) = count else {
            layers.push(LiveLayer::new(definition, step, LiveKind::Refused));
            return Ok(None);
        };
        let memory = step.memory.saturating_sub(bytes(&layers));
        let values = layer.properties.len()
            + usize::from(layer.cached_rank().is_some())
            + layer.keys_behind().map_or(0, |types| types.read_as().len());
        let each = BYTES_PER_ROW[0] + BYTES_PER_ROW[1] * values as u64;
        // The rest is for what finds the rows in space.
        let of_rows = memory - memory / ROOM_FOR_PLACES;
        if count.saturating_mul(each.min(MAX_BYTES_PER_ROW)) > memory as u64 && !may_be_in_file(count, of_rows) {
            tracing::info!(
                "layer \"{}\": its {count} rows are not kept: they may take more memory than rows_mb allows",
                layer.name
            );
            layers.push(LiveLayer::new(definition, step, LiveKind::Refused));
            return Ok(None);
        }
        let spill = Spill::Features(key.clone());
        let limits = CacheLimits { rows: ExpectedRows::About(count), memory: of_rows, spill, by_key: true };
        let readers = RowReaders { keeper: &step.snapshot.keeper, others: &[] };
        // Of the whole world: a target may show other boxes at other zooms.
        let zooms: Vec<Zoom> = layer.zooms.iter().collect();
        let read = CachedRows::read_all(readers, layer, &Coverage::new(&[]), &zooms, limits).await;
        let rows = step.snapshot.keeper.or_without(read, &layer.name, NOT_KEPT).await?.flatten();
        let kept = rows.map(|rows| KeptFeatures::new(rows, key.clone()));
        if matches!(kept, Some(None)) {
            tracing::info!("layer \"{}\": {NOT_KEPT}: one has no key, or two have the same", layer.name);
        }
        let rows = kept.flatten().map_or(LiveKind::Refused, LiveKind::Points);
        let points = match &rows {
            LiveKind::Points(kept) => {
                let (name, rows, bytes, file) = (&layer.name, kept.len(), kept.bytes(), kept.file_bytes());
                tracing::debug!(
                    "layer \"{name}\": {rows} live rows are kept, in {bytes} bytes and {file} of a scratch file"
                );
                Some(LivePoints::of(kept, key))
            }
            _ => None,
        };
        // As good as the change log, then, which also notes that a column is altered.
        let ages = points.is_none() || !shows_rows_as_written(step.snapshot, layer, &[]).await?;
        // A rank decides which rows of a large tile are left out. It is kept if its values can be compared here.
        let hold_all = !ages && (layer.rank.is_none() || layer.cached_rank().is_some());
        layers.push(LiveLayer { ages, hold_all, ..LiveLayer::new(definition, step, rows) });
        Ok(points)
    }

    /// Reads the facets of a layer whose rows are kept and are those of the step's snapshot.
    pub(crate) async fn read_facets(&self, step: LiveStep<'_>, layer: &Layer) -> Result<(), Error> {
        let mut layers = self.0.lock().await;
        let (definition, memory) = (layer.definition(), step.memory.saturating_sub(bytes(&layers)));
        let kept = layers.iter_mut().find(|kept| kept.definition == definition);
        if let Some(LiveLayer { rows: LiveKind::Points(rows), why_no_facets, joining, .. }) = kept
            && !layer.facets.is_empty()
        {
            // Rows that are being joined have no facets.
            *joining = Joining::default();
            *why_no_facets = add_facets(rows, LiveStep { memory, ..step }, layer).await?;
        }
        Ok(())
    }

    /// Drops the rows of a layer for good: they do not give what the database draws.
    pub(crate) async fn refuse(&self, step: LiveStep<'_>, layer: &Layer) {
        let definition = layer.definition();
        let mut layers = self.0.lock().await;
        layers.retain(|kept| kept.definition != definition);
        layers.push(LiveLayer::new(definition, step, LiveKind::Refused));
    }
}

/// Replaces the rows in some squares. Returns in which of them they differ from before; `None` if there are too many or
/// they cannot be kept.
pub(crate) async fn advance(
    kept: &mut KeptFeatures,
    why_no_facets: &mut Option<String>,
    step: LiveStep<'_>,
    layer: &Layer,
    squares: Squares,
) -> Result<Option<DifferingSquares>, Error> {
    let rects = squares.rects();
    if rects.is_empty() {
        // They may be those of joined rows.
        if kept.has_facets() && kept.facets().is_none() {
            let memory = step.memory.saturating_sub(kept.bytes());
            *why_no_facets = add_facets(kept, LiveStep { memory, ..step }, layer).await?;
        }
        return Ok(Some(DifferingSquares::default()));
    }
    let areas = Areas::without_margin(layer, &rects);
    let (session, parts) = ([&step.snapshot.keeper], [RowChoice::Areas { limit: MAX_ROWS_PER_STEP }]);
    let memory = step.memory.saturating_sub(kept.bytes());
    let room = RowsRoom { memory, spill: Spill::Nothing, by_key: true };
    let Some(fresh) = CachedRows::read(&session, layer, &parts, areas.params(), room).await? else {
        return Ok(None);
    };
    let (before, came) = (kept.len(), fresh.count());
    let worlds: Vec<WorldRect> = rects.iter().map(|rect| rect.world(0)).collect();
    let differ = tokio::task::block_in_place(|| {
        let ambiguous = fresh.ambiguous_positions(layer);
        let differ = kept.replace(&worlds, fresh)?;
        Some(squares.some(&differ).and_at(&ambiguous))
    });
    if differ.is_some() && kept.has_facets() {
        *why_no_facets = add_facets(kept, LiveStep { memory, ..step }, layer).await?;
    }
    let (name, count, now) = (&layer.name, worlds.len(), kept.len());
    tracing::debug!("layer \"{name}\": live rows replaced in {count} squares: {before} before, {came} came, {now} now");
    Ok(differ)
}

/// Reads the facets of rows that are not known yet: of all rows, or of those that came. Without room for them, or if
/// the statement fails, none are known any more; returns why.
async fn add_facets(kept: &mut KeptFeatures, step: LiveStep<'_>, layer: &Layer) -> Result<Option<String>, Error> {
    let keeper = &step.snapshot.keeper;
    keeper.set_savepoint().await?;
    let read = facets_of(kept, step, layer).await;
    let failed = read.as_ref().err().map(|error| with_causes(error));
    let read = keeper.or_without(read, &layer.name, NO_FACETS).await?;
    let (facets, why) = match read {
        Some(Ok(facets)) => (Some(facets), None),
        Some(Err(why)) => {
            tracing::info!("layer \"{}\": {NO_FACETS}: {why}", layer.name);
            (None, Some(why))
        }
        None => (None, failed),
    };
    kept.set_facets(facets);
    Ok(why.map(|why| format!("layer \"{}\": {NO_FACETS}: {why}", layer.name)))
}

/// True if an index finds the rows of a layer by their key.
async fn has_index_on_key(step: LiveStep<'_>, layer: &Layer) -> Result<bool, Error> {
    let Some(key) = layer.key.first() else { return Ok(false) };
    let params: [Param<'_>; 2] = [(&layer.relation, Type::TEXT), (&key.quoted, Type::TEXT)];
    let context = format!("layer \"{}\", looking for an index on its key", layer.name);
    Ok(step.snapshot.keeper.one(&context, HAS_INDEX_ON, &params).await?.get(0))
}

/// The facets that [`add_facets`] adds, or why they are not kept.
async fn facets_of(
    kept: &KeptFeatures,
    step: LiveStep<'_>,
    layer: &Layer,
) -> Result<Result<FacetIndex, String>, Error> {
    let since = kept.without_facets();
    if since.is_none() && !has_index_on_key(step, layer).await? {
        let why = "no index finds rows by the key, and each change would read the whole table. Make one";
        return Ok(Err(why.to_owned()));
    }
    let Some(key) = key(layer) else { return Ok(Err("its key has no order that is known here".to_owned())) };
    let keys = since.as_deref().map(|since| KeyArrays::of(layer, &key, since));
    let Some(keys) = keys.map_or(Some(None), |keys| keys.map(Some)) else {
        return Ok(Err("a key is not of its column's type".to_owned()));
    };
    let columns = KeyColumns::of(layer, &key);
    let statement = facet_values(layer, &key, keys.as_ref().map(KeyArrays::kind));
    let (Some(mut index), Some(statement)) = (kept.add_facets(&layer.facets), statement) else {
        return Ok(Err("there was no row when they were read".to_owned()));
    };
    let (mut unfit, before) = (None, index.bytes());
    if since.as_ref().is_none_or(|since| !since.is_empty()) {
        let params: Vec<Param<'_>> = keys.iter().flat_map(KeyArrays::params).collect();
        let context = format!("layer \"{}\", reading the facets of its rows", layer.name);
        let each = |row: &Row| {
            if unfit.is_none() {
                let values = (columns.count()..).take(layer.facets.len()).map(|column| row.try_get(column));
                unfit = match (values.collect::<Result<Vec<_>, _>>(), columns.read(row)) {
                    (Err(error), _) | (_, Err(error)) => {
                        Some(format!("a value cannot be read: {}", with_causes(&error)))
                    }
                    (Ok(_), Ok(None)) => None,
                    (Ok(values), Ok(Some(key))) => match index.add(&key, values.into_iter()) {
                        None => Some("a value is not of its column's type".to_owned()),
                        Some(()) => (index.bytes() - before > step.memory).then(|| NO_ROOM.to_owned()),
                    },
                };
            }
            Ok(())
        };
        step.snapshot.keeper.each(&context, &statement, &params, each).await?;
    }
    if let Some(unfit) = unfit {
        return Ok(Err(unfit));
    }
    let index = index.finish();
    if since.is_none() && index.bytes() > step.memory {
        return Ok(Err(NO_ROOM.to_owned()));
    }
    if since.is_none() {
        tracing::debug!("layer \"{}\": its facets are kept, in {} bytes", layer.name, index.bytes());
    }
    Ok(Ok(index))
}

/// What happens to a layer whose facets cannot be kept.
const NO_FACETS: &str = "its facets are not kept, so that the database chooses rows by them";

const NO_ROOM: &str = "they take more memory than rows_mb allows";
