"""Surface features of a text: what a reader who understands nothing could still count."""

import re
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
from jaxtyping import Float

Feature = Callable[[str], float]

_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*|\d+")
_PIECE = re.compile(r"\w+|[^\w\s]")
_SENTENCE = re.compile(r"[.!?…]+(?=\s|$)")
_NEGATION = re.compile(r"\b(?:not?|never|none|nobody|nothing|neither|nor|nowhere|cannot|without)\b|n['’]t\b")
_FIRST = frozenset(["i", "me", "my", "mine", "myself", "i'm", "i'd", "i've", "i'll"])
_SECOND = frozenset(["you", "your", "yours", "yourself", "yourselves", "you're", "you'd", "you've", "you'll"])
_THIRD = frozenset(
    """he him his himself she her hers herself they them their theirs themselves he's she's they're he'd she'd they'd
    he'll she'll they'll they've""".split()  # noqa: SIM905 - a word list reads better as words
)

# The set phrases of sympathy: what a model says when it has learned how care sounds. Matched on lower-cased text.
STOCK_PHRASES = (
    r"\bsorry\b",
    r"\b(?:that|this|it) (?:must|has to|can) (?:be|feel|have been) (?:so |very |really |incredibly )?"
    r"(?:hard|tough|difficult|painful|awful|scary|frightening|overwhelming)\b(?!-)",
    r"\bsounds? (?:so |really |very |incredibly )?"
    r"(?:hard|tough|difficult|painful|stressful|frustrating|overwhelming)\b",
    r"\bhere for you\b",
    r"\bi (?:understand|hear you|can imagine|can only imagine)\b",
    r"\bnot alone\b",
    r"\bit(?:'s| is) (?:okay|ok|normal|completely normal|understandable|alright|all right) to\b",
    r"\b(?:completely|totally|perfectly) (?:understandable|normal|valid|natural)\b",
    r"\bbe (?:gentle|kind|patient) (?:to|with) yourself\b",
    r"\bgo easy on yourself\b",
    r"\btake (?:care of yourself|your time|it one day at a time)\b",
    r"\b(?:feelings|emotions) are valid\b",
    r"\byou deserve\b",
    r"\bheart (?:goes out|breaks|aches)\b",
    r"\bheartbreak\w*\b",
    r"\bcondolences\b",
    r"\bthoughts and prayers\b",
    r"\bthank you for sharing\b",
    r"\breach out\b",
)
_STOCK = re.compile("|".join(STOCK_PHRASES))

# Words of care, suffering and tenderness (`*`: any ending): the lexicon reader that a real probe has to beat.
CARE_WORDS = """
    accompany* ache* aching afraid alone anguish* anxi* ashamed awful bereav* bless* brave* burden* calm* care cared
    cares caring cherish* comfort* compassion* concern* consol* courag* cry cried cries crying dear* dignity distress*
    empath* encourag* endur* exhaust* fear* feel* felt forgiv* fragil* friend friends frighten* gentle gently grateful
    grief grieve* grieving heal healing heart hearts honour* hope* hug* hurt* kind kindly kindness lonel* loss losses
    love* loving mercy merciful miss missed misses missing mourn* nurtur* pain* patience pity protect* proud* reassur*
    reliev* relief respect* rest rested resting sad sadly sadness safe safely safety scared scary shame* shelter* sob*
    soft* sooth* sorrow* spare spared suffer* support* sympath* tear tears tender* terrif* tired trust* understand*
    understood unwell warm* weary weep* welcom* wept worr* wound*""".split()  # noqa: SIM905
_CARE = re.compile(r"\b(?:" + "|".join(w.replace("*", r"\w*") for w in CARE_WORDS) + r")\b")


def words(text: str) -> list[str]:
    """Lower-cased words and numbers; "don’t" is one word."""
    return [w.replace("’", "'") for w in _WORD.findall(text.lower())]


def has_stock_phrase(text: str) -> bool:
    """Whether a set phrase of sympathy occurs."""
    return _STOCK.search(_plain(text)) is not None


def feature_table() -> dict[str, Feature]:
    """Every surface feature, by name. Rates are per word; sentiment is VADER's lexicon (Hutto & Gilbert 2014)."""
    return {
        "words": lambda t: float(len(words(t))),
        "tokens": lambda t: float(len(_PIECE.findall(t))),
        "characters": lambda t: float(len(t)),
        "word_length": lambda t: _mean([float(len(w)) for w in words(t)]),
        "sentences": lambda t: float(max(len(_SENTENCE.findall(t)), 1)),
        "first_person": lambda t: _rate(words(t), _FIRST),
        "second_person": lambda t: _rate(words(t), _SECOND),
        "third_person": lambda t: _rate(words(t), _THIRD),
        "stock_phrases": lambda t: float(len(_STOCK.findall(_plain(t)))),
        "questions": lambda t: float(t.count("?")),
        "exclamations": lambda t: float(t.count("!")),
        "commas": lambda t: float(t.count(",")),
        "other_punctuation": lambda t: float(len(re.findall(r"[^\w\s,.?!'’]", t))),
        "negations": lambda t: len(_NEGATION.findall(_plain(t))) / max(len(words(t)), 1),
        "positive_words": lambda t: _mean([float(_valence(w) > 0) for w in words(t)]),
        "negative_words": lambda t: _mean([float(_valence(w) < 0) for w in words(t)]),
        "sentiment": lambda t: _mean([_valence(w) for w in words(t)]),
        "care_words": lambda t: len(_CARE.findall(_plain(t))) / max(len(words(t)), 1),
    }


def measure(texts: Sequence[Sequence[str]], feature: Feature) -> Float[np.ndarray, "unit"]:
    """A feature's mean over the texts of each unit (the wordings of one side of a scenario)."""
    return np.asarray([_mean([feature(t) for t in unit]) for unit in texts])


def _plain(text: str) -> str:
    return text.lower().replace("’", "'")


def _rate(found: list[str], chosen: frozenset[str]) -> float:
    return sum(w in chosen for w in found) / max(len(found), 1)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _valence(word: str) -> float:
    return _vader().get(word, 0.0)


@cache
def _vader() -> dict[str, float]:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    lexicon: dict[str, float] = SentimentIntensityAnalyzer().lexicon
    return lexicon
