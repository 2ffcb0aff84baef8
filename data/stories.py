"""Writes the default corpus, input.txt: invented stories whose true entropy is known exactly.

Every random decision goes through one function, `Pen.choose`, which is given the literal texts that could
stand at the current position. No text of a set may be the beginning of another one, so whoever reads the
story can tell which one was taken. The same program therefore runs under two pens:

    Writer   draws one of the texts and writes it,
    Reader   is given a finished text and looks which of the texts stands there.

The Reader rebuilds the whole state of the story (who the hero is, what was lost, how many coins are left)
and so knows the probability of every choice. Since there is exactly one way to parse a text, the sum of
-log2(probability) over its choices is the exact information content of the text, and the mean over the
corpus is a floor that no model can beat other than by luck or by having memorised the text.

    python data/stories.py                          write input.txt and input.txt.json
    python data/stories.py --check FILE             parse FILE from its text alone and print its bits per byte
    python data/stories.py --stories 50 --seed 7 --out other.txt

From Python, `parse(text)` gives for each choice (offset, literal, bits, entropy): where it stands, what was
chosen, how surprising that was, and how surprising it was expected to be. The text between two choices is
forced and costs nothing.

How the text is divided. The first floor(0.9 * characters) characters are for training, the rest is for
validation. A choice belongs to the split in which its first character stands. The number of stories is
given, so the end of the file carries no information.

What a short window costs. A name, a thing or a number that was fixed earlier in the story is forced when it
returns, but only for a reader who can still see it. `window_cost_bits_per_byte` estimates, for the
validation split, what a predictor that sees only the last W bytes has to pay on top of the floor: whenever
such an item returns and its latest earlier mention ended W bytes or more before, the item's price, i.e. the
bits it cost when first drawn, is charged once more. A returning item that opens a choice (because it
decides who speaks, say) is charged only for what exceeds the bits already paid for that choice. A pronoun
counts as a mention of its person's gender, priced at the bits of that gender; a number that was computed is
charged for those of its ingredients that are out of sight. It is an estimate and not a bound: it ignores
that a window also hides which kind of story it is, which sentences and words have been used up, and that a
clever reader can infer an item from other traces or guess it better than its first price.
"""

import argparse
import hashlib
import json
import math
import os
import random
import re
import sys
import tempfile
from bisect import bisect_right
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple

SEED = 1
STORIES = 1010
TRAIN_FRACTION = (9, 10)  # as integers, so that the border is exact
WINDOWS = (64, 128, 256, 512, 1024, 2048)
SEPARATOR = "\n\n* * *\n\n"
ROOT = Path(__file__).resolve().parent.parent


class ParseError(ValueError):
    """The text was not written by this program; `offset` counts characters from its start."""

    def __init__(self, offset, problem):
        super().__init__(f"does not parse at character {offset}: {problem}")
        self.offset = offset


# ----------------------------------------------------------------------------------------------------
# Choices and pens


class Step(NamedTuple):
    """One choice that was made: where it stands, what was chosen, its surprise and the expected surprise."""

    offset: int
    literal: str
    bits: float
    entropy: float


class Recall(NamedTuple):
    """An earlier item returns: where, how many bytes after it was last seen, and what forgetting it costs."""

    offset: int
    distance: int
    bits: float


@lru_cache(maxsize=100_000)
def prefix_clash(literals):
    """Two texts of which one begins the other (or equals it), or None; neighbours in sorted order suffice."""
    ordered = sorted(literals)
    pairs = zip(ordered, ordered[1:], strict=False)
    return next(((short, long) for short, long in pairs if long.startswith(short)), None)


class Choice:
    """A set of alternatives, checked to be prefix-free, with everything that follows from its weights."""

    def __init__(self, literals, weights):
        if clash := prefix_clash(literals):
            raise ValueError("one alternative begins another: {!r}, {!r}".format(*clash))
        self.literals = literals
        self.cumulative = []
        total = 0.0
        for weight in weights:
            total += weight
            self.cumulative.append(total)
        self.bits = [math.log2(total / weight) for weight in weights]
        self.entropy = math.fsum(w / total * b for w, b in zip(weights, self.bits, strict=True))

    def draw(self, uniform):
        """Index of the alternative that a uniform number from [0, 1) selects."""
        index = bisect_right(self.cumulative, uniform * self.cumulative[-1])
        return min(index, len(self.literals) - 1)


@lru_cache(maxsize=100_000)
def compiled(literals, weights):
    """The Choice for these tuples; each distinct set is checked once."""
    return Choice(literals, weights)


class Pen:
    """Moves through the text; a subclass says how a literal is picked and how text is put down."""

    def __init__(self):
        self.offset = 0  # in characters
        self.byte = 0  # the same place in UTF-8 bytes
        self.steps = []
        self.recalls = []

    def choose(self, literals, weights):
        """Put down one of the literals and return its index. A single alternative is forced and free."""
        choice = compiled(tuple(literals), tuple(weights))
        index = self.pick(choice) if len(literals) > 1 else 0
        if len(literals) > 1:
            self.steps.append(
                Step(self.offset, literals[index], choice.bits[index], choice.entropy)
            )
        self.emit(literals[index])
        return index

    def emit(self, text):
        """Put down text that had to come."""
        self.put(text)
        self.offset += len(text)
        self.byte += len(text.encode())


class Writer(Pen):
    """Draws every choice. Only random() is used, as its sequence is the same in every Python version."""

    def __init__(self, seed):
        super().__init__()
        self.random = random.Random(seed).random
        self.parts = []

    def pick(self, choice):
        return choice.draw(self.random())

    def put(self, text):
        self.parts.append(text)

    def text(self):
        return "".join(self.parts)


class Reader(Pen):
    """Finds every choice in a given text."""

    def __init__(self, text):
        super().__init__()
        self.source = text

    def pick(self, choice):
        for index, literal in enumerate(choice.literals):
            if self.source.startswith(literal, self.offset):
                return index
        found = self.source[self.offset : self.offset + 30]
        raise ParseError(
            self.offset, f"none of {len(choice.literals)} alternatives matches {found!r}"
        )

    def put(self, text):
        if not self.source.startswith(text, self.offset):
            found = self.source[self.offset : self.offset + len(text)]
            agree = len(os.path.commonprefix([text, found]))
            expected = text[agree : agree + 30]
            raise ParseError(
                self.offset + agree, f"expected {expected!r}, found {found[agree:][:30]!r}"
            )

    def at_end(self):
        return self.source.startswith("\n", self.offset) and len(self.source) == self.offset + 1


# ----------------------------------------------------------------------------------------------------
# English: articles, plurals, capitals, numbers

