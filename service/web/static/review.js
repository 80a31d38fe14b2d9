// Reviewing a transcript for release: entity by entity, then the whole text, then the words that are left, then the release.
import * as api from "./api.js";
import { announce, button, byId, el, fill, icon, notice, ready, sentence } from "./dom.js";
import { duration, plural } from "./format.js";
import { canRead, user } from "./shell.js";

const LABELS = {
  PERSON: "Person", PLACE: "Place", ORGANISATION: "Organisation", ADDRESS: "Address", DATE: "Date", AGE: "Age", PHONE: "Telephone number",
  ID: "Number or code", EMAIL: "E-mail address", WEB: "Web address", HANDLE: "Online user name", OTHER: "Something else",
};
const ORDER = Object.keys(LABELS);
const KINDS = { participant: "participant", interviewer: "interviewer", person: "person", organisation: "organisation", place: "place", other: "other" };
const RULES = { roster: "on the study's roster", person: "marked by a person", fieldscribe: "a name of the study" };
const CONTEXTS = [["team", "The study's own team"], ["member_checking", "A participant who checks it"], ["repository", "An archive"], ["publication", "Publication"]];
const PASSES = [["entities", "1 By name"], ["read", "2 Read it through"], ["left", "3 What is left"], ["release", "4 Release"]];

const me = await user;
const id = location.pathname.split("/")[2];
const path = `/v1/transcripts/${encodeURIComponent(id)}`;
const box = byId("review");
const seen = new Set(); // words of pass 3 that are fine, until the page is closed
let view = null, segments = new Map(), names = new Map(), speakers = {}, session = null, study = null, pass = "entities", chosen = null;

async function load() {
  view = await api.get(`${path}/review`);
  const [transcript, entities] = await Promise.all([api.get(path), api.get(`${path}/review/entities`)]);
  speakers = transcript.names || {};
  segments = new Map(transcript.segments.map((segment) => [segment.id, { ...segment, points: [...segment.text] }]));
  names = new Map(entities.items.map((entity) => [entity.id, entity]));
  draw();
}

function notBegun(problem) {
  fill(box, el("div", { class: "panel empty" }, icon("clock"), el("h2", {}, "The de-identifier has not read this transcript yet"),
    el("p", {}, sentence(problem.message)),
    el("div", { class: "row" }, button("Look again", { icon: "rotate-ccw", class: "primary", onclick: () => location.reload() }),
      button("Review without suggestions", { onclick: async () => {
        try { await api.post(`${path}/review`); await load(); } catch (error) { box.prepend(notice("error", sentence(error.message))); }
      } }))));
}

// --- what every step shows --------------------------------------------------------------------------

function draw() {
  const total = view.n_open + view.n_accepted + view.n_rejected;
  byId("count").textContent = view.n_open ? `${view.n_open} of ${total} still to decide` : `All ${total} decided`;
  fill(byId("passes"), PASSES.map(([name, label]) => el("a", { href: `#${name}`, "aria-current": name === pass ? "step" : null, onclick: (event) => { event.preventDefault(); go(name); } }, label)));
  ({ entities: drawEntities, read: drawReading, left: drawLeft, release: drawRelease })[pass]();
}

function go(name) { pass = name; draw(); byId("main").focus(); }

/** A segment's text with its mentions marked. only: show just this one. */
function textOf(segment, only = null, focusable = false) {
  const parts = [];
  let at = 0;
  const own = view.mentions.filter((mention) => mention.segment === segment.id && (!only || mention.id === only.id));
  for (const mention of own) {
    if (mention.start < at) continue;
    parts.push(segment.points.slice(at, mention.start).join(""));
    const entity = mention.entity_id && names.get(mention.entity_id);
    const original = segment.points.slice(mention.start, mention.end).join("");
    const shown = !only && mention.state === "accepted" ? entity?.pseudonym || `[${mention.label}]` : original;
    parts.push(el("mark", { class: mention.state, "data-start": mention.start, "data-end": mention.end, ...(focusable ? { tabindex: mention.state === "suggested" ? "0" : null, "data-mention": mention.id } : {}), title: shown === original ? null : original }, shown));
    at = mention.end;
  }
  parts.push(segment.points.slice(at).join(""));
  return parts;
}

