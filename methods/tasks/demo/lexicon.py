"""The words of the demo world, grouped by what they mean.

A *concept* is a tuple of ways to say one thing: `("bike", "bicycle")`. In the tables below `|` separates the ways
to say it, `_` stands for a space, and a verb that is not regular names its past (and participle) after a `-`.
"""

from typing import NamedTuple

Concept = tuple[str, ...]


class Verb(NamedTuple):
    base: str
    past: str
    participle: str

    @property
    def third(self) -> str:
        """The form after he, she or it."""
        if self.base.endswith(("s", "sh", "ch", "x", "o")):
            return self.base + "es"
        if self.base.endswith("y") and self.base[-2] not in "aeiou":
            return self.base[:-1] + "ies"
        return self.base + "s"

    @property
    def ing(self) -> str:
        """The form after is or are."""
        return self.base.removesuffix("e") + "ing"


class Kind(NamedTuple):
    """A general word and the concepts that fall under it."""

    name: str
    members: tuple[Concept, ...]


def _concepts(table: str) -> tuple[Concept, ...]:
    return tuple(tuple(entry.replace("_", " ").split("|")) for entry in table.split())


def _words(table: str) -> tuple[str, ...]:
    return tuple(table.split())


def _verb(entry: str) -> Verb:
    base, *irregular = entry.split("-")
    if irregular:
        return Verb(base, irregular[0], irregular[-1])
    if base.endswith("e"):
        past = base + "d"
    elif base.endswith("y") and base[-2] not in "aeiou":
        past = base[:-1] + "ied"
    else:
        past = base + "ed"
    return Verb(base, past, past)


def _verbs(table: str) -> tuple[tuple[Verb, ...], ...]:
    return tuple(tuple(map(_verb, entry.split("|"))) for entry in table.split())


def _kinds(table: str) -> tuple[Kind, ...]:
    lines = (line.split(":") for line in table.strip().splitlines())
    return tuple(Kind(name.strip(), _concepts(members)) for name, members in lines)


# Two lexical fields. Each is a small world of its own; MNLI's mismatched set is told in the second one.
PEOPLE = _kinds("""
    shopkeeper: baker grocer tailor
    musician: pianist drummer singer
    athlete: runner swimmer boxer
    official: mayor judge minister
    medic: nurse dentist doctor|physician
""")
MORE_PEOPLE = _kinds("""
    scientist: chemist biologist astronomer
    sailor: captain pilot fisherman
    artist: painter sculptor poet|writer
    builder: carpenter plumber mason
    criminal: thief|robber smuggler pirate
""")
THINGS = _kinds("""
    fruit: apple pear lemon
    tool: hammer saw ladder
    vehicle: car|automobile truck bike|bicycle
    garment: coat hat scarf
    container: box basket bag|sack
""")
MORE_THINGS = _kinds("""
    instrument: guitar drum flute
    flower: rose tulip lily
    toy: doll kite puzzle
    weapon: sword spear bow
    jewel: ring necklace crown
""")
ANIMALS = _kinds("""
    bird: duck owl parrot
    pet: dog|hound cat rabbit
    insect: bee moth beetle
    beast: bear wolf lion
""")

# What people do to things, and to one another.
THING_VERBS = _verbs("""
    buy-bought|purchase sell-sold fix|repair find-found|discover lose-lost|misplace hide-hid-hidden|conceal
    clean|wash paint steal-stole-stolen carry|transport borrow examine|inspect
""")
PEOPLE_VERBS = _verbs("""
    help|assist thank call|phone meet-met|encounter teach-taught follow|pursue
    praise|applaud visit hire|employ scare|frighten rescue|save greet|welcome
""")

PLACES = tuple(
    _concepts(line)
    for line in """
    at_the_market at_the_bank in_the_shop|in_the_store
    in_the_park in_the_garden|in_the_yard in_the_forest|in_the_woods
    in_the_kitchen in_the_attic in_the_cellar|in_the_basement
    at_the_station at_the_airport at_the_harbor|at_the_port
""".strip().splitlines()
)
TIMES = tuple(
    _concepts(line)
    for line in """
    on_Monday on_Wednesday on_Friday on_Sunday
    in_April in_June in_October
    at_noon|at_midday at_midnight at_dawn|at_sunrise
    last_winter last_summer
""".strip().splitlines()
)

