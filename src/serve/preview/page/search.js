// The search: a tile, a position, or a place of the base map.

// Names of countries and places, in places.json beside the base map; fetched when somebody searches.
let places;

async function loadPlaces() {
  if (basemapAddress === "" || isOtherBasemap) return { countries: [], places: [] };
  return places ??= fetch(basemapAddress.replace(/basemap-.*/, "places.json")).then((answer) => answer.json()).then((found) => {
    const names = [...found.countries, ...found.places].map(([name]) => name);
    element("places").append(...[...new Set(names)].map((name) => made("option", { value: name })));
    return found;
  });
}

// A name without accents and capitals.
const folded = (text) => text.normalize("NFD").replace(/\p{M}/gu, "").toLowerCase();

// The zoom at which a position or a town is shown.
const PLACE_ZOOM = 10;

async function goTo(map, text) {
  const [, z, x, y] = text.match(/^(\d{1,2})\/(\d+)\/(\d+)$/) ?? [];
  if (z !== undefined) {
    if (x >= 2 ** z || y >= 2 ** z) return `There is no tile ${text}: at zoom ${z}, columns and rows end at ${2 ** z - 1}.`;
    const [tile, next] = [corner(+z, +x, +y), corner(+z, +x + 1, +y + 1)];
    map.fitBounds([[tile[0], next[1]], [next[0], tile[1]]], { padding: 20, animate: false });
    return "";
  }
  const [, lon, lat] = text.match(/^(-?\d+(?:\.\d+)?)\s*[,; ]\s*(-?\d+(?:\.\d+)?)$/) ?? [];
  if (lon !== undefined) {
    if (Math.abs(lon) > 180 || Math.abs(lat) > 90) return `${text} is no longitude and latitude: write lon,lat such as 90.4,23.7`;
    map.jumpTo({ center: [+lon, +lat], zoom: Math.max(map.getZoom(), PLACE_ZOOM) });
    return "";
  }
  const wanted = folded(text);
  const all = await loadPlaces();
  const best = (list) => list.find(([name]) => folded(name) === wanted) ?? list.find(([name]) => folded(name).startsWith(wanted))
    ?? list.find(([name]) => folded(name).includes(wanted));
  const exact = all.places.find(([name]) => folded(name) === wanted);
  const country = exact && folded(best(all.countries)?.[0] ?? "") !== wanted ? undefined : best(all.countries);
  if (country) {
    map.fitBounds([country.slice(1, 3), country.slice(3, 5)], { padding: padding(20), animate: false });
    return "";
  }
  const place = exact ?? best(all.places);
  if (!place) return `There is no place “${text}” on the base map. Write a country, a large town, lon,lat or zoom/column/row, such as 5/24/13`;
  map.jumpTo({ center: place.slice(1, 3), zoom: PLACE_ZOOM });
  return "";
}

function search(map) {
  element("address").addEventListener("focus", () => loadPlaces().catch((error) => say(String(error?.message ?? error))), { once: true });
  element("panel").addEventListener("submit", (event) => {
    event.preventDefault();
    const text = element("address").value.trim();
    if (text === "") return;
    goTo(map, text).then(say, (error) => say(String(error?.message ?? error)));
  });
}
