// Spending a sign-in link. Its secret is in the fragment, which is removed from the history first.
import * as api from "./api.js";
import { button, byId, copyText, el, fill, icon, notice, ready } from "./dom.js";

const ROLES = {
  owner: "You will have full access to everything on this service.",
  admin: "You will manage people, tokens and storage. You will not see any content.",
  researcher: "You will be able to upload recordings, and to read and correct transcripts with names in them.",
  coder: "You will be able to read de-identified releases.",
  listener: "You will be able to read de-identified releases and hear masked audio.",
  custodian: "You will be able to see which pseudonym stands for whom.",
};

const secret = location.hash.slice(1);
history.replaceState(null, "", location.pathname);
const card = byId("card");

if (secret) await show(); else fail("This page needs a sign-in link. Open the whole link, up to its last character.");
ready();

async function show() {
  let link;
  try {
    link = await api.post("/v1/sign-in/check", { link: secret });
  } catch (problem) {
    return fail(problem.message);
  }
  const studies = link.all_studies ? "all studies" : link.studies.join(", ") || "no study yet";
  const go = button("Sign in", { class: "primary", icon: "log-in", onclick: signIn });
  fill(card,
    el("h1", {}, link.display_name ? `Welcome, ${link.display_name}` : "Sign in to Fieldscribe"),
    el("p", {}, ROLES[link.role]),
    el("p", { class: "muted" }, `Access to ${studies}. The link works once.`),
    el("div", { class: "row" }, go));
  go.focus();

  async function signIn() {
    go.disabled = true;
    try {
      const made = await api.post("/v1/sign-in", { link: secret });
      if (made.key) showKey(made.key); else location.replace("/");
    } catch (problem) {
      fail(problem.message);
    }
  }
}

function showKey(key) {
  // A form with a user name and a new password lets password managers offer to keep the key.
  const field = el("input", { type: "password", id: "key", name: "password", autocomplete: "new-password", value: key, readonly: true });
  const shown = el("button", { type: "button", "aria-pressed": "false" }, icon("eye"), "Show");
  shown.addEventListener("click", () => {
    const visible = field.type === "password";
    field.type = visible ? "text" : "password";
    shown.setAttribute("aria-pressed", String(visible));
  });
  const form = el("form", { class: "stack", method: "post", action: "/" },
    el("h1", { tabindex: "-1" }, "You are signed in. Keep your key"),
    el("p", {}, "You will be signed out after a few hours. This key signs you in again. It is shown only now: store it in your password manager."),
    el("input", { type: "text", name: "username", autocomplete: "username", value: "Fieldscribe", readonly: true, class: "visually-hidden", tabindex: "-1", "aria-label": "Account" }),
    el("div", { class: "field" }, el("label", { for: "key" }, "Your key"), field),
    el("div", { class: "row" }, button("Copy", { icon: "copy", onclick: () => copyText(key) }), shown),
    notice("info", "Anybody who has the key can do everything that you can. If you lose it, ask your administrator for a new invitation."),
    el("div", { class: "row" }, el("button", { class: "primary" }, "I have saved it: go to my studies")));
  form.addEventListener("submit", (event) => { event.preventDefault(); field.value = ""; location.replace("/"); });
  fill(card, form);
  form.querySelector("h1").focus();
}

function fail(message) {
  fill(card,
    el("h1", {}, "This link does not work"),
    notice("error", message),
    el("p", {}, "On the computer that runs Fieldscribe, ", el("code", {}, "fieldscribe open"), " makes a new one. Otherwise ask your administrator."),
    el("p", {}, el("a", { href: "/sign-in" }, "Sign in with your key")));
}