IRREGULAR = {
    "goose": "geese", "mouse": "mice", "dormouse": "dormice", "ox": "oxen",
    "penknife": "penknives", "potato": "potatoes", "tomato": "tomatoes",
    "fisherman's cousin": "fishermen's cousins",
}  # fmt: skip
ONES = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
    sixteen seventeen eighteen nineteen""".split()
TENS = "zero ten twenty thirty forty fifty sixty seventy eighty ninety".split()
ORDINALS = "first second third fourth fifth sixth seventh".split()


def number_word(number):
    """0 to 99 in words."""
    if number < 20:
        return ONES[number]
    tens, ones = divmod(number, 10)
    return TENS[tens] + (f"-{ONES[ones]}" if ones else "")


NUMBERS = {number_word(number): number for number in range(100)}


def plural(noun):
    """The plural of a noun or of the last word of a compound."""
    if noun in IRREGULAR:
        return IRREGULAR[noun]
    head, space, last = noun.rpartition(" ")
    if last in IRREGULAR:
        return head + space + IRREGULAR[last]
    if re.search(r"(s|x|z|ch|sh)$", noun):
        return noun + "es"
    if re.search(r"[^aeiou]y$", noun):
        return noun[:-1] + "ies"
    return noun + "s"


def with_article(noun):
    """The noun after "a" or "an"."""
    vowel = re.match(r"[aeiouéàâ]|honest|hour|heir", noun, re.IGNORECASE)
    return ("an " if vowel and not re.match(r"one|uni|use|eu", noun) else "a ") + noun


def capital(text):
    return text[:1].upper() + text[1:]


def counted(number, noun):
    """For example "no plums", "one plum", "three plums"."""
    word = number_word(number) if number else "no"
    return f"{word} {noun if number == 1 else plural(noun)}"


FORMS = {  # how a slot such as [a:animal] or {^:thing} writes its word
    "": str,
    "a": with_article,
    "A": lambda noun: capital(with_article(noun)),
    "s": plural,
    "plain s": plural,
    "S": lambda noun: capital(plural(noun)),
    "^": capital,
    "T": lambda noun: " ".join(capital(word) for word in noun.split(" ")),
}

PRONOUNS = {"he": "she", "him": "her", "his": "her", "himself": "herself"}  # masculine: feminine


# ----------------------------------------------------------------------------------------------------
# Templates. A sentence of the grammar is text with
#     {slot} or {form:slot}     an item fixed earlier; {he}, {him}, {his} is the hero, {friend.he} the friend
#     [list] or [form:list]     a word drawn from WORDS, or a phrase drawn from the group of that name
#     [list=slot]               the same, and remembered under that name
#     [list@slot]               the list whose name ends in that item's word, e.g. weather_ + spring
#     (this|that)               one of several wordings


class Fixed(NamedTuple):
    text: str


class Remembered(NamedTuple):
    form: str
    slot: str


class Drawn(NamedTuple):
    form: str
    source: str
    slot: str


class Either(NamedTuple):
    options: tuple


TOKEN = re.compile(r"\{([^{}]*)\}|\[([^\[\]]*)\]|\(([^()]*)\)")


@cache
def parse_template(template):
    """The template as a tuple of Fixed, Remembered, Drawn and Either."""
    nodes = []
    end = 0
    for match in TOKEN.finditer(template):
        if match.start() > end:
            nodes.append(Fixed(template[end : match.start()]))
        end = match.end()
        remembered, drawn, either = match.groups()
        if remembered is not None:
            form, _, slot = remembered.rpartition(":")
            nodes.append(Remembered(form, slot))
        elif drawn is not None:
            form, _, rest = drawn.rpartition(":")
            source, _, slot = rest.partition("=")
            nodes.append(Drawn(form, source, slot))
        else:
            nodes.append(Either(tuple(parse_template(option) for option in either.split("|"))))
    if end < len(template):
        nodes.append(Fixed(template[end:]))
    return tuple(nodes)


@cache
def as_nodes(form, word, after=""):
    """A word in one of its FORMS as a template of its own."""
    return (Fixed(FORMS[form](word) + after),)


def read_words(text):
    return [" ".join(word.split()) for word in text.split(",")]


def read_grammar(text):
    """Groups of templates: "@name", then one template per line; an indented line continues the one above."""
    groups = {}
    for line in text.strip().splitlines():
        if line.startswith("@"):
            group = groups.setdefault(line[1:], [])
        elif line.startswith(" "):
            group[-1] += line.strip() if group[-1].endswith("|") else " " + line.strip()
        elif line:
            group.append(line)
    return groups


# ----------------------------------------------------------------------------------------------------
# The words. Early words of a list are common, late ones rare (see FLATTEN).

WOMEN = """Zoë, Marta, Agnes, Wilma, Noor, Hedda, Ottilie, Brigid, Jolanda, Greta, Edda, Ursula"""
MEN = """Søren, Tom, Barnaby, Idris, José, Casper, Fergus, Otto, Hugo, Leopold, Rupert, Ezra"""

WORDS = {
    "size": """small, sleepy, crooked, cheerful, damp, stubborn, forgotten, windy, tidy, muddled,
        whitewashed, proud, higgledy-piggledy, respectable, drowsy, steep, peaceful, draughty, lopsided,
        hospitable""",
    "trade": """baker, miller, tailor, fisherman's cousin, clockmaker, beekeeper, cobbler, gardener,
        postmaster, blacksmith, ferry captain, schoolteacher, weaver, potter, lamplighter, carpenter,
        shepherd, cook, fiddler, candlemaker, chimney sweep, piano tuner, hatter, glazier, librarian,
        goatherd, innkeeper, bookbinder, apothecary, net mender, bell ringer, cheesemonger, roof thatcher,
        well digger, button maker, mapmaker, umbrella mender, cartwright, barber, ropemaker, puppeteer,
        organ grinder""",
    "animal": """cat, goose, fox, hen, donkey, otter, crow, goat, hedgehog, owl, badger, duck, squirrel,
        hare, pig, heron, mole, toad, magpie, mouse, dog, pony, rooster, beaver, weasel, robin, ox,
        turtle, swan, snail, seagull, stork, ferret, peacock, raccoon, lynx, newt, jackdaw, pelican,
        stoat, dormouse, puffin, llama, cuckoo, salamander, tortoise, partridge, bullfrog, ram, sparrow,
        turkey, vole""",
    "thing": """kettle, lantern, spoon, umbrella, fiddle, clock, button, key, hat, ladder, bell, teapot,
        basket, bucket, boot, drum, whistle, coat, compass, broom, mirror, thimble, wheelbarrow, trumpet,
        jug, candlestick, map, saddle, scarf, feather, frying pan, pocket watch, rocking chair, telescope,
        hammer, fishing rod, penknife, cushion, walking stick, accordion, tambourine, snuffbox, inkwell,
        birdcage, anchor, rolling pin, cuckoo clock, sieve, lute, corkscrew, weathercock, butter churn,
        waistcoat, tea tray, padlock, magnifying glass, spinning top, sundial, chamber pot, music box,
        nutcracker, hourglass, toasting fork, marble, kite, sledge, bagpipe, paintbrush, doorknob,
        barometer, spade, dinner gong, thermometer, footstool, oar, abacus, egg whisk""",
    "food": """pie, pancake, dumpling, plum tart, honey cake, cheese roll, turnip pasty, onion soufflé,
        apple fritter, ginger biscuit, cherry strudel, potato waffle, pumpkin scone, almond bun, custard
        slice, rhubarb crumble, leek quiche, poppy-seed roll, lemon éclair, mushroom omelette, raisin
        loaf, barley pudding, cinnamon twist, treacle sponge, buckwheat crêpe, pickle sandwich, chestnut
        croquette, walnut torte, nettle flan, spinach knish, gooseberry trifle, cabbage parcel, trout
        pâté, beetroot blini, marmalade muffin, rosemary cracker""",
    "fruit": """plum, apple, pear, cherry, fig, walnut, peach, chestnut, egg, carrot, quince, radish,
        apricot, onion, turnip, hazelnut, lemon, potato, mushroom, tomato, gooseberry, medlar, cucumber,
        strawberry, parsnip, olive, melon, leek, mulberry, beetroot""",
    "colour": """red, blue, green, yellow, grey, brown, white, black, orange, purple, pink, silver,
        golden, crimson, copper, ivory, scarlet, turquoise, violet, mustard-coloured, emerald, rust-red,
        sky-blue, lavender, tawny, indigo, amber, speckled, striped, chequered""",
    "look": """dented, old, shiny, tiny, crooked, heavy, elegant, chipped, enormous, plain, wobbly,
        ornate, squeaky, battered, delicate, lopsided, rusty, well-mended, hand-carved, faintly sticky,
        noble, patched, unreasonable, worm-eaten, second-hand, freshly polished, ancient, dainty, foreign,
        mysterious, ridiculous, sturdy""",
    "mood": """cheerful, careful, stubborn, shy, proud, patient, gloomy, curious, honest, grumpy, gentle,
        thrifty, forgetful, hopeful, brave, absent-minded, polite, naïve, talkative, sensible, blasé,
        dreamy, clumsy, generous, anxious, solemn, fussy, sleepy, practical, quarrelsome, merry,
        superstitious, modest, nosy, unhurried, optimistic, bashful, punctual, sceptical, melancholy,
        tender-hearted, argumentative""",
    "kin": """grandmother, uncle, aunt, grandfather, mother, father, godmother, brother, sister,
        great-aunt, cousin, stepfather, godfather, nephew, old nurse, great-great-uncle, favourite aunt,
        twin, second cousin""",
    "weekday": "Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday",
    "season": "spring, summer, autumn, winter",
    "weather_spring": """soft rain, a wind that smelled of mud, a warm drizzle, a shy sun, a rainbow
        nobody had ordered, mist on the puddles, a shower every hour, a breeze full of blossom, fine
        weather for frogs""",
    "weather_summer": """a heat like an oven, a blazing sun, not one cloud, thunder far off, dust on every
        leaf, a sky like a blue plate, a lazy breeze, wasps in everything, an evening that would not end""",
    "weather_autumn": """fog up to the windowsills, a wind full of leaves, a thin cold rain, smoke in the
        air, a low yellow sun, geese going over, a gale with opinions, drizzle and the smell of apples,
        early dusk""",
    "weather_winter": """snow to the doorstep, a bitter frost, ice on the inside of the windows, hail like
        gravel, a pale little sun, a wind with teeth, a sky the colour of slate, more snow, stars as sharp
        as pins""",
    "landmark": """old mill, stone bridge, village well, crossroads, harbour wall, church steps, crooked
        oak, café by the pump, market hall, ferry landing, lighthouse, blacksmith's yard, ruined tower,
        schoolhouse, duck pond, toll gate, cider press, bakehouse, watermill, town fountain, cemetery
        gate, lime kiln, apple orchard, post office, tollkeeper's hut, standing stones, bandstand,
        boathouse, windmill, weighbridge""",
    "few": "two, three, four, five, six, seven, eight, nine",
    "crowd": """the whole village, everybody, the children, the neighbours, the choir, the mayor's wife,
        three aunts, the fire brigade, half the market, the dominoes club, a passing bishop, the geese on
        the green""",
    "noise": "Hrrm, Brrp, Ahem, Pfff, Mrow, Tock, Honk, Eek, Wuff, Blub, Oink, Kra, Meh, Tu-whit, Squonk",
    "purse": """thirty, forty, fifty, thirty-five, forty-four, thirty-three, forty-two, thirty-nine,
        sixty, ninety""",
    "often": "often, always, at length, secretly, sometimes, once, openly, gladly, rarely, on principle",
    "manner": """gravely, kindly, slowly, softly, crossly, proudly, politely, cheerfully, darkly, sternly,
        hopefully, sweetly, hoarsely, dreamily, loudly, calmly, bitterly, bravely, shyly, thoughtfully,
        grandly, wearily, briskly, nervously, solemnly, tenderly, sideways, mysteriously, gloomily,
        happily, stiffly, gracefully, patiently, absently, firmly, modestly, breathlessly, drily, merrily,
        stubbornly""",
    "thing_word": """dented, old, shiny, tiny, crooked, heavy, red, blue, chipped, enormous, green,
        wobbly, yellow, squeaky, battered, white, lopsided, rusty, grey, borrowed, sticky, brown, wooden,
        patched, silver, worm-eaten, second-hand, polished, black, ancient, golden, dainty, foreign,
        mysterious, broken, copper, ridiculous, sturdy, stolen, musical, mouldy, pink, portable, haunted,
        folding, forgotten, moth-eaten, left-handed, upside-down, priceless, tin, dusty, striped,
        brand-new, singed, slippery, sentimental, bottomless, oversized, nameless, porcelain, purple,
        unpaid, well-travelled, waterproof, spotted, tasselled, knitted, velvet, home-made""",
    "animal_word": """fat, sleepy, hungry, wet, three-legged, elderly, suspicious, white, lame, black,
        proud, furious, one-eyed, lonely, spotted, very small, brown, clever, bald, jealous, runaway,
        short-sighted, noisy, musical, travelling, retired, educated, lovesick, grey, shivering,
        invisible, friendly, famous, disappointed, seasick, philosophical, nervous, barefoot,
        well-dressed, ginger, left-handed, unmarried, stray, learned, muddy, shaggy, hoarse, homesick,
        criminal, sunburnt, greedy, dignified, tame, wicked, bow-legged, plump, unemployed, tipsy,
        orphaned, moulting, feverish, bearded, polite, silent, thirsty, absent-minded""",
    "trade_word": """cheerful, careful, retired, stubborn, shy, young, tall, proud, tired, jolly, gloomy,
        curious, honest, barefoot, grumpy, gentle, short-sighted, thrifty, forgetful, left-handed,
        hopeful, brave, bald, polite, bearded, naïve, talkative, hungry, sensible, lovesick, famous,
        dreamy, clumsy, rich, generous, wandering, anxious, solemn, stout, fussy, sleepy, foreign,
        practical, merry, superstitious, modest, nosy, whistling, freckled, bashful, punctual, blasé,
        red-haired, sceptical, melancholy, widowed, sunburnt, toothless, argumentative, one-armed,
        underpaid, musical, seasick, distinguished, weeping, long-legged""",
    "food_word": """warm, burnt, cold, sticky, small, fresh, stale, buttered, spiced, enormous, sweet,
        salty, half-eaten, golden, soggy, smoked, sour, flat, crisp, round, square, steaming, sugared,
        peppery, lukewarm, crumbly, lumpy, heavy, famous, home-made, peeled, wrinkled, juicy, forbidden,
        honest, toasted, stolen, cheap, glorious, frozen, pickled, bitter, upside-down, roasted, mouldy,
        very old, boiled, tender, leathery, fried, delicate, festive, dry, unusual, raw, overripe,
        blessed, nutty, bite-sized, suspicious, heart-shaped, gigantic""",
    "said": """said, replied, answered, whispered, murmured, declared, announced, muttered, grunted,
        remarked, admitted, explained, mumbled, added, insisted, observed, confessed, repeated, croaked,
        sighed, agreed, growled, suggested""",
    "asked": """asked, enquired, wondered, demanded, whispered, said, wished to know, murmured, muttered,
        put in""",
    "cried": """cried, shouted, exclaimed, roared, bellowed, gasped, squeaked, yelled, screamed, sang,
        called, howled""",
    "went": """went, walked, hurried, trudged, ran, strolled, marched, limped, tiptoed, wandered, hopped,
        skipped, rode, crept, galloped, shuffled, danced, stumbled, cycled, raced, ambled, drifted,
        rolled, sneaked""",
    "found": """found, discovered, spotted, came upon, noticed, recognised, uncovered, saw, unearthed,
        happened upon""",
    "sat": """sat, stood, waited, crouched, dozed, lay, knelt, perched, lingered, slept, hummed, shivered,
        loitered""",
    "met": """met, bumped into, ran into, overtook, came across, greeted, fell over, recognised,
        surprised, stumbled upon""",
    "took": """took, grabbed, seized, accepted, snatched, pocketed, received, carried off, kissed, tried
        out, shouldered""",
    "wanted": "wanted, needed, desired, missed, craved, fancied, longed for, deserved, admired, coveted",
    "room": """kitchen, parlour, garden, cellar, workshop, attic, bathtub, hallway, orchard, stable, front
        room, pantry""",
    "ailment": """a cold, a fever, a toothache, hiccups, a bad foot, the sulks, a broken heart, a head
        like a drum, a stomach ache, nothing much, the measles, a long face, a stiff neck, an unknown
        illness, a good book""",
    "place_head": """Moss, Under, Penny, Salt, Apple, Tern, Owl, Three, Dun, Fiddle, Oat, Sorrel, Goose,
        Bramble, Kettle, Hollow, Tumble, Wex, Vinter, Puddle, Mari, East, Quill, Raven, Thistle, Ember,
        Snor, Lantern, Candle, Crumble, Black, Hazel, Butter, Winter, Nettle, Ship, Fox, Honey, Elder,
        Broad, Cold, Merry""",
    "place_tail": """ley, hill, wick, marsh, ford, haven, bridge, wells, reach, ham, holm, cote, ash,
        down, combe, by, stone, cross, water, mouth, bottom, field, stead, mere, thorpe, gate, brook,
        moor, borough, dale, worth, bury""",
    "pet_title": """Old, Little, Mister, Lady, Captain, Admiral, Sir, Duchess, Professor, Aunt, Sergeant,
        Big, Bishop, Colonel, Princess, Doctor, Baron, Madame, Uncle, Brave, Saint, Emperor, Judge,
        Countess, Poor, Archduke""",
    "pet_word": """Biscuit, Pepper, Plum, Pickle, Thimble, Button, Gravy, Tuppence, Waffles, Hop, Parsnip,
        Crumpet, Mildred, Mustard, Dumpling, Figaro, Cinders, Turnip, Noodle, Smudge, Marzipan, Ludo,
        Radish, Horace, Whiskers, Pudding, Cabbage, Olga, Puff, Nutmeg, Socks, Trudy, Barnacle, Fudge,
        Pompom, Rasputin, Crumb, Velvet, Zorro, Hubert""",
}

RIDDLES = (  # the question and its answer
    ("What has teeth but cannot bite?", "A comb"),
    ("What goes up the hill and down the hill and never moves?", "The road"),
    ("What gets wetter the more it dries?", "A towel"),
    ("What has a neck but no head?", "A bottle"),
    ("What grows when it eats and dies when it drinks?", "A fire"),
    ("What can you break without touching it?", "A promise"),
    ("What follows you all day and leaves you at night?", "My shadow"),
    ("What has hands but never claps?", "A clock"),
    ("What is full of holes and still holds water?", "A sponge"),
    ("What is yours, though others use it more?", "My name"),
    ("What has one eye and never weeps?", "A needle"),
    ("What runs all day and never leaves its bed?", "The river"),
    ("The more you take away, the larger it grows. What is it?", "A hole"),
    ("What speaks every language and has no mouth?", "An echo"),
    ("What is bought by the yard and worn by the foot?", "A carpet"),
    ("What falls all winter and never hurts itself?", "The snow"),
)

# ----------------------------------------------------------------------------------------------------
# The grammar: groups of sentences and phrases.

GRAMMAR = r"""
@open
In the [size] village of [place=place], where [village_fact], lived [a:mood=mood] [trade=trade] called
  [name=hero].
