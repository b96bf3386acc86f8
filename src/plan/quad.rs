//! Plans along the Hilbert curve. Square blocks of tiles, each a contiguous piece of the curve, are quartered until
//! they hold few enough features; neighbours on the curve share a batch while there is room. The points of a large
//! block are read again for each of its quarters.

use std::io;
use std::ops::ControlFlow;

use super::cut::{Cutter, FeatureRun, OutlineRuns};
use super::sweep::{MAX_POINTS_AT_ONCE, ONE_POINT, TouchList, common_parts, points_near, points_touching, sweep};
use super::{LayerPoints, MAX_HEAVIEST_TILES, PlanLayer, SharedContents, ZoomPlan, touched_tiles};
use crate::tile::{Batch, Footprints, TileCoord, TileRect, WorldBox, Zoom};

/// A feature and its layer.
#[derive(Clone, Copy)]
struct Member {
    layer: u8,
    at: MemberAt,
}

/// How the position of a feature is found.
#[derive(Clone, Copy)]
enum MemberAt {
    /// Its index within the layer.
    Index(u32),
    /// Its x and y.
    Point([u32; 2]),
}

/// A layer at the zoom of the plan.
struct LayerReach<'a> {
    /// In world units.
    margin: i64,
    weight: u64,
    footprints: &'a Footprints,
    /// Its features, if these are points.
    points: Option<LayerPoints<'a>>,
}

/// A square of 2^`bits` by 2^`bits` tiles, and the features that touch it.
struct Block {
    bits: u8,
    rect: TileRect,
    /// The features of which only the box is known.
    members: Vec<Member>,
    /// True if the points that touch the square are not among the members, because they are too many.
    has_more: bool,
    /// The tiles of the square that the outlines of the other features touch.
    runs: Vec<FeatureRun>,
}

/// The input of a plan: the tiles of a zoom.
#[derive(Clone, Copy)]
pub(crate) struct ZoomTiles<'a> {
    pub(crate) zoom: Zoom,
    pub(crate) layers: &'a [PlanLayer],
    pub(crate) outlines: &'a OutlineRuns,
    pub(crate) contents: &'a SharedContents,
    /// The coverage as rectangles that share no tile.
    pub(crate) parts: &'a [TileRect],
}

/// Makes the plan of one zoom along the Hilbert curve.
pub(crate) struct Quarterer<'a> {
    zoom: Zoom,
    layers: &'a [PlanLayer],
    contents: &'a SharedContents,
    reach: Vec<LayerReach<'a>>,
    /// The weight that a batch should have, in pairs of a feature and a tile.
    target: u64,
    plan: ZoomPlan,
}

