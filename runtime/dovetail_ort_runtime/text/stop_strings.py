"""Finds the end of an answer in text that arrives in pieces. It knows no tokens."""

from __future__ import annotations

from collections.abc import Sequence

from dovetail_ort_runtime.options import check_stop_strings


class StopStrings:
    """Passes text on up to the first stop string, however it is cut into pieces.

    The stop string that starts earliest wins. Of several that start at one place, the one that is complete first wins.
    A stop string within another ("b" in "abc") waits until the other one, which starts earlier, is ruled out.

    Hidden text, such as that of a special token, may be a part of a stop string. It is never passed on.

    Args:
        stops: stop strings.

    Example with the stop string "END":

        push "sum E" -> "sum ", False    "E" may become "END"
        push "Q"     -> "EQ", False
        push "END x" -> "", True

    Attributes:
        matched: the stop string that ended the text, or None.

    Raises:
        InputError: a stop string is empty or is no string.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        check_stop_strings(stops)
        self.matched: str | None = None
        # Sorted by length: of several that start at one place, the shortest is complete first.
        self._stops = tuple(sorted(set(stops), key=len))
        self._held = ""
        self._shown = ""  # one character for each held one: "0" if it is hidden, "1" if it is passed on

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
        """Text that was held back. No text follows, so no stop string can be completed any more."""
        if self.matched is not None:
            return ""
        start, self.matched = self._first_match()
        return self._release(start)

    def _first_match(self) -> tuple[int, str | None]:
        """Start of the earliest complete stop string, and the string; the end of the text and None without one."""
        found = [(self._held.find(stop), stop) for stop in self._stops if stop in self._held]
        return min(found, key=lambda match: match[0], default=(len(self._held), None))

    def _first_possible(self) -> int:
        """Start of the longest suffix that begins a stop string; the end of the text without one."""
        longest = len(self._stops[-1]) - 1 if self._stops else 0
        for start in range(max(0, len(self._held) - longest), len(self._held)):
            if any(stop.startswith(self._held[start:]) for stop in self._stops):
                return start
        return len(self._held)

    def _release(self, length: int) -> str:
        released = self._held[:length]
        shown = self._shown[:length]
        self._held = self._held[length:]
        self._shown = self._shown[length:]
        if "0" not in shown:
            return released
        return "".join(character for character, mark in zip(released, shown, strict=True) if mark == "1")
