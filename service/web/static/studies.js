// The list of studies: what each holds, and what is to do.
import * as api from "./api.js";
import { button, byId, el, fill, icon, notice, ready } from "./dom.js";
import { duration, plural } from "./format.js";
import { canManage, canRead, seesReleasesOnly, user } from "./shell.js";

const me = await user;
const list = byId("studies");
try { await show(); } catch (problem) { fill(list, notice("error", problem.message)); }
if (canManage(me)) byId("new-study").hidden = false;
byId("new-study").addEventListener("click", newStudy);
ready();

async function show() {
  if (seesReleasesOnly(me)) return showReleases();
  const studies = await api.listAll("/v1/studies");
  if (!studies.length) return fill(list, empty());
  const facts = await collect();
  fill(list, el("ul", { class: "cards" }, studies.map((study) => card(study, facts.get(study.id) || {}))));
}

/** A coder has no studies' lists, only their releases. */
async function showReleases() {
  const counts = new Map(me.studies.map((code) => [code, 0]));
  for (const release of await api.listAll("/v1/releases")) {
    if (release.is_newest) counts.set(release.study, (counts.get(release.study) || 0) + 1);
  }
  if (!counts.size) return fill(list, empty());
  fill(list, el("ul", { class: "cards" }, [...counts].map(([code, count]) =>
    el("li", { class: "card" },
      el("h2", {}, el("a", { href: `/studies/${code}/exports` }, code)),
      el("p", { class: "muted" }, count ? plural(count, "released transcript") : "Nothing released yet")))));
}

/** Sessions, hours and running jobs by study. A role that may not read something shows less. */
async function collect() {
  const facts = new Map();
  const of = (id) => facts.get(id) || facts.set(id, { sessions: 0, seconds: 0, running: 0, waiting: 0, toReview: 0 }).get(id);
  for (const session of await api.listAll("/v1/sessions")) of(session.study_id).sessions += 1;
  if (canRead(me)) {
    for (const recording of await api.listAll("/v1/recordings")) of(recording.study_id).seconds += recording.duration || 0;
  }
  if (canRead(me)) {
    for (const review of (await api.get("/v1/reviews")).items) if (review.n_open) of(review.study_id).toReview += 1;
  }
  if (canRead(me) || canManage(me)) {
    const unfinished = "status=queued&status=running&status=cancelling&status=waiting";
    for (const job of await api.listAll(`/v1/jobs?${unfinished}`)) of(job.study_id)[job.status === "waiting" ? "waiting" : "running"] += 1;
  }
  return facts;
}

function card(study, facts) {
  const parts = [facts.sessions ? plural(facts.sessions, "session") : "No sessions yet"];
  if (facts.seconds) parts.push(`${duration(facts.seconds)} of recordings`);
  return el("li", { class: "card" },
    el("h2", {}, el("a", { href: `/studies/${study.code}` }, study.code)),
    el("p", { class: "muted" }, parts.join(" · ")),
    el("p", { class: "row" },
      facts.running ? el("span", { class: "tag" }, icon("loader-circle"), `${facts.running} being transcribed`) : null,
      facts.waiting ? el("span", { class: "tag doubt" }, icon("triangle-alert"), `${facts.waiting} waiting for you`) : null,
      facts.toReview ? el("span", { class: "tag doubt" }, icon("shield"), `${facts.toReview} to review`) : null));
}

function empty() {
  return el("div", { class: "panel empty" }, icon("folder-open"),
    el("h2", {}, "No studies yet"),
    canManage(me)
      ? [el("p", {}, "A study holds the sessions of one project: its interviews and focus groups, with one set of people, codes and pseudonyms."),
        el("div", { class: "row" },
          button("New study", { icon: "plus", class: "primary", onclick: newStudy }),
          canRead(me) ? button("Try it with two demo recordings", { icon: "play", onclick: tryDemo }) : null)]
      : el("p", {}, "Your account has no study yet. Ask your administrator for an invitation to one."));
}

async function newStudy() {
  const { createStudy } = await import("./new_study.js");
  const made = await createStudy();
  if (made) location.assign(`/studies/${made.code}`);
}

async function tryDemo(event) {
  event.target.disabled = true;
  const { startDemo } = await import("./demo.js");
  try { location.assign(`/studies/${(await startDemo()).code}`); }
  catch (problem) { event.target.disabled = false; list.prepend(notice("error", problem.message)); }
}
