// Languages that Whisper knows, by code, with their names in English from the browser.
const CODES = "af am ar as az ba be bg bn bo br bs ca cs cy da de el en es et eu fa fi fo fr gl gu ha haw he hi hr ht hu hy id is it ja jw ka kk km kn ko la lb ln lo lt lv mg mi mk ml mn mr ms mt my ne nl nn no oc pa pl ps pt ro ru sa sd si sk sl sn so sq sr su sv sw ta te tg th tk tl tr tt uk ur uz vi yi yo yue zh".split(" ");
const names = new Intl.DisplayNames(["en-GB"], { type: "language" });

export const languageName = (code) => names.of(code === "jw" ? "jv" : code);

/** [code, name], by name. */
export const languages = () =>
  CODES.map((code) => [code, languageName(code)]).sort((a, b) => a[1].localeCompare(b[1]));
