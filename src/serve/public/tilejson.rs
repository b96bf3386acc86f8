//! TileJSON 3.0.0 of the target, with the URLs of this server.

use serde_json::{Map, Value, json};

use crate::serve::live::LiveLayer;
use crate::serve::parameters::{PUBLICATION_NAME, PublicationName, TilesetParameters, parameters_json};
use crate::serve::target::state::ServedState;
use crate::target::VectorLayer;
use crate::tile::{LayerId, LonLatBox, MapCenter, Slice, Zoom};

/// The suffix of a single layer's document, if the target stores layers separately.
const OF_A_LAYER: &str = ".tiles.json";

/// A document that a client wants.
#[derive(Clone, Copy)]
pub(crate) struct TileJsonWanted<'a> {
    pub(crate) name: &'a str,
    /// The URL of the tileset; ends with a slash.
    pub(crate) url: &'a str,
    /// The layers that are rendered on request. If there are any, the zooms include theirs, and the bounds are the
    /// world.
    pub(crate) live: Option<&'a [LiveLayer]>,
    pub(crate) parameters: &'a TilesetParameters,
    /// The parameter values that the client has given, as a query in canonical form; it is appended to the URL of the
    /// tiles.
    pub(crate) query: Option<&'a str>,
}

/// The document with this name: `tiles.json`, or `NAME.tiles.json` if the target stores layers separately; `None` for
/// other names.
pub(crate) fn tilejson(state: &ServedState, wanted: TileJsonWanted<'_>) -> Option<Value> {
    let TileJsonWanted { name, live, .. } = wanted;
    let layers: Vec<VectorLayer> =
        state.described.vector_layers.iter().map(|layer| with_live_zooms(layer, live.unwrap_or_default())).collect();
    let document = |slice, layers: &[VectorLayer]| document(state, slice, layers, wanted);
    if !state.template.layers_apart() {
        return (name == "tiles.json").then(|| document(Slice::Whole, &layers));
    }
    let own = name.strip_suffix(OF_A_LAYER)?;
    let index = layers.iter().position(|layer| layer.id == own)?;
    let slice = Slice::Layer(LayerId(u16::try_from(index).ok()?));
    Some(document(slice, &layers[index..=index]))
}

/// The names of the documents of a target: one, or one for each layer if the target stores layers separately.
pub(crate) fn document_names(state: &ServedState) -> Vec<String> {
    if !state.template.layers_apart() {
        return vec!["tiles.json".to_owned()];
    }
    state.described.vector_layers.iter().map(|layer| format!("{}{OF_A_LAYER}", layer.id)).collect()
}

/// A layer of the target, whose zooms include those at which it is rendered on request.
fn with_live_zooms(layer: &VectorLayer, live: &[LiveLayer]) -> VectorLayer {
    let zooms = live.iter().filter(|live| live.name == layer.id).flat_map(|live| live.zooms.iter()).map(Zoom::get);
    let (min, max) = zooms.fold((layer.minzoom, layer.maxzoom), |(min, max), zoom| (min.min(zoom), max.max(zoom)));
    VectorLayer { minzoom: min, maxzoom: max, ..layer.clone() }
}

fn document(state: &ServedState, slice: Slice, layers: &[VectorLayer], wanted: TileJsonWanted<'_>) -> Value {
    let TileJsonWanted { url, parameters, query, .. } = wanted;
    let is_live = wanted.live.is_some();
    let described = &state.described;
    let ends = described.zooms.map(|(min, max)| {
        let ends = layers.iter().filter(|_| is_live).map(|layer| (layer.minzoom, layer.maxzoom));
        ends.fold((min, max), |(min, max), (first, last)| (min.min(first), max.max(last)))
    });
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    let mut object = Map::new();
    object.insert("tilejson".to_owned(), "3.0.0".into());
    object.insert("tiles".to_owned(), json!([format!("{url}{}{query}", state.template.address(slice))]));
    object.insert("vector_layers".to_owned(), json!(layers));
    object.insert("scheme".to_owned(), "xyz".into());
    if let Some(encoding) = described.format.tilejson_encoding() {
        object.insert("encoding".to_owned(), encoding.into());
    }
    if let Some((min, max)) = ends {
        object.insert("minzoom".to_owned(), min.into());
        object.insert("maxzoom".to_owned(), max.into());
    }
    if let Some(LonLatBox { west, south, east, north }) = described.bounds {
        let bounds =
            if is_live && !state.is_live_only() { LonLatBox::WORLD.sides() } else { [west, south, east, north] };
        object.insert("bounds".to_owned(), json!(bounds));
        let middle = MapCenter {
            longitude: f64::midpoint(west, east),
            latitude: f64::midpoint(south, north),
            zoom: described.zooms.map_or(0, |(min, _)| min),
        };
        let MapCenter { longitude, latitude, zoom } = described.center.unwrap_or(middle);
        object.insert("center".to_owned(), json!([longitude, latitude, zoom]));
    }
    for (name, value) in [
        ("name", &described.name),
        ("description", &described.description),
        ("attribution", &described.attribution),
        ("version", &described.version),
    ] {
        if let Some(value) = value {
            object.insert(name.to_owned(), value.clone().into());
        }
    }
    if !parameters.0.is_empty() {
        object.insert("parameters".to_owned(), parameters_json(parameters));
        let shown = state.publication().and_then(PublicationName::of);
        object.extend(shown.map(|shown| (PUBLICATION_NAME.to_owned(), shown.to_string().into())));
    }
    Value::Object(object)
}
