// What new jobs of a study use unless they are told otherwise: language, model, names and rare words.
import * as api from "./api.js";
import { announce, byId, el, fill, notice, ready, sentence } from "./dom.js";
import { languages } from "./languages.js";
import { canManage, canRead, user } from "./shell.js";
import { showTabs } from "./study_tabs.js";

const me = await user;
const code = decodeURIComponent(location.pathname.split("/")[2]);
const path = `/v1/studies/${encodeURIComponent(code)}`;
const box = byId("settings");

try {
  await showTabs(code, "settings", me);
  const study = await api.get(path);
  fill(box, canManage(me) ? await defaults(study) : null, canRead(me) ? await vocabulary() : null, await retention());
} catch (problem) { fill(box, notice("error", sentence(problem.message))); }
ready();

/** A form that says under its button whether it was saved. */
function form(title, save, ...fields) {
  const said = el("p", { class: "small muted", role: "status" });
  const element = el("form", { class: "panel stack settings" }, el("h2", {}, title), fields, el("div", { class: "row" }, el("button", { class: "primary" }, "Save"), said));
  element.addEventListener("submit", async (event) => {
    event.preventDefault();
    try { await save(); said.className = "small muted"; said.textContent = "Saved."; }
    catch (problem) { said.className = "small problem"; fill(said, sentence(problem.message)); announce(problem.message); }
  });
  return element;
}

async function defaults(study) {
  const models = (await api.get("/v1/models")).items.filter((model) => model.kind === "whisper");
  const language = el("select", { id: "language" }, el("option", { value: "" }, "Detect automatically"),
    languages().map(([value, name]) => el("option", { value, selected: value === study.language }, name)));
  const model = el("select", { id: "model" }, el("option", { value: "" }, "The service’s default"),
    models.map((each) => el("option", { value: each.name, selected: each.name === study.model }, each.demo ? "demo (few words, for trying out)" : each.name)));
  return form("Defaults for new transcripts", () => api.patch(path, { language: language.value || null, model: model.value || null }),
    el("div", { class: "field" }, el("label", { for: "language" }, "Spoken language"), language),
    el("div", { class: "field" }, el("label", { for: "model" }, "Model"), model));
}

async function vocabulary() {
  const { words } = await api.get(`${path}/vocabulary`);
  const area = el("textarea", { id: "words", rows: "10", spellcheck: "false", autocomplete: "off", "aria-describedby": "words-hint" });
  area.value = words.join("\n");
  const list = () => area.value.split("\n").map((word) => word.trim()).filter(Boolean);
  return form("Names and rare words", () => api.put(`${path}/vocabulary`, { words: list() }),
    el("div", { class: "field" }, el("label", { for: "words" }, "One per line"), area,
      el("p", { class: "hint", id: "words-hint" }, "Places, medicines, organisations and names that come up. The models then spell them correctly more often. At most 500. They are stored encrypted.")));
}

/** How long the data is kept. Rules and destruction are commands: nobody destroys data by a slip of the mouse. */
async function retention() {
  const { rules, holds } = await api.get(`${path}/retention`);
  const words = (rule) => ({ no_date: `no date of ${rule.basis.replaceAll("_", " ")} is set`, kept: `kept until ${rule.due_on}`,
    due: `due since ${rule.due_on}`, held: `due since ${rule.due_on}, on legal hold`, destroyed: "destroyed" })[rule.state];
  return el("section", { class: "panel stack settings" }, el("h2", {}, "Retention"),
    rules.length ? el("ul", {}, rules.map((rule) => el("li", {},
      `${rule.data_class}: ${rule.years} years from ${rule.basis.replaceAll("_", " ")}, then ${rule.at_end}: ${words(rule)}`)))
      : el("p", {}, "No rule says how long this study’s data is kept."),
    holds.map((hold) => notice("warning", `Legal hold since ${hold.created_at.slice(0, 10)}: ${hold.reason.replaceAll("_", " ")}`)),
    el("p", { class: "hint" }, `fieldscribe retention set ${code} … changes the rules`));
}
