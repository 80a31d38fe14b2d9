// Member checking of one participant: links, what was sent, answers and decisions.
import * as api from "./api.js";
import { announce, ask, button, copyText, el, fill, icon, notice, sentence } from "./dom.js";
import { askForm, field, text } from "./entity_forms.js";
import { when } from "./format.js";

const WORDINGS = { codes: "With codes for names", own_words: "As it was said" };
const SUMMARY = "A summary that you write";
const MAX_DAYS = 90;

/** The section about one participant. study: its code. */
export function memberChecking(study, person) {
  const sent = el("div", { class: "stack tight" }), answer = el("div", {});
  const [consent] = person.consents;
  const may = !person.withdrawn_at && !person.erased_at;
  const makeButton = may ? button("Make a link", { icon: "link", onclick: make }) : null;
  let sessions = new Map(); // codes by transcript id

  async function load() {
    const { items } = await api.get(`/v1/participants/${person.id}/packets`);
    if (items.length) sessions = (await findTranscripts(study)).codes;
    fill(sent, items.length ? table(items) : el("p", { class: "muted" }, "Nothing was sent yet."));
  }

  async function reload() {
    try { await load(); } catch (problem) { fill(sent, notice("error", sentence(problem.message))); }
  }

  const nameOf = (packet) => sessions.get(packet.transcript_id) ?? "a deleted session";
  const isLive = (packet) => !packet.revoked_at && !packet.erased_at && new Date(packet.expires_at) > new Date();

  function table(packets) {
    return el("table", { class: "stacked" },
      el("thead", {}, el("tr", {}, ["Session", "Text", "Link", "Answer", ""].map((name) => el("th", { scope: "col" }, name || el("span", { class: "visually-hidden" }, "Actions"))))),
      el("tbody", {}, packets.map((packet) => el("tr", { "data-packet": packet.id },
        el("th", { scope: "row" }, nameOf(packet)),
        el("td", { "data-label": "Text" }, packet.kind === "summary" ? "Summary" : WORDINGS[packet.wording]),
        el("td", { "data-label": "Link" }, linkState(packet), el("br"), el("span", { class: "small muted" }, packet.opened_at ? `opened ${when(packet.opened_at)}` : "not opened")),
        el("td", { "data-label": "Answer" }, packet.answered_at ? `sent ${when(packet.answered_at)}` : "none"),
        el("td", {}, packet.erased_at ? null : el("div", { class: "row end" }, actions(packet)))))));
  }

  function linkState(packet) {
    if (packet.erased_at) return "text deleted";
    if (packet.revoked_at) return `ended ${when(packet.revoked_at)}`;
    return isLive(packet) ? `works until ${when(packet.expires_at)}` : `expired ${when(packet.expires_at)}`;
  }

  function actions(packet) {
    const name = nameOf(packet);
    return [
      packet.answered_at ? button("Read the answer", { "aria-label": `Read the answer about ${name}`, onclick: () => showAnswer(packet, true) }) : null,
      el("a", { class: "button", href: `/v1/packets/${packet.id}/docx`, download: true, "aria-label": `Word document of ${name}` }, icon("download"), "Word"),
      isLive(packet) ? button("End the link", { "aria-label": `End the link to ${name}`, onclick: () => revoke(packet) }) : null,
    ];
  }

  async function make() {
    let transcripts;
    try { transcripts = (await findTranscripts(study)).newest.filter(({ code }) => person.sessions.includes(code)); }
    catch (problem) { fill(sent, notice("error", sentence(problem.message))); return; }
    const which = el("select", {}, transcripts.map(({ id, code }) => el("option", { value: id }, code)));
    const wording = el("select", {}, Object.entries({ ...WORDINGS, summary: SUMMARY }).map(([value, label]) => el("option", { value }, label)));
    const summary = el("textarea", { rows: "5", maxlength: "50000" });
    const summaryField = field("Summary", summary);
    const days = text({ type: "number", min: "1", max: String(MAX_DAYS), value: "14" });
    const look = () => { summaryField.hidden = wording.value !== "summary"; };
    wording.addEventListener("change", look);
    look();
    if (!transcripts.length) {
      await ask(`No transcript of ${person.code} yet`, el("p", {}, "Member checking needs a finished transcript of a session whose roster lists the participant."));
      makeButton.focus();
      return;
    }
    const made = await askForm(`Make a link for ${person.code}`, [
      field("Session", which),
      field("Text", wording, "Codes need a finished review. Words as they were said include names; they are possible only for an interview, where nobody else takes part."),
      summaryField, field("Days until the link expires", days),
    ], { label: "Make the link", primary: true }, () => {
      const n = Number(days.value);
      if (!Number.isInteger(n) || n < 1 || n > MAX_DAYS) throw new Error(`Give a number of days from 1 to ${MAX_DAYS}.`);
      const body = { transcript_id: which.value, days: n };
      if (wording.value !== "summary") body.wording = wording.value;
      else if (summary.value.trim()) body.summary = summary.value.trim();
      else throw new Error("Write the summary that the participant will check.");
      return api.post(`/v1/participants/${person.id}/packets`, body);
    });
    if (made) {
      await ask(`Send ${person.code} this link`, el("div", { class: "stack" },
        el("p", {}, `It works until ${when(made.packet.expires_at)} and is shown only now.`),
        el("p", { class: "secret", tabindex: "0" }, made.link),
        el("div", { class: "row" }, button("Copy the link", { icon: "copy", onclick: () => copyText(made.link) })),
        notice("warning", "Everybody who has the link can read the text: send it as you would send the text itself.")));
      await reload();
    }
    makeButton.focus();
  }

  async function revoke(packet) {
    const sure = await ask(`End the link to ${nameOf(packet)}?`, el("p", {}, "The participant can no longer open it. You can make a new one."),
      [{ label: "End the link", value: true, danger: true }, { label: "Cancel", value: null }]);
    if (sure) {
      try { await api.remove(`/v1/packets/${packet.id}`); announce("Ended"); await reload(); }
      catch (problem) { fill(answer, notice("error", sentence(problem.message))); }
    }
    (sent.querySelector(`[data-packet="${packet.id}"] .row > :last-child`) ?? makeButton)?.focus();
  }

  async function showAnswer(packet, moveThere) {
    let read;
    try { read = await api.get(`/v1/packets/${packet.id}/answer`); }
    catch (problem) { fill(answer, notice("error", sentence(problem.message))); return; }
    const title = el("h4", { tabindex: "-1", id: "answer-title" }, `Answer about ${nameOf(packet)}`);
    const said = el("div", {});
    fill(answer, el("section", { class: "stack", "aria-labelledby": "answer-title" }, title,
      read.comment ? [el("p", { class: "small muted" }, "Comment"), el("p", { class: "said" }, read.comment)] : null,
      read.items.length ? read.items.map((proposal, i) => proposed(packet, proposal, i + 1, said)) : el("p", {}, "No changes proposed."), said));
    const open = answer.querySelector("button");
    if (moveThere || !open) title.focus(); else open.focus();
  }

  function proposed(packet, { segment, before, after, state }, n, said) {
    const decide = (accept) => async () => {
      try {
        const done = accept && packet.wording === "codes" ? await writeText(packet, segment, after)
          : await api.post(`/v1/packets/${packet.id}/decisions`, { segment, accept });
        if (!done) return;
        announce(accept ? "Accepted" : "Declined");
        await showAnswer(packet, false);
      } catch (problem) { fill(said, notice("error", sentence(problem.message))); }
    };
    return el("div", { class: "stack tight", "data-segment": segment },
      el("p", {}, el("span", { class: "small muted" }, "Was: "), el("span", { class: "said" }, before)),
      el("p", {}, el("span", { class: "small muted" }, "Proposed: "), after ? el("span", { class: "said" }, after) : el("em", {}, "nothing, so that these words are removed")),
      el("div", { class: "row" }, state !== "open" ? el("span", { class: "tag" }, state)
        : [button("Accept", { icon: "check", "aria-label": `Accept change ${n}`, onclick: decide(true) }), button("Decline", { "aria-label": `Decline change ${n}`, onclick: decide(false) })]));
  }

  /** Accept a change of a text with codes: the researcher writes the segment's text, with its names. */
  async function writeText(packet, segment, after) {
    const { segments } = await api.get(`/v1/transcripts/${packet.transcript_id}`);
    const now = segments.find(({ id }) => id === segment)?.text ?? "";
    const area = el("textarea", { rows: "5", maxlength: "100000" });
    area.value = now;
    return askForm("Accept the change", [
      el("p", {}, "The participant read codes for names, so put the change into the transcript’s text yourself."),
      el("p", {}, el("span", { class: "small muted" }, "Proposed: "), el("span", { class: "said" }, after)),
      field("New text of the segment", area),
    ], { label: "Accept", primary: true }, () => {
      if (area.value.trim() === now) throw new Error("The text is unchanged: change it, or decline the proposal.");
      return api.post(`/v1/packets/${packet.id}/decisions`, { segment, accept: true, text: area.value.trim() });
    });
  }

  reload();
  return el("section", { class: "stack", "aria-labelledby": "checking-title" },
    el("h3", { id: "checking-title" }, "Member checking"),
    el("p", { class: "prose muted" }, "The participant reads what they said behind a link, without an account, and proposes changes. You decide on each."),
    may && !(consent?.scopes.includes("recontact") && consent.scopes.includes("transcription"))
      ? notice("info", `${person.code} must first consent to transcription and to being contacted again.`) : null,
    makeButton ? el("div", { class: "row" }, makeButton) : null, sent, answer);
}

/** The newest transcript of each session, and the session's code by transcript id. */
async function findTranscripts(study) {
  const at = encodeURIComponent(study);
  const [sessions, jobs] = await Promise.all([api.listAll(`/v1/sessions?study=${at}`), api.listAll(`/v1/jobs?study=${at}&status=succeeded`)]);
  const names = new Map(sessions.map((session) => [session.id, session.code]));
  const codes = new Map(), newest = new Map();
  for (const { transcript_id: id, session_id: session } of jobs) { // newest first
    if (!id || !names.has(session)) continue;
    codes.set(id, names.get(session));
    if (!newest.has(session)) newest.set(session, { id, code: names.get(session) });
  }
  return { codes, newest: [...newest.values()] };
}
