// A study's roster: the people, organisations and places whose names are replaced, by pseudonym.
//
// The list has no names. A person who may look them up says why first; the names then stay on the
// page until it is closed.
import * as api from "./api.js";
import { announce, ask, button, byId, el, fill, icon, notice, ready, sentence } from "./dom.js";
import { askForm, changeEntity, choice, describe, field, KINDS, mergeEntity, text } from "./entity_forms.js";
import { plural, when } from "./format.js";
import { LOOKUP_REASONS } from "./look_up_reasons.js";
import { entriesOf, readList } from "./roster_list.js";
import { canRead, closeOnLeave, user } from "./shell.js";
import { showTabs } from "./study_tabs.js";

const REASON_NAMES = { ...Object.fromEntries(LOOKUP_REASONS), deidentification: "De-identification" };
const NOTES = {
  common_word: "one of its names is also a common word, so it is found only where it is used as a name. Check its mentions.",
  same_name: "another entry has one of its names. If they are one person, merge them; otherwise you choose at each mention.",
  name_differs: "its code had another name before. Both count now; remove the one that is wrong.",
  pseudonym_in_use: "somebody has chosen this name as a pseudonym. Choose another pseudonym for that person.",
};
const LISTS = [
  ["all", "All entries", () => true],
  ["people", "People", ({ kind }) => ["participant", "interviewer", "person"].includes(kind)],
  ["organisation", "Organisations", ({ kind }) => kind === "organisation"],
  ["place", "Places", ({ kind }) => kind === "place"],
  ["other", "Other things", ({ kind }) => kind === "other"],
  ["always", "Always replaced", ({ always }) => always],
  ["allowed", "Never replaced", ({ kind }) => kind === "allowed"],
];
const MOST = 200; // rows

const me = await user;
const code = decodeURIComponent(location.pathname.split("/")[2]);
const path = `/v1/studies/${encodeURIComponent(code)}`;
const box = byId("roster");
const canLookUp = ["custodian", "owner"].includes(me.role);
const names = new Map(); // what was looked up, by entity, until the page is closed
let entities = [], list = "all", found = null, ticked = new Set();

async function load() {
  entities = await api.listAll(`${path}/entities`);
  draw();
}

// --- the list ---------------------------------------------------------------------------------------

const results = el("div", { class: "stack" });
const table = el("div", { class: "stack" });
const message = el("div", {});

function draw() {
  const [, , belongs] = LISTS.find(([name]) => name === list);
  const shown = entities.filter((entity) => (found ? found.has(entity.id) : belongs(entity)));
  const select = el("select", { id: "list" }, LISTS.map(([value, label, has]) => el("option", { value, selected: value === list }, `${label} (${entities.filter(has).length})`)));
  select.addEventListener("change", () => { list = select.value; found = null; ticked.clear(); draw(); byId("list").focus(); });
  ticked = new Set([...ticked].filter((id) => entities.some((entity) => entity.id === id)));
  const lookUp = canLookUp ? button("Show names", { icon: "eye", id: "look-up", disabled: !ticked.size, onclick: () => lookUpNames([...ticked]) }) : null;
  fill(table,
    el("div", { class: "spread" }, el("div", { class: "row" }, el("label", { for: "list" }, "Show"), select), lookUp),
    found ? el("p", { class: "row" }, `${plural(shown.length, "entry", "entries")} found.`, button("Show all entries", { class: "quiet", onclick: () => { found = null; draw(); byId("list").focus(); } })) : null,
    shown.length ? el("div", { class: "panel" }, el("table", { class: "stacked" },
      el("thead", {}, el("tr", {}, [canLookUp ? "Choose" : null, "Pseudonym", "Kind", "Mentions", "Names", ""].filter((name) => name !== null).map((name) =>
        el("th", { scope: "col" }, name && name !== "Choose" ? name : el("span", { class: "visually-hidden" }, name || "Actions"))))),
      el("tbody", {}, shown.slice(0, MOST).map((entity) => row(entity, lookUp)))))
      : el("div", { class: "panel empty" }, icon("users"), el("h2", {}, entities.length ? "No entries here" : "The roster is empty"),
        el("p", {}, entities.length ? "Choose another list, or add an entry." : "Import the people, organisations and places of your study. Their names are then found in every transcript, and replaced once you have decided.")),
    shown.length > MOST ? el("p", { class: "muted" }, `The newest ${MOST} of ${shown.length} are listed. Find an entry by its name to see others.`) : null);
}

