// The base map: the program's own, or another style.

const LABEL_FONT = ["system-ui", "Arial"];

// The program's base map, as a source and layers below the tiles (`under`) and above all of them but clusters (`names`).
function ownBasemap(address) {
  const colours = COLOURS[theme];
  const source = { type: "vector", tiles: [new URL(address, location.href).href.replaceAll("%7B", "{").replaceAll("%7D", "}")],
    minzoom: 0, maxzoom: 5, attribution: "Natural Earth" };
  const layer = (id, type, sourceLayer, rest) => ({ id: `basemap/${id}`, type, source: "basemap", "source-layer": sourceLayer, ...rest });
  // Where a cluster stands on a name, the name moves aside.
  const text = (rest) => ({ "text-field": ["get", "name"], "text-font": LABEL_FONT, "symbol-sort-key": ["get", "rank"], "text-max-width": 7,
    "text-variable-anchor": ["center", "top", "bottom", "left", "right"], "text-radial-offset": 1.8, "text-justify": "auto", ...rest });
  const ink = { "text-color": colours.label, "text-halo-color": colours.halo, "text-halo-width": 1.5 };
  return {
    sources: { basemap: source },
    under: [
      { id: "basemap/sea", type: "background", paint: { "background-color": colours.sea } },
      layer("land", "fill", "land", { paint: { "fill-color": colours.land, "fill-antialias": false } }),
      layer("lakes", "fill", "lakes", { paint: { "fill-color": colours.sea } }),
      layer("coast", "line", "land", { paint: { "line-color": colours.border, "line-width": 0.6, "line-opacity": 0.7 } }),
      layer("borders", "line", "borders", { filter: ["!", ["has", "disputed"]],
        paint: { "line-color": colours.border, "line-width": ["interpolate", ["linear"], ["zoom"], 1, 0.6, 6, 1.4] } }),
      layer("disputed", "line", "borders", { filter: ["has", "disputed"],
        paint: { "line-color": colours.border, "line-width": ["interpolate", ["linear"], ["zoom"], 1, 0.6, 6, 1.4], "line-dasharray": [3, 2] } }),
    ],
    names: [
      layer("places", "symbol", "places", { minzoom: 3, layout: text({ "text-size": ["interpolate", ["linear"], ["zoom"], 3, 10, 8, 13] }), paint: ink }),
      layer("countries", "symbol", "countries", { minzoom: 1.5, maxzoom: 8, layout: text({ "text-letter-spacing": 0.08,
        "text-size": ["interpolate", ["linear"], ["zoom"], 2, ["-", 12, ["*", 0.6, ["get", "rank"]]], 7, ["-", 20, ["get", "rank"]]] }), paint: ink }),
    ],
  };
}

// Meridians and parallels: for a page in a file, which has no base map.
function grid() {
  const lines = [];
  for (let x = -180; x <= 180; x += 30) lines.push([[x, -85], [x, 85]]);
  for (let y = -60; y <= 60; y += 30) lines.push([[-180, y], [180, y]]);
  const data = { type: "Feature", properties: {}, geometry: { type: "MultiLineString", coordinates: lines } };
  return {
    sources: { grid: { type: "geojson", data } },
    under: [
      { id: "basemap/sea", type: "background", paint: { "background-color": COLOURS[theme].land } },
      { id: "basemap/grid", type: "line", source: "grid", paint: { "line-color": COLOURS[theme].border, "line-width": 0.7 } },
    ],
    names: [],
  };
}

// A style that the operator has named with --basemap: its labels come above the tiles, too.
async function otherBasemap(url) {
  const answer = await fetch(url);
  if (!answer.ok) throw new Error(`the base map ${url}: HTTP ${answer.status}`);
  const style = await answer.json();
  const isName = (layer) => layer.type === "symbol";
  const font = style.layers.find((layer) => layer.layout?.["text-font"])?.layout["text-font"];
  return { sources: style.sources, under: style.layers.filter((layer) => !isName(layer)), names: style.layers.filter(isName), font,
    glyphs: style.glyphs, sprite: style.sprite };
}

const basemapAddress = document.body.dataset.basemap;
const isOtherBasemap = !basemapAddress.includes("{z}") && basemapAddress !== "";
let fetchedBasemap;

async function basemap() {
  if (isOtherBasemap) return fetchedBasemap ??= await otherBasemap(basemapAddress);
  return basemapAddress === "" ? grid() : ownBasemap(basemapAddress);
}
