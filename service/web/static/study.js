// One study: its sessions, their recordings, and how far each transcript is.
import * as api from "./api.js";
import { announce, ask, button, byId, el, fill, icon, notice, ready, sentence } from "./dom.js";
import { followStudy } from "./follow.js";
import { ago, duration, plural, when } from "./format.js";
import { canManage, canRead, seesReleasesOnly, user } from "./shell.js";
import { stateOf } from "./states.js";
import { showTabs } from "./study_tabs.js";

const me = await user;
const code = decodeURIComponent(location.pathname.split("/")[2]);
const KINDS = { interview: "Interview", focus_group: "Focus group" };

const recordings = new Map(); // by id
const jobs = new Map(); // the newest by session id
const rows = new Map(); // by session id
const reviews = new Map(), releases = new Map(), activity = new Map(); // by transcript id; the newest release
let sessions = [], study = null, uploads = null, hasModels = true;

async function load(background = false) {
  const at = encodeURIComponent(code);
  const [listed, found, submitted] = await Promise.all([
    api.listAll(`/v1/sessions?study=${at}`, { background }),
    canRead(me) ? api.listAll(`/v1/recordings?study=${at}`, { background }) : [],
    canRead(me) ? api.listAll(`/v1/jobs?study=${at}`, { background }) : [],
  ]);
  sessions = listed;
  recordings.clear();
  for (const recording of found) recordings.set(recording.id, recording);
  jobs.clear();
  for (const job of submitted) if (job.session_id && !jobs.has(job.session_id)) jobs.set(job.session_id, job); // newest first
  const details = [...jobs.values()].filter((job) => !["succeeded", "cancelled", "erased"].includes(job.status));
  await Promise.all([
    ...details.slice(0, 60).map(async (job) => jobs.set(job.session_id, await api.get(`/v1/jobs/${job.id}`, { background }))),
    ...found.filter((recording) => recording.state === "refused").map(async (recording) =>
      recordings.set(recording.id, await api.get(`/v1/recordings/${recording.id}`, { background }))),
    canRead(me) ? loadWork(background) : null,
  ]);
  show();
}

function keep(map, items) {
  map.clear();
  for (const item of items) map.set(item.transcript_id, item);
}

/** Fetch how far the reviews are, what is released, and who is at work. */
async function loadWork(background) {
  const at = encodeURIComponent(code);
  const [reviewed, released, active] = await Promise.all([
    api.get(`/v1/reviews?study=${at}`, { background }), api.listAll(`/v1/releases?study=${at}`, { background }), api.get(`/v1/studies/${at}/activity`, { background }),
  ]);
  keep(reviews, reviewed.items);
  keep(releases, released.filter(({ is_newest }) => is_newest));
  keep(activity, active.items);
}

const LOOK_EVERY = 10_000; // ms
const LOOK_SOON = 3000; // ms after a transcript is finished, which the de-identifier reads at once
/** Who is at work changes without an event. Reviews and releases change while somebody is, or the de-identifier. */
async function lookWhoIsThere() {
  if (document.hidden || !sessions.length) return;
  const before = JSON.stringify([...activity.values()]);
  const wasBusy = [...activity.values()].some(({ people }) => people.length);
  const isUnread = [...jobs.values()].some((job) => job.transcript_id && !reviews.has(job.transcript_id));
  const { items } = await api.get(`/v1/studies/${encodeURIComponent(code)}/activity`, { background: true });
  if (wasBusy || isUnread || JSON.stringify(items) !== before) {
    await loadWork(true);
    for (const session of sessions) drawRow(session);
  }
}

const reload = () => load(true).catch(() => {});
let soon = null;
function reloadSoon() { clearTimeout(soon); soon = setTimeout(reload, 400); }

function changeJob(job) {
  if (!job.session_id) return;
  const before = jobs.get(job.session_id);
  if (before && before.id !== job.id && before.created_at > job.created_at) return;
  jobs.set(job.session_id, job);
  const session = sessions.find((each) => each.id === job.session_id);
  if (!session) return reloadSoon();
  tellProgress(session, before, job);
  if (job.status === "succeeded" && before?.status !== "succeeded") setTimeout(() => lookWhoIsThere().catch(() => {}), LOOK_SOON);
  drawRow(session);
  drawSummary();
}

