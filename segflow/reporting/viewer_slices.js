// Draws slices of a case in three planes on plain canvases, where there is no WebGL and for flat images.
// Arrays are indexed x + nx * (y + ny * z); x grows to the patient's left, y to the back, z to the head.
"use strict";
window.segflow = window.segflow || {};

segflow.PLANES = [
  { name: "axial", normal: 2, across: 0, down: 1, upwards: false, letters: ["R", "L", "A", "P"] },
  { name: "coronal", normal: 1, across: 0, down: 2, upwards: true, letters: ["R", "L", "S", "I"] },
  { name: "sagittal", normal: 0, across: 1, down: 2, upwards: true, letters: ["A", "P", "S", "I"] },
];

// Places of the planes beside each other, all in one scale (pixels per mm), in pixels.
segflow.layOut = function (frame, entry) {
  const TALLEST = 440;
  const GAP = 6;
  const length = (axis) => entry.size[axis] * entry.spacing[axis];
  const shown = segflow.PLANES.filter((plane) => plane.name === "axial" || !entry.flat);
  const wide = shown.reduce((sum, plane) => sum + length(plane.across), 0);
  const high = Math.max(...shown.map((plane) => length(plane.down)));
  const scale = Math.min(Math.max(frame.clientWidth - GAP * (shown.length + 1), 60) / wide, TALLEST / high);
  const height = Math.ceil(high * scale);
  let left = 0;
  const planes = shown.map((plane) => {
    const size = { width: Math.max(1, length(plane.across) * scale), height: Math.max(1, length(plane.down) * scale) };
    const place = { ...plane, ...size, left, top: (height - size.height) / 2 };
    left += size.width + GAP;
    return place;
  });
  return { width: left - GAP, height, scale, planes };
};

segflow.slicePainter = function (stage, moved) {
  let view = null;
  let planes = [];

  function open(newView) {
    view = newView;
    stage.replaceChildren();
    planes = segflow.layOut(stage.parentElement, view.entry).planes.map((plane) => {
      const box = document.createElement("div");
      box.className = "viewer-plane";
      box.title = view.entry.flat ? "" : plane.name;
      const canvas = document.createElement("canvas");
      canvas.width = view.entry.size[plane.across];
      canvas.height = view.entry.size[plane.down];
      box.append(canvas);
      const lines = ["across", "down"].map((name) => box.appendChild(mark("i", name)));
      for (const line of lines) line.hidden = view.entry.flat;
      if (view.entry.oriented && !view.entry.flat) {
        ["left", "right", "top", "bottom"].forEach((side, number) => {
          box.appendChild(mark("b", side)).textContent = plane.letters[number];
        });
      }
      listen(box, plane);
      stage.append(box);
      return { ...plane, box, canvas, lines };
    });
    fit();
    draw();
  }

  function mark(tag, name) {
    const element = document.createElement(tag);
    element.className = name;
    return element;
  }

  function fit() {
    if (!view) return;
    const layout = segflow.layOut(stage.parentElement, view.entry);
    stage.style.width = layout.width + "px";
    stage.style.height = layout.height + "px";
    layout.planes.forEach((place, number) => {
      for (const side of ["left", "top", "width", "height"]) planes[number].box.style[side] = place[side] + "px";
    });
  }

  function listen(box, plane) {
    const go = (event) => {
      const frame = box.getBoundingClientRect();
      const share = [(event.clientX - frame.left) / frame.width, (event.clientY - frame.top) / frame.height];
      if (plane.upwards) share[1] = 1 - share[1];
      const at = [...view.at];
      [plane.across, plane.down].forEach((axis, number) => {
        const size = view.entry.size[axis];
        at[axis] = Math.min(size - 1, Math.max(0, Math.floor(share[number] * size)));
      });
      moved(at);
    };
    box.addEventListener("pointerdown", (event) => { box.setPointerCapture(event.pointerId); go(event); });
    box.addEventListener("pointermove", (event) => { if (event.buttons || view.entry.flat) go(event); });
    box.addEventListener("wheel", (event) => {
      event.preventDefault();
      const at = [...view.at];
      const next = at[plane.normal] + (event.deltaY < 0 ? 1 : -1);
      at[plane.normal] = Math.min(view.entry.size[plane.normal] - 1, Math.max(0, next));
      moved(at);
    }, { passive: false });
  }

  function draw() {
    for (const plane of planes) {
      paint(plane);
      const share = [view.at[plane.across], view.at[plane.down]].map(
        (index, number) => (index + 0.5) / view.entry.size[number ? plane.down : plane.across]);
      plane.lines[0].style.top = 100 * (plane.upwards ? 1 - share[1] : share[1]) + "%";
      plane.lines[1].style.left = 100 * share[0] + "%";
    }
  }

  function paint(plane) {
    const [nx, ny] = view.entry.size;
    const steps = [1, nx, nx * ny];
    const [wide, high] = [plane.canvas.width, plane.canvas.height];
    const picture = plane.canvas.getContext("2d").createImageData(wide, high);
    const first = view.at[plane.normal] * steps[plane.normal];
    const [right, below] = [steps[plane.across], steps[plane.down]];
    const gray = grays();
    const { labels, colors, opacity, outline } = view;
    for (let row = 0; row < high; row++) {
      const line = first + (plane.upwards ? high - 1 - row : row) * below;
      for (let column = 0; column < wide; column++) {
        const index = line + column * right;
        const pixel = 4 * (row * wide + column);
        let color = gray.length === 1
          ? gray[0][view.images[0][index]]
          : [0, 1, 2].map((k) => gray[k][view.images[k][index]]);
        if (gray.length === 1) color = [color, color, color];
        const label = labels ? labels[index] : 0;
        const edge = label && outline && (
          column === 0 || column === wide - 1 || row === 0 || row === high - 1 ||
          labels[index - right] !== label || labels[index + right] !== label ||
          labels[index - below] !== label || labels[index + below] !== label);
        const share = label && (!outline || edge) ? (outline ? 1 : opacity) : 0;
        const over = share ? colors.get(label) || [255, 255, 255] : color;
        for (let k = 0; k < 3; k++) picture.data[pixel + k] = (1 - share) * color[k] + share * over[k];
        picture.data[pixel + 3] = 255;
      }
    }
    plane.canvas.getContext("2d").putImageData(picture, 0, 0);
  }

  // Stored value -> brightness, for each image that is drawn.
  function grays() {
    if (view.images.length > 1) return view.images.map(() => Uint8ClampedArray.from({ length: 256 }, (_, n) => n));
    const { low, step } = view.channel;
    const width = Math.max(view.high - view.low, 1e-9);
    return [Uint8ClampedArray.from({ length: 256 }, (_, n) => 255 * (low + n * step - view.low) / width)];
  }

  new ResizeObserver(fit).observe(stage.parentElement);
  return { open, draw };
};