ADJECTIVES = tuple(
    tuple(line.split())
    for line in """
    red blue green yellow black white
    small large huge tiny
    old new
    cheap expensive
    clean dirty
    heavy light
""".strip().splitlines()
)
MANNERS = _words("young old tall short clever lazy brave shy famous quiet friendly proud")

# Complementary states: whatever is not the one is the other.
STATES = tuple(
    tuple(pair.split("|"))
    for pair in _words("""
        asleep|awake hungry|full healthy|sick wet|dry clean|dirty happy|unhappy tame|wild calm|restless
        alive|dead hidden|visible
    """)
)

NAMES = {
    "she": _words("Anna Emma Julia Laura Maria Nora Olivia Rosa Sophie Clara Helen Alice"),
    "he": _words("Adam Ben Carl David Frank George Henry Jack Leo Martin Paul Oscar"),
}

# Reviews.
GOOD = _words("""
    brilliant charming delightful funny moving touching clever witty superb wonderful gripping fresh thrilling
    elegant warm graceful memorable remarkable enjoyable impressive excellent fantastic terrific lively beautiful
""")
BAD = _words("""
    boring dull silly tedious clumsy predictable shallow flat stale lifeless bland messy dreary awful terrible
    horrible painful annoying pointless forgettable weak lame sloppy ugly stupid
""")
GOOD_QUALITIES = _words("charm wit warmth energy imagination grace suspense humor depth style")
BAD_QUALITIES = _words("nonsense noise cliches gloom padding confusion boredom vanity errors excess")
GOOD_VERBS = _words("shines delights works succeeds sparkles soars entertains impresses charms triumphs")
BAD_VERBS = _words("fails drags bores disappoints stumbles collapses annoys flops irritates falters")
ASPECTS = _words("""
    film movie story plot script acting dialogue music soundtrack ending opening cast comedy drama thriller
    sequel remake romance cartoon hero villain performance screenplay tone finale
""")
INTENSIFIERS = _words("very really truly extremely deeply quite utterly remarkably")

# Words that only the judgements of grammar use. They make the vocabulary wide; the pair tasks keep to few words,
# each of which a small model then meets often enough to compare it.
FOLK = _words("""
    pupil student farmer knight clown monk priest scholar banker lodger traveler rival twin waiter soldier gardener
    cook guest neighbor cousin uncle aunt daughter son king queen prince princess guard driver clerk editor barber
    hunter worker child boss owner tourist stranger friend patient visitor actor dancer hiker partner leader member
    citizen beginner winner officer agent
""")
GOODS = _words("""
    table chair lamp mirror carpet pillow blanket candle plate spoon fork kettle pan cup bottle letter book newspaper
    map ticket coin envelope parcel pencil brush needle button ribbon belt shoe sock glove watch phone door window
    wall roof gate fence engine wheel rope net flag bell statue picture poster stamp sandwich pancake cushion curtain
    drawer shelf bench stool towel soap comb mask tent sledge wagon pump barrel shield cookie egg carrot onion melon
    berry sponge tray vase
""")
DOINGS = _verbs("""
    laugh sleep-slept sing-sang-sung wait shout rest listen work talk sneeze cough whisper travel return
    march wander jump climb kneel-knelt weep-wept snore stumble yawn dance shiver
""")
HOW = _words("""
    quietly loudly slowly quickly happily sadly calmly bravely politely softly patiently proudly gently nervously
    cheerfully gracefully alone together outside inside again upstairs everywhere
""")
TOWNS = _words("""
    Rome Paris London Berlin Madrid Vienna Lisbon Dublin Prague Athens Oslo Cairo Boston Chicago Dallas Denver
    Tokyo Delhi Geneva Milan
""")
NUMBERS = _words("two three four five six seven eight nine ten twelve twenty")
DEGREES = _words("""
    heavy-heavier old-older small-smaller large-larger cheap-cheaper clean-cleaner dark-darker bright-brighter
    soft-softer hard-harder strong-stronger weak-weaker thick-thicker wide-wider narrow-narrower deep-deeper
    long-longer short-shorter warm-warmer cold-colder smooth-smoother rough-rougher sharp-sharper plain-plainer
""")
