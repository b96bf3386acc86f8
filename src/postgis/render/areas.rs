//! The areas of a batch as the parameters of the statement that renders them.

use tokio_postgres::types::Type;

use crate::postgis::layer::{Layer, ROUNDING_UNITS, area_box, query_box, world_box};
use crate::postgis::session::Param;
use crate::tile::{Area, SearchBox, SourceBox, TileRect, WORLD_UNITS};

/// The areas of a batch as a statement's arrays.
#[derive(Default)]
pub(in crate::postgis) struct Areas {
    zooms: Vec<i32>,
    margins: Vec<i64>,
    x0: Vec<i64>,
    y0: Vec<i64>,
    x1: Vec<i64>,
    y1: Vec<i64>,
    /// West, south, east, north of the search boxes.
    sides: [Vec<f64>; 4],
    /// For a layer that lists its tiles: rectangles of tiles, by the number of their area, counted from 1.
    listed: ListedTiles,
}

/// Rectangles of tiles as arrays.
#[derive(Default)]
struct ListedTiles {
    areas: Vec<i64>,
    x0: Vec<i64>,
    y0: Vec<i64>,
    x1: Vec<i64>,
    y1: Vec<i64>,
}

impl ListedTiles {
    fn add(&mut self, area: i64, rect: &TileRect) {
        self.areas.push(area);
        self.x0.push(rect.x0.into());
        self.y0.push(rect.y0.into());
        self.x1.push(rect.x1.into());
        self.y1.push(rect.y1.into());
    }
}

impl Areas {
    /// The areas of a batch for the layer at `index`, each with the box in which the layer's rows are searched. For a query that runs once for each
    /// tile, every tile is an area with its own box.
    pub(in crate::postgis) fn bind(layer: &Layer, index: usize, areas: &[Area]) -> Areas {
        let mut bound = Areas::default();
        for area in areas {
            if layer.asks_each_tile() {
                for tile in query_tiles(area, index).iter().flat_map(TileRect::iter) {
                    let rect = TileRect::from(tile);
                    bound.add_tiles(layer, &rect, query_box(layer, &rect, rect.zoom));
                }
                continue;
            }
            match area.search.get(index) {
                Some(SearchBox::Listed(sides, tiles)) => {
                    bound.add(&area.rect, layer.margin.units(area.rect.zoom), *sides);
                    let number = bound.last_number();
                    for rect in tiles {
                        bound.listed.add(number, rect);
                    }
                }
                Some(SearchBox::Area | SearchBox::Tiles(_) | SearchBox::Near(_)) => {
                    bound.add_tiles(layer, &area.rect, area_box(layer, &area.rect, area.rect.zoom));
                }
                Some(SearchBox::Source(sides)) => bound.add_tiles(layer, &area.rect, *sides),
                Some(SearchBox::World(world)) => bound.add_tiles(layer, &area.rect, world_box(layer, *world)),
                Some(SearchBox::Nothing) | None => {}
            }
        }
        bound
    }

    /// Squares of the pyramid without a margin.
    pub(in crate::postgis) fn without_margin(layer: &Layer, squares: &[TileRect]) -> Areas {
        let mut bound = Areas::default();
        for square in squares {
            bound.add(square, 0, world_box(layer, square.world(ROUNDING_UNITS)));
        }
        bound
    }

