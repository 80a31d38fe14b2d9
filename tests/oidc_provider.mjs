// The certified `oidc-provider` of npm, for tests/test_sign_on_provider.py. Everybody who types a name
// is signed in under that name, with an e-mail address, which is verified unless the name says not.
// node oidc_provider.mjs FOLDER PORT CLIENT_ID CLIENT_SECRET REDIRECT_URI
import { pathToFileURL } from "node:url";

const [folder, port, id, secret, redirect] = process.argv.slice(2);
const found = await import(pathToFileURL(`${folder}/node_modules/oidc-provider/lib/index.js`));
const provider = new found.Provider(`http://localhost:${port}`, {
  clients: [{ client_id: id, client_secret: secret, redirect_uris: [redirect] }],
  claims: { openid: ["sub"], email: ["email", "email_verified"] },
  findAccount: (context, name) => ({
    accountId: name,
    claims: () => ({ sub: name, email: `${name}@uni.example`, email_verified: !name.startsWith("unverified") }),
  }),
  cookies: { keys: ["only for tests"] },
});
provider.listen(Number(port), "127.0.0.1", () => console.log("ready"));
