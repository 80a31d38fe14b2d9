// Step 2: the whole text as it will be released, to find what nothing has suggested.
import { announce, button, el, fill, notice } from "../dom.js";
import { LABELS, ORDER } from "./labels.js";
import { isOpen } from "./names.js";
import { selectByKeyboard, selectedSpan } from "./selection.js";
import { canPlay, play } from "./sound.js";
import { paragraph, textOf } from "./text.js";

export class Reading {
  constructor(review, box) { Object.assign(this, { review, box, current: null, text: null }); }

  draw() {
    if (this.text?.isConnected && this.version === this.review.view.transcript_version) return this.redraw();
    const { review } = this;
    this.version = review.view.transcript_version;
    this.label = el("select", { "aria-label": "What the selected words are" }, ORDER.map((each) => el("option", { value: each }, LABELS[each])));
    this.line = el("p", { class: "small muted current" });
    this.yes = button("Replace", { icon: "check", "aria-keyshortcuts": "A", onclick: () => this.decide("accept") });
    this.no = button("Keep", { icon: "x", "aria-keyshortcuts": "R", onclick: () => this.decide("reject") });
    this.back = button("Undo", { icon: "undo-2", onclick: () => this.decide("reopen") });
    this.paragraphs = new Map();
    const text = this.text = el("div", { class: "reading" }, [...review.segments.values()].filter((segment) => segment.text).map((segment) => {
      const section = paragraph(review, segment, textOf(review, segment, { focusable: true }));
      this.paragraphs.set(segment.id, [section.lastChild, this.signature(segment)]);
      return section;
    }));
    selectByKeyboard(text);
    text.addEventListener("focusin", (event) => this.choose(event.target.dataset.mention));
    fill(this.box, el("div", { class: "stack" },
      el("p", { class: "prose muted" }, "This is the text as it will be released. Select any words that still identify somebody: nothing has suggested them, so only reading finds them."),
      el("div", { class: "toolbar-sticky stack tight", role: "group", "aria-label": "Review" },
        el("div", { class: "row" },
          button("Next open", { icon: "chevron-down", "aria-keyshortcuts": "J F2", onclick: () => this.step(1) }), this.yes, this.no, this.back,
          canPlay(review) ? button("Play", { icon: "play", "aria-keyshortcuts": "P", onclick: () => this.listen() }) : null,
          el("span", { class: "row" }, this.label, button("Replace selection", { icon: "plus", "aria-keyshortcuts": "N", onclick: () => this.add() }))),
        this.line),
      text));
    this.choose(null);
  }

  signature(segment) { return (this.review.bySegment.get(segment.id) ?? []).map((mention) => `${mention.id}${mention.version}${this.review.replacement(mention)}`).join(); }

  /** Draw the paragraphs that have changed, so that the others keep the place and the focus. */
  redraw() {
    for (const [id, entry] of this.paragraphs) {
      const segment = this.review.segments.get(id), now = this.signature(segment);
      if (now === entry[1]) continue;
      entry[1] = now;
      fill(entry[0], textOf(this.review, segment, { focusable: true }));
    }
    this.choose(this.current);
  }

  choose(id) {
    const mention = id && this.review.find(id);
    if (id === undefined) return; // the focus is on a paragraph
    this.current = mention ? id : null;
    this.yes.disabled = this.no.disabled = !mention || !isOpen(mention);
    this.back.disabled = !mention || isOpen(mention);
    const segment = mention && this.review.segments.get(mention.segment);
    this.line.textContent = mention ? `${LABELS[mention.label]}: “${segment.points.slice(mention.start, mention.end).join("")}” ${{ suggested: "is open", accepted: `becomes ${this.review.replacement(mention)}`, rejected: "is kept as it was said" }[mention.state]}` : "Choose a marked word, or press J for the next open one.";
  }

  markOf(id) { return this.text.querySelector(`[data-mention="${id}"]`); }
  step(by) {
    const marks = [...this.text.querySelectorAll("mark")], open = marks.filter((mark) => mark.classList.contains("suggested"));
    if (!open.length) return announce("Everything is decided");
    const here = marks.findIndex((mark) => mark.dataset.mention === this.current);
    const ahead = by > 0 ? open.find((mark) => marks.indexOf(mark) > here) : open.findLast((mark) => marks.indexOf(mark) < here);
    const mark = ahead ?? (by > 0 ? open[0] : open.at(-1));
    mark.focus({ preventScroll: true });
    mark.scrollIntoView({ block: "center" });
  }

  async decide(action) {
    const mention = this.current && this.review.find(this.current);
    if (!mention || isOpen(mention) === (action === "reopen")) return announce(mention ? "This mention is decided: press U to undo" : "Go to a mention first: press J");
    const said = { accept: "Replaced", reject: "Kept", reopen: "Undone" }[action];
    if (!await this.review.decide([{ mention: mention.id, version: mention.version, action }], said)) return;
    if (action !== "reopen" && this.review.open.length) this.step(1); else this.markOf(mention.id)?.focus();
  }

  async add() {
    const spot = selectedSpan(this.review.segments);
    if (!spot) return this.say("Select some words in one paragraph first.");
    const done = await this.review.decide([], "Replaced", [{ segment: spot.segment, span: [spot.start, spot.end], label: this.label.value }]);
    if (!done) return;
    getSelection().removeAllRanges();
    this.markOf(this.review.last[0])?.focus({ preventScroll: true });
  }

  say(text) {
    this.box.querySelector(".notice.warning")?.remove();
    const box = notice("warning", text);
    this.box.querySelector(".toolbar-sticky").append(box);
    announce(text);
    setTimeout(() => box.remove(), 6000);
  }

  listen() {
    const mention = this.current && this.review.find(this.current);
    const spot = mention ?? selectedSpan(this.review.segments);
    if (spot) play(this.review, spot); else announce("Go to a mention first: press J");
  }

  show(id) { this.markOf(id)?.focus(); }
  get actions() {
    return { next: () => this.step(1), previous: () => this.step(-1), accept: () => this.decide("accept"), reject: () => this.decide("reject"), play: () => this.listen(), add: () => this.add() };
  }
}
