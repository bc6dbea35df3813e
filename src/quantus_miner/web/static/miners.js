// The table of a hub's miners: sorted, filtered, and only as many rows as can be read.

import { $, duration, fill, number, rate, show } from "./view.js";

const STEP = 100; // rows that one press of "more" adds
const STATES = { mining: "good", idle: "warn", paused: "warn", offline: "bad", ignored: "bad" };
const RANKS = ["ignored", "offline", "idle", "paused", "mining"]; // what needs a person comes first
const ASCENDING = ["name", "state", "version"]; // columns whose smallest value comes first
const KEYS = {
  name: (miner) => miner.name,
  state: (miner) => RANKS.indexOf(miner.state),
  rate: (miner) => miner.rate_10s ?? miner.proven_rate,
  rate_60s: (miner) => miner.rate_60s,
  rate_15m: (miner) => miner.rate_15m,
  proven: (miner) => miner.proven_rate,
  luck: (miner) => miner.luck,
  rejected: (miner) => miner.rejected,
  temperature: (miner) => miner.temperature_celsius,
  power: (miner) => miner.power_watts,
  version: (miner) => miner.version,
  contact: (miner) => miner.contact,
  orders: (miner) => miner.orders,
};

export class Miners {
  // steer(action, name): what the button of a rig does.
  constructor(steer) {
    this.steer = steer;
    this.all = new Map();
    this.early = []; // changes that came before the whole list
    this.loading = false;
    this.now = 0;
    this.sort = { key: "state", down: false };
    this.shown = STEP;
    this.buttons = new Map();
    for (const button of document.querySelectorAll("#miners-head button")) {
      button.addEventListener("click", () => this.order(button.value));
    }
    for (const name of ["filter", "filter-state"]) {
      $(name).addEventListener("input", () => {
        this.shown = STEP;
        this.render();
        show($("filtered"), $("count").textContent);
      });
    }
    $("more").addEventListener("click", () => {
      this.shown += STEP;
      this.render();
    });
  }

  begin() {
    this.loading = true;
    this.early = [];
  }

  // The whole list. Changes that came meanwhile may be older, for which the time of contact tells.
  set(miners, now) {
    this.all = new Map(miners.map((miner) => [`${miner.kind}/${miner.name}`, miner]));
    this.now = now;
    this.loading = false;
    for (const message of this.early) this.change(message);
    this.early = [];
    this.render();
  }

  change(message) {
    if (this.loading) {
      this.early.push(message);
      return;
    }
    for (const key of message.gone) this.all.delete(key);
    for (const miner of message.miners) {
      const key = `${miner.kind}/${miner.name}`;
      if ((this.all.get(key)?.contact ?? 0) <= (miner.contact ?? 0) + 1) this.all.set(key, miner);
    }
  }

  order(key) {
    const down = this.sort.key === key ? !this.sort.down : !ASCENDING.includes(key);
    this.sort = { key, down };
    this.render();
  }

  found() {
    const words = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
    const state = $("filter-state").value;
    return [...this.all.values()].filter((miner) => {
      if (state === "waiting" ? !miner.orders : state && miner.state !== state) return false;
      const text = [miner.kind, miner.name, miner.state, miner.version, ...miner.tags.map((tag) => `tag:${tag}`)]
        .join(" ")
        .toLowerCase();
      return words.every((word) => text.includes(word));
    });
  }

  render() {
    if (document.hidden || this.loading) return;
    const found = this.found();
    const { key, down } = this.sort;
    const of = KEYS[key];
    const worth = (value) => value ?? Number.NEGATIVE_INFINITY;
    found.sort((one, other) => {
      const [a, b] = [worth(of(one)), worth(of(other))];
      const order = a < b ? -1 : a > b ? 1 : 0;
      return (down ? -order : order) || (one.name < other.name ? -1 : one.name > other.name ? 1 : 0);
    });
    for (const button of document.querySelectorAll("#miners-head button")) {
      const direction = button.value !== key ? "none" : down ? "descending" : "ascending";
      button.parentNode.setAttribute("aria-sort", direction);
    }
    const rows = found.slice(0, this.shown);
    fill($("miners"), rows.length ? rows.map((miner) => this.row(miner)) : [["none"]]);
    show($("count"), `${found.length} of ${this.all.size} miners`);
    $("more").hidden = found.length <= rows.length;
    this.forget();
  }

  row(miner) {
    const why = miner.state === "paused" && miner.pauses.length ? ` (${miner.pauses.join(", ")})` : "";
    const tags = miner.tags.length ? ` [${miner.tags.join(", ")}]` : "";
    const source = miner.source ? `, mines for ${miner.source}` : "";
    return [
      `${miner.name}${miner.kind === "stratum" ? " (stratum)" : ""}${tags}`,
      [miner.state + why + source, STATES[miner.state]],
      rate(miner.rate_10s),
      rate(miner.rate_60s),
      rate(miner.rate_15m),
      rate(miner.proven_rate),
      number(miner.luck, 2),
      `${miner.accepted} / ${miner.rejected} / ${miner.stale}`,
      this.degrees(miner),
      number(miner.power_watts),
      miner.version || "–",
      miner.contact === null ? "–" : `${duration(Math.max(0, this.now - miner.contact))} ago`,
      [miner.orders || "–", miner.orders ? "warn" : ""],
      miner.kind === "rig" ? this.button(miner) : "–",
    ];
  }

  degrees(miner) {
    const hot = miner.devices.filter((device) => device.temperature !== undefined && device.temperature !== null);
    const each = hot.length > 1 ? ` (${hot.map((device) => number(device.temperature)).join(" ")})` : "";
    return `${number(miner.temperature_celsius)}${each}`;
  }

  button(miner) {
    if (!this.buttons.has(miner.name)) {
      const button = document.createElement("button");
      button.type = "button";
      button.addEventListener("click", () => this.steer(button.value, miner.name));
      this.buttons.set(miner.name, button);
    }
    const button = this.buttons.get(miner.name);
    button.value = miner.pauses.includes("hub") ? "resume" : "pause";
    show(button, button.value === "pause" ? "Pause" : "Resume");
    button.setAttribute("aria-label", `${button.textContent} ${miner.name}`);
    return button;
  }

  // Buttons of rows that are not shown any more.
  forget() {
    for (const [name, button] of this.buttons) if (!button.isConnected) this.buttons.delete(name);
  }
}
