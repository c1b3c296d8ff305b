"use strict";
const images = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
// inferno, sampled at nine points: readable with any colour vision, and in greyscale
const COLOURS = [[0, 0, 4], [33, 12, 74], [87, 16, 110], [138, 34, 106], [188, 55, 84], [228, 90, 49], [249, 142, 9], [249, 203, 53], [252, 255, 164]];
let number = 0, site = 0, kind = "";

function colour(value) {
  const place = Math.min(Math.max(value, 0), 1) * (COLOURS.length - 1), k = Math.min(Math.floor(place), COLOURS.length - 2);
  return COLOURS[k].map((from, c) => Math.round(from + (place - k) * (COLOURS[k + 1][c] - from)));
}

function mapOf(view) { return view.maps.find((map) => map.name === kind) || view.maps[0]; }

function valuesOf(map) {
  const bytes = Uint8Array.from(atob(map.values), (letter) => letter.charCodeAt(0));
  return Float64Array.from(bytes, (byte) => map.low + (byte / 255) * (map.high - map.low));
}

function limits(map) {
  return $("range").value === "whole" ? [0, 1] : [map.low, map.high];
}

function draw(canvas, map) {
  const [low, high] = limits(map), values = valuesOf(map);
  canvas.width = map.width; canvas.height = map.height;
  const picture = new ImageData(map.width, map.height);
  values.forEach((value, k) => {
    const [r, g, b] = colour(high > low ? (value - low) / (high - low) : 0);
    picture.data.set([r, g, b, 255], 4 * k);
  });
  canvas.getContext("2d").putImageData(picture, 0, 0);
}

function drawArrows(view, map) { // from places to where their values are read
  const arrows = map.name === "displacement" ? view.arrows || [] : []; // data written by earlier versions has none
  const path = (kind, d) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", "path");
    element.setAttribute("class", kind); element.setAttribute("d", d);
    return element;
  };
  $("arrows").replaceChildren(
    path("line", arrows.map(([y, x, toY, toX]) => `M${x} ${y}L${toX} ${toY}`).join("")),
    path("end", arrows.map(([, , toY, toX]) => `M${toX} ${toY}h0`).join("")),
  );
}

function drawScale() {
  const canvas = $("scale"), picture = new ImageData(256, 1);
  for (let k = 0; k < 256; k++) picture.data.set([...colour(k / 255), 255], 4 * k);
  canvas.getContext("2d").putImageData(picture, 0, 0);
}

function words(map) {
  const values = valuesOf(map);
  let best = 0;
  values.forEach((value, k) => { if (value > values[best]) best = k; });
  const across = Math.round(100 * ((best % map.width) + 0.5) / map.width), down = Math.round(100 * (Math.floor(best / map.width) + 0.5) / map.height);
  const gain = images[number].sites[site].maps.find((each) => each.name === "gain");
  const effect = !gain || gain === map ? "" : ` The module strengthens places by ${(100 * gain.low).toFixed(1)} to ${(100 * gain.high).toFixed(1)} %.`;
  if (map.high === map.low) return `${map.name}: ${map.low.toFixed(3)} everywhere.${effect}`;
  return `${map.name}, ${map.width} x ${map.height} places, from ${map.low.toFixed(3)} to ${map.high.toFixed(3)}; strongest ${across} % from the left and ${down} % from the top.${effect}`;
}

function rows(table, pairs, meter) {
  table.replaceChildren(...pairs.map(([name, value]) => {
    const row = document.createElement("tr");
    for (const text of [name, meter ? `${(100 * value).toFixed(1)} %` : value.toFixed(3)]) row.insertCell().textContent = text;
    if (meter) {
      const bar = document.createElement("meter");
      bar.value = value; bar.min = 0; bar.max = 1; bar.setAttribute("aria-hidden", "true");
      row.insertCell().append(bar);
    }
    return row;
  }));
}

function show() {
  const image = images[number];
  site = Math.min(site, image.sites.length - 1);
  const view = image.sites[site], map = mapOf(view), [low, high] = limits(map);
  $("image").value = number; $("before").disabled = number === 0; $("after").disabled = number === images.length - 1;
  const photo = $("photo");
  photo.onload = () => { photo.classList.toggle("small", photo.naturalWidth < 100); };
  photo.src = `data:image/png;base64,${image.png}`; photo.alt = image.name;
  $("site").max = image.sites.length - 1; $("site").value = site;
  $("site").setAttribute("aria-valuetext", view.site);
  $("site-name").textContent = view.site;
  $("kind").replaceChildren(...view.maps.map((each) => new Option(each.name, each.name, false, each === map)));
  draw($("map"), map); drawArrows(view, map);
  $("map").style.opacity = $("opacity").value / 100; $("opacity-value").textContent = `${$("opacity").value} %`;
  $("map").setAttribute("aria-label", `${view.site}: ${words(map)}`);
  $("words").textContent = words(map);
  $("low").textContent = low.toFixed(3); $("high").textContent = high.toFixed(3);
  rows($("prediction"), image.prediction, true);
  $("channels").hidden = view.strongest.length === 0; $("channel-site").textContent = view.site;
  rows($("strongest"), view.strongest.map(([k, value]) => [`channel ${k}`, value]), false);
  rows($("weakest"), view.weakest.map(([k, value]) => [`channel ${k}`, value]), false);
  const weights = view.words || []; // data written by earlier versions has none
  $("question").hidden = weights.length === 0;
  rows($("question-words"), weights, true);
  $("strip").replaceChildren(...image.sites.map((each, k) => strip(image, each, k)));
}

function strip(image, view, k) {
  const item = document.createElement("li"), button = document.createElement("button"), stage = document.createElement("div");
  const photo = new Image(), canvas = document.createElement("canvas"), map = mapOf(view);
  photo.src = `data:image/png;base64,${image.png}`; photo.alt = "";
  draw(canvas, map); canvas.style.opacity = 0.65;
  stage.className = "stage"; stage.append(photo, canvas);
  const label = document.createElement("span");
  label.textContent = `${view.site}: ${map.low.toFixed(2)} to ${map.high.toFixed(2)}`;
  button.append(stage, label); button.setAttribute("aria-pressed", k === site);
  button.onclick = () => { site = k; show(); $("strip").children[k].firstChild.focus(); };
  item.append(button);
  return item;
}

function turn(step) {
  number = Math.min(Math.max(number + step, 0), images.length - 1);
  show();
}

$("image").onchange = () => { number = Number($("image").value); show(); };
$("before").onclick = () => turn(-1);
$("after").onclick = () => turn(1);
$("site").oninput = () => { site = Number($("site").value); show(); };
$("opacity").oninput = show;
$("kind").onchange = () => { kind = $("kind").value; show(); };
$("range").onchange = show;
document.onkeydown = (event) => {
  const control = event.target.tagName;
  if (control === "SELECT" || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "ArrowLeft" && control !== "INPUT") turn(-1);
  else if (event.key === "ArrowRight" && control !== "INPUT") turn(1);
  else if (/^[1-9]$/.test(event.key) && event.key <= images[number].sites.length) { site = event.key - 1; show(); }
};
drawScale();
show();
