// The dialog that creates a study.
import * as api from "./api.js";
import { el, fill, button } from "./dom.js";
import { languages } from "./languages.js";

/** Resolves with the study, or null. */
export function createStudy() {
  return new Promise((resolve) => {
    const problem = el("p", { class: "problem", role: "alert", id: "study-problem" });
    const code = el("input", {
      id: "study-code", required: true, maxlength: "40", autocomplete: "off", autocapitalize: "characters", spellcheck: "false",
      "aria-describedby": "study-hint study-problem",
    });
    code.addEventListener("input", () => { code.value = code.value.toUpperCase().replace(/[^A-Z0-9-]/g, ""); });
    const language = el("select", { id: "study-language" },
      el("option", { value: "" }, "Detect automatically"),
      languages().map(([value, name]) => el("option", { value }, name)));
    const form = el("form", { class: "stack" },
      el("h2", { id: "new-study-title" }, "New study"),
      el("div", { class: "field" }, el("label", { for: "study-code" }, "Code"), code,
        el("p", { class: "hint", id: "study-hint" }, "Capital letters, digits and hyphens, such as PEER or NIGHT-SHIFT. Codes appear in addresses and logs: use no names.")),
      el("div", { class: "field" }, el("label", { for: "study-language" }, "Spoken language"), language,
        el("p", { class: "hint" }, "Setting it avoids mistakes. You can choose another for each recording.")),
      problem,
      el("div", { class: "row" }, el("button", { class: "primary" }, "Create the study"), button("Cancel", { onclick: () => finish(null) })));
    const dialog = el("dialog", { "aria-labelledby": "new-study-title" });
    const finish = (value) => { dialog.close(); dialog.remove(); resolve(value); };
    dialog.addEventListener("cancel", (event) => { event.preventDefault(); finish(null); });
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      try { finish(await api.post("/v1/studies", { code: code.value, language: language.value || null })); }
      catch (error) {
        problem.textContent = error.code === "invalid_request" ? "This code is not valid: begin with a letter, and use at most 12 letters or digits between hyphens." : error.message;
        code.focus();
      }
    });
    fill(dialog, form);
    document.body.append(dialog);
    dialog.showModal();
    code.focus();
  });
}
