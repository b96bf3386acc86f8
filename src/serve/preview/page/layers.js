// The layers of the tiles: their colours, and the order in which they are drawn.

// Each layer of the tiles is drawn by these layers of the style, from the lowest to the highest, whatever the order of the file.
const KINDS = ["fill", "outline", "line", "circle", "cluster", "count"];
// Beyond as many layers as there are colours, lines are dashed and points are rings.
const DASHES = [undefined, [4, 2], [1, 1.5]];

// The layers of all TileJSON documents: { name, source, fields, colour, variant }.
const shownLayers = [];

const colourOf = (number) => COLOURS[theme].layers[number % COLOURS[theme].layers.length];
const variantOf = (number) => Math.floor(number / COLOURS[theme].layers.length) % DASHES.length;

// Black or white, whichever can be read on a colour (relative luminance, WCAG 2).
function inkOn(colour) {
  const [red, green, blue] = [1, 3, 5].map((at) => (parseInt(colour.slice(at, at + 2), 16) / 255) ** 2.2);
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.2 ? "#000000" : "#ffffff";
}

// A value of the style with its placeholders filled in.
function filled(value, places) {
  if (typeof value === "string") {
    if (value in EXPRESSIONS) return filled(EXPRESSIONS[value], places);
    return value.replace(/\$[A-Z]+/g, (place) => places[place] ?? place);
  }
  if (Array.isArray(value)) return value.map((one) => filled(one, places));
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, filled(one, places)]));
}

// The layers of the style for one layer of the tiles.
function layersOf({ name, source, number }, font) {
  const [colour, variant] = [colourOf(number), variantOf(number)];
  const places = { $LAYER: name, $SOURCE: source, $COLOUR: colour, $HALO: COLOURS[theme].halo, $INK: inkOn(colour) };
  const layers = filled(STYLE_LAYERS, places);
  for (const layer of layers) {
    if (layer.type === "symbol") layer.layout["text-font"] = font ?? LABEL_FONT;
    if (layer.type === "line" && DASHES[variant]) layer.paint["line-dasharray"] = DASHES[variant];
    if (layer.id.endsWith("/circle") && variant > 0) {
      Object.assign(layer.paint, { "circle-color": variant === 1 ? COLOURS[theme].halo : COLOURS[theme].highlight,
        "circle-stroke-color": colour, "circle-stroke-width": 2 });
    }
  }
  return layers;
}

// What is pointed at, and what has just changed: drawn above all else from sources of their own.
function markLayers(name, colour, width) {
  return [
    { id: `${name}/line`, type: "line", source: name, filter: ["!=", ["geometry-type"], "Point"],
      paint: { "line-color": colour, "line-width": width, "line-opacity": 1 } },
    { id: `${name}/circle`, type: "circle", source: name, filter: ["==", ["geometry-type"], "Point"],
      paint: { "circle-color": "rgba(0, 0, 0, 0)", "circle-radius": ["coalesce", ["get", "radius"], 8], "circle-stroke-color": colour,
        "circle-stroke-width": width, "circle-stroke-opacity": 1 } },
  ];
}

const NOTHING = { type: "FeatureCollection", features: [] };
// The size of a packed tile, in bytes, from which on its border is drawn in the last colour.
const LARGE_TILE_BYTES = 500000;

// The whole style.
async function styleOf(sources) {
  const under = await basemap();
  const each = shownLayers.map((layer) => layersOf(layer, under.font));
  const of = (kinds) => kinds.flatMap((kind) => each.flatMap((layers) => layers.filter(({ id }) => id.endsWith(`/${kind}`))));
  const { highlight, layers } = COLOURS[theme];
  const heat = ["interpolate", ["linear"], ["get", "bytes"], 0, layers[1], LARGE_TILE_BYTES / 10, layers[4], LARGE_TILE_BYTES, layers[0]];
  const own = ["borders", "highlight", "flash"].map((name) => [name, { type: "geojson", data: NOTHING }]);
  return {
    version: 8,
    ...(under.glyphs && { glyphs: under.glyphs }),
    ...(under.sprite && { sprite: under.sprite }),
    sources: { ...under.sources, ...sources, ...Object.fromEntries(own) },
    layers: [
      ...under.under, ...of(["fill", "outline", "line", "circle"]), ...under.names, ...of(["cluster", "count"]),
      { id: "borders", type: "line", source: "borders", paint: { "line-color": heat, "line-width": 2 } },
      { id: "bytes", type: "symbol", source: "borders", layout: { "text-field": ["get", "label"], "text-size": 12, "text-font": under.font ?? LABEL_FONT },
        paint: { "text-color": highlight, "text-halo-color": COLOURS[theme].halo, "text-halo-width": 1.5 } },
      ...markLayers("highlight", highlight, 2), ...markLayers("flash", layers[0], 3),
    ],
  };
}

// Draws the map in the colours of the theme. What is switched off stays so.
async function repaint(map, sources) {
  for (const layer of (await styleOf(sources)).layers) {
    for (const [name, value] of Object.entries(layer.paint ?? {})) map.setPaintProperty(layer.id, name, value);
  }
}
