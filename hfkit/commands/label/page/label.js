// The page of `hfkit label`: a state, a function that shows it, and the events that change it. Text is only ever text.

import * as ranking from "./ranking.js";
import { startDrags } from "./dragging.js";
import { buildCard, placeCards, renderCard } from "./cards.js";
import { element, moveSmoothly, reveal, textBlock } from "./showing.js";
import { Kept, newId, Rejected, request, Sender } from "./sending.js";

const by = (id) => document.getElementById(id);
const finePointer = matchMedia("(hover: hover) and (pointer: fine) and (min-width: 40.01rem)");
const settings = new Kept("settings");
let setup, kept, sender, cards = [];
const state = {
  labeler: null, row: null, progress: null, isBusy: false, chosen: null, openFlags: null,
  order: ranking.empty(0), good: false, bad: false, answer: null, note: null, flags: [], seconds: 0,
};
const DRAFT = ["order", "good", "bad", "answer", "note", "flags", "seconds"]; // what is kept of a row

// Start, and log in

async function start() {
  setup = await request("/api/setup", undefined, showOutage);
  document.title = `${setup.title}: labels`;
  by("title").textContent = setup.title;
  by("guide-text").innerHTML = setup.guide; // made by the server, in which HTML is text
  by("guide").hidden = !setup.guide;
  document.body.classList.toggle("guided", Boolean(setup.guide));
  by("shortcuts").checked = settings.get("shortcuts") ?? true;
  if (setup.labeler) await begin(setup.labeler);
  else showLogin();
}

function showLogin(message = "") {
  show("login");
  by("name").value = state.labeler || settings.get("labeler") || "";
  by("password").value = "";
  by("password-field").hidden = !setup.needs_password;
  by("password").required = setup.needs_password;
  showLoginError(message);
  by(by("name").value && setup.needs_password ? "password" : "name").focus();
}

function showLoginError(message) {
  by("login-error").textContent = message;
  by("login-error").hidden = !message;
}

async function logIn(event) {
  event.preventDefault();
  await busy(async () => {
    try {
      const password = setup.needs_password ? { password: by("password").value } : {};
      const given = { labeler: by("name").value.trim(), ...password };
      await begin((await request("/api/login", given, showOutage)).labeler);
    } catch (error) {
      if (!(error instanceof Rejected)) throw error;
      showLoginError(error.message);
    }
  });
}

async function begin(labeler) {
  settings.set("labeler", labeler);
  state.labeler = labeler;
  kept = new Kept(setup.project, labeler);
  const explain = (trouble) => `Not saved yet: ${trouble}. Trying again; it is kept in this browser.`;
  sender = new Sender(kept, (trouble) => showTrouble(trouble && explain(trouble)));
  const { rows, faults } = await sender.resend();
  for (const row of rows) kept.set(`draft/${row}`, null);
  const wanted = /^#([0-9a-f]{12})$/.exec(location.hash);
  take(await request(wanted ? `/api/rows/${wanted[1]}` : "/api/next", undefined, showOutage));
  if (faults.length) showTrouble(`A judgement was rejected: ${faults.join("; ")}`);
}

/** Run one thing at a time: buttons and keys do nothing meanwhile. */
async function busy(work) {
  if (state.isBusy) return;
  setBusy(true);
  try {
    await work();
  } catch (error) {
    if (!(error instanceof Rejected)) throw error;
    if (error.status === 401) showLogin("Log in again to go on. Nothing is lost.");
    else {
      if (error.status === 404) take(await request("/api/next", undefined, showOutage)); // its rows have changed
      showTrouble(`Rejected: ${error.message}`);
    }
  } finally {
    setBusy(false);
  }
}

function setBusy(isBusy) {
  state.isBusy = by("answer").readOnly = by("note").readOnly = isBusy;
  document.body.classList.toggle("busy", isBusy);
}

// Rows

function take({ row, ...progress }) {
  Object.assign(state, { row, progress, chosen: null, openFlags: null, seconds: 0 });
  lastTick = performance.now();
  history.replaceState(null, "", location.pathname);
  if (row) {
    Object.assign(state, draftOf(row), kept.get(`draft/${row.row}`));
    show("work");
    buildRow();
    render(false);
    scrollTo(0, 0);
    by(row.replies.length ? "prompt-title" : "answer").focus({ preventScroll: true });
  } else {
    const { done, all_done } = progress;
    const own = `You have judged or skipped ${done} ${done === 1 ? "row" : "rows"}. Thank you.`;
    by("done-text").textContent = done ? own : "Others have judged all the rows.";
    by("undo-last").hidden = !done;
    by("again").hidden = all_done >= setup.total;
    show("done");
    render(false);
    by("done-title").focus();
  }
}

