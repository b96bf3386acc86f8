//! Where a map begins.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::Deserialize;

use super::Zoom;

/// Where a map of the tileset begins (TileJSON 3.0.0, section 3.6).
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(try_from = "String")]
pub struct MapCenter {
    /// Its longitude in degrees, -180 to 180.
    pub longitude: f64,
    /// Its latitude in degrees, -90 to 90.
    pub latitude: f64,
    /// Its zoom.
    pub zoom: u8,
}

/// The text is no center of a map.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no center: write longitude,latitude,zoom, such as 13.4,52.52,9")]
pub struct NoCenter(String);

impl FromStr for MapCenter {
    type Err = NoCenter;

    fn from_str(text: &str) -> Result<MapCenter, NoCenter> {
        let wrong = || NoCenter(text.to_owned());
        let parts: Vec<&str> = text.split(',').map(str::trim).collect();
        let [longitude, latitude, zoom] = parts[..] else { return Err(wrong()) };
        let degrees = |part: &str, most: f64| part.parse::<f64>().ok().filter(|degrees| degrees.abs() <= most);
        let zoom = zoom.parse().ok().filter(|zoom| *zoom <= Zoom::MAX.get());
        let (longitude, latitude) = (degrees(longitude, 180.0), degrees(latitude, 90.0));
        let ((longitude, latitude), zoom) = longitude.zip(latitude).zip(zoom).ok_or_else(wrong)?;
        Ok(MapCenter { longitude, latitude, zoom })
    }
}

impl TryFrom<String> for MapCenter {
    type Error = NoCenter;

    fn try_from(text: String) -> Result<MapCenter, NoCenter> {
        text.parse()
    }
}

impl fmt::Display for MapCenter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.6},{:.6},{}", self.longitude, self.latitude, self.zoom)
    }
}

impl JsonSchema for MapCenter {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "MapCenter".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        String::json_schema(generator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_center_is_three_numbers_within_their_ranges() {
        let center: MapCenter = " 13.4, 52.52,9".parse().unwrap();
        assert_eq!(center, MapCenter { longitude: 13.4, latitude: 52.52, zoom: 9 });
        assert_eq!(center.to_string(), "13.400000,52.520000,9");
        for text in ["", "1,2", "1,2,3,4", "181,0,1", "0,91,1", "0,0,23", "a,0,1", "0,0,1.5", "NaN,0,1", "0,inf,1"] {
            let message = format!("\"{text}\" is no center: write longitude,latitude,zoom, such as 13.4,52.52,9");
            assert_eq!(text.parse::<MapCenter>().unwrap_err().to_string(), message);
        }
    }
}
