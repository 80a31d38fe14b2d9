"""The languages Whisper knows, without loading Whisper. A test compares the two lists."""

from models.errors import UnknownLanguage


def _pairs(text: str) -> list[tuple[str, str]]:
    """Split into pairs of code and name."""
    pairs = [" ".join(pair.split()).split(" ", 1) for pair in text.split(";")]
    return [(code, name) for code, name in pairs]


LANGUAGES = dict(
    _pairs(
        """
en english; zh chinese; de german; es spanish; ru russian; ko korean; fr french; ja japanese; pt
portuguese; tr turkish; pl polish; ca catalan; nl dutch; ar arabic; sv swedish; it italian; id
indonesian; hi hindi; fi finnish; vi vietnamese; he hebrew; uk ukrainian; el greek; ms malay; cs
czech; ro romanian; da danish; hu hungarian; ta tamil; no norwegian; th thai; ur urdu; hr
croatian; bg bulgarian; lt lithuanian; la latin; mi maori; ml malayalam; cy welsh; sk slovak; te
telugu; fa persian; lv latvian; bn bengali; sr serbian; az azerbaijani; sl slovenian; kn
kannada; et estonian; mk macedonian; br breton; eu basque; is icelandic; hy armenian; ne nepali;
mn mongolian; bs bosnian; kk kazakh; sq albanian; sw swahili; gl galician; mr marathi; pa
punjabi; si sinhala; km khmer; sn shona; yo yoruba; so somali; af afrikaans; oc occitan; ka
georgian; be belarusian; tg tajik; sd sindhi; gu gujarati; am amharic; yi yiddish; lo lao; uz
uzbek; fo faroese; ht haitian creole; ps pashto; tk turkmen; nn nynorsk; mt maltese; sa
sanskrit; lb luxembourgish; my myanmar; bo tibetan; tl tagalog; mg malagasy; as assamese; tt
tatar; haw hawaiian; ln lingala; ha hausa; ba bashkir; jw javanese; su sundanese; yue cantonese
"""
    )
)
"""English names by code."""

WITHOUT_SPACES = ("zh", "yue", "ja", "th", "lo", "my", "km")
"""Each character counts as a word when errors are counted."""

_OTHER_NAMES = _pairs(
    """
my burmese; ca valencian; nl flemish; ht haitian; lb letzeburgesch; ps pushto; pa panjabi; ro
moldavian; ro moldovan; si sinhalese; es castilian; zh mandarin
"""
)

_CODES = {name: code for code, name in [*LANGUAGES.items(), *_OTHER_NAMES]}


AUTO = "auto"  # asks for the language to be detected


def is_auto(name: str) -> bool:
    """Return whether this asks for the language to be detected."""
    return name.strip().lower() == AUTO


def language_code(name: str) -> str:
    """Return the code of a language: `en` for `en`, `EN` and `English`.

    Raises:
        UnknownLanguage: Whisper knows no language of that name.
    """
    code = name.strip().lower()
    code = _CODES.get(code, code)
    if code not in LANGUAGES:
        raise UnknownLanguage(
            "Whisper knows no language of that name. Give one of its "
            f"{len(LANGUAGES)} languages, by code (such as en, de, es or nl) or by English name."
        )
    return code
