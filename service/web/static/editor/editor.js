// The editor: the page of one transcript.
import * as api from "../api.js";
import { announce, ask, button, byId, el, fill, icon, notice } from "../dom.js";
import { duration, plural } from "../format.js";
import { user } from "../shell.js";
import { Doubts } from "./doubts.js";
import { Find } from "./find.js";
import { showHistory } from "./history.js";
import * as keys from "./keys.js";
import { Player } from "./player.js";
import { Saver } from "./saving.js";
import { normal } from "./segment.js";
import { set, settings } from "./settings.js";
import { nameSpeakers } from "./speakers.js";
import { Transcript } from "./transcript.js";
import { Waveform } from "./waveform.js";
import { Zoom } from "./zoom.js";

const REPORT_EVERY = 4000;  // ms
const BEFORE_WORD = 0.3;  // s; the models' times are off by tenths
const UNSURE = 0.4;  // words below this probability are underlined
const SNAPSHOT_AFTER = 500;  // ms without a key
const BEYOND = 200;  // px above and below the window
const CODE = /^[A-Z]{1,3}-?[0-9]{1,4}(-[A-Z]{0,3}[0-9]{1,3})?$/;
const PAGE = crypto.getRandomValues(new Uint32Array(4)).reduce((text, part) => text + part.toString(36), "").slice(0, 24);

const id = location.pathname.split("/")[2];
const container = byId("transcript");
const transcript = new Transcript(id, container, byId("segment"));
const saver = new Saver((segment) => transcript.saveText(segment));
transcript.saver = saver;
const player = new Player(id);
const doubts = new Doubts(transcript, byId("doubt-list"));
let find = null;
let current = null;  // the segment of the roving tab stop
let flags = [];
let labels = {};  // by shown name

// --- the caret and the text ---------------------------------------------------------------------

const PLAIN = (() => {
  try { document.createElement("p").contentEditable = "plaintext-only"; return "plaintext-only"; } catch { return "true"; }
})();

/** Move the transcript's one tab stop. */
function setCurrent(segment) {
  if (segment === current || !segment) return;
  if (current?.p) current.p.tabIndex = -1;
  current = segment;
  segment.p.tabIndex = 0;
}

function edit(segment) {
  const { p } = segment;
  if (p.isContentEditable) return;
  p.setAttribute("contenteditable", PLAIN);
  p.setAttribute("role", "textbox");
  p.setAttribute("aria-multiline", "true");
  p.setAttribute("aria-label", segment.element.getAttribute("aria-label"));
  p.spellcheck = settings.spellcheck;
}

function stopEditing(segment) {
  const { p } = segment;
  for (const name of ["contenteditable", "role", "aria-multiline", "aria-label"]) p.removeAttribute(name);
  if (transcript.focused === segment) transcript.focused = null;
  if (segment.gone) return;
  if (normal(segment.text) === segment.saved) segment.text = segment.saved;
  segment.future = [];
  saver.flush(segment);
  if (segment.remote) transcript.useRemote(segment);
  segment.element.querySelector(".notice.remote")?.remove();
  paintDoubts(segment);
}

/** Put the caret into a segment: at a place in its text, or at the end if that is negative. */
function placeCaret(segment, offset = 0) {
  setCurrent(segment);
  edit(segment);
  segment.p.focus({ preventScroll: true });
  const { node } = segment;
  getSelection().collapse(node, offset < 0 ? node.data.length : Math.min(offset, node.data.length));
  segment.p.scrollIntoView({ block: "nearest" });
}

function caret() {
  const selection = getSelection();
  const segment = transcript.of(selection.anchorNode);
  if (!segment || !selection.rangeCount || segment.p !== document.activeElement) return null;
  segment.node;  // joins text nodes that a browser has made
  const range = selection.getRangeAt(0);
  const at = (container, offset) => (container === segment.p ? (offset ? segment.text.length : 0) : offset);
  return { segment, start: at(range.startContainer, range.startOffset), end: at(range.endContainer, range.endOffset) };
}

container.addEventListener("pointerdown", (event) => {
  const p = event.target.closest(".said");
  const segment = p && transcript.of(p);
  if (segment && event.button === 0 && !event.shiftKey) { setCurrent(segment); edit(segment); }
});

container.addEventListener("focusin", (event) => {
  const segment = transcript.of(event.target);
  if (!segment) return;
  setCurrent(segment);
  if (event.target === segment.p && segment.p.isContentEditable) transcript.focused = segment;
});

container.addEventListener("focusout", (event) => {
  const segment = transcript.of(event.target);
  if (segment && event.target === segment.p && segment.p.isContentEditable) stopEditing(segment);
});

let lastKey = 0;
container.addEventListener("beforeinput", (event) => {
  const segment = transcript.of(event.target);
  if (!segment) return;
  const type = event.inputType;
  if (type === "historyUndo" || type === "historyRedo") {
    event.preventDefault();
    if (type === "historyUndo") transcript.undo(); else transcript.again();
  } else if (type === "insertParagraph" || type === "insertLineBreak") {
    event.preventDefault();
    splitHere();
  } else if (type === "insertFromPaste" || type === "insertFromDrop" || type.startsWith("format")) {
    event.preventDefault();
    const text = event.dataTransfer?.getData("text/plain") ?? event.data;
    if (text && !type.startsWith("format")) write(text.replace(/\s+/g, " "));
  } else if (type === "deleteContentBackward" || type === "deleteContentForward") {
    const place = caret();
    if (!place || place.start !== place.end) return;
    if (type === "deleteContentBackward" && place.start === 0) { event.preventDefault(); join(segment); }
    if (type === "deleteContentForward" && place.start === segment.text.length) {
      event.preventDefault();
      const following = transcript.after(segment);
      if (following) join(following);
    }
  }
  if (!event.defaultPrevented && !event.isComposing && Date.now() - lastKey > SNAPSHOT_AFTER) remember(segment);
  lastKey = Date.now();
});

