// Signing in with a key or through single sign-on. The fragment names the page to go to afterwards.
import * as api from "./api.js";
import { byId, el, ready } from "./dom.js";
import { provider, signOnButton } from "./sign_on.js";

const form = byId("sign-in"), key = byId("key"), problem = byId("problem");
const wanted = decodeURIComponent(location.hash.slice(1));
const next = wanted.startsWith("/") && !wanted.startsWith("//") && !wanted.includes("\\") ? wanted : "/";

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    await api.post("/v1/sign-in", { key: key.value.trim() });
    key.value = "";
    location.replace(next);
  } catch (error) {
    problem.textContent = error.message;
    key.setAttribute("aria-invalid", "true");
    key.focus();
  }
});

const label = await provider;
if (label) {
  const failure = el("p", { class: "problem", role: "alert" });
  const go = signOnButton(label, next, (text) => { failure.textContent = text; });
  byId("sign-on").append(el("div", { class: "row" }, go), failure, el("p", { class: "muted" }, "Or sign in with a key:"));
  byId("sign-on").hidden = false;
  if (!key.value) go.focus();
}
ready();