There was once [a:mood=mood] [trade=trade] in [place=place] whose name was [name=hero] and who [habit].
Everyone in [place=place] knew [name=hero] the [trade=trade], who was [mood=mood] on
  (weekdays|Sundays|principle|most days|account of the damp) and [mood] (otherwise|by candlelight|after
  supper|when it rained|the rest of the time).
This is the story of [name=hero], [a:mood=mood] [trade=trade] from [place=place], and (nearly all of it is
  true|the [animal] in it is real|it was told to me by [a:animal]|no [s:animal] were harmed in it).
Long before [place=place] had [a:thing] of its own, it had [a:mood=mood] [trade=trade] named [name=hero],
  who [habit].
Ask anyone in [place=place] for the most [mood=mood] [trade=trade] in the valley, and they will (send you
  to|point at|sigh and name) [name=hero].
At the [size] end of [place=place], between [a:trade] and [a:trade], stood the house of [name=hero],
  [a:mood=mood] [trade=trade] who [habit].
On the day that [name=hero] became the only [trade=trade] in [place=place], people (cheered|shrugged|slept
  late|baked [few] [s:food]|looked the other way), for a more [mood=mood] one had never been born.

@village_fact
nothing had happened since the [animal] fell into the [food]
the clock struck [few] whenever it liked
even the [s:animal] were on first-name terms
there were more [s:animal] than people
people measured distance in [s:food]
every second house belonged to [a:trade]
the main street ended in [a:thing] shop
it was rude to ask about the [thing]

@season
It was [season=season], with [weather@season], and (the whole street|the market|even the church|every
  coat) smelled of [s:food], which suited {hero}.
That [season=season] there was [weather@season] every [weekday], and people (blamed|thanked|wrote
  to|avoided) {hero}.
One [season=season] morning, with [weather@season] outside, {hero} was
  (mending|polishing|painting|hiding|admiring) [a:thing].
The [season=season] had brought [weather@season] and [few] [colour] [s:animal], and {hero} could not say
  which was worse.
Our tale begins in [season=season], in spite of [weather@season], with {hero} (asleep|halfway up a
  ladder|late for breakfast|in a better mood than [a:trade]|looking for a sock).

@companion
{hero} shared the house with [a:animal=pet] named [pet_name=pet_name], who (ate|slept|complained|snored)
  more than {he} did.
With {hero} lived [pet_name=pet_name], [a:mood=pet_mood] [animal=pet] who was fond of [s:food].
As for company, {hero} had only [a:animal=pet] called [pet_name=pet_name], [mood=pet_mood] by nature and
  [colour] by accident.
There was also [a:colour] [animal=pet]. Its name was [pet_name=pet_name] and its opinion of [s:trade] was
  low.
Wherever {hero} went, [pet_name=pet_name] the [animal=pet] went too, usually [few] steps (ahead|behind|to
  the left).

@kin_says
Old sayings ran in the family of {hero}. "[proverb=saying]," {his} [kin=kin] used to say (at breakfast|on
  [weekday]|in hard times).
As for wisdom, "[proverb=saying]," {hero}'s [kin=kin] used to say, (generally to the [animal]|whether it
  fitted or not|and nobody dared to ask why|and then [verb]).
Over {hero}'s door somebody's [kin=kin] had carved the words: "[proverb=saying]."
Above all, {hero} tried to live by the advice of {his} [kin=kin], which was: "[proverb=saying]."

@proverb
Never lend [a:thing] to [a:animal]
Better one [fruit] today than [few] [s:fruit] on [weekday]
Trust the [trade], but count the [s:food]
Feed the [animal] first and ask about the [thing] afterwards
Where there is [a:animal], there will soon be [a:food]
Do not sell the [thing] before you have asked the [animal]
Even [a:mood] [animal] likes [a:food]
A borrowed [thing] sings like [a:animal]
When the [trade] [verb], look to your [s:fruit]
It takes [few] [s:animal] to hide one [thing]
Love is like [a:food]: best when shared with [a:trade]

@hero_aside
{hero} thought about [s:food], which always helped.
For a moment {hero} wished {he} had become [a:trade] instead.
Not far from {hero}, [a:animal] [beast_verb].
If {hero} had a fault, it was [s:food].
Nobody is [mood] all the time, not even {hero}.
Being {mood}, {hero} (began|began again|took [few] deep breaths|asked for [a:food]|made a list).
In {place} such things are settled with [s:food], and {hero} had none.
To this day nobody in {place} but {hero} (can explain it|will discuss it|laughs about it|has told the
  [trade]).
Behind {hero}'s back [crowd] [verb].
Now, [a:mood] [trade] would have given up, but {hero} was {a:trade} and {a:mood} one.

Through the window came [a:animal] with [a:thing], bowed to {hero}, and (out|off|away) it went again.
On a table nearby lay [a:thing] and [few] [s:food], and {hero} ate [a:fruit].
A little later [few] [s:trade] passed by, and {hero} waved at them with [a:thing].
Some say that [a:trade] saw it all from behind [a:thing], but {hero} [verb].
People still argue whether it was [a:animal] or {hero} who [verb].
Years ago {hero} [verb] for less.

@weather_aside
All this time there was [weather@season] over {place}, and {hero} [verb].
Outside it was still {season}, with [weather@season], and {hero} put on a hat.
It was the kind of {season} that made {hero} [mood].
As happens in {season}, there came [weather@season], and {hero} got wet.

@pet_aside
{hero} looked at {pet_name}, and {pet_name} the {pet} [beast_verb].
Meanwhile {pet_name} [beast_verb] and then [beast_verb], as any {pet} would.
Then {pet_name} said, "[noise]," and {hero} knew what {pet_name} meant.
Only {pet_name} was not surprised by {hero}, but then {pet_name} was {a:pet}.
Beside {hero}, {pet_name} [beast_verb] [manner].

@friend_aside
"You are too {mood}, {hero}," [said] {friend} [how].
{friend} looked at {hero} and [verb].
Being {a:friend_trade}, {friend} had seen [worse], and told {hero} so.
Behind {hero}, {friend} [verb].

@worse
worse
about [few] of these before
how [a:animal] does it, and better
nothing like it since [weekday]
this coming

@kin_aside
It was just as {hero}'s [old] {kin} had always said: "{saying}."
"{saying}," thought {hero}, and [verb].
What had {hero}'s {kin} said? "{saying}." It was (no help at all|a great comfort|truer than ever|worth a
  try).

@old
dear old
wise
poor
late
remarkable

@lost_title
The Lost [T:thing=thing]

@lost_had
What {hero} loved best was {his} [colour=colour] {thing}, [look=look] as it was, the gift of {his}
  [kin=giver].
Above {his} door hung [a:colour=colour] {thing}, [look=look] and (older than the door|worth [few]
  [s:fruit] at most|never once dusted|much admired by [s:animal]), which {hero} had from {his}
  [kin=giver].
Of all {hero}'s belongings none was dearer than the [look=look] [colour=colour] {thing} that {his}
  [kin=giver] had left {him}.
From {his} [kin=giver] {hero} had inherited [few] debts and one [colour=colour] {thing}, [look=look] but
  {his} own.

@lost_gone
One [weekday=day] {hero} woke, and the {thing} was gone.
Then came [weekday=day]. {hero} reached for the {thing} and [found] [a:food] in its place.
But on [weekday=day], between breakfast and [a:food], the {colour} {thing} vanished, and {hero} [verb].
So imagine the (silence|uproar|long face|rattling of cupboards) when {hero} looked up, one [weekday=day],
  and the {thing} was not there.

@lost_search
Under [a:thing] {hero} came upon [few] [s:animal], under [a:thing] [a:food], and under [a:trade] nothing.
People brought {hero} [a:thing] and [few] [s:thing], but {hero} shook {his} head at them all.
{hero} looked [hiding] and [found] only [a:thing].
Then {hero} searched [hiding], where [a:mood] [animal] [beast_verb].
Next {hero} turned everything upside down [hiding], and out (fell|rolled|crept|came) [few] [s:fruit].
There was nothing [hiding] for {hero} except [a:look] [thing] and the smell of [s:food].
Neither [hiding] nor [hiding] could {hero} see any sign of {a:thing}.
After that {hero} put up a sign: "Lost, one {thing}. Reward, [few] [s:food]."

@lost_ask
In the end {hero} [went] to [name=friend] the [trade=friend_trade], who knew everything that was lost in
  {place}.
At the [landmark] {hero} [met] [name=friend], [a:mood=friend_mood] [trade=friend_trade] with [a:food] in
  each hand.
It was [name=friend], the [trade=friend_trade], who finally asked what the matter was.

@lost_question
"What does it look like?" [asked] {friend}. "{^:look}," [said] {hero}, "and {colour}, and it came from my
  {giver}."
"Is it [look]?" [asked] {friend} [how]. "No," [said] {hero}, "it is {look}, and it is {colour}."
"Not [a:colour] one, by any chance?" {friend} asked. "{A:colour} one," [said] {hero}. "{^:look}. I have
  missed it since {day}."
"Describe it," [said] {friend} the {friend_trade}. {hero} did: {a:thing}, {colour}, {look}, last seen on
  {day}.

@lost_clue
{friend} [verb]. "Since {day}," {friend.he} said, "I have heard [a:animal=thief] [hiding=where], and it
  sounded [mood]."
"Strange," [said] {friend}. "There is [a:animal=thief] living [hiding=where], and lately it has looked
  rather [mood]."
"My friend," [said] {friend} [how], "only [a:animal=thief] steals on {a:day}. Try [hiding=where]."

@lost_found
{hero} and {friend} went to look. And there, {where}, [sat] {a:thief} with the {colour} {thing} (on its
  head|in its lap|full of [s:fruit]|polished like a mirror).
Off went {hero} with {friend}, and sure enough, {where}, {hero} [found] the {thing}, and beside it
  {a:thief}, who [beast_verb].
So {hero} and {friend} crept up on tiptoe and looked {where}. There was the {look} {thing}. There was the
  {thief}.

