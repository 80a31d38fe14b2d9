// A participant checks what they said. The link's secret is in the fragment, which is removed from the history first.
import * as api from "./api.js";
import { announce, button, byId, el, fill, notice, ready, sentence } from "./dom.js";
import { when } from "./format.js";

const secret = location.hash.slice(1);
history.replaceState(null, "", location.pathname);
const box = byId("packet");
const texts = new Map(); // fields by segment

if (secret) await show(); else fail("This page needs the whole link that you were sent, up to its last character.");
ready();

async function show() {
  let packet;
  try {
    packet = await api.post("/v1/packet/open", { link: secret });
  } catch (problem) {
    return fail(problem.message);
  }
  const comment = el("textarea", { id: "comment", rows: "4", maxlength: "5000" });
  const send = button("Send", { class: "primary", icon: "check", onclick: () => answer(packet, comment.value.trim(), send) });
  fill(box,
    el("h1", { tabindex: "-1" }, "Check what you said"),
    el("p", {}, packet.summary === null
      ? "This was written from the conversation that you took part in. You can change your own words. You need not change anything."
      : "This is a summary of the conversation that you took part in. Tell the researchers below what you would like to have changed."),
    el("p", { class: "muted" }, `The link works until ${when(packet.expires_at)}. Nothing is stored in this browser: send your changes before you close the page.`),
    packet.answered ? notice("info", "You have sent an answer before. A new one replaces it.") : null,
    packet.summary === null ? packet.passages.map(passage) : packet.summary.split("\n").map((line) => el("p", { class: "said" }, line)),
    el("div", { class: "field" }, el("label", { for: "comment" }, "Anything else that the researchers should know (optional)"), comment),
    el("div", { class: "row" }, send),
    el("div", { id: "outcome" }));
}

function passage({ segment, speaker, text, is_own: isOwn }) {
  if (!isOwn) return el("p", { class: "said muted" }, el("strong", {}, `${speaker}: `), text);
  const id = `text-${segment}`;
  const area = el("textarea", { id, rows: String(Math.max(2, Math.ceil(text.length / 60))), maxlength: "20000" });
  area.value = text;
  texts.set(segment, { area, text });
  return el("div", { class: "field" }, el("label", { for: id }, "You said"), area);
}

async function answer(packet, comment, send) {
  const changes = [...texts].filter(([, { area, text }]) => area.value.trim() !== text).map(([segment, { area }]) => ({ segment, text: area.value.trim() }));
  send.disabled = true;
  try {
    await api.post("/v1/packet/answer", { link: secret, changes, comment: comment || null });
    fill(byId("outcome"), notice("done", changes.length || comment
      ? "Thank you. The researchers have your answer. You can change it and send it again while the link works."
      : "Thank you. The researchers know that you want nothing changed."));
    announce("Sent");
  } catch (problem) {
    fill(byId("outcome"), notice("error", sentence(problem.message)));
  } finally {
    send.disabled = false;
  }
}

function fail(message) {
  fill(box, el("h1", {}, "This link does not work"), notice("error", sentence(message)), el("p", {}, "Ask the person who sent it to you for a new one."));
}
