"use strict";
/* One dispute at a time. `data` is what Python wrote; `decisions` is all that a person adds, in the
 * form that `resolve` reads; everything on the screen is made from the two by draw(). */
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const COLOURS = ["#2f7de1", "#e8710a", "#1a9850", "#c2399a", "#7a5ad9", "#0aa5b5"];
const STORE = "deepseek_det decisions " + data.digest;
const ids = new Map(data.disputes.map((d, i) => [String(d.id), i]));

let decisions = {};
let history = []; // [id, the decision before, the place from which it was made]
let at = 0;
let whole = false, hidden = false, agreed = true;
let drawing = null; // {box, drag}: a box being drawn
let name = null; // class of a merged or drawn box, null for the first candidate's

const now = () => data.disputes[at];
const colourOf = (annotator) => COLOURS[Math.max(data.annotators.indexOf(annotator), 0) % COLOURS.length];
const chosenName = () => name || now().candidates[0].name;
const hull = (boxes) => [Math.min(...boxes.map((b) => b[0])), Math.min(...boxes.map((b) => b[1])),
  Math.max(...boxes.map((b) => b[2])), Math.max(...boxes.map((b) => b[3]))];
const mean = (boxes) => [0, 1, 2, 3].map((k) => boxes.reduce((s, b) => s + b[k], 0) / boxes.length);

/* ---- decisions ------------------------------------------------------------------------------ */

function save() {
  try {
    localStorage.setItem(STORE, JSON.stringify(decisions));
  } catch (error) { /* a browser that keeps nothing: the export does */ }
}

function decide(decision) {
  const id = String(now().id);
  history.push([id, decisions[id], at]);
  decisions[id] = decision;
  drawing = null;
  save();
  const open = data.disputes.findIndex((d, i) => i > at && !decisions[d.id]);
  go(open >= 0 ? open : Math.min(at + 1, data.disputes.length - 1));
  if (data.disputes.every((d) => decisions[d.id])) say("All decided. Export the decisions with E.");
}

function undo() {
  const last = history.pop();
  if (!last) return say("Nothing to undo");
  const [id, before, place] = last;
  if (before === undefined) delete decisions[id];
  else decisions[id] = before;
  save();
  go(place);
}

/* What annotator k says: its candidate, or, where it has none, that there is nothing. */
function side(k) {
  const i = now().candidates.findIndex((c) => c.annotator === data.annotators[k]);
  return i >= 0 ? { action: "accept", candidate: i } : { action: "drop" };
}

const actions = {
  keep: () => decide({ action: "accept", candidate: now().candidates.map((_, i) => i) }),
  merge() {
    const decision = { action: "merge" };
    if (new Set(now().candidates.map((c) => c.name)).size > 1 || name) decision.name = chosenName();
    decide(decision);
  },
  drop: () => decide({ action: "drop" }),
  ignore: () => decide({ action: "ignore" }),
  redraw() {
    drawing = { box: null, drag: null };
    draw();
    $("stage").focus();
  },
};
const ACTIONS = [
  ["merge", "Merge", "M", (d) => d.candidates.length > 1],
  ["keep", "Keep all", "K", (d) => d.candidates.length > 1],
  ["drop", "Drop", "D", () => true],
  ["redraw", "Redraw", "R", () => true],
  ["ignore", "Ambiguous", "I", () => true],
];

/* ---- files ---------------------------------------------------------------------------------- */

function exportText() {
  return JSON.stringify({ format: data.decisions_format, version: data.decisions_version,
    digest: data.digest, decided: Object.keys(decisions).length, of: data.disputes.length,
    decisions }, null, 1) + "\n";
}

function exportFile() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([exportText()], { type: "application/json" }));
  link.download = "decisions.json";
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  say(`${Object.keys(decisions).length} decisions exported`);
}

function importText(text) {
  let found;
  try {
    found = JSON.parse(text);
  } catch (error) {
    return say("Not a JSON file: " + error.message, true);
  }
  if (!found || found.format !== data.decisions_format || found.version !== data.decisions_version ||
      typeof found.decisions !== "object" || !found.decisions)
    return say("Not a file of decisions that this page exported", true);
  if (found.digest !== data.digest) return say("These decisions belong to other disputes", true);
  const wrong = Object.keys(found.decisions).find((id) => !ids.has(id));
  if (wrong !== undefined) return say(`There is no dispute ${wrong}`, true);
  for (const [id, decision] of Object.entries(found.decisions)) {
    history.push([id, decisions[id], at]);
    decisions[id] = decision;
  }
  save();
  say(`${Object.keys(found.decisions).length} decisions imported`);
  const open = data.disputes.findIndex((d) => !decisions[d.id]);
  go(open >= 0 ? open : at);
}

