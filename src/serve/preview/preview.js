// The preview: every layer of the TileJSON, coloured, with the properties of what is clicked.
"use strict";

// These three are filled in by the program (style.rs), which also writes the same style into a file.
const COLOURS = {{COLOURS}};
const BACKGROUND = {{BACKGROUND}};
const STYLE_LAYERS = {{STYLE_LAYERS}};
const NETWORK = "#24364f";
// The size of a packed tile, in bytes, from which on its border is drawn in the last colour.
const LARGE_TILE_BYTES = 500000;
const base = document.body.dataset.publicUrl;

function say(text) {
  document.getElementById("message").value = text;
}

// Meridians and parallels: a background that needs no other server.
function network() {
  const lines = [];
  for (let x = -180; x <= 180; x += 30) lines.push([[x, -85], [x, 85]]);
  for (let y = -60; y <= 60; y += 30) lines.push([[-180, y], [180, y]]);
  return { type: "Feature", properties: {}, geometry: { type: "MultiLineString", coordinates: lines } };
}

// Bytes of the tiles that were loaded, by "z/x/y": the map client does not report them.
const sizes = new Map();

// Patterns that read zoom, column and row from the addresses of each source.
const readers = [];

function withoutQuery(url) {
  return url.split("?")[0];
}

function readerOf(address) {
  const escaped = withoutQuery(address).replace(/[.*+?^$()|[\]\\]/g, "\\$&");
  const pattern = escaped.replace("{z}", "(?<z>\\d+)").replace("{x}", "(?<x>\\d+)").replace(/\{-?y\}/, "(?<y>\\d+)");
  return { pattern: new RegExp(`^${pattern}$`), fromSouth: address.includes("{-y}") };
}

// The tile of an address, as "z/x/y" with rows from the north.
function tileOf(url) {
  for (const { pattern, fromSouth } of readers) {
    const found = withoutQuery(url).match(pattern)?.groups;
    if (found) return `${found.z}/${found.x}/${fromSouth ? 2 ** found.z - 1 - found.y : found.y}`;
  }
  return undefined;
}

