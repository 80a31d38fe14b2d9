// The list of studies.
import * as api from "./api.js";
import { byId, el, fill } from "./dom.js";
import { user } from "./shell.js";

await user;
const studies = await api.listAll("/v1/studies");
fill(byId("studies"), studies.map((study) =>
  el("li", {}, el("a", { href: `/studies/${study.code}` }, study.code))));
