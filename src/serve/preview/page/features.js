// Features: what is pointed at, what is clicked, and what is in view.

// The deepest zoom of the tiles.
let deepest = 22;

const countOf = ({ properties }) => Number(properties.point_count ?? properties.count ?? 1) || 1;
const isCluster = (feature) => feature.layer.id.endsWith("/cluster") || feature.layer.id.endsWith("/count");

// The features of the tiles that are drawn, each once.
function featuresInView(map, where, options) {
  const ids = new Set();
  return map.queryRenderedFeatures(where, options).filter((feature) => {
    if (feature.layer.metadata?.layer === undefined) return false;
    const { type, coordinates } = feature.geometry.type === "Point" ? feature.geometry : {};
    const key = JSON.stringify([feature.layer.metadata.layer, feature.id, feature.properties, type && coordinates.map((one) => one.toFixed(5))]);
    return !ids.has(key) && ids.add(key);
  });
}

// A feature as GeoJSON.
const plain = (feature) => ({ type: "Feature", geometry: feature.geometry, properties: { radius: radiusOf(feature) } });

// The radius of a ring around a feature: about that of the circle that layers.json draws.
function radiusOf(feature) {
  return isCluster(feature) ? 10 + 3.6 * Math.log10(countOf(feature)) : 8;
}

// What a feature is called: a property that looks like a name, otherwise its first text.
function titleOf(feature) {
  if (isCluster(feature) && countOf(feature) > 1) return `${grouped(countOf(feature))} together`;
  const { properties } = feature;
  const name = ["name", "title", "label", "name_en", "ref"].find((one) => properties[one] !== undefined && properties[one] !== "");
  const value = properties[name] ?? Object.values(properties).find((one) => typeof one === "string" && one !== "") ?? feature.id ?? Object.values(properties)[0];
  return value === undefined ? feature.layer.metadata.layer : String(value);
}

// The features within some pixels of a point, the highest first.
function near(map, point, pixels = 4) {
  const box = [[point.x - pixels, point.y - pixels], [point.x + pixels, point.y + pixels]];
  return featuresInView(map, box);
}

// Shows the title of what is pointed at.
function hover(map) {
  const title = new maplibregl.Popup({ closeButton: false, closeOnClick: false, focusAfterOpen: false, className: "hover", offset: 12, maxWidth: "260px" });
  const leave = () => {
    title.remove();
    map.getCanvas().style.cursor = "";
    map.getSource("highlight")?.setData(NOTHING);
  };
  map.on("mousemove", (event) => {
    if (map.isMoving()) return leave();
    const [feature] = near(map, event.point);
    if (!feature) return leave();
    map.getCanvas().style.cursor = "pointer";
    map.getSource("highlight")?.setData(plain(feature));
    const at = feature.geometry.type === "Point" ? feature.geometry.coordinates : event.lngLat;
    title.setLngLat(at).setDOMContent(made("div", {}, titleOf(feature), made("br"), made("small", {}, feature.layer.metadata.layer))).addTo(map);
  });
  map.on("mouseout", leave);
  map.on("movestart", leave);
}

// Zooms until the members of a cluster are seen apart.
async function part(map, feature) {
  const center = feature.geometry.coordinates;
  const { xmin, ymin, xmax, ymax } = feature.properties;
  if ([xmin, ymin, xmax, ymax].every(Number.isFinite)) {
    return map.fitBounds([[xmin, ymin], [xmax, ymax]], { padding: 40, maxZoom: deepest + 1 });
  }
  for (let zoom = Math.floor(map.getZoom()) + 1; zoom <= deepest + 1; zoom++) {
    map.easeTo({ center, zoom, duration: matchMedia("(prefers-reduced-motion: reduce)").matches ? 0 : 350 });
    await settled(map);
    const there = near(map, map.project(center), 30).filter((one) => isCluster(one) && one.layer.metadata.layer === feature.layer.metadata.layer);
    if (!there.some((one) => countOf(one) >= countOf(feature))) return;
  }
}

const MAX_TABLES = 10;
let opened;

// Shows the properties of what is clicked; parts a cluster.
function click(map, point, lngLat) {
  const found = near(map, point);
  if (found.length === 0) return;
  if (isCluster(found[0]) && countOf(found[0]) > 1 && map.getZoom() < deepest + 1) return part(map, found[0]);
  const box = made("div", { className: "found", tabIndex: 0 });
  box.setAttribute("role", "group");
  box.setAttribute("aria-label", "What is here");
  for (const feature of found.slice(0, MAX_TABLES)) {
    const layer = shownLayers.find(({ name }) => name === feature.layer.metadata.layer);
    const title = titleOf(feature);
    const table = made("table");
    for (const [name, value] of Object.entries(feature.properties)) {
      const row = table.insertRow();
      row.append(made("th", { scope: "row" }, name), made("td", {}, String(value)));
    }
    box.append(made("h2", {}, swatch(layer.number), title === layer.name ? title : `${title} (${layer.name})`), table);
  }
  if (found.length > MAX_TABLES) box.append(made("small", {}, `and ${found.length - MAX_TABLES} more`));
  box.append(made("small", {}, `tile ${addressOf(lngLat, Math.min(Math.floor(map.getZoom()), deepest))}`));
  opened = new maplibregl.Popup({ maxWidth: "340px" }).setLngLat(lngLat).setDOMContent(box).addTo(map);
  uncover(map, opened.getElement());
}

// Moves the map if the panel covers a part of a popup.
function uncover(map, popup) {
  const [there, panel] = [popup.getBoundingClientRect(), element("panel").getBoundingClientRect()];
  if (there.left >= panel.right || there.right <= panel.left || there.top >= panel.bottom || there.bottom <= panel.top) return;
  const isBeside = panel.width < innerWidth / 2;
  map.panBy(isBeside ? [there.left - panel.right - 10, 0] : [0, there.bottom - panel.top + 10]);
}

// Keys: Enter shows what is in the middle of the map, Escape closes it, / goes to the search.
function keys(map) {
  const canvas = map.getCanvas();
  const middle = () => map.project(map.getCenter());
  canvas.addEventListener("focus", () => { element("centre").hidden = !canvas.matches(":focus-visible"); });
  canvas.addEventListener("blur", () => { element("centre").hidden = true; });
  canvas.addEventListener("keydown", (event) => { if (event.key === "Enter") click(map, middle(), map.getCenter()); });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && opened?.isOpen()) {
      opened.remove();
      canvas.focus();
    }
    const isTyping = event.target.matches?.("input:not([type=checkbox]), select, textarea");
    if (event.key === "/" && !isTyping && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      element("address").focus();
    }
  });
}
