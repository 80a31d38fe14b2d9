// Step 1: the suggestions, one name after the other, each with all its mentions.
import { announce, button, el, fill, icon } from "../dom.js";
import { describe, KINDS } from "../entity_forms.js";
import { duration, plural } from "../format.js";
import { mergeEntities, renameEntity, splitEntity } from "./entities.js";
import { LABELS, reasons } from "./labels.js";
import { canPlay, play } from "./sound.js";
import { textOf } from "./text.js";

const NAMED = ["PERSON", "PLACE", "ORGANISATION", "OTHER"];
const STATES = { accepted: ["ok", "replaced"], rejected: ["", "kept"] };

export class Names {
  constructor(review, box) { Object.assign(this, { review, box, chosen: null }); }

  draw() {
    const all = this.review.groups();
    if (!all.length) {
      return fill(this.box, el("div", { class: "panel empty" }, icon("circle-check"), el("h2", {}, "Nothing was suggested"),
        el("p", {}, "Read the transcript through and mark anything that identifies somebody.")));
    }
    const current = all.find((group) => group.key === this.chosen) || all.find(({ mentions }) => mentions.some(isOpen)) || all[0];
    this.chosen = current.key;
    const list = el("ul", { class: "entities" }, all.map((group) => {
      const open = group.mentions.filter(isOpen).length;
      return el("li", {}, el("button", { type: "button", "aria-pressed": String(group === current), onclick: () => { this.chosen = group.key; this.draw(); this.box.querySelector('.entities [aria-pressed="true"]').focus(); } },
        el("span", {}, nameOf(group), " ", el("span", { class: "muted small" }, LABELS[group.label].toLowerCase())),
        open ? el("span", { class: "tag doubt" }, `${open} open`) : el("span", { class: "tag ok" }, icon("check"), "done")));
    }));
    const scroll = this.box.querySelector(".entities")?.scrollTop ?? 0;
    fill(this.box, el("div", { class: "review-grid" }, el("nav", { "aria-label": "Suggestions" }, list), this.panel(current)));
    list.scrollTop = scroll;
    list.querySelector('[aria-pressed="true"]').scrollIntoView({ block: "nearest" });
  }

  panel(group) {
    const { review } = this;
    const open = group.mentions.filter(isOpen);
    this.boxes = new Map();
    const items = group.mentions.map((mention) => this.item(mention));
    const who = this.who = this.choice(group);
    const accept = button("", { icon: "check", class: "primary", onclick: () => this.decideTicked("accept") });
    const reject = button("", { icon: "x", onclick: () => this.decideTicked("reject") });
    const never = this.never = el("input", { type: "checkbox" });
    accept.append(""); reject.append("");
    this.count = () => {
      const [yes, no] = [true, false].map((ticked) => this.ticked(ticked).length);
      accept.disabled = !yes;
      accept.lastChild.data = yes ? `Replace ${yes} ticked` : "Replace ticked";
      reject.hidden = never.parentElement.hidden = !no;
      reject.lastChild.data = `Keep ${no} unticked`;
    };
    const section = el("section", { class: "panel stack", "aria-labelledby": "group-title" },
      el("div", { class: "spread" },
        el("div", {}, el("h2", { id: "group-title" }, nameOf(group)),
          el("p", { class: "muted" }, [LABELS[group.label], group.entity?.pseudonym ? `becomes ${group.entity.pseudonym}` : null, plural(group.mentions.length, "mention")].filter(Boolean).join(" · "))),
        group.entity && !group.entity.erased ? el("div", { class: "row", role: "group", "aria-label": "Identity" },
          button("Merge", { icon: "merge", class: "quiet", onclick: () => this.change(mergeEntities, group) }),
          button("Split", { icon: "scissors", class: "quiet", onclick: () => this.change(splitEntity, group) }),
          button("Rename", { icon: "pencil", class: "quiet", onclick: () => this.change(renameEntity, group) })) : null),
      el("ul", { class: "mentions" }, items),
      open.length ? el("div", { class: "stack" },
        NAMED.includes(group.label) ? el("div", { class: "field narrow-left" }, el("label", { for: "who" }, "Who or what is it?"), who) : null,
        el("div", { class: "row" }, accept, reject, el("label", { class: "choice" }, never, "Never suggest the unticked words again")),
        el("p", { class: "small muted" }, "Tick every mention that could identify somebody. Unsure ones start unticked.")) : null);
    if (open.length) this.count();
    return section;
  }

  item(mention) {
    const { review } = this;
    const segment = review.segments.get(mention.segment);
    const place = `${mention.text}, ${duration(segment.start)}`;
    const check = el("input", { type: "checkbox", "aria-label": place, checked: mention.tier !== "unsure" && mention.choices.length < 2 });
    check.addEventListener("change", () => this.count());
    if (isOpen(mention)) this.boxes.set(mention, check);
    const why = reasons(mention);
    const [tone, state] = STATES[mention.state] || ["doubt", mention.tier === "unsure" ? "unsure" : "open"];
    return el("li", { tabindex: "-1", "data-mention": mention.id, "aria-label": `${place}, ${state}` },
      isOpen(mention) ? check : el("span", {}),
      el("div", {},
        el("p", { class: "context", dir: "auto" }, textOf(review, segment, { only: mention })),
        el("p", { class: "small muted" }, [duration(segment.start), review.speakerOf(segment), why].filter(Boolean).join(" · ")),
        mention.choices.length > 1 && isOpen(mention) ? el("p", { class: "small doubt-text" }, "More than one person has this name. Choose below who is meant.") : null),
      el("span", { class: "row" },
        canPlay(review) ? button(`Play ${place}`, { icon: "play", iconOnly: true, onclick: () => play(review, mention) }) : null,
        el("span", { class: `tag ${tone}` }, state),
        isOpen(mention) ? null : button(`Undo: ${place}`, { icon: "undo-2", iconOnly: true, onclick: () => this.reopen(mention) })));
  }