async function decide(decisions, said, additions = []) {
  try {
    const changed = await api.post(`${path}/review/decisions`, { decisions, additions, ...(additions.length ? { transcript_version: view.transcript_version } : {}) });
    announce(`${said}. ${changed.n_open ? `${changed.n_open} still to decide` : "All decided"}`);
    await load();
    return true;
  } catch (problem) {
    await load().catch(() => {});
    box.prepend(notice("error", sentence(problem.message)));
    return false;
  }
}

const sound = new Audio();
let stopAt = 0, parts = [];
sound.preload = "none";
sound.addEventListener("timeupdate", () => { if (sound.currentTime >= stopAt) sound.pause(); });

/** Play the place of a mention, two seconds before and after it. */
function play(mention) {
  const segment = segments.get(mention.segment);
  // The text of a segment is that of its words, so their characters say which of them it covers.
  let seen = 0, from = segment.start, to = segment.end;
  for (const word of segment.words) {
    const next = seen + [...word.text].length;
    if (seen <= mention.start) from = word.start;
    if (seen < mention.end) to = word.end;
    seen = next;
  }
  const part = parts.findLast((each) => each.state === "ready" && each.start <= from);
  if (!part) return announce("There is no sound to play");
  const address = `/v1/recordings/${part.recording_id}/playback`;
  const begin = () => { sound.currentTime = Math.max(0, from - part.start - 2); stopAt = to - part.start + 2; sound.play().catch(() => announce("The recording cannot be played here")); };
  if (sound.dataset.address === address) return begin();
  sound.dataset.address = address;
  sound.src = address;
  sound.addEventListener("loadedmetadata", begin, { once: true });
  sound.load();
}

// --- 1: by name -------------------------------------------------------------------------------------

function groups() {
  const found = new Map();
  for (const mention of view.mentions) {
    const key = mention.entity_id || mention.hint || `${mention.label}:${mention.text.toLowerCase()}`;
    if (!found.has(key)) found.set(key, { key, label: mention.label, entity: mention.entity_id && names.get(mention.entity_id), mentions: [] });
    found.get(key).mentions.push(mention);
  }
  const open = (group) => group.mentions.some((mention) => mention.state === "suggested");
  return [...found.values()].sort((a, b) => open(b) - open(a) || ORDER.indexOf(a.label) - ORDER.indexOf(b.label) || b.mentions.length - a.mentions.length);
}

/** The speaker's code or pseudonym, else the label. */
function speakerOf(segment) {
  const named = speakers[segment.speaker];
  return named?.pseudonym || named?.code || segment.speaker || "";
}

const nameOf = (group) => group.entity?.names?.[0] || group.mentions[0].text;

function drawEntities() {
  const all = groups();
  if (!all.length) return fill(box, el("div", { class: "panel empty" }, icon("circle-check"), el("h2", {}, "Nothing was suggested"), el("p", {}, "Read the transcript through and mark what identifies somebody.")));
  const current = all.find((group) => group.key === chosen) || all[0];
  chosen = current.key;
  const list = el("ul", { class: "entities", "aria-label": "Names and other identifying words" }, all.map((group) => {
    const open = group.mentions.filter((mention) => mention.state === "suggested").length;
    return el("li", {}, el("button", { type: "button", "aria-pressed": String(group === current), onclick: () => { chosen = group.key; draw(); box.querySelector('.entities [aria-pressed="true"]').focus(); } },
      el("span", {}, nameOf(group), " ", el("span", { class: "muted small" }, LABELS[group.label].toLowerCase())),
      open ? el("span", { class: "tag doubt" }, `${open} open`) : el("span", { class: "tag ok" }, icon("check"), "done")));
  }));
  fill(box, el("div", { class: "review-grid" }, el("nav", { "aria-label": "Names" }, list), mentionsOf(current, all)));
}