const KIND_NAMES = { ...KINDS, allowed: "Never replaced" };
const title = (entity) => entity.pseudonym ?? (entity.kind === "allowed" ? "–" : "none yet");
const label = (entity) => names.get(entity.id)?.names[0] ?? entity.pseudonym ?? `${KIND_NAMES[entity.kind].toLowerCase()} of ${when(entity.created_at)}`;

function row(entity, lookUp) {
  const box = el("input", { type: "checkbox", checked: ticked.has(entity.id), disabled: Boolean(entity.erased_at), "aria-label": `Choose ${label(entity)}` });
  box.addEventListener("change", () => { if (box.checked) ticked.add(entity.id); else ticked.delete(entity.id); lookUp.disabled = !ticked.size; });
  const { suggested, accepted } = entity.mentions;
  const known = names.get(entity.id);
  return el("tr", { "data-entity": entity.id },
    canLookUp ? el("td", {}, box) : null,
    el("th", { scope: "row" }, title(entity), entity.always ? [" ", el("span", { class: "tag" }, "always replaced")] : null, entity.erased_at ? [" ", el("span", { class: "tag" }, "names erased")] : null),
    el("td", { "data-label": "Kind" }, KIND_NAMES[entity.kind]),
    el("td", { "data-label": "Mentions" }, [accepted ? `${accepted} replaced` : null, suggested ? `${suggested} open` : null].filter(Boolean).join(", ") || "none"),
    el("td", { "data-label": "Names" }, known ? [known.names.join("; "), known.descriptor ? ` (${known.descriptor})` : null, known.chosen_name ? ` · chosen name: ${known.chosen_name}` : null] : el("span", { class: "muted" }, entity.erased_at ? "–" : "hidden")),
    el("td", {}, entity.erased_at ? null : menu(entity)));
}

function menu(entity) {
  const items = [
    ["Add a spelling", "plus", addSpelling], ["Remove a spelling", "x", removeSpelling],
    ...(entity.kind === "allowed" ? [] : [["Change", "pencil", change], ["Merge", "merge", merge], ["Split", "scissors", split]]),
    ["Erase the names", "trash-2", erase],
  ];
  const details = el("details", { class: "menu" },
    el("summary", { "aria-label": `Actions for ${label(entity)}` }, icon("ellipsis"), el("span", { class: "narrow-only" }, "Actions")),
    el("div", { class: "items" }, items.map(([text, name, run]) => button(text, { icon: name, onclick: async () => {
      details.open = false;
      if (await run(entity)) await reload(entity);
      byId("roster").querySelector(`[data-entity="${entity.id}"] summary`)?.focus();
    } }))));
  closeOnLeave(details);
  return el("div", { class: "row end" }, details);
}

/** After a change of an entity, its names may be others. */
async function reload(entity) {
  if (entity) names.delete(entity.id);
  try { await load(); } catch (problem) { fill(message, notice("error", sentence(problem.message))); }
}

// --- one entity -------------------------------------------------------------------------------------

const change = (entity) => changeEntity(entity.id, label(entity));

async function addSpelling(entity) {
  const name = text({ maxlength: "200" });
  const done = await askForm(`Add a spelling of ${label(entity)}`, [field("Name, nickname or misspelling", name, "Open transcripts of the study are searched for it.")],
    { label: "Add", primary: true }, () => api.post(`/v1/entities/${entity.id}/aliases`, { name: name.value.trim() }));
  if (done) announce(done.added ? "Added" : "It has this spelling already");
  return done;
}

async function removeSpelling(entity) {
  const known = names.get(entity.id)?.names ?? [];
  const name = known.length ? el("select", {}, known.map((each) => el("option", {}, each))) : text({ maxlength: "200" });
  return askForm(`Remove a spelling of ${label(entity)}`, [field("Name", name, "It is no longer searched for. Decisions on its mentions stay as they are.")],
    { label: "Remove", primary: true }, () => api.post(`/v1/entities/${entity.id}/aliases/remove`, { name: name.value.trim() }));
}

const withNames = (entity) => ({ ...entity, names: names.get(entity.id)?.names });
const merge = (entity) => mergeEntity(withNames(entity), [["In this study", entities.filter((each) => each.id !== entity.id && each.kind !== "allowed" && !each.erased_at && (each.pseudonym || names.has(each.id))).map(withNames)]]);

