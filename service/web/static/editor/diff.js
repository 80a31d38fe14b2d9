// What differs between two texts, by word.

/** [["same" | "gone" | "new", text], …] */
export function diffWords(before, after) {
  const a = before.match(/\s*\S+/g) ?? [], b = after.match(/\s*\S+/g) ?? [];
  let head = 0;
  while (head < Math.min(a.length, b.length) && a[head].trim() === b[head].trim()) head += 1;
  let tail = 0;
  while (tail < Math.min(a.length, b.length) - head && a.at(-1 - tail).trim() === b.at(-1 - tail).trim()) tail += 1;
  const [x, y] = [a.slice(head, a.length - tail), b.slice(head, b.length - tail)];
  const parts = [];
  const add = (kind, text) => {
    if (parts.at(-1)?.[0] === kind) parts.at(-1)[1] += text;
    else parts.push([kind, text]);
  };
  for (const word of b.slice(0, head)) add("same", word);
  if (x.length * y.length > 4_000_000) {  // a whole new text: no use in aligning it
    add("gone", x.join(""));
    add("new", y.join(""));
  } else for (const [kind, word] of align(x, y)) add(kind, word);
  for (const word of tail ? b.slice(b.length - tail) : []) add("same", word);
  return parts;
}

/** The longest common sequence of words. */
function align(x, y) {
  const width = y.length + 1;
  const lengths = new Uint32Array((x.length + 1) * width);
  for (let i = x.length - 1; i >= 0; i -= 1) {
    for (let j = y.length - 1; j >= 0; j -= 1) {
      lengths[i * width + j] = x[i].trim() === y[j].trim()
        ? lengths[(i + 1) * width + j + 1] + 1
        : Math.max(lengths[(i + 1) * width + j], lengths[i * width + j + 1]);
    }
  }
  const parts = [];
  let i = 0, j = 0;
  while (i < x.length && j < y.length) {
    if (x[i].trim() === y[j].trim()) { parts.push(["same", y[j]]); i += 1; j += 1; }
    else if (lengths[(i + 1) * width + j] >= lengths[i * width + j + 1]) parts.push(["gone", x[i++]]);
    else parts.push(["new", y[j++]]);
  }
  while (i < x.length) parts.push(["gone", x[i++]]);
  while (j < y.length) parts.push(["new", y[j++]]);
  return parts;
}