/** Screen readers hear of the start, each quarter, and the end. */
function tellProgress(session, before, job) {
  const quarter = (each) => Math.floor(4 * (each?.progress?.fraction ?? 0));
  if (job.status === "succeeded" && before?.status !== "succeeded") announce(`${session.code} is transcribed`);
  else if (job.status === "failed" && before?.status !== "failed") announce(`${session.code} failed`);
  else if (job.status === "running" && quarter(job) > quarter(before)) announce(`${session.code}: ${25 * quarter(job)} % done`);
}

// --- drawing ----------------------------------------------------------------------------------------

function show() {
  const box = byId("sessions");
  rows.clear();
  if (!sessions.length) return fill(box, modelWarning(), empty());
  const body = el("tbody");
  fill(box,
    modelWarning(),
    el("div", { class: "spread" }, el("h2", {}, "Sessions"), el("p", { class: "muted", id: "summary" })),
    el("div", { class: "panel" },
      el("table", { class: "stacked sessions" },
        el("thead", {}, el("tr", {}, ["Session", "Kind", "Length", "People", "State", "Added", ""].map((name) =>
          el("th", { scope: "col", class: name === "Length" ? "numeric" : null }, name || el("span", { class: "visually-hidden" }, "Actions"))))),
        body)));
  for (const session of sessions) { rows.set(session.id, el("tr")); body.append(rows.get(session.id)); drawRow(session); }
  drawSummary();
}

function modelWarning() {
  if (study.model === "demo") return notice("warning", "This study uses the demo models, which know a few hundred words and a handful of synthetic voices. With real recordings, most words will be wrong.");
  if (hasModels || !canRead(me)) return null;
  return notice("warning", "You can upload recordings, but they cannot be transcribed yet: no speech models are installed. ",
    ...canManage(me) ? sentence("Run `fieldscribe models fetch` on the computer that runs Fieldscribe.") : ["Ask your administrator to install them."]);
}

/** What the rules of consent will refuse, said before anybody uploads. */
async function loadConsent() {
  const at = `/v1/studies/${encodeURIComponent(code)}`;
  const [{ items: people }, { items: approvals }] = await Promise.all([api.get(`${at}/participants`), api.get(`${at}/approvals`)]);
  const page = el("a", { href: `/studies/${encodeURIComponent(code)}/participants` }, "Participants");
  const today = new Date().toISOString().slice(0, 10);
  const isValid = approvals.some((each) => each.valid_from <= today && (!each.valid_until || today <= each.valid_until));
  const onlyWarns = study.consent_warnings.includes("approval");
  fill(byId("consent"),
    approvals.length && !isValid ? notice(onlyWarns ? "warning" : "error", `No approval of this study is valid today${onlyWarns ? "" : ", so uploads are refused"}. Record a new one under `, page, ".") : null,
    people.length ? null : el("p", { class: "small muted" }, "The study has no participants, so consent is not checked. Record them under ", page, "."));
}

function empty() {
  if (!canRead(me)) {
    return el("div", { class: "panel empty" }, icon("file-text"), el("h2", {}, "No sessions yet"),
      el("p", {}, "When researchers have added interviews, they are listed here."));
  }
  return el("div", { class: "panel empty" }, icon("mic"),
    el("h2", {}, "No sessions yet"),
    el("p", {}, "Drop the recordings of your interviews or focus groups above. Each becomes a session with a code such as INT-01."),
    button("Try it with two demo recordings", { icon: "play", onclick: tryDemo }));
}

async function tryDemo(event) {
  event.target.disabled = true;
  try { await (await import("./demo.js")).fillDemo(code); await reload(); }
  catch (problem) { event.target.disabled = false; byId("sessions").prepend(notice("error", problem.message)); }
}

