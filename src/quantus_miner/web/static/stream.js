// What /events sends: it is shown whether it comes, and the log is the same on every page.

import { $, show } from "./view.js";

const MAX_LOG = 200;
const RETRY_MS = 5000;
let lines = [];

// Call handlers[name] with each event of that name, and opened() whenever a connection begins.
export function listen(handlers, opened) {
  const stream = new EventSource("/events");
  const on = (name, handle) => stream.addEventListener(name, (message) => handle(JSON.parse(message.data)));
  stream.addEventListener("open", () => {
    lines = [];
    say("live", "good");
    opened();
  });
  stream.addEventListener("error", () => {
    say("no connection to the miner, or too many pages are open; trying again", "bad");
    // A browser connects again by itself, but not after a reply such as 503.
    if (stream.readyState === EventSource.CLOSED) setTimeout(() => listen(handlers, opened), RETRY_MS);
  });
  for (const [name, handle] of Object.entries(handlers)) on(name, handle);
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
