// The administrator's page: the state of the service, models, people and tokens. No content.
import * as api from "./api.js";
import { ask, button, byId, copyText, el, fill, icon, notice, ready, sentence } from "./dom.js";
import { ago, bytes, plural, roughly, when } from "./format.js";
import { ROLE_NAMES, canManage, user } from "./shell.js";
import { provider } from "./sign_on.js";

const ROLES = [
  ["researcher", "Researcher", "uploads, reads and corrects transcripts with names, reviews and releases"],
  ["coder", "Coder", "reads de-identified releases, nothing else"],
  ["listener", "Listener", "reads releases and hears masked recordings"],
  ["custodian", "Custodian", "sees which pseudonym stands for whom"],
  ["admin", "Administrator", "manages people, models and storage; reads no content"],
  ["owner", "Owner", "may do everything"],
];

const me = await user;
const box = byId("admin");
const parts = { state: el("section", { class: "stack", "aria-labelledby": "state-title" }), people: el("section", { class: "stack", "aria-labelledby": "people-title" }), models: el("section", { class: "stack", "aria-labelledby": "models-title" }) };
let studies = [];

if (!canManage(me)) fill(box, notice("error", "This page is for administrators."));
else {
  fill(box, parts.state, parts.people, parts.models);
  try {
    studies = await api.listAll("/v1/studies").catch(() => []); // sealed: not even their codes
    await Promise.all([showState(), showPeople(), showModels()]);
    setInterval(() => { if (!document.hidden) showState(true).catch(() => {}); }, 10_000);
  } catch (problem) { box.prepend(notice("error", problem.message)); }
}
ready();

// --- the state --------------------------------------------------------------------------------------

async function showState(background = false) {
  const state = await api.get("/v1/service", { background });
  const fact = (title, value, detail, level) => el("div", { class: "card fact" },
    el("h3", {}, title), el("p", { class: "value" }, value), el("p", { class: `small ${level || "muted"}` }, sentence(detail)));
  const busy = state.workers.filter((worker) => worker.job_id).length;
  const unfinished = state.jobs.queued + state.jobs.running + state.jobs.cancelling;
  const free = state.disk ? state.disk.n_free / state.disk.n_bytes : 1;
  const days = state.backup_age_seconds === null ? null : state.backup_age_seconds / 86400;
  fill(parts.state,
    el("div", { class: "spread" }, el("h2", { id: "state-title" }, "State"), el("p", { class: "muted small" }, `Fieldscribe ${state.version}`)),
    state.sealed ? unsealForm() : null,
    state.warnings.map((text) => notice("warning", el("p", {}, sentence(text)))),
    el("div", { class: "cards" },
      fact("Workers", String(state.workers.length), state.workers.length ? `${busy} busy` : "None is running: start `fieldscribe worker`.", state.workers.length ? null : "problem"),
      fact("Queue", plural(unfinished, "job"), state.oldest_queued_seconds ? `oldest: ${roughly(state.oldest_queued_seconds)}` : "none waiting"),
      fact("Waiting for somebody", plural(state.jobs.waiting, "job"), `${state.jobs.failed} failed so far`),
      fact("Disk", state.disk ? `${bytes(state.disk.n_free)} free` : "–", state.disk ? `of ${bytes(state.disk.n_bytes)}, ${Math.round(100 * free)} %` : "", free < 0.1 ? "problem" : null),
      fact("Backup", days === null ? "None" : days < 1 ? "Today" : plural(Math.floor(days), "day") + " old", days === null || days > 7 ? "Run `fieldscribe backup`: without one, a broken disk loses everything." : "made by `fieldscribe backup`", days === null || days > 7 ? "problem" : null)),
    state.workers.length ? el("div", { class: "panel" }, el("table", { class: "stacked" },
      el("thead", {}, el("tr", {}, ["Worker", "Device", "State", "Running since"].map((name) => el("th", { scope: "col" }, name)))),
      el("tbody", {}, state.workers.map((worker) => el("tr", {},
        el("th", { scope: "row" }, worker.host),
        el("td", { "data-label": "Device" }, worker.device || "–"),
        el("td", {}, worker.retired ? el("span", {}, el("span", { class: "tag danger" }, icon("circle-alert"), "retired"), " ", worker.retired) : worker.job_id ? "busy" : "idle"),
        el("td", { "data-label": "Running since" }, when(worker.started_at))))))) : null);
}