/** Keep the text as it was, so that undo takes back what is typed from now on. */
function remember(segment) {
  if (segment.snapshots.at(-1) !== segment.text) segment.snapshots.push(segment.text);
  if (segment.snapshots.length > 500) segment.snapshots.shift();
}

container.addEventListener("input", (event) => {
  const segment = transcript.of(event.target);
  if (!segment) return;
  segment.node;
  changed(segment);
});

function changed(segment) {
  segment.future = [];
  transcript.redo = [];
  unpaintDoubts(segment);
  if (playing.segment === segment) nowHighlight?.clear();
  if (settings.pauseWhileTyping && player.playing) { player.pause(); resumeLater(); }
  saver.touch(segment);
}

let resumeTimer = null;
function resumeLater() {
  clearTimeout(resumeTimer);
  const wait = () => { if (Date.now() - lastKey > 1500) player.play(); else resumeTimer = setTimeout(wait, 300); };
  resumeTimer = setTimeout(wait, 1500);
}

/** Write a text at the caret, in place of what is selected. */
function write(text) {
  const place = caret();
  if (!place) return;
  const { segment, start, end } = place;
  remember(segment);
  segment.node.replaceData(start, end - start, text);
  getSelection().collapse(segment.node, start + text.length);
  changed(segment);
}

function splitHere() {
  const place = caret();
  if (!place || place.segment.conflict) return;
  const { segment, start, end } = place;
  if (start !== end) segment.node.deleteData(start, end - start);
  if (!segment.text.slice(start).trim()) {
    const following = transcript.after(segment);
    if (following) placeCaret(following, 0);
    return;
  }
  const second = transcript.split(segment, start);
  if (second) placeCaret(second, 0);
}

async function join(segment) {
  const first = transcript.before(segment);
  if (!first || first.conflict || segment.conflict) return;
  let speaker;
  if (first.speaker !== segment.speaker) {
    speaker = await ask("Who speaks in the joined segment?",
      el("p", {}, "The two segments have different speakers. Choose one for the joined segment."),
      [...new Set([first.speaker, segment.speaker])].map((each, i) => ({ label: each ?? "unknown", value: { speaker: each }, primary: i === 0 })).concat({ label: "Cancel", value: null }));
    if (!speaker) { placeCaret(segment, 0); return; }
  }
  const made = transcript.merge(segment, speaker?.speaker);
  if (made) placeCaret(made.segment, made.offset);
}

container.addEventListener("keydown", (event) => {
  if (event.isComposing || event.ctrlKey || event.metaKey || event.altKey) return;
  const segment = transcript.of(event.target);
  if (!segment || event.target !== segment.p) return;
  const isEditing = segment.p.isContentEditable;
  const neighbour = { ArrowUp: "before", ArrowDown: "after" }[event.key];
  if (!isEditing) {
    if (event.key === "Enter") { event.preventDefault(); placeCaret(segment, 0); }
    if (neighbour) {
      const next = transcript[neighbour](segment);
      if (next) { event.preventDefault(); setCurrent(next); next.p.focus(); }
    }
    return;
  }
  if (neighbour && !event.shiftKey) {
    const place = caret();
    if (place && isAtEdge(segment, event.key === "ArrowUp")) {
      const next = transcript[neighbour](segment);
      if (next) { event.preventDefault(); placeCaret(next, event.key === "ArrowUp" ? -1 : 0); }
    }
  }
  const place = event.key === "ArrowLeft" || event.key === "ArrowRight" ? caret() : null;
  if (place && place.start === place.end && !event.shiftKey && getComputedStyle(segment.p).direction !== "rtl") {
    if (event.key === "ArrowLeft" && place.start === 0 && transcript.before(segment)) { event.preventDefault(); placeCaret(transcript.before(segment), -1); }
    if (event.key === "ArrowRight" && place.start === segment.text.length && transcript.after(segment)) { event.preventDefault(); placeCaret(transcript.after(segment), 0); }
  }
});

/** Whether the caret is in the first, or the last, line of the segment. */
function isAtEdge(segment, isFirst) {
  const range = getSelection().getRangeAt(0).cloneRange();
  range.collapse(true);
  const [at] = range.getClientRects();
  if (!at) return true;
  const box = segment.p.getBoundingClientRect();
  const line = at.height || 20;
  return isFirst ? at.top - box.top < line * 0.9 : box.bottom - at.bottom < line * 0.9;
}

// --- what is heard ------------------------------------------------------------------------------

const nowHighlight = globalThis.Highlight ? new Highlight() : null;
const doubtHighlight = globalThis.Highlight ? new Highlight() : null;
if (nowHighlight) {
  nowHighlight.priority = 2;
  CSS.highlights.set("now", nowHighlight);
  CSS.highlights.set("doubt", doubtHighlight);
}
const playing = { segment: null, word: -1 };