@lost_price
The {thief} would give it back to {hero} for [few=price] [s:food=fee] and not one fewer.
"I was only keeping it warm, {hero}," [said] the {thief}. "But [few=price] [s:food=fee] would ease the
  pain of parting."
"Finders keepers," [said] the {thief} [how], "unless {hero} has [few=price] [s:food=fee] about {him}."

@lost_paid
{hero} paid {price} {s:fee}, {friend} carried the {thing}, and by [weekday] it hung in its old place
  again.
So {hero} [went] home, baked {price} {s:fee}, and the {thief} kept its word, more or less.
Next (morning|evening|day|week) {hero} put {price} {s:fee} on the doorstep, and an hour later there stood
  the {colour} {thing} instead.
The bargain was struck: {price} {s:fee} for the {thief}, one {look} {thing} for {hero}, and [a:food] for
  {friend}.

@trade_title
From [T:thing=first] to [T:thing=dream]
One [T:thing=first] for One [T:thing=dream]

@trade_want
More than anything {hero} [wanted] {a:dream}, but all {he} owned was {a:first}, [look] and
  [colour=colour].
Every night {hero} dreamed of {a:dream}. Every morning {he} woke up with nothing but [a:colour=colour]
  {first}.
Owning [a:colour=colour] {first} is a fine thing, but {hero} had set {his} heart on {a:dream}.

@trade_go
Past [few] [s:trade], [few] [s:animal] and [a:thing] {hero} walked, with the {first} on {his} back.
So on [weekday] {hero} put the {first} under one arm and set out for the [landmark].
"Now {a:first} is not {a:dream}," {hero} said [how], "but it is a beginning," and {he} packed [few]
  [s:food] and left.
Therefore {hero} took the {first} and [went] to [place] market, [manner].

@trade_swap
At the [landmark] {hero} [met] [name=with] the [trade=job], who (had no use for|was tired of|had just
  quarrelled over|sold) [a:thing=got] and badly needed {hero}'s {have}.
Along came [name=with], [a:mood] [trade=job] carrying [a:look] [thing=got]. "Is that {a:have}?" {with}
  asked {hero}.
Near the [landmark] [sat] [name=with] the [trade=job], weeping into [a:thing=got] for want of {hero}'s
  {have}.
Before long [a:trade=job] called [name=with] offered {hero} [a:thing=got] for the {have}.
Some way on, [name=with], who was [a:trade=job] by day and [mood] by night, held up [a:thing=got] and eyed
  {hero}'s {have}.
Who should come by but [name=with] the [trade=job], with [a:thing=got] for {hero} and no {have} at all.

@trade_deal
"Done," [said] {hero}, and the {have} became {a:got}.
{hero} and {with} shook hands on it: one {have} for one {got}.
{with} [took] the {have}, {hero} [took] the {got}, and both [verb].
It took [few] [s:food] to agree, but in the end {hero} had the {got} and {with} the {have}.
Fair is fair. {hero} left with the {got} and a light heart.

@trade_last
And there, at the [landmark], [sat] [name=with] the [trade=job] with {a:dream}, looking for {hero}'s
  {have}.
Finally, on [weekday], {hero} found [name=with], [a:trade=job], who owned {a:dream} and would have sold it
  for {a:have}.
Then, as if it had been arranged, [a:trade=job] named [name=with] asked {hero}: "{A:dream} for your
  {have}?"

@trade_home
When {hero} [went] home, [crowd] wanted to know how it was done.
Back in {place} [crowd] gathered to hear {hero}'s tale.
That evening [crowd] sat in {hero}'s [room] and asked {him} how.

@trade_recite
"Easily," [said] {hero}. "{p0} gave me the {dream} for the {have};
Well, {hero} [verb] and began: "{p0} gave me the {dream} for the {have};
So {hero} counted it off, last things first: "{p0} gave me the {dream} for the {have};

@trade_end
And what did {hero} do with the {dream}? {He} (hung it on the wall|gave it to {his} [kin]|used it for
  [s:food]|lent it to {with}).
The {dream} is still in {place}, and the {first} is still with {p1}, and both (squeak|shine|are happy|need
  mending).
Only much later did {hero} find that {he} missed the {first}, and went to visit {p1}, who let {him} hold
  it.

@contest_title
The Great [T:food=dish] Contest

@contest_open
{hero} saw posters on every [thing]: a contest, open to every [trade] and [trade], for the best {dish}.
  First prize, [a:thing=prize].
Every {season} {place} held a contest for the best {dish}, and {hero} never missed it. The prize was
  [a:look] [thing=prize].
There was to be a contest, and {hero} heard of it. Whoever made the best {dish} would win [a:colour]
  [thing=prize].
The mayor had offered {hero} and everyone [a:look] [thing=prize] for the finest {dish} in {place}, and
  (tempers|ovens|chimneys|moustaches) were already smoking.

@contest_rival
For [few] years it had been won by [name=rival], [a:mood=rival_mood] [trade=rival_trade]. {rival} [habit].
Against {hero} stood [name=rival] the [trade=rival_trade], [mood=rival_mood] and very clean.
Only one other person dared to enter: [name=rival], the [mood=rival_mood] [trade=rival_trade].

@contest_judge
The judge was [name=judge], [a:trade=judge_trade]. {judge} had not eaten since [weekday].
As judge they chose [name=judge] the [trade=judge_trade], because [judge_why].
Nobody could be found to judge except [name=judge], [a:mood] [trade=judge_trade] with one good tooth.

@judge_why
nobody else was hungry
{judge.he} had once met [a:animal]
{judge.he} owed money to both sides equally
{judge.he} could not be bribed, except with [s:fruit]

@contest_round1
In the first round they had to bake in spite of [weather@season], and {judge} gave {hero} [few=h1] points
  and {rival} [few=r1].
First came the tasting. "[few=h1] points for {hero}," [said] {judge}, "and [few=r1] for {rival}."
The first round was for looks: {hero} got [few=h1] points, {rival} got [few=r1].

@contest_round2
In the second round {hero}'s {dish} tasted of [s:fruit] and earned [few=h2] points; {rival}'s tasted of
  [s:thing] and earned [few=r2].
Second came the smell. {judge} sniffed [few] times and wrote down [few=h2] for {hero} and [few=r2] for
  {rival}.
The second round went badly for [crowd], but {hero} made [few=h2] points and {rival} made [few=r2].

@contest_count
{judge} the {judge_trade} counted on both hands. {hero} had {h1} and {h2}, which makes {h}. {rival} had
  {r1} and {r2}, which makes {r}.
Then the sums were done in chalk: {h1} and {h2} is {h} for {hero}, {r1} and {r2} is {r} for {rival}.
"For {hero}, {h1} plus {h2}, that is {h}," [said] {judge} [how]. "For {rival}, {r1} plus {r2}, that is
  {r}."

@contest_won
So {hero} won the {prize}, and {rival} [verb].
With {h} points against {r}, the {prize} went to {hero}, who [verb] and then [verb].
{^:h} is more than {r}, even in {place}, and {judge} handed {hero} the {prize} [manner].

@contest_lost
So {rival} won the {prize}, and {hero} [verb].
With {r} points against {h}, the {prize} went to {rival}, who was not even [mood] about it.
{^:r} is more than {h}, even in {place}, and {judge} handed {rival} the {prize} [manner].

@contest_tie
It was a draw at {h} all, so {judge} kept the {prize}.
With {h} points each, they agreed to share the {prize}: {hero} on weekdays, {rival} on Sundays.

@contest_after
"Next year," [said] {rival} the {rival_trade} [how], "I shall use [s:fruit]."
Afterwards {hero} and {rival} ate what was left of the {dish} and agreed that it needed [s:fruit].
{rival} asked for the recipe. {hero} gave it, leaving out the [s:fruit].

@road_title
The Long Road to [place=goal]

@road_why
{hero}'s [kin=relative] in {goal} was about to marry [a:trade], and {hero} had promised to bring
  [a:thing=gift].
A letter had come to {hero} from {goal}: "Bring [a:thing=gift]. Do not ask why. Your loving
  [kin=relative]."
Far away in {goal}, {hero}'s [kin=relative] lay in bed with [ailment] and asked only for [a:thing=gift].

@road_pack
{hero} packed [a:thing=tool1], [a:thing=tool2] and [few=bread] [s:food=ration], and put the {gift} on top.
Into {hero}'s bag went the {gift}, [a:thing=tool1], [few=bread] [s:food=ration] and, for no clear reason,
  [a:thing=tool2].
"{A:gift}, [a:thing=tool1], [a:thing=tool2], [few=bread] [s:food=ration]," {hero} counted, and closed the
  bag.

@road_day
All through the {nth} day {hero} followed [a:animal] past [few] [s:thing] and [a:trade], and (at noon|at
  dusk|at last) ate [meal=eaten].
On the {nth} day there was [weather@season], and {hero} ate [meal=eaten] and slept [hiding].
The {nth} day {hero} walked with [a:trade] who [habit], and ate [meal=eaten].
{^:nth} day: [few] hills, [few] [s:animal], and {hero} had eaten [meal=eaten].
By the evening of the {nth} day {hero} had passed the [landmark], eaten [meal=eaten] and met [a:mood]
  [animal].

@road_left
That left {hero} {left}.
Now there remained {left} in {hero}'s bag.
{^:left} still to go, {hero} counted.

@road_trouble1
A river barred the way. {hero} used the {tool1} as [a:thing] and crossed it [manner].
Then robbers came, [few] of them, but {hero} waved the {tool1} so [mood_ly] that they ran.
Halfway there [a:animal] blocked the road and would not move until {hero} gave it the {tool1} to play
  with.

@mood_ly
bravely
strangely
wildly
gracefully
professionally

@road_trouble2
In the forest it grew so dark that {hero} could see only the {tool2}.
At the toll gate they wanted [few] coins. {hero} offered the {tool2}, and it was enough.
Later [a:trade] with a broken cart begged for {a:tool2}, and {hero}, who had one, [verb].

@road_arrive
After {days} {hero} stood at the [colour] door in {goal}, and {his} {relative} took the {gift} and [verb].
So it was that, {days} after leaving {place}, {hero} put the {gift} into the hands of {his} {relative}.
In {goal} at last! {^:days}, [few] blisters, and {hero} still had the {gift}.

@road_tell
"Did you have trouble?" [asked] the {relative}. "None," [said] {hero}, "that {a:tool1} and {a:tool2} could
  not cure."
"And where is your {tool1}?" [asked] {his} {relative} [how]. "That," [said] {hero}, "is a long story," and
  {he} told it.
The {relative} had baked [few] [s:food]. After so many {s:ration}, {hero} [verb] with joy.

@supper_title
Supper for [T:few=guests]

@supper_invite
{hero} had invited {guests} guests for [weekday=day], and each was to bring [few=each] [s:fruit=fruit].
For supper on [weekday=day] {hero} had asked {guests} friends, and told each of them to bring [few=each]
  [s:fruit=fruit].
The plan of {hero} for [weekday=day] was simple: {guests} guests, [few=each] [s:fruit=fruit] from every
  one of them, and a pot as big as [a:animal].

@supper_names
First came [name=g1] the [trade=j1], then [name=g2] the [trade=j2], [manner].
At the door [sat] [name=g1], [a:mood] [trade=j1], and behind {g1.him} [name=g2], [a:trade=j2] in
  [a:colour] hat.
Early as always was [name=g1] the [trade=j1]; late as always was [name=g2] the [trade=j2].

@supper_sum
{^:guests} times {each} is {total}, so {hero} had {total} {s:fruit} on the table.
On {hero}'s table lay {total} {s:fruit}, for {guests} times {each} is {total}, even in {place}.
"{^:guests} guests and {each} {s:fruit} each," [said] {g1}, "makes {total}." {g2} counted, and it did.

@supper_cook
{hero} put [upto=eaten] {s:fruit} into [a:food] the size of [a:thing].
Into the pot went [upto=eaten] {s:fruit}, [a:thing] (by mistake|for flavour|on the advice of {g1}) and
  some salt.
{hero}, {g1} and {g2} ate [upto=eaten] {s:fruit} and (sang|argued|wept a little|told lies) until the
  candles were short.

