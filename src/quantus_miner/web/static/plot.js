// The plot of hash rates, with marks for what was found. Data comes from /history, then as points in /events.

import { $, clock, load, rate, show, si } from "./view.js";

const PALETTE = ["#0a7d5a", "#2f6fde", "#c2571a", "#8a3fc4", "#b08900", "#0b8aa0", "#c2306b", "#6b7a2a"];
const MARKS = [
  ["accepted", "--good", "accepted shares"],
  ["stale", "--warn", "stale shares"],
  ["rejected", "--bad", "rejected shares"],
  ["blocks", "--block", "blocks"],
];
const MIN_SECONDS = 2; // of a step, for a rate that means something
const MIN_STEPS = 60;
const COLOUR = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

export class Plot {
  constructor() {
    this.spans = {};
    this.span = "hour";
    this.split = "total";
    this.off = new Set();
    this.plot = null;
    for (const button of document.querySelectorAll("button.span")) {
      button.addEventListener("click", () => this.choose(button.value));
    }
    $("split").addEventListener("change", (event) => {
      this.split = event.target.value;
      this.draw();
    });
    $("plot").addEventListener("keydown", (event) => this.move(event));
    new ResizeObserver(() => this.resize()).observe($("plot"));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  async load() {
    for (const span of ["hour", "day"]) {
      const history = await load(`/history?span=${span}`);
      if (!history) return;
      const points = new Map(history.points.map((point) => [point.time, point]));
      this.spans[span] = { step: history.step_seconds, steps: history.steps, points };
    }
    this.draw();
  }

  add(message) {
    const span = this.spans[message.span];
    if (!span) return;
    span.points.set(message.point.time, message.point);
    const first = message.point.time - span.step * span.steps;
    for (const time of span.points.keys()) if (time <= first) span.points.delete(time);
    if (message.span === this.span) this.draw();
  }

  choose(span) {
    this.span = span;
    for (const button of document.querySelectorAll("button.span")) {
      button.setAttribute("aria-pressed", String(button.value === span));
    }
    this.draw();
  }

  // The steps of the span in a row: those in which the miner was off are null.
  steps() {
    const { step, steps, points } = this.spans[this.span];
    const last = Math.max(...points.keys(), Math.floor(Date.now() / 1000 / step) * step - step);
    // A history that is still short gets the whole width.
    const since = Math.min(...points.keys(), last);
    const count = Math.min(steps, Math.max(MIN_STEPS, (last - since) / step + 1));
    const times = Array.from({ length: count }, (_, index) => last - (count - 1 - index) * step);
    const known = times.map((time) => points.get(time) ?? null);
    return [times, known.map((point) => (point && point.seconds >= MIN_SECONDS ? point : null)), known];
  }

  lines(measured) {
    const of = (name, get) => ({ name, rates: measured.map((point) => point && get(point) / point.seconds) });
    const total = of("total", (point) => point.hashes ?? 0);
    if (this.split === "total") return [total];
    const names = new Set(measured.flatMap((point) => Object.keys(point?.[this.split] ?? {})));
    const label = (name) => (this.split === "workers" ? `worker ${name}` : name);
    const each = [...names].map((name) => of(label(name), (point) => point[this.split]?.[name] ?? 0));
    return [total, ...each];
  }

  draw() {
    if (!this.spans[this.span] || document.hidden) return;
    const [times, measured, known] = this.steps();
    this.known = known;
    const lines = this.lines(measured);
    const shape = JSON.stringify([this.span, lines.map((line) => line.name), COLOUR("--text")]);
    const data = [times, ...lines.map((line) => line.rates)];
    if (this.plot && shape === this.shape) {
      this.plot.setData(data);
    } else {
      this.plot?.destroy();
      this.plot = new uPlot(this.options(lines), data, $("plot"));
      this.shape = shape;
      this.legend(lines);
    }
    this.summarize(measured, known);
  }

  options(lines) {
    const axis = { stroke: COLOUR("--dim"), grid: { stroke: COLOUR("--line"), width: 1 }, ticks: { show: false } };
    return {
      width: this.width(),
      height: this.height(),
      legend: { show: false },
      cursor: { drag: { setScale: false }, y: false },
      scales: { y: { range: (_, low, high) => [0, 1.1 * (high || 1)] } },
      axes: [
        { ...axis, values: (_, ticks) => ticks.map((time) => clock(time, false)), space: 60, size: 26 },
        { ...axis, values: (_, ticks) => ticks.map((value) => si(value)), size: 56 },
      ],
      series: [
        {},
        ...lines.map((line, index) => ({
          label: line.name,
          stroke: index ? PALETTE[index % PALETTE.length] : COLOUR("--accent"),
          width: index ? 1 : 2,
          dash: index >= PALETTE.length ? [6, 3] : [],
          points: { show: false },
          show: !this.off.has(line.name),
        })),
      ],
      hooks: { draw: [(plot) => this.mark(plot)], setCursor: [(plot) => this.tell(plot)] },
    };
  }

  // Shares are ticks at the bottom, refused ones above them, blocks are diamonds at the top.
  mark(plot) {
    const { left, top, width, height } = plot.bbox;
    const unit = devicePixelRatio;
    plot.ctx.save();
    MARKS.forEach(([name, colour], level) => {
      plot.ctx.fillStyle = COLOUR(colour);
      this.known.forEach((point, index) => {
        if (!point?.[name]) return;
        const x = plot.valToPos(plot.data[0][index], "x", true);
        if (x < left || x > left + width) return;
        if (name === "blocks") {
          const size = 4 * unit;
          plot.ctx.beginPath();
          plot.ctx.moveTo(x, top);
          plot.ctx.lineTo(x + size, top + size);
          plot.ctx.lineTo(x, top + 2 * size);
          plot.ctx.lineTo(x - size, top + size);
          plot.ctx.fill();
        } else {
          plot.ctx.fillRect(x - unit, top + height - (level + 1) * 6 * unit, 2 * unit, 5 * unit);
        }
      });
    });
    plot.ctx.restore();
  }

  counts(point) {
    return MARKS.filter(([name]) => point[name]).map(([name, , label]) => `${point[name]} ${label}`);
  }

  tell(plot) {
    const index = plot.cursor.idx;
    const point = index === null || index === undefined ? null : this.known[index];
    if (!point) {
      show($("at"), "");
      return;
    }
    const shown = plot.series.flatMap((series, at) =>
      at && series.show && plot.data[at][index] !== null ? [`${series.label} ${rate(plot.data[at][index])}`] : [],
    );
    show($("at"), [clock(point.time), ...shown, ...this.counts(point)].join(", "));
  }

  // Arrow keys move the cursor.
  move(event) {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by || !this.plot) return;
    event.preventDefault();
    const last = this.plot.data[0].length - 1;
    const index = Math.min(last, Math.max(0, (this.plot.cursor.idx ?? last + 1) + by));
    this.plot.setCursor({ left: this.plot.valToPos(this.plot.data[0][index], "x"), top: 1 });
  }

