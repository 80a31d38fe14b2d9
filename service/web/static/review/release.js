// The last step: the release.
import * as api from "../api.js";
import { button, byId, el, fill, icon, notice, sentence } from "../dom.js";
import { plural } from "../format.js";

const CONTEXTS = [["team", "The study team"], ["member_checking", "A participant who checks the transcript"], ["repository", "A data archive"], ["publication", "Publication"]];

export class Release {
  constructor(review, box, { go }) { Object.assign(this, { review, box, go, actions: {} }); }

  draw() {
    const { review, box } = this, { view, session } = review;
    if (view.n_open) {
      return fill(box, el("div", { class: "panel empty" }, icon("lock"), el("h2", {}, `${plural(view.n_open, "suggestion")} left to decide`), el("p", {}, "You can release the transcript once every suggestion is decided."),
        button("Decide them", { class: "primary", onclick: () => this.go("names") })));
    }
    const context = el("select", { id: "context" }, CONTEXTS.map(([value, label]) => el("option", { value }, label)));
    const unnamed = review.unnamedSpeakers();
    const confirm = el("input", { id: "confirm", autocomplete: "off", spellcheck: "false", required: true, "aria-describedby": "confirm-hint" });
    const problem = el("p", { class: "problem", role: "alert" });
    const form = el("form", { class: "panel stack narrow" },
      el("h2", {}, `Release ${session}`),
      el("ul", {},
        el("li", {}, `Version ${view.transcript_version} of the transcript`),
        el("li", {}, `${plural(view.n_accepted, "mention")} replaced, ${view.n_rejected} kept as said`),
        el("li", {}, "Text only, no sound")),
      unnamed.length ? notice("warning", el("p", {}, `${unnamed.join(", ")} ${unnamed.length === 1 ? "has" : "have"} no code yet and will be called that in the release.`),
        el("p", {}, el("a", { href: `/transcripts/${review.id}#speakers` }, "Name the speakers"))) : null,
      el("p", {}, "A release cannot be changed, and everybody who may read the study’s releases can read it. It is de-identified, not anonymous: what people say can still identify them."),
      el("div", { class: "field" }, el("label", { for: "context" }, "Who it is for"), context),
      el("div", { class: "field" }, el("label", { for: "confirm" }, `Type ${session} to confirm`), confirm, el("p", { class: "hint", id: "confirm-hint" }, "This prevents a release by accident.")),
      problem,
      el("div", { class: "row" }, el("button", { class: "primary" }, icon("shield-check"), "Release")));
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      if (confirm.value.trim().toUpperCase() !== session.toUpperCase()) { problem.textContent = `Type ${session}, the code of this session.`; return confirm.focus(); }
      try { this.showMade(await api.post(`${review.path}/releases`, { context: context.value })); }
      catch (error) { fill(problem, sentence(error.message)); }
    });
    fill(box, form);
  }

  showMade(made) {
    const { review, box } = this;
    fill(box, el("div", { class: "panel empty" }, icon("circle-check"), el("h2", { tabindex: "-1", id: "released" }, `${review.session} is released`),
      el("p", {}, `This is release ${made.number}. Read its report first: it lists what is left that could identify somebody.`),
      el("div", { class: "row" },
        el("a", { class: "button", href: `/v1/releases/${made.id}/files/report`, download: true }, icon("download"), "Report"),
        el("a", { class: "button primary", href: `/studies/${encodeURIComponent(review.study)}/exports` }, icon("download"), "Export it"))));
    byId("released").focus();
  }

  show() {}
}