function mentionsOf(group, all) {
  const open = group.mentions.filter((mention) => mention.state === "suggested");
  const boxes = new Map();
  const items = group.mentions.map((mention) => {
    const segment = segments.get(mention.segment);
    const check = el("input", { type: "checkbox", id: `m-${mention.id}`, checked: mention.tier !== "unsure" && !mention.choices.length, disabled: mention.state !== "suggested", "aria-label": `${mention.text}, ${duration(segment.start)}` });
    if (mention.state === "suggested") boxes.set(mention, check);
    check.addEventListener("change", count);
    const states = { accepted: ["ok", "replaced"], rejected: ["", "kept"], suggested: ["doubt", mention.tier === "unsure" ? "unsure" : "open"] };
    const why = mention.votes.map((vote) => RULES[vote.rule] || RULES[vote.stage] || (vote.rule || "").replaceAll("_", " ")).filter(Boolean);
    return el("li", {}, mention.state === "suggested" ? check : el("span", {}),
      el("div", {},
        el("p", { class: "context" }, textOf(segment, mention)),
        el("p", { class: "small muted" }, [duration(segment.start), speakerOf(segment), why.length ? `why: ${[...new Set(why)].join(", ")}` : null].filter(Boolean).join(" · ")),
        mention.choices.length > 1 && mention.state === "suggested" ? el("p", { class: "small doubt-text" }, "Several people have this name: say below which one it is.") : null),
      mention.state === "suggested" ? el("span", { class: "row" }, listen(mention), el("span", { class: "tag doubt" }, states.suggested[1]))
        : el("span", { class: "row" }, listen(mention), el("span", { class: `tag ${states[mention.state][0]}` }, states[mention.state][1]), button(`Take back: ${mention.text}`, { icon: "undo-2", iconOnly: true, onclick: () => decide([{ mention: mention.id, version: mention.version, action: "reopen" }], "Taken back") })));
  });
  function listen(mention) {
    return parts.some((part) => part.state === "ready") ? button(`Play ${mention.text}, ${duration(segments.get(mention.segment).start)}`, { icon: "play", iconOnly: true, onclick: () => play(mention) }) : null;
  }
  const who = el("select", { id: "who" },
    el("option", { value: "" }, group.entity ? `${nameOf(group)}${group.entity.pseudonym ? ` (${group.entity.pseudonym})` : ""}` : "As suggested"),
    [...names.values()].filter((entity) => entity.id !== group.entity?.id && !entity.erased).map((entity) => el("option", { value: entity.id }, `${entity.names[0] || "?"}${entity.pseudonym ? ` (${entity.pseudonym})` : ""}`)),
    Object.entries(KINDS).map(([kind, label]) => el("option", { value: `new:${kind}` }, `New: ${label}`)));
  const accept = button("", { icon: "check", class: "primary", onclick: () => apply("accept", true) });
  const keep = button("", { icon: "x", onclick: () => apply("reject", false) });
  const picked = (value) => [...boxes].filter(([, check]) => check.checked === value).map(([mention]) => mention);
  function count() {
    const [yes, no] = [picked(true).length, picked(false).length];
    accept.disabled = !yes; keep.disabled = !no;
    accept.lastChild.textContent = `Replace the ${yes} ticked`;
    keep.lastChild.textContent = `Keep the ${no} not ticked`;
  }
  async function apply(action, value) {
    const target = who.value.startsWith("new:") ? { new_entity: who.value.slice(4) } : who.value ? { entity: who.value } : {};
    const some = picked(value);
    const remaining = open.length - some.length;
    const next = all[all.indexOf(group) + 1];
    const done = await decide(some.map((mention) => ({ mention: mention.id, version: mention.version, action, ...(action === "accept" ? target : {}) })), action === "accept" ? `${some.length} replaced` : `${some.length} kept`);
    if (done && !remaining && next) { chosen = next.key; draw(); }
    box.querySelector('.entities [aria-pressed="true"]')?.focus();
  }
  accept.append(document.createTextNode("")); keep.append(document.createTextNode(""));
  count();
  return el("section", { class: "panel stack", "aria-labelledby": "group-title" },
    el("div", { class: "spread" }, el("h2", { id: "group-title" }, nameOf(group)),
      el("p", { class: "muted" }, [LABELS[group.label], group.entity?.pseudonym ? `becomes ${group.entity.pseudonym}` : null, plural(group.mentions.length, "mention")].filter(Boolean).join(" · "))),
    el("ul", { class: "mentions" }, items),
    open.length ? el("div", { class: "stack" },
      ["PERSON", "PLACE", "ORGANISATION", "OTHER"].includes(group.label) ? el("div", { class: "field narrow-left" }, el("label", { for: "who" }, "Whom or what the ticked mentions name"), who) : null,
      el("div", { class: "row" }, accept, keep),
      el("p", { class: "small muted" }, "Tick what identifies somebody. Unsure mentions start unticked.")) : null);
}