async function split(entity) {
  const area = el("textarea", { rows: "3", spellcheck: "false" });
  const kind = el("select", {}, Object.entries(KINDS).map(([value, each]) => el("option", { value, selected: value === (["participant", "interviewer"].includes(entity.kind) ? "person" : entity.kind) }, each)));
  return askForm(`Split ${label(entity)}`, [
    el("p", {}, "Use this when two people, places or organisations were taken for one. Mentions with the names that you give have to be decided again."),
    field("Names that belong to the new entry, one per line", area), field("The new entry is", kind),
  ], { label: "Split", primary: true }, () => api.post(`/v1/entities/${entity.id}/split`, { names: lines(area), kind: kind.value }));
}

async function erase(entity) {
  const sure = await ask(`Erase the names of ${label(entity)}?`, el("div", { class: "stack" },
    el("p", {}, "The names are destroyed for ever, in backups too. Releases keep the pseudonym, but nobody can find out whose it was."),
    el("p", {}, "Do this when a participant withdraws. To erase what the person said, delete the recordings too.")),
  [{ label: "Erase the names", value: true, danger: true }, { label: "Keep them", value: false }]);
  if (sure) try { await api.remove(`/v1/entities/${entity.id}`); } catch (problem) { fill(message, notice("error", sentence(problem.message))); return false; }
  return sure;
}

const lines = (area) => area.value.split("\n").map((line) => line.trim()).filter(Boolean);

async function addEntity() {
  const kind = el("select", {}, Object.entries({ ...KINDS, allowed: "Never replaced: it identifies nobody" }).map(([value, each]) => el("option", { value, selected: value === "person" }, each)));
  const name = text({ maxlength: "200" });
  const others = el("textarea", { rows: "3", spellcheck: "false", autocomplete: "off" });
  const pseudonym = text({ maxlength: "20", placeholder: "P07" });
  const chosen = text({ maxlength: "40" });
  const descriptor = text({ maxlength: "60" });
  const always = el("input", { type: "checkbox" });
  const fields = el("div", { class: "stack" },
    field("Pseudonym", pseudonym, "A code such as P07, I1 or PLACE-1. Leave it empty for a random one."),
    field("Chosen name", chosen, "For people: a name for releases that the participant has chosen, instead of the code."),
    field("Description", descriptor, "For places and others: “regional town” gives [PLACE-1: regional town]."),
    choice("Always replace its names, in every transcript, without asking", always));
  kind.addEventListener("change", () => { fields.hidden = kind.value === "allowed"; });
  const done = await askForm("Add an entry", [
    field("Kind", kind), field("Name", name), field("Other spellings, one per line", others, "Nicknames, short forms and known misspellings."), fields,
  ], { label: "Add", primary: true }, () => api.post(`${path}/entities`, {
    kind: kind.value, names: [name.value.trim(), ...lines(others)].filter(Boolean),
    ...(kind.value === "allowed" ? {} : { pseudonym: pseudonym.value.trim() || null, chosen_name: chosen.value.trim() || null, descriptor: descriptor.value.trim() || null, always: always.checked }),
  }));
  if (done) { announce("Added"); await reload(); }
  byId("add-entity").focus();
}

// --- looking up -------------------------------------------------------------------------------------

async function lookUpNames(ids) {
  const reason = el("select", {}, LOOKUP_REASONS.map(([value, each]) => el("option", { value }, each)));
  const done = await askForm(`Show the names of ${plural(ids.length, "entry", "entries")}?`, [
    field("Reason", reason, "It is recorded with your account, the time and the entries."),
  ], { label: "Show the names", primary: true }, () => api.post(`${path}/look-ups`, { entities: ids.slice(0, 200), reason: reason.value }));
  if (done) {
    for (const item of done.items) names.set(item.id, item);
    ticked.clear();
    draw();
    announce(`${plural(done.items.length, "entry", "entries")} shown with names`);
  }
  byId("list").focus();
}

async function showLookUps(event) {
  if (!event.target.open) return;
  const inside = event.target.querySelector("div");
  try {
    const { items } = await api.get(`${path}/look-ups?limit=50`);
    const shown = new Map(entities.map((entity) => [entity.id, title(entity)]));
    fill(inside, items.length ? el("ul", { class: "plain" }, items.map((each) => el("li", {}, `${new Date(each.at).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" })}: ${each.entity_id ? shown.get(each.entity_id) ?? "a merged entry" : "all entries"}. ${REASON_NAMES[each.reason] ?? each.reason}.`)))
      : el("p", { class: "muted" }, "Nobody has looked up names yet."));
  } catch (problem) { fill(inside, notice("error", sentence(problem.message))); }
}

// --- finding and importing --------------------------------------------------------------------------

