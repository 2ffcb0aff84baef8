"""Writes the default text, input.txt: stories from a grammar, so that the entropy of the text is known.

    python data/stories.py                  write input.txt and input.txt.json, which describes it
    python data/stories.py --check FILE     parse FILE and print its bits per byte
    python data/stories.py --stories 50 --seed 7 --out other.txt

The grammar is data/stories.toml: lists of words, and sentences with gaps, called templates. One example:

    It was [season=now]. (Nobody|Everybody) likes {now}.

A Writer goes through it from left to right and draws at random where there is a choice. The early words of a
list are more likely than the late ones: the four seasons have the weights 1/6, 1/7, 1/8 and 1/9. One result:

    It was spring. Nobody likes spring.

    "spring"    (1/6) / (1/6 + 1/7 + 1/8 + 1/9) = 0.305    -log2(0.305) = 1.711 bits
    "Nobody"    one of two: 0.5                            -log2(0.5)   = 1.000 bits
    "spring"    remembered under the name "now": no choice                0.000 bits

All other letters are certain and cost nothing. So this sentence holds 2.711 bits: 0.077 bits for each of its
35 bytes. No model can expect to pay less for such sentences, even if it knows the grammar.

A Reader takes a finished text and runs the same program; at each choice it finds which of the alternatives
stands in the text. To make that possible, no alternative may be the beginning of another one. (Of "egg" and
"egg whisk" both are taken with the text after them: "egg." and "egg whisk." differ.) So every text has exactly one parse, and its
probability is the product of the probabilities of its choices. The state of the story (who the hero is, how
many coins are left, which words were used and may not come again) decides what the alternatives are; the
Reader finds the state again from the text alone.

From Python, `parse(text)` returns the choices, each a Step. The first floor(0.9 * characters) characters are
the training split, the rest is the validation split. A choice belongs to the split of its first character.
The number of stories is given, so the end of the file holds no information.

What a short window costs. A name that returns is certain only for a reader that still sees it. The figure
`window_cost_bits_per_byte` estimates what a model pays in addition if it sees only the last W bytes: if the
last mention of an item ended W or more bytes ago, it pays for the item as if it were new.
- If the item decides a choice (for example, who speaks), the bits of that choice are subtracted.
- A pronoun mentions the gender of its person, and costs the bits of the gender.
- A computed number costs what its sources cost: for three times four, the bits of "three" and of "four".
This is an estimate, not a bound. A short window also hides which story is told and which words were used;
but a good model may guess an item from other words.
"""

import argparse
import hashlib
import json
import math
import os
import random
import re
import tomllib
from bisect import bisect_right
from functools import cache
from pathlib import Path
from typing import NamedTuple

SEED = 1
STORIES = 1010
WINDOWS = (64, 128, 256, 512, 1024, 2048)  # bytes
SEPARATOR = "\n\n* * *\n\n"
FLATTEN = 6.0  # rank r of a list, from 0, has weight 1 / (r + FLATTEN): the Zipf-Mandelbrot law
DRESSED = 0.5  # how often a noun gets an adjective
ROOT = Path(__file__).resolve().parent.parent


class ParseError(ValueError):
    """The grammar cannot have written the text; `offset` is the first character that differs."""

    def __init__(self, offset, problem):
        super().__init__(f"does not parse at character {offset}: {problem}")
        self.offset = offset


# ----------------------------------------------------------------------------------------------------
# Choices and pens


class Step(NamedTuple):
    """A choice that was made."""

    offset: int  # characters before it
    literal: str  # the text that was chosen
    bits: float  # -log2 of its probability
    entropy: float  # the expected bits of this choice


class Recall(NamedTuple):
    """An item of the story returns."""

    offset: int  # characters before it
    distance: int  # bytes since its last mention ended
    bits: float  # what it costs a model that does not see that mention


def prefix_clash(literals):
    """Two texts of which one begins the other (or equals it), or None. In sorted order they are neighbors."""
    ordered = sorted(literals)
    pairs = zip(ordered, ordered[1:], strict=False)
    return next(((short, long) for short, long in pairs if long.startswith(short)), None)


class Choice:
    """Possible texts with their weights. Raises ValueError if one begins another."""

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
        """The index that a uniform number from [0, 1) selects."""
        index = bisect_right(self.cumulative, uniform * self.cumulative[-1])
        return min(index, len(self.literals) - 1)


