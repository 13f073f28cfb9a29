"use strict";
// The page about runs: scores of cases, and curves of folds.
(() => {
  const { data, colors, number, plain, mean, epochAxis, plot, columns, table, options } = segflow;
  const one = data.runs.length === 1;
  const many = data.labels.length > 20; // then the table has one label at a time
  const MOST_POINTS = 6000; // of a chart; of more only the outliers are drawn
  const at = (id) => document.getElementById(id);

  // ------------------------------------------------------------------------------------------------ cases

  const ids = [...new Set(data.runs.flatMap((run) => run.cases))];
  const placeOf = data.runs.map((run) => new Map(run.cases.map((id, place) => [id, place])));
  let cases = null; // the table

  // The score of a case in a run; label -1 is the mean over the labels.
  function score(run, id, metric, label) {
    const place = placeOf[run].get(id);
    if (place === undefined) return NaN;
    const values = data.runs[run].scores[metric].map((ofCases) => number(ofCases[place]));
    return label < 0 ? mean(values) : values[label];
  }

  function boxes() {
    const { key, name } = data.metrics[at("metric").value];
    let infinite = 0;
    const points = ids.length * (data.labels.length + 1) * data.runs.length;
    const trace = (run, labels, title, color) => {
      const all = labels.flatMap((label) => data.runs[run].cases.map((id) => [label, id, score(run, id, key, label)]));
      infinite += all.filter(([, , value]) => Math.abs(value) === Infinity).length;
      const finite = all.filter(([, , value]) => Number.isFinite(value));
      return {
        type: "box", name: plain(title), x: finite.map(([label]) => plain(label < 0 ? "mean" : data.labels[label].name)),
        y: finite.map(([, , value]) => value), customdata: finite.map(([, id]) => id),
        text: finite.map(([, id]) => plain(id)), hovertemplate: "%{text}<br>%{y:.4g}<extra></extra>",
        boxpoints: points > MOST_POINTS ? "outliers" : "all", jitter: 0.5, pointpos: 0, hoveron: "points", line: { width: 1.2 },
        marker: { color, size: 5, opacity: 0.75 }, unselected: { marker: { opacity: 0.3 } },
        selected: { marker: { size: 11, opacity: 1 } },
      };
    };
    const all = data.labels.map((_, label) => label).concat(data.labels.length > 1 ? [-1] : []);
    const traces = one
      ? all.map((label) => trace(0, [label], label < 0 ? "mean" : data.labels[label].name, label < 0 ? "#8a8f98" : data.labels[label].color))
      : data.runs.map((run, place) => trace(place, all, run.name, colors[place % colors.length]));
    at("left-out").textContent = [
      infinite ? `${infinite} infinite values are not drawn.` : "",
      points > MOST_POINTS ? "Of so many points only the outliers are drawn." : "",
    ].join(" ");
    plot(at("boxes"), traces, { yaxis: { title: { text: plain(name) } }, boxmode: one ? "overlay" : "group", showlegend: !one });
  }

  const tableColumns = () => {
    const numbers = one && many
      ? [{ title: "label", field: "l", numeric: true }, { title: "mean", field: "l-1", numeric: true }]
      : one
      ? [...data.labels.map(({ name }, label) => [name, label]), ...(data.labels.length > 1 ? [["mean", -1]] : [])]
          .map(([title, label]) => ({ title, field: `l${label}`, numeric: true }))
      : data.runs.flatMap(({ name }, run) => [
          { title: name, field: `r${run}`, numeric: true },
          ...(run ? [{ title: `minus ${data.runs[0].name}`, field: `d${run}`, numeric: true }] : []),
        ]);
    return [{ title: "case", field: "id", share: 2 }, ...(one ? [{ title: "fold", field: "fold" }] : []), ...numbers];
  };

  function tableRows() {
    const { key } = data.metrics[at("metric").value];
    const chosen = Number(at("label").value);
    return ids.map((id) => {
      const row = { id };
      if (one) {
        row.fold = data.runs[0].fold[placeOf[0].get(id)];
        [-1, ...(many ? [] : data.labels.keys())].forEach((label) => { row[`l${label}`] = score(0, id, key, label); });
        row.l = score(0, id, key, chosen);
      } else {
        data.runs.forEach((_, run) => {
          row[`r${run}`] = score(run, id, key, chosen);
          row[`d${run}`] = row[`r${run}`] - row.r0;
        });
      }
      return row;
    });
  }

  // Mark a case everywhere, and open it in the viewer if there is one.
  function choose(id) {
    const marked = at("boxes").data.map(({ customdata }) => [...customdata.keys()].filter((place) => customdata[place] === id));
    Plotly.restyle(at("boxes"), { selectedpoints: marked });
    cases.deselectRow();
    cases.selectRow(id);
    cases.scrollToRow(id, "center", false).catch(() => {}); // it may be filtered out
    if (segflow.openCase) segflow.openCase(id);
  }

  if (at("cases")) {
    options(at("metric"), data.metrics.map(({ name }) => name));
    options(at("label"), ["mean", ...data.labels.map(({ name }) => name)]);
    [...at("label").options].forEach((option, place) => { option.value = place - 1; });
    at("of-label").hidden = (one && !many) || data.labels.length < 2;
    boxes();
    const last = one ? (data.labels.length > 1 ? "l-1" : "l0") : "d1";
    cases = table(at("case-table"), tableColumns(), tableRows(), ({ id }) => choose(id), {
      initialSort: [{ column: last, dir: data.metrics[0].lower ? "desc" : "asc" }],
    });
    at("boxes").on("plotly_click", ({ points }) => choose(points[0].customdata));
    at("metric").addEventListener("change", () => {
      boxes();
      // What was typed was meant for the former metric.
      tableColumns().filter(({ numeric }) => numeric).forEach(({ field }) => cases.setHeaderFilterValue(field, ""));
      cases.replaceData(tableRows());
    });
    at("label").addEventListener("change", () => cases.replaceData(tableRows()));
  }

  // ------------------------------------------------------------------------------------------------ curves

  const folds = data.runs.flatMap((run, place) =>
    Object.entries(run.curves).map(([fold, curves]) => ({
      curves, place, name: one ? `fold ${fold}` : `${run.name}, fold ${fold}`, group: one ? fold : run.name,
    })));
  const tags = [...new Set(folds.flatMap(({ curves }) => Object.keys(curves)))];
  const dice = tags.filter((tag) => tag.startsWith("val/dice"));
  const volumes = tags.filter((tag) => tag.startsWith("val_volume/"));
  const memory = tags.filter((tag) => tag.startsWith("memory/"));
  const charts = [
    { title: "Loss", hint: "solid: training, dashed: validation", tags: ["train/loss", "val/loss"] },
    { title: "Dice of validation patches", choices: dice, first: "val/dice_ema", range: [0, 1] },
    { title: "Dice of whole validation cases", choices: volumes, first: "val_volume/dice_mean", range: [0, 1] },
    { title: "Learning rate", tags: ["lr"] },
    { title: "Time per epoch", hint: "seconds", tags: ["time/epoch"], zero: true },
    { title: "Time per step", hint: "seconds; solid: computing, dashed: waiting for data", tags: ["time/compute", "time/data_wait"], zero: true },
    { title: "Memory", hint: "GiB", choices: memory, zero: true },
    { title: "Others", choices: tags.filter((tag) => ![...dice, ...volumes, ...memory, "train/loss", "val/loss", "lr"].includes(tag) && !tag.startsWith("time/")) },
  ];

  // The moving average that TensorBoard shows, which is not drawn towards its first value.
  function smoothed(values, weight) {
    let [sum, share] = [0, 0];
    return values.map((value) => {
      if (!Number.isFinite(value)) return value;
      sum = sum * weight + (1 - weight) * value;
      share = share * weight + (1 - weight);
      return sum / share;
    });
  }

  function draw({ element, select, tags: fixed, range, zero }) {
    const weight = Number(at("smoothing").value);
    const wanted = select ? [select.value] : fixed;
    const lines = folds.flatMap(({ curves, place, name, group }, fold) => wanted.filter((tag) => curves[tag]).flatMap((tag, kind) => {
      const values = curves[tag].map(number);
      const line = {
        type: "scatter", mode: values.length < 2 ? "markers" : "lines", legendgroup: group, name: plain(one ? name : group),
        x: values.map((_, epoch) => epoch), line: { color: colors[(one ? fold : place) % colors.length], width: 1.6, dash: kind ? "dash" : "solid" },
        hovertemplate: `${plain(name)}, ${plain(tag)}<br>epoch %{x}: %{y:.4g}<extra></extra>`,
      };
      const first = kind === 0 && folds.findIndex((other) => other.group === group) === fold;
      const raw = { ...line, y: values, opacity: 0.25, showlegend: false, hoverinfo: "skip", hovertemplate: undefined };
      return [...(weight ? [raw] : []), { ...line, y: smoothed(values, weight), showlegend: first && folds.length > 1 }];
    }));
    plot(element, lines, {
      xaxis: epochAxis(Math.max(...lines.map(({ x }) => x.length))), legend: { orientation: "h", y: -0.25 },
      yaxis: { ...(range ? { range } : {}), ...(zero ? { rangemode: "tozero" } : {}) },
    });
  }

  if (at("training")) {
    const shownCharts = charts.filter((chart) => (chart.choices ?? chart.tags).some((tag) => tags.includes(tag)));
    for (const chart of shownCharts) {
      const [panel, title, hint] = ["div", "h3", "span"].map((kind) => document.createElement(kind));
      title.textContent = `${chart.title} `;
      hint.textContent = chart.hint ?? "";
      title.append(hint);
      if (chart.choices?.length > 1) {
        chart.select = document.createElement("select");
        chart.select.replaceChildren(...chart.choices.map((tag) => new Option(tag, tag, false, tag === chart.first)));
        chart.select.addEventListener("change", () => draw(chart));
        title.append(chart.select);
      } else if (chart.choices) chart.tags = chart.choices;
      chart.element = document.createElement("div");
      chart.element.className = "chart";
      panel.append(title, chart.element);
      at("curves").append(panel);
    }
    shownCharts.forEach(draw); // once all panels have their widths
    at("smoothing").addEventListener("input", () => {
      at("smoothing-value").textContent = at("smoothing").value;
      shownCharts.forEach(draw);
    });
  }
})();
