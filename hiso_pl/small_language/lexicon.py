"""The words of the made text: what is reviewed, how it is praised and blamed, and what else there is to say."""

from __future__ import annotations

from typing import NamedTuple


class Domain(NamedTuple):
    """A kind of thing that is reviewed.

    Attributes:
        name: What the kind is called.
        aspects: What a review speaks of, each with its article.
        openers: Sentences that say how it came about, without a judgement; ``{when}`` and ``{who}`` are filled in.
        praise: Adjectives of this domain that praise.
        blame: Adjectives of this domain that blame.
    """

    name: str
    aspects: tuple[str, ...]
    openers: tuple[str, ...]
    praise: tuple[str, ...]
    blame: tuple[str, ...]


class Feeling(NamedTuple):
    """A verb in the forms that the grammar needs: "loved", "love"."""

    past: str
    plain: str


def _feelings(*words: str) -> tuple[Feeling, ...]:
    return tuple(Feeling(*forms.split()) for forms in words)


DOMAINS = (
    Domain(
        name="film",
        aspects=(
            *("the film", "the plot", "the story", "the acting", "the ending", "the dialogue", "the music"),
            *("the script", "the opening scene", "the camera work", "the lead actor", "the second half"),
        ),
        openers=(
            "We saw it {when} with {who}.",
            "I watched it {when}.",
            "The film runs for two hours.",
            "It is set in a small town by the sea.",
            "It tells of a sailor and {who}.",
        ),
        praise=("moving", "gripping", "witty", "touching", "original"),
        blame=("predictable", "slow", "shallow", "silly", "lifeless"),
    ),
    Domain(
        name="restaurant",
        aspects=(
            *("the food", "the soup", "the service", "the waiter", "the dessert", "the fish", "the bread", "the wine"),
            *("the table by the window", "the coffee", "the menu", "the main course"),
        ),
        openers=(
            "We had dinner there {when} with {who}.",
            "I went there {when}.",
            "The place is on the corner near the station.",
            "We ordered the soup and the fish.",
            "I took {who} there for lunch.",
        ),
        praise=("delicious", "fresh", "tasty", "friendly", "generous"),
        blame=("stale", "greasy", "rude", "cold", "bland"),
    ),
    Domain(
        name="goods",
        aspects=(
            *("the phone", "the lamp", "the kettle", "the battery", "the screen", "the handle", "the design"),
            *("the manual", "the packaging", "the radio", "the keyboard", "the customer support"),
        ),
        openers=(
            "I bought it {when} for {who}.",
            "It arrived {when}.",
            "The box came with two cables.",
            "We have used it every day since then.",
            "I ordered the black one.",
        ),
        praise=("sturdy", "reliable", "handy", "elegant", "quiet"),
        blame=("flimsy", "faulty", "clumsy", "noisy", "fragile"),
    ),
)

PRAISE = (
    *("great", "wonderful", "excellent", "lovely", "superb", "brilliant", "pleasant", "charming", "splendid"),
    *("delightful", "fine"),
)
BLAME = (
    *("terrible", "awful", "poor", "dreadful", "horrible", "disappointing", "weak", "useless", "hopeless"),
    *("boring", "unpleasant"),
)

LIKING = _feelings("loved love", "liked like", "enjoyed enjoy", "admired admire", "praised praise")
DISLIKING = _feelings("hated hate", "disliked dislike", "regretted regret", "criticised criticise", "despised despise")
PLEASING = _feelings("impressed impress", "delighted delight", "charmed charm", "surprised surprise")
DISPLEASING = _feelings("bored bore", "annoyed annoy", "disappointed disappoint", "irritated irritate")

DEGREES = ("", "", "very ", "quite ", "really ", "rather ", "truly ")
DENIALS = ("not ", "never ", "hardly ", "not very ", "not at all ", "far from ", "anything but ")
WHEN = (
    *("on Friday", "on Sunday evening", "last week", "in April", "in the summer", "yesterday", "two days ago"),
    *("last winter", "on Monday", "this morning"),
)
WHO = (
    *("my brother", "my sister", "my mother", "two friends", "my neighbour", "the children", "an old friend"),
    *("my father", "a colleague", "my aunt"),
)

PLACES = (
    *("the market", "the harbour", "the library", "the station", "the garden", "the bridge", "the school"),
    "the park",
)
DOINGS = (
    *("walked to {place}", "waited near {place}", "met {who} at {place}", "left the keys at {place}"),
    *(
        "rode past {place}",
        "saw {who} behind {place}",
        "bought apples close to {place}",
        "took a photograph of {place}",
    ),
)
FACTS = (
    *("late", "early", "dark", "sunny", "windy", "open", "closed", "empty", "crowded", "far away", "a long walk"),
    *("built of stone", "time to go home", "warm for {month}", "raining again", "noon by then"),
)
MONTHS = ("March", "May", "June", "October", "November")
THINGS = ("luck", "weather", "timing", "news for us")
