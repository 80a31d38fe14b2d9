// Participants of a study: sessions, consents, attributes, member checking, approvals, small cells.
//
// The list has no names. The address may name a participant: /studies/PEER/participants#P07.
import * as api from "./api.js";
import { announce, ask, button, byId, el, fill, icon, notice, ready, sentence } from "./dom.js";
import { askForm, choice, field, text } from "./entity_forms.js";
import { plural, when } from "./format.js";
import { LOOKUP_REASONS } from "./look_up_reasons.js";
import { memberChecking } from "./member_checking.js";
import { readList } from "./roster_list.js";
import { canManage, canRead, user } from "./shell.js";
import { showTabs } from "./study_tabs.js";

const SCOPES = [
  ["recording", "Recording", "needed to transcribe"], ["transcription", "Transcription", "needed to transcribe, to export and to release"],
  ["quotation", "Quotation", "needed to release for a publication"], ["sharing", "Sharing", "needed to release for a repository, and for a deposit"],
  ["future_use", "Future use", "recorded only"], ["recontact", "Contact again", "needed for member checking"],
];
const SCOPE_NAMES = Object.fromEntries(SCOPES);
const RULES = { recording: "transcribing", release: "releasing", export: "exporting identified text", approval: "approvals" };

const me = await user;
const code = decodeURIComponent(location.pathname.split("/")[2]);
const path = `/v1/studies/${encodeURIComponent(code)}`;
const box = byId("participants");
const canLookUp = ["custodian", "owner"].includes(me.role);
const canChange = canRead(me);
let study = null, people = [], approvals = [];

const rules = el("div", { class: "stack tight" }), list = el("div", { class: "stack" }), one = el("div", {});
const approvalBox = el("div", { class: "stack" }), cells = el("div", {});

async function load() {
  [study, { items: people }, { items: approvals }] = await Promise.all([
    api.get(path), api.get(`${path}/participants`), api.get(`${path}/approvals`),
  ]);
  drawRules();
  drawList();
  drawApprovals();
}

async function reload() {
  try { await load(); } catch (problem) { fill(list, notice("error", sentence(problem.message))); }
}

// --- the rules ----------------------------------------------------------------------------------

const day = (date) => new Date(`${date}T12:00`).toLocaleDateString("en-GB", { day: "numeric", month: "short", year: "numeric" });
const today = () => new Date().toISOString().slice(0, 10);
const isValid = ({ valid_from: from, valid_until: until }) => from <= today() && (!until || today() <= until);

function drawRules() {
  const warned = study.consent_warnings.map((rule) => RULES[rule]);
  fill(rules,
    people.length ? null : notice("info", "The study has no participants yet, so consent is not checked. From the first participant on, a session is transcribed, released or exported only if everybody on it has consented."),
    approvals.length && !approvals.some(isValid) ? notice(study.consent_warnings.includes("approval") ? "warning" : "error", "No approval is valid today. Record a new one before you upload.") : null,
    warned.length ? notice("warning", `In this study, these rules of consent only warn: ${warned.join(", ")}. Each use is recorded in the audit trail.`) : null);
  rules.hidden = !rules.children.length;
}

function changeRules() {
  const boxes = Object.entries(RULES).map(([rule, label]) => [rule, label, el("input", { type: "checkbox", checked: study.consent_warnings.includes(rule) })]);
  return askForm("Rules that only warn", [
    el("p", {}, "Tick a rule to have it warn in place of refusing. The change and each use are recorded in the audit trail."),
    boxes.map(([, label, input]) => choice(`${label[0].toUpperCase()}${label.slice(1)}`, input)),
  ], { label: "Save", primary: true }, () => api.patch(path, { consent_warnings: boxes.filter(([, , input]) => input.checked).map(([rule]) => rule) }));
}

// --- the list -----------------------------------------------------------------------------------

const scopes = (consent) => (consent.scopes.length ? SCOPES.filter(([scope]) => consent.scopes.includes(scope)).map(([, label]) => label.toLowerCase()).join(", ") : "ended");
const state = (person) => (person.erased_at ? "removed" : person.withdrawn_at ? "withdrawn" : null);

