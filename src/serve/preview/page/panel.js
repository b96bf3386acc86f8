// The panel: layers, what of them is in view, filters.

// The mark of a layer's colour.
function swatch(number) {
  const mark = made("span", { className: ["swatch full", "swatch", "swatch dots"][variantOf(number)] });
  mark.dataset.number = number;
  mark.style.borderColor = colourOf(number);
  return mark;
}

const isOn = ({ box }) => box.checked;

function switchLayers(map) {
  for (const layer of shownLayers) {
    for (const kind of KINDS) map.setLayoutProperty(`${layer.name}/${kind}`, "visibility", isOn(layer) ? "visible" : "none");
  }
  element("all").hidden = shownLayers.every(isOn);
}

// A row for each layer. In the list, what is drawn above stands above.
function listLayers(map) {
  for (const layer of shownLayers) {
    layer.box = made("input", { type: "checkbox", checked: true });
    layer.shown = made("span", { className: "shown" });
    layer.shares = made("div", { className: "shares" });
    layer.box.addEventListener("change", () => switchLayers(map));
    const button = (text, what, action) => {
      const one = made("button", { type: "button", title: what }, text);
      one.setAttribute("aria-label", `${what}: ${layer.name}`);
      one.addEventListener("click", action);
      return one;
    };
    const only = button("Only", "Show only this layer", () => {
      for (const other of shownLayers) other.box.checked = other === layer;
      switchLayers(map);
    });
    const fit = button("Zoom", "Zoom to this layer", () => zoomTo(map, layer));
    layer.details = made("details", {}, made("summary", {}, "Properties in view"), layer.shares);
    layer.details.addEventListener("toggle", () => count(map));
    const label = made("label", { title: layer.description ?? "" }, layer.box, swatch(layer.number), layer.name, layer.shown);
    const row = made("div", {}, label, ...(shownLayers.length > 1 ? [only] : []), fit);
    element("layers").append(made("div", { className: "layer" }, row, ...(Object.keys(layer.fields).length > 0 ? [layer.details] : [])));
  }
  element("all").addEventListener("click", () => {
    for (const layer of shownLayers) layer.box.checked = true;
    switchLayers(map);
  });
}

// Zooms to where a layer has features. TileJSON has one box for all layers: the layer's own is found in the tiles that show that box.
async function zoomTo(map, layer) {
  layer.box.checked = true;
  switchLayers(map);
  const all = layer.bounds ?? [-180, -80, 180, 80];
  map.fitBounds(all, { padding: 40, maxZoom: Math.max(deepest, 1), minZoom: layer.minzoom, animate: false });
  if (map.getZoom() < layer.minzoom) map.setZoom(layer.minzoom);
  await settled(map);
  let box;
  for (const feature of map.querySourceFeatures(layer.source, { sourceLayer: layer.name })) box = boxOf(feature.geometry, box);
  if (!box) return say(`There is nothing of ${layer.name} in the tiles of zoom ${Math.floor(map.getZoom())}.`);
  say("");
  map.fitBounds(box, { padding: padding(60), maxZoom: deepest });
}

// Room beside the panel.
function padding(pixels) {
  const panel = element("panel").getBoundingClientRect();
  const isBeside = panel.width < innerWidth / 2;
  return { top: pixels, right: pixels, bottom: pixels + (isBeside ? 0 : panel.height), left: pixels + (isBeside ? panel.width : 0) };
}

// The most values of a property that are listed.
const MAX_VALUES = 5;

// The shares of a property's values among features.
function sharesOf(name, features) {
  const counts = new Map();
  for (const { properties } of features) {
    if (properties[name] !== undefined) counts.set(properties[name], (counts.get(properties[name]) ?? 0) + 1);
  }
  const heading = made("h2", {}, name);
  const total = features.length;
  if (counts.size === 0) return [heading, made("p", {}, "no value")];
  const values = [...counts].sort((one, other) => other[1] - one[1]);
  if (counts.size > MAX_VALUES && values[0][1] === 1) {
    const numbers = [...counts.keys()].filter((value) => typeof value === "number");
    const range = numbers.length === counts.size ? `, ${grouped(Math.min(...numbers))} to ${grouped(Math.max(...numbers))}` : "";
    return [heading, made("p", {}, `${grouped(counts.size)} different values${range}`)];
  }
  const rows = values.slice(0, MAX_VALUES).map(([value, number]) => {
    const bar = made("i");
    bar.style.width = `${(100 * number) / total}%`;
    return made("div", {}, bar, made("span", {}, String(value) === "" ? "(empty)" : String(value)), made("span", {}, `${Math.round((100 * number) / total)} %`));
  });
  const rest = values.length - rows.length;
  return [heading, ...rows, ...(rest > 0 ? [made("p", {}, `and ${grouped(rest)} more`)] : [])];
}

