"""The HTTP API: the application, access control, limits, problems and one module per resource.

May import `domain`, `database`, `vault` and `exports`, never torch. Nothing but the entry points
(`child`, `supervisor`, `commands/serve.py`) imports it.
"""