// --- 2: read it through -----------------------------------------------------------------------------

function drawReading() {
  const label = el("select", { id: "mark-label", "aria-label": "Kind of the selected words" }, ORDER.map((each) => el("option", { value: each }, LABELS[each])));
  const mark = button("Replace the selected words", { icon: "plus", onclick: addSelection });
  const next = button("Next open", { icon: "chevron-down", "aria-keyshortcuts": "F2", onclick: () => jump(1) });
  const yes = button("Replace", { icon: "check", onclick: () => decideFocused("accept") });
  const no = button("Keep", { icon: "x", onclick: () => decideFocused("reject") });
  let last = null;
  const text = el("div", { class: "reading" }, [...segments.values()].filter((segment) => segment.text).map((segment) => el("section", { "data-segment": segment.id },
    el("p", { class: "who" }, el("span", { class: "mono" }, duration(segment.start)), el("br"), speakerOf(segment)),
    el("p", { class: "said-text" }, textOf(segment, null, true)))));
  text.addEventListener("focusin", (event) => { if (event.target.dataset.mention) last = event.target.dataset.mention; });
  fill(box, el("div", { class: "stack" },
    el("p", { class: "prose muted" }, "This is how it will be released. Select words that still identify somebody; they were not suggested, so only reading finds them."),
    el("div", { class: "row toolbar-sticky", role: "group", "aria-label": "Review" }, next, yes, no, label, mark), text));

  function jump(by) {
    const open = [...text.querySelectorAll("mark.suggested")];
    if (!open.length) return announce("No open suggestions");
    const at = open.findIndex((each) => each.dataset.mention === last);
    open[(at + by + open.length) % open.length].focus();
  }
  async function decideFocused(action) {
    const mention = view.mentions.find((each) => each.id === last && each.state === "suggested");
    if (!mention) return announce("Go to an open place first");
    await decide([{ mention: mention.id, version: mention.version, action }], action === "accept" ? "Replaced" : "Kept");
  }
  async function addSelection() {
    const selection = getSelection();
    const spot = selection.rangeCount ? spanOf(selection.getRangeAt(0)) : null;
    if (!spot) return box.prepend(notice("warning", "Select some words of one paragraph first."));
    const kinds = { PERSON: "person", PLACE: "place", ORGANISATION: "organisation" };
    await decide([], "Marked", [{ segment: spot.segment, span: [spot.start, spot.end], label: label.value, ...(kinds[label.value] ? { new_entity: kinds[label.value] } : {}) }]);
  }
  text.addEventListener("keydown", (event) => {
    if (event.key === "F2") { event.preventDefault(); jump(event.shiftKey ? -1 : 1); }
  });
}