@supper_left
That left {hero} {left} for breakfast.
Of the {total}, then, {left} remained for {hero}.
"{^:total} less {eaten}," [said] {g2} the {j2}, "is {left}." Nobody argued with {a:j2}.

@supper_thief
In the middle of it [a:animal=thief] came in past {g1} and made off with {g2}'s [thing=loot].
Suddenly [a:animal=thief] appeared behind {g1} with {g2}'s [thing=loot] in its mouth.
But who had invited [a:animal=thief]? It sat down beside {g1}, wearing {g2}'s [thing=loot].

@supper_chase
{g1} the {j1} ran after the {thief}, {g2} fell over {g1}, and the {loot} landed in the soup.
"My {loot}!" [cried] {g2}. "My soup!" [cried] {hero}. The {thief} [beast_verb].
It took {g1}, {g2} and [few] [s:food] to make the {thief} give back the {loot}.

@supper_story
For pudding {hero} brought [a:food] with [s:fruit], and {g1} [verb].
Then {g1} told the one about [a:animal] and [a:trade], and {g2} [verb] in all the wrong places.
{g2} the {j2} had brought [a:thing] and played it [manner], and {g1} [verb].
When {g2} asked for the recipe, {g1} [verb], because {g1.he} had seen {hero} use [a:thing].

@supper_bye
At midnight {g1} the {j1} [went] home with [a:food] in each pocket, and {g2} the {j2} with [few].
"Until next [weekday]," [said] {g1}. "Until next {season}," [said] {g2}, who ate slowly.
{g1} and {g2} agreed that {hero}'s supper had been the best since the [animal] came to stay.

@letter_title
The Letter in the [T:thing=hide]

@letter_find
On [weekday] {hero} shook the {hide} and a letter fell out, [look] and smelling of [s:fruit].
Inside {his} old {hide}, under [few] dead moths, {hero} [found] a letter sealed with [colour] wax.
The {hide} had rattled for years, and now {hero} knew why: there was a letter in it.

@letter_text
"Come to the [landmark=spot] on [weekday=day] at [few=hour]," it said. "Bring [a:thing=token]. Tell no
  [trade]. Yours, [name=writer]."
It read: "Whoever finds this, be at the [landmark=spot] on [weekday=day] at [few=hour], with
  [a:thing=token]. Signed, [name=writer]."
"Dear finder," it began, "I shall wait at the [landmark=spot] on [weekday=day] at [few=hour]. You will
  know me by [a:thing=token]. [name=writer]."

@letter_ask
{hero} showed it to [name=friend] the [trade=friend_trade], who held it up to the light and [verb].
First {hero} asked [name=friend], [a:mood] [trade=friend_trade], who knew (every hand|every secret|a lot
  of gossip) in {place}.
There was only one person to ask: [name=friend] the [trade=friend_trade].

@letter_answer
"{writer}?" said {friend}. "{writer} was [a:trade=writer_trade] here, [few] winters ago, and left without
  a word."
"The only {writer} I know," [said] {friend}, "is [a:trade=writer_trade] who went to sea over [a:food]."
"{writer}!" [cried] {friend}. "The [trade=writer_trade] who [habit]! Go, and take [a:food] with you."

@letter_wait
Until {day} {hero} lived on [s:food] and [s:fruit]. Then {he} took {a:token} and was at the {spot} by
  {hour}.
{day} came, and at {hour} {hero} [sat] at the {spot} with {a:token} and a beating heart.
On {day} {hero} was at the {spot} long before {hour}, holding {a:token} like [a:food].
Nobody sleeps well before such a {day}. At {hour} {hero} went to the {spot}, {token} and all.

@letter_meet
There [sat] {writer} the {writer_trade}, and {writer} looked at {hero} and [verb].
Out of [weather@season] stepped {writer}, once {a:writer_trade}, and {hero} [verb].
"You have the {token}, {hero}," [said] a voice. It was {writer}, the {writer_trade}, [mood] and [mood].
From behind the {spot} came [a:animal], and behind it came {writer} the {writer_trade}. {hero} [verb].

@letter_truth
"I hid that letter in the {hide} for my [kin]," [said] {writer} [how], "but you will do, {hero}. Can you
  cook [s:food]?"
"I only wanted my {token} back," [said] {writer}, "and did not know how to ask." So {hero} gave it to
  {writer.him}.
It was about [few=debt] [s:food=owed]. {writer} had owed them to {his} [kin] since the [animal] year, and
  now {writer.he} paid all {debt}.

@letter_end
{friend} the {friend_trade} wanted to know everything, and {hero} said only: "It was a very nice {token}."
From then on {writer} and {hero} met at the {spot} every {day} at {hour}.
And the {hide}? {hero} put a new letter into it. It began: "Come to the {spot} on [weekday]."

@storm_title
The Storm That Took the [T:thing=one]

@storm_comes
From [weekday=day] to [weekday] it blew so hard that [a:trade], [a:animal] and [few] [s:food] were seen by
  {hero} over the [landmark].
On [weekday=day] the wind got up, knocked over {hero} and (blew out|ate|swallowed|insulted) every candle
  in {place}.
It began on [weekday=day] at supper. By midnight {hero} saw [colour] [s:animal] in the air.
The storm came to {hero} on [weekday=day] without knocking.

@storm_takes
First it took {hero}'s {one} from [hiding], then [a:thing=two] and the [colour=colour] [thing=three].
Away flew {hero}'s {one}. Away flew [a:thing=two]. Away, last of all, flew the [colour=colour]
  [thing=three].
{hero} held on to the [colour=colour] [thing=three] until that went too, after the {one} and
  [a:thing=two].

@storm_morning
In the morning {hero} made a list: {one}, {two}, {three}, all gone.
When it was over {hero} had no {one}, no {two} and no {three}, but [few] strange [s:thing] lay in the
  garden.
The sun came up as if nothing had happened. "My {one}," [said] {hero}, "my {two}, my {three}!"

@storm_return
A knock: [name=with] the [trade=job] had found the {item} [hiding] and brought it to {hero}.
By noon {hero} [met] [name=with], [a:trade=job] who was wearing the {item} and blushed.
Somebody shouted. It was [name=with], [a:mood] [trade=job], pulling the {item} out of [a:animal]'s nest.
The {item} had landed on [name=with] the [trade=job], who gave it back to {hero}.
"Is this yours?" [asked] [name=with] the [trade=job], and held up the {item}. "It came down my chimney on
  {day}."
At the [landmark] a crowd stood around the {item}. "It fell on me," [said] [name=with] the [trade=job],
  not without pride.

@storm_thanks
{hero} thanked {with.him} and gave {with.him} [few] [s:food].
"Keep the [fruit] that is in it," [said] {hero}.
{with} bowed to {hero}, [took] [a:food] and [went] home.
It was [look] now, but it was home, and {hero} [verb].

@storm_party
So {hero} asked them all to supper: {p1} who had found the {one}, {p2} who had found the {two}, and {p3}
  with the {three}.
That night there were toasts. To {p1} for the {one}! To {p2} for the {two}! To {p3} for the {three}!
In the end, thanks to {p1} the {q1}, {p2} the {q2} and {p3} the {q3}, the {one}, the {two} and the {three}
  were home.

@riddle_title
The Riddle of the [T:animal=asker]

@riddle_meet
At the [landmark=spot] lived {a:asker} that let nobody pass, not even {hero}, without answering a riddle.
One [weekday] {hero} wanted to cross by the [landmark=spot], but in the way [sat] {a:asker}, [colour] and
  [mood].
Now, the {asker} at the [landmark=spot] had a riddle for {hero}, and whoever failed it lost
  [a:thing=stake].

@riddle_terms
"Three guesses, {hero}," [said] the {asker} [how], "and if you are wrong you owe me [few=fine]
  [s:food=fee]."
The {asker} looked at {hero}. "You may guess three times. A wrong answer costs [few=fine] [s:food=fee]."
"Answer, {hero}, or pay [few=fine] [s:food=fee]," [said] the {asker}. "Those are the rules, and I made
  them on [weekday]."

@riddle_ask
"Listen, {hero}," it said. "[riddle=riddle]"
It cleared its throat and asked {hero}: "[riddle=riddle]"
The question for {hero} was this: "[riddle=riddle]"

@riddle_wrong1
{hero} thought of [s:fruit] and of [s:animal]. "Is it [a:thing=guess1]?" {he} asked. "It is not," [said]
  the {asker}.
Without thinking {hero} cried, "[A:thing=guess1]!" The {asker} [verb].
"That is easy," [said] {hero}. "[A:thing=guess1]." But it was not {a:guess1}.

@riddle_help
So {hero} [went] off to ask [name=friend] the [trade=friend_trade], who (was good at riddles|knew every
  [animal] for miles|had [few] clever aunts).
Luckily [name=friend] came by, [a:mood] [trade=friend_trade] with [a:thing] on one shoulder.
Home {hero} [went] through [weather@season] and woke [name=friend] the [trade=friend_trade].

@riddle_repeat
"Say it again," [said] {friend}. "{riddle}" said {hero}, word for word.
"{riddle}" {hero} repeated. {friend} [verb].
"How does it go?" [asked] {friend} [how]. "{riddle}" said {hero}.

@riddle_wrong2
"Then it must be [a:thing=guess2]," [said] {friend}. They tried that, and the {asker} [verb] with delight.
"Obviously [a:thing=guess2]," [said] {friend} the {friend_trade} [how]. It was not {a:guess2}.

@riddle_last
"Not {a:guess1}, not {a:guess2}, {hero}," [said] the {asker}. "One more, or it is {fine} {s:fee}."
Two guesses gone, {a:guess1} and {a:guess2}! {hero} could almost smell the {fine} {s:fee}.
"Remember, {hero}, {fine} {s:fee}," whispered the {asker}, and licked its lips.

@riddle_solve
Just then {friend} [verb], and {hero} knew. "{answer}!" {he} cried. The {asker} turned [colour] and
  stepped aside.
{hero} looked at the sky, and at {friend}, and at {his} own feet. "{answer}," {he} said [how]. And it was.
"I have it," [said] {hero} slowly. "{answer}." There was a long silence. Then the {asker} [verb].

@riddle_after
With the {asker} out of the way {hero} and {friend} crossed the {spot}, and [s:trade] crossed after them.
From that day the {asker} at the {spot} had to think of a new riddle, and {hero} says that it is still
  thinking.
Out of pity {hero} baked the {fine} {s:fee} all the same, and {friend} and the {asker} shared them.
Every [weekday] since then {friend} and the {asker} play cards at the {spot}, for [s:food].

@borrow_title
The Borrowed [T:thing=thing]

@borrow_need
One [weekday] {hero} needed {a:thing}, and the only one in {place} belonged to [name=friend] the
  [trade=friend_trade].
Nobody but [name=friend], [a:mood] [trade=friend_trade], owned {a:thing}, and it was [look=look] and much
  loved.
There was a wedding to go to, and {hero} had no {thing}. But [name=friend] the [trade=friend_trade] had
  one.

@borrow_promise
"You may have it," [said] {friend}, "if I get it back by [weekday=due], together with [few=rent]
  [s:food=fee]." {hero} promised.
{hero} gave {his} word: the {thing} would be back on [weekday=due], and [few=rent] [s:food=fee] with it.
"Until [weekday=due]," [said] {friend} [how], "and bring [few=rent] [s:food=fee]." They shook hands on it.

@borrow_joy
Within a week {hero} had shown the {thing} to [a:trade], [few] [s:trade], [a:animal] and [a:animal], and
  each one [verb].
For [few] happy days {hero} used the {thing} for everything, even for [s:food].
Oh, what {a:thing} it was! {hero} [verb] with it, and [crowd] [verb].
With the {thing} {hero} could [deed], and so {he} did, [manner].

