//! The areas of a batch as the parameters of the statement that renders them.

use tokio_postgres::types::Type;

use crate::postgis::layer::{Layer, ROUNDING_UNITS, area_box, query_box, world_box};
use crate::postgis::session::Param;
use crate::postgis::sql::{LISTED_COLUMN_BIT, LISTED_ZOOM_BIT};
use crate::tile::{Area, SearchBox, SourceBox, TileRect, WORLD_UNITS, Zoom};

/// The areas of a batch as a statement's arrays.
#[derive(Default)]
pub(crate) struct Areas {
    zooms: Vec<i32>,
    margins: Vec<i64>,
    x0: Vec<i64>,
    y0: Vec<i64>,
    x1: Vec<i64>,
    y1: Vec<i64>,
    /// West, south, east, north of the search boxes.
    sides: [Vec<f64>; 4],
    listed: ListedTiles,
}

/// Tiles as runs: tiles of one column, from north to south. Sorted, and no tile is in two of them, so that the
/// statement finds runs by binary search.
#[derive(Default)]
struct ListedTiles {
    first: Vec<i64>,
    last: Vec<i64>,
}

impl ListedTiles {
    fn of<'a>(rects: impl Iterator<Item = &'a TileRect>) -> ListedTiles {
        let number = |zoom: Zoom, x: u32, y: u32| {
            i64::from(zoom.get()) << LISTED_ZOOM_BIT | i64::from(x) << LISTED_COLUMN_BIT | i64::from(y)
        };
        let columns = |rect: &TileRect| {
            let TileRect { zoom, x0, y0, x1, y1 } = *rect;
            (x0..=x1).map(move |x| [y0, y1].map(|y| number(zoom, x, y)))
        };
        let mut runs: Vec<[i64; 2]> = rects.flat_map(columns).collect();
        runs.sort_unstable();
        let mut listed = ListedTiles::default();
        for [first, last] in runs {
            match listed.last.last_mut() {
                Some(end) if first <= *end + 1 => *end = last.max(*end),
                _ => {
                    listed.first.push(first);
                    listed.last.push(last);
                }
            }
        }
        listed
    }
}

impl Areas {
    /// The areas of a batch for the layer at `index`, each with the box in which the layer's rows are searched. For a
    /// query that runs once for each tile, every tile is an area with its own box.
    pub(crate) fn bind(layer: &Layer, index: usize, areas: &[Area]) -> Areas {
        let mut bound = Areas::default();
        let mut listed: Vec<&TileRect> = Vec::new();
        for area in areas {
            if layer.asks_each_tile() {
                for tile in query_tiles(area, index).iter().flat_map(TileRect::iter) {
                    let rect = TileRect::from(tile);
                    bound.add(&rect, layer.margin.units(rect.zoom), query_box(layer, &rect, rect.zoom));
                }
                continue;
            }
            let sides = match area.search.get(index) {
                Some(SearchBox::Source(sides) | SearchBox::Listed(sides, _)) => *sides,
                Some(SearchBox::Area | SearchBox::Tiles(_) | SearchBox::Near(_)) => {
                    area_box(layer, &area.rect, area.rect.zoom)
                }
                Some(SearchBox::World(world)) => world_box(layer, *world),
                Some(SearchBox::Nothing) | None => continue,
            };
            bound.add(&area.rect, layer.margin.units(area.rect.zoom), sides);
            match area.search.get(index) {
                Some(SearchBox::Listed(_, tiles)) => listed.extend(tiles),
                _ => listed.push(&area.rect),
            }
        }
        if layer.lists_tiles() {
            bound.listed = ListedTiles::of(listed.into_iter());
        }
        bound
    }

    /// Squares of the pyramid without a margin.
    pub(crate) fn without_margin(layer: &Layer, squares: &[TileRect]) -> Areas {
        let mut bound = Areas::default();
        for square in squares {
            bound.add(square, 0, world_box(layer, square.world(ROUNDING_UNITS)));
        }
        bound
    }

