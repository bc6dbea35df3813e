// The page of a hub: what /events sends, the list of its miners, and commands to its rigs.

import { Miners } from "./miners.js";
import { Plot } from "./plot.js";
import { listen } from "./stream.js";
import { post } from "./token.js";
import { $, clock, fill, load, rate, show, showHead, sourceRow, unit } from "./view.js";

const MAX_COMMANDS = 200;
const plot = new Plot();
const miners = new Miners((action, name) => command(action, [name]));
let status = null;
let commands = [];
let lastState = "";

function render() {
  if (!status || document.hidden) return;
  const { totals } = status;
  showHead(status, "quantus-miner hub", status.state === "mining" ? "good" : "warn", totals.hash_rate);
  show($("proven"), rate(totals.proven_rate.average_15m ?? totals.proven_rate.current));
  show($("rigs"), `${totals.online} / ${totals.rigs}`);
  show($("connections"), String(totals.connections));
  for (const name of ["accepted", "rejected", "stale"]) show($(name), String(totals[name]));
  show($("power"), unit(totals.power_watts, "W"));
  show($("hottest"), unit(totals.hottest_celsius, "°C"));
  show($("solutions-waiting"), String(status.solutions_waiting));
  fill($("sources"), status.sources.map(sourceRow));
  miners.now = status.time;
  miners.render();
  const state = [
    `The hub is ${status.state}${status.reason ? `: ${status.reason}` : ""}`,
    totals.offline ? `${totals.offline} rigs are offline` : "",
  ]
    .filter(Boolean)
    .join(", ");
  if (lastState && lastState !== state) show($("live"), state);
  lastState = state;
}

function renderCommands() {
  const rows = [...commands].reverse().map((entry) => [
    new Date(entry.time * 1000).toLocaleDateString() + ` ${clock(entry.time)}`,
    entry.by,
    entry.what,
    entry.target,
    entry.result,
  ]);
  fill($("commands"), rows.length ? rows : [["none"]]);
}

function renderTargets() {
  const tags = new Set();
  for (const miner of miners.all.values()) for (const tag of miner.tags) tags.add(tag);
  const names = ["all", ...[...tags].sort().map((tag) => `tag:${tag}`)];
  $("targets").replaceChildren(...names.map((name) => new Option(name)));
}

async function opened() {
  plot.load();
  miners.begin();
  const [whole, record] = [await load("/status"), await load("/commands")];
  miners.set(whole?.miners ?? [], whole?.time ?? 0);
  commands = record?.commands ?? [];
  renderCommands();
  renderTargets();
  render();
}

async function command(action, targets, more = {}) {
  const reply = await post("/command", { action, targets, by: "page", ...more });
  if (!reply) return;
  const later = reply.offline ? `, ${reply.offline} of them once they are back` : "";
  const kept = reply.exceptions.length ? `; ${reply.exceptions.length} keep what was said for them or their tag` : "";
  show($("said"), `${action}: ${reply.rigs} rigs${later}${kept}`);
}

$("command").addEventListener("submit", (event) => {
  event.preventDefault();
  const action = $("action").value;
  const targets = $("target").value.split(/[\s,]+/).filter(Boolean);
  const pools = $("pools").value.split(/\s+/).filter(Boolean);
  const wallet = $("wallet").value.trim();
  command(action, targets, action === "set-pools" ? { pools, wallet } : {});
});
$("action").addEventListener("change", () => {
  $("pools-of").hidden = $("action").value !== "set-pools";
});
document.addEventListener("visibilitychange", () => {
  render();
  plot.draw();
});
for (const name of ["plot-part", "sources-part"]) $(name).open = innerWidth >= 768;
listen(
  {
    status(message) {
      status = message;
      render();
    },
    miners: (message) => miners.change(message),
    point: (message) => plot.add(message),
    command(message) {
      commands = [...commands, message].slice(-MAX_COMMANDS);
      renderCommands();
    },
  },
  opened,
);