@deed
frighten [s:animal]
impress [a:trade]
catch [s:fruit] in mid-air
make the [animal] sing
stir [few] [s:food] at once

@borrow_loss
Then, the day before {due}, it slipped from {hero}'s hand and was carried off by [a:animal=thief].
But on the way home {hero} sat down by the [landmark=spot] for a nap, and when {he} woke the {thing} was
  gone.
Alas, [a:animal=thief] saw {hero} with the {thing}, and liked it.
{hero} had promised, but [a:animal=thief] had promised nothing, and took the {thing} away [hiding].

@borrow_fear
"What shall I tell {friend}?" thought {hero}, and [verb].
Tomorrow was {due}. {hero} saw the face of {friend} the {friend_trade} in every puddle.
{hero} could bake {rent} {s:fee}, but who can bake {a:thing}?

@borrow_hunt
All night {hero} searched [hiding], [hiding] and [hiding], with [a:thing] for a lamp.
{hero} asked [a:trade], [a:trade] and [a:animal], and only the last was any help.
{hero} followed a trail of [s:fruit] as far as the [landmark], where [a:animal] [beast_verb].

@borrow_found
And at dawn {hero} saw the {thing}, [hiding], with [few] [s:animal] asleep inside.
There it lay at last before {hero}, [hiding], (none the worse|a little the worse|wet but well|shinier than
  before).
At cockcrow {hero} [found] it in the hands of [a:trade], who had thought it was [a:food].

@borrow_return
On {due}, as promised, {hero} knocked at the door of {friend} with the {thing} and {rent} {s:fee}.
So on {due} {friend} got the {thing} back from {hero}, and with it {rent} warm {s:fee}.
{due} it was, and there stood {hero}: in one hand the {thing}, in the other {rent} {s:fee}.

@borrow_end
"Was there any trouble?" [asked] {friend} [how]. "With {a:thing}?" said {hero}. "Never."
{friend} ate {rent} {s:fee} without a word and then said to {hero}, "Next time, borrow the [thing] too."
"Keep it, {hero}," [said] {friend}. "Since you took it, I have got used to [a:thing]."

@market_title
Market Day in [place=town]

@market_list
{hero}'s [kin=boss] gave {him} [purse=purse] coins and a list: [a:thing=buy1], [a:colour=colour]
  [thing=buy2] and [few=many] [s:fruit=fruit].
"Here are [purse=purse] coins, {hero}," [said] {his} [kin=boss]. "Buy [a:thing=buy1], [a:colour=colour]
  [thing=buy2] and [few=many] [s:fruit=fruit]."
With [purse=purse] coins from {his} [kin=boss] {hero} was to buy [few=many] [s:fruit=fruit],
  [a:thing=buy1] and [a:colour=colour] [thing=buy2].

@market_walk
Everyone was going to {town}: [s:trade] with [s:thing], one [animal] with [a:thing], and {hero}.
The road to {town} was full of [s:trade], and {hero} said the list over and over: {buy1}, {colour} {buy2},
  {many} {s:fruit}.
"Oh, {buy1}, {buy2}, {s:fruit}," {hero} sang all the way to {town}, to the tune of [a:animal] in a hurry.
In {town} {hero} saw [s:animal] for sale, and [s:food], and [a:trade] who [habit].

@market_stall1
First {hero} [found] {a:buy1} at the stall of [name=seller1] the [trade=sells1], for [few=cost1] coins.
The {buy1} cost [few=cost1] coins, and [name=seller1], who sold it, [verb].
When {hero} picked up [a:look] {buy1}, [name=seller1] the [trade=sells1] said, "[^:few=cost1] coins," and
  {he} paid.

@market_rest1
That left {hero} {rest1} of the {purse}.
Now {hero} had {rest1} coins.
{^:rest1} coins jingled in {hero}'s pocket.

@market_stall2
Then, from [name=seller2], [a:mood] [trade=sells2], {hero} bought the {colour} {buy2} for [few=cost2].
There was only one {colour} {buy2} in all {town}, and [name=seller2] the [trade=sells2] wanted [few=cost2]
  coins for it.
Then [a:trade=sells2] called [name=seller2] showed {him} [few] [s:thing] before {hero} saw the {colour}
  {buy2}, for [few=cost2] coins.

@market_rest2
{^:rest1} less {cost2} is {rest2}, {hero} reckoned.
So {hero} had {rest2} coins left.
That made {rest2}, and {hero} counted them [few] times.

@market_stall3
Last came the {s:fruit}: {hero} took {many} of them, one coin each.
The {many} {s:fruit} cost a coin apiece, and {hero} chose them [manner].
{^:many} {s:fruit} for {many} coins: even {hero} could work it out.

@market_rest3
Homeward {hero} [went] with {rest3} in {his} pocket.
Of the {purse} coins, {rest3} remained to {hero}.
And {hero} had {rest3} left over!

@market_home
"The {buy1}?" [asked] {hero}'s {boss}. "Here." "The {colour} {buy2}?" "Here." "{^:many} {s:fruit}?"
  "Here," [said] {hero}, "nearly."
{His} {boss} laid it all out: {a:buy1}, {a:colour} {buy2}, {many} {s:fruit}. "And how much is left?"
  "{^:rest3}," [said] {hero}.
At home the {boss} [verb]. "From {seller1}? For {cost1} coins? And {cost2} to {seller2}? In my day one
  paid in [s:food]!"

@quarrel_title
Whose Is the [T:thing=thing]?

@quarrel_start
On [weekday=day] [name=left] the [trade=left_trade] and [name=right] the [trade=right_trade] came to
  {hero}, each holding one end of {a:thing}.
To {his} door on [weekday=day] came [name=left], [a:trade=left_trade], and [name=right],
  [a:trade=right_trade], both red in the face and both holding the same {thing}.
Early on [weekday=day] shouting was heard in the lane. It was [name=left] the [trade=left_trade] and
  [name=right] the [trade=right_trade], and between them {a:thing}.

@quarrel_left
"It is mine, {hero}," [said] {left}. "I had it from my [kin=left_kin], and it has [a:colour=left_mark]
  spot on the bottom."
{left} spoke first: "My [kin=left_kin] gave it to me. Look for [a:colour=left_mark] spot underneath."
"Every [animal] knows it is mine," [said] {left}, "from my [kin=left_kin], with [a:colour=left_mark] spot
  below."

@quarrel_right
"Lies," [said] {right} [how]. "I won it from [a:trade=right_from], and the spot is [colour=right_mark]."
{right} [verb]. "It came to me from [a:trade=right_from], for [few] [s:food], and the spot on it is
  [colour=right_mark]."
"I bought it, {hero}," [said] {right}, "from [a:trade=right_from] with one ear, and every fool knows that
  the spot is [colour=right_mark]."

@quarrel_think
{left} looked at {right}, {right} looked at {hero}, and {hero} asked for [a:food].
The {thing} lay between {left} and {right}, and {hero} looked at {left}, at {right} and at the {thing}.
The {thing} was put on the table between {left} and {right}, and nobody was allowed to [deed].
"So," [said] {hero} [how], "{left_mark}, says {left}, and {right_mark}, says {right}."
"From {a:right_from}, or from {a:left_kin}," [said] {hero}. "That is the question, and I need [a:food] to
  answer it."

@quarrel_test
Then {hero} said: "We shall saw it in half." {left} [verb]. {right} [verb].
{hero} sent for [a:animal=witness], which sniffed at {left}, sniffed at {right} and [beast_verb].
So {hero} asked each of them to play [a:thing] on it, or failing that, [a:food].

@verdict_left
They turned the {thing} over. The spot was {left_mark}. "{left}," [said] {hero}, "it is yours."
Under the dust there was a spot, and it was {left_mark}, just as {left} had said.
{hero} scratched at it with [a:thing]. {^:left_mark}! {right} the {right_trade} [verb].

@verdict_right
They turned the {thing} upside down. The spot was {right_mark}. "{right}," [said] {hero}, "it is yours."
Beneath the dirt there was a spot, and it was {right_mark}, just as {right} had said.
A drop of vinegar, a rub, and the spot shone {right_mark}! {left} the {left_trade} [verb].

@verdict_none
The spot, it turned out, was [colour=mark]. "Not {left_mark}," [said] {hero}, "and not {right_mark}. I
  shall keep it myself."
It had no spot at all, neither for {left} nor for {right}, and {hero} kept it.

@quarrel_after
{left} and {right} have been friends since that {day}, and lend each other [s:thing].
To make peace, {left} baked [few] [s:food] and {right} ate them.
On their way out {left} the {left_trade} trod on the foot of {right} the {right_trade}, but only once.

@end_kin
And if you ask {hero} what it all means, {he} says: "{saying}."
{hero} wrote to {his} {kin} that very night: "You were right. {saying}."
Over supper {hero} said to nobody in particular: "{saying}."
So remember what the {kin} of {hero} once said: "{saying}."

@end_pet
{pet_name} the {pet} slept at {hero}'s feet through the end of it.
As for {pet_name}, no {pet} in {place} ever saw {hero} [mood] again.
That night {hero} told the whole story to {pet_name}, and {pet_name} [beast_verb].
In all this {hero} had not fed {pet_name}, and the {pet} [beast_verb].

@end_plain
There was dancing afterwards, with {hero} on [a:thing], [few] [s:animal] on [s:thing] and [s:food] for
  all.
Everybody got [a:food], except {hero}, who got [a:thing] and [verb].
And {hero} of {place} stayed {mood} to the end of {his} days, more or less.
In {place} they still tell it every {season}, and every {season} {hero} gets bigger.
But that, as {hero} the {trade} liked to say, is what [weekday] is for.
{hero} went to bed, {mood} as ever, and dreamed of [s:food].
For once {a:mood} {trade} had been lucky, and {hero} knew it, and [verb].
After that there was nothing to do but eat [s:food], so {hero} did.

@verb
chuckled
shivered
whistled
nodded
blinked
hummed
shrugged
curtsied
coughed
blushed
winked
grinned
said nothing
forgave everyone
counted to ten
stood on one leg
turned [colour]
laughed like [a:animal]
bowed like [a:trade]
grew as quiet as [a:thing]
sighed into [a:thing]
walked straight into [a:trade]
dropped [a:food]
sat down on [a:thing]
hid behind [a:thing]
sneezed [few] times
thought of [s:food]
whispered something about [s:animal]
offered everyone [a:food]
tripped over [a:animal]
looked (long|hard|sadly|fondly) at [a:thing]
began to eat [a:food]
pretended to be [a:trade]
tapped on [a:thing] [few] times
made a noise like [a:thing]
howled like [a:animal]
smiled as [s:trade] do
blew on [a:thing]
saw (pink|double|invisible|singing) [s:animal]
wished for [a:food]

@beast_verb
snored
sneezed
sulked
watched the door
looked innocent
disagreed
yawned
sat on the evidence
ate [a:food]
devoured [few] [s:food]
chased [a:animal]
drove [a:trade] up a tree
fell off [a:thing]
slept inside [a:thing]
stole [a:food] from [a:trade]
sang to [a:thing]
stared at [a:thing]
bit [a:trade]
dug up [a:thing]
carried off [a:thing]
rolled in [s:food]
fell in love with [a:animal]
growled at [a:thing]
played dead beside [a:thing]
taught [a:animal] to dance
buried [few] [s:fruit]
hid from [a:animal]
inspected [a:thing]
took [a:trade] for [a:animal]
moved one step closer to the [s:food]

@how
very [manner]
rather [manner], like [a:trade]
as [manner] as [a:animal]
most [manner] of all
at once
holding [a:food] in each hand
brandishing [a:thing]
through a mouthful of [food]
over the noise of [few] [s:animal]
without looking up from [a:thing]
into [a:thing]
from behind [a:thing]
startling [a:animal]
for the [nth_word] time
with a glance at [a:trade]
between two [s:food]
through the keyhole

@nth_word
second
third
seventh
hundredth