/** The answers of the row as they start: empty, or those of the judgement that is changed. */
function draftOf({ replies, judgement }) {
  const own = judgement && judgement.kind !== "skip" ? judgement : null;
  return {
    order: own?.ranks ? ranking.fromRanks(replies.map(({ index }) => own.ranks[index])) : ranking.empty(replies.length),
    good: replies.length === 1 && Boolean(own) && !own.all_bad && !own.answer,
    bad: own?.all_bad || false,
    answer: own?.answer ?? (replies.length ? null : ""),
    note: own?.note || null,
    flags: replies.map(({ index }) => own?.flags?.[index] || []),
    seconds: own?.seconds || 0,
  };
}

function keepDraft() {
  if (state.row) kept.set(`draft/${state.row.row}`, Object.fromEntries(DRAFT.map((name) => [name, state[name]])));
}

/** Why the row cannot be submitted yet, or "". */
function missing() {
  const { row, order, good, bad } = state;
  const count = row.replies.length, left = order.rest.length;
  if (!count) return writtenAnswer() ? "" : "Write the answer";
  if (count === 1) return good || bad || writtenAnswer() ? "" : "Mark as good or bad";
  if (bad || !left || (left === count && writtenAnswer())) return "";
  return left === count ? "Rank the responses" : `${left} left to rank`;
}

/** The answer, or null if there is none, or if it is a response without a change. */
function writtenAnswer() {
  const text = (state.answer || "").trim();
  return text && !state.row.replies.some((reply) => reply.text.trim() === text) ? text : null;
}

function submit() {
  if (!state.row || state.isBusy) return;
  if (missing()) return announce(`${missing()} first.`, true);
  const found = ranking.ranks(state.order), { replies, row } = state.row;
  const shown = replies.map((reply) => reply.index);
  const inFileOrder = (values) => shown.map((_, index) => values[shown.indexOf(index)]);
  send({
    kind: "judgement", row,
    ranks: replies.length && !found.includes(null) ? inFileOrder(found) : null,
    all_bad: state.bad, answer: writtenAnswer(), flags: inFileOrder(state.flags), note: (state.note || "").trim(),
  }, "Saved.");
}

function skip() {
  if (state.row && !state.isBusy) send({ kind: "skip", row: state.row.row }, "Skipped.");
}

function send(event, message) {
  return busy(async () => {
    tick();
    keepDraft();
    const seconds = Math.round(state.seconds * 10) / 10;
    const answer = await sender.send("/api/judgements", { id: newId(), seconds, ...event });
    kept.set(`draft/${event.row}`, null);
    take(answer.next);
    announce(state.row ? `${message} ${countText()}.` : message);
  });
}

function undo() {
  return busy(async () => {
    const answer = await sender.send("/api/undo", { id: newId() });
    kept.set(`draft/${answer.row.row}`, null);
    take(answer);
    announce("The last one is open again.");
  });
}

// Show the state

function show(name) {
  for (const one of ["login", "work", "done"]) by(one).hidden = one !== name;
  by("actions").hidden = name !== "work";
  by("progress").hidden = by("labeler").hidden = name === "login";
}

function showTrouble(trouble) {
  by("banner").hidden = !trouble;
  by("banner").textContent = trouble || "";
}

function showOutage(trouble) {
  showTrouble(trouble && `Waiting for the server: ${trouble}.`);
}

function announce(message, isVisible = false) {
  by("live").textContent = "";
  requestAnimationFrame(() => (by("live").textContent = message));
  if (isVisible) {
    by("state").classList.remove("nudged");
    requestAnimationFrame(() => by("state").classList.add("nudged"));
  }
}

function countText() {
  const { done, total } = state.progress;
  return state.row ? `${Math.min(done + 1, total)} of ${total}` : `${done} of ${total}`;
}

function buildRow() {
  const { row, prompt, replies } = state.row;
  by("work").dataset.row = row;
  by("prompt").replaceChildren(...prompt.map(({ role, content }) => {
    const turn = element("div", { className: `turn ${role === "user" || role === "assistant" ? role : "system"}` });
    turn.append(...(prompt.length > 1 || role !== "user" ? [element("h3", {}, role)] : []), ...textBlock(content));
    return turn;
  }));
  cards = replies.map(({ text }, one) => buildCard(text, one, replies.length, setup.flags, RUN));
  by("extras")[replies.length ? "prepend" : "append"](by("extras").querySelector(".choices"));
  by("responses").hidden = !replies.length;
  by("responses").classList.toggle("alone", replies.length === 1);
  by("responses-title").textContent = replies.length > 1 ? "Responses" : "Response";
  by("good").hidden = replies.length !== 1;
  by("bad").hidden = by("write").hidden = !replies.length;
  by("remove-answer").hidden = !replies.length;
  by("rest").replaceChildren();
  by("ranked").replaceChildren();
  by("answer").value = state.answer || "";
  by("note").value = state.note || "";
  by("bad").firstChild.textContent = replies.length > 1 ? "All bad" : "Bad";
  by("write").firstChild.textContent = replies.length > 1 ? "Write the ideal answer" : "Correct the response";
}

