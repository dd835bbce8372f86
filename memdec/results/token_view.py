"""Test text as the report shows it: each token with what the memory gained or cost there."""

import json
import math
from dataclasses import dataclass

from memdec.results.record import Example, Record, Token

_MOST_TEXTS = 6
_CHIPS = 8
_CONTEXT = 6
# Bounds of the factor mixture / base, in powers of two; below the first there is no colour.
_BOUNDS = (0.25, 1.0, 2.0, 3.0, 5.0)


@dataclass(frozen=True, kw_only=True)
class Chip:
    """A token worth looking at, with the text before it."""

    index: int
    before: str
    text: str
    base: str
    mixture: str
    factor: str


@dataclass(frozen=True, kw_only=True)
class TextView:
    """One stretch of test text, ready for the template."""

    key: str
    title: str
    label: str
    record_id: str
    spans: list[tuple[str, str]]
    """Class and text of each token."""
    facts: str
    """JSON: [log p base, log p mixture, top of base, top of memory] per token."""
    helped: float
    """Share of tokens that became more likely."""
    gain: float
    """Mean gain in nats per token."""
    floor: float | None
    """Smallest factor that the mixture allows, 1 - alpha."""
    chips: list[Chip]


def text_views(records: list[Record]) -> list[TextView]:
    """Return one text per experiment: the Memory Decoder's if there, lowest seed, then as given."""
    order = sorted(
        (record for record in records if record.examples),
        key=lambda r: (r.experiment, r.method != "memory_decoder", r.seed),
    )
    chosen: dict[str, Record] = {}
    for record in order:
        chosen.setdefault(record.experiment, record)
    views: list[TextView] = []
    for record in chosen.values():
        for example in record.examples:
            if example.tokens and len(views) < _MOST_TEXTS:
                views.append(_view(record, example, f"text{len(views)}"))
    return views


def largest_gains(example: Example, count: int = _CHIPS) -> list[Chip]:
    """Return the tokens made likelier by the largest factors, best first.

    Only those that the mixture gives a tenth or more: a rare token that stays unlikely says little.
    """
    tokens = example.tokens
    likely = [i for i, token in enumerate(tokens) if token.mixture >= math.log(0.1)]
    order = sorted(likely, key=lambda i: (-gain_of(tokens[i]), i))[:count]
    return [
        Chip(
            index=i,
            before=_visible("".join(t.text for t in tokens[max(0, i - _CONTEXT) : i])),
            text=_visible(tokens[i].text),
            base=percent(tokens[i].lm),
            mixture=percent(tokens[i].mixture),
            factor=factor(gain_of(tokens[i])),
        )
        for i in order
        if gain_of(tokens[i]) > 0
    ]


def gain_of(token: Token) -> float:
    """Return log p(mixture) - log p(base), in nats."""
    return token.mixture - token.lm


def level(gain: float) -> str:
    """Return the colour class of a gain in nats: h1 to h5 helped, c1 to c5 cost, or nothing."""
    doublings = abs(gain) / math.log(2)
    steps = sum(doublings >= bound for bound in _BOUNDS)
    if not steps:
        return ""
    return f"{'h' if gain > 0 else 'c'}{steps}"


def percent(log_prob: float) -> str:
    """Print a probability for people: 67%, 3.1%, 0.02%, <0.01%."""
    share = 100 * math.exp(log_prob)
    if share < 0.01:
        return "<0.01%"
    if share >= 10:
        return f"{share:.0f}%"
    return f"{share:.1f}%" if share >= 1 else f"{share:.2g}%"


def factor(gain: float) -> str:
    """Print exp(gain) as a factor."""
    value = math.exp(min(gain, 50.0))
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _view(record: Record, example: Example, key: str) -> TextView:
    gains = [gain_of(token) for token in example.tokens]
    facts = [
        [round(t.lm, 4), round(t.mixture, 4), _rounded(t.lm_top), _rounded(t.memory_top)]
        for t in example.tokens
    ]
    text = json.dumps(facts, ensure_ascii=False, separators=(",", ":"))
    return TextView(
        key=key,
        title=record.topic,
        label=record.name,
        record_id=record.id,
        spans=[(level(g), t.text) for g, t in zip(gains, example.tokens, strict=True)],
        # A script element ends at the first "</"; JSON may spell "<" as an escape.
        facts=text.replace("<", "\\u003c"),
        helped=sum(gain > 0 for gain in gains) / len(gains),
        gain=sum(gains) / len(gains),
        floor=None if record.alpha is None else 1 - record.alpha,
        chips=largest_gains(example),
    )


def _rounded(top: list[tuple[str, float]]) -> list[list[str | float]]:
    return [[text, round(probability, 4)] for text, probability in top]


def _visible(text: str) -> str:
    return text.replace("\n", "\u21b5")