  /** The list of whom or what the mentions name. */
  choice(group) {
    const option = (entity) => el("option", { value: entity.id }, describe(entity));
    const others = [...this.review.entities.values()].filter((entity) => entity.id !== group.entity?.id && !entity.erased && entity.kind !== "allowed");
    const elsewhere = el("optgroup", { label: "Elsewhere in the study" });
    const select = el("select", { id: "who" },
      el("option", { value: "" }, group.entity ? describe(group.entity) : `New: ${nameOf(group)}`),
      others.length ? el("optgroup", { label: "In this transcript" }, others.map(option)) : null,
      elsewhere,
      el("optgroup", { label: "Somebody or something new" }, Object.entries(KINDS).map(([kind, label]) => el("option", { value: `new:${kind}` }, label))));
    elsewhere.hidden = true;
    // Fetched when somebody goes to the list; most never do.
    select.addEventListener("focus", async () => {
      const found = await this.review.elsewhere().catch(() => []);
      fill(elsewhere, found.map(option));
      elsewhere.hidden = !found.length;
    }, { once: true });
    return select;
  }

  ticked(value) { return [...this.boxes].filter(([, check]) => check.checked === value).map(([mention]) => mention); }
  target() {
    const { value } = this.who;
    return value.startsWith("new:") ? { new_entity: value.slice(4) } : value ? { entity: value } : {};
  }

  async decideTicked(action) {
    const mentions = this.ticked(action === "accept");
    if (mentions.length) await this.decide(mentions, action === "reject" && this.never.checked ? "allow" : action);
  }

  async decide(mentions, action) {
    const order = this.order();
    const last = order.indexOf(mentions.at(-1).id);
    const following = [...order.slice(last + 1), ...order.slice(0, last)].filter((id) => !mentions.some((mention) => mention.id === id));
    const target = action === "accept" ? this.target() : {};
    // One new identity gets all the ticked mentions: the first makes it, the others join it.
    const said = action === "accept" ? `${mentions.length} replaced` : `${mentions.length} kept`;
    let done = false;
    if (target.new_entity && mentions.length > 1) {
      const [first, ...others] = mentions;
      done = await this.review.decide([{ mention: first.id, version: first.version, action, ...target }], "1 replaced");
      const entity = done && this.review.find(first.id).entity_id;
      const versions = others.map(({ id }) => this.review.find(id));
      done = done && await this.review.decide(versions.map(({ id, version }) => ({ mention: id, version, action, entity })), said);
      if (done) this.review.last = mentions.map(({ id }) => id);
    } else {
      done = await this.review.decide(mentions.map(({ id, version }) => ({ mention: id, version, action, ...target })), said);
    }
    if (done) this.show(following.find((id) => this.review.find(id)?.state === "suggested"));
  }

  async reopen(mention) {
    if (await this.review.decide([{ mention: mention.id, version: mention.version, action: "reopen" }], "Undone")) this.show(mention.id);
  }

  async change(dialog, group) {
    if (!await dialog(this.review, group)) return;
    await this.review.load({ names: true });
    this.box.querySelector('.entities [aria-pressed="true"]')?.focus();
  }

  /** Show a mention and give it the focus; without one, the list gets it. */
  show(id) {
    const group = id && this.review.groups().find(({ mentions }) => mentions.some((mention) => mention.id === id));
    if (group && group.key !== this.chosen) { this.chosen = group.key; this.draw(); }
    const item = id && this.box.querySelector(`[data-mention="${id}"]`);
    if (!item) return this.box.querySelector('.entities [aria-pressed="true"]')?.focus();
    item.focus({ preventScroll: true });
    item.scrollIntoView({ block: "nearest" });
  }

  /** Ids of all mentions, in the order in which the page lists them. */
  order() { return this.review.groups().flatMap(({ mentions }) => mentions.map(({ id }) => id)); }
  focused() { return document.activeElement?.closest?.("[data-mention]")?.dataset.mention; }

  // --- the keys

  step(by) {
    const order = this.order(), open = new Set(this.review.open.map(({ id }) => id));
    if (!open.size) return announce("Everything is decided");
    const chosen = this.review.groups().find(({ key }) => key === this.chosen)?.mentions[0].id;
    let at = order.indexOf(this.focused() ?? chosen);
    if (!this.focused() && by > 0) at -= 1; // the first of the name that is shown
    for (let i = 1; i <= order.length; i += 1) {
      const id = order[(at + by * i + order.length * 2) % order.length];
      if (open.has(id)) return this.show(id);
    }
  }

  get actions() {
    const withFocus = (run) => () => {
      const mention = this.review.find(this.focused());
      if (!mention) return announce("Go to a mention first: press J");
      return run(mention);
    };
    const decide = (action) => withFocus((mention) => (isOpen(mention) ? this.decide([mention], action) : announce("This mention is decided: press U to undo")));
    return { next: () => this.step(1), previous: () => this.step(-1), accept: decide("accept"), reject: decide("reject"), play: withFocus((mention) => play(this.review, mention)) };
  }
}

export const isOpen = (mention) => mention.state === "suggested";
const nameOf = (group) => group.entity?.names?.[0] || group.mentions[0].text;