class Pen:
    """Moves through a text. A subclass has pick(choice), an index, and put(text)."""

    def __init__(self):
        self.offset = 0  # in characters
        self.byte = 0  # the same position in UTF-8 bytes
        self.steps = []
        self.recalls = []

    def choose(self, literals, weights):
        """Put down one of the literals; returns its index. A single one is no choice and costs nothing."""
        choice = Choice(literals, weights)
        index = 0
        if len(literals) > 1:
            index = self.pick(choice)
            self.steps.append(
                Step(self.offset, literals[index], choice.bits[index], choice.entropy)
            )
        self.emit(literals[index])
        return index

    def emit(self, text):
        """Put down text that is certain."""
        self.put(text)
        self.offset += len(text)
        self.byte += len(text.encode())


class Writer(Pen):
    """Draws each choice. Uses only random(), whose sequence is the same in every Python version."""

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
    """Finds each choice in a given text. Raises ParseError where no alternative matches the text."""

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
            expected, found = text[agree:][:30], found[agree:][:30]
            raise ParseError(self.offset + agree, f"expected {expected!r}, found {found!r}")

    def at_end(self):
        return self.source[self.offset :] == "\n"


# ----------------------------------------------------------------------------------------------------
# The grammar's data


def split_words(text):
    """The words or phrases of a comma-separated list, which may run over several lines."""
    return [" ".join(word.split()) for word in text.split(",")]


with open(Path(__file__).with_suffix(".toml"), "rb") as file:
    GRAMMAR = tomllib.load(file)

WOMEN, MEN = (split_words(GRAMMAR["names"][gender]) for gender in ("she", "he"))
GENDER = dict.fromkeys(WOMEN, "she") | dict.fromkeys(MEN, "he")
LISTS = {name: split_words(text) for name, text in GRAMMAR["words"].items()}
LISTS["name"] = [name for pair in zip(WOMEN, MEN, strict=True) for name in pair]
LISTS["riddle"] = list(GRAMMAR["riddles"])
GROUPS = {name: text.splitlines() for name, text in GRAMMAR["groups"].items()}
# A story takes no entry twice from a list or group, except from these.
MAY_REPEAT = set("few said asked cried weekday purse meal upto place pet_name".split())
DRESS = {  # a noun's list: the list of its adjectives
    "thing": "thing_word",
    "animal": "animal_word",
    "trade": "trade_word",
    "food": "food_word",
    "fruit": "food_word",
}


@cache
def gender_bits(gender):
    """What "she" or "he" costs when a name is drawn."""
    weights = {"she": 0.0, "he": 0.0}
    for rank, name in enumerate(LISTS["name"]):
        weights[GENDER[name]] += 1.0 / (rank + FLATTEN)
    return math.log2(sum(weights.values()) / weights[gender])


# ----------------------------------------------------------------------------------------------------
# English: numbers, plurals, articles, capitals, pronouns

