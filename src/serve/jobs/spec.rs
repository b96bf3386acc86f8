//! The work of a job: read from a request or a note, checked, and written in one canonical form.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::tile::{AreaPart, LonLatBox, TileCoord, Zoom, ZoomList, is_bounded_area, parts_of_area};

/// The most tiles that one job lists. For more tiles, clients name an area.
pub(crate) const MAX_JOB_TILES: usize = 50_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobWork {
    /// The tiles that the change log has made dirty.
    Log,
    Tiles,
    /// All tiles of boxes.
    Area,
    /// Everything, with the target's own zooms and boxes.
    Seed,
}

/// How soon a job begins, compared with others that wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobPriority {
    /// Before all others.
    Refresh,
    /// The default, except for seeds.
    Reseed,
    /// After all others: for work that takes long and is not urgent.
    Seed,
}

#[derive(Debug, Clone, PartialEq)]
pub struct JobSpec {
    pub work: JobWork,
    /// The tiles, for [`JobWork::Tiles`]; sorted, each once.
    pub tiles: Vec<TileCoord>,
    /// The part of the world, for [`JobWork::Area`].
    pub area: Vec<AreaPart>,
    /// Only these zooms; `None` for all of the target.
    pub zooms: Option<ZoomList>,
    /// How soon it begins.
    pub priority: JobPriority,
}

/// Why a request describes no job.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JobSpecError {
    /// It is not JSON of this form, or its parts do not belong together.
    #[error("{0}")]
    Wrong(String),
    #[error("a job lists at most {MAX_JOB_TILES} tiles: name an area, or submit several jobs")]
    TooManyTiles,
}

/// The form in which clients write a job.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct JobRequest {
    what: JobWork,
    #[serde(default)]
    tiles: Vec<String>,
    area: Option<Value>,
    zoom: Option<String>,
    priority: Option<JobPriority>,
}

fn wrong(what: impl std::fmt::Display) -> JobSpecError {
    JobSpecError::Wrong(what.to_string())
}

impl JobSpec {
    /// Reads a job from JSON, as clients and notes write it.
    /// Fails if it is of another form, or its parts do not belong together.
    pub fn read(json: &[u8]) -> Result<JobSpec, JobSpecError> {
        let request: JobRequest = serde_json::from_slice(json).map_err(wrong)?;
        if request.tiles.len() > MAX_JOB_TILES {
            return Err(JobSpecError::TooManyTiles);
        }
        let tile = |text: &String| {
            text.parse::<TileCoord>().map_err(|_no_tile| wrong(format!("{text:?} is no tile: write z/x/y")))
        };
        let mut tiles: Vec<TileCoord> = request.tiles.iter().map(tile).collect::<Result<_, _>>()?;
        tiles.sort_unstable_by_key(|tile| (tile.zoom(), tile.x(), tile.y()));
        tiles.dedup();
        let area = request.area.as_ref().map_or(Ok(Vec::new()), boxes)?;
        let zooms = request.zoom.map(|text| text.parse::<ZoomList>().map_err(wrong)).transpose()?;
        let work = request.what;
        for (name, is_given, is_wanted) in
            [("tiles", !tiles.is_empty(), work == JobWork::Tiles), ("area", !area.is_empty(), work == JobWork::Area)]
        {
            if is_wanted && !is_given {
                return Err(wrong(format!("{name} is missing")));
            }
            if is_given && !is_wanted {
                return Err(wrong(format!("{name} belongs to a job of what = {name:?} only")));
            }
        }
        if zooms.is_some() && matches!(work, JobWork::Seed | JobWork::Tiles) {
            return Err(wrong("zoom belongs to a job of what = \"log\" or \"area\" only"));
        }
        let usual = if work == JobWork::Seed { JobPriority::Seed } else { JobPriority::Reseed };
        Ok(JobSpec { work, tiles, area, zooms, priority: request.priority.unwrap_or(usual) })
    }

    /// The job as [`JobSpec::read`] reads it. Equal jobs have equal JSON.
    pub fn json(&self) -> Value {
        let mut json = json!({ "what": self.work, "priority": self.priority });
        if !self.tiles.is_empty() {
            json["tiles"] = self.tiles.iter().map(ToString::to_string).collect();
        }
        if !self.area.is_empty() {
            json["area"] = self.area.iter().map(AreaPart::json).collect();
        }
        if let Some(zooms) = &self.zooms {
            json["zoom"] = zooms.to_string().into();
        }
        json
    }
}

