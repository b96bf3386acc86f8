//! The areas of a batch as the parameters of the statement that renders them.

use tokio_postgres::types::Type;

use super::folds::FoldColumn;
use super::layer::Layer;
use super::query_values::query_box;
use super::session::Param;
use super::survey::{area_box, world_box};
use crate::tile::{Area, SearchBox, SourceBox, TileRect, WorldRect};

/// The areas of a batch as a statement's arrays.
#[derive(Default)]
pub(super) struct Areas {
    zooms: Vec<i32>,
    margins: Vec<i64>,
    x0: Vec<i64>,
    y0: Vec<i64>,
    x1: Vec<i64>,
    y1: Vec<i64>,
    /// West, south, east, north of the search boxes.
    sides: [Vec<f64>; 4],
}

impl Areas {
    pub(super) fn bind(layer: &Layer, number: usize, areas: &[Area]) -> Areas {
        let mut bound = Areas::default();
        for area in areas {
            if layer.asks_each_tile() {
                for tile in tiles_asked(area, number).iter().flat_map(TileRect::iter) {
                    let rect = TileRect::from(tile);
                    bound.add_tiles(layer, &rect, query_box(layer, &rect, rect.zoom));
                }
                continue;
            }
            match area.search.get(number) {
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

    /// Cells of the world, which have no margin.
    pub(super) fn of_cells(layer: &Layer, cells: &[TileRect]) -> Areas {
        let mut bound = Areas::default();
        for cell in cells {
            // Two units more take in every rounding on the way.
            bound.add(cell, 0, world_box(layer, cell.world(2)));
        }
        bound
    }

    /// The parameters that [`sql::areas`](super::sql) takes.
    pub(super) fn params(&self) -> Vec<Param<'_>> {
        let corners = [&self.x0, &self.y0, &self.x1, &self.y1];
        let mut params: Vec<Param<'_>> = vec![(&self.zooms, Type::INT4_ARRAY), (&self.margins, Type::INT8_ARRAY)];
        params.extend(corners.into_iter().map(|column| -> Param<'_> { (column, Type::INT8_ARRAY) }));
        params.extend(self.sides.iter().map(|column| -> Param<'_> { (column, Type::FLOAT8_ARRAY) }));
        params
    }

    fn add_tiles(&mut self, layer: &Layer, rect: &TileRect, sides: SourceBox) {
        self.add(rect, layer.margin.units(rect.zoom), sides);
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

/// The counted cells that some areas may show, as a statement's arrays.
pub(super) struct CellColumns {
    /// The place of the area, counted from 1, the code, the count, and where the cell stands.
    cells: [Vec<i64>; 5],
    /// What was folded.
    folded: Vec<FoldColumn>,
    /// Rows that are drawn as themselves, where they are.
    lone: Option<LoneColumns>,
}

/// Cells with one member: the place of the area and the code, and west, south, east, north of the box in which the member lies.
#[derive(Default)]
struct LoneColumns([Vec<i64>; 2], [Vec<f64>; 4]);

/// A row lies no farther than this from where the survey saw it, in world units.
const SEEN_WITHIN: i64 = 2;

impl CellColumns {
    /// `None` if the layer's cells are not counted.
    pub(super) fn bind(layer: &Layer, number: usize, areas: &[Area]) -> Option<CellColumns> {
        let (counted, grid) = (layer.counted.as_ref()?, layer.grid()?);
        let folded = layer.folds.as_ref().map(|folds| folds.columns()).unwrap_or_default();
        let lone = layer.keeps_lone().then(LoneColumns::default);
        let mut columns = CellColumns { cells: Default::default(), folded, lone };
        let searched = areas.iter().filter(|area| is_searched(area, number));
        for (place, area) in (1..).zip(searched) {
            let (margin, zoom) = (layer.margin.units(area.rect.zoom), area.rect.zoom);
            // Such cells are drawn at their means, and planned by their boxes.
            let spread = if layer.is_found_in_boxes() { grid.reach(zoom) } else { 0 };
            for (cell, folded) in counted.near(&grid, &area.rect, margin, spread) {
                let world = WorldRect::from(cell.world);
                if let Some(LoneColumns(codes, sides)) = columns.lone.as_mut().filter(|_| cell.members == 1) {
                    codes.iter_mut().zip([place, cell.code]).for_each(|(column, value)| column.push(value));
                    let around = world_box(layer, world.grown(SEEN_WITHIN)).sides();
                    sides.iter_mut().zip(around).for_each(|(column, side)| column.push(side));
                    continue;
                }
                let values = [place, cell.code, cell.members.cast_signed(), world.west, world.north];
                columns.cells.iter_mut().zip(values).for_each(|(column, value)| column.push(value));
                columns.folded.iter_mut().zip(folded).for_each(|(column, folded)| column.push(*folded));
            }
        }
        Some(columns)
    }

    pub(super) fn params(&self) -> impl Iterator<Item = Param<'_>> {
        let cells = self.cells.iter().map(|column| -> Param<'_> { (column as _, Type::INT8_ARRAY) });
        let lone = self.lone.iter().flat_map(|LoneColumns(codes, sides)| {
            let codes = codes.iter().map(|column| -> Param<'_> { (column as _, Type::INT8_ARRAY) });
            codes.chain(sides.iter().map(|column| -> Param<'_> { (column as _, Type::FLOAT8_ARRAY) }))
        });
        cells.chain(self.folded.iter().map(FoldColumn::param)).chain(lone)
    }
}

/// Whether a layer may have features in an area.
pub(super) fn is_searched(area: &Area, layer: usize) -> bool {
    !matches!(area.search.get(layer), Some(SearchBox::Nothing) | None)
}

/// The tiles for which a layer is asked by themselves.
pub(super) fn tiles_asked(area: &Area, number: usize) -> &[TileRect] {
    match area.search.get(number) {
        Some(SearchBox::Tiles(tiles)) => tiles,
        Some(SearchBox::Area | SearchBox::Source(_) | SearchBox::World(_) | SearchBox::Near(_)) => {
            std::slice::from_ref(&area.rect)
        }
        Some(SearchBox::Nothing) | None => &[],
    }
}
