// Mending identities during a review: two that are one, one that is two, a pseudonym that will not do.
import * as api from "../api.js";
import { announce, el } from "../dom.js";
import { askForm, changeEntity, choice, describe, field, KINDS, mergeEntity } from "../entity_forms.js";
import { duration } from "../format.js";
import { textOf } from "./text.js";

export const renameEntity = (review, { entity }) => changeEntity(entity.id, describe(entity));

export async function mergeEntities(review, { entity }) {
  const here = [...review.entities.values()].filter((each) => each.id !== entity.id && !each.erased && each.kind !== "allowed");
  return mergeEntity(entity, [["In this transcript", here], ["Elsewhere in the study", await review.elsewhere()]]);
}

export async function splitEntity(review, { entity, mentions }) {
  const names = entity.names.map((name) => [name, el("input", { type: "checkbox" })]);
  const places = mentions.filter(({ state }) => state !== "rejected").map((mention) => [mention, el("input", { type: "checkbox" })]);
  const kind = el("select", {}, Object.entries(KINDS).map(([value, label]) => el("option", { value, selected: value === (["participant", "interviewer"].includes(entity.kind) ? "person" : entity.kind) }, label)));
  const picked = (list) => list.filter(([, box]) => box.checked).map(([each]) => each);
  const done = await askForm(`Split ${describe(entity)}`, [
    el("p", {}, "Use this when two people, places or organisations were taken for one. What you tick becomes a new entry with its own pseudonym."),
    names.length > 1 ? el("fieldset", { class: "stack tight" }, el("legend", {}, "Names that belong to the new entry"),
      el("p", { class: "small muted" }, "In every transcript of the study. Mentions with these names have to be decided again."),
      names.map(([name, box]) => choice(name, box))) : null,
    places.length ? el("fieldset", { class: "stack tight" }, el("legend", {}, names.length > 1 ? "Or only these mentions" : "Mentions of the new entry"),
      el("p", { class: "small muted" }, "In this transcript. Use this when both have the same name."),
      places.map(([mention, box]) => {
        const segment = review.segments.get(mention.segment);
        return choice([el("span", { class: "mono" }, duration(segment.start)), " ", el("span", { class: "context", dir: "auto" }, textOf(review, segment, { only: mention }))], box);
      })) : null,
    field("The new entry is", kind, "It gets its pseudonym when you accept its first mention."),
  ], { label: "Split", primary: true }, async () => {
    const [moved, some] = [picked(names), picked(places)];
    if (!moved.length === !some.length) throw new Error(moved.length ? "Tick names or mentions, not both." : "Tick what belongs to the new entry.");
    if (moved.length === names.length) throw new Error("Leave at least one name unticked.");
    if (moved.length) return api.post(`/v1/entities/${entity.id}/split`, { names: moved, kind: kind.value });
    const [first, ...others] = some;
    const post = (decisions) => api.post(`${review.path}/review/decisions`, { decisions });
    const changed = await post([{ mention: first.id, version: first.version, action: "set_entity", new_entity: kind.value }]);
    const made = changed.mentions.find(({ id }) => id === first.id).entity_id;
    if (others.length) await post(others.map(({ id, version }) => ({ mention: id, version, action: "set_entity", entity: made })));
    return true;
  });
  if (done) announce("Split");
  return done;
}
