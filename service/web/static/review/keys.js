// The keys of the review: one table for the handler, the help and the buttons' `aria-keyshortcuts`.
//
// Single letters would disturb people who dictate, so they can be switched off (WCAG 2.1.4). They do
// nothing while somebody types.
import { ask, el } from "../dom.js";

const SETTING = "review-keys";

/** [action, what it does, keys] */
export const KEYS = [
  ["next", "Go to the next open mention", ["J", "F2"]],
  ["previous", "Go to the previous open mention", ["K", "Shift+F2"]],
  ["accept", "Replace the mention that has the focus", ["A"]],
  ["reject", "Keep it as it was said", ["R"]],
  ["play", "Play it", ["P"]],
  ["undo", "Undo your last decision", ["U"]],
  ["add", "Replace the words you have selected", ["N"]],
  ["help", "Show these keys", ["?"]],
];
const CARET = [
  ["Enter", "On a paragraph: put the cursor into its text"],
  ["Shift + arrow keys", "Select words there, then press N"],
  ["Esc", "Leave the text"],
];

const BY_KEY = new Map(KEYS.flatMap(([action, , keys]) => keys.map((key) => [key, action])));
export const keysOf = (action) => KEYS.find(([name]) => name === action)[2].join(" ");
const isOn = () => localStorage.getItem(SETTING) !== "off";

/** Whether letters that are pressed there are written into something. */
function isTyping(element) {
  if (element.isContentEditable) return element.getAttribute("aria-readonly") !== "true";
  return element.matches("textarea, select, input:not([type=checkbox], [type=radio])");
}

/** Call the action of each key: actions() is the step that is shown. */
export function listen(actions) {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || event.repeat && !"jkJK".includes(event.key)) return;
    if (document.querySelector("dialog[open]") || document.querySelector("details.menu[open]")) return;
    const isLetter = event.key.length === 1;
    const key = isLetter ? event.key.toUpperCase() : `${event.shiftKey ? "Shift+" : ""}${event.key}`;
    const action = BY_KEY.get(key);
    if (!action || isLetter && (!isOn() || isTyping(event.target))) return;
    if (isLetter && event.shiftKey && action !== "help") return;
    const run = action === "help" ? help : actions()[action];
    if (!run) return;
    event.preventDefault();
    run();
  });
}

export async function help() {
  const box = el("input", { type: "checkbox", checked: isOn() });
  box.addEventListener("change", () => { if (box.checked) localStorage.removeItem(SETTING); else localStorage.setItem(SETTING, "off"); });
  const row = (keys, text) => el("tr", {}, el("th", { scope: "row" }, keys), el("td", {}, text));
  await ask("Keys", el("div", { class: "stack" },
    el("table", { class: "keys" }, el("tbody", {},
      KEYS.map(([, text, keys]) => row(keys.flatMap((key, i) => [i ? " or " : null, el("kbd", {}, key)]), text)),
      CARET.map(([keys, text]) => row(keys, text)))),
    el("label", { class: "choice" }, box, "Use single letters as keys on this page"),
    el("p", { class: "small muted" }, "Letters do nothing while you type in a field. Switch them off if you dictate.")));
}