let toastTimer = 0;
function say(text, bad) {
  $("toast").textContent = text;
  $("toast").className = bad ? "bad" : "";
  $("toast").hidden = false;
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => { $("toast").hidden = true; }, bad ? 8000 : 2500);
}

/* ---- the picture ---------------------------------------------------------------------------- */

function svg(kind, attributes, text) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", kind);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

function rect(box, kind, colour) {
  const node = svg("rect", { x: box[0], y: box[1], width: box[2] - box[0], height: box[3] - box[1],
    class: kind });
  if (colour) node.style.setProperty("--c", colour);
  return node;
}

/* The part of the image that is shown: x, y, width, height in its pixels, in the stage's shape. */
function frame(image, boxes) {
  const stage = $("stage").getBoundingClientRect();
  const shape = Math.max(stage.width, 1) / Math.max(stage.height, 1);
  const [x0, y0, x1, y1] = whole ? [0, 0, image.width, image.height] : hull(boxes);
  const room = whole ? 1 : 2.6; // what is around a thing helps to tell what it is
  let w = Math.max((x1 - x0) * room, whole ? 1 : Math.min(image.width, 64));
  let h = Math.max((y1 - y0) * room, whole ? 1 : Math.min(image.height, 64));
  if (w / h < shape) w = h * shape;
  else h = w / shape;
  const place = (low, high, side, size) => side >= size ? (size - side) / 2
    : Math.min(Math.max((low + high) / 2 - side / 2, 0), size - side);
  return [place(x0, x1, w, image.width), place(y0, y1, h, image.height), w, h];
}

const shown = { box: [0, 0, 1, 1], scale: 1, image: null };

function drawView() {
  const d = now(), image = data.images[d.image], view = $("view");
  const decision = decisions[d.id];
  const [x, y, w, h] = frame(image, d.candidates.map((c) => c.xyxy));
  shown.box = [x, y, w, h];
  shown.scale = w / Math.max($("stage").clientWidth, 1);
  view.setAttribute("viewBox", `${x} ${y} ${w} ${h}`);
  if (shown.image !== d.image) {
    view.replaceChildren(svg("image", { href: image.src, x: 0, y: 0, width: image.width,
      height: image.height, preserveAspectRatio: "none" }), svg("g", { id: "boxes" }));
    shown.image = d.image;
  }
  const group = $("boxes"), parts = [];
  group.setAttribute("class", drawing ? "dim" : "");
  if (agreed) parts.push(...image.agreed.map((b) => rect(b, "agreed")), ...others(d));
  if (!hidden) {
    for (const c of d.candidates) parts.push(rect(c.xyxy, "halo"), rect(c.xyxy, "box", colourOf(c.annotator)));
    d.candidates.forEach((c, i) => parts.push(...tag(c, i)));
  }
  if (decision && decision.action === "ignore")
    parts.push(rect(decision.xyxy || hull(d.candidates.map((c) => c.xyxy)), "region"));
  if (decision && decision.action === "redraw") parts.push(rect(decision.xyxy, "halo"), rect(decision.xyxy, "drawn"));
  if (decision && decision.action === "merge") parts.push(rect(mean(d.candidates.map((c) => c.xyxy)), "drawn"));
  if (drawing && drawing.box) parts.push(rect(drawing.box, "halo"), rect(drawing.box, "drawn"));
  group.replaceChildren(...parts);
}

/* Candidates of the image's other disputes, faint: so that nobody draws an object twice. */
function others(d) {
  return data.disputes.filter((x) => x.image === d.image && x !== d).flatMap((x) =>
    x.candidates.map((c) => rect(c.xyxy, "other", colourOf(c.annotator))));
}

const ink = document.createElement("canvas").getContext("2d");
ink.font = "600 13px system-ui, sans-serif";

/* Name and class on a ground of the annotator's colour; those of one place take different corners. */
function tag(candidate, i) {
  const [x0, y0, x1, y1] = candidate.xyxy, size = 13 * shown.scale, pad = 4 * shown.scale;
  const text = `${candidate.annotator} · ${candidate.name}`;
  const width = ink.measureText(text).width * shown.scale + 2 * pad, height = size + 2 * pad;
  const [vx, vy, vw, vh] = shown.box;
  const x = Math.min(Math.max(i % 2 ? x1 - width : x0, vx), vx + vw - width);
  const y = Math.min(Math.max(i % 2 ? y1 : y0 - height, vy), vy + vh - height);
  const ground = svg("rect", { x, y, width, height, rx: 3 * shown.scale, class: "tag-ground" });
  ground.style.setProperty("--c", colourOf(candidate.annotator));
  return [ground, svg("text", { x: x + pad, y: y + height / 2 + size * 0.35, "font-size": size, class: "tag" }, text)];
}