impl<'a> Quarterer<'a> {
    /// The plan of a zoom, its batches along the curve.
    pub(crate) fn plan(tiles: ZoomTiles<'a>, target: u64) -> io::Result<ZoomPlan> {
        let ZoomTiles { zoom, layers, outlines, contents, parts } = tiles;
        let whole = TileRect::all(zoom);
        #[expect(clippy::cast_possible_truncation, reason = "there are at most 255 layers of fewer than 2^29 shapes")]
        let members = (layers.iter().enumerate())
            .filter(|(_, layer)| layer.zooms.contains(zoom) && layer.points(zoom).is_none())
            .flat_map(|(number, layer)| {
                (0..layer.footprints.at(zoom).len())
                    .filter(move |feature| !outlines.has(number, *feature))
                    .map(move |feature| Member { layer: number as u8, at: MemberAt::Index(feature as u32) })
            })
            .collect();
        let reach = |layer: &'a PlanLayer| LayerReach {
            margin: layer.margin.units(zoom),
            weight: layer.weight(zoom),
            footprints: layer.footprints.at(zoom),
            points: layer.points(zoom).filter(|_| layer.zooms.contains(zoom)),
        };
        let reach = layers.iter().map(reach).collect();
        let mut quarterer = Quarterer { zoom, layers, contents, reach, target, plan: ZoomPlan::empty(zoom) };
        // A stack of the blocks that have not been cut yet. The first block on the curve is the last on the stack.
        let (bits, runs) = (zoom.get(), outlines.runs.clone());
        let mut waiting = vec![Block { bits, rect: whole, members, has_more: true, runs }];
        while let Some(mut block) = waiting.pop() {
            if block.has_more && quarterer.points_near(&block.rect) <= MAX_POINTS_AT_ONCE {
                quarterer.take_points(&mut block)?;
            }
            let parts: Vec<TileRect> = parts.iter().filter_map(|part| part.common(&block.rect)).collect();
            if block.bits == 0 || quarterer.is_light(&block, &parts)? {
                quarterer.batch(&block, &parts)?;
            } else {
                waiting.extend(quarterer.quarters(block));
            }
        }
        Ok(quarterer.plan)
    }

    fn tiles(&self, member: Member) -> (TileRect, Option<TileRect>) {
        let reach = &self.reach[usize::from(member.layer)];
        let world = match member.at {
            MemberAt::Index(feature) => reach.footprints.world(feature as usize),
            MemberAt::Point([x, y]) => WorldBox::of_unit(x, y),
        };
        touched_tiles(self.zoom, reach.margin, world)
    }

    fn of_points(&self) -> impl Iterator<Item = (usize, &PlanLayer, LayerPoints<'a>)> {
        let layers = self.layers.iter().zip(&self.reach).enumerate();
        layers.filter_map(|(number, (layer, reach))| Some((number, layer, reach.points?)))
    }

    /// The approximate number of points that touch a square.
    fn points_near(&self, square: &TileRect) -> u64 {
        self.of_points().map(|(_, layer, _)| points_near(layer, square)).sum()
    }

    /// Makes the points that touch a block its members.
    fn take_points(&self, block: &mut Block) -> io::Result<()> {
        let rect = block.rect;
        for (number, layer, points) in self.of_points() {
            #[expect(clippy::cast_possible_truncation, reason = "there are at most 255 layers")]
            points_touching(layer, points, &rect, |at, tiles| {
                if tiles.common(&rect).is_some() {
                    block.members.push(Member { layer: number as u8, at: MemberAt::Point(at) });
                }
                ControlFlow::Continue(())
            })?;
        }
        block.has_more = false;
        Ok(())
    }

    /// True if the pairs of a feature and a tile inside the parts of a block weigh no more than a batch should.
    fn is_light(&self, block: &Block, parts: &[TileRect]) -> io::Result<bool> {
        let mut pairs = self.pairs(block, parts);
        for (_, layer, points) in self.of_points().filter(|_| block.has_more) {
            let weight = layer.weight(self.zoom);
            points_touching(layer, points, &block.rect, |_, tiles| {
                let inside = common_parts(parts, &tiles).map(|inside| inside.tiles()).sum::<u64>();
                pairs += inside * weight;
                if pairs > self.target { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })?;
        }
        Ok(pairs <= self.target)
    }

    /// Pairs of a member and a tile inside the parts.
    fn pairs(&self, block: &Block, parts: &[TileRect]) -> u64 {
        let inside = |tiles: TileRect| common_parts(parts, &tiles).map(|inside| inside.tiles()).sum::<u64>();
        let of_one = |member: &Member| {
            let (tiles, others) = self.tiles(*member);
            let pairs = inside(tiles) + others.map_or(0, inside);
            pairs * self.reach[usize::from(member.layer)].weight
        };
        let of_run = |run: &FeatureRun| inside(run.rect()) * self.reach[usize::from(run.layer)].weight;
        block.members.iter().map(of_one).sum::<u64>() + block.runs.iter().map(of_run).sum::<u64>()
    }

    /// The four quarters, the first on the curve last.
    fn quarters(&self, block: Block) -> impl Iterator<Item = Block> {
        let Block { bits, rect, members, has_more, runs } = block;
        let (bits, side) = (bits - 1, 1_u32 << (bits - 1));
        let mut quarters = [(0, 0), (0, side), (side, 0), (side, side)].map(|(right, down)| {
            let (x0, y0) = (rect.x0 + right, rect.y0 + down);
            let rect = TileRect { zoom: self.zoom, x0, y0, x1: x0 + side - 1, y1: y0 + side - 1 };
            let runs = runs.iter().filter_map(|run| run.within(&rect)).collect();
            Block { bits, rect, members: Vec::new(), has_more, runs }
        });
        let (middle_x, middle_y) = (rect.x0 + side, rect.y0 + side);
        for member in members {
            let (tiles, others) = self.tiles(member);
            let all = || std::iter::once(&tiles).chain(&others);
            // All features of a block touch it, so comparing with its middle is enough.
            let (left, right) = if others.is_none() {
                (tiles.x0 < middle_x, tiles.x1 >= middle_x)
            } else {
                let reaches = |x0: u32, x1: u32| all().any(|tiles| tiles.x0 <= x1 && tiles.x1 >= x0);
                (reaches(rect.x0, middle_x - 1), reaches(middle_x, rect.x0 + 2 * side - 1))
            };
            let (above, below) = (tiles.y0 < middle_y, tiles.y1 >= middle_y);
            let touched = [left && above, left && below, right && above, right && below];
            for (quarter, _) in quarters.iter_mut().zip(touched).filter(|(_, touched)| *touched) {
                quarter.members.push(member);
            }
        }
        // A block is one piece of the curve, so any of its tiles gives its position on the curve.
        quarters.sort_by_key(|block| block.rect.first().map(TileCoord::pmtiles_id));
        quarters.into_iter().rev()
    }

    /// Plans the tiles of a block; adds them to the previous batch if there is room.
    fn batch(&mut self, block: &Block, parts: &[TileRect]) -> io::Result<()> {
        let Block { rect, members, has_more, runs, .. } = block;
        if !has_more && members.is_empty() && runs.is_empty() || parts.is_empty() {
            return Ok(());
        }
        let mut touches = TouchList::with_room(members.len() + runs.len());
        for run in runs {
            run.add_touches(parts, &mut touches);
        }
        for member in members {
            let (tiles, others) = self.tiles(*member);
            let feature = match member.at {
                MemberAt::Index(feature) => feature,
                MemberAt::Point(_) => ONE_POINT,
            };
            for tiles in std::iter::once(tiles).chain(others) {
                touches.add(usize::from(member.layer), feature, &tiles, parts);
            }
        }
        for (number, layer, points) in self.of_points().filter(|_| *has_more) {
            points_touching(layer, points, rect, |_, tiles| {
                touches.add_point(number, &tiles, parts);
                ControlFlow::Continue(())
            })?;
        }
        let touches = touches.sorted();
        let mut cutter = Cutter::new(self.zoom, self.layers, self.contents, parts, u64::MAX / 2);
        sweep(&touches, self.layers.len(), |swept| cutter.add(swept));
        let block = cutter.finish();
        for batch in block.batches {
            let room = |last: &&mut Batch| {
                last.features() + batch.features() <= self.target
                    && last.areas.len() + batch.areas.len() <= MAX_AREAS_PER_BATCH
            };
            match self.plan.batches.last_mut().filter(room) {
                Some(last) => last.join(batch),
                None => self.plan.batches.push(batch),
            }
        }
        self.plan.tiles += block.tiles;
        self.plan.features += block.features;
        self.plan.heaviest.extend(block.heaviest);
        self.plan.heaviest.sort_by_key(|heavy| std::cmp::Reverse(heavy.features));
        self.plan.heaviest.truncate(MAX_HEAVIEST_TILES);
        for over in block.over_limit {
            match self.plan.over_limit.iter_mut().find(|known| known.layer == over.layer) {
                None => self.plan.over_limit.push(over),
                Some(known) => {
                    known.tiles += over.tiles;
                    if over.heaviest.features > known.heaviest.features {
                        known.heaviest = over.heaviest;
                    }
                }
            }
        }
        Ok(())
    }
}

/// The most rectangles in one batch: the spatial index is searched once for each.
const MAX_AREAS_PER_BATCH: usize = 64;