function drawSummary() {
  const states = sessions.map((session) => stateOf(session, recordings, jobs.get(session.id)).kind);
  const count = (...kinds) => states.filter((kind) => kinds.includes(kind)).length;
  const seconds = [...recordings.values()].reduce((sum, each) => sum + (each.duration || 0), 0);
  const parts = [plural(sessions.length, "session")];
  if (seconds) parts.push(duration(seconds));
  if (count("running", "queued")) parts.push(`${count("running", "queued")} being transcribed`);
  if (count("failed", "refused", "waiting")) parts.push(`${count("failed", "refused", "waiting")} to look at`);
  const summary = byId("summary");
  if (summary) summary.textContent = parts.join(" · ");
}

/** What a transcript waits for, and who works on it: { label, detail, tag, people }. */
function workOn(job) {
  const review = reviews.get(job.transcript_id), release = releases.get(job.transcript_id), now = activity.get(job.transcript_id);
  const corrected = now?.corrected_at ? `Corrected ${now.corrected_by ? `by ${now.corrected_by}, ` : ""}${ago(now.corrected_at)}` : "Not corrected yet";
  // Not this person: a page that they have just left counts for some seconds.
  const people = (now?.people ?? []).filter(({ you }) => !you).map(({ name, activity: what }) => `${name ?? "Another person"} is ${what}`);
  const state = (label, tag, ...details) => ({ label, tag, people, detail: [...details, corrected].join(" · ") });
  if (release && !release.outdated?.length) return state("Released", ["ok", "circle-check"], `Release ${release.number}, ${when(release.created_at)}`);
  if (review?.n_open) return state("To review", ["doubt", "shield"], `${review.n_open} of ${review.n_open + review.n_accepted + review.n_rejected} suggestions left to decide`);
  if (release) return state("Release outdated", ["doubt", "triangle-alert"], "Release it again");
  if (review && !review.is_current) return state("To review", ["doubt", "shield"], "The text or the roster has changed since the review");
  if (review) return state("Ready to release", ["ok", "shield-check"], "Every suggestion is decided");
  return state("Transcribed", ["ok", "circle-check"], "Not yet read by the de-identifier");
}

const TAGS = { failed: ["danger", "circle-alert"], refused: ["danger", "circle-alert"], waiting: ["doubt", "triangle-alert"], done: ["ok", "circle-check"] };

function drawRow(session) {
  const row = rows.get(session.id);
  if (!row) return;
  const state = stateOf(session, recordings, jobs.get(session.id));
  const held = row.contains(document.activeElement) ? document.activeElement.dataset.action : null;
  const seconds = session.recordings.reduce((sum, id) => sum + (recordings.get(id)?.duration || 0), 0);
  const work = state.kind === "done" ? workOn(state.job) : null;
  if (work) Object.assign(state, { label: work.label, detail: work.detail });
  const [tag, name] = work?.tag || TAGS[state.kind] || [];
  fill(row,
    el("th", { scope: "row" }, title(session, state)),
    el("td", { "data-label": "Kind" }, KINDS[session.kind]),
    el("td", { "data-label": "Length", class: "numeric" }, seconds ? duration(seconds) : null),
    el("td", { "data-label": "People" }, people(session)),
    el("td", { class: "state" }, canRead(me) ? [
      el("div", { class: "row" }, tag ? el("span", { class: `tag ${tag}` }, icon(name), state.label) : el("span", {}, state.label),
        state.kind === "running" ? el("span", { class: "muted small" }, `${Math.floor(100 * (state.fraction || 0))} %`) : null),
      state.kind === "running" ? el("progress", { max: "1", value: String(state.fraction || 0), "aria-label": `Progress of ${session.code}` }) : null,
      state.kind === "refused" ? el("p", { class: "small" }, sentence(state.recording.refusal?.detail)) : null,
      state.reason ? el("p", { class: "small" }, state.reason) : null,
      state.detail ? el("p", { class: "muted small" }, sentence(state.detail)) : null,
      work ? el("div", { class: "row small" }, work.people.map((text) => el("span", { class: "tag" }, icon("user"), text))) : null,
      ["running", "done"].includes(state.kind) && study.model !== "demo" ? warnings(state.job) : null] : null),
    el("td", { "data-label": "Added" }, when(session.created_at)),
    el("td", {}, actions(session, state)));
  if (held) row.querySelector(`[data-action="${held}"]`)?.focus();
}

