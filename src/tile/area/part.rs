//! A part of an area: a box, a polygon or a line.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::shape::AreaShape;
use crate::tile::{BoxError, LonLatBox};

/// A part of an area. As text a box is `west,south,east,north`, and a shape is WKT.
#[derive(Debug, Clone, PartialEq)]
pub enum AreaPart {
    /// A box.
    Box(LonLatBox),
    /// A polygon or a line.
    Shape(Arc<AreaShape>),
}

impl AreaPart {
    /// The boxes of the part, or around it; none of them crosses the antimeridian.
    #[must_use]
    pub fn bounds(&self) -> Vec<LonLatBox> {
        match self {
            AreaPart::Box(one) => one.unwrapped().collect(),
            AreaPart::Shape(shape) => shape.bounds(),
        }
    }

    /// The part as jobs write it: `[west, south, east, north]`, or WKT.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        self.as_box().map_or_else(|| self.to_string().into(), |one| serde_json::json!(one.sides()))
    }

    /// The box, if it is one.
    #[must_use]
    pub const fn as_box(&self) -> Option<LonLatBox> {
        match self {
            AreaPart::Box(one) => Some(*one),
            AreaPart::Shape(_) => None,
        }
    }
}

impl From<LonLatBox> for AreaPart {
    fn from(one: LonLatBox) -> AreaPart {
        AreaPart::Box(one)
    }
}

impl FromStr for AreaPart {
    type Err = BoxError;
    fn from_str(text: &str) -> Result<AreaPart, BoxError> {
        if text.starts_with(|first: char| first.is_ascii_uppercase()) {
            let shape = AreaShape::read(text).ok_or_else(|| BoxError::NotABox(text.chars().take(60).collect()))?;
            return Ok(AreaPart::Shape(Arc::new(shape)));
        }
        text.parse().map(AreaPart::Box)
    }
}

impl fmt::Display for AreaPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AreaPart::Box(one) => one.fmt(f),
            AreaPart::Shape(shape) => shape.fmt(f),
        }
    }
}

/// Describes the parts of an area for a person: by `parts` themselves, if they are short.
#[must_use]
pub fn area_for_people(parts: &[String]) -> String {
    match parts {
        [one] if one.starts_with(|first: char| !first.is_ascii_uppercase()) => format!("the box {one}"),
        several if several.len() <= 4 && several.iter().all(|one| one.len() <= 60) => {
            format!("the boxes {}", several.join(" and "))
        }
        many => format!("an area of {} {}", many.len(), if many.len() == 1 { "shape" } else { "shapes or boxes" }),
    }
}
