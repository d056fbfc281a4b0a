// Draws the charts, follows light, dark and print, and sorts tables.  Everything it needs is on the page.
"use strict";
(() => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const paper = matchMedia("print");
  const coarse = matchMedia("(pointer: coarse)");
  const LIGHT = { page: "#ffffff", ink: "#1b1f24", dim: "#57606a", rule: "#d8dde3" };
  const DARK = { page: "#16191d", ink: "#e6e8ea", dim: "#9aa4af", rule: "#343b43" };
  const PAPER_WIDTH = 690; // CSS pixels of a page of A4 or Letter within its margins

  let printing = paper.matches;
  const drawn = [];

  // ---------------------------------------------------------------- charts

  const axesOf = (layout) => Object.keys(layout).filter((key) => /^[xy]axis\d*$/.test(key));

  function colours(layout) {
    const c = dark.matches && !printing ? DARK : LIGHT;
    const found = {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", "font.color": c.ink,
      "hoverlabel.bgcolor": c.page, "hoverlabel.bordercolor": c.dim, "hoverlabel.font.color": c.ink,
      "modebar.bgcolor": "rgba(0,0,0,0)", "modebar.color": c.dim, "modebar.activecolor": c.ink,
    };
    for (const axis of axesOf(layout)) {
      for (const part of ["gridcolor", "linecolor", "zerolinecolor", "tickcolor"]) found[`${axis}.${part}`] = c.rule;
    }
    (layout.shapes || []).forEach((_, at) => { found[`shapes[${at}].line.color`] = c.dim; });
    (layout.annotations || []).forEach((_, at) => { found[`annotations[${at}].font.color`] = c.ink; });
    return found;
  }

  // Applies colours before the first drawing, so that nothing flashes.
  function themed(layout) {
    for (const [path, value] of Object.entries(colours(layout))) {
      const keys = path.replace(/\[(\d+)\]/g, ".$1").split(".");
      const last = keys.pop();
      keys.reduce((at, key) => (at[key] ??= {}), layout)[last] = value;
    }
    return layout;
  }

  async function draw(id, figure) {
    const box = document.getElementById(id);
    const layout = themed({ autosize: true, ...figure.layout });
    box.style.height = `${layout.height ?? 380}px`; // plotly takes it from the box whenever that changes its width
    // A finger scrolls the page; the tool bar still zooms.
    if (coarse.matches) layout.dragmode = false;
    const config = { ...figure.config, responsive: false, displayModeBar: true };
    config.toImageButtonOptions = { ...config.toImageButtonOptions, filename: id };
    await Plotly.newPlot(box, figure.data, layout, config);
    drawn.push(box);
    watch.observe(box);
  }

  // Plotly's own way to follow its box leaves a legend where its old number of lines put it: lay it out once more.
  async function fit(box) {
    if (printing || box.clientWidth === box._fullLayout.width) return;
    await Plotly.Plots.resize(box);
    await Plotly.relayout(box, { "legend.y": box.layout.legend?.y ?? 1 });
  }

  const watch = new ResizeObserver((entries) => {
    requestAnimationFrame(() => entries.forEach((entry) => fit(entry.target)));
  });

  const restyle = () => drawn.map((box) => Plotly.relayout(box, colours(box.layout)));

  function print(on) {
    if (printing === on) return;
    printing = on;
    for (const box of drawn) {
      const size = on ? { autosize: false, width: PAPER_WIDTH } : { autosize: true, width: null };
      Plotly.relayout(box, { ...colours(box.layout), ...size });
    }
    for (const notes of document.querySelectorAll("details")) {
      if (on && !notes.open) { notes.open = true; notes.dataset.closed = ""; }
      else if (!on && "closed" in notes.dataset) { notes.open = false; delete notes.dataset.closed; }
    }
  }

  // ---------------------------------------------------------------- tables

  // Numbers by size, texts as people sort them; what is missing comes last whichever way.
  function order(a, b, numeric, sign) {
    if (a === "" || b === "") return (a === "") - (b === "");
    if (numeric) return sign * (Number(a) - Number(b));
    return sign * a.localeCompare(b, "en", { numeric: true });
  }

  function sort(table, head) {
    const at = head.cellIndex;
    const up = head.getAttribute("aria-sort") !== "ascending";
    for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const rows = [...table.tBodies[0].rows];
    const value = (row) => row.cells[at].dataset.value;
    const numeric = rows.every((row) => value(row) === "" || !Number.isNaN(Number(value(row))));
    rows.sort((a, b) => order(value(a), value(b), numeric, up ? 1 : -1));
    table.tBodies[0].append(...rows);
  }

  function sortable(table) {
    if (table.tBodies[0].rows.length < 2) return;
    for (const head of table.tHead.rows[0].cells) {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      button.addEventListener("click", () => sort(table, head));
      head.append(button);
    }
  }

  // ---------------------------------------------------------------- start

  function follow() {
    const links = new Map([...document.querySelectorAll("nav a")].map((a) => [a.hash.slice(1), a]));
    const seen = new IntersectionObserver((entries) => {
      for (const entry of entries.filter((e) => e.isIntersecting)) {
        links.forEach((link) => link.removeAttribute("aria-current"));
        links.get(entry.target.id)?.setAttribute("aria-current", "true");
      }
    }, { rootMargin: "0px 0px -75% 0px" });
    document.querySelectorAll("main section").forEach((section) => seen.observe(section));
  }

  document.querySelectorAll("main table").forEach(sortable);
  follow();
  dark.addEventListener("change", restyle);
  paper.addEventListener("change", (event) => print(event.matches));
  addEventListener("beforeprint", () => print(true));
  addEventListener("afterprint", () => print(false));

  (async () => {
    let ready = "true";
    for (const [id, figure] of Object.entries(read("charts"))) {
      try {
        await draw(id, figure);
      } catch (error) { // the other charts and all tables are still worth reading
        ready = "failed";
        document.getElementById(id).textContent = `This chart could not be drawn: ${error.message}`;
      }
    }
    document.body.dataset.ready = ready;
  })();
})();