function title(session, state) {
  if (canRead(me) && state.kind === "done" && state.job.transcript_id) {
    return el("a", { href: `/transcripts/${state.job.transcript_id}` }, session.code);
  }
  return session.code;
}

function people(session) {
  if (session.roster.length) return session.roster.map((person) => person.code).join(", ");
  const { min, max } = session.speakers;
  if (min && min === max) return String(min);
  return min || max ? `${min || 1} to ${max || "any"}` : null;
}

function warnings(job) {
  return job?.options?.model?.name === "demo"
    ? el("p", { class: "small doubt-text" }, "Made with the demo models: most words will be wrong.") : null;
}

function actions(session, state) {
  if (!canRead(me)) return null;
  const items = [];
  const add = (label, name, action, run) =>
    items.push(button(label, { icon: name, "data-action": action, "aria-label": `${label}: ${session.code}`, onclick: run }));
  if (state.kind === "ready") add("Transcribe", "play", "transcribe", () => transcribe(session));
  if (["failed", "cancelled"].includes(state.kind)) add("Try again", "rotate-ccw", "retry", () => transcribe(session));
  if (["queued", "running", "waiting"].includes(state.kind)) add("Stop", "x", "stop", () => stop(session, state.job));
  const open = state.kind === "done"
    ? el("a", { class: "button", href: `/transcripts/${state.job.transcript_id}`, "aria-label": `Open the transcript: ${session.code}` }, icon("file-text"), "Open") : null;
  const review = state.kind === "done"
    ? el("a", { class: "button", href: `/transcripts/${state.job.transcript_id}/review`, "aria-label": `Review and release: ${session.code}` }, icon("shield-check"), "Review") : null;
  return el("div", { class: "row end" }, open, review, items,
    button(`Delete ${session.code}`, { icon: "trash-2", iconOnly: true, "data-action": "delete", onclick: () => remove(session) }));
}

// --- actions ----------------------------------------------------------------------------------------

async function attempt(action) {
  try { await action(); } catch (problem) { await ask("This did not work", el("p", {}, sentence(problem.message))); }
  await reload();
}

const transcribe = async (session) => {
  const { askOptions } = await import("./job_options.js");
  const options = await askOptions(session, study);
  if (options) await attempt(() => api.post("/v1/jobs", { study: code, session: session.code, ...options }));
};
const stop = (session, job) => attempt(() => api.post(`/v1/jobs/${job.id}/cancel`));

async function remove(session) {
  const sure = await ask(`Delete ${session.code}?`,
    el("div", { class: "stack" },
      el("p", {}, `${session.code} has ${plural(session.recordings.length, "recording")}. They and everything made from them are destroyed for ever, in backups too.`),
      el("p", {}, "Do this when a participant withdraws, or to start again.")),
    [{ label: `Delete ${session.code}`, value: true, danger: true }, { label: "Keep it", value: false }]);
  if (sure) await attempt(() => api.remove(`/v1/sessions/${session.id}`));
}

// --- the start --------------------------------------------------------------------------------------

if (seesReleasesOnly(me)) location.replace(`/studies/${encodeURIComponent(code)}/exports`);

try {
  study = await api.get(`/v1/studies/${encodeURIComponent(code)}`);
  if (canRead(me)) hasModels = (await api.get("/v1/models")).items.some((model) => model.kind === "whisper" && !model.demo);
  await showTabs(code, "sessions", me);
  await load();
  if (canRead(me)) {
    await loadConsent();
    uploads = (await import("./uploads.js")).mountUploads(byId("uploads"), {
      study, sessions: () => sessions, recordings: () => [...recordings.values()], changed: reload,
    });
    setInterval(() => lookWhoIsThere().catch(() => {}), LOOK_EVERY);
    document.addEventListener("visibilitychange", () => lookWhoIsThere().catch(() => {}));
    followStudy(code, { job: changeJob, recording: () => reloadSoon(), reload });
  }
} catch (problem) {
  fill(byId("sessions"), notice("error", problem.message), el("p", {}, el("a", { href: "/" }, "Back to your studies")));
}
ready();