@habit
talked [often] to [s:animal]
slept [often] beside [a:thing]
could whistle like [a:animal]
could juggle [few] [s:fruit]
collected [s:thing]
kept [a:animal] in [a:thing]
went nowhere without [a:thing]
distrusted [s:trade]
feared [s:animal]
stirred tea with [a:thing]
was once kissed by [a:trade]
had once won [a:thing] at cards
once lost [few] [s:thing] in one day
called every [animal] by name
bowed to every [animal]
lived on [s:food] and [s:fruit]
believed in second breakfasts
owed everyone [few] [s:food]
wrote poems about [s:food]
wrote letters to [a:trade] in [place]
was said to be half [animal]
wore [a:thing] for a hat
could not pass [a:trade] without a joke
danced with [a:thing] on [weekday]

@hiding
underneath [a:thing]
in the shadow of [a:thing]
beside [a:animal]
inside [a:thing]
among the [s:fruit]
beneath [few] [s:thing]
in a barrel of [s:food]
in a basket of [s:fruit]
next to [a:trade]
below the floorboards
in the oven
in the hayloft
up the chimney
down the well
in the bell tower
in the rain barrel
between [few] [s:food]
on top of the [landmark]
behind the [landmark]
under the [landmark]
within sight of the [landmark]
at the house of [a:trade]

@place
[place_head][place_tail]

@pet_name
[pet_title] [pet_word]
"""

GENDER = {
    name: gender for names, gender in ((WOMEN, "she"), (MEN, "he")) for name in read_words(names)
}
LISTS = {name: read_words(text) for name, text in WORDS.items()}
LISTS["riddle"] = [question for question, _ in RIDDLES]
LISTS["name"] = [
    name for pair in zip(read_words(WOMEN), read_words(MEN), strict=True) for name in pair
]
GROUPS = read_grammar(GRAMMAR)
# A story draws without replacement, except from these.
MAY_REPEAT = set("few said asked cried weekday purse meal upto place pet_name".split())

FLATTEN = 6.0  # rank r of a list has weight 1 / (r - 1 + FLATTEN): Zipf's law as Mandelbrot put it
DRESSED = 0.5  # how often a noun gets an adjective
DRESS = {  # the adjectives that fit
    "thing": "thing_word",
    "animal": "animal_word",
    "trade": "trade_word",
    "food": "food_word",
    "fruit": "food_word",
}
DRESSED_FORMS = {
    "a": ("a", ""),
    "A": ("A", ""),
    "s": ("", "plain s"),
}  # forms of adjective and noun


# ----------------------------------------------------------------------------------------------------
# The story: its state, and how templates are put down


class Item:
    """Something the story has fixed: its word, the bits that cost, and where it was last seen."""

    def __init__(self, word, bits, seen, sources=(), gender=None):
        self.word = word
        self.bits = bits
        self.seen = seen  # the byte at which the latest mention ended
        self.sources = sources  # for a computed number: the items it was computed from
        self.gender = gender  # for a person: an Item with the word "she" or "he"


class Lead(NamedTuple):
    """The forced beginning of an alternative: its text, the (start, end, item) it mentions, what is left."""

    text: str
    mentions: list
    rest: tuple


class Story:
    """The state of one story and the operations with which the plots write it."""

    def __init__(self, pen):
        self.pen = pen
        self.items = {}
        self.lists = dict(LISTS)
        self.used = {}  # list or group -> words or templates already taken in this story

    # -- state ---------------------------------------------------------------------------------------

    def __contains__(self, slot):
        return slot in self.items

    def value(self, slot):
        """The number that a slot holds as a word."""
        return NUMBERS[self.items[slot].word]

    def compute(self, slot, word, *sources):
        """Remember a word that follows from other items."""
        items = [self.items[source] for source in sources]
        self.items[slot] = Item(word, 0.0, -1, sources=items)

    def bind(self, slot, other):
        """Let a slot hold what another slot holds now."""
        self.items[slot] = self.items[other]

    # -- from templates to text ----------------------------------------------------------------------

    def lookup(self, node):
        """The item and the text of a Remembered node."""
        person, _, pronoun = node.slot.rpartition(".")
        if pronoun.lower() in PRONOUNS:
            gender = self.items[person or "hero"].gender
            word = PRONOUNS[pronoun.lower()] if gender.word == "she" else pronoun.lower()
            return gender, capital(word) if pronoun[0].isupper() else word
        item = self.items[node.slot]
        return item, FORMS[node.form](item.word)

    def lead(self, nodes):
        """As much of the nodes as is forced."""
        if len(nodes) == 1 and isinstance(nodes[0], Fixed):  # a plain word: most alternatives are
            return Lead(nodes[0].text, [], ())
        text, mentions = "", []
        for index, node in enumerate(nodes):
            if isinstance(node, Fixed):
                text += node.text
            elif isinstance(node, Remembered):
                item, word = self.lookup(node)
                mentions.append((len(text), len(text) + len(word), item))
                text += word
            else:
                return Lead(text, mentions, nodes[index:])
        return Lead(text, mentions, ())

    def options(self, node):
        """The alternatives of a node: a list of (key, nodes, weight)."""
        if isinstance(node, Either):
            return [(None, option, 1.0) for option in node.options]
        source = node.source
        if "@" in source:
            source, _, slot = source.partition("@")
            source += "_" + self.items[slot].word
        if source in self.lists:
            options = self.words(source, node.form, 1.0)
            if node.form in DRESSED_FORMS and source in DRESS:
                options = self.words(source, node.form, 1.0 - DRESSED)
                adjective, noun = DRESSED_FORMS[node.form]
                bare = Drawn(noun, source, node.slot)
                for key, nodes, weight in self.words(DRESS[source], adjective, DRESSED, " "):
                    options.append((key, (*nodes, bare), weight))
            return options
        lines = self.fresh(source, GROUPS[source])
        return [((source, line), parse_template(line), 1.0) for line in lines]

    def words(self, source, form, probability, after=""):
        """The fresh words of a list as alternatives that share this probability."""
        words = self.fresh(source, list(enumerate(self.lists[source])))
        weights = [1.0 / (rank + FLATTEN) for rank, _ in words]
        scale = probability / sum(weights)
        return [
            ((source, word), as_nodes(form, word[1], after), weight * scale)
            for word, weight in zip(words, weights, strict=True)
        ]

    def fresh(self, source, everything):
        """What this story has not used yet, or everything once less than two are left."""
        used = self.used.get(source, ())
        left = [entry for entry in everything if entry not in used]
        return left if len(left) > 1 else everything

    def branch(self, options, following=""):
        """Choose among (key, nodes, weight) and put the chosen one down.

        If the alternatives are not prefix-free by themselves ("egg" and "egg whisk"), those that end here
        borrow the fixed text that follows. Returns the key, the text without what was borrowed, and
        whether anything was.
        """
        leads = [self.lead(nodes) for _, nodes, _ in options]
        texts = [lead.text for lead in leads]
        borrowing = bool(following) and prefix_clash(tuple(texts)) is not None
        if borrowing:
            texts = [lead.text + ("" if lead.rest else following) for lead in leads]
        start, byte, steps = self.pen.offset, self.pen.byte, len(self.pen.steps)
        index = self.pen.choose(texts, [weight for _, _, weight in options])
        paid = self.pen.steps[-1].bits if len(self.pen.steps) > steps else 0.0
        key, lead = options[index][0], leads[index]
        self.notice(lead, start, byte, paid)
        if key and key[0] not in MAY_REPEAT:
            self.used.setdefault(key[0], set()).add(key[1])
        return key, lead.text + self.follow(lead.rest), borrowing and not lead.rest

    def notice(self, lead, start, byte, paid=0.0):
        """Book the mentions in a lead that was put down at this place."""
        for begin, end, item in lead.mentions:
            first = byte + len(lead.text[:begin].encode())
            opening = not lead.text[
                :begin
            ].strip()  # the item itself tells which alternative was taken
            for root in item.sources or [item]:
                price = max(0.0, root.bits - (paid if opening else 0.0))
                self.pen.recalls.append(
                    Recall(start + begin, first - max(item.seen, root.seen), price)
                )
            item.seen = byte + len(lead.text[:end].encode())
            if item.gender:
                item.gender.seen = item.seen

    def follow(self, nodes):
        """Put down nodes from left to right; returns their text."""
        written = ""
        while nodes:
            start, byte = self.pen.offset, self.pen.byte
            lead = self.lead(nodes)
            self.pen.emit(lead.text)
            self.notice(lead, start, byte)
            written += lead.text
            nodes = lead.rest
            if nodes:
                following = nodes[1].text if len(nodes) > 1 and isinstance(nodes[1], Fixed) else ""
                text, borrowed = self.draw(nodes[0], following)
                written += text + (following if borrowed else "")
                nodes = nodes[2 if borrowed else 1 :]
        return written

    def draw(self, node, following):
        """Put down a Drawn or Either node and remember what it says if it has a name."""
        before = len(self.pen.steps)
        key, text, borrowed = self.branch(self.options(node), following)
        dressed = (
            key and key[0] in DRESS.values()
        )  # the bare noun after the adjective remembers itself
        if isinstance(node, Drawn) and node.slot and not dressed:
            word = key[1][1] if isinstance(key[1], tuple) else text
            bits = math.fsum(step.bits for step in self.pen.steps[before:])
            seen = self.pen.byte - (len(following.encode()) if borrowed else 0)
            self.items[node.slot] = Item(word, bits, seen)
            if word in GENDER:
                self.items[node.slot].gender = Item(
                    GENDER[word], self.gender_bits(GENDER[word]), seen
                )
        return text, borrowed

    def gender_bits(self, gender):
        """The price of a gender: how surprising it is among all names."""
        weights = {"she": 0.0, "he": 0.0}
        for rank, name in enumerate(self.lists["name"]):
            weights[GENDER[name]] += 1.0 / (rank + FLATTEN)
        return math.log2(sum(weights.values()) / weights[gender])

    # -- what plots use ------------------------------------------------------------------------------

    def tell(self, *groups):
        """Put down one sentence from one of the groups; returns the group.

        A group named "/group" begins a new paragraph. Which group it is, and so how the story goes on,
        shows in the sentence itself. The groups are equally likely.
        """
        options = []
        for name in groups:
            gap, group = ("\n\n", name[1:]) if name.startswith("/") else (" ", name)
            lines = self.fresh(group, GROUPS[group])
            for line in lines:
                options.append(
                    ((group, line), (Fixed(gap), *parse_template(line)), 1.0 / len(lines))
                )
        key, _, _ = self.branch(options)
        return key[0]

    def asides(self):
        """Groups of remarks that fit what the story has introduced so far."""
        fitting = {"pet_name": "pet_aside", "saying": "kin_aside", "friend": "friend_aside"}
        return ["hero_aside", "weather_aside"] + [fitting[slot] for slot in fitting if slot in self]

    def tell_after(self, then, limit=1):
        """At most `limit` remarks, then a sentence of the group `then`."""
        for _ in range(limit):
            if self.tell(*self.asides(), then) == then.strip("/"):
                return
        self.tell(then)

    def tell_next(self, more, last, once=False):
        """One of the groups `more`, or `last`; with `once`, none of `more` comes twice in a story."""
        if once:
            more = [group for group in more if group.strip("/") not in self.used]
        return self.tell(*more, last)

    def begin(self, then):
        """Introduce the hero and perhaps a companion and a saying; then the plot's first paragraph."""
        self.follow(parse_template("[open]"))
        self.tell("season")
        more = ["companion", "kin_says"]
        while more:
            group = self.tell(*more, "/" + then)
            if group == then:
                return
            more.remove(group)
        self.tell("/" + then)

    def end(self):
        """One to three closing sentences."""
        endings = [
            group
            for slot, group in (("saying", "end_kin"), ("pet_name", "end_pet"))
            if slot in self
        ]
        last = self.tell("/end_plain", *("/" + group for group in endings))
        while last != "end_plain":
            endings.remove(last)
            last = self.tell("end_plain", *endings)


# ----------------------------------------------------------------------------------------------------
# The plots