function showPlace() {
  const { time } = player;
  byId("now").textContent = duration(time);
  const segment = transcript.at(time);
  const word = segment && !segment.isDirty && player.playing ? segment.wordAt(time) : -1;
  if (segment !== playing.segment) {
    playing.segment?.element.classList.remove("playing");
    playing.segment?.element.removeAttribute("aria-current");
    segment?.element.classList.add("playing");
    segment?.element.setAttribute("aria-current", "true");
    playing.segment = segment;
    playing.word = -2;
    if (segment && player.playing) follow(segment);
  }
  if (word === playing.word) return;
  playing.word = word;
  if (!nowHighlight) return;
  nowHighlight.clear();
  const range = word >= 0 ? segment.range(word) : null;
  if (range) nowHighlight.add(range);
}

const calm = matchMedia("(prefers-reduced-motion: reduce)");
function follow(segment) {
  if (!settings.follow || transcript.focused || !getSelection().isCollapsed || document.querySelector("dialog[open]")) return;
  const box = segment.element.getBoundingClientRect();
  const height = innerHeight;
  if (box.top > height * 0.2 && box.bottom < height * 0.7) return;
  scrolledByUs = Date.now();
  segment.element.scrollIntoView({ block: "center", behavior: calm.matches ? "auto" : "smooth" });
}
let scrolledByUs = 0;
for (const name of ["wheel", "touchmove"]) {
  addEventListener(name, () => { if (player.playing && settings.follow && Date.now() - scrolledByUs > 200) setFollow(false); }, { passive: true });
}
function setFollow(on) {
  set("follow", on);
  byId("follow").setAttribute("aria-pressed", String(on));
  if (on && playing.segment) follow(playing.segment);
}

/** Words that the models were unsure of are underlined where they can be seen: thousands would be slow. */
const painted = new Map();
function paintDoubts(segment) {
  unpaintDoubts(segment);
  if (!doubtHighlight || !visible.has(segment)) return;
  const ranges = [];
  segment.words.forEach((word, i) => {
    if (word.probability !== null && word.probability < UNSURE) {
      const range = segment.range(i);
      if (range) { ranges.push(range); doubtHighlight.add(range); }
    }
  });
  painted.set(segment, ranges);
}
function unpaintDoubts(segment) {
  for (const range of painted.get(segment) ?? []) doubtHighlight.delete(range);
  painted.delete(segment);
}
let visible = new Set();
/** Look which segments are on the screen. An IntersectionObserver of each would slow every key. */
function lookAround() {
  const { segments } = transcript;
  const box = (i) => segments[i].element.getBoundingClientRect();
  let low = 0, high = segments.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (box(middle).bottom < -BEYOND) low = middle + 1; else high = middle;
  }
  const before = visible;
  visible = new Set();
  for (let i = low; i < segments.length && box(i).top < innerHeight + BEYOND; i += 1) visible.add(segments[i]);
  for (const segment of before) if (!visible.has(segment)) unpaintDoubts(segment);
  for (const segment of visible) if (!before.has(segment)) paintDoubts(segment);
}
let looking = null;
const lookSoon = () => { looking ??= setTimeout(() => { looking = null; lookAround(); }, 80); };
for (const name of ["scroll", "resize"]) addEventListener(name, lookSoon, { passive: true });

// --- the segments' buttons ----------------------------------------------------------------------

container.addEventListener("click", (event) => {
  const control = event.target.closest("button");
  const segment = control && transcript.of(control);
  if (!segment) return;
  if (control.classList.contains("time")) { player.seek(segment.start - BEFORE_WORD); player.play(); }
  if (control.classList.contains("who")) openMenu(segment, control);
  if (control.classList.contains("check")) toggleCheck(segment);
});
container.addEventListener("contextmenu", (event) => {
  const meta = event.target.closest(".meta");
  if (meta) { event.preventDefault(); openMenu(transcript.of(meta), meta.querySelector(".who")); }
});

async function ownCode() {
  if (CODE.test(settings.code)) return settings.code;
  const input = el("input", { id: "own-code", maxlength: "12", autocomplete: "off", placeholder: "R1", value: "" });
  const content = el("div", { class: "field" }, el("label", { for: "own-code" }, "Your code"), input,
    el("p", { class: "hint" }, "One to three capitals and a number, such as R1. It is stored with every segment that you check. You can change it in the settings."));
  for (;;) {
    if (!await ask("Your code", content, [{ label: "Use this code", value: true, primary: true }, { label: "Cancel", value: null }])) return null;
    const code = input.value.trim().toUpperCase();
    if (CODE.test(code)) { set("code", code); return code; }
    content.append(notice("error", "A code is one to three capitals and a number, such as R1."));
  }
}

async function toggleCheck(segment) {
  if (segment.checkedBy) { transcript.setChecked(segment, null); return true; }
  const code = await ownCode();
  if (!code) return false;
  transcript.setChecked(segment, code);
  return true;
}

let menu = null;
function closeMenu(returnFocus = true) {
  if (!menu) return;
  const { box, opener, giveBack } = menu;
  menu = null;
  box.remove();
  opener.removeAttribute("aria-expanded");
  if (returnFocus && opener.isConnected) giveBack();
}

