"""The state of the rule tagger on its way through a text, and the questions that its rules ask about it."""

from collections.abc import Sequence

from .word_classes import word_class


CONTINUES_NOUN_PHRASE = "ANgebs"
"""Classes of words that may continue a noun phrase after its first words."""

# How many words back a noun phrase is followed. The bound keeps the time of the tagger linear in the length of a text.
_FARTHEST_BACK = 6


class Reading:
    """One pass over the words of a text, from left to right.

    Args:
        words: The lower-case words of the text.

    Attributes:
        words: The lower-case words of the text.
        classes: The class of each word without its neighbours. Two full stops follow, so that a rule can always look
            two words ahead.
        tags: The tags of the words before the current one, after a full stop that stands for the start of the text.
        index: The position of the current word.
        has_verb: Whether the clause already has its finite verb. An English clause has one.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.words = words
        self.classes = [*map(word_class, words), ".", "."]
        self.tags = ["."]
        self.index = 0
        self.has_verb = False

    @property
    def word(self) -> str:
        """The current word."""
        return self.words[self.index]

    @property
    def word_class(self) -> str:
        """The class of the current word without its neighbours."""
        return self.classes[self.index]

    @property
    def word_before(self) -> str:
        """The word before the current one, or "" at the start of the text."""
        if self.index > 0:
            return self.words[self.index - 1]
        return ""

    @property
    def word_after(self) -> str:
        """The word after the current one, or "" at the end of the text."""
        if self.index + 1 < len(self.words):
            return self.words[self.index + 1]
        return ""

    def word_after_adverb(self) -> str:
        """Returns the word after the current one, or after the one adverb that stands between them."""
        words_ahead = 2 if self.class_after == "R" else 1
        position = self.index + words_ahead
        if position < len(self.words):
            return self.words[position]
        return ""

    @property
    def tag_before(self) -> str:
        """The tag of the word before the current one."""
        return self.tags[-1]

    @property
    def class_after(self) -> str:
        """The class of the word after the current one."""
        return self.classes[self.index + 1]

    def tag_before_adverb(self) -> str:
        """Returns the tag of the word before the current one, or before the one adverb that stands between them."""
        if self.tags[-1] == "R":
            return self.tags[-2]
        return self.tags[-1]

    def append(self, tag: str) -> None:
        """Appends the tag of the current word and moves on to the next word."""
        if tag in ".XO":
            self.has_verb = False
        elif tag == "B" or (tag == "V" and self.word_class not in "ge"):
            self.has_verb = True
        # The "to" of an infinitive is no preposition: "he jumps to catch a ball".
        if tag in "VB" and self.word_before == "to":
            self.tags[-1] = "X"
        if tag not in "NAGC," and self.tags[-1] in "AC,":
            self._close_noun_phrase()
        self.tags.append(tag)
        self.index += 1

    def finish(self) -> str:
        """Returns the tags of all words. The text ends here, and so does its last noun phrase."""
        self._close_noun_phrase()
        return "".join(self.tags[1:])

    def _close_noun_phrase(self) -> None:
        """Makes the last adjective the noun, if a determiner and adjectives stand without one: "another black"."""
        last = len(self.tags) - 1
        while last > 0 and self.tags[last] in "C,":
            last -= 1
        if self.tags[last] != "A":
            return
        for position in range(last - 1, max(last - _FARTHEST_BACK, 0), -1):
            if self.tags[position] == "D":
                self.tags[last] = "N"
            if self.tags[position] != "A":
                return

    def determiner(self, *, words_back: int = 0) -> str:
        """Returns the determiner of the noun phrase that ends before the current word, or "" if it has none.

        Args:
            words_back: How many of the words before the current one do not belong to the noun phrase.
        """
        end = len(self.tags) - words_back
        for position in range(end - 1, max(end - 1 - _FARTHEST_BACK, 0), -1):
            if self.tags[position] == "D":
                # A full stop stands before the tag of the first word.
                return self.words[position - 1]
            if self.tags[position] not in "NAC,":
                return ""
        return ""

    def opens_clause(self) -> bool:
        """Tells whether the noun phrase without determiner that ends before the current word can be a subject.

        It cannot after a verb or a preposition, which have it as their object: "on | ocean waves".
        """
        for tag in reversed(self.tags[-_FARTHEST_BACK:]):
            if tag not in "NA":
                return tag not in "VPF"
        return False

    def joins_subjects(self) -> bool:
        """Tells whether two noun phrases end before the current word: "a man and a woman | ride"."""
        for position in range(len(self.tags) - 1, max(len(self.tags) - _FARTHEST_BACK, 1), -1):
            if self.tags[position] == "C":
                return self.tags[position - 1] == "N"
            if self.tags[position] not in "DAN":
                return False
        return False

    def joins_verbs(self, *, is_always_verb: bool) -> bool:
        """Tells whether the conjunction before the current word joins it with a verb: "a dog sits and | watches".

        Args:
            is_always_verb: Whether the current word is never a noun.
        """
        return self.tags[-2] == "V" or (self.has_verb and is_always_verb)
