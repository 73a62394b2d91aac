"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const { nodes, levels, parameters, cuts, findings, reasons, flows } = data;
  const NS = "http://www.w3.org/2000/svg";
  const CLASSES = {
    "trains": "trains", "frozen": "frozen", "no gradient": "nograd", "unused": "unused",
    "not in an optimizer": "noopt", "zero learning rate": "zero", "unknown": "unknown", "mixed": "mixed",
  };
  const SHAPES = {
    "trains": ["circle", { cx: 7, cy: 7, r: 5.5 }, true],
    "frozen": ["rect", { x: 2, y: 2, width: 10, height: 10 }, true],
    "no gradient": ["path", { d: "M2 2L12 12M12 2L2 12" }, false],
    "unused": ["circle", { cx: 7, cy: 7, r: 5 }, false],
    "not in an optimizer": ["path", { d: "M7 1.5L13 12.5H1Z" }, true],
    "zero learning rate": ["path", { d: "M1.5 7H12.5M1.5 4H12.5M1.5 10H12.5" }, false],
    "unknown": ["path", { d: "M7 1.5L12.5 7L7 12.5L1.5 7Z" }, false],
    "mixed": ["path", { d: "M7 1.5A5.5 5.5 0 0 1 7 12.5Z M7 1.5A5.5 5.5 0 0 0 7 12.5" }, false],
  };
  const map = document.getElementById("map"), panel = document.getElementById("panel");
  const search = document.getElementById("search"), results = document.getElementById("results");
  const open = new Set(data.open), boxes = new Map();
  const readersOf = new Map();
  let current = 0, lit = [], names = null;

  function make(tag, className, text) {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  }
  function draw(tag, attributes) {
    const element = document.createElementNS(NS, tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    return element;
  }
  function sign(state) {
    const [tag, attributes, filled] = SHAPES[state] || SHAPES.unknown;
    const picture = draw("svg", { class: "sign", viewBox: "0 0 14 14", "aria-hidden": "true" });
    const colour = state === "mixed" ? "var(--text)" : `var(--${CLASSES[state] || "unknown"})`;
    picture.append(draw(tag, { ...attributes, fill: filled ? colour : "none", stroke: colour, "stroke-width": 2 }));
    return picture;
  }
  const plural = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
  function inWords(states) {
    return Object.entries(states).map(([state, count]) => `${count} ${state}`).join(", ");
  }
  function stateOf(node) {
    const kinds = Object.keys(node.states);
    return kinds.length > 1 ? "mixed" : kinds[0] || "";
  }
  function depth(id) {
    let level = 1;
    for (let at = nodes[id].parent; at >= 0; at = nodes[at].parent) level += 1;
    return level;
  }

  // -- boxes ------------------------------------------------------------------------------------------------------

  function describe(id) {
    const node = nodes[id];
    const parts = [node.label, node.type, inWords(node.states)];
    if (node.cuts.length) parts.push("gradient stops here");
    else if (node.within) parts.push(plural(node.within, "cut") + " inside");
    if (!node.ran && node.kind === "module") parts.push("did not run");
    return parts.filter(Boolean).join(", ");
  }
  function build(id) {
    const node = nodes[id], box = make("div", `box ${node.kind}`);
    box.dataset.id = id;
    box.setAttribute("role", "treeitem");
    box.setAttribute("aria-level", depth(id));
    box.setAttribute("aria-label", describe(id));
    box.tabIndex = id === current ? 0 : -1;
    if (!node.ran && node.kind === "module") box.classList.add("still");
    if (node.cuts.length) box.classList.add("has-cut");
    const head = make("div", "head");
    if (node.children.length) head.append(make("span", "turn", "▸"));
    const state = stateOf(node);
    if (state) head.append(sign(state));
    head.append(make("span", "label", node.label));
    if (node.type && node.type !== node.label) head.append(make("span", "type", node.type));
    if (node.kind === "calls" && node.count > 1) head.append(make("span", "count", `×${node.count}`));
    if (node.kind === "calls" && node.line) head.append(make("span", "count", `line ${node.line}`));
    if (node.cuts.length) head.append(make("span", "badge", "✂ gradient stops"));
    else if (node.within) head.append(make("span", "badge", `✂ ${node.within}`));
    head.title = node.name || node.label;
    box.append(head);
    const kinds = Object.entries(node.states);
    if (kinds.length) {
      const bar = make("div", "states");
      bar.setAttribute("aria-hidden", "true");
      for (const [kind, count] of kinds) {
        const part = make("span", CLASSES[kind] || "unknown");
        part.style.flexGrow = count;
        bar.append(part);
      }
      box.append(bar);
    }
    boxes.set(id, box);
    if (node.children.length) {
      box.setAttribute("aria-expanded", "false");
      if (open.has(id)) unfold(id, box);
    }
    return box;
  }
  function unfold(id, box) {
    const level = make("div", "level"), picture = draw("svg", { "aria-hidden": "true" });
    level.setAttribute("role", "group");
    level.append(picture);
    for (const row of levels[id].rows) {
      const line = make("div", "row");
      for (const item of row) {
        if (item >= 0) line.append(build(item));
        else { const lane = make("span", "lane"); lane.dataset.of = -1 - item; line.append(lane); }
      }
      level.append(line);
    }
    box.classList.add("open");
    box.setAttribute("aria-expanded", "true");
    box.querySelector(".turn").textContent = "▾";
    box.append(level);
  }
  function toggle(id, want = !open.has(id)) {
    const box = boxes.get(id);
    if (!nodes[id].children.length || want === open.has(id)) return;
    if (want) { open.add(id); if (box) unfold(id, box); }
    else {
      forget(id);
      box.querySelector(":scope > .level").remove();
      box.classList.remove("open");
      box.setAttribute("aria-expanded", "false");
      box.querySelector(".turn").textContent = "▸";
    }
  }
  function forget(id) {
    open.delete(id);
    for (const child of nodes[id].children) if (boxes.delete(child)) forget(child);
  }
  function reveal(id) {
    const above = [];
    for (let at = nodes[id].parent; at >= 0; at = nodes[at].parent) above.unshift(at);
    for (const outer of above) toggle(outer, true);
  }

  // -- edges ------------------------------------------------------------------------------------------------------

  function redraw() {
    // all sizes are read before anything is drawn
    const drawn = [...open].filter((id) => boxes.has(id)).map((id) => [id, geometry(id)]);
    for (const [id, places] of drawn) if (places) edges(id, places);
  }
  function geometry(id) {
    const level = boxes.get(id).querySelector(":scope > .level");
    if (!level) return null;
    const places = new Map();
    [...level.querySelectorAll(":scope > .row")].forEach((row, number) => {
      const top = row.offsetTop, bottom = top + row.offsetHeight;
      for (const item of row.children) {
        const x = row.offsetLeft + item.offsetLeft + item.offsetWidth / 2;
        if (item.dataset.id) {
          const y = top + item.offsetTop;
          places.set(+item.dataset.id, { x, top: y, bottom: y + item.offsetHeight, row: number, width: item.offsetWidth });
        } else places.set(`${number} ${item.dataset.of}`, { x, top, bottom });
      }
    });
    return { level, places };
  }
  function edges(id, { level, places }) {
    const picture = level.querySelector(":scope > svg");
    picture.replaceChildren();
    const steps = new Set();
    for (let at = 0; at + 1 < lit.length; at += 1) steps.add(stepAt(id, lit[at], lit[at + 1]));
    for (const [from, to, flow] of [...levels[id].edges].sort((a, b) => (b[2] & 7 & -b[2]) - (a[2] & 7 & -a[2]))) {
      const kinds = ["d", "l", "g"].filter((kind) => flow & { g: 1, l: 2, d: 4 }[kind]);
      kinds.forEach((kind, place) => {
        if (kind === "d" && kinds.length > 1) return;
        const shift = kinds.filter((k) => k !== "d").length > 1 ? (kind === "g" ? 4 : -4) : 0;
        arrow(picture, kind, route(places, from, to, shift), steps.has(`${from} ${to}`));
      });
    }
    for (const [child, flow] of levels[id].into) stub(picture, places.get(child), flow, false);
    for (const [child, flow] of levels[id].out) stub(picture, places.get(child), flow, true);
  }
  function route(places, from, to, shift) {
    const a = places.get(from), b = places.get(to);
    if (b.row <= a.row) { // a loop in the code: back up, on the side where the boxes between leave room
      const beside = [...places.values()].filter((box) => box.width && b.row <= box.row && box.row <= a.row);
      const right = Math.max(...beside.map((box) => box.x + box.width / 2));
      const left = Math.min(...beside.map((box) => box.x - box.width / 2));
      const sign = right - (a.x + a.width / 2) <= a.x - a.width / 2 - left ? 1 : -1, side = sign > 0 ? right + 16 : left - 16;
      const start = a.x + (sign * a.width) / 2, end = b.x + (sign * b.width) / 2;
      const ya = (a.top + a.bottom) / 2, yb = (b.top + b.bottom) / 2;
      return { d: `M${start} ${ya}C${side} ${ya} ${side} ${yb} ${end + 6 * sign} ${yb}`, x: end, y: yb, back: sign };
    }
    let x = a.x + shift, y = a.bottom, d = `M${x} ${y}`;
    const curve = (nx, ny) => { const half = (ny - y) / 2; d += `C${x} ${y + half} ${nx} ${ny - half} ${nx} ${ny}`; x = nx; y = ny; };
    for (let row = a.row + 1; row < b.row; row += 1) {
      const lane = places.get(`${row} ${from}`);
      if (!lane) continue;
      curve(lane.x + shift, lane.top);
      d += `V${lane.bottom}`;
      y = lane.bottom;
    }
    curve(b.x + shift, b.top - 6);
    return { d, x: b.x + shift, y: b.top };
  }
  function arrow(picture, kind, line, isLit) {
    picture.append(draw("path", { class: `edge ${kind}${isLit ? " lit" : ""}`, d: line.d }));
    const tip = line.back ? `M${line.x} ${line.y}l${7 * line.back} -4v8z` : `M${line.x} ${line.y}l-4.5 -8h9z`;
    picture.append(draw("path", { class: `tip ${kind}`, d: tip }));
  }
  function stub(picture, place, flow, leaves) {
    if (!place) return;
    const kind = flow & 1 ? "g" : flow & 2 ? "l" : "d", y = leaves ? place.bottom : place.top;
    picture.append(draw("path", { class: `edge ${kind}`, d: `M${place.x} ${y}v${leaves ? 11 : -11}` }));
  }

  // -- paths ------------------------------------------------------------------------------------------------------

  function stepAt(level, from, to) {
    const below = (id) => { let at = id; while (at >= 0 && nodes[at].parent !== level) at = nodes[at].parent; return at; };
    return `${below(from)} ${below(to)}`;
  }
  function following() {
    if (!readersOf.size) for (const [from, to, flow] of flows) {
      if (!readersOf.has(from)) readersOf.set(from, []);
      readersOf.get(from).push([to, flow]);
    }
    return readersOf;
  }
  function pathOf(parameter) {
    const goal = parameter.cut >= 0 ? cuts[parameter.cut].node : data.loss;
    if (parameter.state === "unused") return parameter.readers.slice(0, 1);
    const wanted = parameter.state === "no gradient" ? [7] : [1, 7];
    for (const allowed of wanted) {
      const came = new Map(parameter.readers.map((id) => [id, -1]));
      const queue = [...came.keys()];
      for (let at = 0; at < queue.length; at += 1) {
        if (queue[at] === goal) {
          const path = [];
          for (let id = goal; id !== -1; id = came.get(id)) path.unshift(id);
          return path;
        }
        for (const [to, flow] of following().get(queue[at]) || []) if (flow & allowed && !came.has(to)) { came.set(to, queue[at]); queue.push(to); }
      }
    }
    return parameter.readers.slice(0, 1);
  }
  function light(path, extra = []) {
    for (const box of boxes.values()) box.classList.remove("lit");
    lit = path;
    map.classList.toggle("path", path.length > 0);
    const ends = path.length > 60 ? [path[0], path[path.length - 1]] : path;
    let opened = 0;
    for (const id of ends) {
      if (opened > 12 && id !== ends[ends.length - 1]) continue;
      const before = open.size;
      reveal(id);
      opened += open.size - before;
    }
    for (const id of [...path, ...extra]) for (let at = id; at >= 0; at = nodes[at].parent) if (boxes.has(at)) boxes.get(at).classList.add("lit");
    redraw();
  }

  // -- panel ------------------------------------------------------------------------------------------------------

  function source(rows) {
    const pre = make("pre", "source");
    for (const [gutter, text, marks] of rows) {
      pre.append(make("span", "number", gutter));
      const from = marks.indexOf("^"), to = marks.lastIndexOf("^") + 1;
      if (from < 0) pre.append(text);
      else { pre.append(text.slice(0, from)); pre.append(make("mark", "", text.slice(from, to))); pre.append(text.slice(to)); }
      pre.append("\n");
    }
    return pre;
  }
  function placed(where) {
    const parts = document.createDocumentFragment();
    if (where) { parts.append(make("code", "place", where.text)); if (where.rows.length) parts.append(source(where.rows)); }
    return parts;
  }
  function listed(title, ids) {
    const part = document.createDocumentFragment(), list = make("ul");
    if (!ids.length) return part;
    part.append(make("h3", "", `${plural(ids.length, "parameter")} ${title}`.trim()));
    const show = (from, to) => {
      for (const id of ids.slice(from, to)) {
        const item = make("li"), button = make("button"), parameter = parameters[id];
        button.type = "button";
        button.append(sign(parameter.state), make("code", "", parameter.name), make("span", "shape", parameter.shape));
        button.setAttribute("aria-label", `${parameter.name}, ${parameter.state}, ${parameter.shape}`);
        button.onclick = () => explain(id);
        item.append(button);
        list.append(item);
      }
      if (to < ids.length) {
        const item = make("li"), more = make("button", "", `and ${(ids.length - to).toLocaleString("en")} more`);
        more.type = "button";
        more.onclick = () => { item.remove(); show(to, to + 500); };
        item.append(more);
        list.append(item);
      }
    };
    show(0, 40);
    part.append(list);
    return part;
  }
  function card(number) {
    const finding = findings[number], part = make("article", `card ${finding.severity}`);
    const head = make("div");
    head.append(make("span", "code", `${finding.code} `), make("span", "", `${finding.name} (${finding.severity})`));
    part.append(head, placed(finding.place), make("p", "", finding.message));
    if (finding.fix) { const fix = make("p", "fix"); fix.append(make("b", "", "Fix "), finding.fix); part.append(fix); }
    for (const [text, where] of finding.related) part.append(make("h3", "", text), placed(where));
    return part;
  }
  function cutPart(number) {
    const cut = cuts[number], part = document.createDocumentFragment();
    part.append(make("h3", "", "gradient stops here"), make("p", "", cut.text));
    if (cut.findings.length) for (const finding of cut.findings) part.append(card(finding));
    else part.append(placed(cut.place), make("p", "", "No finding is shown for this place."));
    part.append(listed("without gradient behind it", cut.parameters));
    return part;
  }
  function show(...parts) { panel.replaceChildren(...parts); panel.scrollTop = 0; }
  function overview() {
    const parts = [make("h2", "", "What trains"), make("p", "", data.facts)];
    const list = make("ul");
    for (const [state, count] of Object.entries(nodes[0].states)) {
      const item = make("li"), button = make("button");
      button.type = "button";
      button.append(sign(state), state, make("span", "shape", plural(count, "tensor")));
      button.onclick = () => show(make("h2", "", state), listed("", parameters.flatMap((p, id) => p.state === state ? [id] : [])));
      item.append(button);
      list.append(item);
    }
    parts.push(list);
    if (cuts.length) parts.push(make("h3", "", `Gradient stops at ${plural(cuts.length, "place")}`));
    const places = make("ul");
    cuts.forEach((cut, number) => {
      const item = make("li"), button = make("button");
      button.type = "button";
      button.append("✂ ", make("span", "", cut.text), make("span", "shape", cut.place ? cut.place.text.replace(/^.*[\\/]/, "") : ""));
      button.onclick = () => chooseCut(number);
      item.append(button);
      places.append(item);
    });
    parts.push(places);
    if (findings.length) parts.push(make("h3", "", plural(findings.length, "finding")), ...findings.map((_, number) => card(number)));
    show(...parts);
  }
  function choose(id, keep = false) {
    const node = nodes[id], parts = [make("h2", "", node.name || node.label)];
    focusOn(id);
    if (!keep) light([]);
    for (const box of boxes.values()) box.classList.remove("chosen");
    boxes.get(id).classList.add("chosen");
    parts.push(make("p", "", [node.type, node.elements ? plural(node.elements, "parameter") : "", inWords(node.states)].filter(Boolean).join(" · ")));
    if (!node.ran && node.kind === "module") parts.push(make("p", "", "No call of it was recorded."));
    parts.push(...node.cuts.map(cutPart));
    if (!node.cuts.length) parts.push(placed(node.place));
    const own = [], pending = [id];
    while (pending.length && own.length < 2000) { const at = nodes[pending.pop()]; own.push(...at.parameters); pending.push(...[...at.children].reverse()); }
    if (!node.cuts.length || own.length) parts.push(listed("in it", own));
    show(...parts);
  }
  function chooseCut(number) {
    reveal(cuts[number].node);
    const first = cuts[number].parameters[0];
    light(first === undefined ? [cuts[number].node] : pathOf({ ...parameters[first], cut: number }), cuts[number].parameters.slice(0, 400).map((p) => parameters[p].node));
    choose(cuts[number].node, true);
  }
  function explain(id) {
    const parameter = parameters[id], path = pathOf(parameter), reason = reasons[parameter.reason];
    light(path, [parameter.node]);
    reveal(parameter.node);
    redraw();
    const last = path.length ? path[path.length - 1] : parameter.node;
    reveal(last);
    for (const box of boxes.values()) box.classList.remove("chosen");
    if (boxes.has(last)) { boxes.get(last).classList.add("chosen"); focusOn(last, false); }
    const title = make("h2"), state = make("p");
    title.append(make("code", "", parameter.name));
    state.append(sign(parameter.state), ` ${parameter.state}: ${reason.text}`);
    const parts = [title, state, make("p", "", [parameter.shape, plural(parameter.numel, "parameter"), parameter.held].filter(Boolean).join(" · "))];
    if (parameter.aliases) parts.push(make("p", "", `also named ${parameter.aliases}`));
    if (parameter.cut >= 0) parts.push(cutPart(parameter.cut));
    else {
      parts.push(placed(reason.place));
      const about = findings.flatMap((f, number) => f.parameters.includes(id) ? [number] : []);
      parts.push(...about.map(card));
    }
    show(...parts);
  }

  // -- keyboard ---------------------------------------------------------------------------------------------------

  function focusOn(id, take = true) {
    reveal(id);
    const before = boxes.get(current);
    if (before) before.tabIndex = -1;
    current = id;
    const box = boxes.get(id);
    box.tabIndex = 0;
    if (take) box.focus({ preventScroll: true });
    box.querySelector(".head").scrollIntoView({ block: "nearest", inline: "nearest" });
  }
  function visible() { return [...map.querySelectorAll(".box")].map((box) => +box.dataset.id); }
  function flip(id) { toggle(id); redraw(); }
  map.addEventListener("click", (event) => {
    const head = event.target.closest(".head, .states"), box = head && head.closest(".box");
    if (!box) return;
    const id = +box.dataset.id;
    if (event.target.closest(".turn") || (nodes[id].children.length && !event.target.closest(".badge"))) flip(id);
    choose(id);
  });
  map.addEventListener("keydown", (event) => {
    const id = current, node = nodes[id], all = visible(), at = all.indexOf(id);
    const go = { ArrowDown: all[at + 1], ArrowUp: all[at - 1], Home: all[0], End: all[all.length - 1] };
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in go) { if (go[event.key] !== undefined) focusOn(go[event.key]); }
    else if (event.key === "ArrowRight") { if (node.children.length && !open.has(id)) flip(id); else if (node.children.length) focusOn(visible()[at + 1]); }
    else if (event.key === "ArrowLeft") { if (open.has(id)) flip(id); else if (node.parent >= 0) focusOn(node.parent); }
    else if (event.key === "Enter" || event.key === " ") choose(id);
    else return;
    event.preventDefault();
  });
  document.addEventListener("keydown", (event) => {
    const typing = event.target === search;
    if (event.key === "/" && !typing) { search.focus(); search.select(); event.preventDefault(); }
    else if (event.key === "Escape") { suggest([]); light([]); overview(); focusOn(boxes.has(current) ? current : 0); }
    else if (event.key === "n" && !typing && cuts.length) { next = (next + 1) % cuts.length; chooseCut(next); }
  });
  let next = -1;

  // -- search -----------------------------------------------------------------------------------------------------

  let found = [], chosen = -1;
  function suggest(list) {
    found = list;
    chosen = list.length ? 0 : -1;
    results.hidden = !list.length;
    search.setAttribute("aria-expanded", String(list.length > 0));
    results.replaceChildren(...list.map((entry, number) => {
      const item = make("li");
      item.id = `result${number}`;
      item.setAttribute("role", "option");
      if (entry.state) item.append(sign(entry.state));
      item.append(make("code", "", entry.name), make("span", "why", entry.why));
      item.onmousedown = (event) => { event.preventDefault(); take(entry); };
      return item;
    }));
    pick(chosen);
  }
  function pick(number) {
    chosen = number;
    [...results.children].forEach((item, place) => item.setAttribute("aria-selected", String(place === number)));
    if (number >= 0) { search.setAttribute("aria-activedescendant", `result${number}`); results.children[number].scrollIntoView({ block: "nearest" }); }
    else search.removeAttribute("aria-activedescendant");
  }
  function take(entry) {
    suggest([]);
    if (entry.parameter !== undefined) explain(entry.parameter);
    else { reveal(entry.node); redraw(); choose(entry.node); }
  }
  function matching(text) {
    names = names || [
      ...parameters.map((p, parameter) => ({ name: p.name, low: `${p.name} ${p.aliases}`.toLowerCase(), state: p.state, why: p.state, parameter })),
      ...nodes.flatMap((node, id) => node.name ? [{ name: node.name, low: node.name.toLowerCase(), state: stateOf(node), why: node.type, node: id }] : []),
    ];
    const words = text.toLowerCase().split(/\s+/).filter(Boolean), list = [];
    if (!words.length) return list;
    for (const entry of names) if (words.every((word) => entry.low.includes(word))) { list.push(entry); if (list.length >= 40) break; }
    return list;
  }
  search.addEventListener("input", () => suggest(matching(search.value)));
  search.addEventListener("focus", () => suggest(matching(search.value)));
  search.addEventListener("blur", () => suggest([]));
  search.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown") pick(Math.min(chosen + 1, found.length - 1));
    else if (event.key === "ArrowUp") pick(Math.max(chosen - 1, 0));
    else if (event.key === "Enter" && chosen >= 0) take(found[chosen]);
    else return;
    event.preventDefault();
  });
  document.getElementById("marks").addEventListener("change", (event) => map.classList.toggle("no-marks", !event.target.checked));
  document.getElementById("fold").addEventListener("click", () => { light([]); for (const child of nodes[0].children) toggle(child, false); current = 0; redraw(); overview(); });
  new ResizeObserver(redraw).observe(map); // a window that changes, or a frame that is opened

  // -- start ------------------------------------------------------------------------------------------------------

  document.getElementById("target").textContent = nodes[0].label;
  const legend = document.getElementById("legend");
  for (const state of Object.keys(CLASSES)) {
    if (state !== "mixed" && !(state in nodes[0].states)) continue;
    const entry = make("span");
    entry.append(sign(state), state);
    legend.append(entry);
  }
  for (const [kind, text] of [["g", "gradient flows back"], ["l", "gradient is lost"], ["d", "data alone"]]) {
    const entry = make("span"), line = draw("svg", { width: 30, height: 8, "aria-hidden": "true" });
    line.append(draw("path", { class: `edge ${kind}`, d: "M1 4H29" }));
    entry.append(line, text);
    legend.append(entry);
  }
  legend.append(make("span", "keys", "arrows move · enter shows · / finds · n next cut · esc back"));
  const tree = build(0);
  map.setAttribute("role", "tree");
  map.append(tree);
  redraw();
  overview();
  if (document.fonts && document.fonts.ready) document.fonts.ready.then(redraw);
  document.documentElement.dataset.ready = "1";
})();
