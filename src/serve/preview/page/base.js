// The page of `preview`: the tiles of a target over a base map. The parts in this folder are put one after the other into one script.
"use strict";

// The program fills these in from colours.json, layers.json and expressions.json, from which it also makes the style of `preview --style`.
const COLOURS = {{COLOURS}};
const STYLE_LAYERS = {{STYLE_LAYERS}};
const EXPRESSIONS = {{EXPRESSIONS}};
const base = document.body.dataset.publicUrl;
const element = (id) => document.getElementById(id);

function say(text) {
  element("message").value = text;
}

// A new element with texts or elements in it.
function made(name, attributes = {}, ...children) {
  const one = document.createElement(name);
  Object.assign(one, attributes);
  one.append(...children);
  return one;
}

const grouped = (number) => number.toLocaleString("en");

// Light or dark: what the visitor chose on this page, otherwise what the browser prefers.
let theme = localStorageOr(() => localStorage.getItem("oar-tiles-theme"))
  ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");

// A page in a file, or in a frame, may have no storage.
function localStorageOr(used) {
  try { return used(); } catch { return undefined; }
}

// The north-western corner of a tile, in degrees.
function corner(z, x, y) {
  const latitude = Math.atan(Math.sinh(Math.PI * (1 - (2 * y) / 2 ** z)));
  return [(x / 2 ** z) * 360 - 180, (latitude * 180) / Math.PI];
}

// The address of the tile at a position.
function addressOf(lngLat, zoom) {
  const sine = Math.sin((lngLat.lat * Math.PI) / 180);
  const x = Math.floor(((((lngLat.lng + 180) / 360) % 1) + 1) % 1 * 2 ** zoom);
  const y = Math.floor((0.5 - Math.log((1 + sine) / (1 - sine)) / (4 * Math.PI)) * 2 ** zoom);
  return `${zoom}/${x}/${y}`;
}

// The box of a geometry, as [west, south, east, north]; grows `box` if one is given.
function boxOf(geometry, box = [Infinity, Infinity, -Infinity, -Infinity]) {
  const grow = (coordinates) => {
    if (typeof coordinates[0] !== "number") return coordinates.forEach(grow);
    const [x, y] = coordinates;
    [box[0], box[1], box[2], box[3]] = [Math.min(box[0], x), Math.min(box[1], y), Math.max(box[2], x), Math.max(box[3], y)];
  };
  (geometry.geometries ?? [geometry]).forEach((part) => grow(part.coordinates));
  return box;
}

// Waits until the map has drawn everything and stands still.
const settled = (map) => new Promise((done) => map.once("idle", done));