ONES = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
    sixteen seventeen eighteen nineteen""".split()
TENS = "zero ten twenty thirty forty fifty sixty seventy eighty ninety".split()
ORDINALS = "first second third fourth fifth sixth seventh".split()
PRONOUNS = {"he": "she", "him": "her", "his": "her", "himself": "herself"}  # masculine: feminine


def number_word(number):
    """0 to 99 in words."""
    if number < 20:
        return ONES[number]
    tens, ones = divmod(number, 10)
    return TENS[tens] + (f"-{ONES[ones]}" if ones else "")


NUMBERS = {number_word(number): number for number in range(100)}


def plural(noun):
    """The plural of a noun or of the last word of a compound."""
    irregular = GRAMMAR["plurals"]
    head, space, last = noun.rpartition(" ")
    if noun in irregular:
        return irregular[noun]
    if last in irregular:
        return head + space + irregular[last]
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


FORMS = {  # what {form:slot} and [form:list] do with a word
    "": str,
    "a": with_article,
    "A": lambda noun: capital(with_article(noun)),
    "s": plural,
    "plain s": plural,  # without an adjective
    "^": capital,
    "T": lambda noun: " ".join(capital(word) for word in noun.split(" ")),
}
DRESSED_FORMS = {"a": ("a", ""), "A": ("A", ""), "s": ("", "plain s")}  # of adjective and noun


# ----------------------------------------------------------------------------------------------------
# Templates; data/stories.toml explains the notation


class Fixed(NamedTuple):
    """Plain text."""

    text: str


class Remembered(NamedTuple):
    """{form:slot}"""

    form: str
    slot: str


class Drawn(NamedTuple):
    """[form:source=slot]"""

    form: str
    source: str
    slot: str


class Either(NamedTuple):
    """(this|that), each option a tuple of nodes."""

    options: tuple


TOKEN = re.compile(r"\{([^{}]*)\}|\[([^\[\]]*)\]|\(([^()]*)\)")


@cache
def parse_template(template):
    """The template as a tuple of nodes: Fixed, Remembered, Drawn and Either."""
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
def as_node(form, word):
    """A word in one of its FORMS as a node."""
    return Fixed(FORMS[form](word))


# ----------------------------------------------------------------------------------------------------
# The story: its state, and how templates become text


class Item:
    """What a slot holds: a word, the bits that it cost, and where it was last mentioned."""

    def __init__(self, word, bits=0.0, seen=-1, sources=(), gender=None):
        self.word = word
        self.bits = bits
        self.seen = seen  # the byte at which the last mention ended
        self.sources = sources  # for a computed number: the items it was computed from
        self.gender = gender  # for a person: an Item with the word "she" or "he"


class Option(NamedTuple):
    """One alternative of a choice."""

    source: str  # the list or group that it comes from, "" for the wordings of an Either
    entry: object  # its word, template or plot
    nodes: tuple
    weight: float


class Lead(NamedTuple):
    """The certain beginning of some nodes, up to the first choice."""

    text: str
    mentions: list  # (start, end, Item): which characters of the text mention an item
    rest: tuple  # the nodes from the first choice on


class Story:
    """The state of one story, and the operations with which the plots write it."""

    def __init__(self, pen):
        self.pen = pen
        self.items = {}  # slot: Item
        self.lists = dict(LISTS)
        self.used = {}  # list or group: the entries already drawn from it

    def value(self, slot):
        """The number that a slot holds as a word."""
        return NUMBERS[self.items[slot].word]

    def compute(self, slot, word, *sources):
        """Let a slot hold a word that follows from other slots."""
        self.items[slot] = Item(word, sources=[self.items[source] for source in sources])

    def bind(self, slot, other):
        """Let a slot hold what another slot holds now."""
        self.items[slot] = self.items[other]

    # What a node says, or could say

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
        """The Lead of these nodes."""
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
        """The Options of a Drawn or Either node."""
        if isinstance(node, Either):
            return [Option("", None, nodes, 1.0) for nodes in node.options]
        source, _, slot = node.source.partition("@")
        if slot:
            source += "_" + self.items[slot].word
        if source not in self.lists:
            lines = self.unused(source, GROUPS[source])
            return [Option(source, line, parse_template(line), 1.0) for line in lines]
        if source not in DRESS or node.form not in DRESSED_FORMS:
            return self.words(source, node.form, 1.0)
        adjective, noun = DRESSED_FORMS[node.form]
        rest = (Fixed(" "), Drawn(noun, source, node.slot))
        plain = self.words(source, node.form, 1.0 - DRESSED)
        return plain + self.words(DRESS[source], adjective, DRESSED, rest)

    def words(self, source, form, share, rest=()):
        """The unused words of a list as Options, whose weights sum to `share`; `rest` follows each."""
        weights = {word: 1.0 / (rank + FLATTEN) for rank, word in enumerate(self.lists[source])}
        words = self.unused(source, weights)
        scale = share / sum(weights[word] for word in words)
        return [
            Option(source, word, (as_node(form, word), *rest), weights[word] * scale)
            for word in words
        ]

    def unused(self, source, entries):
        """The entries that this story has not used, or all once fewer than two are left."""
        used = self.used.get(source, ())
        left = [entry for entry in entries if entry not in used]
        return left if len(left) > 1 else entries

    # Putting text down

    def branch(self, options, following=""):
        """Choose one of the Options and put it down; returns (option, text, whether it borrowed).

        Where one text begins another ("egg" and "egg whisk"), those that end here borrow `following`, the
        fixed text that comes next; what is returned as text is without it.
        """
        leads = [self.lead(option.nodes) for option in options]
        texts = [lead.text for lead in leads]
        borrowing = bool(following) and prefix_clash(texts) is not None
        if borrowing:
            texts = [lead.text + ("" if lead.rest else following) for lead in leads]
        start, byte, steps = self.pen.offset, self.pen.byte, len(self.pen.steps)
        index = self.pen.choose(texts, [option.weight for option in options])
        paid = self.pen.steps[-1].bits if len(self.pen.steps) > steps else 0.0
        option, lead = options[index], leads[index]
        self.notice(lead, start, byte, paid)
        if option.source and option.source not in MAY_REPEAT:
            self.used.setdefault(option.source, set()).add(option.entry)
        return option, lead.text + self.follow(lead.rest), borrowing and not lead.rest

    def notice(self, lead, start, byte, paid=0.0):
        """Record the mentions in a lead that was put down at this character and byte for `paid` bits."""
        for begin, end, item in lead.mentions:
            before = lead.text[:begin]
            first = byte + len(before.encode())
            already = 0.0 if before.strip() else paid  # the item itself decided the choice
            for root in item.sources or [item]:
                distance = first - max(item.seen, root.seen)
                self.pen.recalls.append(
                    Recall(start + begin, distance, max(0.0, root.bits - already))
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
        """Put down a Drawn or Either node, and remember its word if the node names a slot."""
        before = len(self.pen.steps)
        option, text, borrowed = self.branch(self.options(node), following)
        dressed = option.source in DRESS.values()  # then the noun that came after it is remembered
        if isinstance(node, Drawn) and node.slot and not dressed:
            word = option.entry if option.source in self.lists else text
            bits = math.fsum(step.bits for step in self.pen.steps[before:])
            seen = self.pen.byte - (len(following.encode()) if borrowed else 0)
            item = self.items[node.slot] = Item(word, bits, seen)
            if word in GENDER:
                item.gender = Item(GENDER[word], gender_bits(GENDER[word]), seen)
        return text, borrowed

    # What plots use

    def tell(self, *groups):
        """Put down a sentence from one of the groups, which are equally likely; returns the group.

        "/group" begins a new paragraph. How the story goes on depends on the group, and a Reader knows the
        group from the sentence.
        """
        options = []
        for name in groups:
            gap, group = ("\n\n", name[1:]) if name.startswith("/") else (" ", name)
            lines = self.unused(group, GROUPS[group])
            for line in lines:
                nodes = (Fixed(gap), *parse_template(line))
                options.append(Option(group, line, nodes, 1.0 / len(lines)))
        return self.branch(options)[0].source

    def asides(self):
        """The groups of remarks that suit what the story has introduced so far."""
        slots = {"pet_name": "pet_aside", "saying": "kin_aside", "friend": "friend_aside"}
        more = [slots[slot] for slot in slots if slot in self.items]
        return ["hero_aside", "weather_aside", *more]

    def tell_after(self, then, limit=1, among=None):
        """At most `limit` sentences from the groups `among` (default: remarks), then one from `then`."""
        for _ in range(limit):
            if self.tell(*(among or self.asides()), then) == then.strip("/"):
                return
        self.tell(then)

    def begin(self, then):
        """Introduce the hero, perhaps a companion and a saying; then the plot's first sentence."""
        self.follow(parse_template("[open]"))
        self.tell("season")
        more = ["companion", "kin_says"]
        while (group := self.tell(*more, "/" + then)) != then:
            more.remove(group)

    def end(self):
        """One to three closing sentences."""
        slots = {"saying": "end_kin", "pet_name": "end_pet"}
        more = [slots[slot] for slot in slots if slot in self.items]
        gap = "/"
        while (group := self.tell(*(gap + name for name in ("end_plain", *more)))) != "end_plain":
            more.remove(group)
            gap = ""


