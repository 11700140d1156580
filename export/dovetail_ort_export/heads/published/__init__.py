"""Draft heads as their publishers made them: EAGLE-3 in all its dialects, and EAGLE-1 and 2.

    directory -> settings -> shapes -> tensors -> PublishedHead -> network, by one of its readings

Nothing is guessed in silence: every setting and every tensor is used, known to be unneeded, or an error. What a
configuration leaves open becomes several readings, and who imports the head measures which one is right.
"""

from __future__ import annotations

from dovetail_ort_export.heads.published.published_head import PublishedHead
from dovetail_ort_export.heads.published.reader import is_published_head, read_published_head
from dovetail_ort_export.heads.published.readings import Reading
from dovetail_ort_export.heads.published.settings import PublishedConfig

__all__ = ["PublishedConfig", "PublishedHead", "Reading", "is_published_head", "read_published_head"]
