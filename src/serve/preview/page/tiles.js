// The tiles: their sizes, and those that change while the page is open.

// Bytes of the tiles that were loaded, by "z/x/y": the map client does not report them.
const sizes = new Map();

// Patterns that read zoom, column and row from the addresses of each source.
const readers = [];

const withoutQuery = (url) => url.split("?")[0];

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

// The borders of the loaded tiles of a zoom.
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

// Fetches tiles again when the server says that they have changed. What is new in them flashes once.
function follow(map, sources) {
  const events = new EventSource(`${base}${document.body.dataset.changes}`);
  const refresh = (text) => {
    let tiles;
    if (typeof text === "string") {
      tiles = [...listed(text)];
      for (const { z, x, y } of tiles) changed.add(`${z}/${x}/${y}`);
    }
    everythingChanged ||= tiles === undefined || changed.size > MAX_CHANGED;
    flashWhatIsNew(map);
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

// The most features that are compared, and that flash.
const MAX_COMPARED = 20000;
const MAX_FLASHES = 500;
const FLASH_MILLISECONDS = 1600;
let beforeChange;

const keyOf = (feature) => JSON.stringify([feature.layer.metadata.layer, feature.id, feature.properties, boxOf(feature.geometry).map((side) => side.toFixed(4))]);

// Remembers what is shown, and marks for a moment what is shown in addition once the changed tiles are there.
async function flashWhatIsNew(map) {
  if (beforeChange) return;
  const view = map.getBounds().toString();
  const before = featuresInView(map);
  if (before.length > MAX_COMPARED) return;
  beforeChange = new Set(before.map(keyOf));
  await settled(map);
  const known = beforeChange;
  beforeChange = undefined;
  // After a move of the map, everything would be new.
  if (map.getBounds().toString() !== view) return;
  const fresh = featuresInView(map).filter((feature) => !known.has(keyOf(feature))).slice(0, MAX_FLASHES);
  if (fresh.length === 0) return;
  const opacity = (value, milliseconds) => {
    for (const [layer, name] of [["flash/line", "line-opacity"], ["flash/circle", "circle-stroke-opacity"]]) {
      map.setPaintProperty(layer, `${name}-transition`, { duration: milliseconds });
      map.setPaintProperty(layer, name, value);
    }
  };
  opacity(1, 0);
  map.getSource("flash").setData({ type: "FeatureCollection", features: fresh.map(plain) });
  document.body.dataset.flashed = Number(document.body.dataset.flashed ?? 0) + fresh.length;
  setTimeout(() => opacity(0, FLASH_MILLISECONDS / 2), FLASH_MILLISECONDS / 2);
  setTimeout(() => map.getSource("flash").setData(NOTHING), FLASH_MILLISECONDS + 100);
}
