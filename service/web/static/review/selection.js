// Selecting words of a paragraph, with the mouse or with the keyboard.

/**
 * Let the keyboard select in paragraphs: Enter puts the cursor into one, Esc takes it out. The text
 * is editable only in name, because browsers show no cursor elsewhere; nothing can be written.
 */
export function selectByKeyboard(container) {
  container.addEventListener("keydown", (event) => {
    const p = event.target.closest?.(".said-text");
    if (!p || event.target !== p) return;
    if (event.key === "Enter" && !p.isContentEditable) { event.preventDefault(); enter(p); }
    if (event.key === "Escape" && p.isContentEditable) { event.preventDefault(); leave(p); p.focus(); }
  });
  container.addEventListener("focusout", (event) => { if (event.target.isContentEditable) leave(event.target.closest(".said-text")); });
  for (const name of ["beforeinput", "paste", "drop", "dragstart"]) {
    container.addEventListener(name, (event) => { if (event.target.closest?.("[contenteditable]")) event.preventDefault(); });
  }
}

function enter(p) {
  p.contentEditable = "true";
  for (const [name, value] of [["role", "textbox"], ["aria-readonly", "true"], ["aria-multiline", "true"], ["inputmode", "none"], ["aria-label", p.closest("section").getAttribute("aria-label")]]) p.setAttribute(name, value);
  p.focus();
  getSelection().collapse(p, 0);
}

function leave(p) {
  for (const name of ["contenteditable", "role", "aria-readonly", "aria-multiline", "inputmode", "aria-label"]) p.removeAttribute(name);
}

/** The selected words as characters of a segment, in code points of its text; null if there are none in one paragraph. */
export function selectedSpan(segments) {
  const selection = getSelection();
  if (!selection.rangeCount) return null;
  const range = selection.getRangeAt(0);
  const holder = (node) => (node.nodeType === Node.TEXT_NODE ? node.parentElement : node).closest("section[data-segment]");
  const section = holder(range.startContainer);
  if (!section || section !== holder(range.endContainer) || range.collapsed) return null;
  const paragraph = section.querySelector(".said-text");
  const position = (container, offset, isEnd) => {
    const element = container.nodeType === Node.TEXT_NODE ? container.parentElement : container;
    const inside = element.closest("mark");
    if (inside) return Number(isEnd ? inside.dataset.end : inside.dataset.start);
    if (container !== paragraph && container.nodeType !== Node.TEXT_NODE) return isEnd ? Infinity : 0;
    let at = 0;
    for (const [i, child] of paragraph.childNodes.entries()) {
      if (child === container) return at + [...child.data.slice(0, offset)].length;
      if (container === paragraph && i === offset) return at;
      at = child.nodeType === Node.TEXT_NODE ? at + [...child.data].length : Number(child.dataset.end);
    }
    return at;
  };
  const { points } = segments.get(section.dataset.segment);
  let start = position(range.startContainer, range.startOffset, false);
  let end = Math.min(points.length, position(range.endContainer, range.endOffset, true));
  while (start < end && /\s/.test(points[start])) start += 1;
  while (end > start && /\s/.test(points[end - 1])) end -= 1;
  return end > start ? { segment: section.dataset.segment, start, end } : null;
}
