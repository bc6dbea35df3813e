// The page of a miner: what /events sends, and the calls that pause and resume.

import { Plot } from "./plot.js";
import { listen } from "./stream.js";
import { post } from "./token.js";
import { $, clock, fill, load, number, rate, show, showHead, si, sourceRow, unit } from "./view.js";

const MAX_EVENTS = 50;

const plot = new Plot();
let status = null;
let lastState = "";
let happened = [];
const buttons = new Map();

// --- what is shown ---

const STATES = { mining: "good", idle: "warn", paused: "warn", failed: "bad" };

function render() {
  if (!status || document.hidden) return;
  const { hash_rate: rates, shares } = status;
  showHead(status, "quantus-miner", STATES[status.state], rates);
  show($("rate-highest"), rate(rates.highest));
  for (const name of ["accepted", "rejected", "stale"]) show($(name), String(shares[name]));
  show($("solutions"), String(status.solutions));
  const byUser = status.pauses.some((pause) => pause.reason === "user");
  $("pause").disabled = status.pauses.some((pause) => pause.reason === "user" && pause.device === null);
  $("resume").disabled = !byUser;
  fill($("devices"), status.devices.map(deviceRow));
  fill($("sources"), status.sources.length ? status.sources.map(sourceRow) : [["none: jobs come over HTTP"]]);
  fill($("workers"), status.workers.map(workerRow));
  fill($("jobs"), status.jobs.map(jobRow));
  const more = status.jobs_left_out ? ` and ${status.jobs_left_out} more` : "";
  show($("jobs-count"), `(${status.jobs.length}${more})`);
  const state = `${status.state}${status.reason ? `: ${status.reason}` : ""}`;
  if (lastState && lastState !== state) show($("live"), `The miner is ${state}`);
  lastState = state;
}

function deviceRow(device) {
  const state = !device.up
    ? ["lost", "bad"]
    : device.paused
      ? ["paused", "warn"]
      : device.busy_workers
        ? ["mining", "good"]
        : ["idle", "warn"];
  const name = device.name === device.id.toUpperCase() ? device.name : `${device.name} (${device.id})`;
  return [
    `${name}, ${device.engine}${device.workers > 1 ? `, ${device.workers} workers` : ""}`,
    state,
    rate(device.hash_rate.current),
    number(device.temperature_celsius),
    number(device.power_watts),
    device.hashes_per_joule === null ? "–" : number(device.hashes_per_joule / 1e6, 2),
    unit(device.fan_ratio === null ? null : 100 * device.fan_ratio, "%"),
    steer(device),
  ];
}

function steer(device) {
  const key = `${device.id}\n${device.engine}`;
  if (!buttons.has(key)) {
    const button = document.createElement("button");
    button.type = "button";
    button.addEventListener("click", () => call(button.value, device.id));
    buttons.set(key, button);
  }
  const button = buttons.get(key);
  const paused = status.pauses.some(
    (pause) => pause.reason === "user" && (pause.device === null || pause.device === device.id),
  );
  button.value = paused ? "resume" : "pause";
  show(button, paused ? "Resume" : "Pause");
  button.setAttribute("aria-label", `${button.textContent} ${device.name}`);
  return button;
}

function workerRow(worker) {
  const state = worker.failed
    ? ["failed", "bad"]
    : worker.stalled
      ? ["stalled", "bad"]
      : worker.paused
        ? ["paused", "warn"]
        : worker.busy
          ? ["mining", "good"]
          : ["idle", ""];
  return [String(worker.index), worker.engine, worker.device, state, rate(worker.hash_rate.current)];
}

function jobRow(job) {
  return [job.job_id, job.status, rate(job.hash_rate), si(job.hashes)];
}

function renderEvents() {
  const items = happened.map((event) => {
    const item = document.createElement("li");
    const time = document.createElement("time");
    time.dateTime = new Date(event.time * 1000).toISOString();
    time.textContent = clock(event.time);
    item.append(time, ` ${sentence(event)}`);
    return item;
  });
  $("events").replaceChildren(...items.reverse());
}

function sentence(event) {
  return `${event.about}: ${event.what}${event.reason ? ` (${event.reason})` : ""}`;
}

async function examine() {
  const reply = await load("/doctor");
  if (!reply) return;
  const { findings } = reply;
  const kinds = { wrong: "bad", note: "warn", ok: "good" };
  const count = (verdict) => findings.filter((each) => each.verdict === verdict).length;
  const found = count("wrong") ? `${count("wrong")} wrong` : count("note") ? `${count("note")} noted` : "ok";
  show($("doctor-count"), `(${found})`);
  $("doctor-count").className = count("wrong") ? "bad" : "";
  fill(
    $("findings"),
    findings.map((each) => [[each.verdict, kinds[each.verdict]], each.about, each.found, each.advice]),
  );
}

// --- what comes ---

function opened() {
  happened = [];
  renderEvents();
  plot.load();
  examine();
}

const HANDLERS = {
  status(message) {
    status = message;
    render();
  },
  point: (message) => plot.add(message),
  event(message) {
    happened = [...happened, message].slice(-MAX_EVENTS);
    renderEvents();
    const old = message.time < Date.now() / 1000 - 10;
    if (!old && message.kind !== "share" && message.kind !== "solution") show($("live"), sentence(message));
  },
};

// --- what is asked for ---

async function call(action, device = null) {
  const reply = await post(`/${action}`, { device });
  if (!reply) return;
  const done = action === "pause" ? "Paused" : "Resumed";
  show($("said"), reply.changed ? done : `${done} already`);
}

$("pause").addEventListener("click", () => call("pause"));
$("resume").addEventListener("click", () => call("resume"));
$("happened").open = innerWidth >= 768;
$("doctor").addEventListener("toggle", () => $("doctor").open && examine());
document.addEventListener("visibilitychange", () => {
  render();
  plot.draw();
});
listen(HANDLERS, opened);