// Counts what is in view of each layer, and of the values of its properties where they are unfolded.
function count(map) {
  if (!element("more").open) return;
  const by = new Map(shownLayers.map((layer) => [layer.name, []]));
  for (const feature of featuresInView(map)) by.get(feature.layer.metadata.layer)?.push(feature);
  for (const layer of shownLayers) {
    const features = by.get(layer.name);
    const total = features.reduce((sum, feature) => sum + countOf(feature), 0);
    layer.shown.textContent = layer.box.checked ? grouped(total) : "";
    layer.shown.title = `${grouped(total)} in view`;
    if (!layer.details.open) continue;
    const single = features.filter((feature) => countOf(feature) === 1);
    const rows = Object.keys(layer.fields).filter((name) => !/^(cluster(_id)?|point_count(_abbreviated)?)$/.test(name)).flatMap((name) => sharesOf(name, single));
    const isEmpty = single.length === 0;
    layer.shares.replaceChildren(...(isEmpty ? [made("p", {}, total > 0 ? "Only clusters are in view: zoom in." : "Nothing is in view.")] : rows));
  }
}

// The values that the visitor has typed for the parameters of live tiles, as a query.
function queryOf(parameters) {
  const query = new URLSearchParams();
  for (const { name, type } of parameters) {
    const text = element(`parameter-${name}`).value;
    const values = type.endsWith("[]") ? text.split(",") : [text];
    for (const value of values.map((one) => one.trim()).filter(Boolean)) query.append(name, value);
  }
  return query.toString();
}

// An input for a parameter; one to choose from where few values are allowed.
function inputFor({ name, type, description, allowed }) {
  const choices = type === "boolean" ? ["true", "false"] : type.endsWith("[]") ? undefined : allowed;
  const input = made(choices ? "select" : "input", { id: `parameter-${name}` });
  for (const choice of choices ? ["", ...choices] : []) input.append(new Option(choice, choice));
  if (!choices) {
    input.size = 16;
    input.autocomplete = "off";
    input.setAttribute("list", `values-${name}`);
    const examples = { box: "west,south,east,north", range: "10..20", polygon: "POLYGON((…))" };
    input.placeholder = examples[type] ?? (type.endsWith("[]") ? "one,another" : "");
  }
  return { label: made("label", { title: description ?? "" }, `${name} `, input, made("datalist", { id: `values-${name}` })), input };
}

// Offers the values of a parameter, each with the number of rows that have it: Map of value to number.
function offerValues({ name, type }, counts) {
  const input = element(`parameter-${name}`);
  if (input.tagName === "SELECT") {
    for (const option of input.options) if (option.value) option.text = counts.has(option.value) ? `${option.value} (${grouped(counts.get(option.value))})` : option.value;
    return;
  }
  const isTypable = (value) => value.trim() === value && !(type.endsWith("[]") && value.includes(","));
  // In a list, what is chosen is appended to what has been typed.
  const offer = () => {
    const before = type.endsWith("[]") ? input.value.slice(0, input.value.lastIndexOf(",") + 1) : "";
    const options = [...counts].filter(([value]) => isTypable(value)).map(([value, rows]) => made("option", { value: before + value, label: `${before}${value} (${grouped(rows)})` }));
    element(`values-${name}`).replaceChildren(...options);
  };
  input.oninput = offer;
  offer();
}

// Asks how many rows the filters choose, and how many each value would choose. Layers may draw the same rows at different zooms, so of a value the greatest number counts.
async function countValues(parameters, query) {
  const answer = await fetch(`${base}values.json${query && `?${query}`}`);
  if (!answer.ok) throw new Error(String(answer.status));
  const { layers } = await answer.json();
  if (query !== queryOf(parameters)) return;
  const all = Object.values(layers);
  for (const parameter of parameters) {
    const counts = new Map();
    for (const [value, rows] of all.flatMap(({ values }) => Object.hasOwn(values, parameter.name) ? values[parameter.name] : [])) counts.set(value, Math.max(rows, counts.get(value) ?? 0));
    if (counts.size > 0 || element(`values-${parameter.name}`).children.length > 0) offerValues(parameter, counts);
  }
  const isOne = new Set(all.map(({ count }) => count)).size === 1;
  const chosen = isOne ? grouped(all[0].count) : Object.entries(layers).map(([name, { count }]) => `${grouped(count)} ${name}`).join(", ");
  element("chosen").textContent = query && chosen ? `: ${chosen} chosen` : "";
}

// Numbers of an earlier filter would be wrong.
function noNumbers() {
  element("chosen").textContent = ": not counted";
}

// Inputs for the parameters of a source. Its tiles are requested again when an input changes.
function parametersOf(map, source, addresses, parameters) {
  const list = element("parameters");
  list.hidden = false;
  for (const parameter of parameters) {
    const { label, input } = inputFor(parameter);
    input.addEventListener("change", () => {
      say("");
      sizes.clear();
      const query = queryOf(parameters);
      map.getSource(source).setTiles(addresses.map((address) => withoutQuery(address) + (query && `?${query}`)));
      countValues(parameters, query).catch(noNumbers);
    });
    list.append(label);
  }
  countValues(parameters, "").catch(noNumbers);
}
