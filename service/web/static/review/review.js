// Reviewing a transcript for release: the suggestions, the whole text, the words that are left, a second reader, the release.
import * as api from "../api.js";
import { button, byId, el, fill, icon, notice, ready, sentence } from "../dom.js";
import { canRead, user } from "../shell.js";
import { help, listen } from "./keys.js";
import { Left } from "./left.js";
import { Names } from "./names.js";
import { Reading } from "./reading.js";
import { Release } from "./release.js";
import { SecondReader } from "./second_reader.js";
import { Review } from "./state.js";

const STEPS = [["names", "1 Suggestions"], ["read", "2 Read through"], ["left", "3 Remaining words"], ["second-reader", "4 Second reader"], ["release", "5 Release"]];

const me = await user;
const review = new Review(location.pathname.split("/")[2]);
const box = byId("review");
const fromAddress = () => STEPS.map(([name]) => name).find((name) => `#${name}` === location.hash);
let step = fromAddress() ?? "names";

go.current = () => step;
const steps = {
  names: new Names(review, box),
  read: new Reading(review, box),
  left: new Left(review, box, { isShown: () => step === "left", leave: () => go("second-reader") }),
  "second-reader": new SecondReader(review, box, { go }),
  release: new Release(review, box, { go }),
};

function go(name) {
  if (name !== step) box.replaceChildren();
  step = name;
  history.replaceState(null, "", `#${name}`);
  draw();
  byId("main").focus();
}

function draw() {
  const { n_open: open, n_accepted: accepted, n_rejected: rejected } = review.view;
  byId("count").textContent = open ? `${open} of ${open + accepted + rejected} left to decide` : `All ${accepted + rejected} decided`;
  fill(byId("passes"), STEPS.map(([name, label]) => el("a", { href: `#${name}`, "aria-current": name === step ? "step" : null, onclick: (event) => { event.preventDefault(); go(name); } }, label)));
  steps[step].draw();
}

review.addEventListener("changed", () => { fill(byId("notices")); draw(); });
review.addEventListener("refused", ({ detail: problem }) => showProblem(problem));
addEventListener("hashchange", () => { const name = fromAddress(); if (name && name !== step) go(name); });

function showProblem(problem) {
  const line = notice("error", el("p", {}, sentence(problem.message)), el("p", {}, button("Close", { class: "quiet", onclick: () => fill(byId("notices")) })));
  fill(byId("notices"), line);
  line.scrollIntoView({ block: "nearest" });
}

function notBegun(problem) {
  fill(box, el("div", { class: "panel empty" }, icon("clock"), el("h2", {}, "The de-identifier has not read this transcript yet"),
    el("p", {}, sentence(problem.message)),
    el("div", { class: "row" }, button("Look again", { icon: "rotate-ccw", class: "primary", onclick: () => location.reload() }),
      button("Review without suggestions", { onclick: async () => {
        try { await api.post(`${review.path}/review`); await review.load(); } catch (error) { showProblem(error); }
      } }))));
}

async function undo() {
  const id = await review.undo();
  if (id) steps[step].show?.(id);
}

const PAGE = crypto.getRandomValues(new Uint32Array(3)).reduce((text, part) => text + part.toString(36), "").slice(0, 24);
const REPORT_EVERY = 5000; // ms

/** Say that this person is at work here, and show who else is. */
async function report() {
  if (document.hidden) return;
  const { people } = await api.put(`${review.path}/presence`, { page: PAGE, segment: null, activity: "reviewing" }, { background: true });
  fill(byId("people"), people.filter(({ you }) => !you).map(({ name, activity }) => el("span", { class: "tag" }, icon("user"), `${name ?? "Another person"} is ${activity} it`)));
}

listen(() => ({ undo, ...steps[step].actions }));
byId("open-keys").addEventListener("click", help);

try {
  if (!canRead(me)) throw new Error("This page is for researchers.");
  await review.describe();
  byId("title").textContent = review.code ? `Review of ${review.code}` : "Review";
  document.title = `${byId("title").textContent} · Fieldscribe`;
  byId("up").href = `/studies/${encodeURIComponent(review.study)}`;
  byId("up-name").textContent = review.study;
  byId("open-transcript").href = `/transcripts/${review.id}`;
  report().catch(() => {});
  setInterval(() => report().catch(() => {}), REPORT_EVERY);
  await review.load();
} catch (problem) {
  if (problem.code === "review_not_ready") notBegun(problem); else fill(box, notice("error", sentence(problem.message)));
}
ready();