function unsealForm() {
  const problem = el("p", { class: "problem", role: "alert" });
  const input = el("input", { type: "password", id: "passphrase", autocomplete: "off", required: true });
  const form = el("form", { class: "stack" }, el("p", {}, "The vault is sealed: nothing can be read or uploaded until it is opened with its passphrase."),
    el("div", { class: "field narrow-left" }, el("label", { for: "passphrase" }, "Passphrase"), input, problem),
    el("div", { class: "row" }, el("button", { class: "primary" }, "Open the vault")));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    try { await api.post("/v1/unseal", { passphrase: input.value }); location.reload(); }
    catch (error) { problem.textContent = error.message; input.select(); }
  });
  return notice("warning", form);
}

// --- people -----------------------------------------------------------------------------------------

async function showPeople() {
  const tokens = await api.listAll("/v1/tokens");
  const live = tokens.filter((token) => !token.revoked_at && !(token.expires_at && new Date(token.expires_at) < Date.now()));
  const codes = new Map(studies.map((study) => [study.id, study.code]));
  const seen = (token) => token.all_studies ? "all" : token.studies.map((id) => codes.get(id)).filter(Boolean).join(", ") || "none";
  fill(parts.people,
    el("div", { class: "spread" }, el("h2", { id: "people-title" }, "People and tokens"), button("Invite somebody", { icon: "user-plus", class: "primary", onclick: invite })),
    el("div", { class: "panel" }, el("table", { class: "stacked" },
      el("thead", {}, el("tr", {}, ["Name", "Role", "Studies", "Last used", "Ends", ""].map((name) => el("th", { scope: "col" }, name || el("span", { class: "visually-hidden" }, "Actions"))))),
      el("tbody", {}, live.map((token) => {
        const name = token.display_name || token.name || `${ROLE_NAMES[token.role] || token.role} of this service`;
        return el("tr", {},
          el("th", { scope: "row" }, icon(token.display_name ? "user" : "key-round"), " ", name),
          el("td", { "data-label": "Role" }, ROLE_NAMES[token.role] || token.role),
          el("td", { "data-label": "Studies" }, seen(token)),
          el("td", { "data-label": "Last used" }, token.last_used_at ? ago(token.last_used_at) : "never"),
          el("td", { "data-label": "Ends" }, token.expires_at ? when(token.expires_at) : null),
          el("td", {}, el("div", { class: "row end" }, isOfService(token) ? null : button("Revoke", { "aria-label": `Revoke ${name}`, onclick: () => revoke(token, name) }))));
      })))));
}

/** Tokens of the first start, which the service itself uses: `fieldscribe token revoke` ends them. */
function isOfService(token) { return !token.display_name && !token.name && token.all_studies; }

async function revoke(token, name) {
  const sure = await ask(`Revoke ${name}?`, el("p", {}, "Access ends at once, in all browsers and programs that use it. This cannot be undone: to restore access, invite the person again."),
    [{ label: "Revoke", value: true, danger: true }, { label: "Cancel", value: false }]);
  if (!sure) return;
  try { await api.remove(`/v1/tokens/${token.id}`); } catch (problem) { await ask("This did not work", el("p", {}, problem.message)); }
  await showPeople();
}