def lost(story):
    """A thing is lost, described to a friend, found with a thief, and ransomed."""
    story.begin("lost_had")
    story.tell_after("lost_gone")
    story.tell("/lost_search")
    for _ in range(3):
        if story.tell("lost_search", "hero_aside", "/lost_ask") == "lost_ask":
            break
    else:
        story.tell("/lost_ask")
    story.tell("lost_question")
    story.tell_after("/lost_clue")
    story.tell_after("lost_found")
    story.tell("lost_price")
    story.tell_after("/lost_paid", 2)


def trade(story):
    """One thing is swapped for another until the last swap brings the wanted one; then all is told again."""
    story.begin("trade_want")
    story.tell("trade_go")
    story.bind("have", "first")
    story.bind("t0", "first")
    story.tell("/trade_swap")
    swaps = 0
    while True:
        swaps += 1
        story.tell("trade_deal")
        story.bind("have", "got")
        story.bind(f"t{swaps}", "got")
        story.bind(f"p{swaps}", "with")
        if story.tell_next(["/trade_swap"] if swaps < 4 else [], "/trade_last") == "trade_last":
            break
    story.bind("p0", "with")
    story.tell("/trade_home")
    story.tell("trade_recite")
    for stage in range(swaps, 0, -1):
        stop = ";" if stage > 1 else '."'
        swap = f" {{p{stage}}} gave me the {{t{stage}}} for the {{t{stage - 1}}}{stop}"
        story.follow(parse_template(swap))
    story.tell("trade_end")


def contest(story):
    """Two rounds of points are added up, and the greater sum wins."""
    story.begin("contest_open")
    story.tell("contest_rival")
    story.tell_after("contest_judge")
    story.tell("/contest_round1")
    story.tell_after("contest_round2", 2)
    for side in "hr":
        total = story.value(side + "1") + story.value(side + "2")
        story.compute(side, number_word(total), side + "1", side + "2")
    story.tell_after("/contest_count")
    hero, rival = story.value("h"), story.value("r")
    story.tell("contest_won" if hero > rival else "contest_lost" if hero < rival else "contest_tie")
    story.tell("contest_after")


def road(story):
    """Provisions are eaten day by day; what was packed is used on the way; the gift arrives."""
    story.begin("road_why")
    story.tell_after("road_pack")
    ration = story.items["ration"].word
    left, days = story.value("bread"), 0
    troubles = ["/road_trouble1", "/road_trouble2"]
    story.compute("left", counted(left, ration), "bread", "ration")
    while left:
        story.compute("nth", ORDINALS[days])
        days += 1
        meals = range(1, left + 1) if days < 5 else [left]
        story.lists["meal"] = [counted(number, ration) for number in meals]
        story.tell("/road_day")
        left -= NUMBERS[story.items["eaten"].word.split(" ")[0]]
        story.compute("left", counted(left, ration), "left", "eaten")
        story.tell("road_left")
        if days == 2 or days == 3:
            story.tell(troubles.pop(0))
    story.compute("days", f"{number_word(days)} day" + ("s" if days > 1 else ""), "nth")
    for trouble in troubles:
        story.tell(trouble)
    story.tell("/road_arrive")
    story.tell_after("road_tell")


def supper(story):
    """Guests times gifts make a total, of which some are eaten and the rest are left."""
    story.begin("supper_invite")
    story.tell_after("supper_names")
    total = story.value("guests") * story.value("each")
    story.compute("total", number_word(total), "guests", "each")
    story.tell("/supper_sum")
    story.lists["upto"] = [number_word(number) for number in range(2, total)]
    story.tell("supper_cook")
    left = total - story.value("eaten")
    story.compute("left", number_word(left), "total", "eaten")
    while True:
        group = story.tell_next(["supper_story", "supper_thief"], "/supper_left", once=True)
        if group == "supper_left":
            break
        if group == "supper_thief":
            story.tell("supper_chase")
    story.tell("supper_bye")


def letter(story):
    """A letter names a place, a day, an hour and a token; they are kept."""
    story.begin("letter_find")
    story.tell("letter_text")
    story.tell_after("/letter_ask")
    story.tell("letter_answer")
    story.tell_after("/letter_wait", 2)
    story.tell_after("letter_meet")
    story.tell("letter_truth")
    story.tell_after("letter_end")


def storm(story):
    """Three things blow away, come back one by one, and their finders are thanked by name."""
    story.begin("storm_comes")
    story.tell("storm_takes")
    story.tell_after("storm_morning")
    for stage, item in enumerate(("one", "two", "three"), 1):
        story.bind("item", item)
        story.tell("/storm_return")
        story.bind(f"p{stage}", "with")
        story.bind(f"q{stage}", "job")
        story.tell("storm_thanks")
    story.tell_after("/storm_party")


def riddle(story):
    """A riddle is asked, failed twice, repeated and solved."""
    story.begin("riddle_meet")
    story.tell("riddle_terms")
    story.tell("riddle_ask")
    riddle_text = story.items["riddle"].word
    story.compute("answer", dict(RIDDLES)[riddle_text], "riddle")
    story.tell("/riddle_wrong1")
    story.tell_after("/riddle_help")
    story.tell("riddle_repeat")
    story.tell("riddle_wrong2")
    story.tell("/riddle_last")
    story.tell_after("riddle_solve")
    story.tell("riddle_after")


def borrow(story):
    """A promise is made, endangered and kept to the day and the number."""
    story.begin("borrow_need")
    story.tell("borrow_promise")
    story.tell_after("/borrow_joy")
    story.tell("borrow_loss")
    story.tell("borrow_fear")
    story.tell_after("/borrow_hunt")
    story.tell("borrow_found")
    story.tell_after("/borrow_return")
    story.tell("borrow_end")


def market(story):
    """A shopping list is worked off while the coins are counted down."""
    story.begin("market_list")
    story.tell_after("/market_walk")
    left = story.value("purse")
    before = "purse"
    for stage, price in enumerate(("cost1", "cost2", "many"), 1):
        story.tell(f"market_stall{stage}")
        left -= story.value(price)
        story.compute(f"rest{stage}", number_word(left), before, price)
        before = f"rest{stage}"
        story.tell_after(f"market_rest{stage}")
    story.tell("/market_home")


def quarrel(story):
    """Two people claim one thing; the hero hears both and finds the mark."""
    story.begin("quarrel_start")
    story.tell("/quarrel_left")
    story.tell("/quarrel_right")
    story.tell_after("/quarrel_think")
    story.tell("quarrel_test")
    story.tell("/verdict_left", "/verdict_right", "/verdict_none")
    story.tell("quarrel_after")


PLOTS = (lost, trade, contest, road, supper, letter, storm, riddle, borrow, market, quarrel)


def write_story(pen):
    """One story: the title tells the plot, the plot tells the rest."""
    story = Story(pen)
    titles = [
        (plot, (*parse_template(title), Fixed("\n\n")), 1.0 / len(GROUPS[plot.__name__ + "_title"]))
        for plot in PLOTS
        for title in GROUPS[plot.__name__ + "_title"]
    ]
    plots = [plot for plot, _, _ in titles]
    keyed = [(("title", index), nodes, weight) for index, (_, nodes, weight) in enumerate(titles)]
    key, _, _ = story.branch(keyed)
    plots[key[1]](story)
    story.end()


# ----------------------------------------------------------------------------------------------------
# The corpus


def write_corpus(seed=SEED, stories=STORIES):
    """A Writer that has written this many stories."""
    pen = Writer(seed)
    for index in range(stories):
        if index:
            pen.emit(SEPARATOR)
        write_story(pen)
    pen.emit("\n")
    return pen


def read_corpus(text):
    """A Reader that has read the whole text, and the number of stories; ParseError if it cannot."""
    pen = Reader(text)
    stories = 0
    while not stories or not pen.at_end():
        if stories:
            pen.emit(SEPARATOR)
        write_story(pen)
        stories += 1
    pen.emit("\n")
    return pen, stories


def parse(text):
    """The choices in a text as a list of (offset, literal, bits, entropy); raises ParseError."""
    return read_corpus(text)[0].steps


def train_characters(text):
    """Where the validation split begins."""
    numerator, denominator = TRAIN_FRACTION
    return len(text) * numerator // denominator


def floor_bits_per_byte(text, steps):
    """The exact information content of each split, per byte of UTF-8."""
    border = train_characters(text)
    train = math.fsum(step.bits for step in steps if step.offset < border)
    validation = math.fsum(step.bits for step in steps if step.offset >= border)
    return {
        "train": train / len(text[:border].encode()),
        "validation": validation / len(text[border:].encode()),
        "all": (train + validation) / len(text.encode()),
    }


def window_cost_bits_per_byte(text, recalls):
    """What recalled items out of sight add in the validation split, for each window (see the docstring)."""
    border = train_characters(text)
    size = len(text[border:].encode())
    late = [recall for recall in recalls if recall.offset >= border]
    return {str(w): math.fsum(r.bits for r in late if r.distance >= w) / size for w in WINDOWS}


def distinct_words(text):
    """Number of different words, capitals ignored."""
    return len(set(re.findall(r"[^\W\d_]+(?:['-][^\W\d_]+)*", text.casefold())))


def describe(text, pen, stories, seed):
    """The contents of the JSON file."""
    data = text.encode()
    return {
        "sha256": hashlib.sha256(data).hexdigest(),
        "bytes": len(data),
        "characters": len(text),
        "stories": stories,
        "distinct_words": distinct_words(text),
        "seed": seed,
        "train_characters": train_characters(text),
        "floor_bits_per_byte": rounded(floor_bits_per_byte(text, pen.steps)),
        "window_cost_bits_per_byte": rounded(window_cost_bits_per_byte(text, pen.recalls)),
    }


def rounded(figures):
    """Six digits: the last bits of a logarithm may differ between platforms."""
    return {name: round(figure, 6) for name, figure in figures.items()}


# ----------------------------------------------------------------------------------------------------
# Command line


def write_atomically(path, text):
    """The file is either the old one or the complete new one, never half of it."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name + ".")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def write_files(seed, stories, out):
    """Write the corpus and beside it the JSON file that describes it."""
    pen = write_corpus(seed, stories)
    text = pen.text()
    facts = describe(text, pen, stories, seed)
    write_atomically(out, text)
    write_atomically(out.with_name(out.name + ".json"), json.dumps(facts, indent=2) + "\n")
    floor = facts["floor_bits_per_byte"]
    print(
        f"{out}: {stories} stories, {facts['bytes']} bytes, validation {floor['validation']:.4f} bits/byte"
    )


def check(path):
    """Parse a file and print its bits per byte."""
    text = path.read_bytes().decode()
    pen, stories = read_corpus(text)
    floor = floor_bits_per_byte(text, pen.steps)
    print(f"{path}: parsed, {stories} stories, {len(pen.steps)} choices")
    for split, figure in floor.items():
        print(f"{split:<10} {figure:.6f} bits/byte")


def positive(text):
    number = int(text)
    if number < 1:
        raise ValueError
    return number


class Arguments(argparse.ArgumentParser):
    """Reports bad arguments in one line."""

    def error(self, message):
        self.exit(2, f"{self.prog}: {message}\n")


def main(arguments=None):
    parser = Arguments(prog="stories.py", description="Write or check the story corpus.")
    parser.add_argument(
        "--check", metavar="FILE", type=Path, help="parse FILE and print its bits per byte"
    )
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--stories", type=positive, default=STORIES, metavar="N")
    parser.add_argument("--out", type=Path, default=ROOT / "input.txt", metavar="FILE")
    options = parser.parse_args(arguments)
    try:
        if options.check:
            check(options.check)
        else:
            write_files(options.seed, options.stories, options.out)
    except UnicodeDecodeError as error:
        return f"{options.check}: not UTF-8 at byte {error.start}"
    except ParseError as error:
        return f"{options.check}: {error}"
    except OSError as error:
        return f"{error.filename or options.out}: {error.strerror}"
    return None


if __name__ == "__main__":
    problem = main()
    if problem:
        print(f"stories.py: {problem}", file=sys.stderr)
        sys.exit(2)