  legend(lines) {
    const items = lines.map((line, index) => {
      const button = document.createElement("button");
      const swatch = document.createElement("i");
      swatch.style.background = this.plot.series[index + 1].stroke();
      button.type = "button";
      button.append(swatch, line.name);
      button.setAttribute("aria-pressed", String(!this.off.has(line.name)));
      button.addEventListener("click", () => {
        if (!this.off.delete(line.name)) this.off.add(line.name);
        const on = !this.off.has(line.name);
        button.setAttribute("aria-pressed", String(on));
        this.plot.setSeries(index + 1, { show: on });
      });
      return button;
    });
    this.marks = MARKS.map(([, colour]) => {
      const mark = document.createElement("span");
      const swatch = document.createElement("i");
      swatch.style.background = `var(${colour})`;
      mark.append(swatch, "");
      return mark;
    });
    $("legend").replaceChildren(
      ...[...items, ...this.marks].map((node) => {
        const item = document.createElement("li");
        item.append(node);
        return item;
      }),
    );
  }

  summarize(measured, known) {
    const rates = measured.filter(Boolean).map((point) => (point.hashes ?? 0) / point.seconds);
    const sum = (name) => known.reduce((all, point) => all + (point?.[name] ?? 0), 0);
    const average = sum("hashes") / (sum("seconds") || 1);
    MARKS.forEach(([name, , label], index) => {
      this.marks[index].lastChild.data = `${sum(name)} ${label}`;
      this.marks[index].parentNode.hidden = !sum(name);
    });
    const found = MARKS.map(([name, , label]) => `${sum(name)} ${label}`).join(", ");
    const range = rates.length ? `, lowest ${rate(Math.min(...rates))}, highest ${rate(Math.max(...rates))}` : "";
    show($("plot-summary"), `Last ${this.span}: average ${rate(average)}${range}; ${found}.`);
  }

  width() {
    return Math.max(200, $("plot").clientWidth);
  }

  height() {
    return innerWidth < 768 ? 136 : 240;
  }

  resize() {
    const size = { width: this.width(), height: this.height() };
    if (this.plot && (size.width !== this.plot.width || size.height !== this.plot.height)) this.plot.setSize(size);
  }
}
