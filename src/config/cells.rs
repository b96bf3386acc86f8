//! The checks of layers that draw cells and clusters.

use std::num::NonZeroU64;

use super::error::ConfigError;
use super::settings::{Check, first_repeated};
use crate::cells::{CellEdges, CellGeometry, CellGrid, CellShape};
use crate::postgis::{AggregateSection, Cells, ClusterSection, Fraction, Properties, Property, PropertySource};

/// The properties of a cluster, with the names that map clients use: those of Supercluster, which MapLibre uses.
const CLUSTER: [(&str, &str); 4] = [
    ("cluster", "true"),
    ("cluster_id", "!cell!"),
    ("point_count", "count(*)"),
    (
        "point_count_abbreviated",
        "CASE WHEN count(*) >= 10000 THEN round(count(*) / 1000.0)::text || 'k'
              WHEN count(*) >= 1000 THEN trim_scale(round(count(*) / 1000.0, 1))::text || 'k'
              ELSE count(*)::text END",
    ),
];

/// The default width of a cluster's cell: 64 of the 512 pixels with which map clients draw a tile.
const CLUSTER_SIZE: f64 = 1.0 / 8.0;

/// The placeholders of an aggregate: the bounds of its cell, and the cell's number.
const CELL: [&str; 5] = ["xmin", "ymin", "xmax", "ymax", "cell"];

impl Check<'_> {
    /// The cells of an aggregate layer, and their properties.
    pub(crate) fn aggregate(
        &self,
        key: &str,
        aggregate: &AggregateSection,
        limit: Option<NonZeroU64>,
    ) -> Result<(Cells, Vec<Property>), ConfigError> {
        let AggregateSection { cell: shape, size: Fraction(size), draw: geometry, edges, .. } = *aggregate;
        let grid = CellGrid { shape, size, geometry, merges: false, edges };
        self.size(&format!("{key}.size"), &grid, limit)?;
        if edges == CellEdges::Degrees {
            let what = match shape {
                CellShape::Square => Some("those of squares run along meridians and parallels: leave this key out"),
                CellShape::Hexagon if size > CellEdges::WIDEST => Some(
                    "edges in degrees are worked out for hexagons of 1/8 of a tile or less: write a smaller size, or leave this key out",
                ),
                CellShape::Hexagon => None,
            };
            if let Some(what) = what {
                return Err(self.wrong(&format!("{key}.edges"), what.to_owned()));
            }
        }
        let having = aggregate.having.clone();
        if let Some(having) = &having {
            self.placeholders(&format!("{key}.having"), having, &CELL)?;
        }
        let properties = self.aggregates(&format!("{key}.properties"), &aggregate.properties)?;
        Ok((Cells { grid, having, keeps_lone: false }, properties))
    }

    /// Cells that are drawn as clusters, and rows that are alone in their cell.
    pub(crate) fn cluster(
        &self,
        key: &str,
        cluster: &ClusterSection,
        own: Option<&[Property]>,
        limit: Option<NonZeroU64>,
    ) -> Result<(Cells, Vec<Property>), ConfigError> {
        let Some(own) = own else {
            let what = "needs the layer's properties: those that a facility alone in its cell is drawn with".to_owned();
            return Err(self.wrong(key, what));
        };
        let size = cluster.size.map_or(CLUSTER_SIZE, |size| size.0);
        let shape = cluster.cell.unwrap_or_default();
        let merges = cluster.merge.unwrap_or(false);
        let grid = CellGrid { shape, size, geometry: CellGeometry::Centroid, merges, edges: CellEdges::Mercator };
        self.size(&format!("{key}.size"), &grid, limit)?;
        let aggregate = |(name, sql): (&str, &str)| Property {
            name: name.to_owned(),
            source: PropertySource::Aggregate(sql.to_owned()),
        };
        let mut properties: Vec<Property> = CLUSTER.into_iter().map(aggregate).collect();
        if let Some(further) = &cluster.properties {
            properties.append(&mut self.aggregates(&format!("{key}.properties"), further)?);
        }
        properties.extend_from_slice(own);
        if let Some(twice) = first_repeated(properties.iter().map(|property| &property.name)) {
            let what =
                format!("\"{twice}\" is a property of clusters and of single rows: give one of them another name");
            return Err(self.wrong(key, what));
        }
        Ok((Cells { grid, having: None, keeps_lone: true }, properties))
    }

    /// Checks the width of cells, and that a tile does not get more cells than it may have features.
    fn size(&self, key: &str, grid: &CellGrid, limit: Option<NonZeroU64>) -> Result<(), ConfigError> {
        let size = grid.size;
        if !(CellGrid::SMALLEST..=1.0).contains(&size) {
            let what = format!("{size} of a tile is out of range: write 1/128 to 1, such as \"1/8\"");
            return Err(self.wrong(key, what));
        }
        if grid.shape == CellShape::Square && size.log2().fract() != 0.0 {
            let what = format!(
                "{size} of a tile is no power of two, and squares must nest in tiles: write 1, \"1/2\", \"1/4\", … \"1/128\""
            );
            return Err(self.wrong(key, what));
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "at most 128 squared, and a little"
        )]
        let cells = match grid.shape {
            CellShape::Square => 1.0 / (size * size),
            CellShape::Hexagon => 2.0 / (3.0_f64.sqrt() * size * size),
        }
        .ceil() as u64;
        match limit.filter(|limit| cells > limit.get()) {
            Some(limit) => {
                let what = format!(
                    "cells of {size} of a tile are too small: a tile may hold {cells} of them, and max_tile_features is {limit}. Write a greater fraction, or raise max_tile_features"
                );
                Err(self.wrong(key, what))
            }
            None => Ok(()),
        }
    }

    fn aggregates(&self, key: &str, table: &toml::Table) -> Result<Vec<Property>, ConfigError> {
        let mut properties = self.properties(key, &Properties::Expressions(table.clone()))?;
        for property in &mut properties {
            if let PropertySource::Expression(sql) = &property.source {
                self.placeholders(key, sql, &CELL)?;
                property.source = PropertySource::Aggregate(sql.clone());
            }
        }
        Ok(properties)
    }
}
