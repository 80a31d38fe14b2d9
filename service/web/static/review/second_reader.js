// Step 4: a second reader marks every identifier in passages drawn at random, without seeing the review.
import * as api from "../api.js";
import { announce, button, copyText, el, fill, icon, notice, sentence } from "../dom.js";
import { ago, plural } from "../format.js";
import { LABELS, ORDER } from "./labels.js";
import { selectByKeyboard, selectedSpan } from "./selection.js";
import { paragraph } from "./text.js";

const percent = (share) => `${Math.round(share * 100)} %`;

export class SecondReader {
  constructor(review, box, { go }) { Object.assign(this, { review, box, go, sample: null, marks: [] }); }

  async draw() {
    if (this.sample) { // the passages stay as they are while somebody reads
      if (!this.text.isConnected) fill(this.box, this.page);
      return;
    }
    this.path = `${this.review.path}/review/samples`;
    let found;
    try { [found, this.token] = await Promise.all([api.get(this.path), this.token ?? api.get("/v1/token").then(({ id }) => id)]); } catch (problem) { return fill(this.box, notice("error", sentence(problem.message))); }
    if (this.isShown()) this.start(found);
  }

  isShown() { return this.go.current() === "second-reader"; }

  start({ items, estimate }) {
    const { review, box } = this;
    const open = review.view.n_open;
    const number = el("input", { id: "passages", type: "number", min: "1", max: "500", value: "20", inputmode: "numeric" });
    const problem = el("p", { class: "problem", role: "alert" });
    const form = el("form", { class: "stack" },
      el("div", { class: "field short" }, el("label", { for: "passages" }, "Number of passages"), number, el("p", { class: "hint" }, "More passages make the estimate more precise.")),
      problem,
      el("div", { class: "row" }, el("button", { class: "primary" }, icon("eye"), "Start reading"),
        button("Copy the link for a colleague", { icon: "copy", onclick: () => copyText(`${location.origin}${location.pathname}#second-reader`) })));
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      try { this.read(await api.post(this.path, { segments: Number(number.value) || 20 })); }
      catch (error) { fill(problem, sentence(error.message)); }
    });
    fill(box, el("div", { class: "stack" },
      estimate ? this.result(estimate) : null,
      el("div", { class: "panel stack narrow-left" },
        el("h2", {}, "How much did the review miss?"),
        el("p", {}, "A second person reads some passages, drawn at random and shown without any marks, and marks whatever identifies somebody. This shows how complete the review is. The step is optional, and the result is part of the release’s report."),
        el("p", {}, "Ask somebody who has not worked on this review: a person rarely finds their own mistakes."),
        open ? notice("info", `This is possible once every suggestion is decided: ${open} to go.`) : form),
      items.length ? el("section", { class: "stack tight" }, el("h2", {}, "Samples so far"),
        el("ul", { class: "plain" }, [...items].reverse().map((each) => el("li", {},
          each.finished_at ? `${plural(each.n_segments, "passage")}, ${ago(each.finished_at)}: ${each.n_found} found by the review, ${each.n_missed} missed` : `${plural(each.n_segments, "passage")}, begun ${ago(each.created_at)} and not finished`, " ",
          !each.finished_at && each.token_id === this.token ? button("Read it again", { onclick: () => this.resume(each.id, problem) }) : null)))) : null));
  }

  result(estimate) {
    const { n_found: found, n_missed: missed, recall, low, high, n_segments: segments } = estimate;
    const lines = recall === null
      ? [el("p", {}, `The ${plural(segments, "passage")} held nothing that identifies anybody, so they say little about the review. Draw more.`)]
      : [el("p", {}, el("strong", {}, `The review had found ${found} of ${found + missed} identifiers: ${percent(recall)}`), ` (95 % interval: ${percent(low)} to ${percent(high)}).`),
        el("p", {}, missed ? `${plural(missed, "missed mention")} ${missed === 1 ? "has" : "have"} been added to the review and will be replaced.` : "Nothing was missed in these passages.")];
    if (!estimate.is_independent) lines.push(el("p", {}, "A reader had also worked on the review, so the true share is probably lower."));
    return notice(missed || recall === null || !estimate.is_independent ? "warning" : "done", ...lines);
  }

  /** Show a sample whose page was closed. Its marks are not stored. */
  async resume(id, problem) {
    try { this.read(await api.get(`${this.path}/${id}`)); } catch (error) { fill(problem, sentence(error.message)); }
  }

  // --- reading

  read(sample) {
    this.sample = sample;
    this.marks = [];
    this.segments = new Map(sample.segments.map((segment) => [segment.id, { ...this.review.segments.get(segment.id), ...segment, points: [...segment.text] }]));
    this.label = el("select", { "aria-label": "What the selected words are" }, ORDER.map((each) => el("option", { value: each }, LABELS[each])));
    this.line = el("p", { class: "small muted", role: "status" }, "Nothing marked yet.");
    this.problem = el("div", {});
    const sections = [...this.segments.values()].map((segment) => {
      const section = paragraph(this.review, segment, segment.text);
      section.append(el("ul", { class: "own-marks" }));
      return section;
    });
    this.text = el("div", { class: "reading" }, sections);
    selectByKeyboard(this.text);
    this.page = el("div", { class: "stack" },
      el("h2", { tabindex: "-1" }, `Read ${plural(sections.length, "passage")}`),
      el("p", { class: "prose muted" }, "Select every word that could identify somebody (names, places, dates, numbers, unusual facts) and mark it. Suggestions and decisions of the review are hidden."),
      el("div", { class: "toolbar-sticky stack tight", role: "group", "aria-label": "Mark" },
        el("div", { class: "row" }, this.label, button("Mark selection", { icon: "plus", "aria-keyshortcuts": "N", onclick: () => this.add() }), this.line)),
      this.text, this.problem,
      el("div", { class: "row" }, button("Finish", { icon: "check", class: "primary", onclick: () => this.finish() }), button("Stop without a result", { onclick: () => this.stop() })));
    fill(this.box, this.page);
    this.box.querySelector("h2").focus();
    addEventListener("beforeunload", this.warn);
  }

  warn = (event) => { if (this.marks.length) event.preventDefault(); };

  add() {
    const spot = selectedSpan(this.segments);
    if (!spot) { this.line.textContent = "Select some words in one passage first."; return; }
    const clash = this.marks.some((mark) => mark.segment === spot.segment && mark.start < spot.end && spot.start < mark.end);
    if (clash) { this.line.textContent = "Some of these words are marked already."; return; }
    this.marks.push({ ...spot, label: this.label.value });
    getSelection().removeAllRanges();
    this.show(spot.segment);
  }

  /** Draw a passage with its marks, and the list of them below it. */
  show(id) {
    const segment = this.segments.get(id), section = this.text.querySelector(`[data-segment="${id}"]`);
    const own = this.marks.filter((mark) => mark.segment === id).sort((a, b) => a.start - b.start);
    const said = (mark) => segment.points.slice(mark.start, mark.end).join("");
    const parts = [];
    let at = 0;
    for (const mark of own) {
      parts.push(segment.points.slice(at, mark.start).join(""), el("mark", { class: "own", "data-start": mark.start, "data-end": mark.end }, said(mark)));
      at = mark.end;
    }
    fill(section.querySelector(".said-text"), parts, segment.points.slice(at).join(""));
    fill(section.querySelector(".own-marks"), own.map((mark) => el("li", { class: "tag" }, `${said(mark)}: ${LABELS[mark.label].toLowerCase()}`,
      button(`Remove the mark: ${said(mark)}`, { icon: "x", iconOnly: true, onclick: () => { this.marks = this.marks.filter((each) => each !== mark); this.show(id); section.querySelector(".said-text").focus(); } }))));
    this.line.textContent = this.marks.length ? `${plural(this.marks.length, "mark")} so far.` : "Nothing marked yet.";
  }

  async finish() {
    const marks = this.marks.map(({ segment, start, end, label }) => ({ segment, span: [start, end], label }));
    try {
      const found = await api.post(`${this.path}/${this.sample.id}/finish`, { marks });
      this.end();
      await this.review.load({ names: true });
      this.start(found);
      announce("Finished. The result is at the top of the page.");
      this.box.querySelector(".notice")?.scrollIntoView({ block: "nearest" });
    } catch (problem) {
      fill(this.problem, notice("error", sentence(problem.message)));
      if (["sample_outdated", "sample_finished"].includes(problem.code)) this.end();
    }
  }

  end() { this.sample = null; this.marks = []; removeEventListener("beforeunload", this.warn); }
  stop() { this.end(); this.draw(); }

  get actions() { return this.sample ? { add: () => this.add() } : {}; }
}