    /// The parameters that [`sql::render`](crate::postgis::sql::render) takes.
    pub(in crate::postgis) fn params(&self) -> Vec<Param<'_>> {
        let corners = [&self.x0, &self.y0, &self.x1, &self.y1];
        let mut params: Vec<Param<'_>> = vec![(&self.zooms, Type::INT4_ARRAY), (&self.margins, Type::INT8_ARRAY)];
        params.extend(corners.into_iter().map(|column| -> Param<'_> { (column, Type::INT8_ARRAY) }));
        params.extend(self.sides.iter().map(|column| -> Param<'_> { (column, Type::FLOAT8_ARRAY) }));
        params
    }

    /// The rectangles of tiles, for a layer that [lists its tiles](Layer::lists_tiles).
    pub(in crate::postgis) fn listed_params(&self) -> [Param<'_>; 5] {
        let ListedTiles { areas, x0, y0, x1, y1 } = &self.listed;
        [areas, x0, y0, x1, y1].map(|column| -> Param<'_> { (column, Type::INT8_ARRAY) })
    }

    /// The number of the last area, counted from 1.
    fn last_number(&self) -> i64 {
        i64::try_from(self.zooms.len()).unwrap_or(i64::MAX)
    }

    fn add_tiles(&mut self, layer: &Layer, rect: &TileRect, sides: SourceBox) {
        self.add(rect, layer.margin.units(rect.zoom), sides);
        if layer.lists_tiles() {
            self.listed.add(self.last_number(), rect);
        }
    }

    fn add(&mut self, rect: &TileRect, margin: i64, sides: SourceBox) {
        let TileRect { zoom, x0, y0, x1, y1 } = *rect;
        self.zooms.push(i32::from(zoom.get()));
        self.margins.push(margin);
        self.x0.push(x0.into());
        self.y0.push(y0.into());
        self.x1.push(x1.into());
        self.y1.push(y1.into());
        for (column, side) in self.sides.iter_mut().zip(sides.sides()) {
            column.push(side);
        }
    }
}

/// True if a layer may have features in an area, so that it is searched there.
pub(in crate::postgis) fn is_searched(area: &Area, index: usize) -> bool {
    !matches!(area.search.get(index), Some(SearchBox::Nothing) | None)
}

/// The tiles of an area for which the layer's query runs, once for each.
pub(in crate::postgis) fn query_tiles(area: &Area, index: usize) -> &[TileRect] {
    match area.search.get(index) {
        Some(SearchBox::Tiles(tiles)) => tiles,
        Some(
            SearchBox::Area | SearchBox::Source(_) | SearchBox::Listed(..) | SearchBox::World(_) | SearchBox::Near(_),
        ) => std::slice::from_ref(&area.rect),
        Some(SearchBox::Nothing) | None => &[],
    }
}

/// The area of other tiles that have the same features as `like`.
pub(super) fn moved(like: &Area, rect: TileRect) -> Area {
    let search = like.search.iter().map(|search| match search {
        SearchBox::Listed(source, _) => SearchBox::Listed(*source, vec![rect]),
        other => other.clone(),
    });
    Area { rect, search: search.collect() }
}

/// What an area costs beside its tiles, in tiles: its part of the statement, and a second look at rows that neighbouring areas draw, too.
const COST_OF_AREA: f64 = 2.0;

/// Areas of one zoom with the boxes in which a layer's rows are searched.
type Pieces<'a> = Vec<(&'a Area, SourceBox)>;

/// The areas of a reseed for a layer of lines and polygons, joined where that is cheaper: a row that lies in several areas, or in the buffers of
/// several, is read, transformed, simplified and cut for each of them. The areas together may hold tiles that were not asked for, whose features the
/// caller drops; no tile is in two of them. `None` if nothing is joined.
pub(super) fn joined(layer: &Layer, index: usize, areas: &[Area]) -> Option<Vec<Area>> {
    // Each point is in one tile, so it would only be drawn in vain.
    if layer.shape.points || layer.cells().is_some() || layer.asks_each_tile() {
        return None;
    }
    let mut pieces: Pieces<'_> = Vec::new();
    for area in areas {
        match area.search.get(index) {
            Some(SearchBox::Area) => pieces.push((area, area_box(layer, &area.rect, area.rect.zoom))),
            Some(SearchBox::Source(sides)) => pieces.push((area, *sides)),
            Some(SearchBox::Nothing) | None => {}
            Some(_) => return None,
        }
    }
    let asked = pieces.len();
    pieces.sort_unstable_by_key(|(area, _)| area.rect.zoom);
    let mut groups: Vec<Pieces<'_>> = Vec::new();
    for of_zoom in pieces.chunk_by(|(one, _), (next, _)| one.rect.zoom == next.rect.zoom) {
        join(layer, of_zoom.to_vec(), &mut groups);
    }
    if groups.len() == asked {
        return None;
    }
    let whole = |group: &Pieces<'_>| {
        let rect = around(group)?;
        let sides = group.iter().map(|(_, sides)| *sides).fold(SourceBox::<f64>::NOTHING, SourceBox::<f64>::joined);
        let tiles: Vec<TileRect> = group.iter().map(|(area, _)| area.rect).collect();
        let own = if layer.lists_tiles() { SearchBox::Listed(sides, tiles) } else { SearchBox::Source(sides) };
        let search = (0..=index).map(|layer| if layer == index { own.clone() } else { SearchBox::Nothing });
        Some(Area { rect, search: search.collect() })
    };
    groups.iter().map(whole).collect()
}

/// The rectangle around some areas.
fn around(areas: &[(&Area, SourceBox)]) -> Option<TileRect> {
    let around = |one: TileRect, other: TileRect| TileRect {
        zoom: one.zoom,
        x0: one.x0.min(other.x0),
        y0: one.y0.min(other.y0),
        x1: one.x1.max(other.x1),
        y1: one.y1.max(other.y1),
    };
    areas.iter().map(|(area, _)| area.rect).reduce(around)
}

/// Joins areas of one zoom if the rectangle around them is cheaper than all of them; else it divides them between two columns or rows, so that no
/// rectangles overlap, and tries to join each part.
fn join<'a>(layer: &Layer, areas: Pieces<'a>, groups: &mut Vec<Pieces<'a>>) {
    let Some(whole) = around(&areas) else { return };
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    let margin = layer.margin.units(whole.zoom) as f64 / (WORLD_UNITS >> whole.zoom.get()) as f64;
    let cost = |rect: &TileRect| {
        let side = |first: u32, last: u32| f64::from(last - first) + 1.0 + 2.0 * margin;
        side(rect.x0, rect.x1) * side(rect.y0, rect.y1) + COST_OF_AREA
    };
    let apart: f64 = areas.iter().map(|(area, _)| cost(&area.rect)).sum();
    if areas.len() == 1 || cost(&whole) <= apart {
        groups.push(areas);
        return;
    }
    match divided(areas) {
        Ok([some, others]) => {
            join(layer, some, groups);
            join(layer, others, groups);
        }
        Err(areas) => groups.extend(areas.into_iter().map(|area| vec![area])),
    }
}

/// Areas on the two sides of the widest gap between columns or rows, or of the one in the middle. The areas themselves if there is none.
fn divided(mut areas: Pieces<'_>) -> Result<[Pieces<'_>; 2], Pieces<'_>> {
    let ends: [fn(&TileRect) -> [u32; 2]; 2] = [|rect| [rect.x0, rect.x1], |rect| [rect.y0, rect.y1]];
    let mut best = None;
    for ends in ends {
        areas.sort_unstable_by_key(|(area, _)| ends(&area.rect));
        let mut last = None;
        for (number, (area, _)) in areas.iter().enumerate() {
            let [first, end] = ends(&area.rect);
            if let Some(gap) = last.and_then(|last: u32| first.checked_sub(last + 1)) {
                let found = (gap, number.min(areas.len() - number), first);
                if best.is_none_or(|(known, _)| found > known) {
                    best = Some((found, ends));
                }
            }
            last = last.max(Some(end));
        }
    }
    let Some(((_, _, first), ends)) = best else { return Err(areas) };
    let (others, some) = areas.into_iter().partition(|(area, _)| ends(&area.rect)[0] >= first);
    Ok([some, others])
}