function drawList() {
  const current = location.hash.slice(1);
  fill(list,
    el("div", { class: "spread" }, el("p", { class: "muted" }, people.length ? plural(people.length, "participant") : null),
      el("div", { class: "row" },
        people.length ? button("Save the list without names", { icon: "download", onclick: saveList }) : null,
        canManage(me) ? button("Rules", { icon: "settings", id: "rules", onclick: async () => { if (await changeRules()) { announce("Saved"); await reload(); } byId("rules").focus(); } }) : null,
        canChange ? button("Add a participant", { icon: "user-plus", id: "add", onclick: add }) : null)),
    people.length ? el("div", { class: "panel" }, el("table", { class: "stacked" },
      el("thead", {}, el("tr", {}, ["Code", "Sessions", "Consent", "Sheet", ""].map((name) => el("th", { scope: "col" }, name || el("span", { class: "visually-hidden" }, "Actions"))))),
      el("tbody", {}, people.map((person) => row(person)))))
      : el("div", { class: "panel empty" }, icon("users"), el("h2", {}, "No participants yet"), el("p", {}, "Import a list, or add participants one by one.")));
  const chosen = people.find((person) => person.code === current);
  if (chosen) show(chosen, false); else fill(one);
}

function row(person) {
  const [consent] = person.consents;
  return el("tr", { "data-code": person.code },
    el("th", { scope: "row" }, person.code, state(person) ? [" ", el("span", { class: "tag" }, state(person))] : null),
    el("td", { "data-label": "Sessions" }, person.sessions.join(", ") || el("span", { class: "muted" }, "none")),
    el("td", { "data-label": "Consent" }, consent ? scopes(consent) : el("strong", {}, "none recorded")),
    el("td", { "data-label": "Sheet" }, consent ? `${consent.sheet_version}, ${day(consent.given_on)}` : "–"),
    el("td", {}, el("div", { class: "row end" }, button("Open", { "aria-label": `Open ${person.code}`, onclick: () => { history.replaceState(null, "", `#${person.code}`); show(person, true); } }))));
}

const quoted = (value) => `"${String(value ?? "").replaceAll('"', '""')}"`;

