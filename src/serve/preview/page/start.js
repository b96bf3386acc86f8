// Begins: reads the TileJSON, makes the map, and joins the parts.

function documents() {
  // A target that stores layers separately has a TileJSON for each; the page asks for the TileJSON of the whole target first.
  return fetch(`${base}tiles.json`).then(async (answer) => {
    if (answer.ok) return [await answer.json()];
    const names = (location.search.slice(1) || "").split(",").filter(Boolean);
    const each = names.map((name) => fetch(`${base}${encodeURIComponent(name)}.tiles.json`).then((one) => one.json()));
    return Promise.all(each);
  });
}

// A source of the style for a TileJSON document. Its layers are added to the list.
function sourceOf(tilejson, id) {
  readers.push(...tilejson.tiles.map(readerOf));
  // The map client supports rows from the south only by the scheme "tms".
  const scheme = tilejson.tiles.some((address) => address.includes("{-y}")) ? "tms" : "xyz";
  const tiles = tilejson.tiles.map((address) => `counted://${address.replace("{-y}", "{y}")}`);
  for (const { id: name, description, fields = {}, minzoom = 0 } of tilejson.vector_layers) {
    shownLayers.push({ name, source: id, description, fields, minzoom, bounds: tilejson.bounds, number: shownLayers.length });
  }
  return { type: "vector", tiles, scheme, minzoom: tilejson.minzoom ?? 0, maxzoom: tilejson.maxzoom ?? 22,
    attribution: tilejson.attribution, ...(tilejson.encoding && { encoding: tilejson.encoding }), ...(tilejson.bounds && { bounds: tilejson.bounds }) };
}

function showTheme() {
  document.documentElement.dataset.theme = theme;
  element("theme").setAttribute("aria-pressed", String(theme === "dark"));
  for (const mark of document.querySelectorAll(".swatch")) mark.style.borderColor = colourOf(Number(mark.dataset.number));
}

function switchTheme(map, sources) {
  element("theme").addEventListener("click", () => {
    theme = theme === "dark" ? "light" : "dark";
    localStorageOr(() => localStorage.setItem("oar-tiles-theme", theme));
    showTheme();
    if (!isOtherBasemap) repaint(map, sources).catch((error) => say(String(error?.message ?? error)));
  });
}

// Zoom and centre of the map, as text.
function showPosition(map) {
  const { lng, lat } = map.getCenter().wrap();
  const digits = Math.max(0, Math.ceil(map.getZoom() / 3));
  element("position").textContent = `zoom ${map.getZoom().toFixed(1)} · ${lng.toFixed(digits)}, ${lat.toFixed(digits)}`;
}

// The borders of tiles with their bytes, if they are asked for.
function showBorders(map, shallowest) {
  const zoom = Math.max(Math.min(Math.floor(map.getZoom()), deepest), shallowest);
  map.getSource("borders")?.setData(borders(element("sizes").checked ? zoom : -1));
}

async function start() {
  showTheme();
  if (!window.maplibregl) {
    say("The map client (MapLibre GL JS) could not be loaded from the internet. The page of oar-tiles preview has it built in.");
    return;
  }
  if (innerWidth <= 600) element("more").open = false;
  maplibregl.addProtocol("counted", load);
  const tilejsons = await documents();
  if (tilejsons.length === 0) {
    say("This target keeps its layers apart: name them in the address, such as /?mills,farms");
    return;
  }
  const sources = Object.fromEntries(tilejsons.map((tilejson, number) => [`tiles${number}`, sourceOf(tilejson, `tiles${number}`)]));
  const [first] = tilejsons;
  deepest = Math.max(...tilejsons.map((tilejson) => tilejson.maxzoom ?? 22));
  element("name").textContent = first.name ?? "oar-tiles";
  document.title = `${first.name ?? "tiles"} – oar-tiles`;
  const view = first.bounds ? { bounds: first.bounds, fitBoundsOptions: { padding: padding(30), maxZoom: deepest } } : { center: [0, 20], zoom: 1 };
  const map = new maplibregl.Map({ container: "map", style: await styleOf(sources), hash: true, attributionControl: false, ...view });
  window.shownMap = map;
  map.addControl(new maplibregl.NavigationControl({ showCompass: false }), "top-right");
  map.addControl(new maplibregl.AttributionControl({ compact: true }), "bottom-right");
  map.addControl(new maplibregl.ScaleControl(), "bottom-right");
  map.on("error", (event) => say(String(event.error?.message ?? event.error)));
  map.on("click", (event) => click(map, event.point, event.lngLat));
  listLayers(map);
  search(map);
  keys(map);
  showPosition(map);
  map.on("move", () => showPosition(map));
  map.on("load", () => {
    hover(map);
    switchTheme(map, sources);
    for (const [number, { parameters = [] }] of tilejsons.entries()) {
      const source = `tiles${number}`;
      if (parameters.length > 0) parametersOf(map, source, sources[source].tiles, parameters);
    }
    if (document.body.dataset.changes) follow(map, Object.keys(sources));
  });
  map.on("idle", () => count(map));
  element("more").addEventListener("toggle", () => count(map));
  const redraw = () => showBorders(map, first.minzoom ?? 0);
  element("sizes").addEventListener("change", redraw);
  map.on("moveend", redraw);
  map.on("sourcedata", (event) => { if (event.tile && element("sizes").checked) redraw(); });
}

start().catch((error) => say(String(error?.message ?? error)));
