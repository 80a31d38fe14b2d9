"""The word lists in `lexicons/`, read once. lexicons/ATTRIBUTION.md names their sources."""

import lzma
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent / "lexicons"

# Names that the sources lack: Aboriginal, Māori and Pasifika, Chinese, Vietnamese, Arabic, Greek,
# South Slavic and short forms common in Australia. Lower case.
MORE_FIRST_NAMES = """
ahmed ahmad ali amina amir amira anh aoife asha bao bashir bilal bindi bec bez bluey caoimhe chanh chau
chidi con cody dariush davo deb deng deng dimitri dinh doug duc elham eleni fadi fahad faisal farah farid
fatima fatemeh fiona gaz gazza georgios ghada giang goran greg habib hamid hamza hana hanh hao hassan hemi
hien hoa hong huong hussein ibrahim ivana jaz jarrah jedda jez jin johnno jonno jono kaz kel kev khadija
khaled khalid kirra kirrily kostas koa lachie lachy lakshmi leila ling linh loz mahmoud mansour marjan marama
mariam maryam mei mele milos minh miro mirela mohamed mohammad mohammed muhammad muhammed mustafa nadia
nasser niamh ngaire nguyet nikos noor nour omar parisa phuong quan rangi rashid reza roz rua sade saeed
samir samira sanja saoirse sefa shaz shazza sinead siobhan sione snezana soraya stavros sully tane tarni
thanh thi thuy tjarra toa trang trev trung tuan tui tuyet uzma vasilis vesna viet vu wei wiremu xiao yan
yannis yarran ying yusuf yusra zahra zainab zeinab zoran kylie kirsty narelle raelene shayne jayden jaxon
"""


@dataclass(frozen=True)
class Lexicons:
    """`band`: how common a word is that is written in lower case, 1 (common) to 4 (rare)."""

    band: dict[str, int]
    first_names: frozenset[str]
    surnames: frozenset[str]
    places: frozenset[str]
    world: frozenset[str]
    longest_place: int  # words


@cache
def read_lexicons() -> Lexicons:
    band = {}
    for line in _lines("words"):
        number, *words = line.split()
        band.update(dict.fromkeys(words, int(number)))
    places = frozenset(_lines("places"))
    return Lexicons(
        band=band,
        first_names=frozenset(_lines("first_names")) | frozenset(MORE_FIRST_NAMES.split()),
        surnames=frozenset(_lines("surnames")),
        places=places,
        world=frozenset(_lines("world")),
        longest_place=max(place.count(" ") for place in places) + 1,
    )


def _lines(name: str) -> list[str]:
    return lzma.decompress((FOLDER / f"{name}.txt.xz").read_bytes()).decode().split("\n")
