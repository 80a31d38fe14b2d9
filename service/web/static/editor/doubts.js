// Places to check: the models' flags, each with its evidence in words, to walk through one by one.
import { el, fill } from "../dom.js";
import { duration } from "../format.js";

const percent = (share) => `${Math.round(share * 100)} %`;
const seconds = (value) => `${Number(value).toFixed(value < 10 ? 1 : 0)} s`;
const language = (code) => {
  try { return new Intl.DisplayNames(["en-GB"], { type: "language" }).of(code); } catch { return code; }
};

/** Kind: [title, evidence in words, whether words may be missing or invented]. docs/reference/transcript.md has all. */
const KINDS = {
  speech_without_words: ["Speech without words", (e) => `Somebody speaks for ${seconds(e.speech_seconds)} here, but no words were transcribed.`, true],
  few_words: ["Few words", (e) => `Only ${e.words} words were transcribed for ${seconds(e.speech_seconds)} of speech: part of it may be missing.`, true],
  words_without_speech: ["Words without speech", (e) => `${e.words} words were transcribed where there is hardly any speech (${percent(e.speech_share)} of the time): they may be invented.`, true],
  loop: ["Repetition", () => "The text repeats itself: the models may have got stuck.", true],
  improbable_window: ["Improbable text", () => "The models found no text that fits well here.", true],
  crammed_words: ["Words at one moment", (e) => `${e.words} words begin within ${Number(e.seconds).toFixed(2)} s: they may be invented.`, true],
  other_language: ["Another language", (e) => `This was recognised as ${language(e.language)} (${percent(e.probability)}).`, false],
  unsure_language: ["Unsure language", (e) => `The language is not clear here: it may be ${language(e.language)} (${percent(e.probability)}).`, false],
  too_fast: ["Very fast", (e) => `${Number(e.words_per_second).toFixed(1)} words a second is faster than people speak.`, false],
  low_probability: ["Unsure words", (e) => `The models are unsure of these words: ${percent(e.mean_word_probability)} on average.`, false],
};

export class Doubts extends EventTarget {
  constructor(transcript, list) {
    super();
    this.transcript = transcript;
    this.list = list;
    this.items = [];
    this.current = null;
    transcript.addEventListener("changed", () => this.update());
    transcript.addEventListener("list", () => this.update());
    list.addEventListener("click", (event) => {
      const button = event.target.closest("button[data-number]");
      if (button) this.go(this.items[Number(button.dataset.number)]);
    });
  }

  load(flags) {
    const known = flags.filter((flag) => KINDS[flag.kind]);
    this.items = known
      .map((flag) => {
        const [title, evidence, isUrgent] = KINDS[flag.kind];
        const words = flag.kind === "low_probability" ? this._leastSure(flag) : "";
        return { ...flag, title, text: evidence(flag.evidence) + words, isUrgent, isDone: false };
      })
      .sort((a, b) => b.isUrgent - a.isUrgent || a.start - b.start);
    this.update();
  }

  /** The words of a place that the models were least sure of. */
  _leastSure({ start, end }) {
    const words = this.transcript.segments
      .filter((segment) => segment.end > start && segment.start < end)
      .flatMap((segment) => segment.words)
      .filter((word) => word.probability !== null && word.start >= start - 0.01 && word.end <= end + 0.01);
    const [least, ...others] = words.toSorted((a, b) => a.probability - b.probability).slice(0, 3).map((word) => `“${word.text.trim()}”`);
    return least ? ` Least sure: ${[least, ...others].join(", ")}.` : "";
  }

  get open() { return this.items.filter((item) => !item.isDone); }

  /** The segment of a place: where it begins, or the one before it if nothing was written there. */
  segmentOf(item) {
    const { segments } = this.transcript;
    const overlapping = segments.find((each) => each.end > item.start && each.start < item.end);
    if (overlapping) return overlapping;
    return segments.findLast((each) => each.start <= item.start) ?? segments[0] ?? null;
  }

  /** A place is done when its segments are checked. */
  update() {
    if (this._due) return;
    this._due = setTimeout(() => { this._due = null; this._update(); }, 50);
  }

  _update() {
    const { segments } = this.transcript;
    for (const item of this.items) {
      const own = segments.filter((each) => each.end > item.start && each.start < item.end);
      const all = own.length ? own : [this.segmentOf(item)].filter(Boolean);
      item.isDone = all.length > 0 && all.every((each) => each.checkedBy);
    }
    this.draw();
    this.dispatchEvent(new Event("count"));
  }

  draw() {
    const group = (label, items) => (items.length ? [
      el("h3", {}, label),
      el("ol", {}, items.map((item) => {
        const segment = this.segmentOf(item);
        return el("li", {},
          el("button", {
            type: "button", class: "doubt quiet", "data-number": String(this.items.indexOf(item)),
            "aria-current": item === this.current ? "true" : null,
          },
            el("span", { class: "mono" }, duration(item.start)), " ",
            el("strong", {}, item.title), segment?.speaker ? el("span", { class: "muted" }, ` ${segment.speaker}`) : null,
            el("span", { class: "evidence" }, item.text)));
      })),
    ] : []);
    const { open } = this;
    fill(this.list,
      ...group("Listen again", open.filter((item) => item.isUrgent)),
      ...group("Look again", open.filter((item) => !item.isUrgent)),
      open.length ? null : el("p", { class: "muted" }, this.items.length ? "All places are checked." : "The models marked no places to check."));
    this.list.querySelector("[aria-current]")?.scrollIntoView({ block: "nearest" });
  }

  /** Go to the next or the previous open place. */
  step(by) {
    const { open } = this;
    if (!open.length) return this.go(null);
    const here = open.indexOf(this.current);
    const following = here >= 0 ? here + by : by > 0 ? this._after() : open.length - 1;
    return this.go(open[(following + open.length) % open.length]);
  }

  /** After a place was checked, the next in the same order. */
  _after() {
    if (!this.current) return 0;
    const place = this.items.indexOf(this.current);
    const next = this.open.findIndex((item) => this.items.indexOf(item) > place);
    return Math.max(0, next);
  }

  go(item) {
    this.current = item;
    this.draw();
    this.dispatchEvent(new CustomEvent("go", { detail: item }));
    return item;
  }
}