/** Codes, sessions and consents as a CSV file that can be imported again. */
function saveList() {
  const lines = [["code", "sessions", "consent_version", "consent_date", "consent_scopes"], ...people.map((person) => {
    const consent = person.consents.find((each) => each.scopes.length && each === person.consents[0]);
    return [person.code, person.sessions.join(";"), consent?.sheet_version, consent?.given_on, consent?.scopes.join(";")];
  })].map((cells) => cells.map(quoted).join(","));
  const address = URL.createObjectURL(new Blob([`${lines.join("\n")}\n`], { type: "text/csv" }));
  const link = el("a", { href: address, download: `${code}.participants.csv` });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

// --- one participant ----------------------------------------------------------------------------

function show(person, moveThere) {
  const title = el("h2", { id: "one-title", tabindex: "-1" }, person.code);
  const gone = Boolean(person.erased_at);
  const found = el("div", {});
  const act = (run) => async () => { if (await run(person)) await reload(); byId("one-title")?.focus(); };
  fill(one, el("section", { class: "panel stack", "aria-labelledby": "one-title" },
    el("div", { class: "spread" }, title, button("Close", { icon: "x", iconOnly: true, onclick: () => close(person) })),
    person.withdrawn_at ? notice("info", `Withdrew on ${when(person.withdrawn_at)}.`) : null,
    el("p", {}, person.sessions.length ? `Takes part in ${person.sessions.join(", ")}.` : "On no session’s list yet. Import a list with a column “sessions” to say who took part in what."),
    el("div", { class: "row" },
      canChange && !gone ? button("Record a consent", { icon: "check", onclick: act(recordConsent) }) : null,
      canChange && !gone ? button("Contacts and attributes", { icon: "pencil", onclick: act(change) }) : null,
      canLookUp && !gone ? button("Show name and contacts", { icon: "eye", id: "look-up", onclick: () => lookUp(person, found) }) : null,
      canChange && !person.withdrawn_at ? el("a", { class: "button", href: `/studies/${encodeURIComponent(code)}/withdrawals#${person.code}` }, icon("log-out"), "Withdraw") : null),
    found,
    el("h3", {}, "Consents"),
    person.consents.length ? el("ul", { class: "plain" }, person.consents.map((consent, n) => el("li", {},
      el("strong", {}, day(consent.given_on)), `, information sheet ${consent.sheet_version}: ${scopes(consent)}.`,
      el("span", { class: "muted small" }, ` Recorded ${when(consent.recorded_at)}.${n ? "" : " This one counts."}`))))
      : el("p", { class: "muted" }, "None is recorded, so nothing of the participant may be transcribed, released or exported."),
    canChange ? memberChecking(code, person) : null));
  if (moveThere) title.focus();
}

function close(person) {
  history.replaceState(null, "", location.pathname);
  fill(one);
  list.querySelector(`[data-code="${person.code}"] button`)?.focus();
}

function recordConsent(person) {
  const [newest] = person.consents;
  const sheet = text({ maxlength: "20", required: true, value: newest?.sheet_version ?? "", placeholder: "2.1" });
  const date = el("input", { type: "date", required: true, value: today(), max: today() });
  const boxes = SCOPES.map(([scope, label, use]) => [scope, el("input", { type: "checkbox", checked: newest ? newest.scopes.includes(scope) : false }), label, use]);
  return askForm(`Record a consent of ${person.code}`, [
    field("Version of the information sheet", sheet), field("Date of the consent", date),
    el("fieldset", { class: "stack tight" }, el("legend", {}, "Consents to"), boxes.map(([, input, label, use]) => choice([label, el("span", { class: "small muted" }, ` ${use}`)], input))),
    notice("info", "It replaces earlier consents, which stay on record. With nothing ticked, the consent has ended. Jobs that it no longer covers are cancelled."),
  ], { label: "Record", primary: true }, async () => {
    if (!date.value) throw new Error("Give the date of the consent.");
    await api.post(`/v1/participants/${person.id}/consents`, {
      sheet_version: sheet.value.trim(), given_on: date.value, scopes: boxes.filter(([, input]) => input.checked).map(([scope]) => scope),
    });
    announce("Recorded");
  });
}

const lines = (area) => area.value.split("\n").map((line) => line.trim()).filter(Boolean);
const attributeFields = () => study.attributes.map((name) => [name, text({ maxlength: "200" })]);
const filled = (fields) => Object.fromEntries(fields.map(([name, input]) => [name, input.value.trim()]).filter(([, value]) => value));
const shownAs = (name) => `${name[0].toUpperCase()}${name.slice(1)}`;

function change(person) {
  const contacts = el("textarea", { rows: "2", spellcheck: "false", autocomplete: "off" });
  const fields = attributeFields();
  return askForm(`Contacts and attributes of ${person.code}`, [
    el("p", {}, "What is stored is not shown here. What you enter replaces it; what you leave empty stays as it is."),
    field("Contacts, one per line", contacts), fields.length ? [fields.map(([name, input]) => field(shownAs(name), input)), el("p", { class: "small muted" }, "If you enter one attribute, enter all: together they replace the old ones.")] : null,
  ], { label: "Save", primary: true }, async () => {
    const body = {}, attributes = filled(fields);
    if (lines(contacts).length) body.contacts = lines(contacts);
    if (Object.keys(attributes).length) body.attributes = attributes;
    if (Object.keys(body).length) await api.patch(`/v1/participants/${person.id}`, body, { headers: { "If-Match": `"${person.version}"` } });
    announce("Saved");
  });
}

async function lookUp(person, found) {
  const reason = el("select", {}, LOOKUP_REASONS.map(([value, label]) => el("option", { value }, label)));
  const done = await askForm(`Show the name and contacts of ${person.code}?`, [
    field("Reason", reason, "It is recorded with your account and the time."),
  ], { label: "Show", primary: true }, () => api.post(`${path}/participants/look-up`, { codes: [person.code], reason: reason.value }));
  if (done) {
    const [read] = done.items;
    const facts = [["Names", read.names.join("; ")], ["Contacts", read.contacts.join("; ")], ...Object.entries(read.attributes).map(([name, value]) => [shownAs(name), value])];
    fill(found, el("dl", {}, facts.map(([name, value]) => [el("dt", {}, name), el("dd", {}, value || "none")])));
    announce("Shown");
  }
  byId("look-up").focus();
}

// --- adding and importing -----------------------------------------------------------------------

async function add() {
  const who = text({ maxlength: "20", placeholder: "P07" });
  const names = el("textarea", { rows: "2", spellcheck: "false", autocomplete: "off" });
  const contacts = el("textarea", { rows: "2", spellcheck: "false", autocomplete: "off" });
  const fields = attributeFields();
  const done = await askForm("Add a participant", [
    field("Code", who, "Stands for the name in transcripts and releases."),
    field("Names, one per line", names, "The main name first. They go to the roster and are replaced in releases."),
    field("Contacts, one per line", contacts), fields.map(([name, input]) => field(shownAs(name), input)),
  ], { label: "Add", primary: true }, () => api.post(`${path}/participants`, {
    code: who.value.trim(), names: lines(names), contacts: lines(contacts), attributes: filled(fields),
  }));
  if (done) {
    announce("Added");
    history.replaceState(null, "", `#${done.code}`);
    await reload();
    byId("one-title")?.focus();
  } else byId("add").focus();
}

function importer() {
  const file = el("input", { type: "file", id: "list-file", accept: ".csv,.txt,.tsv,text/csv,text/plain" });
  const area = el("textarea", { id: "list-text", rows: "6", spellcheck: "false", autocomplete: "off", "aria-describedby": "list-hint" });
  const submit = el("button", { class: "primary", disabled: true }, icon("upload"), "Import");
  const done = el("div", {});
  const look = () => { submit.disabled = area.value.trim().split("\n").length < 2; };
  area.addEventListener("input", look);
  file.addEventListener("change", async () => {
    fill(done);
    const [chosen] = file.files;
    if (!chosen) return;
    try { area.value = await readList(chosen); look(); } catch (error) { fill(done, notice("error", error.message)); }
    file.value = "";
  });
  const columns = ["code", "name", "aliases", "contact", "sessions", "consent_version", "consent_date", "consent_scopes", ...study.attributes];
  const form = el("form", { class: "panel stack settings" }, el("h2", {}, "Import a list"),
    el("div", { class: "field" }, el("label", { for: "list-file" }, "A CSV file"), file),
    el("div", { class: "field" }, el("label", { for: "list-text" }, "Or paste the list, with a first line that names its columns"), area,
      el("p", { class: "hint", id: "list-hint" }, "Columns: ", columns.map((name, n) => [n ? ", " : null, el("code", {}, name)]), ". Only ", el("code", {}, "code"), " is needed. Several sessions, aliases or scopes are separated by semicolons; the scopes may be ", el("code", {}, "all"), ".")),
    done, el("div", { class: "row" }, submit, el("p", { class: "small muted" }, "Importing a list again changes nothing. If an entry has a fault, nothing is imported.")));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    submit.disabled = true;
    try {
      const made = await api.post(`${path}/participants/import`, { csv: area.value });
      area.value = "";
      await reload();
      const said = `${made.created} new, ${made.updated} changed, ${made.unchanged} unchanged, ${plural(made.consents, "new consent")}.`;
      fill(done, notice("done", said));
      showCells(made.small_cells);
      announce(said);
    } catch (problem) { fill(done, notice("error", sentence(problem.message))); submit.disabled = false; }
  });
  return form;
}

