// Find in the transcript, and replace everywhere as one change, with a preview to choose from.
import { announce, ask, byId, el, fill } from "../dom.js";
import { duration, plural } from "../format.js";

const SHOWN = 60;  // highlighted at once; many ranges make typing slow
const AROUND = 40;  // characters shown beside a hit
const escape = (text) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");

export class Find {
  /** reveal(segment, start, end): scroll to a hit. */
  constructor(transcript, { reveal }) {
    this.transcript = transcript;
    this.reveal = reveal;
    this.bar = byId("find-bar");
    this.input = byId("find-text");
    this.hits = [];
    this.place = -1;
    const Marks = globalThis.Highlight ?? Set;  // browsers without it show no marks
    this.found = new Marks();
    this.here = new Marks();
    this.here.priority = 1;
    CSS.highlights?.set("found", this.found);
    CSS.highlights?.set("found-here", this.here);
    this.input.addEventListener("input", () => this.search());
    byId("find-case").addEventListener("change", () => this.search());
    byId("find-word").addEventListener("change", () => this.search());
    byId("find-next").addEventListener("click", () => this.step(1));
    byId("find-previous").addEventListener("click", () => this.step(-1));
    byId("find-close").addEventListener("click", () => this.close());
    byId("replace-one").addEventListener("click", () => this.replaceOne());
    byId("replace-all").addEventListener("click", () => this.replaceAll());
    this.bar.addEventListener("keydown", (event) => {
      if (event.key === "Escape") { this.close(); event.stopPropagation(); }
      if (event.key === "Enter" && event.target === this.input) { event.preventDefault(); this.step(event.shiftKey ? -1 : 1); }
    });
    transcript.addEventListener("changed", () => { if (this.isOpen) this.search({ keep: true }); });
    transcript.addEventListener("list", () => { if (this.isOpen) this.search({ keep: true }); });
  }

  get isOpen() { return !this.bar.hidden; }

  open({ replace = false } = {}) {
    const chosen = String(getSelection());
    this.returnTo = document.activeElement;
    this.bar.hidden = false;
    byId("replace-row").hidden = !replace && byId("replace-row").hidden;
    if (chosen && !chosen.includes("\n") && chosen.length < 100) this.input.value = chosen.trim();
    this.input.focus();
    this.input.select();
    this.search();
  }

  close() {
    this.bar.hidden = true;
    this.found.clear();
    this.here.clear();
    this.returnTo?.focus?.();
  }

  get pattern() {
    const text = this.input.value.trim();
    if (!text) return null;
    const words = text.split(/\s+/).map(escape).join("\\s+");
    const whole = byId("find-word").checked ? `(?<![\\p{L}\\p{N}])${words}(?![\\p{L}\\p{N}])` : words;
    return new RegExp(whole, `gu${byId("find-case").checked ? "" : "i"}`);
  }

  search({ keep = false } = {}) {
    const { pattern } = this;
    const before = this.hits[this.place];
    this.hits = [];
    if (pattern) {
      for (const segment of this.transcript.segments) {
        for (const match of segment.text.matchAll(pattern)) this.hits.push({ segment, start: match.index, end: match.index + match[0].length });
      }
    }
    this.place = keep && before ? this.hits.findIndex((hit) => hit.segment === before.segment && hit.start >= before.start) : -1;
    if (!keep && this.hits.length) this._nearest();
    this.draw();
  }

  /** Begin at what is on the screen. */
  _nearest() {
    const visible = this.hits.findIndex(({ segment }) => segment.element.getBoundingClientRect().bottom > 100);
    this.place = Math.max(0, visible);
  }

  draw() {
    const { hits, place } = this;
    byId("find-count").textContent = !this.pattern ? "" : hits.length ? `${place + 1} of ${hits.length}` : "not found";
    this.found.clear();
    this.here.clear();
    const from = Math.max(0, place - SHOWN / 2);
    for (const hit of hits.slice(from, from + SHOWN)) this.found.add(hit.segment.span(hit.segment.node, hit.start, hit.end));
    const here = hits[place];
    if (here) this.here.add(here.segment.span(here.segment.node, here.start, here.end));
    byId("replace-one").disabled = !here;
    byId("replace-all").disabled = !hits.length;
  }

  step(by) {
    if (!this.hits.length) return;
    this.place = (this.place + by + this.hits.length) % this.hits.length;
    this.draw();
    const { segment, start, end } = this.hits[this.place];
    this.reveal(segment, start, end);
    announce(`${this.place + 1} of ${this.hits.length}: ${segment.speaker ?? "unknown"}, ${duration(segment.start)}`);
  }

  get replacement() { return byId("replace-text").value; }

  replaceOne() {
    const hit = this.hits[this.place];
    if (!hit) return;
    const text = hit.segment.text.slice(0, hit.start) + this.replacement + hit.segment.text.slice(hit.end);
    const { place } = this;
    hit.segment.text = text;
    this.transcript.saver.touch(hit.segment);
    this.transcript.saver.flush(hit.segment);
    this.search({ keep: true });
    this.place = Math.min(place, this.hits.length - 1);
    this.step(0);
  }

  async replaceAll() {
    const { transcript } = this;
    await transcript.saver.settle();
    await transcript.sync();
    this.search({ keep: true });
    const version = transcript.known;  // what is shown now; segments that change meanwhile are left alone
    const boxes = this.hits.map(() => el("input", { type: "checkbox", checked: true }));
    const rows = this.hits.map(({ segment, start, end }, i) => {
      const text = segment.text;
      return el("li", {}, el("label", { class: "choice" }, boxes[i],
        el("span", {},
          el("span", { class: "mono muted" }, `${duration(segment.start)} ${segment.speaker ?? ""} `),
          el("bdi", { class: "said-small" }, (start > AROUND ? "… " : "") + text.slice(Math.max(0, start - AROUND), start),
            el("del", {}, text.slice(start, end)), el("ins", {}, this.replacement), text.slice(end, end + AROUND) + (text.length > end + AROUND ? " …" : "")))));
    });
    const all = el("input", { type: "checkbox", checked: true });
    all.addEventListener("change", () => boxes.forEach((box) => { box.checked = all.checked; }));
    const content = el("div", { class: "stack tight" },
      el("p", {}, `All replacements become one version, which a single undo reverts.`),
      el("label", { class: "choice" }, all, "All of them"),
      el("ol", { class: "preview", tabindex: "0", "aria-label": "Places" }, rows));
    const answer = await ask(`Replace ${plural(this.hits.length, "place")}?`, content,
      [{ label: "Replace ticked", value: true, primary: true }, { label: "Cancel", value: null }]);
    if (!answer) return;
    const texts = new Map();
    const chosen = this.hits.filter((_, i) => boxes[i].checked);
    for (const { segment, start, end } of chosen.toReversed()) {  // from the end, so that places stay right
      const text = texts.get(segment) ?? segment.text;
      texts.set(segment, text.slice(0, start) + this.replacement + text.slice(end));
    }
    if (!texts.size) return;
    const done = await transcript.replaceTexts(texts, version);
    if (done) announce(`Replaced in ${plural(done.segments.length, "segment")}.${done.skipped.length ? ` Skipped ${plural(done.skipped.length, "segment")} that another person has changed.` : ""}`);
    fill(byId("find-note"), done?.skipped.length ? `Skipped ${plural(done.skipped.length, "segment")} that another person has changed in the meantime.` : "");
    this.search();
  }
}