/** A selection as characters of a segment, in code points of its original text; null if it is none. */
function spanOf(range) {
  const holder = (node) => (node.nodeType === Node.TEXT_NODE ? node.parentElement : node).closest("section[data-segment]");
  const section = holder(range.startContainer);
  if (!section || section !== holder(range.endContainer) || range.collapsed) return null;
  const paragraph = section.querySelector(".said-text");
  const position = (container, offset, isEnd) => {
    const inside = container.nodeType === Node.TEXT_NODE ? container.parentElement.closest("mark") : null;
    if (inside) return Number(isEnd ? inside.dataset.end : inside.dataset.start);
    let at = 0;
    for (const child of paragraph.childNodes) {
      if (child === container) return at + [...child.data.slice(0, offset)].length;
      at = child.nodeType === Node.TEXT_NODE ? at + [...child.data].length : Number(child.dataset.end);
    }
    return at;
  };
  const points = segments.get(section.dataset.segment).points;
  let start = position(range.startContainer, range.startOffset, false), end = position(range.endContainer, range.endOffset, true);
  while (start < end && /\s/.test(points[start])) start += 1;
  while (end > start && /\s/.test(points[end - 1])) end -= 1;
  return end > start ? { segment: section.dataset.segment, start, end } : null;
}

// --- 3: what is left --------------------------------------------------------------------------------

async function drawLeft() {
  fill(box, el("p", { class: "muted" }, "Looking for words that were not suggested…"));
  let left;
  try { left = await api.get(`${path}/review/unsuggested`); } catch (problem) { return fill(box, notice("error", sentence(problem.message))); }
  if (pass !== "left") return;
  const kinds = { capitalised: "capital letter", number: "number", rare: "rare word" };
  const words = left.words.filter((word) => !seen.has(word.word));
  const context = (place) => {
    const segment = segments.get(place.segment);
    if (!segment) return "";
    const from = Math.max(0, place.start - 60), to = Math.min(segment.points.length, place.end + 60);
    return [from ? "…" : "", segment.points.slice(from, place.start).join(""), el("mark", {}, segment.points.slice(place.start, place.end).join("")), segment.points.slice(place.end, to).join(""), to < segment.points.length ? "…" : ""];
  };
  const rows = words.slice(0, 200).map((word) => {
    const label = el("select", { "aria-label": `Kind of ${word.word}` }, ORDER.map((each) => el("option", { value: each }, LABELS[each])));
    return el("tr", {},
      el("th", { scope: "row" }, word.word, " ", el("span", { class: "muted small" }, kinds[word.kind], word.count > 1 ? ` · ${word.count} times` : "")),
      el("td", { class: "context" }, context(word.places[0])),
      el("td", {}, el("div", { class: "row end" }, label,
        button("Replace", { icon: "check", "aria-label": `Replace ${word.word}`, onclick: () => decide([], `${word.word} replaced`, word.places.map((place) => ({ segment: place.segment, span: [place.start, place.end], label: label.value }))) }),
        button("Fine", { "aria-label": `${word.word} identifies nobody`, onclick: () => { seen.add(word.word); drawLeft(); } }))));
  });
  fill(box, el("div", { class: "stack" },
    el("p", { class: "prose muted" }, "Capitalised words, numbers and rare words that were not suggested. Most are harmless, but look for missed names among them."),
    words.length ? el("div", { class: "panel" }, el("table", { class: "stacked left-words" }, el("thead", {}, el("tr", {}, ["Word", "Where", "What to do"].map((name) => el("th", { scope: "col" }, name)))), el("tbody", {}, rows)))
      : el("div", { class: "panel empty" }, icon("circle-check"), el("h2", {}, "Nothing is left"), el("p", {}, "Every word with a capital letter, every number and every rare word has been looked at."), button("Continue to the release", { class: "primary", onclick: () => go("release") })),
    words.length ? el("div", { class: "row" }, button(words.length === 1 ? "It is fine: continue" : `All ${words.length} are fine: continue`, { onclick: () => { words.forEach((word) => seen.add(word.word)); go("release"); } })) : null,
    left.flags.length ? el("section", { class: "stack" }, el("h2", {}, "May identify somebody together with other facts"),
      el("ul", { class: "mentions" }, left.flags.slice(0, 100).map((flag) => el("li", {}, icon("flag"), el("p", { class: "context" }, context(flag)), el("span", {}))))) : null));
}

