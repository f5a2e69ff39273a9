"""Penn Treebank tokens as the caption metrics count them: in lower case and without punctuation."""

import re

# Abbreviations keep their period. States need a capital, because some are words (wash, mass, ill).
_ABBREVIATIONS = (
    "mr mrs ms dr prof st rev gen brig sen rep gov jr sr hon lt col maj capt cmdr sgt messrs rt "
    "pres sens reps drs vs jan feb mar apr jun jul aug sep sept oct nov dec mon tue tues wed thu "
    "thurs fri inc co cos corp ltd pty bros plc etc al est assn dept dist adm ft sq mt rd ave blvd "
    "ph nos ph.d"
)
_STATES = (
    "Ala Ariz Ark Calif Colo Conn Del Fla Ga Ill Ind Kans Kan Ky La Mass Md Mich Minn Mo Mont Neb "
    "Nev Okla Ore Pa Penn Tenn Tex Va Vt Wash Wis Wyo"
)
_STARTS = (
    "A|After|All|Although|An|And|As|At|But|By|First|For|From|He|Her|His|However|I|If|In|It|Its|My|"
    "No|Of|On|One|She|So|Some|That|The|Their|There|These|They|This|To|We|What|When|Where|While|"
    "With|You|Your"
)
_END = r"(?!\w)"
_APOSTROPHE = "['’]"
_WORD = rf"(?:[dolm]{_APOSTROPHE}(?=[^\W\d_]{{2}}))?[^\W_]+"
_LETTER = r"[^\W\d_]"
_NO_START = rf"(?!\s+(?-i:{_STARTS}){_END})"

# The order matters: the first alternative that matches wins.
_TOKEN = re.compile(
    "|".join(
        (
            r"https?://[^\s\"<>]*[^\s\"<>,.;:!?)']",
            r"[\w.+-]+@\w[\w-]*(?:\.\w[\w-]*)+",
            r"</?[a-z][^<>=]*>",
            rf"[#@]{_LETTER}\w*",
            r"[:;=]-?[()]",
            rf"can(?=not{_END})|(?:gon|wan)(?=na{_END})|got(?=ta{_END})|(?:gim|lem)(?=me{_END})",
            rf"(?:c{_APOSTROPHE}mon|ma{_APOSTROPHE}am|(?:o|ne|e){_APOSTROPHE}er|cap{_APOSTROPHE}n"
            rf"|o{_APOSTROPHE}clock){_END}",
            rf"[dy]{_APOSTROPHE}(?=y|know|all)",
            rf"{_APOSTROPHE}t(?=(?:is|was){_END})",
            rf"n{_APOSTROPHE}t{_END}",
            rf"{_APOSTROPHE}(?:s|m|d|ll|re|ve){_END}",
            rf"{_APOSTROPHE}(?:till?|cause|em|\d\ds?){_END}",
            rf"{_APOSTROPHE}n{_APOSTROPHE}|{_APOSTROPHE}n{_END}",
            r"\d{1,4}[ \xa0]\d{1,4}/\d{1,4}(?![\w/])",
            r"(?<![\w)'])[-+]\d+(?:[.:,]\d+)*(?:-\w+)*",
            r"(?:us|a|hk|nz|c|s|ca|aud)\$",
            r"no\.(?= ?\d)",
            rf"(?:{'|'.join(_ABBREVIATIONS.split())})\.{_END}(?!-\w)",
            rf"(?-i:{'|'.join(_STATES.split())})\.{_END}(?!-\w){_NO_START}",
            rf"(?-i:[A-Z]+(?:&[A-Z]+)+){_END}",
            rf"{_WORD}(?:[.,]{_WORD})*\.?(?:-{_WORD})+(?:/\w+)?",
            rf"\d{{1,4}}/\d{{1,4}}(?:/\d{{2,4}})?{_END}",
            r"\d*(?:[.:,]\d+)+",
            rf"(?<!\w){_LETTER}(?:\.{_LETTER})+\.{_END}",
            rf"(?<![\w'’]){_LETTER}\.(?!{_LETTER}|\s*$){_NO_START}",
            rf"{_LETTER}{{2,}}\.(?=[,;:])",
            rf"{_LETTER}[^\W_]*(?:\.{_LETTER}+)+(?:-\w+)*",
            rf"[^\W_]+?(?=n{_APOSTROPHE}t{_END})",
            rf"(?:[dolm]{_APOSTROPHE}(?={_LETTER}{{2}}))?\w+(?:/\w+(?:-\w+)*){{0,2}}",
            r"\.(?: ?\.)+|--+|[!?]+|``|''|<<|>>|\*+|&(?:amp|lt|gt|quot);|\S",
        )
    ),
    re.IGNORECASE,
)
_FRACTION = re.compile(r"(?<=\d)([½¼¾])")  # a separate token after a digit
_SPELLINGS = {
    "(": "-lrb-",
    ")": "-rrb-",
    "[": "-lsb-",
    "]": "-rsb-",
    "{": "-lcb-",
    "}": "-rcb-",
    "£": "#",
    "€": "$",
    "¢": "cents",
    "½": "1/2",
    "¼": "1/4",
    "¾": "3/4",
    "&amp;": "&",
    "&lt;": "<",
    "&gt;": ">",
}
# Tokens that do not count. Round and curly brackets count, because the scorer drops only their
# spellings in upper case.
_PUNCTUATION = re.compile(r"[.?!,:;\"“”‘’'`…–—―-]|''|``|--+|\.[. ]*\.|&quot;")


def tokens(text: str) -> list[str]:
    """Return the tokens of a text.

    They are those of the Stanford tokenizer 3.4.1 with `-preserveLines -lowerCase`, without the
    punctuation of pycocoevalcap 1.2 (tokenizer/ptbtokenizer.py). The rules come from comparisons on
    E2E, MRPC-like and web text. They are an approximation: one of E2E's 51,426 texts differs, and
    less than one in a hundred elsewhere (tests/metrics/test_ptb.py).
    """
    matches = _TOKEN.findall(_FRACTION.sub(r" \1", text))
    return [_spell(token) for token in matches if not _PUNCTUATION.fullmatch(token)]


def _spell(token: str) -> str:
    for character in "()":
        if token[-1] == character and len(token) > 1:  # an emoticon
            return token[:-1] + _SPELLINGS[character]
    return _SPELLINGS.get(token, token.replace("’", "'").replace(" ", "\u00a0").lower())
