// How values look, and the tables that show them. Texts from peers only ever become text nodes.

const SPACE = "\u00a0"; // between a number and its unit, where no line may break

export const $ = (id) => document.getElementById(id);

export function show(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// The JSON of a reply, or null without a usable one: the next connection asks again.
export async function load(path) {
  try {
    const reply = await fetch(path);
    return reply.ok ? await reply.json() : null;
  } catch {
    return null;
  }
}

// Three significant digits with an SI prefix, such as "1.23 M".
export function si(value) {
  if (value === null || value === undefined) return "–";
  const prefixes = ["", "k", "M", "G", "T", "P", "E"];
  let at = 0;
  while (value >= 999.5 && at < prefixes.length - 1) {
    value /= 1000;
    at += 1;
  }
  const digits = value >= 99.95 ? 0 : value >= 9.995 ? 1 : at || value % 1 ? 2 : 0;
  return `${value.toFixed(digits)}${SPACE}${prefixes[at]}`.trimEnd();
}

export function rate(hashesPerSecond) {
  const text = si(hashesPerSecond);
  return text === "–" ? text : /[a-zA-Z]$/.test(text) ? `${text}H/s` : `${text}${SPACE}H/s`;
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  const whole = Math.floor(seconds);
  if (whole < 120) return `${whole}${SPACE}s`;
  const minutes = Math.floor(whole / 60);
  if (minutes < 120) return `${minutes}${SPACE}min`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} days ${hours % 24} h`;
}

export function clock(time, seconds = true) {
  const options = { hour: "2-digit", minute: "2-digit", hour12: false };
  return new Date(time * 1000).toLocaleTimeString(undefined, seconds ? { ...options, second: "2-digit" } : options);
}

export const number = (value, digits = 0) =>
  value === null || value === undefined ? "–" : value.toFixed(digits);

export const unit = (value, name) => (value === null ? "–" : `${Math.round(value)}${SPACE}${name}`);

// Fill the body of a table. A cell is a text, [text, class], or a node, which is kept if the row has it already.
export function fill(body, rows) {
  while (body.rows.length > rows.length) body.deleteRow(-1);
  rows.forEach((cells, index) => {
    const row = body.rows[index] ?? body.insertRow();
    while (row.cells.length > cells.length) row.deleteCell(-1);
    cells.forEach((cell, column) => {
      const place = row.cells[column] ?? addCell(row, column);
      if (cell instanceof Node) {
        if (place.firstChild !== cell) place.replaceChildren(cell);
        return;
      }
      const [text, kind] = Array.isArray(cell) ? cell : [cell, ""];
      show(place, text);
      if (place.className !== kind) place.className = kind;
    });
  });
  // A column that has no value in any row takes no room.
  const head = body.parentNode.tHead.rows[0];
  for (const column of head.cells) {
    const at = column.cellIndex;
    const empty = rows.length > 0 && [...body.rows].every((row) => !row.cells[at] || row.cells[at].textContent === "–");
    for (const row of [head, ...body.rows]) if (row.cells[at]) row.cells[at].hidden = empty;
  }
}

function addCell(row, column) {
  const cell = document.createElement(column ? "td" : "th");
  if (!column) cell.scope = "row";
  row.append(cell);
  return cell;
}

// The row of a node or a pool.
export function sourceRow(source) {
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

// The head of a page. program: what runs; state: the class of its state; rates: of all devices or rigs.
export function showHead(status, program, state, rates) {
  document.title = `${rate(rates.current)} – ${status.host}`;
  show($("host"), status.host);
  show($("version"), `${program} ${status.version}`);
  show($("state"), status.state);
  $("state").className = state;
  show($("reason"), status.reason);
  show($("rate"), rate(rates.current));
  show($("rate-60s"), rate(rates.average_60s));
  show($("rate-15m"), rate(rates.average_15m));
  show($("uptime"), duration(status.uptime_seconds));
}
