// The tabs of a study's pages. To add one: [id, label, path after /studies/CODE, who sees it].
import { byId, el, fill, icon } from "./dom.js";
import { canManage, canRead, seesReleasesOnly } from "./shell.js";

const TABS = [
  ["sessions", "Sessions", "", (user) => !seesReleasesOnly(user)],
  ["roster", "Roster", "/roster", (user) => canRead(user) || user.role === "custodian"],
  ["participants", "Participants", "/participants", (user) => canRead(user) || user.role === "custodian"],
  ["exports", "Exports", "/exports", (user) => canRead(user) || seesReleasesOnly(user)],
  ["withdrawals", "Withdrawals", "/withdrawals", (user) => canRead(user)],
  ["audit", "Audit", "/audit", (user) => canManage(user) || user.role === "custodian"],
  ["settings", "Settings", "/settings", (user) => canRead(user) || canManage(user)],
];

export async function showTabs(code, current, user) {
  byId("title").textContent = code;
  document.title = `${code} · ${document.title}`;
  if (canRead(user) || user.role === "custodian") {
    fill(byId("class-rule"), icon("shield"), "Identified: contains names");
    byId("class-rule").hidden = false;
  }
  fill(byId("tabs"), TABS.filter(([, , , sees]) => sees(user)).map(([id, label, path]) =>
    el("a", { href: `/studies/${code}${path}`, "aria-current": id === current ? "page" : null }, label)));
}