function render(isAnimated = true) {
  const { row, order, progress } = state;
  by("labeler").textContent = state.labeler;
  by("labeler").ariaLabel = `${state.labeler}: change the labeler`;
  by("bar").max = Math.max(1, progress.total);
  by("bar").value = progress.done;
  by("count").textContent = countText();
  by("timer").hidden = !row;
  by("undo").disabled = !progress.done;
  showTime();
  if (!row) return;
  moveSmoothly(cards, isAnimated, () => placeCards(cards, order, { ranked: by("ranked"), rest: by("rest") }));
  cards.forEach((card, one) => {
    renderCard(card, one, order, state.flags[one], state.openFlags === one, state.chosen === one);
  });
  by("rest-title").hidden = !order.rest.length || !order.ranked.length;
  by("responses").classList.toggle("bad", state.bad);
  by("hint").textContent = hintText(row.replies.length);
  by("good").ariaPressed = String(state.good);
  by("bad").ariaPressed = String(state.bad);
  for (const [button, name] of [["write", "answer"], ["add-note", "note"]]) {
    by(button).ariaExpanded = String(state[name] !== null);
    by(`${name}-field`).hidden = state[name] === null;
  }
  by("answer-state").textContent = answerText();
  const gap = missing();
  by("state").textContent = gap;
  by("submit").classList.toggle("waiting", Boolean(gap));
  by("tie-rest").hidden = !order.ranked.length || order.rest.length < 2 || state.bad;
}

function hintText(count) {
  if (count === 1) return "Mark it as good or bad, or correct it.";
  if (state.bad) return "All are marked as bad. Ranks are optional.";
  if (state.order.rest.length < count) return "";
  const act = finePointer.matches ? `Press ${count > 2 ? "the numbers" : "1 or 2"}` : "Tap the circles";
  return `${act} from best to worst, or drag.`;
}

function answerText() {
  if (state.answer === null || !state.row.replies.length) return "";
  if (!state.answer.trim()) return "Empty: nothing is saved.";
  return writtenAnswer() ? "Saved as the ideal answer." : "Same as a response: change it, or nothing is saved.";
}

// Change the state

function choose(one) {
  if (state.chosen === one) return;
  state.chosen = one;
  cards.forEach((card, index) => card.classList.toggle("chosen", index === one));
}

function change(order, one, isShown = false) {
  if (state.isBusy) return;
  state.order = order;
  if (one !== undefined) choose(one);
  render();
  keepDraft();
  if (one === undefined) return announce(missing() || "All ranked.");
  if (isShown) {
    cards[one].focus({ preventScroll: true });
    reveal(cards[one]);
  }
  announce(cards[one].ariaLabel);
}

function set(changes) {
  if (state.isBusy || !state.row) return;
  Object.assign(state, changes);
  render();
  keepDraft();
}

function toggleRank(one) {
  if (!ranking.isRanked(state.order, one)) change(ranking.place(state.order, one), one);
  else change(ranking.clearFrom(state.order, ranking.groupIndex(state.order, one)), one);
}

function toggleFlag(one, index) {
  const own = state.flags[one], flag = setup.flags[index];
  const next = setup.flags.filter((other) => own.includes(other) !== (other === flag));
  set({ flags: state.flags.map((old, other) => (other === one ? next : old)) });
  announce(cards[one].ariaLabel);
}

function showFlags(one) {
  if (!setup.flags.length) return;
  const isOpen = state.openFlags !== one;
  set({ openFlags: isOpen ? one : null });
  (isOpen ? cards[one].parts.chips[0] : cards[one]).focus({ preventScroll: true });
}

/** Open the answer, with the text of a response: the given one, else the best, else the chosen one. */
function writeAnswer(one = state.order.ranked[0]?.[0] ?? state.chosen) {
  if (!writtenAnswer()) {
    set({ answer: state.row.replies[one]?.text ?? "" });
    by("answer").value = state.answer;
  }
  focusText("answer");
}

function focusText(id) {
  by(id).focus({ preventScroll: true });
  reveal(by(`${id}-field`));
}

function addNote() {
  if (state.note === null) set({ note: "" });
  focusText("note");
}

function removeAnswer() {
  set({ answer: null });
  by("write").focus();
}

