"""CoLA: sentences that keep or break one rule of grammar.

Every construction is a function `(dice, good) -> words`: with `good` false it makes the same sentence with its own
typical mistake, so that acceptable and unacceptable sentences differ in nothing else.
"""

from collections.abc import Iterator

from .dice import Dice
from .lexicon import DEGREES, DOINGS, FOLK, GOODS, HOW, MANNERS, NAMES, NUMBERS, PEOPLE_VERBS, THING_VERBS, TOWNS, Verb
from .sentences import ALL_PLACES, ALL_TIMES, HOME, capitalised, draw_member

Words = list[str]


IRREGULAR_PLURALS = {"child": "children", "shelf": "shelves"}


def plural(noun: str) -> str:
    if noun in IRREGULAR_PLURALS:
        return IRREGULAR_PLURALS[noun]
    if noun.endswith(("s", "x", "ch", "sh")):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"


def _person(dice: Dice) -> str:
    return dice.pick(FOLK) if dice.chance(0.5) else dice.pick(draw_member(dice, HOME.people))


def _thing(dice: Dice) -> str:
    return dice.pick(GOODS) if dice.chance(0.5) else dice.pick(draw_member(dice, HOME.things))


def _deed(dice: Dice) -> Verb:
    return dice.pick(dice.pick(THING_VERBS))


def _where_or_when(dice: Dice) -> str:
    return dice.pick(dice.pick((ALL_PLACES, ALL_TIMES)[dice.below(2)]))


def present(dice: Dice, good: bool) -> Words:
    """Subject and verb agree, whatever noun stands between them."""
    many = dice.chance(0.5)
    subject, verb = _person(dice), _deed(dice)
    between = ["near", "the", plural(_person(dice)) if dice.chance(0.5) else _person(dice)]
    return [
        "the",
        plural(subject) if many else subject,
        *(between if dice.chance(0.4) else []),
        verb.base if many == good else verb.third,
        "the",
        plural(_thing(dice)),
        "every",
        "day",
    ]


def doing(dice: Dice, good: bool) -> Words:
    """The same, where nothing but the verb is left to say."""
    many = dice.chance(0.5)
    subject, [verb] = _person(dice), dice.pick(DOINGS)
    return ["the", plural(subject) if many else subject, verb.base if many == good else verb.third, dice.pick(HOW)]


def going_on(dice: Dice, good: bool) -> Words:
    """After is and are the verb takes a form of its own."""
    many = dice.chance(0.5)
    subject, [verb] = _person(dice), dice.pick(DOINGS)
    form = verb.ing if good else dice.pick((verb.base, verb.third))
    helper = "are" if many else "is"
    return ["the", plural(subject) if many else subject, helper, form, dice.pick(HOW), "in", dice.pick(TOWNS)]


def comparison(dice: Dice, good: bool) -> Words:
    """One thing is heavier than another: neither heavy than it, nor more heavier."""
    degree, comparative = dice.pick(DEGREES).split("-")
    compared = [comparative] if good else dice.pick(([degree], ["more", comparative]))
    one, other = dice.sample(GOODS, 2)
    return ["the", one, "is", *compared, "than", "the", other]


def was_or_were(dice: Dice, good: bool) -> Words:
    many = dice.chance(0.5)
    subject, [one, other] = _person(dice), dice.sample(MANNERS, 2)
    return ["the", plural(subject) if many else subject, "were" if many == good else "was", one, "and", other]


def helping_verb(dice: Dice, good: bool) -> Words:
    """Each helping verb asks for a form of its own."""
    verb = _deed(dice)
    helper, right, wrong = dice.pick(
        (
            ("did not", verb.base, verb.past),
            ("will", verb.base, verb.third),
            ("could", verb.base, verb.past),
            ("has", verb.participle, verb.base),
            ("wants to", verb.base, verb.past),
        )
    )
    return ["the", _person(dice), helper, right if good else wrong, "the", _thing(dice), dice.pick(dice.pick(ALL_PLACES))]


def pronoun(dice: Dice, good: bool) -> Words:
    verb = dice.pick(dice.pick(PEOPLE_VERBS))
    subject, object = dice.pick((("he", "him"), ("she", "her"), ("they", "them"), ("we", "us"), ("I", "me")))
    if dice.chance(0.5):
        return [subject if good else object, verb.past, "the", _person(dice), _where_or_when(dice)]
    return ["the", _person(dice), verb.past, object if good else subject, _where_or_when(dice)]


def reflexive(dice: Dice, good: bool) -> Words:
    gender = dice.pick(("she", "he"))
    right = {"she": "herself", "he": "himself"}
    mirror = right[gender if good else {"she": "he", "he": "she"}[gender]]
    return [dice.pick(NAMES[gender]), dice.pick(dice.pick(PEOPLE_VERBS)).past, mirror, _where_or_when(dice)]


def article(dice: Dice, good: bool) -> Words:
    """One with a singular, some with a plural."""
    noun, many = _thing(dice), dice.chance(0.5)
    count = dice.pick((*NUMBERS, "several", "many")) if many else dice.pick(("one", "every", "another"))
    noun = plural(noun) if many == good else noun
    return ["the", _person(dice), _deed(dice).past, count, noun, _where_or_when(dice)]


def question(dice: Dice, good: bool) -> Words:
    """A question for the object leaves its place empty."""
    filler = [] if good else ["the", _thing(dice)]
    return ["what", "did", "the", _person(dice), _deed(dice).base, *filler, _where_or_when(dice)]


def plain(dice: Dice, good: bool) -> Words:
    """A plain statement; broken by a word lost, doubled or out of place."""
    words = [
        "the",
        dice.pick(MANNERS),
        _person(dice),
        _deed(dice).past,
        "the",
        _thing(dice),
        _where_or_when(dice),
    ]
    if good:
        return words
    turn = dice.below(4)
    if turn == 0:
        del words[dice.pick((0, 3, 4))]
    elif turn == 1:
        place = dice.pick((0, 3, 4))
        words.insert(place, words[place])
    else:
        place = dice.pick((0, 1, 2, 3, 4))
        words[place], words[place + 1] = words[place + 1], words[place]
    return words


CONSTRUCTIONS = (
    present, doing, going_on, comparison, was_or_were, helping_verb, pronoun, reflexive, article, question, plain, plain,
)  # fmt: skip


def sentence(dice: Dice, good: bool) -> str:
    construction = dice.pick(CONSTRUCTIONS)
    words = construction(dice, good)
    return capitalised(" ".join(words)) + ("?" if construction is question else ".")


def judgements(dice: Dice) -> Iterator[dict]:
    while True:
        good = dice.chance(0.56)
        yield {"sentence": sentence(dice, good), "label": int(good)}
