// Signing in with a key. The fragment names the page to go to afterwards.
import * as api from "./api.js";
import { byId, ready } from "./dom.js";

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
ready();
