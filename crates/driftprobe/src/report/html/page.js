"use strict";
(() => {
  const at = (id) => document.getElementById(id);
  const list = at("list");
  document.documentElement.classList.add("js");
  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((d) => { d.open = true; }));

  // Elements are made of text, never of markup.
  const make = (name, text, attributes) => {
    const element = document.createElement(name);
    if (text !== undefined) element.textContent = text;
    for (const [key, value] of Object.entries(attributes || {})) element.setAttribute(key, value);
    return element;
  };

  // The readout, and arrow keys in the heat maps.
  const readout = at("readout");
  const read = (event) => {
    const link = event.target.closest && event.target.closest(".heat a");
    if (link && readout) readout.textContent = link.getAttribute("aria-label");
  };
  document.addEventListener("mouseover", read);
  document.addEventListener("focusin", read);
  const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  document.querySelectorAll(".heat").forEach((map) => {
    const links = [...map.querySelectorAll("a")];
    links.forEach((link, n) => { link.tabIndex = n ? -1 : 0; });
    const focus = (link) => {
      links.forEach((other) => { other.tabIndex = other === link ? 0 : -1; });
      link.focus();
    };
    map.addEventListener("keydown", (event) => {
      const cell = event.target.closest("td");
      if (!cell || event.ctrlKey || event.altKey || event.metaKey) return;
      if (event.key === "Home" || event.key === "End") {
        const row = [...cell.parentElement.querySelectorAll("a")];
        focus(row[event.key === "Home" ? 0 : row.length - 1]);
        event.preventDefault();
      }
      if (!moves[event.key]) return;
      event.preventDefault();
      // The next cell that way; up and down, the nearest one of the next row.
      const [down, right] = moves[event.key];
      let row = cell.parentElement;
      let near = [];
      while (row && !near.length) {
        if (down) row = map.rows[row.rowIndex + down];
        near = row ? [...row.querySelectorAll("a")] : [];
        if (right) near = near.filter((link) => (link.parentElement.cellIndex - cell.cellIndex) * right > 0);
        if (right) break;
      }
      const away = (link) => Math.abs(link.parentElement.cellIndex - cell.cellIndex);
      near.sort((a, b) => away(a) - away(b));
      if (near.length) focus(near[0]);
    });
  });
  if (!list) return;

  const data = JSON.parse(at("data").textContent);
  const PAGE = 50;
  const [REC, PROMPT, POS, TOKEN, LAYER, POINT, VERDICT, KIND, ZP, ZD, REL, ABS, HP, HD, NOTE] = Array(15).keys();
  const glyph = new Map(data.marks);
  const rank = data.kinds.map((kind) => data.marks.findIndex((mark) => mark[0] === kind));
  const layer = (value) => (value < 0 ? "–" : String(value));
  const plain = (value) => (value === null ? "–" : String(value));
  const written = (value) => {
    if (value === null) return "–";
    if (typeof value === "string" || value === 0) return String(value);
    const size = Math.abs(value);
    return size >= 1e-3 && size < 1e4 ? String(value) : value.toExponential(3);
  };
  // NaN and infinities are text, and larger than any number.
  const size = (value) => (value === null ? -1 : typeof value === "string" ? Infinity : value);

  const filters = [
    ["Recording", REC, (v) => data.recordings[v]],
    ["Prompt", PROMPT, (v) => data.prompts[v]],
    ["Position", POS, plain],
    ["Layer", LAYER, (v) => (v < 0 ? "none" : String(v))],
    ["Point", POINT, (v) => data.points[v]],
    ["Verdict", VERDICT, (v) => data.verdicts[v]],
  ];
  const order = { [REC]: 0, [PROMPT]: 0, [POS]: 1, [LAYER]: 1, [POINT]: 0, [VERDICT]: 0 };
  const selects = new Map();
  const form = at("filters");
  for (const [name, field, show] of filters) {
    const box = make("div");
    const select = make("select", undefined, { id: "by-" + name.toLowerCase() });
    box.append(make("label", name, { for: select.id }), select);
    select.addEventListener("change", () => {
      if (field === REC) fill();
      page = 0;
      draw();
    });
    selects.set(field, select);
    if (field !== REC || data.recordings.length > 1) form.append(box);
    if (field === REC) data.recordings.forEach((name, n) => select.append(make("option", name, { value: n })));
  }
  const recording = () => Number(selects.get(REC).value);
  // What a recording has; a value that it has as well stays chosen.
  const fill = () => {
    const rows = data.rows.filter((row) => row[REC] === recording());
    for (const [, field, show] of filters.slice(1)) {
      const select = selects.get(field);
      const before = select.value;
      const values = [...new Set(rows.map((row) => row[field]))];
      values.sort((a, b) => (order[field] ? (a === null ? -1 : a) - (b === null ? -1 : b) : 0));
      const option = (value) => make("option", show(value), { value: JSON.stringify(value) });
      select.replaceChildren(make("option", "all", { value: "" }), ...values.map(option));
      select.value = values.some((value) => JSON.stringify(value) === before) ? before : "";
    }
  };
  fill();
  const reset = make("button", "Show all", { type: "button" });
  reset.addEventListener("click", () => {
    for (const [field, select] of selects) if (field !== REC) select.value = "";
    page = 0;
    draw();
  });
  form.append(reset);
  form.hidden = false;

  // Columns: how a row is sorted by them.
  const keys = [PROMPT, POS, TOKEN, LAYER, POINT, KIND, ZP, ZD, REL, ABS, HP, HD];
  const text = new Set([HP, HD]);
  const key = (row, field) => {
    if (field === KIND) return rank[row[KIND]];
    if (field === HD && row[HD] === 1) return row[HP];
    if (text.has(field)) return row[field] === null ? "" : row[field].padStart(20, "0");
    return size(row[field]);
  };
  let sorted = { column: 5, down: true };
  const heads = [...list.tHead.rows[0].cells];
  heads.slice(0, keys.length).forEach((head, column) => {
    const button = make("button", head.textContent, { type: "button" });
    button.append(make("span", "", { "aria-hidden": "true" }));
    button.addEventListener("click", () => {
      sorted = { column, down: sorted.column === column ? !sorted.down : column > 4 };
      page = 0;
      draw();
    });
    head.replaceChildren(button);
  });

  let page = 0;
  let found = [];
  const pages = at("pages");
  const back = make("button", "Previous", { type: "button" });
  const on = make("button", "Next", { type: "button" });
  const where = make("span");
  back.addEventListener("click", () => { page -= 1; draw(); });
  on.addEventListener("click", () => { page += 1; draw(); });
  pages.append(back, where, on);
  pages.hidden = false;

  const cells = (row) => [
    data.prompts[row[PROMPT]], plain(row[POS]), plain(row[TOKEN]), layer(row[LAYER]), data.points[row[POINT]], null,
    written(row[ZP]), written(row[ZD]), written(row[REL]), written(row[ABS]), plain(row[HP]),
    row[HD] === 1 ? row[HP] : plain(row[HD]), row[NOTE] === null ? "" : data.notes[row[NOTE]],
  ];
  const line = (row) => {
    const tr = make("tr");
    cells(row).forEach((content) => {
      if (content !== null) return tr.append(make("td", content));
      const kind = data.kinds[row[KIND]];
      const td = make("td");
      td.append(make("span", glyph.get(kind), { class: "mark k-" + kind }), " " + data.verdicts[row[VERDICT]]);
      tr.append(td);
    });
    return tr;
  };

  function draw() {
    const wanted = [...selects].map(([field, select]) => [field, select.value]).filter(([, value]) => value !== "")
      .map(([field, value]) => [field, JSON.parse(value)]);
    found = data.rows.filter((row) => wanted.every(([field, value]) => row[field] === value));
    const [field, sign] = [keys[sorted.column], sorted.down ? -1 : 1];
    const by = found.map((row, n) => [key(row, field), n]);
    by.sort(([a, n], [b, m]) => (a < b ? -sign : a > b ? sign : n - m));
    found = by.map(([, n]) => found[n]);
    heads.slice(0, keys.length).forEach((head, column) => {
      const mine = column === sorted.column;
      if (mine) head.setAttribute("aria-sort", sorted.down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
      head.querySelector("span").textContent = mine ? (sorted.down ? " ↓" : " ↑") : "";
    });
    const last = Math.max(0, Math.ceil(found.length / PAGE) - 1);
    page = Math.min(Math.max(page, 0), last);
    list.tBodies[0].replaceChildren(...found.slice(page * PAGE, (page + 1) * PAGE).map(line));
    const of = data.totals[recording()] + " pairs of " + data.recordings[recording()];
    at("status").textContent = found.length + " of " + of;
    where.textContent = "page " + (page + 1) + " of " + (last + 1);
    back.disabled = page === 0;
    on.disabled = page === last;
  }

  // A cell of a heat map shows its pairs.
  document.addEventListener("click", (event) => {
    const cell = event.target.closest && event.target.closest(".heat td");
    if (!cell || !cell.querySelector("a")) return;
    const head = cell.closest("table").tHead.rows[0].cells[cell.cellIndex];
    const point = data.points.indexOf(cell.parentElement.dataset.p);
    event.preventDefault();
    selects.get(REC).value = head.dataset.r;
    fill();
    for (const [field, select] of selects) if (field !== REC) select.value = "";
    selects.get(LAYER).value = head.dataset.l;
    selects.get(POINT).value = String(point);
    page = 0;
    draw();
    at("pairs").scrollIntoView();
    list.parentElement.focus({ preventScroll: true });
  });
  draw();
})();
