"""Finds the end of an answer in text that arrives in pieces. It knows no tokens."""

from __future__ import annotations

from collections.abc import Sequence

from dovetail_ort_runtime.options import check_stop_strings


class StopStrings:
    """Passes text on up to the first stop string, however it is cut into pieces.

    The stop string that starts earliest wins; of several that start there, the one that is complete first. One that
    lies within another ("b" in "abc") waits until the other, which started earlier, is ruled out.

    Hidden text, such as that of a special token, may be a part of a stop string, and is never passed on.

    Example with the stop string "END":

        push "sum E" -> "sum ", False    "E" may become "END"
        push "Q"     -> "EQ", False
        push "END x" -> "", True

    Attributes:
        matched: the stop string that ended the text, or None.

    Raises:
        InputError: a stop string is empty or no string.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        check_stop_strings(stops)
        self.matched: str | None = None
        # By length: of several that start at one place the shortest is complete first.
        self._stops = tuple(sorted(set(stops), key=len))
        self._held = ""
        self._shown = ""  # a character for each held one: "1" for those that are passed on, "0" for hidden ones

    def push(self, text: str, *, hidden: bool = False) -> tuple[str, bool]:
        """Text that is free of stop strings, and whether one was completed."""
        if self.matched is not None:
            return "", True
        self._held += text
        self._shown += ("0" if hidden else "1") * len(text)
        start, stop = self._first_match()
        possible = self._first_possible()
        if stop is not None and start <= possible:
            self.matched = stop
            return self._release(start), True
        return self._release(possible), False

    def finish(self) -> str:
        """Text that was held back, for no stop string can be completed any more."""
        if self.matched is not None:
            return ""
        start, self.matched = self._first_match()
        return self._release(start)

    def _first_match(self) -> tuple[int, str | None]:
        """Where the earliest complete stop string starts, and it; the end of the text and None without one."""
        found = [(self._held.find(stop), stop) for stop in self._stops if stop in self._held]
        return min(found, key=lambda match: match[0], default=(len(self._held), None))

    def _first_possible(self) -> int:
        """Where the longest suffix starts that begins a stop string; the end of the text if none does."""
        longest = len(self._stops[-1]) - 1 if self._stops else 0
        for start in range(max(0, len(self._held) - longest), len(self._held)):
            if any(stop.startswith(self._held[start:]) for stop in self._stops):
                return start
        return len(self._held)

    def _release(self, length: int) -> str:
        released, shown = self._held[:length], self._shown[:length]
        self._held, self._shown = self._held[length:], self._shown[length:]
        if "0" not in shown:
            return released
        return "".join(character for character, mark in zip(released, shown, strict=True) if mark == "1")
