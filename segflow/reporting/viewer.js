// The viewer of cases: its state, its controls, and the choice of who draws.
"use strict";

segflow.HEADER = 352; // bytes of a NIfTI before its voxels

segflow.inflate = async function (text) {
  const packed = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
};

segflow.startViewer = function (root, data) {
  const DIFFERENCES = [
    [1, "only in the reference", [213, 94, 0]],
    [2, "only in the prediction", [86, 180, 233]],
    [3, "another label", [240, 228, 66]],
  ];
  const find = (name) => root.querySelector(name);
  const control = (name) => root.querySelector(`[name=${name}]`);
  const stage = find(".viewer-stage");
  const cases = new Map(data.cases.map((entry) => [entry.id, entry]));
  const colors = new Map(data.labels.map(([number, , color]) => [number, color]));
  const names = new Map(data.labels.map(([number, name]) => [number, name]));
  const ignored = data.ignored;
  const wanted = { map: null, opacity: 0.5, outline: false }; // kept from case to case
  const painters = {};
  let painter = null;
  let view = null;
  let calls = 0;

  function element(tag, content, attributes = {}) {
    const made = document.createElement(tag);
    made.append(...[content].flat());
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    return made;
  }

  const digits = (value) => (value === null || value === undefined ? "" : value.toFixed(3));
  const short = (value) => String(Number(value.toPrecision(4)));

  function listCases() {
    const list = data.cases.map((entry) => {
      const text = element("span", [entry.id, element("small", entry.rank)]);
      const button = element("button", [text, element("b", digits(entry.score))], { type: "button", role: "option" });
      button.dataset.case = entry.id;
      button.addEventListener("click", () => openCase(entry.id));
      return button;
    });
    find(".viewer-cases").replaceChildren(...list);
  }

  // ---- opening a case

  async function openCase(id) {
    const call = ++calls;
    for (const button of root.querySelectorAll(".viewer-cases button")) {
      button.setAttribute("aria-selected", String(button.dataset.case === id));
      if (button.dataset.case === id) button.scrollIntoView({ block: "nearest" });
    }
    const entry = cases.get(id);
    if (!entry || !entry.channels.length) return explain(id, entry);
    const files = {};
    for (const [name, text] of Object.entries(entry.maps)) files[name] = await segflow.inflate(text);
    const images = await Promise.all(entry.channels.map((channel) => segflow.inflate(channel.voxels)));
    if (call !== calls) return undefined; // another case was opened meanwhile
    view = { entry, imageFiles: images, maps: {}, at: entry.size.map((n) => Math.floor(n / 2)) };
    const Labels = entry.wide ? Uint16Array : Uint8Array;
    for (const [name, file] of Object.entries(files)) view.maps[name] = new Labels(file, segflow.HEADER);
    if (view.maps.reference && view.maps.prediction) view.maps.difference = difference(Labels);
    view.at = middle(view.maps.reference, entry.size) || middle(view.maps.prediction, entry.size) || view.at;
    setControls();
    useChannel(entry.color ? "color" : Math.min(data.channel, entry.channels.length - 1));
    const first = ["prediction", "reference", "none"].find((name) => name === "none" || name in view.maps);
    useMap(wanted.map in view.maps || wanted.map === "none" ? wanted.map : first);
    view.opacity = wanted.opacity;
    view.outline = wanted.outline;
    await paint();
    return undefined;
  }

  function explain(id, entry) {
    view = null;
    find(".viewer-controls").hidden = true;
    find(".viewer-title").textContent = id;
    for (const name of [".viewer-readout", ".viewer-legend", ".viewer-notes"]) find(name).textContent = "";
    const folder = (Object.entries(data.missing).find(([, ids]) => ids.includes(id)) || [])[0];
    const where = folder ? ` Its label map is in ${folder}` : "";
    const why = entry ? entry.notes.join(" ") : `This page holds no images of ${id}, to stay small.${where}`;
    show("words").textContent = why;
    root.dataset.painter = "words";
    root.dataset.shown = id;
  }

  // The axial slice where the labels are widest, counting each alike, and the row and column with most of its labels.
  function middle(labels, [nx, ny, nz]) {
    if (!labels) return null;
    const counts = new Map();
    const counted = (at) => labels[at] && labels[at] !== ignored;
    for (let at = 0; at < labels.length; at++) {
      if (!counted(at)) continue;
      if (!counts.has(labels[at])) counts.set(labels[at], new Float64Array(nz));
      counts.get(labels[at])[Math.floor(at / (nx * ny))]++;
    }
    if (!counts.size) return null;
    const shares = new Float64Array(nz);
    for (const own of counts.values()) {
      const most = Math.max(...own);
      own.forEach((count, z) => { shares[z] += count / most; });
    }
    const fullest = (array) => array.indexOf(Math.max(...array));
    const z = fullest(shares);
    const [columns, rows] = [new Float64Array(nx), new Float64Array(ny)];
    for (let at = 0; at < nx * ny; at++) {
      if (counted(z * nx * ny + at)) { columns[at % nx]++; rows[Math.floor(at / nx)]++; }
    }
    return [fullest(columns), fullest(rows), z];
  }

  function difference(Labels) {
    const { reference, prediction } = view.maps;
    return Labels.from(reference, (label, at) => {
      const other = prediction[at];
      if (label === other || label === ignored) return 0;
      return !other ? 1 : !label ? 2 : 3;
    });
  }

  // ---- drawing

  // The part of the stage with this name; the others are hidden.
  function show(name) {
    for (const part of stage.children) part.hidden = part.dataset.name !== name;
    const found = [...stage.children].find((part) => part.dataset.name === name);
    return found || stage.appendChild(element("div", [], { "data-name": name }));
  }

  async function paint() {
    const call = calls;
    const webgl = !view.entry.flat && !view.outline && segflow.hasWebgl() && !segflow.webglFailed;
    const kind = webgl ? "webgl" : "slices"; // outlines are those of each plane, which only slices have
    try {
      const part = show(kind);
      const made = webgl ? segflow.webglPainter : segflow.slicePainter;
      painters[kind] = painters[kind] || made(part, moved);
      painter = await painters[kind];
      if (call !== calls) return undefined;
      if (painter.shown === view && painter.channel === view.channel) painter.draw();
      else await painter.open(view);
      Object.assign(painter, { shown: view, channel: view.channel });
    } catch (error) {
      if (!webgl) throw error;
      segflow.webglFailed = true; // a driver that promises WebGL and fails
      return paint();
    }
    root.dataset.painter = kind;
    root.dataset.shown = view.entry.id;
    readOut();
    return undefined;
  }

  function moved(at, drawn = false) {
    if (!view || at.every((index, axis) => index === view.at[axis])) return;
    view.at = at.map((index, axis) => Math.min(view.entry.size[axis] - 1, Math.max(0, index)));
    root.querySelectorAll(".viewer-planes input").forEach((input) => { input.value = view.at[input.dataset.axis]; });
    if (!drawn) painter.draw();
    readOut();
  }

  function readOut() {
    const [nx, ny] = view.entry.size;
    const index = view.at[0] + nx * (view.at[1] + ny * view.at[2]);
    const values = view.entry.channels.map(
      (channel, k) => `${channel.name} ${short(channel.low + channel.step * bytes(k)[index])}`);
    const found = ["reference", "prediction"].filter((name) => view.maps[name]).map((name) => {
      const label = view.maps[name][index];
      return `${name}: ${label ? names.get(label) || label : "background"}`;
    });
    find(".viewer-readout").textContent = [...values, ...found].join(" · ");
  }

  const bytes = (k) => new Uint8Array(view.imageFiles[k], segflow.HEADER);

  // ---- controls

  function setControls() {
    const { entry } = view;
    const scores = Object.entries(entry.scores).map(([name, score]) => `${name} ${digits(score) || "–"}`);
    find(".viewer-title").textContent = [entry.id, entry.rank || [],
      entry.score === null ? [] : `mean Dice ${digits(entry.score)}`, scores.length > 1 && scores.length < 9 ? scores : []]
      .flat().join(" · ");
    find(".viewer-notes").textContent = entry.notes.join(" ");
    find(".viewer-controls").hidden = false;
    const maps = [...Object.keys(view.maps), "none"].map((name) => {
      const input = element("input", [], { type: "radio", name: "map", value: name });
      input.addEventListener("change", () => { wanted.map = name; useMap(name); paint(); });
      return element("label", [input, name === "none" ? "image only" : name]);
    });
    find(".viewer-maps").replaceChildren(...maps);
    const options = entry.channels.map((channel, k) => element("option", channel.name, { value: k }));
    if (entry.color) options.unshift(element("option", "colour", { value: "color" }));
    control("channel").replaceChildren(...options);
    find(".viewer-channel").hidden = options.length < 2;
    const planes = segflow.PLANES.map((plane) => {
      const input = element("input", [], { type: "range", min: 0, max: entry.size[plane.normal] - 1, name: plane.name });
      input.dataset.axis = plane.normal;
      input.value = view.at[plane.normal];
      input.addEventListener("input", () => {
        moved(view.at.map((index, axis) => (axis === plane.normal ? Number(input.value) : index)));
      });
      return element("label", [plane.name, input]);
    });
    find(".viewer-planes").replaceChildren(...(entry.flat ? [] : planes));
  }

  function useMap(name) {
    const input = [...root.querySelectorAll("[name=map]")].find((one) => one.value === name);
    if (input) input.checked = true;
    view.labels = name === "none" ? null : view.maps[name];
    view.colors = name === "difference" ? new Map(DIFFERENCES.map(([number, , color]) => [number, color])) : colors;
    const present = new Set(view.labels || []);
    const rows = name === "difference" ? DIFFERENCES : data.labels.filter(([number]) => present.has(number));
    find(".viewer-legend").replaceChildren(...rows.map(([, text, color]) => {
      const patch = element("i", []);
      patch.style.background = `rgb(${color.join(", ")})`;
      return element("span", [patch, text]);
    }));
  }

  function useChannel(choice) {
    control("channel").value = String(choice);
    const inColor = choice === "color";
    const k = inColor ? 0 : Number(choice);
    const channel = view.entry.channels[k];
    view.channel = channel;
    view.file = view.imageFiles[k];
    view.images = inColor ? [0, 1, 2].map(bytes) : [bytes(k)];
    for (const label of root.querySelectorAll(".viewer-gray")) label.hidden = inColor;
    const presets = channel.name.trim().toLowerCase() === "ct" ? Object.keys(data.windows) : [];
    control("preset").replaceChildren(...["", ...presets].map((name) => element("option", name, { value: name })));
    find(".viewer-preset").hidden = !presets.length;
    const top = channel.low + 255 * channel.step;
    for (const name of ["low", "high"]) {
      Object.assign(control(name), { min: Math.min(channel.low, channel.window[0]),
        max: Math.max(top, channel.window[1]), step: "any" });
    }
    useWindow(...channel.window);
  }

  function useWindow(low, high) {
    const gap = view.channel.step / 2;
    view.low = Math.min(low, high - gap);
    view.high = Math.max(high, low + gap);
    for (const [name, value] of [["low", low], ["high", high]]) {
      control(name).value = value;
      control(name).nextElementSibling.textContent = short(value);
    }
    const entry = Object.entries(data.windows).find(([, window]) => window[0] === low && window[1] === high);
    control("preset").value = entry ? entry[0] : "";
  }

  control("channel").addEventListener("change", (event) => { useChannel(event.target.value); paint(); });
  control("opacity").addEventListener("input", (event) => {
    view.opacity = wanted.opacity = Number(event.target.value);
    paint();
  });
  control("outline").addEventListener("change", (event) => {
    view.outline = wanted.outline = event.target.checked;
    paint();
  });
  for (const name of ["low", "high"]) {
    control(name).addEventListener("input", () => {
      useWindow(Number(control("low").value), Number(control("high").value));
      paint();
    });
  }
  control("preset").addEventListener("change", (event) => {
    if (event.target.value) useWindow(...data.windows[event.target.value]);
    paint();
  });

  listCases();
  segflow.openCase = (id) => {
    root.scrollIntoView({ block: "nearest" });
    return openCase(String(id));
  };
  if (data.cases.length) {
    const seen = new IntersectionObserver((entries) => {
      if (!entries.some((one) => one.isIntersecting)) return;
      seen.disconnect();
      if (!calls) openCase(data.cases[0].id);
    });
    seen.observe(root);
  }
};

segflow.startViewer(document.getElementById("viewer"), JSON.parse(document.getElementById("viewer-data").textContent));