# ----------------------------------------------------------------------------------------------------
# The plots. Each tells its groups of data/stories.toml in order, and does the arithmetic between them.


def lost(story):
    """A thing is lost, described to a friend, found with a thief, and ransomed."""
    story.begin("lost_had")
    story.tell_after("lost_gone")
    story.tell("/lost_search")
    story.tell_after("/lost_ask", 3, ["lost_search", "hero_aside"])
    story.tell("lost_question")
    story.tell_after("/lost_clue")
    story.tell_after("lost_found")
    story.tell("lost_price")
    story.tell_after("/lost_paid", 2)


def trade(story):
    """One thing is swapped for another until the hero has the one wanted; then all swaps are told again."""
    story.begin("trade_want")
    story.tell("trade_go")
    story.bind("have", "first")
    story.bind("t0", "first")
    story.tell("/trade_swap")
    swaps = 0
    last = ""
    while last != "trade_last":
        swaps += 1
        story.tell("trade_deal")
        story.bind("have", "got")
        story.bind(f"t{swaps}", "got")
        story.bind(f"p{swaps}", "with")
        last = story.tell(*["/trade_swap"] * (swaps < 4), "/trade_last")
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
    hero, rival = (story.value(side + "1") + story.value(side + "2") for side in "hr")
    story.compute("h", number_word(hero), "h1", "h2")
    story.compute("r", number_word(rival), "r1", "r2")
    story.tell_after("/contest_count")
    story.tell("contest_won" if hero > rival else "contest_lost" if hero < rival else "contest_tie")
    story.tell("contest_after")


