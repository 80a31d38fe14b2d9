// Elements are made here, never from strings: text stays text.

/** el("p", { class: "muted", onclick: f }, "text", child): attributes by name, listeners by on…. */
export function el(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "class") element.className = value;
    else if (value === true) element.setAttribute(key, "");
    else element.setAttribute(key, value);
  }
  append(element, children);
  return element;
}

function append(element, children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child);
  }
}

/** Replace the children of an element. */
export function fill(element, ...children) {
  element.replaceChildren();
  append(element, children);
  return element;
}

export const byId = (id) => document.getElementById(id);

/** An icon of vendor/lucide; decoration only, so give the control a name. */
export function icon(name, extra = "") {
  return el("span", { class: `icon icon-${name} ${extra}`.trim(), "aria-hidden": "true" });
}

/** button("Save", { icon: "check", primary: true, onclick }) */
export function button(label, { icon: name, iconOnly = false, class: extra = "", ...attributes } = {}) {
  const classes = [iconOnly ? "icon-only quiet" : "", extra].join(" ").trim();
  return el(
    "button",
    { type: "button", class: classes || null, "aria-label": iconOnly ? label : null, title: iconOnly ? label : null, ...attributes },
    name ? icon(name) : null,
    iconOnly ? null : label,
  );
}

/** A box with a message. kind: info, error, warning or done. */
export function notice(kind, ...children) {
  const icons = { info: "info", error: "circle-alert", warning: "triangle-alert", done: "circle-check" };
  const role = kind === "error" ? { role: "alert" } : {};
  return el("div", { class: `notice ${kind}`, ...role }, icon(icons[kind]), el("div", {}, ...children));
}

/** A sentence in which `commands` are between backticks, as those of the service. */
export function sentence(text) {
  return String(text || "").split("`").map((part, n) => (n % 2 ? el("code", {}, part) : part));
}

/** Say something to screen readers without showing it. */
export function announce(text) {
  const status = byId("status");
  status.textContent = "";
  setTimeout(() => { status.textContent = text; }, 50);
}

/**
 * Ask in a modal dialog; resolves with the value of the button that closed it, or null.
 * content: an element; its data-width, "medium" or "wide", is the dialog's.
 * actions: [{ label, value, primary, danger }]
 */
export function ask(title, content, actions = [{ label: "Close", value: null }]) {
  return new Promise((resolve) => {
    const id = `dialog-${Math.random().toString(36).slice(2)}`;
    const dialog = el("dialog", { "aria-labelledby": id, "data-width": content.dataset.width });
    const finish = (value) => { dialog.close(); dialog.remove(); resolve(value); };
    fill(
      dialog,
      el("div", { class: "stack" },
        el("h2", { id }, title),
        content,
        el("div", { class: "row" }, actions.map((action) =>
          button(action.label, {
            class: action.primary ? "primary" : action.danger ? "danger" : "",
            onclick: () => finish(action.value),
          }))),
      ),
    );
    dialog.addEventListener("cancel", (event) => { event.preventDefault(); finish(null); });
    document.body.append(dialog);
    dialog.showModal();
  });
}

export async function copyText(text) {
  await navigator.clipboard.writeText(text);
  announce("Copied");
}

/** Say that the page shows what it is for. Tests wait for it. */
export function ready() { document.documentElement.dataset.ready = "true"; }