function openMenu(segment, opener, giveBack = () => opener.focus()) {
  closeMenu(false);
  const item = (label, run, attributes = {}) =>
    el("button", { type: "button", role: "menuitem", tabindex: "-1", onclick: () => { closeMenu(); run(); }, ...attributes }, label);
  const speakers = transcript.speakers.map((speaker, i) => item(
    [el("span", { class: `dot speaker-${transcript.colour(speaker)}`, "aria-hidden": "true" }), speaker, i < 9 ? el("kbd", { "aria-hidden": "true" }, `Ctrl+Shift+${i + 1}`) : null],
    () => transcript.setSpeaker(segment, speaker),
    { role: "menuitemradio", "aria-checked": String(speaker === segment.speaker) }));
  const later = transcript.fromHere(segment).length;
  const place = caret();
  const splitAt = place?.segment === segment ? place.start : lastCaret?.segment === segment ? lastCaret.start : null;
  const box = el("div", { class: "segment-menu", role: "menu", "aria-label": "Segment" },
    el("div", { class: "label", "aria-hidden": "true" }, "Speaker"),
    speakers,
    item("New speaker", () => addSpeaker(segment)),
    item("Unknown speaker", () => transcript.setSpeaker(segment, null), { role: "menuitemradio", "aria-checked": String(segment.speaker === null) }),
    later > 1 ? item("Change the speaker from here on…", () => changeFromHere(segment)) : null,
    el("hr", { role: "separator" }),
    item("Play this segment", () => replay(segment)),
    splitAt ? item("Split at the cursor", () => { const second = transcript.split(segment, splitAt); if (second) placeCaret(second, 0); }) : null,
    transcript.before(segment) ? item("Join with the previous segment", () => join(segment)) : null,
    item("Add a segment below", () => addAfter(segment)),
    item("Delete this segment…", () => removeSegment(segment)));
  menu = { box, opener, giveBack };
  opener.setAttribute("aria-expanded", "true");
  document.body.append(box);
  const at = opener.getBoundingClientRect();
  const height = box.offsetHeight, width = box.offsetWidth;
  box.style.left = `${Math.max(8, Math.min(at.left, innerWidth - width - 8))}px`;
  box.style.top = `${at.bottom + height + 8 < innerHeight ? at.bottom + 4 : Math.max(8, at.top - height - 4)}px`;
  const items = [...box.querySelectorAll("button")];
  (items.find((each) => each.getAttribute("aria-checked") === "true") ?? items[0]).focus();
  box.addEventListener("keydown", (event) => {
    const here = items.indexOf(document.activeElement);
    const to = { ArrowDown: here + 1, ArrowUp: here - 1, Home: 0, End: items.length - 1 }[event.key];
    if (to !== undefined) { event.preventDefault(); items[(to + items.length) % items.length].focus(); }
    if (event.key === "Escape" || event.key === "Tab") { event.preventDefault(); closeMenu(); }
  });
}
document.addEventListener("pointerdown", (event) => { if (menu && !menu.box.contains(event.target)) closeMenu(false); });
let lastCaret = null;
document.addEventListener("selectionchange", () => { const place = caret(); if (place) lastCaret = place; });
addEventListener("scroll", () => closeMenu(false), { passive: true });

/** Open the menu by keys; then the focus, and the caret, come back to the text. */
function openMenuHere() {
  const segment = segmentHere();
  if (!segment) return;
  const place = caret();
  openMenu(segment, segment.element.querySelector(".who"), () => { if (place) placeCaret(segment, place.start); else segment.p.focus(); });
}

const newSpeaker = () => `SPEAKER_${String(Object.keys(labels).length || transcript.speakers.length).padStart(2, "0")}`;
function addSpeaker(segment) { transcript.setSpeaker(segment, newSpeaker()); }

async function changeFromHere(segment) {
  const n = transcript.fromHere(segment).length;
  const others = transcript.speakers.filter((each) => each !== segment.speaker);
  const answer = await ask("Who says this from here on?",
    el("p", {}, `This changes the speaker of ${plural(n, "segment")} of ${segment.speaker ?? "unknown"}, from ${duration(segment.start)} to the end. A single undo reverts it.`),
    [...others.map((each) => ({ label: each, value: { speaker: each } })), { label: "A new speaker", value: { speaker: newSpeaker() } }, { label: "Cancel", value: null }]);
  segment.p.focus();
  if (!answer) return;
  const done = await transcript.setSpeakerFrom(segment, answer.speaker);
  if (done) announce(`Changed ${plural(done.segments.length, "segment")}.${done.skipped.length ? ` Left ${plural(done.skipped.length, "segment")} that another person has changed.` : ""}`);
}

async function addAfter(segment, times = null) {
  const made = await transcript.insertAfter(segment, "[inaudible]", times);
  if (!made) return;
  placeCaret(made, 0);
  getSelection().setBaseAndExtent(made.node, 0, made.node, made.node.data.length);
}

async function removeSegment(segment) {
  const sure = await ask("Delete this segment?",
    el("p", {}, `${segment.speaker ?? "unknown"}, ${duration(segment.start)}, ${(segment.end - segment.start).toFixed(1)} s. Undo brings it back, and earlier versions keep it.`),
    [{ label: "Delete it", value: true, danger: true }, { label: "Keep it", value: null }]);
  if (!sure) return;
  const next = transcript.after(segment) ?? transcript.before(segment);
  transcript.remove(segment);
  if (next) { setCurrent(next); next.p.focus(); }
}

function replay(segment) {
  player.seek(segment.start - BEFORE_WORD);
  player.play({ stopAt: segment.end + 0.2 });
}

// --- conflicts and other people -----------------------------------------------------------------