/** What the buttons of a card do. */
const RUN = {
  choose, toggleRank, toggleFlag, showFlags, writeAnswer,
  toggleTie: (one) => change(ranking.toggleTie(state.order, one), one),
  moveUp: (one) => change(ranking.move(state.order, one, -1), one),
  moveDown: (one) => change(ranking.move(state.order, one, 1), one),
};

// Time: only while the page is visible

let lastTick = performance.now(), wasVisible = !document.hidden;

function tick() {
  const now = performance.now();
  if (state.row && wasVisible && !by("work").hidden) state.seconds += (now - lastTick) / 1000;
  lastTick = now;
  wasVisible = !document.hidden;
}

function showTime() {
  const seconds = Math.floor(state.seconds);
  by("timer").textContent = `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
}

setInterval(() => {
  tick();
  showTime();
}, 1000);
document.addEventListener("visibilitychange", tick);

// Keys

const KEYS = {
  ArrowUp: () => step(-1),
  ArrowDown: () => step(1),
  t: () => onChosen((one) => change(ranking.toggleTie(state.order, one), one, true)),
  r: () => change(ranking.tieRest(state.order)),
  Backspace: () => change(ranking.clearFrom(state.order, state.order.ranked.length - 1)),
  g: () => state.row.replies.length === 1 && set({ good: !state.good, bad: false }),
  b: () => state.row.replies.length && set({ bad: !state.bad, good: false }),
  e: () => writeAnswer(),
  n: addNote,
  f: () => onChosen(showFlags),
  x: () => (cards[state.chosen] ?? by("prompt")).querySelector(".more:not([hidden])")?.click(),
  s: skip,
  u: undo,
  "?": () => by("help").showModal(),
};
const MOVES = { ArrowUp: -1, ArrowDown: 1 };

function onChosen(run) {
  if (state.chosen === null) return announce("Choose a response first.");
  run(state.chosen);
}

function step(by) {
  const shown = ranking.order(state.order), at = shown.indexOf(state.chosen);
  const next = shown[at < 0 ? 0 : Math.max(0, Math.min(at + by, shown.length - 1))];
  if (next === undefined) return;
  cards[next].focus({ preventScroll: true });
  reveal(cards[next]);
}

function onKey(event) {
  const { key, target } = event, isWork = !by("work").hidden;
  if (by("help").open || event.isComposing) return;
  const isText = target.matches("textarea, input:not([type=checkbox])");
  if (key === "Enter" && (event.ctrlKey || event.metaKey)) return isWork && !event.repeat && run(submit);
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (isText) return key === "Escape" && isWork && run(() => (cards[state.chosen] ?? by("prompt-title")).focus());
  if (!isWork && !(key === "u" && !by("undo-last").hidden) && key !== "?") return;
  if (key === "Enter") return target.closest("button, a, summary") || event.repeat || run(submit);
  if (key === "Escape" && state.openFlags !== null) return run(() => showFlags(state.openFlags));
  if (key in MOVES && (event.shiftKey || target.closest(".handle"))) {
    return run(() => onChosen((one) => {
      change(ranking.move(state.order, one, MOVES[key]), one, !target.closest(".handle"));
    }));
  }
  if (key.length === 1 && !by("shortcuts").checked) return;
  if (/^[1-9]$/.test(key)) return run(() => onDigit(Number(key) - 1));
  if (key.startsWith("Arrow") && target.closest("summary, select")) return;
  const own = KEYS[key] ?? KEYS[key.toLowerCase()];
  if (own && !(event.repeat && !key.startsWith("Arrow"))) run(own);

  function run(work) {
    event.preventDefault();
    if (!state.isBusy) work();
  }
}

function onDigit(digit) {
  if (document.activeElement.closest(".flags")) return digit < setup.flags.length && toggleFlag(state.chosen, digit);
  if (digit < cards.length) change(ranking.place(state.order, digit), digit, true);
}

document.addEventListener("keydown", onKey);
const BUTTONS = {
  good: "g", bad: "b", write: "e", "add-note": "n", "tie-rest": "r", skip: "s", undo: "u", "undo-last": "u", "help-button": "?",
};
for (const [id, key] of Object.entries(BUTTONS)) by(id).onclick = () => KEYS[key]();
by("login").addEventListener("submit", logIn);
by("labeler").onclick = () => state.isBusy || showLogin();
by("shortcuts").onchange = () => settings.set("shortcuts", by("shortcuts").checked);
by("remove-answer").onclick = removeAnswer;
by("answer").oninput = () => set({ answer: by("answer").value });
by("note").oninput = () => set({ note: by("note").value });
by("submit").onclick = submit;
by("again").onclick = () => busy(async () => take(await request("/api/next", undefined, showOutage)));
startDrags(by("responses"), {
  cards: () => (state.isBusy ? [] : cards),
  drop: (one, other, where) => change(ranking.drop(state.order, one, other, where), one),
});
busy(start);