// --- 4: the release ---------------------------------------------------------------------------------

function drawRelease() {
  if (view.n_open) {
    return fill(box, el("div", { class: "panel empty" }, icon("lock"), el("h2", {}, `${view.n_open} still to decide`), el("p", {}, "A transcript can be released when every suggestion has been decided."),
      button("Decide them", { class: "primary", onclick: () => go("entities") })));
  }
  const context = el("select", { id: "context" }, CONTEXTS.map(([value, label]) => el("option", { value }, label)));
  const confirm = el("input", { id: "confirm", autocomplete: "off", spellcheck: "false", required: true, "aria-describedby": "confirm-hint" });
  const problem = el("p", { class: "problem", role: "alert" });
  const form = el("form", { class: "panel stack narrow" },
    el("h2", {}, `Release ${session}`),
    el("ul", {}, el("li", {}, `Version ${view.transcript_version} of the transcript`), el("li", {}, `${plural(view.n_accepted, "place")} replaced, ${plural(view.n_rejected, "suggestion")} kept as said`), el("li", {}, "The text only, without sound")),
    el("p", {}, "A release cannot be changed. Everybody with access to the study's releases can read it. It stays pseudonymised, not anonymous: what people say can identify them."),
    el("div", { class: "field" }, el("label", { for: "context" }, "For whom"), context),
    el("div", { class: "field" }, el("label", { for: "confirm" }, `Type ${session} to confirm`), confirm, el("p", { class: "hint", id: "confirm-hint" }, "So that no release happens by accident.")),
    problem,
    el("div", { class: "row" }, el("button", { class: "primary" }, icon("shield-check"), "Release")));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (confirm.value.trim().toUpperCase() !== session.toUpperCase()) { problem.textContent = `Type ${session}, the code of this session.`; return confirm.focus(); }
    try {
      const made = await api.post(`${path}/releases`, { context: context.value });
      fill(box, el("div", { class: "panel empty" }, icon("circle-check"), el("h2", { tabindex: "-1", id: "released" }, `${session} is released`),
        el("p", {}, `Release ${made.number}. Read its report first: it says what is left that could identify somebody.`),
        el("div", { class: "row" },
          el("a", { class: "button", href: `/v1/releases/${made.id}/files/report`, download: true }, icon("download"), "Report"),
          el("a", { class: "button primary", href: `/studies/${encodeURIComponent(study)}/exports` }, icon("download"), "Export it"))));
      byId("released").focus();
    } catch (error) { fill(problem, sentence(error.message)); }
  });
  fill(box, form);
}

// --- the start --------------------------------------------------------------------------------------

try {
  if (!canRead(me)) throw new Error("This page is for researchers.");
  const where = await api.get(`${path}/playback`);
  [session, study, parts] = [where.session ?? "Transcript", where.study, where.recordings];
  byId("title").textContent = `${session}: review`;
  document.title = `${session}: review · Fieldscribe`;
  byId("up").href = `/studies/${encodeURIComponent(study)}`;
  byId("up-name").textContent = study;
  await load();
} catch (problem) {
  if (problem.code === "review_not_ready") notBegun(problem); else fill(box, notice("error", sentence(problem.message)));
}
ready();