transcript.addEventListener("conflict", ({ detail: segment }) => {
  const { theirs } = segment.conflict;
  const choose = (choice) => () => { box.remove(); transcript.settle(segment, choice); };
  const box = notice("warning",
    el("p", {}, el("strong", {}, theirs === null ? "Another person has deleted this segment while you were editing it." : "Another person has changed the same words.")),
    theirs === null ? null : el("p", {}, "Their text: ", el("q", { class: "said-small", dir: "auto" }, theirs)),
    el("p", { class: "small" }, "Your text is still here, but not saved."),
    el("div", { class: "row" },
      button(theirs === null ? "Keep my text" : "Use mine", { class: "primary", onclick: choose("mine") }),
      button(theirs === null ? "Delete it" : "Use theirs", { onclick: choose("theirs") }),
      theirs === null ? null : button("Use both", { onclick: choose("both") })));
  box.classList.add("conflict");
  box.setAttribute("role", "alert");
  segment.element.querySelector(".notice.conflict")?.remove();
  segment.element.append(box);
  showSaved();
});

transcript.addEventListener("remote", ({ detail: segment }) => {
  if (segment.remote.removed || segment.isDirty) return;
  segment.element.querySelector(".notice.remote")?.remove();
  const box = notice("info", el("p", {}, "Another person has changed this segment: ", el("q", { class: "said-small", dir: "auto" }, segment.remote.text)),
    el("div", { class: "row" }, button("Use their text", { onclick: () => { box.remove(); transcript.useRemote(segment); } })));
  box.classList.add("remote");
  segment.element.append(box);
});

async function report() {
  if (document.hidden) return;
  try {
    const body = { page: PAGE, segment: current?.id ?? null };
    const answer = await api.put(`${transcript.path}/presence`, body, { background: true });
    showPeople(answer.people);
    if (answer.version > transcript.known && !saver.queue.length) transcript.sync();
  } catch { /* the saver says so where it matters */ }
}

function showPeople(people) {
  for (const tag of container.querySelectorAll(".here")) { tag.closest(".segment").classList.remove("visited"); tag.remove(); }
  fill(byId("people"), people.filter(({ you }) => !you).map(({ name, segment: place, activity }) => {
    const segment = transcript.byId.get(place);
    const label = name ?? "Another person";
    if (activity === "reviewing") return el("span", { class: "tag" }, icon("user"), `${label} is reviewing it`);
    segment?.element.classList.add("visited");
    segment?.element.querySelector(".meta").append(el("span", { class: "here small" }, icon("user"), label));
    return el("span", { class: "tag" }, icon("user"), segment ? `${label} is at ${duration(segment.start)}` : `${label} is here`);
  }));
}

// --- what the page shows of itself --------------------------------------------------------------

const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });
let hasFailed = false;  // and nobody has been told that it is saved after all
function showSaved() {
  const open = transcript.segments.filter((segment) => segment.conflict).length;
  const texts = {
    clean: "", saving: "Saving…",
    saved: saver.savedAt ? `Saved ${clock.format(saver.savedAt)}` : "",
    waiting: `Not saved: ${saver.reason}. Your text is still here: keep this page open.`,
  };
  const text = open ? `${plural(open, "segment")} not saved: choose which text to keep` : texts[saver.state];
  const line = byId("saved");
  line.dataset.state = open ? "waiting" : saver.state;
  line.textContent = text;
  if (saver.state === "waiting" && !hasFailed) { hasFailed = true; announce(text); }
  if (hasFailed && line.dataset.state === "saved") { hasFailed = false; announce("Everything is saved again."); }
}
saver.addEventListener("state", showSaved);

function showProgress() {
  const { segments } = transcript;
  const total = segments.reduce((sum, each) => sum + each.end - each.start, 0);
  const done = segments.reduce((sum, each) => sum + (each.checkedBy ? each.end - each.start : 0), 0);
  const share = total ? done / total : 0;
  byId("checked").value = share;
  byId("checked-count").textContent = `Checked: ${share > 0 && share < 0.01 ? "under 1" : Math.floor(share * 100)} %`;
}

function showRefused(problem) {
  const box = notice("error", el("p", {}, problem.message), el("p", { class: "small" }, button("Close", { class: "quiet", onclick: () => box.remove() })));
  fill(byId("notices"), box);
}
transcript.addEventListener("refused", ({ detail }) => {
  if (detail.code === "nothing_to_undo") announce("There is nothing to undo.");
  fill(byId("notices"), detail.code === "nothing_to_undo" ? notice("info", "There is nothing to undo.") : null);
  if (detail.code !== "nothing_to_undo") showRefused(detail);
  else setTimeout(() => fill(byId("notices")), 3000);
});

let due = null;
function refreshSoon() {
  due ??= setTimeout(() => { due = null; showProgress(); lookAround(); waveform?.draw(); }, 100);
}
transcript.addEventListener("list", () => {
  refreshSoon();
  if (!current?.element.isConnected && transcript.segments.length) setCurrent(transcript.segments[0]);
});
transcript.addEventListener("changed", ({ detail }) => {
  refreshSoon();
  for (const segment of detail ?? []) if (segment !== transcript.focused) paintDoubts(segment);
});
transcript.addEventListener("speakers", loadSpeakers);
transcript.addEventListener("caret", ({ detail: { segment, offset } }) => placeCaret(segment, offset));
transcript.addEventListener("undone", ({ detail: segment }) => {
  if (!segment?.element.isConnected) return;
  if (transcript.focused && transcript.focused !== segment) placeCaret(segment, -1);
  else segment.element.scrollIntoView({ block: "nearest" });
});

