// Withdrawals of a study: what exists of a participant, the request, its progress, certificates.
//
// The address may name the participant: /studies/PEER/withdrawals#P07.
import * as api from "./api.js";
import { announce, button, byId, el, fill, icon, notice, ready, sentence } from "./dom.js";
import { choice, field, text } from "./entity_forms.js";
import { plural, when } from "./format.js";
import { user } from "./shell.js";
import { showTabs } from "./study_tabs.js";

const SCOPES = [
  ["data", "Remove all data", "Recordings, transcripts, releases and names. In a group, the participant’s voice only."],
  ["identified", "Remove identified data", "As above, but de-identified releases stay."],
  ["participation", "Take no further part", "Nothing is removed. No new transcript is made of the participant’s sessions."],
];
const REASONS = [
  ["", "Not said"], ["no_reason", "No reason given"], ["changed_mind", "Changed their mind"], ["privacy", "Privacy"],
  ["distress", "Distress"], ["harm_feared", "Fear of harm"], ["other", "Another reason"],
];
const STEPS = {
  ledger: "Recorded, so that a restore applies it again", voice: "Voice taken out of groups", interviews: "Interviews erased",
  mentions: "Mentions by others opened for review", vocabulary: "Vocabularies cleared", releases: "Group releases made again",
  search: "What is left was searched", names: "Names destroyed", verify: "Verified",
};
const POLL = 1000; // ms

const me = await user;
const code = decodeURIComponent(location.pathname.split("/")[2]);
const path = `/v1/studies/${encodeURIComponent(code)}`;
const box = byId("withdrawals");
const main = el("div", { class: "stack" });
const history = el("div", {});

try {
  await showTabs(code, "withdrawals", me);
  fill(box, main, history);
  askWho(decodeURIComponent(location.hash.slice(1)));
  await showHistory();
  const running = (await api.get(`${path}/withdrawals`)).items.find((each) => each.state === "removing");
  if (running) follow(running);
} catch (problem) { fill(box, notice("error", sentence(problem.message))); }
ready();

// --- who, and what exists -----------------------------------------------------------------------

function askWho(prefilled = "") {
  const who = text({ id: "participant", required: true, maxlength: "20", value: prefilled, placeholder: "P07" });
  const said = el("div", {});
  const form = el("form", { class: "panel stack settings" },
    el("h2", {}, "Withdraw a participant"),
    field("The participant’s code", who, "As on the roster. Nothing is removed before you confirm."),
    el("div", { class: "row" }, el("button", { class: "primary" }, "Show what exists")), said);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      const found = await api.get(`${path}/withdrawal-preview?participant=${encodeURIComponent(who.value.trim())}`);
      showInventory(found);
    } catch (problem) {
      fill(said, notice("error", sentence(problem.code === "invalid_request" ? "A code is letters and a number, such as P07." : problem.message)));
    }
  });
  fill(main, form);
}

function showInventory(found) {
  const name = found.participant;
  const blocked = found.units.some((unit) => unit.problems.length);
  const sessions = found.units.length ? el("table", { class: "stacked" },
    el("caption", { class: "small muted" }, "What exists"),
    el("thead", {}, el("tr", {}, ["Session", "Recordings", "Transcripts", "Releases", "Masked audio", "Hand-offs"].map((title) => el("th", { scope: "col" }, title)))),
    el("tbody", {}, found.units.map((unit) => el("tr", {},
      el("th", { scope: "row" }, unit.name, " ", el("span", { class: "small muted" }, unit.is_group ? "group: only this voice leaves" : "interview")),
      el("td", { "data-label": "Recordings" }, unit.n_recordings),
      el("td", { "data-label": "Transcripts" }, `${unit.n_transcripts}, ${plural(unit.n_versions, "version")}`),
      el("td", { "data-label": "Releases" }, unit.n_releases),
      el("td", { "data-label": "Masked audio" }, unit.n_masked_audio),
      el("td", { "data-label": "Hand-offs" }, unit.n_handoffs))))) : el("p", {}, "No session names this participant.");
  const passed = found.passed_on.length ? el("details", {},
    el("summary", {}, `Read, played or downloaded before: ${plural(found.passed_on.length, "entry", "entries")}`),
    el("ul", { class: "small" }, found.passed_on.map((each) => el("li", {}, `${when(each.at)}, ${each.by}: ${each.what}`)))) : el("p", { class: "small" }, "Nothing is known to have been read or downloaded.");
  fill(main, el("section", { class: "panel stack", "aria-labelledby": "found-title" },
    el("h2", { id: "found-title", tabindex: "-1" }, `${name} in ${found.study}`),
    found.withdrawn_at ? notice("info", `Withdrew on ${when(found.withdrawn_at)}.`) : null,
    sessions,
    el("p", { class: "small" }, `Names and contacts: ${found.has_names ? "yes" : "no"}. ${plural(found.n_consents, "consent record")}, which stay. Mentions by others, as far as known: ${found.n_mentions}. Newest known backup: ${found.last_backup_at ? when(found.last_backup_at) : "none"}.`),
    passed,
    found.units.flatMap((unit) => unit.problems.map((problem) => notice("error", `${unit.name}: `, sentence(problem)))),
    notice("warning", el("ul", {}, found.costs.map((cost) => el("li", {}, cost)))),
    confirmation(name, blocked)));
  byId("found-title").focus();
}