async function load(request, abort) {
  const url = request.url.replace(/^counted:\/\//, "");
  const tile = tileOf(url);
  // The browser must validate its copy of a changed tile, even if the copy may be kept longer.
  const cache = everythingChanged || changed.has(tile) ? "no-cache" : "default";
  const answer = await fetch(url, { signal: abort.signal, cache });
  if (!answer.ok) throw new Error(`${url}: HTTP ${answer.status}`);
  const data = await answer.arrayBuffer();
  const packed = Number(answer.headers.get("content-length")) || data.byteLength;
  if (tile !== undefined) sizes.set(tile, data.byteLength === 0 ? 0 : packed);
  return { data };
}

// The tiles that have changed since the page was opened, by "z/x/y"; every tile, if the server does not know which.
const changed = new Set();
let everythingChanged = false;
const MAX_CHANGED = 100000;

// The tiles of a list such as "3/5/2 14/8712-8713/5333".
function* listed(text) {
  for (const rect of text.split(" ").filter(Boolean)) {
    const [z, columns, rows] = rect.split("/");
    const [x0, x1 = x0] = columns.split("-").map(Number);
    const [y0, y1 = y0] = rows.split("-").map(Number);
    for (let x = x0; x <= x1; x++) for (let y = y0; y <= y1; y++) yield { z: Number(z), x, y };
  }
}

// Fetches tiles again when the server says that they have changed.
function follow(map, sources) {
  const events = new EventSource(`${base}${document.body.dataset.changes}`);
  const refresh = (text) => {
    let tiles;
    if (typeof text === "string") {
      tiles = [...listed(text)];
      for (const { z, x, y } of tiles) changed.add(`${z}/${x}/${y}`);
    }
    everythingChanged ||= tiles === undefined || changed.size > MAX_CHANGED;
    for (const source of sources) map.refreshTiles(source, tiles);
  };
  let known;
  events.addEventListener("state", (event) => {
    // The page has subscribed again, and something has changed meanwhile.
    if (known !== undefined && known !== event.lastEventId) refresh();
    known = event.lastEventId;
  });
  events.addEventListener("changed", (event) => {
    known = event.lastEventId;
    refresh(JSON.parse(event.data).tiles);
  });
}

function documents() {
  // A target that stores layers separately has a TileJSON for each; the page asks for the TileJSON of the whole target first.
  return fetch(`${base}tiles.json`).then(async (answer) => {
    if (answer.ok) return [await answer.json()];
    const names = (location.search.slice(1) || "").split(",").filter(Boolean);
    const each = names.map((name) => fetch(`${base}${encodeURIComponent(name)}.tiles.json`).then((one) => one.json()));
    return Promise.all(each);
  });
}

function layersOf(source, layer, colour) {
  const places = { $LAYER: layer.id, $SOURCE: source, $COLOUR: colour };
  const filled = (key, value) => typeof value === "string" ? value.replace(/\$[A-Z]+/g, (place) => places[place]) : value;
  return JSON.parse(JSON.stringify(STYLE_LAYERS), filled);
}

// The values that the user has typed for the parameters of live tiles, as a query.
function queryOf(parameters) {
  const query = new URLSearchParams();
  for (const { name, type } of parameters) {
    const text = document.getElementById(`parameter-${name}`).value;
    const values = type.endsWith("[]") ? text.split(",") : [text];
    for (const value of values.map((one) => one.trim()).filter(Boolean)) query.append(name, value);
  }
  return query.toString();
}

// An input for a parameter; one to choose from where few values are allowed.
function inputFor({ name, type, description, allowed }) {
  const choices = type === "boolean" ? ["true", "false"] : type.endsWith("[]") ? undefined : allowed;
  const input = document.createElement(choices ? "select" : "input");
  for (const choice of choices ? ["", ...choices] : []) input.append(new Option(choice, choice));
  input.id = `parameter-${name}`;
  if (!choices) {
    input.size = 16;
    input.autocomplete = "off";
    input.placeholder = type === "box" ? "west,south,east,north" : type.endsWith("[]") ? "one,another" : "";
  }
  const label = document.createElement("label");
  label.title = description ?? "";
  label.append(`${name} `, input);
  return { label, input };
}

// Inputs for the parameters of a source. Its tiles are requested again when an input changes.
function parametersOf(map, source, addresses, parameters) {
  const list = document.getElementById("parameters");
  list.hidden = false;
  for (const parameter of parameters) {
    const { label, input } = inputFor(parameter);
    input.addEventListener("change", () => {
      say("");
      sizes.clear();
      const query = queryOf(parameters);
      map.getSource(source).setTiles(addresses.map((address) => withoutQuery(address) + (query && `?${query}`)));
    });
    list.append(label);
  }
}

function corner(z, x, y) {
  const latitude = Math.atan(Math.sinh(Math.PI * (1 - (2 * y) / 2 ** z)));
  return [(x / 2 ** z) * 360 - 180, (latitude * 180) / Math.PI];
}

function addressOf(lngLat, zoom) {
  const sine = Math.sin((lngLat.lat * Math.PI) / 180);
  const x = Math.floor(((lngLat.lng + 180) / 360) * 2 ** zoom);
  const y = Math.floor((0.5 - Math.log((1 + sine) / (1 - sine)) / (4 * Math.PI)) * 2 ** zoom);
  return `${zoom}/${x}/${y}`;
}

function borders(zoom) {
  const features = [];
  for (const [address, bytes] of sizes) {
    const [z, x, y] = address.split("/").map(Number);
    if (z !== zoom) continue;
    const ring = [corner(z, x, y), corner(z, x + 1, y), corner(z, x + 1, y + 1), corner(z, x, y + 1), corner(z, x, y)];
    features.push({ type: "Feature", properties: { bytes, label: `${address}\n${bytes} B` },
      geometry: { type: "Polygon", coordinates: [ring] } });
  }
  return { type: "FeatureCollection", features };
}

function popup(map, event) {
  const found = map.queryRenderedFeatures(event.point).filter((feature) => feature.layer.metadata?.layer);
  if (found.length === 0) return;
  const box = document.createElement("div");
  const seen = new Set();
  for (const feature of found) {
    const key = JSON.stringify([feature.sourceLayer, feature.id, feature.properties]);
    if (seen.has(key) || seen.size === 10) continue;
    seen.add(key);
    const title = document.createElement("strong");
    title.textContent = feature.sourceLayer;
    const table = document.createElement("table");
    for (const [name, value] of Object.entries(feature.properties)) {
      const row = table.insertRow();
      row.insertCell().textContent = name;
      row.insertCell().textContent = value;
    }
    box.append(title, table);
  }
  const zoom = Math.min(Math.floor(map.getZoom()), deepest);
  const tile = document.createElement("small");
  tile.textContent = `tile ${addressOf(event.lngLat, zoom)}`;
  box.append(tile);
  new maplibregl.Popup({ maxWidth: "360px" }).setLngLat(event.lngLat).setDOMContent(box).addTo(map);
}

let deepest = 22;

async function start() {
  if (!window.maplibregl) {
    say("The map client (MapLibre GL JS) could not be loaded. Without access to the internet, start the server with --assets FOLDER and the files of the npm package maplibre-gl@5 (its folder dist).");
    return;
  }
  maplibregl.addProtocol("counted", load);
  const tilejsons = await documents();
  if (tilejsons.length === 0) {
    say("This target keeps its layers apart: name them in the address, such as /?mills,farms");
    return;
  }
  const style = { version: 8, sources: { network: { type: "geojson", data: network() } }, layers: [
    { id: "background", type: "background", paint: { "background-color": BACKGROUND } },
    { id: "network", type: "line", source: "network", paint: { "line-color": NETWORK } },
  ] };
  const list = document.getElementById("layers");
  let index = 0;
  for (const [number, tilejson] of tilejsons.entries()) {
    const source = `tiles${number}`;
    readers.push(...tilejson.tiles.map(readerOf));
    // The map client supports rows from the south only by the scheme "tms".
    const scheme = tilejson.tiles.some((address) => address.includes("{-y}")) ? "tms" : "xyz";
    const tiles = tilejson.tiles.map((address) => `counted://${address.replace("{-y}", "{y}")}`);
    style.sources[source] = { type: "vector", tiles, scheme, minzoom: tilejson.minzoom ?? 0, maxzoom: tilejson.maxzoom ?? 22,
      attribution: tilejson.attribution, ...(tilejson.bounds && { bounds: tilejson.bounds }) };
    deepest = tilejson.maxzoom ?? 22;
    for (const layer of tilejson.vector_layers) {
      const colour = COLOURS[index++ % COLOURS.length];
      style.layers.push(...layersOf(source, layer, colour));
      const label = document.createElement("label");
      const box = document.createElement("input");
      const swatch = document.createElement("span");
      swatch.className = "swatch";
      swatch.style.background = colour;
      box.type = "checkbox";
      box.checked = true;
      box.addEventListener("change", () => {
        for (const kind of ["fill", "line", "circle", "count"]) {
          map.setLayoutProperty(`${layer.id}/${kind}`, "visibility", box.checked ? "visible" : "none");
        }
      });
      label.append(box, swatch, layer.id);
      list.append(label);
    }
  }
  const first = tilejsons[0];
  document.getElementById("name").textContent = first.name ?? "oar-tiles";
  document.title = `${first.name ?? "tiles"} – oar-tiles`;
  const view = first.bounds ? { bounds: first.bounds, fitBoundsOptions: { padding: 40, maxZoom: deepest } } : { center: [0, 20], zoom: 1 };
  const map = new maplibregl.Map({ container: "map", style, hash: true, ...view });
  window.shownMap = map;
  map.on("error", (event) => say(String(event.error?.message ?? event.error)));
  map.on("click", (event) => popup(map, event));
  map.addControl(new maplibregl.NavigationControl(), "top-right");
  map.on("load", () => {
    map.addSource("borders", { type: "geojson", data: borders(-1) });
    const heat = ["interpolate", ["linear"], ["get", "bytes"], 0, "#4cc9f0", LARGE_TILE_BYTES / 10, "#ffd166", LARGE_TILE_BYTES, "#ef476f"];
    map.addLayer({ id: "borders", type: "line", source: "borders", paint: { "line-color": heat, "line-width": 2 } });
    map.addLayer({ id: "bytes", type: "symbol", source: "borders", layout: { "text-field": ["get", "label"], "text-size": 12 },
      paint: { "text-color": heat, "text-halo-color": BACKGROUND, "text-halo-width": 1.5 } });
    for (const [number, { parameters = [] }] of tilejsons.entries()) {
      const source = `tiles${number}`;
      if (parameters.length > 0) parametersOf(map, source, style.sources[source].tiles, parameters);
    }
    if (document.body.dataset.changes) follow(map, tilejsons.map((_, number) => `tiles${number}`));
  });
  const switched = document.getElementById("sizes");
  const redraw = () => {
    const zoom = Math.max(Math.min(Math.floor(map.getZoom()), deepest), first.minzoom ?? 0);
    map.getSource("borders")?.setData(borders(switched.checked ? zoom : -1));
  };
  switched.addEventListener("change", redraw);
  map.on("moveend", redraw);
  map.on("sourcedata", (event) => { if (event.tile && switched.checked) redraw(); });
  document.getElementById("panel").addEventListener("submit", (event) => {
    event.preventDefault();
    const [, z, x, y] = document.getElementById("address").value.trim().match(/^(\d{1,2})\/(\d+)\/(\d+)$/) ?? [];
    if (z === undefined || x >= 2 ** z || y >= 2 ** z) return say("Write zoom/column/row, such as 5/24/13");
    say("");
    const [tile, next] = [corner(+z, +x, +y), corner(+z, +x + 1, +y + 1)];
    map.fitBounds([[tile[0], next[1]], [next[0], tile[1]]], { padding: 20, animate: false });
  });
}

start().catch((error) => say(String(error?.message ?? error)));