/** Fetch the speakers' labels and names. */
async function loadSpeakers() {
  const found = await api.get(`${transcript.path}/speakers`, { background: true });
  labels = found.speakers;
  const voices = Object.values(labels);
  transcript.setSpeakers([...new Set(voices.map(({ name }) => name))], Object.fromEntries(voices.map((voice) => [voice.name, voice])));
  for (const segment of transcript.segments) transcript.refresh(segment);
  waveform?.draw();
}

// --- doubts -------------------------------------------------------------------------------------

doubts.addEventListener("count", () => {
  const n = doubts.open.length;
  byId("doubt-count").textContent = n ? `${n} to check` : "Nothing to check";
});
doubts.addEventListener("go", ({ detail: item }) => {
  const card = byId("doubt-card");
  card.hidden = !item;
  if (!item) { announce("No places are left to check."); return; }
  const segment = doubts.segmentOf(item);
  const number = doubts.open.indexOf(item) + 1;
  fill(card,
    el("p", { class: "small muted" }, `${number} of ${doubts.open.length} · ${duration(item.start)}`),
    el("h3", {}, item.title), el("p", {}, item.text),
    el("div", { class: "row" },
      button("Play", { icon: "play", onclick: () => { player.seek(item.start - 1); player.play({ stopAt: item.end + 0.5 }); } }),
      button(item.kind === "speech_without_words" ? "Nothing is missing" : "It is correct", { icon: "check", onclick: () => settleDoubt(item) }),
      item.kind === "speech_without_words"
        ? button("Add the words", { icon: "pencil", onclick: () => addAfter(segment, timesFor(segment, item)) })
        : button("Correct it", { icon: "pencil", onclick: () => placeCaret(segment, 0) })));
  if (!segment) return;
  for (const marked of container.querySelectorAll(".doubted")) marked.classList.remove("doubted");
  segment.element.classList.add("doubted");
  segment.element.scrollIntoView({ block: "center", behavior: calm.matches ? "auto" : "smooth" });
  player.seek(Math.max(0, item.start - 1));
  if (transcript.focused) placeCaret(segment, 0); else { setCurrent(segment); segment.p.focus({ preventScroll: true }); }
  announce(`${number} of ${doubts.open.length}: ${item.title}. ${item.text}`);
});

/** A new segment must begin between its neighbours. */
function timesFor(segment, item) {
  const following = transcript.after(segment);
  const start = Math.max(item.start, segment.start), end = Math.max(start, item.end);
  return following && start > following.start ? null : { start, end };
}

async function settleDoubt(item) {
  const own = transcript.segments.filter((each) => each.end > item.start && each.start < item.end);
  const code = await ownCode();
  if (!code) return;
  for (const segment of own.length ? own : [doubts.segmentOf(item)]) if (!segment.checkedBy) transcript.setChecked(segment, code);
  item.isDone = true;
  doubts.step(1);
}

function toggleDoubts(open = !document.body.classList.contains("with-doubts")) {
  document.body.classList.toggle("with-doubts", open);
  byId("open-doubts").setAttribute("aria-expanded", String(open));
}
byId("open-doubts").addEventListener("click", () => toggleDoubts());
byId("close-doubts").addEventListener("click", () => { toggleDoubts(false); byId("open-doubts").focus(); });

// --- the player ---------------------------------------------------------------------------------

let waveform = null, zoom = null;
const iconOf = (name) => `icon icon-${name}`;
player.addEventListener("play", () => {
  byId("play").querySelector(".icon").className = iconOf(player.playing ? "pause" : "play");
  byId("play-label").textContent = player.playing ? "Pause" : "Play";
  if ("mediaSession" in navigator) navigator.mediaSession.playbackState = player.playing ? "playing" : "paused";
  showPlace();
});
let noted = 0;
player.addEventListener("time", () => {
  showPlace();
  if (player.playing && Date.now() - noted > 30_000) { noted = Date.now(); api.noteActivity(); }
});
player.addEventListener("rate", () => { byId("speed").textContent = `${player.rate.toFixed(1)}×`; });
player.addEventListener("state", () => {
  byId("whole").textContent = ` / ${duration(player.duration)}`;
  const notes = {
    preparing: "The sound is being prepared: please wait a moment.",
    failed: "This recording cannot be played in the browser.",
  };
  byId("wave-note").textContent = notes[player.state] ?? "";
  if (player.state === "failed" && !byId("download-sound")) {
    byId("notices").append(el("div", { id: "download-sound" }, notice("warning", el("p", {}, "This recording cannot be played in the browser. You can listen to it in another program: "),
      el("p", { class: "row" }, player.parts.map(({ recording_id: part }, i) => el("a", { href: `/v1/recordings/${part}/audio`, download: true }, player.parts.length > 1 ? `Download part ${i + 1}` : "Download the recording"))))));
  }
  byId("play").disabled = player.state === "failed";
});
player.addEventListener("unreachable", () => { byId("wave-note").textContent = "The sound cannot be loaded at the moment."; });
function setZoom(on) {
  set("zoom", on);
  document.documentElement.classList.toggle("zoomed", on);
  byId("show-zoom").setAttribute("aria-pressed", String(on));
  zoom?.draw();
}
byId("show-zoom").addEventListener("click", () => setZoom(!settings.zoom));
byId("follow").addEventListener("click", () => setFollow(!settings.follow));

function showSkip() {
  const words = settings.skip === 1 ? "1 second" : `${settings.skip} seconds`;
  byId("back").setAttribute("aria-label", `Back ${words}`);
  byId("forward").setAttribute("aria-label", `Forward ${words}`);
}

