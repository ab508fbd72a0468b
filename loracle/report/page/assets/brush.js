"use strict";
// Parallel coordinates: a range on an axis keeps the trials in it, in the chart and in the table.
(() => {
  const NAME = "parallel-chart";
  const REACH = 16; // pixels beside an axis that belong to it
  const LEAST = 0.015; // of an axis: a shorter drag is a click
  const chart = report.charts[NAME];
  if (!chart) return;
  const place = document.getElementById(NAME);
  const axes = chart.layout.xaxis.ticktext.length;
  const ranges = new Map(); // low and high by axis, from 0 to 1
  const heights = new Map(); // of each trial's line, by axis
  for (const { x, y, customdata } of chart.data) {
    customdata.forEach((number, i) => {
      if (number === null) return;
      if (!heights.has(number)) heights.set(number, []);
      heights.get(number)[x[i]] = y[i];
    });
  }
  let kept = null;

  // -- what is drawn ----------------------------------------------------------------------------------

  report.altered[NAME] = (whole) => {
    const bands = [...ranges].map(([axis, [low, high]]) => ({
      type: "rect", x0: axis - 0.06, x1: axis + 0.06, y0: low - 0.01, y1: high + 0.01, fillcolor: "var(--band)", line: { color: "var(--blue)", width: 1 },
    }));
    const layout = { ...whole.layout, dragmode: false, shapes: [...whole.layout.shapes, ...bands] };
    if (!kept) return { ...whole, layout };
    const rest = { type: "scatter", mode: "lines", x: [], y: [], line: { color: "var(--rule)", width: 1 }, hoverinfo: "skip", showlegend: false };
    const data = whole.data.map((trace) => {
      const stays = trace.customdata.map((number) => number === null || kept.has(number));
      trace.x.forEach((x, i) => {
        rest.x.push(stays[i] ? null : x);
        rest.y.push(stays[i] ? null : trace.y[i]);
      });
      return { ...trace, y: trace.y.map((y, i) => (stays[i] ? y : null)) };
    });
    return { ...whole, data: [rest, ...data], layout };
  };

  // -- words, and the way back ------------------------------------------------------------------------

  const counts = document.getElementById("brush-count");
  const resets = [document.getElementById("brush-reset")];
  const beside = document.createElement("span");
  const fields = document.querySelector("#trials .fields");
  if (fields) {
    beside.innerHTML = 'Only those kept under <a href="#parallel">all settings at once</a>. <button type="button">Show all</button>';
    beside.hidden = true;
    fields.append(beside);
    resets.push(beside.querySelector("button"));
  }

  const show = () => {
    const fits = (ys) => [...ranges].every(([axis, [low, high]]) => ys[axis] >= low && ys[axis] <= high);
    kept = ranges.size ? new Set([...heights].filter(([, ys]) => fits(ys)).map(([number]) => number)) : null;
    counts.textContent = kept ? `${kept.size} of ${heights.size} trials are kept.` : "";
    report.draw(NAME);
  };

  // -- the fields that do the same without a pointer ------------------------------------------------

  const EXACT = 1e-6; // of an axis
  const pickers = [...document.querySelectorAll("#parallel select[data-axis]")];
  const sync = () => pickers.forEach((one) => {
    const [low, high] = ranges.get(Number(one.dataset.axis)) ?? [-1, 2];
    const inside = [...one.options].filter(({ value }) => value && value >= low - EXACT && value <= high + EXACT);
    const end = one.dataset.end;
    const free = end === "from" ? low <= 0 : end === "to" ? high >= 1 : inside.length !== 1;
    one.value = free || !inside.length ? "" : (end === "to" ? inside.at(-1) : inside[0]).value;
  });
  pickers.forEach((one) => one.addEventListener("change", () => {
    const axis = Number(one.dataset.axis);
    const chosen = (...ends) => pickers.find((other) => Number(other.dataset.axis) === axis && ends.includes(other.dataset.end) && other.value)?.value;
    const [low, high] = [chosen("from", "only"), chosen("to", "only")];
    if (low === undefined && high === undefined) ranges.delete(axis);
    else {
      const ends = [low === undefined ? -0.04 : Number(low) - EXACT, high === undefined ? 1.04 : Number(high) + EXACT];
      ranges.set(axis, ends[0] <= ends[1] ? ends : [Number(one.value) - EXACT, Number(one.value) + EXACT]); // the last choice counts
    }
    settle();
  }));

  const section = document.getElementById("trials");
  const settle = () => { // at the end of a drag: until then nothing above the chart may move it
    show();
    section.style.minHeight = kept ? section.style.minHeight || `${section.offsetHeight}px` : "";
    resets.forEach((button) => (button.hidden = !kept));
    beside.hidden = !kept;
    sync();
    report.keep(kept);
  };
  resets.forEach((button) => button.addEventListener("click", () => {
    ranges.clear();
    settle();
  }));

  // -- dragging ---------------------------------------------------------------------------------------

  const from = (event) => {
    const { xaxis, yaxis } = place._fullLayout;
    const box = place.getBoundingClientRect();
    const x = event.clientX - box.left - xaxis._offset;
    const y = yaxis.p2d(event.clientY - box.top - yaxis._offset);
    const axis = Math.round(xaxis.p2d(x));
    const near = axis >= 0 && axis < axes && Math.abs(xaxis.d2p(axis) - x) <= REACH && y > -0.08 && y < 1.08;
    return { axis: near ? axis : null, y: Math.min(1.04, Math.max(-0.04, y)) };
  };

  let held = null; // the axis and height where a drag began
  let waits = false;
  place.addEventListener("touchstart", (event) => {
    if (place._fullLayout && from(event.touches[0]).axis !== null) event.preventDefault(); // or the page would scroll
  }, { passive: false });
  place.addEventListener("pointerdown", (event) => {
    if (!place._fullLayout || event.button) return;
    const found = from(event);
    if (found.axis === null) return;
    held = found;
    place.setPointerCapture(event.pointerId);
  });
  place.addEventListener("pointermove", (event) => {
    if (!place._fullLayout) return;
    const found = from(event);
    place.classList.toggle("at-axis", held !== null || found.axis !== null);
    if (!held || Math.abs(found.y - held.y) < LEAST) return;
    ranges.set(held.axis, [Math.min(held.y, found.y), Math.max(held.y, found.y)]);
    if (!waits) requestAnimationFrame(() => {
      waits = false;
      show();
    });
    waits = true;
  });
  place.addEventListener("pointerup", (event) => {
    if (!held) return;
    const still = Math.abs(from(event).y - held.y) < LEAST;
    if (!still || ranges.delete(held.axis)) settle();
    else if (event.pointerType === "touch") { // as a tap elsewhere: what is there
      const { clientX, clientY } = event;
      place.querySelector(".nsewdrag")?.dispatchEvent(new MouseEvent("mousemove", { clientX, clientY, bubbles: true }));
    }
    held = null;
  });
  place.addEventListener("pointercancel", () => (held = null));
})();
