"""Indirect identifiers: phrases that may identify somebody only in combination."""

import re

_ROLES = (
    "gp|doctor|nurse|teacher|principal|vet|chemist|pharmacist|psychiatrist|psychologist|midwife"
    "|dentist|priest|minister|policeman|policewoman|cop|publican|butcher|mayor|magistrate|worker"
    "|clinician|man|woman|bloke|girl|boy|person|one|family|lawyer"
)
_PATTERNS = {
    "uniqueness": (
        rf"the only (\w+ ){{0,3}}({_ROLES})",
        rf"the first (\w+ ){{0,3}}({_ROLES})(?= in| at| to)",
        r"one of (only )?(two|three|a few|a handful)",
        r"every(one|body) (in town )?knows who",
        r"you('d|'ll| would| will) know who",
        r"the whole town (know|talk)\w*",
    ),
    "public_role": (
        r"mayor|councillor|member of parliament|senator|premier|professor of \w+|ceo of",
        r"(captain|coach|president|principal|editor) of",
    ),
    "origin": (
        r"(born in|came (out )?from|migrated from|refugee from|fled|emigrated from) (?-i:[A-Z])\w+",
        r"stolen generations?|on country|our mob|my mob|my country",
    ),
    "offence": (
        r"charged with|convicted of|sentenced to|pleaded guilty|did time for",
        r"in prison for|parole|court case|coroner'?s|inquest",
    ),
    "media": (r"in the (paper|papers|news)|on the (news|telly)|front page|made the news",),
    "event": (r"the (fires|bushfires|floods?|cyclone|earthquake|shooting|bombing|massacre)",),
    "award": (r"won (an?|the) \w+ (award|medal)|order of australia",),
    "family": (
        r"twins|triplets|quadruplets|adopted|identical twin",
        r"one of (nine|ten|eleven|twelve|thirteen|fourteen)",
    ),
}
CUES = {
    cue: re.compile(rf"\b(?:{'|'.join(patterns)})\b", re.IGNORECASE)
    for cue, patterns in _PATTERNS.items()
}


def find_flags(text: str) -> list[tuple[int, int, str]]:
    """Phrases in one text: start, end, the cue's name."""
    return [
        (match.start(), match.end(), cue)
        for cue, pattern in CUES.items()
        for match in pattern.finditer(text)
    ]
