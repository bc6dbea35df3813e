// Calls that need the token. It is asked for once, and kept until the tab is closed.

import { $, show } from "./view.js";

const TOKEN = "token";
let answer = null; // resolves the promise of the open dialog

function kept(value) {
  try {
    if (value === null) sessionStorage.removeItem(TOKEN);
    else if (value !== undefined) sessionStorage.setItem(TOKEN, value);
    return sessionStorage.getItem(TOKEN);
  } catch {
    return null; // storage is blocked: ask each time
  }
}

// The token that a person types, or null.
function ask(wrong) {
  answer?.(null);
  show($("ask-wrong"), wrong);
  $("token").value = "";
  if (!$("ask").open) $("ask").showModal();
  $("token").focus();
  return new Promise((resolve) => {
    answer = resolve;
  });
}

// The JSON of the reply to a POST, or null if nothing was done: the page says why.
export async function post(path, content) {
  let given = kept();
  let wrong = "";
  for (;;) {
    given ??= await ask(wrong);
    if (given === null) return null;
    show($("said"), "");
    let reply;
    let body;
    // Only what may stand in a header.
    if (!/^[!-~]{1,512}$/.test(given)) {
      [given, wrong] = [null, "A token has no spaces and only ASCII characters"];
      continue;
    }
    try {
      reply = await fetch(path, {
        method: "POST",
        headers: { Authorization: `Bearer ${given}`, "Content-Type": "application/json" },
        body: JSON.stringify(content),
      });
      body = await reply.json();
    } catch {
      show($("said"), "The miner does not answer");
      return null;
    }
    if (reply.status === 401) {
      kept(null);
      [given, wrong] = [null, "The miner refuses this token"];
    } else if (!reply.ok) {
      show($("said"), body.message);
      return null;
    } else {
      kept(given);
      $("forget").hidden = false;
      return body;
    }
  }
}

$("ask-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const given = $("token").value.trim();
  $("token").value = "";
  const settle = answer;
  answer = null;
  $("ask").close();
  settle?.(given);
});
$("ask").addEventListener("close", () => {
  if ($("ask").open) return; // the event comes later than the close, and it was opened again
  answer?.(null);
  answer = null;
});
$("ask-cancel").addEventListener("click", () => $("ask").close());
$("forget").hidden = !kept();
$("forget").addEventListener("click", () => {
  kept(null);
  $("forget").hidden = true;
});
