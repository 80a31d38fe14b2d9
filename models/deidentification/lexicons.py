"""The word lists in `lexicons/`, read once. lexicons/ATTRIBUTION.md names their sources."""

import lzma
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from models.deidentification import vocabulary

FOLDER = Path(__file__).parent / "lexicons"

# Names that the sources lack: Aboriginal, Māori and Pasifika, Chinese, Vietnamese, Arabic, Greek,
# South Slavic and short forms common in Australia. Lower case.
MORE_FIRST_NAMES = """
ahmad ahmed ali amina amir amira anh aoife asha bao bashir bec bez bilal bindi bluey caoimhe chanh
chau chidi cody con dariush davo deb deng dimitri dinh doug duc eleni elham fadi fahad faisal
farah farid fatemeh fatima fiona gaz gazza georgios ghada giang goran greg habib hamid hamza hana
hanh hao hassan hemi hien hoa hong huong hussein ibrahim ivana jarrah jaxon jayden jaz jedda jez
jin johnno jonno jono kaz kel kev khadija khaled khalid kirra kirrily kirsty koa kostas kylie
lachie lachy lakshmi leila ling linh loz mahmoud mansour marama mariam marjan maryam mei mele
milos minh mirela miro mohamed mohammad mohammed muhammad muhammed mustafa nadia narelle nasser
ngaire nguyet niamh nikos noor nour omar parisa phuong quan raelene rangi rashid reza roz rua sade
saeed samir samira sanja saoirse sefa shayne shaz shazza sinead siobhan sione snezana soraya
stavros sully tane tarni thanh thi thuy tjarra toa trang trev trung tuan tui tuyet uzma vasilis
vesna viet vu wei wiremu xiao yan yannis yarran ying yusra yusuf zahra zainab zeinab zoran
"""


@dataclass(frozen=True)
class Lexicons:
    """`band`: how common a word in lower case is, 1 (common) to 4 (rare)."""

    band: dict[str, int]
    first_names: frozenset[str]
    common_names: frozenset[str]  # first names of most people
    surnames: frozenset[str]
    countries: frozenset[str]
    places: frozenset[str]
    world: frozenset[str]
    longest_place: int  # words


@cache
def read_lexicons() -> Lexicons:
    band = {}
    for line in _lines("words"):
        number, *words = line.split()
        band.update(dict.fromkeys(words, int(number)))
    band.update(dict.fromkeys(vocabulary.SPOKEN, 1))
    places = frozenset(_lines("places"))
    return Lexicons(
        band=band,
        first_names=frozenset(_lines("first_names")) | frozenset(MORE_FIRST_NAMES.split()),
        common_names=frozenset(_lines("common_names")),
        countries=frozenset(_lines("countries")),
        surnames=frozenset(_lines("surnames")),
        places=places,
        world=frozenset(_lines("world")),
        longest_place=max(place.count(" ") for place in places) + 1,
    )


def _lines(name: str) -> list[str]:
    return lzma.decompress((FOLDER / f"{name}.txt.xz").read_bytes()).decode().split("\n")