async function jump() {
  const input = el("input", { id: "jump-to", inputmode: "numeric", placeholder: "1:03:22", autocomplete: "off", value: duration(player.time) });
  const content = el("div", { class: "field" }, el("label", { for: "jump-to" }, "Time, as 12:03 or 1:03:22"), input);
  let done = null;
  input.addEventListener("keydown", (event) => { if (event.key === "Enter") { event.preventDefault(); content.closest("dialog").querySelector("button.primary").click(); } });
  setTimeout(() => { input.focus(); input.select(); });
  done = await ask("Go to a time", content, [{ label: "Go", value: true, primary: true }, { label: "Cancel", value: null }]);
  if (!done) return;
  const parts = input.value.trim().split(":").map(Number);
  if (!parts.length || parts.length > 3 || parts.some((part) => !Number.isFinite(part) || part < 0)) { announce("That is not a time: write it as 12:30 or 1:02:30."); return; }
  goTo(parts.reduce((sum, part) => sum * 60 + part, 0));
}

function goTo(time) {
  player.seek(time);
  const segment = transcript.at(time) ?? transcript.segments.findLast((each) => each.start <= time);
  if (!segment) return;
  setCurrent(segment);
  segment.element.scrollIntoView({ block: "center" });
}

function playHere() {
  const place = caret() ?? (current ? { segment: current, start: 0 } : null);
  if (!place) return;
  const word = place.segment.wordAtOffset(place.start);
  player.seek((word >= 0 ? place.segment.words[word].start : place.segment.start) - BEFORE_WORD);
  player.play();
}

// --- settings and help --------------------------------------------------------------------------

async function openSettings() {
  const number = (name, label, attributes) => {
    const input = el("input", { id: `set-${name}`, type: "number", value: String(settings[name]), ...attributes });
    input.addEventListener("change", () => { const value = Number(input.value); if (Number.isFinite(value) && value >= 0) { set(name, value); showSkip(); } });
    return el("div", { class: "field" }, el("label", { for: `set-${name}` }, label), input);
  };
  const box = (name, label, hint, after = () => {}) => {
    const input = el("input", { type: "checkbox", checked: settings[name] });
    input.addEventListener("change", () => { set(name, input.checked); after(); });
    return el("label", { class: "choice" }, input, el("span", {}, label, hint ? el("span", { class: "hint muted small" }, hint) : null));
  };
  const volume = el("input", { id: "set-volume", type: "range", min: "0", max: "1", step: "0.05", value: String(settings.volume) });
  volume.addEventListener("input", () => player.setVolume(Number(volume.value)));
  const code = el("input", { id: "set-code", value: settings.code, maxlength: "12", autocomplete: "off", placeholder: "R1" });
  code.addEventListener("change", () => { const text = code.value.trim().toUpperCase(); if (!text || CODE.test(text)) set("code", text); else code.value = settings.code; });
  await ask("Editor settings in this browser", el("div", { class: "stack" },
    number("backStep", "Seconds to go back before playback resumes", { min: "0", max: "5", step: "0.5" }),
    number("skip", "Seconds to skip back and forward", { min: "0.5", max: "60", step: "0.5" }),
    el("div", { class: "field" }, el("label", { for: "set-volume" }, "Volume"), volume),
    box("holdToPlay", "Play only while the key or pedal is held", " As dictation pedals do."),
    box("pauseWhileTyping", "Pause while typing"),
    box("spellcheck", "Check the spelling in the segment you edit", " Some browsers send the text to their maker: turn “enhanced” spell check off first."),
    el("div", { class: "field" }, el("label", { for: "set-code" }, "Your code, for checked segments"), code)),
  [{ label: "Close", value: null, primary: true }]);
}

// --- actions ------------------------------------------------------------------------------------

const segmentHere = () => transcript.focused ?? current ?? playing.segment;
function move(by) {
  const segment = segmentHere();
  const next = segment && transcript[by](segment);
  if (!next) return;
  if (transcript.focused) placeCaret(next, 0); else { setCurrent(next); next.p.focus(); }
}

const actions = {
  toggle: () => { if (settings.holdToPlay) { if (!player.playing) player.toggle(); } else player.toggle(); },
  release: () => { if (settings.holdToPlay && player.playing) player.pause(); },
  back: () => player.skip(-settings.skip),
  forward: () => player.skip(settings.skip),
  replay: () => { const segment = segmentHere(); if (segment) replay(segment); },
  playHere,
  slower: () => player.slower(),
  faster: () => player.faster(),
  jump,
  nextDoubt: () => { toggleDoubts(true); doubts.step(1); },
  previousDoubt: () => { toggleDoubts(true); doubts.step(-1); },
  check: async () => {
    const segment = segmentHere();
    if (!segment) return;
    const editing = Boolean(transcript.focused);
    if (!segment.checkedBy && !await toggleCheck(segment)) return;
    const next = transcript.after(segment);
    if (next && editing) placeCaret(next, 0); else if (next) { setCurrent(next); next.p.focus(); }
  },
  menu: openMenuHere,
  nextSegment: () => move("after"),
  previousSegment: () => move("before"),
  inaudible: () => write("[inaudible]"),
  undo: () => transcript.undo(),
  redo: () => transcript.again(),
  save: () => saver.flush(),
  find: () => find?.open(),
  replace: () => find?.open({ replace: true }),
  help: () => ask("Keys", keys.help(), [{ label: "Close", value: null, primary: true }]),
  speaker: (number) => {
    const segment = segmentHere(), speaker = transcript.speakers[number - 1];
    if (segment && speaker) transcript.setSpeaker(segment, speaker);
  },
};

