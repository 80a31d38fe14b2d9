// Reading a roster that somebody has typed, pasted or saved in a spreadsheet.

const CODE = /^[A-Z]{1,10}-?[0-9]{1,4}$/;
const KINDS_OF_FILES = "Save the list as CSV or as plain text, then choose that file.";

/** The text of a file, in UTF-8, UTF-16 or the encoding of older spreadsheet programs. */
export async function readList(file) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  if (bytes[0] === 0x50 && bytes[1] === 0x4b) throw new Error(`${file.name} is a workbook or a document. ${KINDS_OF_FILES}`);
  if (bytes[0] === 0xff && bytes[1] === 0xfe) return new TextDecoder("utf-16le").decode(bytes);
  try { return new TextDecoder("utf-8", { fatal: true }).decode(bytes); } catch { /* not UTF-8 */ }
  if (bytes.includes(0)) throw new Error(`${file.name} is not a text file. ${KINDS_OF_FILES}`);
  return new TextDecoder("windows-1252").decode(bytes);
}

/** What to send for a list: { body, count, isTable }; null if it is empty. kind: of the entries of a plain list. */
export function entriesOf(text, kind) {
  const lines = text.replace("\ufeff", "").split(/\r?\n/).map((line) => line.trim()).filter(Boolean);
  if (!lines.length) return null;
  const columns = lines[0].toLowerCase().split(/[,;\t]/).map((name) => name.trim().replaceAll('"', ""));
  if (columns.includes("name") && columns.includes("kind")) {
    return lines.length > 1 ? { body: { csv: text }, count: lines.length - 1, isTable: true } : null;
  }
  const entries = lines.map((line) => {
    const parts = line.split(/[;\t]/).map((part) => part.trim()).filter(Boolean);
    const code = parts.length > 1 && CODE.test(parts[0]) && kind !== "allowed" ? parts.shift() : null;
    const [name, ...aliases] = parts;
    return { kind, code, name, aliases };
  }).filter(({ name }) => name);
  return entries.length ? { body: { entries }, count: entries.length, isTable: false } : null;
}