/// The parts of an area: one box `[west, south, east, north]`, a list of boxes and of texts as in notes, or GeoJSON.
fn boxes(area: &Value) -> Result<Vec<AreaPart>, JobSpecError> {
    let one = |value: &Value| -> Result<AreaPart, JobSpecError> {
        if let Some(text) = value.as_str() {
            return text.parse().map_err(wrong);
        }
        let sides: [f64; 4] = serde_json::from_value(value.clone())
            .map_err(|_other| wrong("area is no box: write [west, south, east, north] in degrees, or GeoJSON"))?;
        LonLatBox::from_sides(sides).to_string().parse().map_err(wrong)
    };
    match area.as_array() {
        Some(list) if list.first().is_some_and(|first| first.is_array() || first.is_string()) => {
            let parts: Vec<AreaPart> = list.iter().map(one).collect::<Result<_, _>>()?;
            if !is_bounded_area(&parts) {
                return Err(wrong(
                    "the borders of area are too long and winding: write GeoJSON, or several smaller areas",
                ));
            }
            Ok(parts)
        }
        Some(_) => Ok(vec![one(area)?]),
        None => {
            let found = parts_of_area(area, Zoom::MAX);
            if found.is_empty() {
                return Err(wrong("area holds no geometry with an extent: write GeoJSON with polygons (RFC 7946)"));
            }
            Ok(found)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_written_and_read_again_the_same() {
        for (text, expected) in [
            (r#"{"what":"log"}"#, r#"{"priority":"reseed","what":"log"}"#),
            (r#"{"what":"seed"}"#, r#"{"priority":"seed","what":"seed"}"#),
            (
                r#"{"what":"tiles","tiles":["2/1/1","0/0/0","2/1/1"],"priority":"refresh"}"#,
                r#"{"priority":"refresh","tiles":["0/0/0","2/1/1"],"what":"tiles"}"#,
            ),
            (
                r#"{"what":"area","area":[1,2,3.5,4],"zoom":"3-5"}"#,
                r#"{"area":[[1.0,2.0,3.5,4.0]],"priority":"reseed","what":"area","zoom":"3-5"}"#,
            ),
        ] {
            let spec = JobSpec::read(text.as_bytes()).unwrap();
            assert_eq!(spec.json().to_string(), expected);
            assert_eq!(JobSpec::read(expected.as_bytes()).unwrap(), spec);
        }
        let text = r#"{"what":"area","area":{"type":"Polygon","coordinates":[[[1,2],[3,2],[3,4],[1,2]]]}}"#;
        let spec = JobSpec::read(text.as_bytes()).unwrap();
        let written = spec.json();
        assert_eq!(written["area"], json!(["POLYGON((1 2,3 2,3 4,1 2))"]));
        assert_eq!(JobSpec::read(written.to_string().as_bytes()).unwrap(), spec);
    }

    #[test]
    fn what_is_no_job_is_refused_with_the_reason() {
        let many = vec!["0/0/0"; MAX_JOB_TILES + 1];
        let many = json!({ "what": "tiles", "tiles": many }).to_string();
        for (text, expected) in [
            ("", "EOF while parsing"),
            (r#"{"what":"all"}"#, "unknown variant"),
            (r#"{"what":"log","url":"http://x"}"#, "unknown field"),
            (r#"{"what":"tiles"}"#, "tiles is missing"),
            (r#"{"what":"tiles","tiles":["9/1"]}"#, "\"9/1\" is no tile"),
            (r#"{"what":"log","tiles":["0/0/0"]}"#, "tiles belongs to a job of what"),
            (r#"{"what":"area","area":[1,2,3]}"#, "area is no box"),
            (r#"{"what":"area","area":[0,50,1,40]}"#, "north"),
            (r#"{"what":"area","area":[0,0,900,1]}"#, "180"),
            (r#"{"what":"area","area":{"type":"Point","coordinates":[1,2]}}"#, "no geometry with an extent"),
            (r#"{"what":"seed","zoom":"1"}"#, "zoom belongs"),
            (r#"{"what":"log","zoom":"-1"}"#, ""),
            (&many, "at most 50000 tiles"),
        ] {
            let error = JobSpec::read(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
