"""The pages in the browser: HTML shells, style and JavaScript modules, without a build step.

A page holds no content. Its modules fetch that from the same `/v1` API that every client uses, with
the cookie of the signed-in browser instead of a token. May import `service.settings` and
`service.errors`; `service.api` puts the router into the application.
"""