async function invite() {
  const label = await provider;
  const problem = el("p", { class: "problem", role: "alert" });
  const name = el("input", { id: "invite-name", maxlength: "60", required: true, autocomplete: "off" });
  const role = el("select", { id: "invite-role" }, ROLES.filter(([id]) => me.role === "owner" || !["owner", "admin"].includes(id)).map(([id, label, may]) => el("option", { value: id }, `${label}: ${may}`)));
  const boxes = studies.map((study) => el("input", { type: "checkbox", id: `invite-${study.code}`, value: study.code }));
  const days = el("input", { id: "invite-days", type: "number", min: "1", max: "14", value: "1" });
  const email = el("input", { id: "invite-email", type: "email", maxlength: "254", autocomplete: "off" });
  email.addEventListener("change", () => { days.value = email.value ? "14" : "1"; });
  const form = el("form", { class: "stack" },
    el("h2", { id: "invite-title" }, "Invite somebody"),
    el("div", { class: "field" }, el("label", { for: "invite-name" }, "Name"), name, el("p", { class: "hint" }, "The account's name, shown to administrators. Never use a participant's name.")),
    el("div", { class: "field" }, el("label", { for: "invite-role" }, "Role"), role),
    el("fieldset", { class: "stack tight" }, el("legend", {}, "Studies"),
      studies.length ? boxes.map((input, i) => el("div", { class: "choice" }, input, el("label", { for: input.id }, studies[i].code))) : el("p", { class: "muted" }, "There are no studies yet.")),
    label ? el("div", { class: "field" }, el("label", { for: "invite-email" }, `E-mail address at ${label} (optional)`), email,
      el("p", { class: "hint" }, "With an address, the person signs in with that account instead of a link and a key.")) : null,
    el("div", { class: "field" }, el("label", { for: "invite-days" }, "Days until the invitation expires"), days),
    problem,
    el("div", { class: "row" }, el("button", { class: "primary" }, "Create the invitation"), button("Cancel", { onclick: () => close() })));
  const dialog = el("dialog", { "aria-labelledby": "invite-title" });
  const close = () => { dialog.close(); dialog.remove(); };
  dialog.addEventListener("cancel", (event) => { event.preventDefault(); close(); });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const chosen = boxes.filter((input) => input.checked).map((input) => input.value);
    const everywhere = ["admin", "owner"].includes(role.value);
    if (!chosen.length && !everywhere) { problem.textContent = "Choose at least one study."; return; }
    let made;
    try { made = await api.post("/v1/invitations", { role: role.value, display_name: name.value.trim(), studies: everywhere ? [] : chosen, days: Number(days.value) || 1, sign_on: email.value ? { email: email.value.trim() } : null }); }
    catch (error) { problem.textContent = error.message; return; }
    close();
    const until = new Date(made.expires_at).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" });
    if (email.value) await ask("Send the person this address", el("div", { class: "stack" },
      el("p", {}, `${name.value.trim()} can sign in there with ${label}, for the first time until ${until}.`),
      el("p", { class: "secret", tabindex: "0" }, made.link),
      el("div", { class: "row" }, button("Copy the address", { icon: "copy", onclick: () => copyText(made.link) }))));
    else await ask("Send this link", el("div", { class: "stack" },
      el("p", {}, `It signs ${name.value.trim()} in, once, until ${until}. It is shown only now.`),
      el("p", { class: "secret", tabindex: "0" }, made.link),
      el("div", { class: "row" }, button("Copy the link", { icon: "copy", onclick: () => copyText(made.link) })),
      notice("warning", "The first person to open it gets the access: send it where only the invited person can read it.")));
    await showPeople();
  });
  fill(dialog, form);
  document.body.append(dialog);
  dialog.showModal();
  name.focus();
}

// --- models -----------------------------------------------------------------------------------------

async function showModels() {
  const { items } = await api.get("/v1/models");
  const real = items.filter((model) => !model.demo);
  const words = { whisper: "transcribes speech", pyannote: "tells voices apart" };
  fill(parts.models,
    el("h2", { id: "models-title" }, "Models"),
    real.length ? null : notice("warning", el("p", {}, "Only the demo models are installed: they know a few hundred words. Run ", el("code", {}, "fieldscribe models fetch --token-stdin"), " on the computer that runs the service.")),
    el("div", { class: "panel" }, el("table", { class: "stacked" },
      el("thead", {}, el("tr", {}, ["Model", "What it does"].map((name) => el("th", { scope: "col" }, name)))),
      el("tbody", {}, items.map((model) => el("tr", {}, el("th", { scope: "row" }, model.demo ? "demo (few words, for trying out)" : model.name), el("td", {}, words[model.kind])))))));
}
