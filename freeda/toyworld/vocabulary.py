"""The toy world's vocabulary: 40 kinds of things, 10 kinds of stuff, their synonyms and plurals."""

from __future__ import annotations

from dataclasses import dataclass

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (208, 48, 44),
    "orange": (238, 138, 44),
    "yellow": (242, 206, 62),
    "green": (72, 158, 74),
    "blue": (58, 104, 206),
    "purple": (138, 82, 184),
    "pink": (240, 142, 178),
    "brown": (142, 92, 56),
    "black": (58, 58, 66),
    "white": (236, 232, 224),
    "gray": (142, 146, 154),
}

PAINTS = ("red", "yellow", "green", "blue", "purple", "pink", "orange")


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of thing or stuff. `name` is its main name, `plural` what several are called."""

    name: str
    synonyms: tuple[str, ...] = ()
    plural: str = ""
    colors: tuple[str, ...] = ()

    @property
    def nouns(self) -> tuple[str, ...]:
        """Every singular noun that names this kind, the main name first."""
        return (self.name, *self.synonyms)

    @property
    def key(self) -> str:
        """The name as an identifier: `fire_truck`."""
        return self.name.replace(" ", "_")


def _thing(name: str, *synonyms: str, colors: tuple[str, ...], plural: str = "") -> Kind:
    return Kind(name=name, synonyms=synonyms, plural=plural or name + "s", colors=colors)


def _stuff(name: str, *synonyms: str) -> Kind:
    return Kind(name=name, synonyms=synonyms)


THING_KINDS: tuple[Kind, ...] = (
    _thing("cat", "kitten", colors=("orange", "gray", "black", "white")),
    _thing("dog", "puppy", colors=("brown", "black", "white", "orange")),
    _thing("bird", "songbird", colors=("red", "blue", "yellow", "green")),
    _thing("fish", colors=("orange", "blue", "purple", "yellow"), plural="fish"),
    _thing("rabbit", "bunny", colors=("white", "gray", "brown")),
    _thing("elephant", colors=("gray", "blue", "brown")),
    _thing("turtle", "tortoise", colors=("green", "brown", "orange")),
    _thing("butterfly", colors=PAINTS, plural="butterflies"),
    _thing("frog", "toad", colors=("green", "yellow", "brown")),
    _thing("pig", "piglet", colors=("pink", "white", "black")),
    _thing("owl", colors=("brown", "gray", "white")),
    _thing("apple", colors=("red", "green", "yellow")),
    _thing("banana", colors=("yellow",)),
    _thing("pizza", colors=("yellow", "orange")),
    _thing("hot dog", colors=("brown",)),
    _thing("carrot", colors=("orange",)),
    _thing("cake", "birthday cake", colors=("pink", "white", "brown", "blue")),
    _thing("ice cream", colors=("pink", "white", "brown", "green")),
    _thing("watermelon", "melon", colors=("red", "pink")),
    _thing("donut", "doughnut", colors=("pink", "brown", "blue", "white")),
    _thing("car", "automobile", colors=PAINTS),
    _thing("bus", colors=("yellow", "blue", "green", "orange"), plural="buses"),
    _thing("fire truck", "fire engine", colors=("red",)),
    _thing("boat", "sailboat", colors=("brown", "blue", "red", "green")),
    _thing("airplane", "plane", colors=("blue", "red", "gray", "orange")),
    _thing("rocket", "spaceship", colors=("red", "blue", "orange", "purple")),
    _thing("train", "locomotive", colors=("black", "green", "red", "blue")),
    _thing("hammer", colors=("brown", "red", "yellow", "blue")),
    _thing("key", colors=("yellow", "gray", "brown")),
    _thing("umbrella", "parasol", colors=PAINTS),
    _thing("cup", "mug", colors=("white", "red", "blue", "green", "yellow")),
    _thing("clock", "alarm clock", colors=("red", "blue", "green", "yellow")),
    _thing("guitar", colors=("brown", "orange", "red", "blue")),
    _thing("tree", colors=("green",)),
    _thing("flower", "blossom", colors=("red", "yellow", "pink", "purple", "white")),
    _thing("cactus", colors=("green",), plural="cactuses"),
    _thing("mushroom", "toadstool", colors=("red", "brown", "orange")),
    _thing("chair", "armchair", colors=("red", "blue", "green", "purple")),
    _thing("lamp", "table lamp", colors=("yellow", "orange", "pink", "green")),
    _thing("bed", colors=("blue", "red", "green", "purple")),
)

STUFF_KINDS: tuple[Kind, ...] = (
    _stuff("grass", "lawn", "meadow"),
    _stuff("sand", "beach"),
    _stuff("water", "sea", "lake"),
    _stuff("snow"),
    _stuff("brick", "brick wall"),
    _stuff("sky"),
    _stuff("wood", "wooden floor"),
    _stuff("gravel", "pebbles"),
    _stuff("tiles", "tile floor"),
    _stuff("carpet", "rug"),
)

KINDS: tuple[Kind, ...] = THING_KINDS + STUFF_KINDS
THINGS: tuple[str, ...] = tuple(kind.name for kind in THING_KINDS)
STUFF: tuple[str, ...] = tuple(kind.name for kind in STUFF_KINDS)
