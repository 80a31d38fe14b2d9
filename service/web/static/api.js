// Requests to the API. The browser sends the cookie; answers and errors are JSON.

export class Problem extends Error {
  // An RFC 9457 problem; docs/reference/errors.md explains `code`.
  constructor(body, status) {
    super(body.detail || "Something went wrong: try again in a moment.");
    this.name = "Problem";
    this.body = body;
    this.code = body.code || "unreachable";
    this.status = status;
  }
}

// Dispatches "signed-out": the shell then covers the page and lets the person sign in in place.
export const events = new EventTarget();

const SIGNED_OUT = ["signed_out", "token_missing", "token_revoked", "token_expired", "token_unknown"];

/**
 * Send a request and return the Response.
 * background: nobody caused it, so it does not postpone the time-out of the sign-in.
 */
export async function send(method, path, { body, headers = {}, background = false, signal, keepalive } = {}) {
  const options = { method, headers: { ...headers }, signal, keepalive, cache: "no-store" };
  if (body !== undefined) {
    options.headers["Content-Type"] = "application/json";
    options.body = JSON.stringify(body);
  }
  if (background) options.headers["Fieldscribe-Background"] = "1";
  else lastActivity = lastSent = Date.now();
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem({ code: "unreachable", detail: "The service does not answer: check your connection. What is on this page stays here." }, 0);
  }
  if (response.ok || response.status === 304) return response;
  let problem = {};
  try { problem = await response.json(); } catch { /* a proxy answered */ }
  if (response.status === 401 && SIGNED_OUT.includes(problem.code)) {
    events.dispatchEvent(new CustomEvent("signed-out", { detail: problem }));
  }
  throw new Problem(problem, response.status);
}

export async function request(method, path, options) {
  const response = await send(method, path, options);
  const text = await response.text();
  return text ? JSON.parse(text) : null;
}

export const get = (path, options) => request("GET", path, options);
export const post = (path, body, options) => request("POST", path, { ...options, body });
export const patch = (path, body, options) => request("PATCH", path, { ...options, body });
export const put = (path, body, options) => request("PUT", path, { ...options, body });
export const remove = (path, options) => request("DELETE", path, options);

/** Every item of a list, however many pages it has. */
export async function listAll(path, options) {
  const items = [];
  let cursor = null;
  do {
    const url = new URL(path, location.origin);
    url.searchParams.set("limit", "200");
    if (cursor) url.searchParams.set("cursor", cursor);
    const page = await get(url.pathname + url.search, options);
    items.push(...page.items);
    cursor = page.next_cursor;
  } while (cursor);
  return items;
}

let lastActivity = Date.now(), lastSent = Date.now();
/** When the service last heard of the person's activity. */
export const sentAt = () => lastSent;
/** When the person was last active, in milliseconds since 1970. */
export const activeAt = () => lastActivity;
/** Tell that the person is at work although nothing is sent, such as while a recording plays. */
export function noteActivity() { lastActivity = Date.now(); }
