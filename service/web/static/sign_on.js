// Single sign-on: a button that leads to the institution's own sign-in page.
import * as api from "./api.js";
import { button } from "./dom.js";

/** The name of the provider for the button; null if there is no single sign-on. */
export const provider = api.get("/v1/sign-on", { background: true }).then((found) => found.label, () => null);

/** next: path of the page to come back to. */
export function signOnButton(label, next, showProblem) {
  const go = button(`Sign in with ${label}`, { class: "primary", icon: "log-in", onclick: start });
  return go;

  async function start() {
    go.disabled = true;
    showProblem("");
    try {
      const started = await api.post("/v1/sign-on", { next });
      location.assign(started.location);
    } catch (problem) {
      showProblem(problem.message);
      go.disabled = false;
      go.focus();
    }
  }
}
