// The chat page: a conversation, one answer at a time. Text goes into text nodes only, never through HTML.

const $ = (id) => document.getElementById(id);
const conversation = [];
let apiKey = null;
let running = null; // the AbortController of the answer that comes

class ApiError extends Error {}

async function ask(path, options = {}) {
  for (;;) {
    const headers = { "Content-Type": "application/json" };
    if (apiKey !== null) headers.Authorization = `Bearer ${apiKey}`;
    const response = await fetch(path, { ...options, headers });
    if (response.ok) return response;
    if (response.status !== 401) throw new ApiError((await response.json()).error.message);
    apiKey = await askForKey(options.signal);
  }
}

function askForKey(signal) {
  const dialog = $("key-dialog");
  dialog.showModal();
  return new Promise((resolve, reject) => {
    $("key-form").onsubmit = (event) => {
      event.preventDefault();
      resolve($("key").value);
      dialog.close();
    };
    dialog.onclose = () => reject(new ApiError("the server answers those only who have its API key"));
    signal?.addEventListener("abort", () => dialog.close());
  });
}

function addTurn(kind, name) {
  $("welcome").hidden = true;
  const turn = $("turn").content.firstElementChild.cloneNode(true);
  turn.className = kind;
  turn.querySelector("h2").textContent = name;
  $("log").append(turn);
  return turn;
}

function addText(turn, text, drafted) {
  const place = turn.querySelector(".text");
  let last = place.lastElementChild;
  if (last === null || last.classList.contains("drafted") !== drafted) {
    last = document.createElement("span");
    last.classList.toggle("drafted", drafted);
    last.append("");
    place.append(last);
  }
  last.firstChild.appendData(text);
}

function showError(turn, message) {
  const line = document.createElement("p");
  line.className = "error";
  line.setAttribute("role", "alert");
  line.textContent = message;
  turn.append(line);
}

// While the answer comes its chunks are counted; at the end the server tells.
class Figures {
  constructor(turn) {
    this.line = turn.querySelector(".figures");
    this.tokens = this.accepted = 0;
  }

  count(drafted) {
    this.first ??= performance.now();
    this.tokens += 1;
    this.accepted += drafted ? 1 : 0;
    const seconds = (performance.now() - this.first) / 1000;
    this.show(this.tokens, seconds > 0 ? (this.tokens - 1) / seconds : 0, this.accepted);
  }

  finish(rounds, usage) {
    const accepted = usage.completion_tokens_details.accepted_prediction_tokens;
    const details = [];
    if (rounds.rounds) details.push(`${rounds.accepted_length.toFixed(2)} tokens a round`);
    if (rounds.rounds !== undefined) details.push(`first after ${rounds.time_to_first_token_seconds.toFixed(2)} s`);
    const cached = usage.prompt_tokens_details.cached_tokens;
    if (cached) details.push(`${cached} of ${usage.prompt_tokens} prompt tokens reused`);
    const speed = rounds.decode_tokens_per_second ?? (this.tokens * 1000) / (performance.now() - this.first);
    this.show(usage.completion_tokens, speed, accepted, ...details);
  }

  show(tokens, speed, accepted, ...details) {
    const parts = [`${tokens} tokens`, `${speed.toFixed(0)} tokens/s`, `${accepted} accepted drafts`, ...details];
    this.line.textContent = parts.join(" · ");
  }

  add(remark) {
    this.line.append(this.line.textContent ? ` · ${remark}` : remark);
  }
}

function body() {
  const system = $("system").value;
  const messages = system ? [{ role: "system", content: system }, ...conversation] : conversation;
  const value = { messages, stream: true, stream_options: { include_usage: true } };
  for (const [name, id] of [["temperature", "temperature"], ["max_tokens", "max-tokens"], ["seed", "seed"]]) {
    if ($(id).value !== "") value[name] = $(id).valueAsNumber;
  }
  return JSON.stringify(value);
}

// The values of a stream of server-sent events, one JSON value each, up to [DONE].

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let unread = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new Error("the connection ended before the answer did");
    const parts = (unread + value).split("\n\n");
    unread = parts.pop(); // not whole yet
    for (const part of parts) {
      const data = part.slice("data: ".length);
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
  }
}

// What the answer says as far as it came; the conversation goes on from there.
async function readAnswer(turn, figures, signal) {
  let text = "";
  let rounds = {};
  try {
    const response = await ask("/v1/chat/completions", { method: "POST", body: body(), signal });
    for await (const chunk of events(response)) {
      if (chunk.error) throw new ApiError(chunk.error.message);
      const [choice] = chunk.choices;
      const added = choice?.delta.content;
      if (added) {
        text += added;
        keepingTheEndInSight(() => {
          addText(turn, added, chunk.dovetail.drafted);
          figures.count(chunk.dovetail.drafted);
        });
      }
      if (choice?.finish_reason) rounds = chunk.dovetail;
      if (chunk.usage) figures.finish(rounds, chunk.usage);
      if (choice?.finish_reason === "length") turn.dataset.cut = "";
    }
    if ("cut" in turn.dataset) figures.add("cut at the limit");
  } catch (error) {
    if (signal.aborted) figures.add("stopped");
    else showError(turn, error.message);
  }
  return text;
}

async function answer(question) {
  conversation.push({ role: "user", content: question });
  addText(addTurn("question", "You"), question, false);
  const turn = addTurn("answer running", "Answer");
  running = new AbortController();
  setRunning(true);
  scrollToEnd();
  const text = await readAnswer(turn, new Figures(turn), running.signal);
  if (text) conversation.push({ role: "assistant", content: text });
  else conversation.pop(); // a question without an answer would make two in a row
  turn.classList.remove("running");
  running = null;
  setRunning(false);
  scrollToEnd();
}

function setRunning(isRunning) {
  $("send").hidden = isRunning;
  $("stop").hidden = !isRunning;
  $("reset").disabled = isRunning;
  $("log").setAttribute("aria-busy", isRunning); // what comes is read out as a whole
  $("question").focus();
}

function scrollToEnd() {
  $("log").scrollTop = $("log").scrollHeight;
}

function keepingTheEndInSight(change) {
  const log = $("log");
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 80;
  change();
  if (atEnd) scrollToEnd();
}

function fitQuestion() {
  $("question").style.height = "auto";
  $("question").style.height = `${$("question").scrollHeight + 2}px`;
}

$("form").onsubmit = (event) => {
  event.preventDefault();
  const question = $("question").value.trim();
  if (!question || running) return;
  $("question").value = "";
  fitQuestion();
  answer(question);
};

$("question").oninput = fitQuestion;
$("question").onkeydown = (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  $("form").requestSubmit();
};

document.onkeydown = (event) => {
  if (event.key === "Escape") running?.abort();
};
$("stop").onclick = () => running?.abort();

$("tint").onchange = () => $("log").classList.toggle("tinted", $("tint").checked);

$("reset").onclick = () => {
  conversation.length = 0;
  document.querySelectorAll("article").forEach((turn) => turn.remove());
  $("welcome").hidden = false;
  $("question").focus();
};

try {
  const models = await (await ask("/v1/models")).json();
  $("model").textContent = models.data[0].id;
} catch (error) {
  $("model").textContent = error.message;
}