const isEditor = (target) => container.contains(target) || byId("player").contains(target) || byId("toolbar").contains(target) || byId("find-bar").contains(target) || target === document.body || target === byId("main");
keys.listen(actions, isEditor);
for (const control of document.querySelectorAll("[data-action]")) {
  // Focus, and so the caret, stays in the text when a button is clicked.
  control.addEventListener("pointerdown", (event) => { if (transcript.focused) event.preventDefault(); });
  control.addEventListener("click", () => actions[control.dataset.action]());
}
byId("open-export").addEventListener("click", async (event) => {
  if (!saver.isPending || event.ctrlKey || event.metaKey || event.shiftKey) { saver.flush(); return; }
  event.preventDefault();  // the export must have the last words
  const { href } = event.currentTarget;
  await saver.settle();
  location.assign(href);
});
byId("open-history").addEventListener("click", async () => showHistory(transcript, await ownToken()));
byId("open-settings").addEventListener("click", openSettings);
byId("open-speakers").addEventListener("click", async () => {
  if (await nameSpeakers(transcript, player)) { await transcript.reload(); await loadSpeakers(); announce("The speakers are named."); }
});

/** What one has to know, until this browser's user has read it. */
function showFirstHelp() {
  const box = byId("first-help");
  box.hidden = settings.helped;
  const kbd = (action) => el("kbd", {}, keys.hint(action));
  const close = () => { set("helped", true); box.hidden = true; byId("main").focus({ preventScroll: true }); };
  fill(box,
    el("h2", {}, "How to correct a transcript"),
    el("ul", {},
      el("li", {}, kbd("toggle"), " plays and pauses, ", kbd("back"), " goes back a few seconds. A foot pedal works, too."),
      el("li", {}, "Click into the text, or press Enter on it, and write. Enter splits a segment. Changes are saved automatically."),
      el("li", {}, kbd("nextDoubt"), " goes to the next place where the models may be wrong."),
      el("li", {}, "Click a speaker’s name, or press ", kbd("menu"), ", to change who is speaking.")),
    el("div", { class: "row" },
      button("Got it", { class: "primary", onclick: close }),
      button("Show all keys", { icon: "keyboard", onclick: () => { close(); actions.help(); } })));
}

let token = null;
async function ownToken() {
  token ??= (await api.get("/v1/token")).id;
  return token;
}

if ("mediaSession" in navigator) {
  const handlers = { play: () => player.toggle(), pause: () => player.pause(), seekbackward: actions.back, seekforward: actions.forward };
  for (const [name, handler] of Object.entries(handlers)) try { navigator.mediaSession.setActionHandler(name, handler); } catch { /* not known */ }
}

// --- start --------------------------------------------------------------------------------------

async function start() {
  await user;
  showSkip();
  byId("follow").setAttribute("aria-pressed", String(settings.follow));
  byId("speed").textContent = `${player.rate.toFixed(1)}×`;
  keys.describeControls();
  showFirstHelp();
  setZoom(settings.zoom);
  let view;
  try {
    view = await api.get(transcript.path);
  } catch (problem) {
    document.documentElement.dataset.ready = "true";
    fill(container, notice("error", problem.status === 404 || problem.status === 403 ? "There is no such transcript, or it is not yours." : problem.message));
    return;
  }
  performance.mark("answer");
  const drawn = transcript.show(view);
  requestAnimationFrame(() => setTimeout(() => performance.mark("first-screen")));
  setCurrent(transcript.segments[0]);
  flags = view.flags;
  await drawn;
  performance.mark("editable");
  document.documentElement.dataset.ready = "true";
  find = new Find(transcript, { reveal: (segment) => { setCurrent(segment); segment.element.scrollIntoView({ block: "center" }); } });
  lookAround();
  showProgress();
  doubts.load(flags);
  if (matchMedia("(min-width: 75rem)").matches) toggleDoubts(true);
  waveform = new Waveform(player, byId("wave"), {
    turns: () => transcript.segments,
    drawn: () => zoom?.draw(),
    propertyOf: (speaker) => `--speaker-${transcript.colour(speaker)}`,
    ticks: () => doubts.open.map((item) => item.start),
    describe: (time) => {
      const segment = transcript.at(time);
      return `${duration(time)}${segment?.speaker ? `, ${segment.speaker}` : ""}`;
    },
  });
  zoom = new Zoom(player, waveform, byId("zoom"));
  const timeline = await player.load();
  if (timeline) {
    byId("title").textContent = timeline.session ?? "Transcript";
    document.title = `${timeline.session ?? "Transcript"} · Fieldscribe`;
    byId("up").href = `/studies/${encodeURIComponent(timeline.study)}`;
    byId("open-review").href = `/transcripts/${id}/review`;
    byId("up-name").textContent = timeline.study;
    if (timeline.session) {
      byId("open-export").href = `/studies/${encodeURIComponent(timeline.study)}/exports#${encodeURIComponent(timeline.session)}`;
      byId("open-export").hidden = false;
    }
    if ("mediaSession" in navigator) navigator.mediaSession.metadata = new MediaMetadata({ title: timeline.session ?? "Fieldscribe" });
  }
  report();
  setInterval(report, REPORT_EVERY);
  document.addEventListener("visibilitychange", report);
  await loadSpeakers().catch(() => {});
  if (location.hash === "#speakers") byId("open-speakers").click();
}

// For tests and measurements; it gives no access that the page does not have.
globalThis.fieldscribe = { transcript, saver, player, doubts };
start();