// --- small cells --------------------------------------------------------------------------------

function smallCells() {
  return el("section", { class: "stack", "aria-labelledby": "cells-title" }, el("h2", { id: "cells-title" }, "Small cells"),
    el("p", { class: "prose muted" }, study.attributes.length ? `Readers may recognise people by what few share. The check counts combinations of ${study.attributes.join(", ")} that fewer than five participants share.`
      : "The study has no attributes. An administrator defines them: fieldscribe study set CODE --attribute role."),
    study.attributes.length ? el("div", { class: "row" }, button("Check", { icon: "search", onclick: async () => {
      try { const { items } = await api.get(`${path}/small-cells`); showCells(items); announce(items.length ? `${plural(items.length, "combination")} found` : "None found"); }
      catch (problem) { fill(cells, notice("error", sentence(problem.message))); }
    } })) : null, cells);
}

function showCells(items) {
  fill(cells, items.length ? notice("warning", el("p", {}, "Fewer than five participants share each of these. Merge or leave out such values before you publish them."),
    el("ul", { class: "plain" }, items.map((cell) => el("li", {}, `${cell.n === 1 ? "1 person" : `${cell.n} people`}: ${Object.entries(cell.attributes).map(([name, value]) => `${name} ${value}`).join(", ")}`))))
    : study.attributes.length ? notice("done", "At least five participants share every combination that occurs.") : null);
}

