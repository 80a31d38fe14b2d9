"""Indirect identifiers: phrases that identify nobody alone, but may together with others."""

import re

_ROLES = (
    "gp|doctor|nurse|teacher|principal|vet|chemist|pharmacist|psychiatrist|psychologist|midwife|dentist"
    "|priest|minister|policeman|policewoman|cop|publican|butcher|mayor|magistrate|peer worker|worker"
    "|clinician|social worker|health worker|man|woman|bloke|girl|boy|person|one|family|lawyer"
)
CUES = {
    "uniqueness": re.compile(
        rf"\bthe only (?:\w+ ){{0,3}}(?:{_ROLES})\b|\bthe first (?:\w+ ){{0,3}}(?:{_ROLES})\b(?= in| at| to)"
        r"|\bone of (?:only )?(?:two|three|a few|a handful)\b|\bevery(?:one|body) (?:in town )?knows who\b"
        r"|\byou'd know who\b|\byou'll know who\b|\bthe whole town (?:know|talk)\w*",
        re.IGNORECASE,
    ),
    "public_role": re.compile(
        r"\b(?:mayor|councillor|member of parliament|senator|premier|professor of \w+|captain of|coach of"
        r"|president of|ceo of|principal of|editor of)\b",
        re.IGNORECASE,
    ),
    "origin": re.compile(
        r"\b(?:born in|came (?:out )?from|migrated from|refugee from|fled|emigrated from)\s+[A-Z]\w+"
        r"|\b(?:stolen generations?|on country|our mob|my mob|my country)\b",
        re.IGNORECASE,
    ),
    "offence": re.compile(
        r"\b(?:charged with|convicted of|sentenced to|pleaded guilty|in prison for|did time for|parole"
        r"|court case|coroner'?s|inquest)\b",
        re.IGNORECASE,
    ),
    "media": re.compile(
        r"\b(?:in the (?:paper|papers|news)|on the (?:news|telly)|front page|made the news|royal commission)\b",
        re.IGNORECASE,
    ),
    "event": re.compile(
        r"\b(?:the (?:fires|bushfires|floods?|cyclone|earthquake|shooting|bombing|massacre|landslide))\b",
        re.IGNORECASE,
    ),
    "award": re.compile(r"\b(?:won (?:an?|the) \w+ (?:award|medal)|order of australia)\b", re.IGNORECASE),
    "family": re.compile(r"\b(?:twins|triplets|quadruplets|adopted|identical twin|one of (?:nine|ten|eleven|twelve|thirteen|fourteen))\b", re.IGNORECASE),
}  # fmt: skip


def find_flags(text: str) -> list[tuple[int, int, str]]:
    """Phrases in one text: start, end, the cue's name."""
    return [
        (match.start(), match.end(), cue)
        for cue, pattern in CUES.items()
        for match in pattern.finditer(text)
    ]