def road(story):
    """Provisions are eaten day by day, what was packed is used on the way, and the gift arrives."""
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
        if days in (2, 3):
            story.tell(troubles.pop(0))
    story.compute("days", counted(days, "day"), "nth")
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
    more = ["supper_story", "supper_thief"]
    while (group := story.tell(*more, "/supper_left")) != "supper_left":
        more.remove(group)
        if group == "supper_thief":
            story.tell("supper_chase")
    story.tell("supper_bye")


def letter(story):
    """A letter names a landmark, a day, an hour and a token; all four are kept."""
    story.begin("letter_find")
    story.tell("letter_text")
    story.tell_after("/letter_ask")
    story.tell("letter_answer")
    story.tell_after("/letter_wait", 2)
    story.tell_after("letter_meet")
    story.tell("letter_truth")
    story.tell_after("letter_end")


def storm(story):
    """Three things blow away and come back one by one, and their finders are thanked by name."""
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
    """A riddle is asked, answered wrongly twice, repeated and solved."""
    story.begin("riddle_meet")
    story.tell("riddle_terms")
    story.tell("riddle_ask")
    story.compute("answer", GRAMMAR["riddles"][story.items["riddle"].word], "riddle")
    story.tell("/riddle_wrong1")
    story.tell_after("/riddle_help")
    story.tell("riddle_repeat")
    story.tell("riddle_wrong2")
    story.tell("/riddle_last")
    story.tell_after("riddle_solve")
    story.tell("riddle_after")


def borrow(story):
    """A promise is made, endangered, and kept to the day and the number."""
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
    left, before = story.value("purse"), "purse"
    for stage, price in enumerate(("cost1", "cost2", "many"), 1):
        story.tell(f"market_stall{stage}")
        left -= story.value(price)
        story.compute(f"rest{stage}", number_word(left), before, price)
        before = f"rest{stage}"
        story.tell_after(f"market_rest{stage}")
    story.tell("/market_home")


def quarrel(story):
    """Two people claim one thing; the hero hears both and decides by a mark on it."""
    story.begin("quarrel_start")
    story.tell("/quarrel_left")
    story.tell("/quarrel_right")
    story.tell_after("/quarrel_think")
    story.tell("quarrel_test")
    story.tell("/verdict_left", "/verdict_right", "/verdict_none")
    story.tell("quarrel_after")


PLOTS = (lost, trade, contest, road, supper, letter, storm, riddle, borrow, market, quarrel)


def write_story(pen):
    """One story: the plots are equally likely, and the title tells which one it is."""
    story, options = Story(pen), []
    for plot in PLOTS:
        titles = GROUPS[plot.__name__ + "_title"]
        for title in titles:
            nodes = (*parse_template(title), Fixed("\n\n"))
            options.append(Option("plot", plot, nodes, 1.0 / len(titles)))
    story.branch(options)[0].entry(story)
    story.end()


# ----------------------------------------------------------------------------------------------------
# The corpus


