"""Reviews the demo's transcripts as a person would: shows what was found, and decides on it.

    python -m scripts.demo_review DEMO INT-01 FG-1

The decisions are below, because the demo asks nobody. Address and token come from the environment.
"""

import sys
from typing import Any

from service.commands.client import Client
from service.commands.connection import open_client
from service.commands.names import find_finished_job
from service.settings import read_settings

KEPT = {"London": "a city of millions identifies nobody here"}
NEW_ENTITIES = {"PERSON": "person", "PLACE": "place", "ORGANISATION": "organisation"}


def main(study: str, *sessions: str) -> None:
    with open_client(read_settings()) as client:
        for session in sessions:
            job = client.get(f"/v1/jobs/{find_finished_job(client, f'{study}/{session}')}")
            path = f"/v1/transcripts/{job['transcript_id']}/review"
            print(f"\n== {session}: what the de-identifier found, and what is decided")
            decide_all(client, path)


def decide_all(client: Client, path: str) -> None:
    """Decide on one mention after the other, with the version of each that was read."""
    while True:
        mention = next(
            (one for one in client.get(path)["mentions"] if one["state"] == "suggested"), None
        )
        if mention is None:
            break
        decision = {"mention": mention["id"], "version": mention["version"], **decide(mention)}
        client.post(f"{path}/decisions", {"decisions": [decision]})
    review = client.get(path)
    pseudonyms = {entity["id"]: entity["pseudonym"] for entity in review["entities"]}
    for mention in review["mentions"]:
        print("  ".join(describe(mention, pseudonyms)))
    print(f"{review['n_accepted']} accepted, {review['n_rejected']} left as they are, none open")


def decide(mention: dict[str, Any]) -> dict[str, Any]:
    if mention["text"] in KEPT:
        return {"action": "allow"}
    if mention["entity_id"] is None and mention["label"] in NEW_ENTITIES:
        # Other mentions that seem to name the same person become theirs too.
        return {
            "action": "accept",
            "scope": "transcript",
            "new_entity": NEW_ENTITIES[mention["label"]],
        }
    return {"action": "accept"}


def describe(mention: dict[str, Any], pseudonyms: dict[str, str | None]) -> list[str]:
    rules = ", ".join(dict.fromkeys(vote["rule"] or "?" for vote in mention["votes"]))
    if mention["state"] == "rejected":
        outcome = f"stays: {KEPT.get(mention['text'], 'rejected')}"
    else:
        outcome = pseudonyms.get(mention["entity_id"]) or f"[{mention['label']}]"
    tier = mention["tier"] or ""
    return [
        mention["segment"],
        f"{mention['label']:6}",
        f"{tier:6}",
        f"{rules:18}",
        f"{mention['text']:22}",
        outcome,
    ]


if __name__ == "__main__":
    main(*sys.argv[1:])