// --- confirming and following -------------------------------------------------------------------

function confirmation(name, blocked) {
  const scopes = el("fieldset", { class: "stack tight" }, el("legend", {}, "What is withdrawn"),
    SCOPES.map(([value, label, hint]) => choice([label, el("span", { class: "hint small muted" }, ` ${hint}`)],
      el("input", { type: "radio", name: "scope", value, required: true }))));
  const reason = el("select", {}, REASONS.map(([value, label]) => el("option", { value }, label)));
  const typed = text({ id: "confirmation", maxlength: "20", required: true });
  const said = el("div", {});
  const submit = el("button", { class: "danger", disabled: true }, `Withdraw ${name}`);
  const form = el("form", { class: "stack settings" }, scopes, field("Reason", reason, "Optional. It is in the audit trail and on the certificate."),
    field(`Type ${name} to confirm`, typed), el("div", { class: "row" }, submit, button("Cancel", { onclick: () => askWho() })), said);
  const check = () => {
    const scope = form.querySelector("input[name=scope]:checked")?.value;
    submit.disabled = typed.value.trim() !== name || !scope || (blocked && scope !== "participation");
  };
  form.addEventListener("input", check);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    submit.disabled = true;
    try {
      follow(await api.post(`${path}/withdrawals`, {
        participant: name, scope: form.querySelector("input[name=scope]:checked").value,
        reason: reason.value || null, confirmation: typed.value.trim(),
      }));
    } catch (problem) { fill(said, notice("error", sentence(problem.message))); check(); }
  });
  return form;
}

async function follow(row) {
  const list = el("ol", { class: "small" });
  const said = el("div", {});
  const title = el("h2", { id: "progress-title", tabindex: "-1" }, `Withdrawing ${row.participant}`);
  fill(main, el("section", { class: "panel stack", "aria-labelledby": "progress-title" }, title, list, said));
  title.focus();
  for (;;) {
    fill(list, row.steps.map((step) => el("li", {}, row.steps_done.includes(step) ? [icon("check"), " ", STEPS[step]] : el("span", { class: "muted" }, STEPS[step]))));
    fill(said, row.failure_code ? notice("warning", `The next step cannot be done at present (${row.failure_code}). The service tries it again every 30 seconds; you may close this page.`) : null);
    if (row.state === "finished") break;
    await new Promise((resolve) => { setTimeout(resolve, POLL); });
    try { row = await api.get(`/v1/withdrawals/${row.id}`, { background: true }); } catch (problem) {
      fill(said, notice("error", sentence(problem.message)));
      if (problem.status) return;
    }
  }
  title.textContent = `${row.participant} has withdrawn`;
  announce(title.textContent);
  fill(said, el("div", { class: "row" }, certificateLinks(row), button("Withdraw another participant", { onclick: () => askWho() })));
  await showHistory();
}

// --- what was done before -----------------------------------------------------------------------

const certificateLinks = (row) => [["pdf", "Certificate (PDF)"], ["json", "Signed file (JSON)"]].map(([format, label]) =>
  el("a", { class: "button", href: `/v1/certificates/${row.certificate_id}?format=${format}`, download: true, "aria-label": `${label} of ${row.participant}` }, icon("download"), label));

async function showHistory() {
  const { items } = await api.get(`${path}/withdrawals`);
  if (!items.length) { fill(history); return; }
  fill(history, el("section", { class: "stack", "aria-labelledby": "history-title" }, el("h2", { id: "history-title" }, "Withdrawals of this study"),
    el("table", { class: "stacked" },
      el("thead", {}, el("tr", {}, ["Participant", "Withdrawn", "Requested", "Certificate"].map((title) => el("th", { scope: "col" }, title)))),
      el("tbody", {}, items.map((row) => el("tr", {},
        el("th", { scope: "row" }, row.participant),
        el("td", { "data-label": "Withdrawn" }, SCOPES.find(([value]) => value === row.scope)[1]),
        el("td", { "data-label": "Requested" }, when(row.requested_at)),
        el("td", { "data-label": "Certificate" }, row.certificate_id ? el("div", { class: "row" }, certificateLinks(row)) : "being removed")))))));
}
