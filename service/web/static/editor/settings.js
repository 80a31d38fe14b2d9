// How this browser plays and edits. Kept in localStorage; nothing of what people said is.

const KEY = "fieldscribe.editor";
const DEFAULTS = {
  speed: 1, backStep: 1.5, skip: 3, holdToPlay: false, pauseWhileTyping: false, follow: true, spellcheck: false,
  volume: 1, code: "", zoom: true, helped: false,
};

export const settings = { ...DEFAULTS };
try {
  const stored = JSON.parse(localStorage.getItem(KEY) || "{}");
  for (const name of Object.keys(DEFAULTS)) if (typeof stored[name] === typeof DEFAULTS[name]) settings[name] = stored[name];
} catch { /* damaged: the defaults */ }

export function set(name, value) {
  settings[name] = value;
  localStorage.setItem(KEY, JSON.stringify(settings));
}
