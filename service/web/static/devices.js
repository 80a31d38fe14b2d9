// The browsers that are signed in with one's own token.
import * as api from "./api.js";
import { announce, ask, button, byId, copyText, el, fill, icon, notice, ready } from "./dom.js";
import { ago, when } from "./format.js";
import { user } from "./shell.js";

await user;
await show();
byId("add").addEventListener("click", add);
ready();

async function show() {
  const { items } = await api.get("/v1/devices");
  const signedIn = items.filter((device) => device.signed_in);
  fill(byId("devices"), signedIn.map(row));
}

function row(device) {
  const mobile = /Android|iPhone|iPad/.test(device.browser);
  return el("tr", {},
    el("th", { scope: "row" }, icon(mobile ? "smartphone" : "monitor"), " ", device.browser, device.current ? [" ", el("span", { class: "tag ok" }, "this browser")] : null),
    el("td", { "data-label": "Signed in" }, when(device.created_at)),
    el("td", { "data-label": "Last used" }, ago(device.last_seen_at)),
    el("td", { "data-label": "Ends" }, when(device.ends_at)),
    el("td", {}, device.current ? null : button("Sign out", { "aria-label": `Sign out ${device.browser}`, onclick: () => signOut(device) })));
}

async function signOut(device) {
  await api.remove(`/v1/devices/${device.id}`);
  announce(`${device.browser} is signed out`);
  await show();
}

async function add() {
  const made = await api.post("/v1/sign-in-links");
  await ask("Open this link in the other browser",
    el("div", { class: "stack" },
      el("p", {}, "It works once, within 15 minutes, and signs that browser in as you."),
      el("p", { class: "secret", tabindex: "0" }, made.link),
      el("div", { class: "row" }, button("Copy the link", { icon: "copy", onclick: () => copyText(made.link) })),
      notice("warning", "Do not send it to anybody else: they would be signed in as you.")));
}
