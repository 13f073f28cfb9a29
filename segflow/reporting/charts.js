"use strict";
// What charts and tables of every page share. A name from a file is shown as text, never as HTML.
window.segflow = (() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const colors = ["#3b82c4", "#e07b39", "#3fa66b", "#c94f7c", "#8a6fd1", "#b59a2c", "#47a5b5", "#8a8f98"];
  const drawn = new Map(); // element → [traces, layout], to draw again in other colours

  // A number of the data: null stands for NaN, and "inf" for infinity.
  const number = (value) => (value === null ? NaN : value === "inf" ? Infinity : value === "-inf" ? -Infinity : value);

  // An axis of epochs: whole numbers, also where there are few.
  const epochAxis = (count) => ({ title: { text: "epoch", standoff: 4 }, ...(count <= 10 ? { tick0: 0, dtick: 1 } : {}) });

  // A logarithmic axis. Over a short range Plotly would write 2, 5 for 20, 50.
  function logAxis(values) {
    const powers = values.filter((value) => value > 0 && Number.isFinite(value)).map((value) => Math.floor(Math.log10(value)));
    if (!powers.length) return { type: "log" };
    const [least, most] = powers.reduce(([low, high], power) => [Math.min(low, power), Math.max(high, power)], [Infinity, -Infinity]);
    const steps = most - least > 3 ? [1] : most - least > 1 ? [1, 2, 5] : [1, 1.5, 2, 3, 4, 5, 6, 8];
    const ticks = [];
    for (let power = least; power <= most + 1; power++) steps.forEach((step) => ticks.push(Number((step * 10 ** power).toPrecision(2))));
    return { type: "log", tickmode: "array", tickvals: ticks, ticktext: ticks.map((tick) => (tick < 1e-3 || tick >= 1e6 ? tick.toExponential() : String(tick))) };
  }

  // A text as Plotly shows it, which takes some tags for HTML.
  const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

  const shown = (value) => {
    if (value === undefined || Number.isNaN(value)) return "–";
    if (!Number.isFinite(value)) return value > 0 ? "inf" : "-inf";
    return Number.isInteger(value) && Math.abs(value) > 1 ? String(value) : value.toPrecision(Math.abs(value) < 1 ? 3 : 4);
  };

  const mean = (values) => {
    const known = values.filter((value) => !Number.isNaN(value));
    return known.length ? known.reduce((sum, value) => sum + value, 0) / known.length : NaN;
  };

  function themed(layout) {
    const style = getComputedStyle(document.documentElement);
    const [text, line] = ["--text", "--line"].map((name) => style.getPropertyValue(name).trim());
    const axis = { gridcolor: line, zerolinecolor: line, linecolor: line, automargin: true };
    const all = {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: text, size: 12 },
      margin: { l: 50, r: 10, t: 10, b: 35 }, hovermode: "closest", legend: { orientation: "h", y: -0.15 }, ...layout,
    };
    for (const name of ["xaxis", "yaxis"]) all[name] = { ...axis, ...layout[name] };
    return all;
  }

  // Draw a chart, or change one that is there.
  function plot(element, traces, layout) {
    drawn.set(element, [traces, layout]);
    return Plotly.react(element, traces, themed(layout), {
      displaylogo: false, responsive: true, modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
    });
  }

  const again = () => drawn.forEach(([traces, layout], element) => Plotly.react(element, traces, themed(layout)));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
  matchMedia("print").addEventListener("change", () => {
    again();
    drawn.forEach((_, element) => Plotly.Plots.resize(element));
  });

  // "0.8" and ">0.8" keep larger values, "<0.8" smaller ones.
  function passes(typed, value) {
    const match = /^\s*([<>]?)=?\s*(-?[\d.]+(?:e-?\d+)?)\s*$/.exec(typed);
    if (!match) return true;
    return match[1] === "<" ? value <= Number(match[2]) : value >= Number(match[2]);
  }

  // Undefined values stand at the end, whatever the direction.
  function byNumber(a, b, _a, _b, _column, direction) {
    if (Number.isNaN(a) || Number.isNaN(b)) return (Number.isNaN(a) - Number.isNaN(b)) * (direction === "asc" ? 1 : -1);
    return a === b ? 0 : a < b ? -1 : 1;
  }

  // Names of cases often differ at their end only, so that a column of texts is as wide as they are, within limits.
  const widthOf = (rows, field) => rows.reduce((width, row) => Math.max(width, Math.min(320, 20 + 7.5 * String(row[field] ?? "").length)), 90);

  // Columns of a table: [{title, field, numeric, share of the width}]; every cell and title is shown as text.
  function columns(wanted, rows = []) {
    return wanted.map(({ title, field, numeric, share = 1 }) => ({
      title, field, widthGrow: share, ...(numeric ? {} : { minWidth: widthOf(rows, field) }), hozAlign: numeric ? "right" : "left", headerHozAlign: numeric ? "right" : "left",
      titleFormatter: (cell) => document.createTextNode(cell.getValue()),
      formatter: (cell) => document.createTextNode(numeric ? shown(cell.getValue()) : cell.getValue()),
      sorter: numeric ? byNumber : "string", headerFilter: "input",
      headerFilterPlaceholder: numeric ? "<0.8" : "contains",
      ...(numeric ? { headerFilterFunc: passes } : {}),
    }));
  }

  // A table that sorts and filters. `clicked` is called with the data of a row.
  function table(element, wanted, rows, clicked, options = {}) {
    const made = new Tabulator(element, {
      data: rows, columns: columns(wanted, rows), layout: "fitColumns", maxHeight: "26rem", index: "id",
      nestedFieldSeparator: false, selectableRows: 1, columnDefaults: { minWidth: 90, resizable: "header" }, placeholder: "no case", ...options,
    });
    made.on("rowClick", (_event, row) => clicked(row.getData()));
    // Tabulator draws the rows anew whenever the table comes into sight, for tables that were hidden. Here none is, and
    // a click is lost if that happens between its press and its release.
    made.on("tableBuilt", () => made.modules.resizeTable.visibilityObserver?.disconnect());
    return made;
  }

  const options = (select, names) => {
    select.replaceChildren(...names.map((name, index) => new Option(name, index)));
    return select;
  };

  return { data, colors, number, plain, shown, mean, epochAxis, logAxis, plot, columns, table, options };
})();
