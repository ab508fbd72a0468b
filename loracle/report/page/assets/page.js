"use strict";
const report = (() => {
  const root = document.documentElement;
  const charts = JSON.parse(document.getElementById("charts").textContent);
  const ready = new Set();
  const chosen = {};
  const altered = {}; // by chart: what makes of it the one that is drawn
  let kept = null; // numbers of the trials that a brush keeps; null: all
  let filter = () => {};

  // -- colours: charts name the page's variables ------------------------------------------------------

  const coloured = (part, style) => {
    if (typeof part === "string") {
      const name = /^var\((--[a-z0-9-]+)\)$/.exec(part);
      return name ? style.getPropertyValue(name[1]).trim() : part;
    }
    if (Array.isArray(part)) return part.map((one) => coloured(one, style));
    if (part && typeof part === "object") {
      return Object.fromEntries(Object.entries(part).map(([key, one]) => [key, coloured(one, style)]));
    }
    return part;
  };

  const draw = (name) => {
    const place = document.getElementById(name);
    const style = getComputedStyle(root);
    const found = coloured(altered[name] ? altered[name](charts[name]) : charts[name], style);
    const ink = style.getPropertyValue("--ink").trim();
    const paper = style.getPropertyValue("--paper").trim();
    const choice = found.choices && found.choices[chosen[name] || 0];
    const data = found.data.map((trace, i) => (choice ? { ...trace, x: choice.x[i] } : trace));
    const layout = {
      ...found.layout,
      autosize: true,
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: ink },
      hoverlabel: { bgcolor: paper, bordercolor: style.getPropertyValue("--rule").trim(), font: { color: ink }, align: "left" },
    };
    if (found.narrow && place.clientWidth < 640) layout.xaxis = { ...layout.xaxis, ...found.narrow };
    if (choice) layout.xaxis = { ...layout.xaxis, title: { ...layout.xaxis.title, text: choice.title }, dtick: choice.dtick };
    layout.xaxis = { ...layout.xaxis, title: { ...layout.xaxis.title, text: broken(layout.xaxis.title.text, place.clientWidth / 8) } };
    place.querySelector("noscript")?.remove();
    if (!window.Plotly) loadLibrary();
    Plotly.react(place, data, layout, { responsive: true, displayModeBar: false, showTips: false });
    if (found.choices && !ready.has(name)) addChoices(place, name, found.choices);
    ready.add(name);
  };

  const loadLibrary = () => { // a second of a slow machine, which a page without a chart in sight does not need
    const script = document.createElement("script");
    script.textContent = document.getElementById("library").textContent;
    document.head.append(script);
  };

  const broken = (text, longest) => {
    let line = 0; // a title in lines that fit
    return text.split(" ").map((word, i) => {
      const fits = i === 0 || line + word.length < longest;
      line = fits ? line + word.length + 1 : word.length;
      return i === 0 ? word : (fits ? " " : "<br>") + word;
    }).join("");
  };

  const addChoices = (place, name, choices) => {
    const row = document.createElement("div");
    row.className = "choices";
    row.setAttribute("role", "group");
    row.setAttribute("aria-label", "Horizontal axis");
    const buttons = choices.map((choice, i) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = choice.name;
      button.setAttribute("aria-pressed", String(i === 0));
      button.addEventListener("click", () => {
        chosen[name] = i;
        buttons.forEach((one, j) => one.setAttribute("aria-pressed", String(i === j)));
        draw(name);
      });
      row.append(button);
      return button;
    });
    place.before(row);
  };

  const drawAll = () => Object.keys(charts).forEach(draw);

  // -- each chart is drawn when it comes near, so that the page opens at once -------------------------

  const watcher = new IntersectionObserver(
    (entries) => {
      for (const entry of entries) {
        if (entry.isIntersecting) {
          watcher.unobserve(entry.target);
          if (!ready.has(entry.target.id)) draw(entry.target.id);
        }
      }
    },
    { rootMargin: "300px" },
  );
  Object.keys(charts).forEach((name) => watcher.observe(document.getElementById(name)));

  // -- light and dark ---------------------------------------------------------------------------------

  const system = matchMedia("(prefers-color-scheme: dark)");
  const button = document.getElementById("theme");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const shown = () => {
    button.textContent = isDark() ? "Light" : "Dark";
    [...ready].forEach(draw);
  };
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    shown();
  });
  system.addEventListener("change", shown);
  shown();

  let before;
  addEventListener("beforeprint", () => {
    before = root.dataset.theme;
    root.dataset.theme = "light";
    drawAll();
  });
  addEventListener("afterprint", () => {
    if (before) root.dataset.theme = before;
    else delete root.dataset.theme;
    shown();
  });

  // -- trials: sorted and filtered --------------------------------------------------------------------

  const table = document.getElementById("trials-table");
  if (table) {
    const body = table.tBodies[0];
    const rows = [...body.rows];
    const heads = [...table.tHead.rows[0].cells];
    const key = (row, column, kind) => {
      const cell = row.cells[column];
      if (kind === "text") return cell.textContent.trim();
      const value = cell.dataset.value;
      return value === "" ? null : Number(value);
    };
    heads.forEach((head, column) => {
      const kind = head.firstChild.dataset.kind;
      head.firstChild.addEventListener("click", () => {
        const up = head.getAttribute("aria-sort") !== "ascending";
        heads.forEach((one) => one.setAttribute("aria-sort", "none"));
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        const sorted = rows
          .map((row) => [key(row, column, kind), row])
          .sort(([a], [b]) => {
            if (a === null || a === "") return b === null || b === "" ? 0 : 1; // what is missing comes last
            if (b === null || b === "") return -1;
            const order = kind === "text" ? a.localeCompare(b) : a - b;
            return up ? order : -order;
          });
        body.append(...sorted.map(([, row]) => row));
      });
    });
    const wanted = document.getElementById("trials-text");
    const state = document.getElementById("trials-state");
    const count = document.getElementById("trials-count");
    const texts = new Map(rows.map((row) => [row, `${row.dataset.text} ${row.textContent}`.toLowerCase()]));
    filter = () => {
      const words = wanted.value.toLowerCase().trim();
      let shownRows = 0;
      for (const row of rows) {
        let fits = texts.get(row).includes(words) && (!state.value || row.dataset.state === state.value);
        fits &&= !kept || kept.has(Number(row.cells[0].dataset.value));
        row.hidden = !fits;
        shownRows += fits;
      }
      count.textContent = `${shownRows} of ${rows.length} trials`;
    };
    wanted.addEventListener("input", filter);
    state.addEventListener("change", filter);
    filter();
  }

  // -- recipes ----------------------------------------------------------------------------------------

  for (const copy of document.querySelectorAll(".copy")) {
    copy.addEventListener("click", async () => {
      const from = document.getElementById(copy.dataset.copies);
      try {
        await navigator.clipboard.writeText(from.textContent);
        copy.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(from); // a browser that keeps its clipboard closed
        copy.textContent = "Selected";
      }
    });
  }

  const keep = (numbers) => {
    kept = numbers;
    filter();
  };
  return { altered, charts, draw, keep };
})();
