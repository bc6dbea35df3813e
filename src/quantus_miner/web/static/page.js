// The page of a miner: what /events sends, and the calls that pause and resume.

import { Plot } from "./plot.js";
import { $, clock, duration, fill, load, number, rate, show, si, unit } from "./view.js";

const MAX_EVENTS = 50;
const MAX_LOG = 200;
const RETRY_MS = 5000;
const TOKEN = "token";

const plot = new Plot();
let status = null;
let lastState = "";
let lines = [];
let happened = [];
let wanted = null; // the call that waits for a token
const buttons = new Map();

// --- what is shown ---

const STATES = { mining: "good", idle: "warn", paused: "warn", failed: "bad" };

function render() {
  if (!status || document.hidden) return;
  const { hash_rate: rates, shares } = status;
  document.title = `${rate(rates.current)} – ${status.host}`;
  show($("host"), status.host);
  show($("version"), `quantus-miner ${status.version}`);
  show($("state"), status.state);
  $("state").className = STATES[status.state];
  show($("reason"), status.reason);
  show($("rate"), rate(rates.current));
  show($("rate-60s"), rate(rates.average_60s));
  show($("rate-15m"), rate(rates.average_15m));
  show($("rate-highest"), rate(rates.highest));
  for (const name of ["accepted", "rejected", "stale"]) show($(name), String(shares[name]));
  show($("solutions"), String(status.solutions));
  show($("uptime"), duration(status.uptime_seconds));
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

function sourceRow(source) {
  const state = source.refusal
    ? [`refuses us: ${source.refusal}`, "bad"]
    : source.failing
      ? [`failing: ${source.failing}`, "bad"]
      : !source.connected
        ? ["not connected", "warn"]
        : source.mined
          ? ["in use", "good"]
          : ["connected", ""];
  const latency = source.latency_seconds;
  return [
    source.name.replace(/ [a-z+]+:\/\//, " "), // its scheme takes the room of the rest on a phone
    state,
    si(source.difficulty),
    unit(latency === null ? null : 1000 * latency, "ms"),
    `${source.accepted} / ${source.rejected} / ${source.stale}`,
    number(source.luck, 2),
    source.job_age_seconds === null ? "–" : `${duration(source.job_age_seconds)} ago`,
  ];
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

function connect() {
  const stream = new EventSource("/events");
  const on = (name, handle) => stream.addEventListener(name, (message) => handle(JSON.parse(message.data)));
  stream.addEventListener("open", () => {
    happened = [];
    lines = [];
    renderEvents();
    say("live", "good");
    plot.load();
    examine();
  });
  stream.addEventListener("error", () => {
    say("no connection to the miner, or too many pages are open; trying again", "bad");
    // A browser connects again by itself, but not after a reply such as 503.
    if (stream.readyState === EventSource.CLOSED) setTimeout(connect, RETRY_MS);
  });
  on("status", (message) => {
    status = message;
    render();
  });
  on("point", (message) => plot.add(message));
  on("event", (message) => {
    happened = [...happened, message].slice(-MAX_EVENTS);
    renderEvents();
    const old = message.time < Date.now() / 1000 - 10;
    if (!old && message.kind !== "share" && message.kind !== "solution") show($("live"), sentence(message));
  });
  on("log", (message) => {
    lines = [...lines, ...message.lines].slice(-MAX_LOG);
    const log = $("log");
    const atEnd = log.scrollTop + log.clientHeight >= log.scrollHeight - 20;
    show(log, lines.join("\n"));
    if (atEnd) log.scrollTop = log.scrollHeight;
  });
}

function say(text, kind) {
  show($("link"), text);
  $("link").className = `link ${kind}`;
}

// --- what is asked for ---

function token(value) {
  try {
    if (value === null) sessionStorage.removeItem(TOKEN);
    else if (value !== undefined) sessionStorage.setItem(TOKEN, value);
    return sessionStorage.getItem(TOKEN);
  } catch {
    return value ?? null; // storage is blocked: ask each time
  }
}

async function call(action, device = null, given = token()) {
  if (!given) {
    ask(action, device, "");
    return;
  }
  show($("said"), "");
  let reply;
  let body;
  try {
    reply = await fetch(`/${action}`, {
      method: "POST",
      headers: { Authorization: `Bearer ${given}`, "Content-Type": "application/json" },
      body: JSON.stringify({ device }),
    });
    body = await reply.json();
  } catch {
    show($("said"), "The miner does not answer");
    return;
  }
  if (reply.status === 401) {
    token(null);
    ask(action, device, "The miner refuses this token");
  } else if (!reply.ok) {
    show($("said"), body.message);
  } else {
    token(given);
    $("forget").hidden = false;
    const done = action === "pause" ? "Paused" : "Resumed";
    show($("said"), body.changed ? done : `${done} already`);
  }
}

function ask(action, device, wrong) {
  wanted = { action, device };
  show($("ask-wrong"), wrong);
  $("token").value = "";
  if (!$("ask").open) $("ask").showModal();
  $("token").focus();
}

$("ask-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const given = $("token").value.trim();
  $("token").value = "";
  $("ask").close();
  // Only what may stand in a header.
  if (/^[!-~]{1,512}$/.test(given)) call(wanted.action, wanted.device, given);
  else ask(wanted.action, wanted.device, "A token has no spaces and only ASCII characters");
});
$("ask-cancel").addEventListener("click", () => $("ask").close());
$("pause").addEventListener("click", () => call("pause"));
$("resume").addEventListener("click", () => call("resume"));
$("forget").hidden = !token();
$("forget").addEventListener("click", () => {
  token(null);
  $("forget").hidden = true;
});
$("happened").open = innerWidth >= 768;
$("doctor").addEventListener("toggle", () => $("doctor").open && examine());
document.addEventListener("visibilitychange", () => {
  render();
  plot.draw();
});
connect();
