// The keyboard: one table for the handler, the help and the buttons' `aria-keyshortcuts`.
//
// F-keys act everywhere on the page, as foot pedals send them; Ctrl chords only while the editor has the
// focus. On a Mac, Ctrl stays Ctrl for the player, and Cmd is used for undo, saving and finding.
import { byId, el } from "../dom.js";

const MAC = /mac/i.test(navigator.userAgentData?.platform ?? navigator.platform);
const COMMAND = MAC ? "Meta" : "Control";

/** [action, what it does, [chords], group]; a chord is "Shift+F4" or "Control+1". */
export const KEYS = [
  ["toggle", "Play or pause", ["F4", "Control+Enter"], "Playing"],
  ["back", "Back a few seconds", ["F8", "Control+1"], "Playing"],
  ["forward", "Forward a few seconds", ["F9", "Control+2"], "Playing"],
  ["replay", "Play this segment again", ["Shift+F4"], "Playing"],
  ["playHere", "Play from the cursor", ["Control+F8"], "Playing"],
  ["slower", "Slower", ["Shift+F8", "Control+3"], "Playing"],
  ["faster", "Faster", ["Shift+F9", "Control+4"], "Playing"],
  ["jump", "Go to a time", ["Control+G"], "Playing"],
  ["nextDoubt", "Next place to check", ["F2"], "Checking"],
  ["previousDoubt", "Previous place to check", ["Shift+F2"], "Checking"],
  ["check", "Mark this segment as checked and move on", ["Control+Shift+Enter"], "Checking"],
  ["menu", "Menu of this segment: speaker, split, join, add, delete", ["Control+M"], "Writing"],
  ["nextSegment", "Next segment", [MAC ? "Alt+ArrowDown" : "Control+ArrowDown"], "Writing"],
  ["previousSegment", "Previous segment", [MAC ? "Alt+ArrowUp" : "Control+ArrowUp"], "Writing"],
  ["inaudible", "Write [inaudible]", ["Control+I"], "Writing"],
  ["undo", "Undo", [`${COMMAND}+Z`], "Writing"],
  ["redo", "Redo", [`${COMMAND}+Shift+Z`, `${COMMAND}+Y`], "Writing"],
  ["save", "Save now (changes are also saved automatically)", [`${COMMAND}+S`], "Writing"],
  ["find", "Find", [`${COMMAND}+F`], "Writing"],
  ["replace", "Find and replace", [MAC ? "Meta+Alt+F" : "Control+H"], "Writing"],
  ["help", "Show all keys", ["Control+/"], "Help"],
];
// Not chords of the table: they depend on the caret, or carry a number.
const OTHERS = [
  ["Enter", "Write in the segment that has the focus; split it at the cursor"],
  ["Backspace at the start", "Join the segment with the previous one"],
  ["Ctrl+Shift+1 to 9", "Set the speaker of the segment: first, second …"],
  ["Arrow keys", "Move through the text, and between segments"],
  ["Tab", "Leave the transcript"],
];
const ANYWHERE = new Set(["toggle", "back", "forward", "replay", "slower", "faster", "nextDoubt", "previousDoubt", "help"]);

function chordOf(event) {
  const parts = [];
  if (event.ctrlKey) parts.push("Control");
  if (event.metaKey) parts.push("Meta");
  if (event.altKey) parts.push("Alt");
  if (event.shiftKey) parts.push("Shift");
  const digit = /^(?:Digit|Numpad)(\d)$/.exec(event.code);
  parts.push(digit ? digit[1] : event.key.length === 1 ? event.key.toUpperCase() : event.key);
  return parts.join("+");
}

const BY_CHORD = new Map(KEYS.flatMap(([action, , chords]) => chords.map((chord) => [chord, action])));

/** "Ctrl+1" */
export function inWords(chord) {
  return chord.replace("Control", "Ctrl").replace("Meta", "⌘").replace("Alt", MAC ? "⌥" : "Alt")
    .replace("ArrowDown", "↓").replace("ArrowUp", "↑");
}
export const chordsOf = (action) => KEYS.find(([name]) => name === action)?.[2] ?? [];
export const hint = (action) => chordsOf(action).map(inWords)[0] ?? "";

/**
 * Call the action of each chord.
 * actions: { toggle(event), …, speaker(number) }; isEditor(element): whether Ctrl chords act there.
 */
export function listen(actions, isEditor) {
  const onKey = (event) => {
    // AltGr is Ctrl+Alt on Windows: it writes @, { and € on many keyboards.
    if (event.isComposing || event.getModifierState("AltGraph")) return;
    const inDialog = document.querySelector("dialog[open]");
    if (inDialog && !/^F\d/.test(event.key)) return;
    const here = isEditor(event.target);
    const digit = /^Digit([1-9])$/.exec(event.code);
    if (digit && event.ctrlKey && event.shiftKey && !event.altKey && here) {
      event.preventDefault();
      if (event.type === "keydown") actions.speaker(Number(digit[1]));
      return;
    }
    const action = BY_CHORD.get(chordOf(event));
    if (!action || !actions[action]) return;
    const isFunctionKey = /^F\d+$/.test(event.key);
    if (!here && !(isFunctionKey || ANYWHERE.has(action))) return;
    if (!here && event.target.closest?.("input, textarea, select") && !isFunctionKey) return;
    const again = action === "find" && document.activeElement === byId("find-text");
    if (again) return;  // the second Ctrl+F is the browser's
    event.preventDefault();
    if (event.repeat && action === "toggle") return;
    actions[action](event);
  };
  document.addEventListener("keydown", onKey);
  document.addEventListener("keyup", (event) => {
    if (event.key === "F4" || (event.key === "Enter" && event.ctrlKey)) actions.release?.();
  });
}

/** Put the chords of its action on every control with `data-action`. */
export function describeControls(root = document) {
  for (const control of root.querySelectorAll("[data-action]")) {
    const chords = chordsOf(control.dataset.action);
    if (!chords.length) continue;
    control.setAttribute("aria-keyshortcuts", chords.join(" "));
    const label = control.getAttribute("aria-label") || control.textContent.trim();
    control.title = `${label} (${chords.map(inWords).join(" or ")})`;
  }
}

export function help() {
  const groups = [...new Set(KEYS.map(([, , , group]) => group))];
  const row = (keys, text) => el("tr", {}, el("th", { scope: "row" }, keys), el("td", {}, text));
  const chord = (name) => el("kbd", {}, inWords(name));
  return el("div", { class: "keys-help", "data-width": "medium", tabindex: "0", role: "region", "aria-label": "All keys" },
    groups.map((group) => el("section", {},
      el("h3", {}, group),
      el("table", {}, el("tbody", {},
        KEYS.filter(([, , , own]) => own === group).map(([, text, chords]) =>
          row(chords.flatMap((name, i) => (i ? [" or ", chord(name)] : [chord(name)])), text)),
        group === "Writing" ? OTHERS.map(([keys, text]) => row(keys, text)) : null)))),
    el("p", { class: "muted small" },
      "A foot pedal that sends F4, F8 and F9 works everywhere on this page. On laptops you may have to press Fn as well, or use the key with Ctrl."));
}
