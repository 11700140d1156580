"""The probe finds the reading of a head that is right, and refuses a head that no reading makes good."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dovetail_ort_export.heads.published import Reading
from dovetail_ort_export.probing.agreement import ProbedHead
from dovetail_ort_export.probing.candidates import Candidate
from dovetail_ort_export.probing.probe import acceptance_rows, check_acceptance, kept_reading
from dovetail_ort_runtime.bundle.graph_entries import LEAST_ACCEPTANCE
from dovetail_ort_runtime.errors import InputError

LEVELS = (2, 3, 5)
WRONG_LEVELS = (1, 2, 4)


def candidate(head, levels=LEVELS, **changes):
    """The head read in some way; changes are settings of its network."""
    from dovetail_ort_export.heads.eagle3 import Eagle3Head

    config = replace(head.network.config, **changes)
    network = Eagle3Head(config).eval()
    network.load_state_dict(head.network.state_dict())
    probed = ProbedHead(
        network=network,
        embedding=head.embedding,
        lm_head=head.lm_head,
        draft_token_ids=head.draft_token_ids,
        rotary=head.rotary,
    )
    reading = Reading(
        levels=levels, norm_before_residual=config.norm_before_residual, feeds_back_norm=config.feeds_back_norm
    )
    return Candidate(reading=reading, head=probed, fusion=head.fusion)


def rows_of(head, of):
    return acceptance_rows(of, head.texts, head.levels)


@pytest.mark.parametrize("is_after", [False, True])
def test_the_right_reading_is_found_whatever_the_configuration_says_first(fitted_head, is_after):
    head = fitted_head(norm_before_residual=is_after)
    readings = [
        candidate(head, WRONG_LEVELS),
        candidate(head, norm_before_residual=not is_after),
        candidate(head, WRONG_LEVELS, norm_before_residual=not is_after),
        candidate(head),
    ]
    lines = []
    assert kept_reading(readings, head.texts, head.levels, lines.append) == 3, lines
    assert len(lines) == len(readings)


def test_second_tokens_decide_where_first_tokens_are_equal(fitted_head):
    head = fitted_head(feeds_back_norm=True)
    readings = [candidate(head, feeds_back_norm=False), candidate(head)]
    assert kept_reading(readings, head.texts, head.levels, lambda _: None) == 1


def test_of_equal_readings_the_likeliest_is_kept(fitted_head):
    head = fitted_head()
    assert kept_reading([candidate(head), candidate(head)], head.texts, head.levels, lambda _: None) == 0


def test_acceptance_is_measured_by_depth_for_each_kind_of_text(fitted_head):
    head = fitted_head()
    rows = rows_of(head, candidate(head))
    assert [row.text for row in rows] == ["short prompts", "200 tokens of context", "448 tokens of context"]
    assert all(len(row.by_depth) == 5 for row in rows)
    assert rows[0].num_tokens == sum(len(text.answer) - 1 for text in head.texts[:6])
    assert rows[0].by_depth[0] > 0.5
    check_acceptance(rows)


def test_a_head_of_another_target_is_refused_in_one_line(fitted_head):
    head = fitted_head()
    rows = rows_of(head, candidate(head, levels=(6, 1, 0)))
    assert rows[0].by_depth[0] < LEAST_ACCEPTANCE
    with pytest.raises(InputError, match="another target, with another chat template or in another language"):
        check_acceptance(rows)
