// What every signed-in page has: navigation by role, the account menu, the end of the sign-in.
import * as api from "./api.js";
import { ask, button, byId, el, fill, icon, notice } from "./dom.js";
import { provider } from "./sign_on.js";

export const ROLE_NAMES = {
  owner: "owner", admin: "administrator", researcher: "researcher", coder: "coder", listener: "listener", custodian: "custodian",
};
export const canRead = (user) => ["researcher", "owner"].includes(user.role);
export const seesReleasesOnly = (user) => ["coder", "listener"].includes(user.role);
export const canManage = (user) => ["admin", "owner"].includes(user.role);

/** Resolves with the signed-in user (GET /v1/sign-in), or sends the browser to the sign-in page. */
export const user = start();

async function start() {
  let me;
  try {
    me = await api.get("/v1/sign-in");
  } catch (problem) {
    if (problem.status === 401) {
      location.replace(`/sign-in#${encodeURIComponent(location.pathname + location.search + location.hash)}`);
      return new Promise(() => {});
    }
    fill(byId("main"), notice("error", problem.message), button("Try again", { onclick: () => location.reload() }));
    throw problem;
  }
  showNavigation(me);
  watchTimeOut(me);
  api.events.addEventListener("signed-out", () => signInAgain());
  return me;
}

function showNavigation(me) {
  const links = [["Studies", "/"]];
  if (canManage(me)) links.push(["Administration", "/admin"]);
  const here = location.pathname;
  fill(byId("main-nav"), links.map(([label, path]) => {
    const current = path === "/" ? here === "/" || here.startsWith("/studies") : here.startsWith(path);
    return el("a", { href: path, "aria-current": current ? "page" : null }, label);
  }));
  const menu = el("details", { class: "menu" },
    el("summary", {}, icon("user"), me.display_name || ROLE_NAMES[me.role], icon("chevron-down")),
    el("div", { class: "items" },
      el("div", { class: "label" }, `Signed in as ${ROLE_NAMES[me.role]}`),
      el("a", { href: "/devices" }, icon("monitor"), "Your devices"),
      ...themeButtons(),
      button("Sign out", { icon: "log-out", onclick: signOut }),
    ));
  closeOnLeave(menu);
  fill(byId("account"), menu);
}

/** Close a <details> menu on Escape and when focus or a click goes elsewhere. */
export function closeOnLeave(menu) {
  menu.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && menu.open) { menu.open = false; menu.querySelector("summary").focus(); }
  });
  menu.addEventListener("focusout", (event) => {
    if (event.relatedTarget && !menu.contains(event.relatedTarget)) menu.open = false;
  });
  document.addEventListener("click", (event) => { if (!menu.contains(event.target)) menu.open = false; });
}

function themeButtons() {
  const themes = [["system", "Match the system", "sun-moon"], ["light", "Light", "sun"], ["dark", "Dark", "moon"]];
  const current = () => localStorage.getItem("theme") || "system";
  const buttons = themes.map(([value, label, name]) =>
    button(label, {
      icon: name,
      "aria-pressed": String(current() === value),
      onclick: () => {
        if (value === "system") { localStorage.removeItem("theme"); delete document.documentElement.dataset.theme; }
        else { localStorage.setItem("theme", value); document.documentElement.dataset.theme = value; }
        buttons.forEach((each, i) => each.setAttribute("aria-pressed", String(themes[i][0] === value)));
      },
    }));
  return buttons;
}

async function signOut() {
  try { await api.post("/v1/sign-out"); } catch (problem) { if (problem.status !== 401) throw problem; }
  location.assign("/sign-in");
}

// --- the end of the sign-in -------------------------------------------------------------------------

const WARN_BEFORE = 2 * 60_000;

function watchTimeOut(me) {
  if (!me.ends_at) return;
  const idle = new Date(me.idle_ends_at) - Date.now();
  const fixedEnd = new Date(me.ends_at).getTime();
  let asking = false;
  setInterval(async () => {
    const unreported = api.activeAt() > api.sentAt() && Date.now() - api.sentAt() > 5 * 60_000;
    if (unreported) await api.get("/v1/sign-in").catch(() => {});
    const end = Math.min(api.activeAt() + idle, fixedEnd);
    if (asking || end - Date.now() > WARN_BEFORE || end < Date.now()) return;
    asking = true;
    const atLimit = end === fixedEnd;
    const text = atLimit
      ? "You have been signed in for a long time: sign in again within two minutes. What you have written stays on this page."
      : "You have been inactive for a while, so you will be signed out in two minutes.";
    const stay = await ask("Still there?", el("p", {}, text),
      [{ label: atLimit ? "Sign in again" : "Stay signed in", value: true, primary: true }, { label: "Sign out", value: false }]);
    asking = false;
    if (stay === false) return signOut();
    if (atLimit) signInAgain(); else await api.get("/v1/sign-in").catch(() => {});
  }, 15_000);
}

let open = false;
/** Cover the page, so that nobody reads it, and sign in without losing what is on it. */
export function signInAgain() {
  if (open) return;
  open = true;
  const dialog = el("dialog", { class: "cover", "aria-labelledby": "sign-in-again" });
  const input = el("input", { type: "password", id: "again-key", name: "password", autocomplete: "current-password", required: true });
  const problem = el("p", { class: "problem", id: "again-problem", role: "alert" });
  const hint = el("p", { class: "small muted" }, "No key? Open a new sign-in link in another tab, then choose “I have signed in”.");
  provider.then((label) => {
    if (label) fill(hint, el("a", { href: "/sign-in", target: "_blank" }, `Sign in with ${label} in a new tab`), ", then choose “I have signed in”.");
  });
  const form = el("form", { class: "stack" },
    el("h2", { id: "sign-in-again" }, "You are signed out"),
    el("p", {}, "Sign in to carry on. What you have not saved is still on this page."),
    el("input", { type: "text", name: "username", autocomplete: "username", value: "Fieldscribe", readonly: true, class: "visually-hidden", tabindex: "-1", "aria-label": "Account" }),
    el("div", { class: "field" }, el("label", { for: "again-key" }, "Your key"), input, problem),
    hint,
    el("div", { class: "row" },
      el("button", { class: "primary" }, "Sign in"),
      button("I have signed in", { onclick: check }),
      el("a", { class: "button quiet", href: "/sign-in" }, "Leave this page")),
  );
  const done = () => { dialog.close(); dialog.remove(); document.body.classList.remove("covered"); open = false; api.events.dispatchEvent(new Event("signed-in")); };
  async function check() {
    try { await api.get("/v1/sign-in"); done(); } catch { problem.textContent = "This browser is not signed in yet."; }
  }
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    try { await api.post("/v1/sign-in", { key: input.value.trim() }); input.value = ""; done(); }
    catch (error) { problem.textContent = error.message; input.focus(); }
  });
  dialog.addEventListener("cancel", (event) => event.preventDefault());
  dialog.append(form);
  document.body.append(dialog);
  document.body.classList.add("covered");
  dialog.showModal();
}