// --- approvals ----------------------------------------------------------------------------------

function drawApprovals() {
  fill(approvalBox, el("div", { class: "spread" }, el("h2", { id: "approvals-title" }, "Approvals"),
    canChange ? button("Record an approval", { icon: "plus", id: "add-approval", onclick: addApproval }) : null),
  approvals.length ? el("div", { class: "panel" }, el("table", { class: "stacked" },
    el("thead", {}, el("tr", {}, ["Committee", "Reference", "Site", "Valid", ""].map((name) => el("th", { scope: "col" }, name || el("span", { class: "visually-hidden" }, "Actions"))))),
    el("tbody", {}, approvals.map((each) => el("tr", {},
      el("th", { scope: "row" }, each.committee),
      el("td", { "data-label": "Reference" }, each.number),
      el("td", { "data-label": "Site" }, each.site ?? "all sites"),
      el("td", { "data-label": "Valid" }, `${day(each.valid_from)} – ${each.valid_until ? day(each.valid_until) : "open"}`, isValid(each) ? null : [" ", el("span", { class: "tag" }, "not valid today")]),
      el("td", {}, canChange ? el("div", { class: "row end" }, button("Remove", { "aria-label": `Remove ${each.number}`, onclick: () => removeApproval(each) })) : null))))))
    : el("p", { class: "muted" }, "None is recorded, so uploads are not checked against approvals."));
}

async function addApproval() {
  const committee = text({ maxlength: "200" }), number = text({ maxlength: "200" }), site = text({ maxlength: "200" });
  const from = el("input", { type: "date", value: today() }), until = el("input", { type: "date" });
  const done = await askForm("Record an approval", [
    field("Committee", committee), field("Reference", number), field("Site", site, "Leave it empty for all sites."),
    field("First day", from), field("Last day", until, "Leave it empty if there is none."),
    notice("info", "From the first approval on, uploads and jobs need one that is valid on the day."),
  ], { label: "Record", primary: true }, () => {
    if (!committee.value.trim() || !number.value.trim() || !from.value) throw new Error("Give the committee, its reference and the first day.");
    if (until.value && until.value < from.value) throw new Error("The last day is before the first.");
    return api.post(`${path}/approvals`, {
      committee: committee.value.trim(), number: number.value.trim(), site: site.value.trim() || null, valid_from: from.value, valid_until: until.value || null,
    });
  });
  if (done) { announce("Recorded"); await reload(); }
  byId("add-approval").focus();
}

async function removeApproval(approval) {
  const sure = await ask(`Remove the approval ${approval.number}?`, el("p", {}, "Remove only what was recorded by mistake. The removal is in the audit trail."),
    [{ label: "Remove", value: true, danger: true }, { label: "Cancel", value: null }]);
  if (sure) {
    try { await api.remove(`/v1/approvals/${approval.id}`); announce("Removed"); await reload(); }
    catch (problem) { fill(rules, notice("error", sentence(problem.message))); }
  }
  byId("add-approval").focus();
}

// --- the start ----------------------------------------------------------------------------------

try {
  await showTabs(code, "participants", me);
  if (!canRead(me) && me.role !== "custodian") throw new Error("This page is for researchers and custodians.");
  await load();
  fill(box,
    el("p", { class: "prose muted" }, "Who takes part in which sessions, and with which consent. Names, contacts and attributes are stored encrypted, apart from the transcripts, and the list does not show them."),
    rules, list, one, canChange ? importer() : null, smallCells(),
    el("section", { "aria-labelledby": "approvals-title" }, approvalBox));
} catch (problem) { fill(box, notice("error", sentence(problem.message))); }
ready();
