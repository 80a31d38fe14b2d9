// Options of a job where they matter: language, number of people, vocabulary. The rest is the study's.
import { button, el, fill } from "./dom.js";
import { languageName, languages } from "./languages.js";

/** Fields for the options, and `read()`, which gives those of POST /v1/jobs. */
export function optionFields(study, session = null, prefix = "job") {
  const language = el("select", { id: `${prefix}-language` },
    el("option", { value: "" }, study.language ? `As set for the study: ${languageName(study.language)}` : "Detect automatically"),
    languages().map(([value, name]) => el("option", { value }, name)));
  const people = el("input", { id: `${prefix}-people`, type: "number", min: "1", max: "20", inputmode: "numeric", "aria-describedby": `${prefix}-people-hint` });
  const known = session?.roster.length || (session?.speakers.min === session?.speakers.max ? session?.speakers.max : null);
  if (known) people.value = known;
  const words = el("textarea", { id: `${prefix}-words`, rows: "3", spellcheck: "false", "aria-describedby": `${prefix}-words-hint` });
  const fields = el("div", { class: "stack" },
    el("div", { class: "field" }, el("label", { for: language.id }, "Spoken language"), language),
    el("div", { class: "field" }, el("label", { for: people.id }, "Number of people speaking"), people,
      el("p", { class: "hint", id: `${prefix}-people-hint` }, "Including interviewers. If you are not sure, leave it empty: a wrong number makes the result worse.")),
    el("div", { class: "field" }, el("label", { for: words.id }, "Names and rare words"), words,
      el("p", { class: "hint", id: `${prefix}-words-hint` },
        `One per line, such as places and medicines. ${study.has_vocabulary ? "They replace the study's list for this recording." : "They are stored encrypted."}`)));
  const read = () => {
    const options = {};
    if (language.value) options.language = language.value;
    const count = parseInt(people.value, 10);
    if (count >= 1 && count <= 20) options.speakers = { min: count, max: count };
    const list = words.value.split("\n").map((word) => word.trim()).filter(Boolean).slice(0, 500);
    if (list.length) options.vocabulary = list;
    return options;
  };
  return { fields, read };
}

/** Ask for the options of one session; resolves with them, or null. */
export function askOptions(session, study) {
  return new Promise((resolve) => {
    const { fields, read } = optionFields(study, session);
    const dialog = el("dialog", { "aria-labelledby": "options-title" });
    const finish = (value) => { dialog.close(); dialog.remove(); resolve(value); };
    const form = el("form", { class: "stack" }, el("h2", { id: "options-title" }, `Transcribe ${session.code}`), fields,
      el("div", { class: "row" }, el("button", { class: "primary" }, "Transcribe"), button("Cancel", { onclick: () => finish(null) })));
    form.addEventListener("submit", (event) => { event.preventDefault(); finish(read()); });
    dialog.addEventListener("cancel", (event) => { event.preventDefault(); finish(null); });
    fill(dialog, form);
    document.body.append(dialog);
    dialog.showModal();
  });
}
