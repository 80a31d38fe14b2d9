// Naming the speakers: each voice can be heard, and gets a code or a pseudonym, and a role.
import * as api from "../api.js";
import { ask, button, el, fill, notice } from "../dom.js";
import { duration } from "../format.js";

const ROLES = ["interviewer", "participant", "moderator", "observer", "other"];

/** Show the voices; resolves with whether names were changed. */
export async function nameSpeakers(transcript, player) {
  await transcript.saver.settle();
  const found = await api.get(`${transcript.path}/speakers`);
  const codes = el("datalist", { id: "roster" }, found.roster.map(({ code, role }) => el("option", { value: code }, role)));
  const problem = el("p", { class: "problem", role: "alert" });
  const rows = Object.entries(found.speakers).map(([label, voice]) => {
    const name = `speaker-${label}`;
    const code = el("input", { id: `${name}-code`, value: voice.code ?? "", list: "roster", maxlength: "20", autocomplete: "off", spellcheck: "false", placeholder: "P07" });
    const pseudonym = el("input", { id: `${name}-pseudonym`, value: voice.pseudonym ?? "", maxlength: "40", autocomplete: "off", spellcheck: "false" });
    const role = el("select", { id: `${name}-role` }, el("option", { value: "" }, "–"), ROLES.map((each) => el("option", { value: each, selected: each === voice.role }, each)));
    code.addEventListener("change", () => {
      const known = found.roster.find((each) => each.code === code.value.trim());
      if (known && !role.value) role.value = known.role;
    });
    const listen = voice.turns.map((turn, i) => button(`${i + 1}`, {
      icon: "play", "aria-label": `Hear ${voice.name} at ${duration(turn.start)}`, title: `At ${duration(turn.start)}`,
      onclick: () => { player.seek(turn.start); player.play({ stopAt: Math.min(turn.end, turn.start + 15) }); },
    }));
    const row = el("section", { class: "voice", "aria-label": voice.name },
      el("h3", { class: `speaker-${transcript.colour(voice.name)}` }, voice.name,
        el("span", { class: "muted small" }, ` ${Math.round(voice.talk_share * 100)} % of the talking time, ${voice.words} words${voice.suggested_role ? `; probably the ${voice.suggested_role}` : ""}`)),
      el("div", { class: "row" }, el("span", { class: "small" }, "Hear the voice:"), listen.length ? listen : el("span", { class: "muted small" }, "no turns")),
      voice.quotes.length ? el("blockquote", { class: "said-small", dir: "auto" }, voice.quotes[0].text) : null,
      el("div", { class: "row fields" },
        el("div", { class: "field" }, el("label", { for: `${name}-code` }, "Code"), code),
        el("div", { class: "field" }, el("label", { for: `${name}-role` }, "Role"), role),
        el("div", { class: "field" }, el("label", { for: `${name}-pseudonym` }, "Pseudonym (if any)"), pseudonym)));
    return { label, code, pseudonym, role, row };
  });
  const content = el("div", { class: "stack", "data-width": "medium" },
    el("p", { class: "muted small" }, "A code is one to three capitals and a number, such as P07. Give two voices the same code if they are one person. Never enter a real name."),
    codes, rows.map(({ row }) => row), problem);
  for (;;) {
    const answer = await ask("Who is who?", content, [{ label: "Save", value: true, primary: true }, { label: "Cancel", value: null }]);
    player.pause();
    if (!answer) return false;
    const body = Object.fromEntries(rows.map(({ label, code, pseudonym, role }) => [label, {
      code: code.value.trim() || null, pseudonym: pseudonym.value.trim() || null, role: role.value || null,
    }]));
    try {
      await api.put(`${transcript.path}/speakers`, body);
      return true;
    } catch (error) {
      const wrong = error.body?.errors?.map(({ where }) => where.split(".")[1]).filter(Boolean) ?? [];
      fill(problem, notice("error", wrong.length ? `Check ${[...new Set(wrong)].join(", ")}: a code looks like P07; a pseudonym has letters, digits and spaces only.` : error.message));
    }
  }
}
