// Step 3: capitalised, rare and numeric words that were not suggested.
import * as api from "../api.js";
import { announce, button, el, fill, icon, notice, sentence } from "../dom.js";
import { LABELS, ORDER } from "./labels.js";
import { canPlay, play } from "./sound.js";
import { around } from "./text.js";

const KINDS = { capitalised: "capitalised", number: "number", rare: "rare word" };
const MOST = 200;

export class Left {
  constructor(review, box, { isShown, leave }) { Object.assign(this, { review, box, isShown, leave, harmless: new Set() }); }

  async draw() {
    if (!this.box.querySelector(".left-words")) fill(this.box, el("p", { class: "muted" }, "Looking for words that nothing has suggested…"));
    try { this.found = await api.get(`${this.review.path}/review/unsuggested`); } catch (problem) { return fill(this.box, notice("error", sentence(problem.message))); }
    if (this.isShown()) this.list();
  }

  list() {
    const { review, found } = this;
    const at = this.rows?.indexOf(document.activeElement?.closest("tr")) ?? -1;
    const words = this.words = found.words.filter(({ word }) => !this.harmless.has(word));
    const shown = words.slice(0, MOST);
    this.rows = shown.map((word) => this.row(word));
    const context = (place) => (review.segments.has(place.segment) ? around(review.segments.get(place.segment), place) : "");
    fill(this.box, el("div", { class: "stack" },
      el("p", { class: "prose muted" }, "Capitalised words, numbers and rare words that nothing has suggested. Most are harmless. Look for names that were missed."),
      words.length ? el("div", { class: "panel" },
        el("table", { class: "stacked left-words" }, el("thead", {}, el("tr", {}, ["Word", "Where it is said", "Decision"].map((name) => el("th", { scope: "col" }, name)))), el("tbody", {}, this.rows)))
        : el("div", { class: "panel empty" }, icon("circle-check"), el("h2", {}, "No words are left"), el("p", {}, "You have looked at every capitalised word, every number and every rare word."),
          button("Continue", { class: "primary", onclick: this.leave })),
      words.length > MOST ? el("p", { class: "muted" }, `The first ${MOST} of ${words.length} are listed.`) : null,
      words.length ? el("div", { class: "row" }, button(words.length === 1 ? "It is harmless: continue" : `The other ${shown.length} are harmless: continue`, { onclick: () => { shown.forEach(({ word }) => this.harmless.add(word)); if (words.length > MOST) this.list(); else this.leave(); } })) : null,
      found.flags.length ? el("section", { class: "stack" }, el("h2", {}, "Phrases that may identify somebody in combination"),
        el("p", { class: "prose muted" }, "If one of them reveals too much, correct the transcript before you release it."),
        el("ul", { class: "mentions" }, found.flags.slice(0, 100).map((flag) => el("li", {}, icon("flag"), el("p", { class: "context", dir: "auto" }, context(flag)), el("span", {}))))) : null));
    if (at >= 0) (this.rows[Math.min(at, this.rows.length - 1)] ?? this.box.querySelector("button"))?.focus();
  }

  row(word) {
    const { review } = this;
    const [place] = word.places;
    const label = el("select", { "aria-label": `What ${word.word} is` }, ORDER.map((each) => el("option", { value: each, selected: each === (word.kind === "number" ? "ID" : "PERSON") }, LABELS[each])));
    const row = el("tr", { tabindex: "-1", "aria-label": word.word },
      el("th", { scope: "row" }, word.word, " ", el("span", { class: "muted small" }, KINDS[word.kind], word.count > 1 ? ` · ${word.count} times` : "")),
      el("td", { class: "context", dir: "auto" }, around(review.segments.get(place.segment), place)),
      el("td", {}, el("div", { class: "row end" },
        canPlay(review) ? button(`Play ${word.word}`, { icon: "play", iconOnly: true, onclick: () => play(review, place) }) : null,
        label,
        button("Replace", { icon: "check", "aria-label": `Replace ${word.word}`, onclick: () => row.run.accept() }),
        button("Harmless", { "aria-label": `${word.word} is harmless`, onclick: () => row.run.reject() }))));
    row.run = {
      play: () => play(review, place),
      reject: () => { this.harmless.add(word.word); row.focus(); this.list(); announce(`${word.word} is harmless`); },
      accept: () => review.decide([], `${word.word} replaced`, word.places.map((each) => ({ segment: each.segment, span: [each.start, each.end], label: label.value }))),
    };
    return row;
  }

  step(by) {
    if (!this.rows?.length) return announce("No words are left");
    const at = this.rows.indexOf(document.activeElement?.closest("tr"));
    const row = this.rows[at < 0 ? 0 : (at + by + this.rows.length) % this.rows.length];
    row.focus({ preventScroll: true });
    row.scrollIntoView({ block: "nearest" });
  }

  show() {}
  get actions() {
    const withRow = (name) => () => {
      const row = this.rows?.find((each) => each.contains(document.activeElement));
      if (row) row.run[name](); else announce("Go to a word first: press J");
    };
    return { next: () => this.step(1), previous: () => this.step(-1), accept: withRow("accept"), reject: withRow("reject"), play: withRow("play") };
  }
}