def write_corpus(seed=SEED, stories=STORIES):
    """A Writer that has written this many stories."""
    pen = Writer(seed)
    for index in range(stories):
        pen.emit(SEPARATOR if index else "")
        write_story(pen)
    pen.emit("\n")
    return pen


def read_corpus(text):
    """A Reader that has read the whole text, and the number of stories. Raises ParseError."""
    pen = Reader(text)
    stories = 0
    while not stories or not pen.at_end():
        pen.emit(SEPARATOR if stories else "")
        write_story(pen)
        stories += 1
    pen.emit("\n")
    return pen, stories


def parse(text):
    """The choices in a text, a list of Steps. Raises ParseError."""
    return read_corpus(text)[0].steps


def train_characters(text):
    """The number of characters before the validation split."""
    return len(text) * 9 // 10


def floor_bits_per_byte(text, steps):
    """The bits of the choices in each split, per byte of UTF-8."""
    border = train_characters(text)
    train = math.fsum(step.bits for step in steps if step.offset < border)
    validation = math.fsum(step.bits for step in steps if step.offset >= border)
    return {
        "train": train / len(text[:border].encode()),
        "validation": validation / len(text[border:].encode()),
        "all": (train + validation) / len(text.encode()),
    }


def window_cost_bits_per_byte(text, recalls):
    """What each window adds in the validation split, per byte: see "What a short window costs" above."""
    border = train_characters(text)
    size = len(text[border:].encode())
    late = [recall for recall in recalls if recall.offset >= border]
    return {str(w): math.fsum(r.bits for r in late if r.distance >= w) / size for w in WINDOWS}


def describe(text, pen, stories, seed):
    """The contents of the JSON file."""

    def rounded(figures):  # the last bits of a logarithm may differ between platforms
        return {name: round(figure, 6) for name, figure in figures.items()}

    data = text.encode()
    words = set(re.findall(r"[^\W\d_]+(?:['-][^\W\d_]+)*", text.casefold()))
    return {
        "sha256": hashlib.sha256(data).hexdigest(),
        "bytes": len(data),
        "characters": len(text),
        "stories": stories,
        "distinct_words": len(words),
        "seed": seed,
        "train_characters": train_characters(text),
        "floor_bits_per_byte": rounded(floor_bits_per_byte(text, pen.steps)),
        "window_cost_bits_per_byte": rounded(window_cost_bits_per_byte(text, pen.recalls)),
    }


# ----------------------------------------------------------------------------------------------------
# Command line


def write_atomically(path, text):
    """Write under another name, then rename: the file is whole or absent."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(text.encode())
    temporary.replace(path)


def write_files(seed, stories, out):
    """Write the text, and the JSON file that describes it."""
    pen = write_corpus(seed, stories)
    text = pen.text()
    facts = describe(text, pen, stories, seed)
    write_atomically(out, text)
    write_atomically(out.with_name(out.name + ".json"), json.dumps(facts, indent=2) + "\n")
    floor = facts["floor_bits_per_byte"]["validation"]
    print(f"{out}: {stories} stories, {facts['bytes']} bytes, validation {floor:.4f} bits/byte")


def check(path):
    """Parse a file and print its bits per byte."""
    text = path.read_bytes().decode()
    pen, stories = read_corpus(text)
    print(f"{path}: parsed, {stories} stories, {len(pen.steps)} choices")
    for split, figure in floor_bits_per_byte(text, pen.steps).items():
        print(f"{split:<10} {figure:.6f} bits/byte")


def positive(text):
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def main():
    parser = argparse.ArgumentParser(description="Write the text of stories, or check one.")
    parser.add_argument("--check", type=Path, metavar="FILE", help="print the bits/byte of FILE")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--stories", type=positive, default=STORIES, metavar="N")
    parser.add_argument("--out", type=Path, default=ROOT / "input.txt", metavar="FILE")
    args = parser.parse_args()
    try:
        if args.check:
            check(args.check)
        else:
            write_files(args.seed, args.stories, args.out)
    except UnicodeDecodeError as error:
        parser.error(f"{args.check}: not UTF-8 at byte {error.start}")
    except ParseError as error:
        parser.error(f"{args.check}: {error}")
    except OSError as error:
        parser.error(f"{args.check or args.out}: {error.strerror}")


if __name__ == "__main__":
    main()