    /// The parameters that [`sql::render`](crate::postgis::sql::render) takes.
    pub(crate) fn params(&self) -> Vec<Param<'_>> {
        let corners = [&self.x0, &self.y0, &self.x1, &self.y1];
        let mut params: Vec<Param<'_>> = vec![(&self.zooms, Type::INT4_ARRAY), (&self.margins, Type::INT8_ARRAY)];
        params.extend(corners.into_iter().map(|column| -> Param<'_> { (column, Type::INT8_ARRAY) }));
        params.extend(self.sides.iter().map(|column| -> Param<'_> { (column, Type::FLOAT8_ARRAY) }));
        params
    }

    /// The first and the last tile of each run, for a layer that [lists its tiles](Layer::lists_tiles).
    pub(crate) fn listed_params(&self) -> [Param<'_>; 2] {
        let ListedTiles { first, last } = &self.listed;
        [first, last].map(|column| -> Param<'_> { (column, Type::INT8_ARRAY) })
    }

    pub(crate) fn add(&mut self, rect: &TileRect, margin: i64, sides: SourceBox) {
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
pub(crate) fn is_searched(area: &Area, index: usize) -> bool {
    !matches!(area.search.get(index), Some(SearchBox::Nothing) | None)
}

/// The tiles of an area for which the layer's query runs, once for each.
pub(crate) fn query_tiles(area: &Area, index: usize) -> &[TileRect] {
    match area.search.get(index) {
        Some(SearchBox::Tiles(tiles)) => tiles,
        Some(
            SearchBox::Area | SearchBox::Source(_) | SearchBox::Listed(..) | SearchBox::World(_) | SearchBox::Near(_),
        ) => std::slice::from_ref(&area.rect),
        Some(SearchBox::Nothing) | None => &[],
    }
}

/// The area of other tiles that have the same features as `area`.
pub(crate) fn moved(area: &Area, rect: TileRect) -> Area {
    let search = area.search.iter().map(|search| match search {
        SearchBox::Listed(source, _) => SearchBox::Listed(*source, vec![rect]),
        other => other.clone(),
    });
    Area { rect, search: search.collect() }
}

/// What an area costs beside its tiles, in tiles: its part of the statement, and a second look at rows that
/// neighbouring areas draw, too.
const COST_OF_AREA: f64 = 2.0;

/// Areas of one zoom with the boxes in which a layer's rows are searched.
type Pieces<'a> = Vec<(&'a Area, SourceBox)>;

/// The areas of a reseed for a layer of lines and polygons, joined where that is cheaper: a row that lies in several
/// areas, or in the buffers of several, is read, transformed, simplified and cut for each of them. The areas together
/// may hold tiles that were not asked for, whose features the caller drops; no tile is in two of them. `None` if
/// nothing is joined.
pub(crate) fn joined(layer: &Layer, index: usize, areas: &[Area]) -> Option<Vec<Area>> {
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
    areas.iter().map(|(area, _)| area.rect).reduce(TileRect::joined)
}

/// Joins areas of one zoom if the rectangle around them is cheaper than all of them; else it divides them between two
/// columns or rows, so that no rectangles overlap, and tries to join each part.
fn join<'a>(layer: &Layer, areas: Pieces<'a>, groups: &mut Vec<Pieces<'a>>) {
    let Some(whole) = around(&areas) else { return };
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

/// Areas on the two sides of the widest gap between columns or rows, or of the one in the middle. The areas themselves
/// if there is none.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listed_tiles_become_sorted_runs_that_share_no_tile() {
        let rect = |x0, y0, x1, y1| TileRect { zoom: Zoom::new(5).unwrap(), x0, y0, x1, y1 };
        let rects = [rect(7, 4, 8, 5), rect(3, 9, 3, 9), rect(7, 6, 7, 6), rect(8, 5, 8, 9), rect(3, 0, 3, 7)];
        let ListedTiles { first, last } = ListedTiles::of(rects.iter());
        let parts = |number: &i64| [number >> 58, number >> 29 & 0x1fff_ffff, number & 0x1fff_ffff];
        let runs: Vec<[[i64; 3]; 2]> =
            first.iter().zip(&last).map(|(first, last)| [parts(first), parts(last)]).collect();
        let run = |x, y0, y1| [[5, x, y0], [5, x, y1]];
        assert_eq!(runs, [run(3, 0, 7), run(3, 9, 9), run(7, 4, 6), run(8, 4, 9)]);
    }
}
