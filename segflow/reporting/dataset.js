"use strict";
// The page about a raw dataset: findings, distributions and cases.
(() => {
  const MANY = 20000; // points that a chart can draw; of more, only those outside the whiskers are drawn
  const { data, colors, number, plain, logAxis, plot, table, options } = segflow;
  const at = (id) => document.getElementById(id);
  const text = (title, field) => ({ title, field });
  const value = (title, field) => ({ title, field, numeric: true });

  const rows = data.cases.map((row) => Object.fromEntries(
    Object.entries(row).map(([name, entry]) => [name, entry === null ? NaN : entry])));
  const cases = table(at("case-table"), [
    text("case", "id"), text("found", "state"), text("size (z, y, x)", "size"), text("spacing (mm)", "spacing"),
    text("axes", "axes"), text("labels in it", "labels"), ...data.columns,
  ], rows, ({ id }) => choose(id));

  const numbered = (entries) => entries.map((entry, id) => ({ ...entry, id }));
  if (data.outliers.length) {
    const headings = [text("case", "cases"), text("quantity", "quantity"), value("value", "value"), text("others", "usual")];
    table(at("outlier-table"), headings, numbered(data.outliers), (row) => choose(row.case));
  }

  function draw() {
    const { boxes, log } = data.charts[at("chart").value];
    const points = boxes.reduce((sum, box) => sum + Object.keys(box.values).length, 0);
    const traces = boxes.map(({ name, color, values }, place) => ({
      type: "box", name: plain(name), x: Object.keys(values).map(() => plain(name)), y: Object.values(values).map(number),
      customdata: Object.keys(values), text: Object.keys(values).map(plain), hovertemplate: "%{text}<br>%{y:.4g}<extra></extra>",
      boxpoints: points > MANY ? "outliers" : "all", jitter: 0.5, pointpos: 0, hoveron: "points", line: { width: 1.2 },
      marker: { color: color || colors[place % colors.length], size: 5, opacity: 0.75 },
      selected: { marker: { size: 11, opacity: 1 } }, unselected: { marker: { opacity: 0.3 } },
    }));
    plot(at("boxes"), traces, { yaxis: log ? logAxis(traces.flatMap(({ y }) => y)) : { type: "linear" }, boxmode: "overlay", showlegend: false });
  }

  // Mark a case everywhere, and open it in the viewer.
  function choose(id) {
    if (data.charts.length) {
      const marked = at("boxes").data.map(({ customdata }) => [...customdata.keys()].filter((place) => customdata[place] === id));
      Plotly.restyle(at("boxes"), { selectedpoints: marked });
    }
    cases.deselectRow();
    cases.selectRow(id);
    cases.scrollToRow(id, "center", false).catch(() => {}); // it may be filtered out
    segflow.openCase(id);
  }

  if (data.charts.length) {
    options(at("chart"), data.charts.map(({ name }) => name)).addEventListener("change", draw);
    draw();
    at("boxes").on("plotly_click", ({ points }) => choose(points[0].customdata));
  } else at("distributions").hidden = true;
  document.querySelectorAll(".mosaic button, #findings a[data-case]").forEach((link) => {
    link.addEventListener("click", () => choose(link.dataset.case));
  });
})();
