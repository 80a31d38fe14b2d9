// Dialogs that change an entity: its pseudonym, its kind, its spellings. The review and the roster use them.
import * as api from "./api.js";
import { announce, ask, el, fill, notice, sentence } from "./dom.js";

export const KINDS = {
  participant: "Participant", interviewer: "Interviewer", person: "Other person", organisation: "Organisation", place: "Place", other: "Other thing",
};
let fields = 0;

/** A labelled control with a hint below it. */
export function field(label, control, hint = null) {
  fields += 1;
  control.id ||= `field-${fields}`;
  if (hint) control.setAttribute("aria-describedby", `${control.id}-hint`);
  return el("div", { class: "field" }, el("label", { for: control.id }, label), control, hint ? el("p", { class: "hint", id: `${control.id}-hint` }, hint) : null);
}

export const text = (attributes = {}) => el("input", { autocomplete: "off", spellcheck: "false", ...attributes });
export const choice = (label, input) => el("label", { class: "choice" }, input, el("span", {}, label));

/**
 * Show a form in a dialog until `save` succeeds or the person cancels. A problem is shown in the form.
 * Resolves with what `save` returned, or null.
 */
export async function askForm(title, content, action, save) {
  const problem = el("div", {});
  const form = el("div", { class: "stack" }, content, problem);
  for (;;) {
    if (!await ask(title, form, [{ ...action, value: true }, { label: "Cancel", value: null }])) return null;
    try { return (await save()) ?? true; } catch (error) {
      fill(problem, notice("error", sentence(explain(error))));
    }
  }
}

const CODES = "A pseudonym is a code such as P07, I1, PERSON-3 or PLACE-1.";
const WRONG = {
  pseudonym: CODES, code: CODES,
  descriptor: "A description has at most 60 letters, digits, spaces and the characters , . ' -",
  chosen_name: "A chosen name has letters, digits, spaces and the characters . ' -",
  name: "A name has 1 to 200 characters.",
  names: "A name has 1 to 200 characters.",
};

/** The message of a problem, in words for the fields of these forms. */
export function explain(error) {
  const fields = (error.body?.errors ?? []).map(({ where }) => where.split(".").findLast((part) => WRONG[part])).filter(Boolean);
  return fields.length ? [...new Set(fields.map((name) => WRONG[name]))].join(" ") : error.message;
}

/** Change how an entity is shown in releases. */
export async function changeEntity(id, name) {
  const entity = await api.get(`/v1/entities/${id}`);
  const isPerson = ["participant", "interviewer", "person"].includes(entity.kind);
  const kind = el("select", {}, Object.entries(KINDS).map(([value, label]) => el("option", { value, selected: value === entity.kind }, label)));
  const pseudonym = text({ value: entity.pseudonym ?? "", maxlength: "20", placeholder: isPerson ? "P07" : "PLACE-1" });
  const chosen = text({ maxlength: "40" });
  const descriptor = text({ maxlength: "60" });
  const removeChosen = el("input", { type: "checkbox" }), removeDescriptor = el("input", { type: "checkbox" });
  const always = el("input", { type: "checkbox", checked: entity.always });
  const changes = () => {
    const body = {};
    if (kind.value !== entity.kind) body.kind = kind.value;
    if (pseudonym.value.trim() && pseudonym.value.trim() !== entity.pseudonym) body.pseudonym = pseudonym.value.trim();
    if (chosen.value.trim()) body.chosen_name = chosen.value.trim(); else if (removeChosen.checked) body.chosen_name = null;
    if (descriptor.value.trim()) body.descriptor = descriptor.value.trim(); else if (removeDescriptor.checked) body.descriptor = null;
    if (always.checked !== entity.always) body.always = always.checked;
    return body;
  };
  const done = await askForm(`Change ${name}`, [
    field("Pseudonym", pseudonym, "A code such as P07, I1, PERSON-3 or PLACE-1. The old one is never used again."),
    isPerson ? [field("Chosen name", chosen, "A name the participant has chosen for releases, instead of the code. Leave it empty to keep what is set."), choice("Remove the chosen name", removeChosen)]
      : [field("Description", descriptor, "A few words that keep some of the meaning: “regional town” gives [PLACE-1: regional town]. Leave it empty to keep what is set."), choice("Remove the description", removeDescriptor)],
    field("Kind", kind),
    choice("Always replace its names, in every transcript, without asking", always),
    notice("info", "Earlier releases that show the old pseudonym or name will be listed as outdated."),
  ], { label: "Save", primary: true }, async () => {
    const body = changes();
    if (Object.keys(body).length) await api.patch(`/v1/entities/${id}`, body, { headers: { "If-Match": `"${entity.version}"` } });
  });
  if (done) announce("Saved");
  return done;
}

/** "Siobhan Gallagher (P07)"; where names are not known, "P07 (participant)". */
export function describe(entity) {
  const name = entity.names?.[0];
  if (!name) return `${entity.pseudonym || "no pseudonym yet"} (${(KINDS[entity.kind] ?? "never replaced").toLowerCase()})`;
  return entity.pseudonym ? `${name} (${entity.pseudonym})` : name;
}

const isCoded = (entity) => ["participant", "interviewer"].includes(entity.kind) && entity.pseudonym;

/** [the one that is given up, the one that stays]: a person with a code in sessions stays. */
function direction(entity, other) {
  if (isCoded(entity)) return [other, entity];
  if (isCoded(other) || other.pseudonym && !entity.pseudonym) return [entity, other];
  return [other, entity];
}

/** Merge an entity with another one. groups: [[label, entities]], of which one is chosen. */
export async function mergeEntity(entity, groups) {
  const byId = new Map(groups.flatMap(([, entities]) => entities).map((each) => [each.id, each]));
  const other = el("select", {}, el("option", { value: "" }, "Choose…"),
    groups.filter(([, entities]) => entities.length).map(([label, entities]) => el("optgroup", { label }, entities.map((each) => el("option", { value: each.id }, describe(each))))));
  const result = el("p", { class: "muted", role: "status" });
  other.addEventListener("change", () => {
    const chosen = byId.get(other.value);
    const [, into] = chosen ? direction(entity, chosen) : [];
    result.textContent = into ? `Both will be ${into.pseudonym || describe(into)}, with the names and mentions of both. Decisions stay as they are.` : "";
  });
  const done = await askForm(`Merge ${describe(entity)}`, [
    el("p", {}, "Use this when two entries are the same person, place or organisation, for example two spellings of a name."),
    field(`${describe(entity)} is the same as`, other), result,
  ], { label: "Merge", primary: true }, async () => {
    const chosen = byId.get(other.value);
    if (!chosen) throw new Error("Choose the other entry.");
    const [from, into] = direction(entity, chosen);
    await api.post(`/v1/entities/${from.id}/merge`, { into: into.id });
  });
  if (done) announce("Merged");
  return done;
}
