// One study: its sessions.
import { byId } from "./dom.js";
import { user } from "./shell.js";

await user;
const code = decodeURIComponent(location.pathname.split("/")[2]);
byId("title").textContent = code;
document.title = `${code} · Fieldscribe`;