/* ---- drawing a box -------------------------------------------------------------------------- */

function pixel(event) {
  const stage = $("stage").getBoundingClientRect(), image = data.images[now().image];
  const x = shown.box[0] + (event.clientX - stage.left) * shown.scale;
  const y = shown.box[1] + (event.clientY - stage.top) * shown.scale;
  return [Math.min(Math.max(x, 0), image.width), Math.min(Math.max(y, 0), image.height)];
}

function pointerDown(event) {
  if (!drawing || event.button) return;
  const [x, y] = pixel(event), box = drawing.box, near = 7 * shown.scale;
  drawing.drag = { from: [x, y], edges: null };
  if (box) { // close to edges: these are moved, else a new box begins
    const edges = [0, 1, 2, 3].filter((k) => Math.abs((k % 2 ? y : x) - box[k]) < near &&
      (k % 2 ? x > box[0] - near && x < box[2] + near : y > box[1] - near && y < box[3] + near));
    if (edges.length) drawing.drag.edges = edges;
  }
  $("stage").setPointerCapture(event.pointerId);
  event.preventDefault();
}

function pointerMove(event) {
  if (!drawing || !drawing.drag) return;
  const [x, y] = pixel(event), { from, edges } = drawing.drag;
  if (edges) for (const k of edges) drawing.box[k] = k % 2 ? y : x;
  else drawing.box = hull([[from[0], from[1], from[0], from[1]], [x, y, x, y]]);
  drawView();
}

function pointerUp() {
  if (!drawing || !drawing.drag) return;
  drawing.drag = null;
  if (!drawing.box) return;
  const [x0, y0, x1, y1] = drawing.box;
  drawing.box = [Math.min(x0, x1), Math.min(y0, y1), Math.max(x0, x1), Math.max(y0, y1)];
  if (drawing.box[2] - drawing.box[0] < 1 || drawing.box[3] - drawing.box[1] < 1) drawing.box = null;
  draw();
}

function finishDrawing() {
  if (!drawing || !drawing.box) return say("Draw a box first");
  decide({ action: "redraw", xyxy: drawing.box.map((v) => Math.round(v * 100) / 100), name: chosenName() });
}

/* ---- the column beside it ------------------------------------------------------------------- */

function button(text, key, press, extra) {
  const node = document.createElement("button");
  node.type = "button";
  const label = document.createElement("span");
  label.textContent = text;
  node.append(label);
  if (key) {
    const hint = document.createElement("kbd");
    hint.textContent = key;
    node.append(hint);
  }
  node.addEventListener("click", () => { press(); node.blur(); });
  if (extra) extra(node, label);
  return node;
}

const same = (x, y) => !!x && JSON.stringify(x) === JSON.stringify(y);

function drawSides() {
  const d = now(), decision = decisions[d.id];
  const sides = data.annotators.map((annotator, k) => {
    const c = d.candidates.find((x) => x.annotator === annotator), what = side(k);
    return button(c ? c.name : "nothing here", k < 3 ? "ABC"[k] : "", () => decide(what), (node, label) => {
      const who = document.createElement("small");
      who.textContent = annotator + (c && c.conf !== null ? ` ${c.conf.toFixed(2)}` : "");
      node.prepend(who);
      node.style.setProperty("--c", colourOf(annotator));
      if (!c) node.classList.add("nothing");
      if (same(decision, what)) node.classList.add("chosen");
      if (c ? d.suggestion === d.candidates.indexOf(c) : d.suggestion === "drop") node.classList.add("suggested");
    });
  });
  $("candidates").replaceChildren(...sides);
  $("actions").replaceChildren(...ACTIONS.filter((a) => a[3](d)).map(([id, text, key]) =>
    button(text, key, actions[id], (node) => {
      node.id = "do-" + id;
      const kept = decision && decision.action === "accept" && Array.isArray(decision.candidate);
      if (decision && (decision.action === id || (id === "keep" && kept))) node.classList.add("chosen");
    })));
  $("classes").replaceChildren(...data.names.map((n) => button(n, "", () => { name = n; draw(); },
    (node) => { if (n === chosenName()) node.classList.add("on"); })));
}

function drawMap() {
  if ($("map").childElementCount !== data.disputes.length)
    $("map").replaceChildren(...data.disputes.map((d, i) => button("", "", () => go(i), (node) => {
      node.title = `${d.id}: ${d.image}`;
      node.tabIndex = -1;
    })));
  [...$("map").children].forEach((node, i) => {
    node.className = (decisions[data.disputes[i].id] ? "done " : "") + (i === at ? "here" : "");
  });
  const here = $("map").children[at];
  if (here) here.scrollIntoView({ block: "nearest" });
}

