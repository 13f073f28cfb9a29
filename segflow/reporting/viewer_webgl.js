// Draws a case with NiiVue, which needs WebGL 2.
"use strict";

segflow.hasWebgl = function () {
  try {
    return Boolean(document.createElement("canvas").getContext("webgl2"));
  } catch {
    return false;
  }
};

segflow.webglPainter = async function (stage, moved) {
  if (!window.niivue) {
    const script = document.createElement("script");
    script.textContent = new TextDecoder().decode(
      await segflow.inflate(document.getElementById("viewer-library").textContent));
    document.head.append(script);
  }
  const { Niivue, NVImage } = window.niivue;
  const canvas = stage.appendChild(document.createElement("canvas"));
  const nv = new Niivue({
    logLevel: "error", loadingText: "", dragAndDropEnabled: false, backColor: [0, 0, 0, 1], fontColor: [1, 1, 1, 1],
    crosshairColor: [1, 0.82, 0.29, 0.7], crosshairWidthUnit: "mm", dragMode: 3,
    viewModeHotKey: "", clipPlaneHotKey: "", cycleClipPlaneHotKey: "",
    isRadiologicalConvention: true, sagittalNoseLeft: true, showAllOrientationMarkers: true,
    isForceMouseClickToVoxelCenters: true,
  });
  await nv.attachToCanvas(canvas);
  // NiiVue counts x from the left and y from the back.
  const turned = ([x, y, z]) => [view.entry.size[0] - 1 - x, view.entry.size[1] - 1 - y, z];
  nv.onLocationChange = (location) => { if (view) moved(turned(location.vox), true); };
  const SLICES = { axial: 0, coronal: 1, sagittal: 2 }; // NiiVue's numbers
  let view = null;
  let drawn = {};

  async function open(newView) {
    view = newView;
    for (const volume of [...nv.volumes]) nv.removeVolume(volume);
    nv.opts.isOrientationTextVisible = view.entry.oriented;
    nv.addVolume(await NVImage.loadFromUrl({
      url: view.file.slice(0), name: "image.nii", cal_min: view.low, cal_max: view.high }));
    nv.addVolume(await NVImage.loadFromUrl({ url: colored(), name: "labels.nii" }));
    drawn = {};
    fit();
    draw();
  }

  // A NIfTI with the header of the image and a colour for each voxel, transparent where there is no label.
  function colored() {
    const [nx, ny, nz] = view.entry.size;
    const file = new Uint8Array(segflow.HEADER + 4 * nx * ny * nz);
    file.set(new Uint8Array(view.file, 0, segflow.HEADER));
    const header = new DataView(file.buffer);
    header.setInt16(70, 2304, true); // the type: red, green, blue, alpha
    header.setInt16(72, 32, true); // bits of a voxel
    return file.buffer;
  }

  function paintLabels(voxels) {
    const words = new Uint32Array(voxels.length / 4); // little-endian, as all that browsers run on
    if (view.labels) {
      const lookup = new Uint32Array(65536).fill(0xffffffff);
      lookup[0] = 0;
      for (const [number, [r, g, b]] of view.colors) lookup[number] = (0xff000000 | (b << 16) | (g << 8) | r) >>> 0;
      for (let at = 0; at < words.length; at++) words[at] = lookup[view.labels[at]];
    }
    voxels.set(new Uint8Array(words.buffer));
  }

  function fit() {
    if (!view) return;
    const layout = segflow.layOut(stage.parentElement, view.entry);
    stage.style.width = layout.width + "px";
    stage.style.height = layout.height + "px";
    nv.opts.crosshairWidth = 1.2 / layout.scale;
    nv.setCustomLayout(layout.planes.map((plane) => ({
      sliceType: SLICES[plane.name],
      position: [plane.left / layout.width, plane.top / layout.height,
        plane.width / layout.width, plane.height / layout.height],
    })));
  }

  function draw() {
    const [image, overlay] = nv.volumes;
    const { low, high, labels, colors, opacity } = view;
    const wanted = { low, high, labels, colors, opacity };
    if (Object.keys(wanted).some((key) => wanted[key] !== drawn[key])) {
      if (labels !== drawn.labels || colors !== drawn.colors) paintLabels(overlay.img);
      image.cal_min = low;
      image.cal_max = high;
      overlay.opacity = opacity;
      nv.updateGLVolume();
      nv.opts.isNearestInterpolation = true; // for the labels alone: their edges stay sharp
      nv.updateInterpolation(1);
      nv.opts.isNearestInterpolation = false;
      drawn = wanted;
    }
    nv.scene.crosshairPos = nv.vox2frac(turned(view.at));
    nv.drawScene();
  }

  new ResizeObserver(fit).observe(stage.parentElement);
  return { open, draw };
};