function finder() {
  const input = text({ id: "find-name", type: "search", maxlength: "200" });
  const form = el("form", { class: "row", role: "search" }, el("label", { for: "find-name" }, "Find by name"), input, el("button", {}, icon("search"), "Find"));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const name = input.value.trim();
    if (!name) { found = null; return draw(); }
    try {
      const { items } = await api.post(`${path}/entities/find`, { name });
      found = new Set(items.map(({ id }) => id));
      draw();
      announce(`${plural(items.length, "entry", "entries")} found`);
    } catch (problem) { fill(message, notice("error", sentence(problem.message))); }
  });
  return form;
}

function importer() {
  const file = el("input", { type: "file", id: "roster-file", accept: ".csv,.txt,.tsv,text/csv,text/plain" });
  const area = el("textarea", { id: "roster-text", rows: "6", spellcheck: "false", autocomplete: "off", "aria-describedby": "roster-hint" });
  const kind = el("select", { id: "roster-kind" }, [["person", "People"], ["organisation", "Organisations"], ["place", "Places"], ["other", "Other things"], ["allowed", "Never replaced: they identify nobody"]].map(([value, each]) => el("option", { value }, each)));
  const kindField = el("div", { class: "field short-select" }, el("label", { for: "roster-kind" }, "These are"), kind);
  const count = el("p", { class: "small muted", role: "status" });
  const submit = el("button", { class: "primary", disabled: true }, icon("upload"), "Import");
  const done = el("div", {});
  let body = null;
  const look = () => {
    const read = entriesOf(area.value, kind.value);
    body = read?.body ?? null;
    kindField.hidden = !read || read.isTable;
    submit.disabled = !body;
    count.textContent = !read ? "" : read.isTable ? `A table with ${plural(read.count, "entry", "entries")}.` : `A list with ${plural(read.count, "entry", "entries")}.`;
  };
  area.addEventListener("input", look);
  kind.addEventListener("change", look);
  file.addEventListener("change", async () => {
    fill(done);
    const [chosen] = file.files;
    if (!chosen) return;
    try { area.value = await readList(chosen); look(); }
    catch (error) { fill(done, notice("error", error.message)); }
    file.value = "";
  });
  const form = el("form", { class: "panel stack settings" }, el("h2", {}, "Import a list"),
    el("div", { class: "field" }, el("label", { for: "roster-file" }, "A CSV or text file"), file),
    el("div", { class: "field" }, el("label", { for: "roster-text" }, "Or type or paste the entries"), area,
      el("div", { class: "hint", id: "roster-hint" },
        "One entry per line: the name, then other spellings after semicolons. A code may come first. ", el("code", {}, "P07; Jane Example; Jay; Janey"),
        ". Or a table whose first line names its columns: ", el("code", {}, "kind,code,name,aliases"), ".")),
    kindField, count, done,
    el("div", { class: "row" }, submit, el("p", { class: "small muted" }, "Importing a list again adds what is new and removes nothing.")));
  kindField.hidden = true;
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (!body) return;
    submit.disabled = true;
    try {
      const made = await api.post(`${path}/roster`, body);
      area.value = "";
      look();
      await reload();
      const said = `${made.created} added, ${made.updated} changed, ${made.unchanged} unchanged.`;
      fill(done, notice(made.notes.length ? "warning" : "done", el("p", {}, said),
        made.notes.length ? el("ul", { class: "plain" }, made.notes.map((note) => el("li", {}, `Entry ${note.entry}: ${NOTES[note.code] ?? note.code}`))) : null));
      announce(said);
    } catch (problem) { fill(done, notice("error", sentence(problem.message))); submit.disabled = false; }
  });
  return form;
}

// --- the start --------------------------------------------------------------------------------------

try {
  await showTabs(code, "roster", me);
  if (!canRead(me) && me.role !== "custodian") throw new Error("This page is for researchers and custodians.");
  entities = await api.listAll(`${path}/entities`);
  fill(results, table);
  const log = canLookUp ? el("details", { ontoggle: showLookUps }, el("summary", {}, "Who has looked up names"), el("div", {})) : null;
  fill(box,
    el("p", { class: "prose muted" }, "The people, organisations and places whose names must not appear in a release. Each has one pseudonym in the whole study. Names are stored encrypted, apart from the transcripts, and the list does not show them",
      canLookUp ? ": to see some, choose entries and give a reason." : ": only a custodian can look them up."),
    el("section", { class: "stack", "aria-label": "Entries" },
      el("div", { class: "spread" }, finder(), button("Add an entry", { icon: "plus", id: "add-entity", onclick: addEntity })),
      message, results, log),
    importer());
  draw();
} catch (problem) { fill(box, notice("error", sentence(problem.message))); }
ready();