function draw() {
  const total = data.disputes.length, done = Object.keys(decisions).length;
  $("count").textContent = `${done} of ${total} decided`;
  $("bar").style.width = `${total ? (100 * done) / total : 100}%`;
  if (!total) {
    $("text").textContent = "There is nothing to decide.";
    return;
  }
  const d = now(), decision = decisions[d.id];
  $("number").textContent = `${at + 1} of ${total}`;
  $("reason").textContent = d.reason;
  $("reason").title = data.reasons[d.reason] || "";
  $("state").textContent = decision ? "decided" : "";
  $("state").className = "pill" + (decision ? " done" : "");
  $("text").textContent = d.text || data.reasons[d.reason];
  $("image").textContent = d.image + (d.score === null ? "" : `, score ${d.score.toFixed(2)}`);
  $("stage").classList.toggle("draw", !!drawing);
  $("hint").hidden = !drawing;
  $("hint").textContent = drawing && drawing.box
    ? `Enter: take it as ${chosenName()} · drag an edge to move it · Esc: cancel`
    : `Drag a box around the object (${chosenName()}) · Esc: cancel`;
  drawSides();
  drawView();
  drawMap();
}

function go(i) {
  at = Math.min(Math.max(i, 0), Math.max(data.disputes.length - 1, 0));
  drawing = null;
  name = null;
  draw();
}

function nextOpen() {
  const order = [...data.disputes.keys()].map((i) => (at + 1 + i) % data.disputes.length);
  const open = order.find((i) => !decisions[data.disputes[i].id]);
  if (open === undefined) say("All decided");
  else go(open);
}

function turnClass(step) {
  const i = data.names.indexOf(chosenName());
  name = data.names[(i + step + data.names.length) % data.names.length];
  draw();
}

/* ---- keys ----------------------------------------------------------------------------------- */

const KEYS = {
  a: () => data.annotators.length > 0 && decide(side(0)),
  b: () => data.annotators.length > 1 && decide(side(1)),
  c: () => data.annotators.length > 2 && decide(side(2)),
  m: () => now().candidates.length > 1 && actions.merge(),
  k: () => now().candidates.length > 1 && actions.keep(),
  d: actions.drop, r: actions.redraw, i: actions.ignore, u: undo, n: nextOpen,
  arrowleft: () => go(at - 1), arrowright: () => go(at + 1),
  z: () => { whole = !whole; draw(); },
  h: () => { hidden = !hidden; draw(); },
  g: () => { agreed = !agreed; draw(); },
  "[": () => turnClass(-1), "]": () => turnClass(1),
  e: exportFile, o: () => $("file").click(),
};

function keyDown(event) {
  const key = event.key.toLowerCase();
  if ((event.ctrlKey || event.metaKey) && key === "z") {
    event.preventDefault();
    return undo();
  }
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (drawing && (key === "enter" || key === "escape")) {
    event.preventDefault();
    if (key === "enter") return finishDrawing();
    drawing = null;
    return draw();
  }
  if (/^[1-9]$/.test(key) && data.disputes.length && Number(key) <= now().candidates.length)
    return decide({ action: "accept", candidate: Number(key) - 1 });
  // While a box is drawn a slip must not decide: only what looks and the class go on.
  if (drawing && !"zhg[]".includes(key)) return;
  if (!Object.hasOwn(KEYS, key) || (!data.disputes.length && !"eo".includes(key))) return;
  event.preventDefault();
  KEYS[key]();
}

function start() {
  try {
    const kept = JSON.parse(localStorage.getItem(STORE) || "{}");
    decisions = Object.fromEntries(Object.entries(kept).filter(([id]) => ids.has(id)));
  } catch (error) { decisions = {}; }
  document.addEventListener("keydown", keyDown);
  const stage = $("stage");
  stage.addEventListener("pointerdown", pointerDown);
  stage.addEventListener("pointermove", pointerMove);
  stage.addEventListener("pointerup", pointerUp);
  window.addEventListener("resize", draw);
  for (const [id, press] of [["undo", undo], ["next", nextOpen], ["back", () => go(at - 1)],
    ["forward", () => go(at + 1)], ["export", exportFile], ["import", () => $("file").click()]])
    $(id).addEventListener("click", () => { press(); $(id).blur(); });
  const read = (file) => file && file.text().then(importText);
  $("file").addEventListener("change", () => { read($("file").files[0]); $("file").value = ""; });
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    read(event.dataTransfer.files[0]);
  });
  const open = data.disputes.findIndex((d) => !decisions[d.id]);
  go(open >= 0 ? open : 0);
}

start();
